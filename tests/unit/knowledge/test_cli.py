"""`driftwarden knowledge`: what it prints, and what it says to a wrong request."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from driftwarden.contracts.ports import PastIncident
from driftwarden.knowledge import ChromaKnowledge, MemoryRecordStore
from driftwarden.service import bootstrap
from driftwarden.service.cli.main import run

OWN = """---
id: our-boiler
title: The boiler after maintenance
root_causes: [stuck_values]
actions: [notify]
kinds: [data_quality]
revision: 1
---
## What it looks like
The zirconium thermocouple is limp.
"""


def _hand(base: ChromaKnowledge, monkeypatch: pytest.MonkeyPatch) -> ChromaKnowledge:
    @contextmanager
    def handed() -> Iterator[ChromaKnowledge]:
        yield base

    monkeypatch.setattr(bootstrap, "open_knowledge", handed)
    return base


@pytest.fixture
def opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ChromaKnowledge]:
    """The commands are handed a knowledge base of this test's own."""
    base = ChromaKnowledge(tmp_path / "index", MemoryRecordStore())
    yield _hand(base, monkeypatch)
    base.close()


@pytest.fixture
def read_only(knowledge: ChromaKnowledge, monkeypatch: pytest.MonkeyPatch) -> ChromaKnowledge:
    """The commands are handed the common knowledge base, which a test must not change."""
    return _hand(knowledge, monkeypatch)


def test_search_prints_json_lines_best_first(read_only: ChromaKnowledge, capsys: pytest.CaptureFixture[str]) -> None:
    """One hit a line, with the fields of a hit."""
    assert run(["knowledge", "search", "a frozen sensor", "--kind", "runbook", "--limit", "2", "--json"]) == 0
    hits = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert hits[0]["id"] == "stuck-sensor"
    assert len(hits) == 2
    assert set(hits[0]) == {"id", "kind", "title", "text", "score", "metadata"}


def test_list_filters_by_kind_and_cause(
    opened: ChromaKnowledge, incident: PastIncident, capsys: pytest.CaptureFixture[str]
) -> None:
    """Runbooks and incidents of one cause, or incidents alone."""
    opened.record_incident(incident)
    assert run(["knowledge", "list", "--root-cause", "unit_change", "--json"]) == 0
    listed = [json.loads(line)["id"] for line in capsys.readouterr().out.splitlines()]
    assert {"unit-change", "inc-0001"} <= set(listed)
    assert "label-shift" not in listed
    assert run(["knowledge", "list", "--kind", "incident"]) == 0
    shown = capsys.readouterr().out
    assert "inc-0001" in shown
    assert "unit-change" not in shown


def test_a_terminal_is_shown_the_passage_and_no_escape(
    opened: ChromaKnowledge, incident: PastIncident, capsys: pytest.CaptureFixture[str]
) -> None:
    """People get score, id, title and text; what an incident's text smuggles in is not obeyed."""
    opened.record_incident(incident.model_copy(update={"summary": "boiler \x1b[2J[red]thermometer[/red]"}))
    assert run(["knowledge", "search", "boiler thermometer", "--kind", "incident"]) == 0
    shown = capsys.readouterr().out
    assert "inc-0001" in shown
    assert "[red]thermometer[/red]" in shown
    assert "\x1b" not in shown


def test_nothing_found_is_said_beside_the_output(
    read_only: ChromaKnowledge, capsys: pytest.CaptureFixture[str]
) -> None:
    """Standard output stays empty for programs."""
    assert run(["knowledge", "search", "anything", "--kind", "incident"]) == 0
    shown = capsys.readouterr()
    assert (shown.out, shown.err) == ("", "nothing found\n")


def test_a_runbook_is_added_and_found(
    opened: ChromaKnowledge, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It says what was added; the next search finds it."""
    file = tmp_path / "b.md"
    file.write_text(OWN)
    assert run(["knowledge", "add", str(file), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["id"] == "our-boiler"
    assert run(["knowledge", "add", str(file)]) == 0
    assert "added runbook our-boiler" in capsys.readouterr().err
    assert opened.search("limp zirconium thermocouple", limit=1)[0].id == "our-boiler"


@pytest.mark.parametrize(
    ("content", "place", "word"),
    [
        (OWN.replace("[notify]", "[delete]").encode(), ":5: ", "`delete`"),
        (b"# No front matter\n", ":1: ", "no front matter"),
        (OWN.encode() + b"\nbad \xff byte\n", ":12: ", "UTF-8"),
        (OWN.encode() + b"x" * 300_000, ": ", "over 262144 bytes"),
        (b"", ":1: ", "no front matter"),
    ],
)
def test_a_malformed_file_is_named_with_its_line(
    read_only: ChromaKnowledge,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    content: bytes,
    place: str,
    word: str,
) -> None:
    """Exit code 2, one line with file and line."""
    file = tmp_path / "b.md"
    file.write_bytes(content)
    assert run(["knowledge", "add", str(file)]) == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert f"{file}{place}" in message
    assert word in message


@pytest.mark.parametrize(
    "arguments",
    [
        ["search", " "],
        ["search", "x", "--kind", "poem"],
        ["search", "x", "--root-cause", "gremlins"],
        ["list", "--limit", "0"],
        ["add", "/nowhere/b.md"],
        ["add", "/"],
    ],
)
def test_a_wrong_request_is_refused_in_one_line(
    read_only: ChromaKnowledge, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    """Exit code 2, nothing on standard output."""
    assert run(["knowledge", *arguments]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("driftwarden: ")
    assert shown.err.count("\n") == 1


@pytest.mark.parametrize("command", [[], ["list"], ["search"], ["add"]])
def test_every_help_ends_with_an_example(capsys: pytest.CaptureFixture[str], command: list[str]) -> None:
    """An example that can be copied."""
    assert run(["knowledge", *command, "--help"]) == 0
    assert "Example:\n    driftwarden knowledge" in capsys.readouterr().out
