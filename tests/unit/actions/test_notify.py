"""Messages in a file."""

import json
from pathlib import Path

from driftwarden.actions.notify import FileNotifier


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
