"""The public doubles behave like what they replace."""

import hashlib
import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from driftwarden.clock import Clock
from driftwarden.contracts.base import ActionName, RootCause
from driftwarden.contracts.findings import Advice, Candidate, Finding, Plan
from driftwarden.contracts.ports import (
    Advisor,
    AuditLog,
    Knowledge,
    KnowledgeHit,
    Notifier,
    PastIncident,
    Sandbox,
    StateStore,
)
from driftwarden.errors import BadInput, GiveUp, LogUnwritable, Refused, Retry
from driftwarden.testing import (
    SERVICE,
    CapturedAuditLog,
    CollectedNotifier,
    FakeClock,
    InlineSandbox,
    MemoryKnowledge,
    MemoryStateStore,
    ScriptedAdvisor,
)

CASE: Any = object()


def advice(summary: str) -> Advice:
    """A small advice."""
    finding = Finding(root_cause=RootCause.UNKNOWN, confidence=0.5, summary=summary)
    return Advice(
        finding=finding, plan=Plan(candidates=(Candidate(id="c1", action=ActionName.NONE),)), model="scripted"
    )


def test_every_double_is_its_port() -> None:
    """The type checker reads these assignments; at run time each double has the port's methods."""
    clock: Clock = FakeClock()
    ports: tuple[Advisor, AuditLog, StateStore, Knowledge, Notifier, Sandbox] = (
        ScriptedAdvisor(advice("a")),
        CapturedAuditLog(clock),
        MemoryStateStore(),
        MemoryKnowledge(),
        CollectedNotifier(),
        InlineSandbox(),
    )
    for double, port in zip(ports, (Advisor, AuditLog, StateStore, Knowledge, Notifier, Sandbox), strict=True):
        for base in port.__mro__[:-1]:
            methods = [name for name in vars(base) if not name.startswith("_")]
            assert all(callable(getattr(double, name)) for name in methods)


def test_the_clock_stands_still_until_it_is_moved() -> None:
    """Two looks are one moment; seconds and durations add up; there is no way back and no time without a zone."""
    clock = FakeClock(datetime(2026, 1, 1, tzinfo=UTC))
    assert clock.now() == clock.now()
    clock.advance(90)
    assert clock.advance(timedelta(minutes=1)) == datetime(2026, 1, 1, 0, 2, 30, tzinfo=UTC)
    with pytest.raises(ValueError, match="does not go back"):
        clock.advance(-1)
    with pytest.raises(ValueError, match="zone"):
        FakeClock(datetime(2026, 1, 1))  # noqa: DTZ001 - the point


def test_the_advisor_keeps_to_its_script() -> None:
    """Answers come in order, an exception is raised, the last one stays; every call is kept."""
    first, last = advice("first"), advice("last")
    advisor = ScriptedAdvisor(first, Retry("model away"), last)
    ask = {"correlation_id": "a" * 32, "incident": "inc-1"}
    assert advisor.advise(CASE, MemoryKnowledge(), **ask) is first
    with pytest.raises(Retry):
        advisor.advise(CASE, MemoryKnowledge(), **ask)
    assert [advisor.advise(CASE, MemoryKnowledge(), **ask) for _ in range(2)] == [last, last]
    assert [call.incident for call in advisor.asked] == ["inc-1"] * 4
    with pytest.raises(ValueError, match="at least one"):
        ScriptedAdvisor()


def test_captured_records_have_real_hashes() -> None:
    """Each hash is recomputed with nothing but json and hashlib, and names the record before it."""
    clock = FakeClock()
    log = CapturedAuditLog(clock)
    cause = log.append(
        "event", {"score": 0.25, "name": "Zoë"}, actor=SERVICE, incident="inc-1", correlation_id="b" * 32
    )
    clock.advance(1)
    log.append("decision", {"cost": Decimal("5.00")}, actor=SERVICE, incident="inc-1", causation=cause)
    prev = "0" * 64
    for seq, line in enumerate(log.lines().splitlines()):
        record = json.loads(line)
        stated = record.pop("@hash")
        canonical = json.dumps(record, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
        assert hashlib.sha256(canonical).hexdigest() == stated
        assert (record["seq"], record["prev"]) == (seq, prev)
        prev = stated
    assert log.of_type("decision")[0]["causation"] == cause
    assert log.of_type("event", incident="inc-2") == []
    assert log.records[0]["body"] == {"score": "0.25", "name": "Zoë"}


def test_captured_records_verify_as_a_file(tmp_path: Any) -> None:
    """The product's own verifier finds no wrong hash in them."""
    from driftwarden.audit.record import field_fault, seal
    from driftwarden.strict import canonical_json

    log = CapturedAuditLog()
    log.append("finding", {"columns": ["a"]}, actor=SERVICE)
    record = dict(log.records[0])
    assert field_fault(record) is None
    stated = record.pop("@hash")
    assert seal(canonical_json(record)) == (log.lines().rstrip(b"\n"), stated)


@pytest.mark.parametrize(
    "wrong",
    [{"type": "novel"}, {"correlation_id": "XYZ"}, {"causation": "0" * 63}],
    ids=["type", "correlation", "cause"],
)
def test_the_captured_log_refuses_what_the_real_one_refuses(wrong: dict[str, Any]) -> None:
    """A wrong type, correlation id or cause is BadInput, and nothing is kept."""
    log = CapturedAuditLog()
    with pytest.raises(BadInput):
        log.append(**({"type": "event", "body": {}, "actor": SERVICE} | wrong))
    assert log.records == []


def test_a_broken_log_stays_broken() -> None:
    """After `break_down` every append raises LogUnwritable."""
    log = CapturedAuditLog()
    log.break_down("disk gone")
    for _ in range(2):
        with pytest.raises(LogUnwritable, match="disk gone"):
            log.append("intent", {}, actor=SERVICE)


def test_state_is_conditional_and_copied() -> None:
    """Quarantine is set once, the reference compares and sets, and a caller's later change reaches neither."""
    state = MemoryStateStore()
    record = {"path": "a.parquet"}
    assert state.quarantine("m", "batch-1", record)
    record["path"] = "changed"
    assert not state.quarantine("m", "batch-1", {})
    assert state.quarantined("m") == {"batch-1": {"path": "a.parquet"}}
    assert (state.release("m", "batch-1"), state.release("m", "batch-1")) == (True, False)
    assert state.set_reference("m", {"b": 1, "a": 2}, expected=None)
    assert not state.set_reference("m", None, expected=None)
    assert state.reference("m") == {"a": 2, "b": 1}
    assert state.set_reference("m", None, expected={"a": 2, "b": 1})
    assert state.reference("m") is None


def test_knowledge_finds_by_words() -> None:
    """More shared words come first; kind and cause filter; an incident is found once it is recorded."""
    runbook = KnowledgeHit(
        id="r1",
        kind="runbook",
        title="Unit change",
        text="Fahrenheit, not Celsius",
        score=0,
        metadata={"root_cause": "unit_change"},
    )
    knowledge = MemoryKnowledge(runbook)
    incident = PastIncident(
        id="inc-1",
        correlation_id="a" * 32,
        model="boiler",
        root_cause="unit_change",
        action="quarantine_data",
        outcome="execute",
        state="resolved",
        summary="Fahrenheit again",
        at="2026-11-20T09:00:00.000000Z",
    )
    knowledge.record_incident(incident)
    knowledge.record_incident(incident)
    assert [(hit.id, hit.score) for hit in knowledge.search("fahrenheit celsius")] == [("r1", 1.0), ("inc-1", 0.5)]
    assert [hit.id for hit in knowledge.search("fahrenheit", kind="incident", root_cause="unit_change")] == ["inc-1"]
    assert knowledge.search("fahrenheit", root_cause="false_alarm") == ()
    assert knowledge.search("") == ()


def test_a_message_is_sent_once() -> None:
    """The same key twice is one message."""
    notifier = CollectedNotifier()
    for body in ("first", "second"):
        notifier.notify("Drift", body, key="k", fields={"model": "m"})
    assert [message.body for message in notifier.messages] == ["first"]
    assert (notifier.sent("k"), notifier.sent("other")) == (True, False)


def echo(payload: dict[str, Any]) -> Any:
    """A task with every ending, chosen by the payload."""
    match payload["how"]:
        case "refuse":
            raise Refused("no earlier version")
        case "fail":
            raise KeyError("column")
        case "list":
            return [1]
    return payload


def test_the_inline_sandbox_answers_like_the_real_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """JSON in, JSON out; errors of ours pass, others become GiveUp; strangers' functions and payloads are BadInput."""
    import sys
    import types

    module = types.ModuleType("driftwarden.pipelines.echo_of_the_tests")
    module.echo = echo  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    sandbox, task = InlineSandbox(), f"{module.__name__}:echo"
    assert sandbox.call(task, {"how": "well", "rows": (1, 2)}, timeout_s=1) == {"how": "well", "rows": [1, 2]}
    with pytest.raises(Refused):
        sandbox.call(task, {"how": "refuse"}, timeout_s=1)
    with pytest.raises(GiveUp, match="KeyError"):
        sandbox.call(task, {"how": "fail"}, timeout_s=1)
    with pytest.raises(GiveUp, match="expected a JSON object"):
        sandbox.call(task, {"how": "list"}, timeout_s=1)
    for call in (("os:getcwd", {}, 1.0), (task, {"x": float("nan")}, 1.0), (task, {}, 0.0)):
        with pytest.raises(BadInput):
            sandbox.call(call[0], call[1], timeout_s=call[2])
    assert [name for name, _ in sandbox.calls] == [task] * 4
