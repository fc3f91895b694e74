"""The checker finds nothing in a real history, and each lie that is put into one."""

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest
from crash.dump import Entry, Stream, take_dump
from crash.history import Acknowledged, History, conserved, judge
from crash.matrix import Lane
from crash.plant import PREFIX
from crash.recording import TOLD, Recording
from crash.sink import Move

from driftwarden.service.workflow.store import WorkflowStore
from driftwarden.stream.intake import Intake
from driftwarden.stream.publisher import build_event

Lie = Callable[[History], History]


@pytest.fixture(scope="module")
def histories(recorded: dict[str, Recording]) -> dict[str, History]:
    """Real histories, by scenario."""
    return {name: one.history for name, one in recorded.items()}


# Lies


def stored(history: History, **changes: Any) -> History:
    """Something else about the first incident; `doc` is laid over its document, `fields` over its hash."""
    one = next(iter(history.dump.incidents.values()))
    fields = dict(one.fields) | changes.pop("fields", {})
    if "doc" in changes:
        fields["doc"] = json.dumps(one.doc | changes.pop("doc"))
    incidents = {**history.dump.incidents, one.id: replace(one, fields=fields, **changes)}
    return replace(history, dump=replace(history.dump, incidents=incidents))


def without(kind: str, **body: Any) -> Lie:
    """No records of this type (and with these values in their body)."""

    def lie(history: History) -> History:
        kept = (one for one in history.records if one["type"] != kind or not body.items() <= one["body"].items())
        return replace(history, records=tuple(kept))

    return lie


def twice(kind: str) -> Lie:
    """The last record of this type once more."""
    return lambda history: replace(history, records=(*history.records, history.of_type(kind)[-1]))


def changed(kind: str, change: Callable[[dict[str, Any]], Mapping[str, Any]]) -> Lie:
    """Other content of every record of this type."""

    def lie(history: History) -> History:
        records = [
            {**one, **change(json.loads(json.dumps(one)))} if one["type"] == kind else one for one in history.records
        ]
        return replace(history, records=tuple(records))

    return lie


def moved(*more: Move) -> Lie:
    """Further moves of the alias in the registry's journal."""
    return lambda history: replace(history, sink=replace(history.sink, moves=(*(history.sink.moves or ()), *more)))


def stream(name: str, change: Callable[[Stream], Stream]) -> Lie:
    """Another content of a stream."""

    def lie(history: History) -> History:
        streams = {key: change(one) if key.endswith(name) else one for key, one in history.dump.streams.items()}
        return replace(history, dump=replace(history.dump, streams=streams))

    return lie


def other(name: str, change: Callable[[dict[str, str]], dict[str, str]]) -> Lie:
    """Another content of a hash."""

    def lie(history: History) -> History:
        found = {key: change(dict(one)) if key.endswith(name) else one for key, one in history.dump.other.items()}
        return replace(history, dump=replace(history.dump, other=found))

    return lie


def in_two_incidents(history: History) -> History:
    """The first incident's event is also in the second."""
    one, two = history.dump.incidents.values()
    taken = replace(two, events=(*two.events, *one.events), identities=(*two.identities, *one.identities))
    return replace(history, dump=replace(history.dump, incidents={one.id: one, two.id: taken}))


def held_twice(history: History) -> History:
    """An incident holds its event twice."""
    one = next(iter(history.dump.incidents.values()))
    return stored(history, events=one.events * 2, identities=one.identities * 2)


def buried_twice(one: Stream) -> Stream:
    """Each dead letter again, under another id."""
    return replace(one, entries=(*one.entries, *(replace(entry, id=f"9{entry.id}") for entry in one.entries)))


def overlapping(history: History) -> History:
    """Another incident intends something on the model between an intent and its result."""
    at = next(number for number, one in enumerate(history.records) if one["type"] == "intent")
    late = {**history.records[at], "incident": "inc-000000000000", "@hash": "0" * 64}
    return replace(history, records=(*history.records[: at + 1], late, *history.records[at + 1 :]))


def untrained(history: History) -> History:
    """A second version under the key of the last one."""
    versions = history.sink.versions
    name, _, key = next(one for one in versions if one[2] is not None)
    return replace(history, sink=replace(history.sink, versions=(*versions, (name, 99, key))))


def late_intent(record: dict[str, Any]) -> dict[str, Any]:
    """An intent that was written after the world had ended."""
    return {"ts": "2999-01-01T00:00:00.000000Z", "body": record["body"]}


def escalated(record: dict[str, Any]) -> dict[str, Any]:
    """A decision that says ask."""
    return {"body": {**record["body"], "decision": {**record["body"]["decision"], "outcome": "escalate"}}}


def fewer(one: Stream) -> Stream:
    """One transition is missing."""
    return replace(one, entries=(*one.entries[:2], *one.entries[3:]))


def falling(one: Stream) -> Stream:
    """The last transition was made under an old fence."""
    last = one.entries[-1]
    return replace(one, entries=(*one.entries[:-1], replace(last, fields={**last.fields, "fence": "1"})))


def running(entries: dict[str, str]) -> dict[str, str]:
    """Every reservation still runs."""
    return {name: value.replace('"done"', '"running"') for name, value in entries.items()}


def pending(requests: dict[str, str]) -> dict[str, str]:
    """Every request still waits."""
    return {name: value.replace('"state":"executed"', '"state":"pending"') for name, value in requests.items()}


def lost(history: History) -> History:
    """XADD acknowledged one more."""
    gone = Acknowledged("1-1", json.dumps({"source": "x", "id": "gone"}).encode())
    return replace(history, acknowledged=(*history.acknowledged, gone))


def left(history: History, **parts: Any) -> History:
    """Something is left in the dump."""
    return replace(history, dump=replace(history.dump, **parts))


def no_effects(history: History) -> History:
    """The registry knows nothing of the effects."""
    return replace(history, sink=replace(history.sink, effects=()))


LIES: list[tuple[str, str, str, Lie]] = [
    ("I1", "approved", "is in 0 incidents", lost),
    ("I1", "two-models", "is in 2 incidents", in_two_incidents),
    ("I1", "approved", "is in 2 incidents", held_twice),
    ("I1", "approved", "has not ended", lambda h: stored(h, fields={"done": "0"})),
    ("I1", "approved", "which is no end", lambda h: stored(h, fields={"state": "decided"})),
    ("I1", "approved", "no record says so", without("close")),
    ("I1", "approved", "the log says resolved", lambda h: stored(h, fields={"state": "undone"})),
    ("I1", "approved", "without having weighed", lambda h: stored(h, doc={"events": []})),
    ("I1", "approved", "is not in the audit log", without("event")),
    ("I1", "approved", "not those it is known to hold", lambda h: stored(h, events=())),
    ("I1", "dead-letter", "has 2 dead letters", stream("dead-letters", buried_twice)),
    ("I1", "dead-letter", "is not in the audit log", without("dead_letter")),
    ("I2", "approved", "2 versions of m were trained", untrained),
    ("I2", "approved", "0 times, its effects say 1", lambda h: replace(h, sink=replace(h.sink, moves=()))),
    ("I2", "approved", "1 times, its effects say 0", moved(Move("m", 4, 1, "2999-01-01T00:00:00.000Z"))),
    ("I2", "approved", "was never intended", without("intent")),
    ("I2", "approved", "no result says so", without("result")),
    ("I2", "approved", "has 2 results", twice("result")),
    ("I2", "approved", "the log does not", without("result")),
    ("I2", "approved", "before inc-", changed("intent", late_intent)),
    ("I2", "approved", "stands before what allowed it", changed("approval", late_intent)),
    ("I2", "approved", "after the result was told", changed("result", lambda r: {"ts": "2000-01-01T00:00:00.000000Z"})),
    ("I2", "undone", "allowed by no decision", changed("decision", escalated)),
    ("I2", "approved", "has no cause", without("approval")),
    ("I2", "approved", "the registry says the contrary", no_effects),
    ("I2", "undone", "was not done, the registry says the contrary", lambda h: stored(h, doc={"undone": None})),
    ("I2", "undone", "taken back, the log does not", without("result", undo=True)),
    ("I2", "quarantined", "stands 0 times, expected 1", other("quarantine:m", lambda batches: {})),
    ("I2", "quarantined", "was never intended", without("intent")),
    ("I2", "approved", "was sent 2 times", lambda h: replace(h, messages=(h.messages or ()) * 2)),
    ("I3", "approved", "intended an effect on m while", overlapping),
    ("I3", "undone", "has no end", lambda h: without("close")(without("result")(h))),
    ("I3", "approved", "and then from 7", moved(Move("m", 7, 8, "2999-01-01T00:00:00.000Z"))),
    ("I3", "approved", "its last move was to", moved(Move("m", 4, 1, "2999-01-01T00:00:00.000Z"))),
    ("I4", "approved", "versions of inc-", stream("transitions", fewer)),
    ("I4", "approved", "it stood in", stream("transitions", fewer)),
    ("I4", "approved", "fall", stream("transitions", falling)),
    ("I4", "approved", "its last transition says", lambda h: stored(h, fields={"version": "99"})),
    ("I4", "approved", "the fence of", lambda h: stored(h, fields={"fence": "1"})),
    ("I4", "approved", "was closed at version", changed("close", lambda r: {"body": {**r["body"], "version": 99}})),
    ("I5", "approved", "in no activation, no timer", lambda h: stored(h, fields={"done": "0"})),
    ("I5", "approved", "wake nobody", lambda h: stored(h, signals={"t": "1|{}"})),
    ("I5", "approved", "lies nowhere", lost),
    ("I6", "approved", "has not heard", lambda h: stored(h, signals={"t": "1|{}"})),
    ("I6", "approved", "was approved, and no record", without("approval", verdict="approved")),
    ("I6", "approved", "nobody was told", lambda h: replace(h, messages=())),
    ("I6", "approved", "was asked, and no record", without("approval", verdict="requested")),
    ("I7", "approved", "the audit log is not whole", lambda h: replace(h, verified=("torn",))),
    ("I7", "approved", "are pending in workers", stream("activations", lambda s: replace(s, pending={"workers": 1}))),
    ("I7", "approved", "entries are left in", stream("events", lambda s: replace(s, entries=(Entry("9-9", {}),)))),
    ("I7", "approved", "the timer", lambda h: left(h, timers={"inc-0|m": 1.0})),
    ("I7", "approved", "in the queue of m", lambda h: left(h, queued={"m": ("inc-0",)})),
    ("I7", "approved", "which is over", lambda h: left(h, models={"m": {"active": "inc-0"}})),
    ("I7", "approved", "is still running", other("ledger", running)),
    ("I7", "approved", "counted", other("counts", lambda counts: {"resolved": "2"})),
    ("I7", "approved", "is still pending, and nobody asks", other("approvals", pending)),
    ("I7", "approved", "counts against no cap", other("ledger", lambda entries: {})),
]  # fmt: skip


@pytest.mark.parametrize("name", TOLD)
def test_a_true_history_is_clean(histories: dict[str, History], name: str) -> None:
    """What a run leaves that nobody disturbed."""
    assert judge(histories[name]) == []


@pytest.mark.parametrize(("invariant", "name", "text", "lie"), LIES, ids=[f"{one[0]} {one[2]}" for one in LIES])
def test_a_lie_is_found(histories: dict[str, History], invariant: str, name: str, text: str, lie: Lie) -> None:
    """The invariant that it breaks is named, and what is wrong."""
    told = histories[name]
    faults = judge(lie(told))
    assert any(fault.startswith(f"{invariant} ") and text in fault for fault in faults), faults


def test_conservation_is_seen_in_a_living_redis(lane: Lane) -> None:
    """An incident whose activation is taken away is found at that instant, and so is an event that vanishes."""
    lane.client.flushall()
    store, intake = WorkflowStore(lane.client, prefix=PREFIX), Intake(lane.client, "i", prefix=PREFIX)
    raw = json.dumps(build_event({"model": "m", "kind": "data_drift"}, source="s", id="1")).encode()
    entry: Any = lane.client.xadd(f"{PREFIX}events", {"event": raw})
    sent = Acknowledged(entry.decode(), raw)
    assert conserved(take_dump(lane.client, PREFIX, light=True), [sent]) == []
    (delivery,) = intake.read(1)
    store.admit(delivery.entry_id, delivery.event, now="2026-11-20T09:00:00.000000Z")
    assert conserved(take_dump(lane.client, PREFIX, light=True), [sent]) == []
    claim = store.claim("w", block_ms=0, lease_ms=60_000)
    assert claim is not None
    assert conserved(take_dump(lane.client, PREFIX, light=True), [sent]) == []
    for key in lane.client.scan_iter(f"{PREFIX}*activations"):
        lane.client.delete(key)
    assert [fault[:2] for fault in conserved(take_dump(lane.client, PREFIX, light=True), [sent])] == ["I5"]
    store.commit(claim, state="triaged", doc={}, disposition="park", due_s=60, accepting=True)
    assert conserved(take_dump(lane.client, PREFIX, light=True), [sent]) == []
    for key in lane.client.scan_iter(f"{PREFIX}*wf:*"):
        lane.client.delete(key)
    (fault,) = conserved(take_dump(lane.client, PREFIX, light=True), [sent])
    assert "lies nowhere" in fault
