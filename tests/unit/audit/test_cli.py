"""`driftwarden audit`: exit codes, JSON, exports with proofs, the report page; never a traceback."""

import base64
import csv
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from driftwarden.audit import AuditWriter, Limits
from driftwarden.audit.merkle import leaf_hash, root_from_path
from driftwarden.clock import SystemClock
from driftwarden.contracts.ports import Actor
from driftwarden.service.cli.main import run

HOSTILE = "<script>alert(1)</script>"


@pytest.fixture
def service_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The log of a configured service with one incident, hostile words included."""
    monkeypatch.setenv("DRIFTWARDEN_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("DRIFTWARDEN_AUDIT_DIR", str(tmp_path / "moved" / "audit"))
    monkeypatch.chdir(tmp_path)
    actor, key = Actor(kind="service", id="=cmd()"), tmp_path / "home" / "keys" / "audit.key"
    about: dict[str, Any] = {"incident": "inc-42aa", "correlation_id": "ab" * 16, "actor": actor}
    columns = [{"name": HOSTILE, "score": 0.4, "threshold": 0.1, "drifted": True}]
    performance = {"metric": "f1", "reference": 0.9, "current": 0.8}
    event = {"data": {"model": "fraud", "kind": "data_drift", "columns": columns, "performance": performance}}
    finding = {"root_cause": "concept_drift", "columns": [HOSTILE], "confidence": 0.9, "summary": HOSTILE}
    rules = [{"id": "confidence", "verdict": "pass", "effect": None, "got": "0.9", "expected": "at least 0.8"}]
    decision = {"outcome": "execute", "would_be": None, "decisive": [], "rules": rules}
    limits = Limits(idle_s=None)
    with AuditWriter(
        tmp_path / "moved" / "audit", stream="serve", clock=SystemClock(), key_path=key, limits=limits
    ) as writer:
        writer.append("event", {"event": json.dumps(event)}, **about)
        writer.append("finding", finding, **about)
        writer.append("decision", {"facts": {}, "decision": decision, "policy_digest": "sha256:0"}, **about)
        writer.append("result", {"action": "retrain", "changed": True, "cost_usd": "5.00"}, **about)
        writer.append("verification", {"verdict": "helped", "rows": 100}, **about)
    return tmp_path / "moved" / "audit"


def _json(capsys: pytest.CaptureFixture[str]) -> Any:
    return json.loads(capsys.readouterr().out)


def test_verify_says_whole_and_then_what_is_wrong(service_log: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Given a whole log, exit 0; given a changed byte, exit 1 with file, line and what."""
    assert run(["audit", "verify", "--json"]) == 0
    report = _json(capsys)
    assert (report["ok"], report["records"], len(report["files"])) == (True, 8, 1)
    assert set(report["files"][0]) >= {"name", "records", "ok", "fault"}
    path = next(service_log.glob("*.jsonl"))
    path.write_bytes(path.read_bytes().replace(b"helped", b"harmed"))
    assert run(["audit", "verify", "--json"]) == 1
    (file,) = _json(capsys)["files"]
    assert (file["ok"], file["line"]) == (False, 6)
    assert run(["audit", "verify"]) == 1
    assert "line 6: the hash does not match" in capsys.readouterr().out


def test_verify_pins_the_services_own_key(
    service_log: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Given a log that was made again with another key, the service's own key shows it."""
    for path in [*service_log.glob("*.jsonl"), *(service_log / "checkpoints").iterdir()]:
        path.unlink()
    actor, limits = Actor(kind="service", id="evil"), Limits(idle_s=None)
    with AuditWriter(
        service_log, stream="serve", clock=SystemClock(), key_path=tmp_path / "evil.key", limits=limits
    ) as writer:
        writer.append("event", {"event": "{}"}, actor=actor)
    assert run(["audit", "verify"]) == 1
    assert "another key" in capsys.readouterr().out
    assert run(["audit", "verify", "--key", str(tmp_path / "evil.pub")]) == 0


@pytest.mark.parametrize(
    "arguments",
    [
        ["verify", "--dir", "absent"],
        ["verify", "--checkpoint", "absent"],
        ["verify", "--checkpoint", "moved"],
        ["verify", "--key", "absent"],
        ["verify", "--what"],
        ["show", "inc-none"],
        ["show", "x"],
        ["search", "--since", "yesterday"],
        ["search", "--type", "nonsense"],
        ["export", "--format", "parquet"],
        ["export", "--format", "csv", "--proofs"],
        ["export", "--output", "absent/file"],
        ["report", "inc-none"],
        ["erase", "--reason", "x"],
        ["erase", "--incident", "inc-42aa", "--reason", "nothing was protected"],
        ["retain", "--reason", "x"],
        ["retain", "--older-than", "soon", "--reason", "x"],
    ],
)
def test_a_wrong_request_is_one_line_and_exit_2(
    service_log: Path, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Given a wrong option, file or id: exit 2 and one line, never a traceback."""
    assert run(["audit", *arguments]) == 2
    said = capsys.readouterr().err
    assert said.startswith("driftwarden: ")
    assert said.count("\n") == 1


def test_show_and_search_print_lines(service_log: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Given an incident, its story is JSON Lines with a summary, or words; a search finds by type."""
    assert run(["audit", "show", "inc-42", "--json"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["type"] for line in lines] == ["event", "finding", "decision", "result", "verification"]
    assert lines[2]["summary"] == "decided: execute"
    assert run(["audit", "show", "ab" * 16]) == 0
    assert "verified: it helped on 100 rows" in capsys.readouterr().out
    assert run(["audit", "search", "--type", "decision", "--since", "1h", "--limit", "5", "--json"]) == 0
    assert _json(capsys)["type"] == "decision"


@pytest.mark.parametrize("damage", [(b'"helped"', b'"harmed"'), (b'"verdict":"helped"', b'"verdict":helped"')])
@pytest.mark.parametrize(
    "command",
    [
        ["audit", "show", "inc-42"],
        ["audit", "search", "--type", "decision"],
        ["audit", "report", "inc-42", "--output", "page.html"],
        ["policy", "replay"],
    ],
)
def test_who_reads_a_damaged_log_is_told_in_one_line(
    service_log: Path, capsys: pytest.CaptureFixture[str], command: list[str], damage: tuple[bytes, bytes]
) -> None:
    """A changed value and a broken line alike; the answer itself, and its exit code, are what can still be read."""
    code = run([*command, "--json"])
    whole = capsys.readouterr()
    assert "not whole" not in whole.err
    path = next(service_log.glob("*.jsonl"))
    path.write_bytes(path.read_bytes().replace(*damage))
    assert run([*command, "--json"]) == code
    said = capsys.readouterr().err
    (line,) = [line for line in said.splitlines() if "not whole" in line]
    assert path.name in line
    assert "driftwarden audit verify" in line


@pytest.mark.parametrize("unreadable", ["audit", "checkpoints"])
@pytest.mark.parametrize(
    "command", [["audit", "verify"], ["audit", "search"], ["audit", "export"], ["policy", "replay"]]
)
def test_a_folder_that_may_not_be_read_is_not_an_empty_one(
    service_log: Path,
    command: list[str],
    unreadable: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Given another account's folder, nothing is said of what it holds: one line, and exit 2."""
    entries = Path.iterdir

    def refuse(path: Path) -> Iterator[Path]:
        if path.name == unreadable:
            raise PermissionError(13, "Permission denied", str(path))
        return entries(path)

    monkeypatch.setattr(Path, "iterdir", refuse)
    assert run(command) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1
    assert "permission denied" in said.err


def test_only_plain_files_are_the_log(service_log: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Given a folder, a dangling link and a pipe under a log's name, nobody waits for them, nor fails."""
    (service_log / "folder.jsonl").mkdir()
    (service_log / "link.jsonl").symlink_to("absent")
    os.mkfifo(service_log / "pipe.jsonl")
    assert run(["audit", "verify"]) == 0
    capsys.readouterr()
    code = run(["policy", "replay", "--json"])
    assert _json(capsys)["decisions"] == code == 1  # the fixture's decision names no policy, and was read


def test_exports_hold_the_same_records(service_log: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Given csv, parquet and jsonl, all hold the log; csv disarms formulas; jsonl is the log's own lines."""
    assert run(["audit", "export", "--format", "csv", "--output", "x.csv"]) == 0
    assert run(["audit", "export", "--format", "parquet", "--output", "x.parquet"]) == 0
    capsys.readouterr()
    assert run(["audit", "export"]) == 0
    path = next(service_log.glob("*.jsonl"))
    assert capsys.readouterr().out.encode() == path.read_bytes()
    with Path("x.csv").open(newline="") as handle:
        rows = list(csv.DictReader(handle))
    table = pq.read_table("x.parquet").to_pylist()
    assert [row["hash"] for row in rows] == [row["hash"] for row in table]
    assert {row["actor_id"] for row in rows} == {"audit", "'=cmd()"}
    assert rows[1]["model"] == "fraud"
    path.write_bytes(path.read_bytes().replace(b'"helped"', b'"harmed"'))
    assert run(["audit", "export", "--format", "csv", "--output", "x.csv"]) == 0
    assert "the log is not whole" in capsys.readouterr().err


def test_a_proof_leads_to_the_signed_root(service_log: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Given an export with proofs, each record's path leads from its line to the root in its note."""
    assert run(["audit", "export", "--proofs", "--type", "result"]) == 0
    document = _json(capsys)
    lines = next(service_log.glob("*.jsonl")).read_bytes().splitlines()
    proof = document["proof"]
    path = [base64.b64decode(step) for step in proof["path"]]
    root = root_from_path(leaf_hash(lines[proof["index"]]), proof["index"], proof["size"], path)
    assert json.loads(lines[proof["index"]]) == document["record"]
    assert proof["note"].split("\n")[1:3] == [str(proof["size"]), base64.b64encode(root).decode()]


def test_the_report_is_one_page_that_loads_and_runs_nothing(
    service_log: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Given hostile words in event and finding, the page shows them as text, with charts, costs and the log's state."""
    assert run(["audit", "report", "inc-42", "--output", "page.html", "--json"]) == 0
    assert _json(capsys) == {"file": "page.html", "incident": "inc-42aa", "records": 5, "log_ok": True}
    page = Path("page.html").read_text(encoding="utf-8")
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert page.count("<svg") == 2
    assert "5.00 USD" in page
    assert "whole" in page
    assert "http://" not in page
    assert "https://" not in page
    assert page.count('<text class="strong"') == 2  # the column that drifted and what performance is now


def test_the_report_says_who_signed_what_and_why(service_log: Path) -> None:
    """Every answer with its time, its person and group, and its reason; a name that is protected is not shown."""
    ada = {"by": "ada", "group": "risk", "at": "2026-11-20T09:00:00.000000Z", "reason": "asked the line manager"}
    bob = {
        "by": {"_c": "0" * 64},
        "group": "ml-oncall",
        "at": "2026-11-20T09:01:00.000000Z",
        "reason": "sensor swapped",
    }
    with AuditWriter(service_log, stream="more", clock=SystemClock(), limits=Limits(idle_s=None)) as writer:
        body = {"verdict": "rejected", "granted": [ada], "refused": bob}
        writer.append("approval", body, actor=Actor(kind="human", id="bob"), incident="inc-42aa")
        writer.append(
            "approval", body | {"verdict": "approved"}, actor=Actor(kind="human", id="ada"), incident="inc-42aa"
        )
        writer.append("close", {"state": "undone"}, actor=Actor(kind="service", id="serve"), incident="inc-42aa")
    assert run(["audit", "report", "inc-42", "--output", "page.html"]) == 0
    page = Path("page.html").read_text(encoding="utf-8")
    assert "<tr><th>Approved by</th><td>ada (risk)</td></tr>" in page
    assert "<tr><th>Ended as</th><td>undone</td></tr>" in page
    people = page[page.index("<h2>People") : page.index("<h2>What was done")]
    assert "<td>signed for</td><td>ada (risk)</td><td>asked the line manager</td>" in people
    assert "<td>signed against</td>" in people
    assert "sensor swapped" in people
    assert "protected" in people
    assert "_c" not in people


def test_the_first_look_of_an_auditor(
    service_log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Given a copy of the log and no service, the way to the folder, and what the signatures rest on, are said."""
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(tmp_path / "moved" / "audit", elsewhere / "log")
    for name in ("DRIFTWARDEN_HOME", "DRIFTWARDEN_AUDIT_DIR"):
        monkeypatch.delenv(name)
    monkeypatch.chdir(elsewhere)
    assert run(["audit", "verify"]) == 2
    assert "--dir" in capsys.readouterr().err
    assert run(["audit", "verify", "--dir", "log"]) == 0
    assert "no key is pinned" in capsys.readouterr().err
    assert run(["audit", "verify", "--dir", "log", "--key", str(tmp_path / "home" / "keys" / "audit.pub")]) == 0
    assert "no key" not in capsys.readouterr().err
    (elsewhere / "empty").mkdir()
    run(["audit", "verify", "--dir", "empty"])
    assert "nothing was verified" in capsys.readouterr().err
    assert run(["policy", "replay", "--dir", "log", "--json"]) in {0, 1}


@pytest.mark.parametrize("command", [["erase", "--incident", "inc-42aa"], ["retain", "--older-than", "1d"]])
def test_a_refused_request_leaves_the_log_as_it_was(
    service_log: Path, tmp_path: Path, command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Given an auditor's copy, nothing is written to it and no key is made; where nothing is to be erased, nothing either."""
    copy = tmp_path / "elsewhere" / "audit"
    shutil.copytree(service_log, copy)
    for folder in (copy, service_log) if command[0] == "erase" else (copy,):
        before = sorted(folder.rglob("*"))
        assert run(["audit", *command, "--reason", "request 114", "--dir", str(folder)]) == 2
        assert capsys.readouterr().err.count("\n") == 1
        assert sorted(folder.rglob("*")) == before
    assert not (copy.parent / "keys").exists()


def test_schema_fsck_and_retain(service_log: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Given a whole log: the schema prints, fsck exits 0, and retention of a young log removes nothing."""
    assert run(["audit", "schema"]) == 0
    assert "@hash" in _json(capsys)["properties"]
    assert run(["audit", "fsck", "--json"]) == 0
    assert _json(capsys)["ok"] is True
    assert run(["audit", "retain", "--older-than", "200d", "--reason", "schedule", "--json"]) == 0
    assert _json(capsys) == {"removed": []}
    assert run(["audit", "verify"]) == 0


def test_the_benchmark_measures_what_it_names(tmp_path: Path) -> None:
    """Given a small run, every figure is there and positive, and the log that was measured verified."""
    from driftwarden.service.cli.bench_audit import run as bench

    cores = getattr(os, "sched_getaffinity", lambda pid: {0})
    before = cores(0)
    result = bench(threads=(1, 4), records=64, mib=1, rounds=1, slices=2, folder=tmp_path)
    assert cores(0) == before
    assert result["verify"]["ok"] is True
    assert result["verify"]["raw_mb_per_second"] > 0
    assert [one["threads"] for one in result["append"]] == [1, 4]
    assert [one["threads"] for one in result["append_one_core"]] == ([1, 4] if len(before) > 1 else [])
    assert all(one["records_per_second"] > 0 and one["share_of_bare"] > 0 for one in result["append"])
    assert all(one["slices"] > 1 and one["cpu_us_per_record"] > 0 for one in result["append"])
    assert result["append"][0]["records_per_sync"] == 1
