"""Two steps from the intake to the incidents: batches are admitted, then acknowledged; a crash in between changes nothing."""

import json
from typing import Any

import pytest
from redis import Redis

from driftwarden.service.workflow.store import WorkflowStore
from driftwarden.stream.intake import Delivery, Intake
from driftwarden.stream.publisher import build_event

NOW = "2026-11-20T09:00:00.000000Z"
EVENTS = "driftwarden:events"


def publish(client: Redis, *events: tuple[str, str]) -> None:
    """Drift events, each a model and an id."""
    for model, number in events:
        document = build_event({"model": model, "kind": "data_drift"}, source="s", id=number, time=NOW)
        client.xadd(EVENTS, {"event": json.dumps(document)})


def deliveries(client: Redis, count: int = 100) -> list[Delivery]:
    """What a worker is given."""
    return Intake(client, "w").read(count)


def told(store: WorkflowStore, batch: list[Delivery]) -> list[str]:
    """What became of each event of a batch."""
    return [one.kind for one in store.admit_many(batch, now=NOW)]


def ids(store: WorkflowStore) -> dict[str, list[str]]:
    """Ids of events in the incidents of each model, in their order, the oldest incident first."""
    found: dict[str, list[str]] = {}
    for record in reversed(store.list()):
        found.setdefault(record.model, []).extend(json.loads(raw)["id"] for raw in record.events)
    return found


def workflow(client: Redis) -> dict[bytes, Any]:
    """Everything but the intake, as bytes."""
    return {key: client.dump(key) for key in client.scan_iter() if key != EVENTS.encode()}


class Died(BaseException):
    """The process ends here."""


def test_a_batch_is_admitted_in_order_and_acknowledged_at_once(client: Redis) -> None:
    """Events of one batch open, join and are recognised as if they had come one by one, each model's in its order."""
    seen: list[str] = []
    store = WorkflowStore(client, fail_point=seen.append)
    publish(client, ("a", "1"), ("b", "2"), ("a", "3"), ("a", "1"), ("b", "4"), ("c", "5"))
    assert told(store, deliveries(client)) == ["opened", "opened", "joined", "duplicate", "joined", "opened"]
    assert ids(store) == {"a": ["1", "3"], "b": ["2", "4"], "c": ["5"]}
    assert client.xlen(EVENTS) == 0
    assert client.xpending(EVENTS, "workers")["pending"] == 0
    assert seen == ["before:admit", "after:admit", "before:acknowledge", "after:acknowledge"]


def test_who_never_saw_the_incident_asks_twice_and_keeps_the_order(client: Redis) -> None:
    """A process that guesses wrong which incident is open is put right; nothing is written meanwhile."""
    publish(client, ("a", "0"))
    told(WorkflowStore(client), deliveries(client))
    seen: list[str] = []
    store = WorkflowStore(client, fail_point=seen.append)
    publish(client, *(("a", str(number)) for number in range(1, 8)))
    assert told(store, deliveries(client)) == ["joined"] * 7
    assert ids(store) == {"a": [str(number) for number in range(8)]}
    assert seen.count("before:admit") == 2


def test_an_incident_that_is_full_in_the_middle_of_a_batch(client: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next event opens another, which those after it join: none overtakes, none is lost."""
    monkeypatch.setattr("driftwarden.service.workflow.admitting.EVENTS_PER_INCIDENT_MAX", 3)
    store = WorkflowStore(client)
    publish(client, *(("a", str(number)) for number in range(8)))
    admissions = store.admit_many(deliveries(client), now=NOW)
    kinds = [one.kind for one in admissions]
    assert kinds == ["opened", "joined", "joined", "opened", "joined", "joined", "opened", "joined"]
    incidents = [store.get(admissions[number].incident) for number in (0, 3, 6)]
    found = [[json.loads(raw)["id"] for raw in one.events] for one in incidents]
    assert found == [["0", "1", "2"], ["3", "4", "5"], ["6", "7"]]


@pytest.mark.parametrize("limit", ["_CALLS_MAX", "_BYTES_MAX"])
def test_a_large_batch_takes_several_trips(client: Redis, monkeypatch: pytest.MonkeyPatch, limit: str) -> None:
    """Neither many events nor large ones make one endless request; the entries are still acknowledged together."""
    monkeypatch.setattr(f"driftwarden.service.workflow.admitting.{limit}", 4 if limit == "_CALLS_MAX" else 1)
    seen: list[str] = []
    store = WorkflowStore(client, fail_point=seen.append)
    publish(client, *(("ab"[number % 2], str(number)) for number in range(10)))
    assert sorted(told(store, deliveries(client))) == ["joined"] * 8 + ["opened"] * 2
    assert ids(store) == {"a": ["0", "2", "4", "6", "8"], "b": ["1", "3", "5", "7", "9"]}
    assert seen.count("before:admit") == (3 if limit == "_CALLS_MAX" else 10)
    assert seen.count("before:acknowledge") == 1


@pytest.mark.parametrize("where", ["after:admit", "before:acknowledge"])
def test_a_crash_between_the_steps_changes_nothing(client: Redis, where: str) -> None:
    """What was admitted comes again, has the same answer, and leaves everything as it was but the intake."""

    def die(at: str) -> None:
        if at == where:
            raise Died

    publish(client, ("a", "1"), ("a", "2"), ("b", "3"), ("a", "1"))
    with pytest.raises(Died):
        told(WorkflowStore(client, fail_point=die), deliveries(client))
    before = workflow(client)
    again = deliveries(client)
    assert len(again) == 4
    assert told(WorkflowStore(client), again) == ["opened", "joined", "opened", "duplicate"]
    assert workflow(client) == before
    assert (client.xlen(EVENTS), client.xpending(EVENTS, "workers")["pending"]) == (0, 0)


def test_a_report_whose_acknowledgement_was_lost_is_counted_once(client: Redis) -> None:
    """A performance report is admitted in two steps too."""

    def die(at: str) -> None:
        if at == "before:acknowledge":
            raise Died

    data = {"model": "a", "environment": "production", "window": {}, "performance": {"current": 0.9}}
    report = build_event(data, source="s", id="r", type="io.driftwarden.performance.v1", time=NOW)
    client.xadd(EVENTS, {"event": json.dumps(report)})
    (one,) = deliveries(client)
    with pytest.raises(Died):
        WorkflowStore(client, fail_point=die).record_performance(one.entry_id, one.event)
    (again,) = deliveries(client)
    store = WorkflowStore(client)
    assert store.record_performance(again.entry_id, again.event).kind == "performance"
    assert len(store.performance_reports("a")) == 1
    assert client.xlen(EVENTS) == 0


def test_two_workers_with_the_same_entries(client: Redis) -> None:
    """Who was too slow to acknowledge, and whoever took over, answer the same, and open one incident."""
    publish(client, ("a", "1"), ("a", "2"))
    slow = deliveries(client)
    taken = Intake(client, "other", reclaim_after_ms=0).read(10)
    assert [one.entry_id for one in taken] == [one.entry_id for one in slow]
    assert told(WorkflowStore(client), taken) == ["opened", "joined"]
    assert told(WorkflowStore(client), slow) == ["opened", "joined"]
    assert ids(WorkflowStore(client)) == {"a": ["1", "2"]}


def test_the_server_forgets_its_scripts(client: Redis) -> None:
    """A restart or a failover empties the script cache; a batch loads the script and goes on."""
    store = WorkflowStore(client)
    publish(client, ("a", "1"))
    told(store, deliveries(client))
    client.script_flush()
    publish(client, ("a", "2"), ("b", "3"))
    assert told(store, deliveries(client)) == ["joined", "opened"]
