"""Reading in time order, the story of an incident across writers, search, and a line of words for each record."""

from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from driftwarden.audit import AuditWriter, Criteria, Limits, Record, read_records, search, story, summarise
from driftwarden.audit.record import RECORD_TYPES
from driftwarden.clock import SystemClock
from driftwarden.contracts.ports import Actor
from driftwarden.errors import BadInput, NotFound

EVENT = (
    '{"data":{"model":"fraud","kind":"data_drift","columns":[{"name":"amount","score":0.4,"threshold":0.1,"drifted":true},'
    '{"name":"hour","score":0.02,"threshold":0.1,"drifted":false}],'
    '"performance":{"metric":"f1","reference":0.91,"current":0.8}}}'
)
BODIES: dict[str, tuple[dict[str, Any], str]] = {
    "event": ({"event": EVENT}, "data drift reported for fraud; columns amount; f1 0.8 (was 0.91)"),
    "finding": (
        {"root_cause": "unit_change", "columns": ["amount"], "confidence": 0.9, "summary": "cents became euros"},
        "cause: unit change in amount, confidence 0.9: cents became euros",
    ),
    "plan": (
        {"candidates": [{"action": "retrain", "params": {"strategy": "recent"}}, {"action": "rollback", "params": {}}]},
        "2 candidates: retrain (strategy=recent), rollback",
    ),
    "rehearsal": (
        {"rehearsals": [{"candidate": "c1", "status": "rehearsed", "win_probability": 0.97, "relative_gain": 0.12}]},
        "rehearsed: c1 wins with probability 0.97, gain 12 %",
    ),
    "decision": (
        {
            "decision": {
                "outcome": "escalate",
                "would_be": None,
                "decisive": ["confidence"],
                "rules": [{"id": "confidence", "got": "0.6", "expected": "at least 0.80"}],
            }
        },
        "decided: escalate because of confidence (0.6, needs at least 0.80)",
    ),
    "approval": (
        {"verdict": "approved", "action": "rollback", "granted": [{"by": "ada", "reason": "seen it"}]},
        "approved for rollback by ada: seen it",
    ),
    "intent": ({"action": "rollback", "params": {"to": 3}, "before": 4}, "about to rollback (to=3), champion now 4"),
    "result": (
        {"action": "rollback", "changed": True, "before": 4, "after": 3, "detail": ""},
        "rollback done: 4 -> 3",
    ),
    "verification": (
        {"verdict": "helped", "rows": 400, "comparison": {"relative_gain": 0.05}},
        "verified: it helped on 400 rows, gain 5 %",
    ),
    "settlement": ({"helped": True, "basis": "measured"}, "settled: it helped (measured)"),
    "policy_change": (
        {"policy": {"metadata": {"name": "production", "revision": "7"}}},
        "policy in force: production 7",
    ),
    "mode_change": ({"halted": True, "reason": "drill", "model": None}, "halted: drill"),
    "dead_letter": ({"reason": "not JSON", "field": "event"}, "could not be read: not JSON (field event)"),
    "erasure": ({"commitments": ["a"], "reason": "asked"}, "personal data erased: 1 values; asked"),
    "close": ({"state": "resolved", "problem": None}, "incident closed as resolved"),
}


def _record(kind: str, body: dict[str, Any]) -> Record:
    zeros = "0" * 64
    actor = {"kind": "service", "id": "w"}
    fixed = {"causation": None, "correlation_id": None, "incident": None, "seq": 0, "stream": "s", "v": 1}
    stamp = "2026-11-20T09:00:00.000000Z"
    return Record.model_validate(
        {"@hash": zeros, "prev": zeros, "actor": actor, "ts": stamp, "type": kind, "body": body, **fixed}
    )


@pytest.fixture
def told(tmp_path: Path, clock: Any) -> Path:
    """Two writers about two incidents: one is approved by a person in another process."""
    directory, quiet = tmp_path / "audit", Limits(idle_s=None)
    service, person = Actor(kind="service", id="w"), Actor(kind="human", id="ada")
    with (
        AuditWriter(directory, stream="serve", clock=clock, limits=quiet) as serve,
        AuditWriter(directory, stream="cli", clock=clock, limits=quiet) as cli,
    ):
        seen: dict[str, Any] = {"correlation_id": "ab" * 16}
        cause = serve.append("event", {"event": EVENT}, actor=service, **seen)
        both = {**seen, "incident": "inc-7f00"}
        for kind in ("finding", "plan", "rehearsal", "decision"):
            cause = serve.append(kind, BODIES[kind][0], actor=service, causation=cause, **both)  # type: ignore[arg-type]
        cause = cli.append("approval", BODIES["approval"][0], actor=person, causation=cause, incident="inc-7f00")
        for kind in ("intent", "result"):
            cause = serve.append(kind, BODIES[kind][0], actor=service, causation=cause, **both)  # type: ignore[arg-type]
        other: dict[str, Any] = {"correlation_id": "cd" * 16, "incident": "inc-7e00"}
        serve.append("event", {"event": EVENT.replace("fraud", "churn")}, actor=service, **other)
    return directory


def test_records_come_in_time_order_across_streams(told: Path) -> None:
    """Given two streams, records are merged by time, and each stream keeps its order."""
    records = list(read_records(told))
    assert [record.ts for record in records] == sorted(record.ts for record in records)
    for stream in {record.stream for record in records}:
        assert all(a.seq + 1 == b.seq for a, b in pairwise([r for r in records if r.stream == stream]))


def test_at_the_same_moment_causes_come_first(tmp_path: Path, actor: Actor) -> None:
    """Given a clock that stands still, what was caused in another stream comes after its cause."""

    class Still:
        def now(self) -> datetime:
            return datetime(2026, 11, 20, tzinfo=UTC)

    quiet = Limits(idle_s=None)
    with (
        AuditWriter(tmp_path / "audit", stream="z", clock=Still(), limits=quiet) as first,
        AuditWriter(tmp_path / "audit", stream="a", clock=Still(), limits=quiet) as second,
    ):
        cause = None
        for index in range(6):
            cause = (first, second)[index % 2].append("event", {"event": str(index)}, actor=actor, causation=cause)
    order = [record.body["event"] for record in read_records(tmp_path / "audit") if record.type == "event"]
    assert order == [str(index) for index in range(6)]


@pytest.mark.parametrize("name", ["inc-7f00", "inc-7f", "ab" * 16])
def test_the_story_is_found_by_id_prefix_or_correlation_id(told: Path, name: str) -> None:
    """Given any of its names, the story holds the incident's records of both writers and its event, in order."""
    kinds = [record.type for record in story(told, name)]
    assert kinds == ["event", "finding", "plan", "rehearsal", "decision", "approval", "intent", "result"]


def test_unknown_and_ambiguous_names_are_refused(told: Path) -> None:
    """Given a name that fits nothing or two incidents, it says so."""
    with pytest.raises(BadInput, match="inc-7e00, inc-7f00"):
        story(told, "inc-7")
    with pytest.raises(NotFound, match="nothing-like-it"):
        story(told, "nothing-like-it")


@pytest.mark.parametrize(
    ("criteria", "kinds"),
    [
        (Criteria(model="churn"), ["event"]),
        (Criteria(model="fraud", types=("decision", "intent")), ["decision", "intent"]),
        (Criteria(actor="ada"), ["approval"]),
        (Criteria(actor="human"), ["approval"]),
        (Criteria(outcome="escalate"), ["decision"]),
        (Criteria(text="CENTS BECAME"), ["finding"]),
        (Criteria(incident="inc-7e"), ["event"]),
        (Criteria(until=datetime(2026, 11, 1, tzinfo=UTC)), []),
        (Criteria(since=datetime(2027, 11, 1, tzinfo=UTC)), []),
    ],
)
def test_search_holds_every_criterion(told: Path, criteria: Criteria, kinds: list[str]) -> None:
    """Given criteria, exactly the records that meet all of them are found."""
    assert [record.type for record in search(told, criteria)] == kinds


def test_who_acted_together_is_found_by_each_name_and_told_with_each_reason(tmp_path: Path) -> None:
    """Given an approval of two people, whoever looks for one of them finds it, and the line holds both words."""
    granted = [{"by": "ada", "reason": "seen"}, {"by": {"_c": "0" * 64}, "reason": "asked the plant"}]
    body = {"verdict": "approved", "action": "rollback", "granted": granted}
    with AuditWriter(tmp_path / "audit", stream="s", clock=SystemClock(), limits=Limits(idle_s=None)) as writer:
        writer.append("approval", body, actor=Actor(kind="human", id="ada, bob"))
    for name in ("ada", "bob", "human", "ada, bob"):
        (record,) = search(tmp_path / "audit", Criteria(actor=name))
        assert summarise(record) == "approved for rollback by ada (seen); erased or protected (asked the plant)"
    assert not list(search(tmp_path / "audit", Criteria(actor="a")))


@pytest.mark.parametrize("kind", BODIES)
def test_a_line_of_words_for_each_type(kind: str) -> None:
    """Given a body as the service writes it, the line says what matters in plain words."""
    body, words = BODIES[kind]
    assert summarise(_record(kind, body)) == words


@pytest.mark.parametrize("kind", RECORD_TYPES)
@pytest.mark.parametrize(
    "body", [{}, {"event": 7}, {"candidates": None}, {"note": ""}, {"verdict": None, "x": "\x1b[31m" * 99}]
)
def test_every_body_is_survived(kind: str, body: dict[str, Any]) -> None:
    """Given any other body, there is still a line: one line, printable and short."""
    line = summarise(_record(kind, body))
    assert line
    assert line.isprintable()
    assert len(line) <= 240


def test_a_damaged_line_is_named_or_skipped(told: Path) -> None:
    """Given a damaged line, reading names file and line, or goes on where that was asked."""
    path = next(told.glob("cli-*"))
    path.write_bytes(path.read_bytes().replace(b'"approval"', b'"appr0val"'))
    with pytest.raises(BadInput, match=rf"{path.name}:2"):
        list(read_records(told))
    assert "approval" not in {record.type for record in read_records(told, skip_damaged=True)}
