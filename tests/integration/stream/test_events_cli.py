"""The commands `emit`, `dead-letters` and `down`, against a real server."""

import io
import json
from pathlib import Path

import pytest
from redis import Redis

from driftwarden.service.cli.main import run
from driftwarden.stream.dead_letters import DeadLetters
from driftwarden.stream.embedded import EmbeddedRedis, running_url
from driftwarden.stream.intake import Intake
from driftwarden.stream.publisher import build_event

EVENTS = "driftwarden:events"


@pytest.fixture(autouse=True)
def _home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, redis_url: str) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DRIFTWARDEN_REDIS_URL", redis_url)
    monkeypatch.delenv("DRIFTWARDEN_HOME", raising=False)


def line(number: int, kind: str = "data_drift") -> str:
    """An event on one line."""
    return json.dumps(build_event({"model": "m", "kind": kind}, source="cli", id=f"e{number}"))


def test_json_lines_are_published(client: Redis, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every event's id is printed, and the string that came is what was published."""
    (tmp_path / "events.jsonl").write_text(line(1) + "\n\n" + line(2) + "\r\n")
    assert run(["emit", "events.jsonl", "--json"]) == 0
    printed = [json.loads(text) for text in capsys.readouterr().out.splitlines()]
    assert [(one["source"], one["id"]) for one in printed] == [("cli", "e1"), ("cli", "e2")]
    entries = client.xrange(EVENTS)
    assert [entry_id.decode() for entry_id, _ in entries] == [one["entry"] for one in printed]
    assert entries[0][1][b"event"].decode() == line(1) or json.loads(entries[0][1][b"event"])["id"] == "e1"


def test_one_document_and_a_list(client: Redis, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A pretty-printed event, and a list of events, are JSON too."""
    (tmp_path / "one.json").write_text(json.dumps(json.loads(line(1)), indent=2))
    (tmp_path / "list.json").write_text(f"[{line(2)},\n{line(3)}]")
    assert run(["emit", "one.json"]) == 0
    assert run(["emit", "list.json"]) == 0
    assert [text.split()[1] for text in capsys.readouterr().out.splitlines()] == ["e1", "e2", "e3"]
    assert client.xlen(EVENTS) == 3


def test_standard_input(client: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    """`-` reads standard input."""
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(line(1).encode())))
    assert run(["emit", "-"]) == 0
    assert client.xlen(EVENTS) == 1


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "no events"),
        (b"{", "expected JSON"),
        (b"\xff\xfe", "UTF-8"),
        (line(1).encode() + b"\n" + line(2, kind="wrong").encode(), "events:2: event field `data.kind`, got `wrong`"),
        (line(1).encode() + b"\nnonsense\n", "events:2"),
        (b"[1]", "event 1"),
    ],
)
def test_a_wrong_line_publishes_nothing(
    client: Redis, tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes, said: str
) -> None:
    """One line says which event is wrong and why; exit code 2; nothing was published."""
    (tmp_path / "events").write_bytes(content)
    assert run(["emit", "events"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert said in err
    assert err.count("\n") == 1
    assert client.xlen(EVENTS) == 0


def test_a_file_that_is_absent(capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 2 and one line."""
    assert run(["emit", "absent.json"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_dead_letters(client: Redis, capsys: pytest.CaptureFixture[str]) -> None:
    """List, show by prefix, redrive once."""
    client.xadd(EVENTS, {"event": b"\xff\x1b[31m"})
    Intake(client, "w").read(1)
    assert run(["dead-letters", "list", "--json"]) == 0
    (letter,) = [json.loads(text) for text in capsys.readouterr().out.splitlines()]
    assert letter["expected"] == "UTF-8 text"
    assert letter["event"] is None
    assert run(["dead-letters", "list"]) == 0
    assert letter["id"] in capsys.readouterr().out
    assert run(["dead-letters", "show", letter["id"][:-2]]) == 0
    assert "\x1b" not in capsys.readouterr().out
    assert run(["dead-letters", "show", letter["id"], "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["entry"][0][0] == "event"
    for again in (False, True):
        assert run(["dead-letters", "redrive", letter["id"], "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["redriven_before"] is again
    assert client.xlen(EVENTS) == 1
    assert run(["dead-letters", "show", "99"]) == 2

    # What was put back asks nobody any more, and what is deleted after that hides no other.
    letters = DeadLetters(client)
    assert letters.left() == 0
    Intake(client, "w").read(1)
    assert letters.left() == 1
    client.xdel(letters.stream, letter["id"])
    assert letters.left() == 1


def test_down(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The embedded server stops under its users; where none runs, that is said."""
    monkeypatch.delenv("DRIFTWARDEN_REDIS_URL")
    home = tmp_path / "home"
    monkeypatch.setenv("DRIFTWARDEN_HOME", str(home))
    with EmbeddedRedis.acquire(home):
        assert run(["down"]) == 0
        assert running_url(home) is None
    assert "stopped" in capsys.readouterr().err
    assert run(["down"]) == 0
    assert "nothing runs" in capsys.readouterr().err


def test_emit_starts_and_stops_the_embedded_server(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With nothing configured the event is kept below the state folder, and nothing stays behind."""
    monkeypatch.delenv("DRIFTWARDEN_REDIS_URL")
    (tmp_path / "one.json").write_text(line(1))
    assert run(["emit", "one.json"]) == 0
    assert running_url(tmp_path / ".driftwarden") is None
    with EmbeddedRedis.acquire(tmp_path / ".driftwarden") as embedded:
        assert Redis.from_url(embedded.url).xlen(EVENTS) == 1
    assert capsys.readouterr().out


def test_a_server_that_is_away_is_one_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The password is not shown, no traceback, exit code 1: the same command may succeed later."""
    monkeypatch.setenv("DRIFTWARDEN_REDIS_URL", "redis://user:hunter2@127.0.0.1:1/0")
    (tmp_path / "one.json").write_text(line(1))
    assert run(["emit", "one.json"]) == 1
    err = capsys.readouterr().err
    assert "redis is away" in err
    assert "0 of 1 events" in err
    assert "hunter2" not in err
    assert err.count("\n") == 1


def test_an_empty_list_is_no_event(client: Redis, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing to publish is a wrong request, in whichever form it comes."""
    (tmp_path / "list.json").write_text("[]\n")
    assert run(["emit", "list.json"]) == 2
    assert "got `an empty list`" in capsys.readouterr().err
    assert client.xlen(EVENTS) == 0
