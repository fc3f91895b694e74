"""Messages in a file, and told to a command."""

import json
import logging
import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[2]))

from fakes.redis_server import until

from driftwarden.actions.notify import CommandNotifier, FileNotifier


def _keys(file: Path) -> list[str]:
    keys = []
    for line in file.read_text().splitlines():
        try:
            keys.append(json.loads(line)["key"])
        except ValueError:
            continue
    return keys


def test_two_processes_send_a_key_once(tmp_path: Path) -> None:
    """Each reads what the other has written before it writes."""
    file = tmp_path / "state" / "notifications.jsonl"
    one, other = FileNotifier(file), FileNotifier(file)

    for notifier, key in ((one, "a"), (other, "a"), (other, "b"), (one, "b"), (one, "c")):
        notifier.notify("s", "b\nb", key=key, fields={})

    assert _keys(file) == ["a", "b", "c"]
    assert other.sent("c")
    assert not other.sent("d")


def test_a_torn_line_is_left_behind(tmp_path: Path) -> None:
    """A writer that died within a line neither loses the next message nor counts as sent."""
    file = tmp_path / "notifications.jsonl"
    FileNotifier(file).notify("s", "b", key="a", fields={})
    with file.open("a") as torn:
        torn.write('{"key": "b", "sub')

    FileNotifier(file).notify("s", "b", key="b", fields={})

    assert _keys(file) == ["a", "b"]
    assert FileNotifier(file).sent("b")


def script(folder: Path, text: str) -> str:
    """A small program; returns its path."""
    file = folder / "page"
    file.write_text(f"#!/bin/sh\n{text}\n")
    file.chmod(file.stat().st_mode | stat.S_IXUSR)
    return str(file)


def telling(folder: Path, *command: str, timeout_s: float = 120.0) -> CommandNotifier:
    """A notifier over this command."""
    written = FileNotifier(folder / "notifications.jsonl")
    return CommandNotifier(
        written, command, timeout_s=timeout_s, environ={"PATH": "/usr/bin:/bin", "TOLD": "only this"}
    )


def test_a_command_hears_each_message_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As one line of JSON on standard input, with its own arguments and environment; nothing of a message is a shell's."""
    monkeypatch.setenv("SECRET_OF_THE_SERVICE", "hunter2")
    heard = tmp_path / "heard"
    command = script(tmp_path, f'cat >> {heard}; echo "$# $1 $TOLD $SECRET_OF_THE_SERVICE" >> {heard}.args')
    nasty = "$(touch /nowhere); `id` 'x' \n ;"
    for _ in range(2):
        telling(tmp_path, command, "--json").notify(nasty, "b", key="a", fields={"incident": "inc-1"})
    (line,) = heard.read_text().splitlines()
    message = json.loads(line)
    assert (message["key"], message["subject"], message["body"], message["fields"]) == (
        "a",
        nasty,
        "b",
        {"incident": "inc-1"},
    )
    assert (tmp_path / "heard.args").read_text() == "1 --json only this \n"
    assert _keys(tmp_path / "notifications.jsonl") == ["a"]


@pytest.mark.parametrize(
    ("text", "said"),
    [("exit 3", "ended with code 3"), ("exec sleep 600", "did not end within 0.2 s"), (None, "cannot be started")],
)
def test_a_command_that_fails_holds_nothing_up(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, text: str | None, said: str
) -> None:
    """It is logged by its path alone; the message is written down all the same, also one that it does not read."""
    command = script(tmp_path, text) if text else str(tmp_path / "nothing here")
    notifier = telling(tmp_path, command, "--token=secret", timeout_s=0.2 if text and "sleep" in text else 120.0)
    with caplog.at_level(logging.ERROR):
        notifier.notify("s", "b" * 500_000, key="a", fields={})
    assert said in caplog.text
    assert "secret" not in caplog.text
    assert notifier.sent("a")


def test_what_a_command_leaves_behind_ends_with_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hook that hangs is ended with the processes it started: none of them holds the worker up."""
    notes = tmp_path / "child"
    os.mkfifo(notes)
    command = script(tmp_path, f"sleep 600 &\necho $! > {notes}\nwait")
    communicate, children = subprocess.Popen.communicate, list[int]()

    def once_it_hangs(self: Any, *arguments: Any, **named: Any) -> Any:
        children.append(int(notes.read_text()))
        return communicate(self, *arguments, **named)

    monkeypatch.setattr(subprocess.Popen, "communicate", once_it_hangs)
    telling(tmp_path, command, timeout_s=0.2).notify("s", "b", key="a", fields={})
    assert "did not end" in caplog.text
    (child,) = children
    until(lambda: not _runs(child), what="the child's end")


def _runs(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().split()[2] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False
