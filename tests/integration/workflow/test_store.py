"""The workflow store against a real server: what comes into it, and what it tells."""

import hashlib
import json

import pytest
from fakes.store_steps import NOW, admit, claim, drift, nothing, report, step
from redis import Redis
from redis import exceptions as redis_exceptions

from driftwarden.errors import BadInput, NotFound, Retry
from driftwarden.service.workflow.store import WorkflowStore


def test_an_event_opens_an_incident_and_the_next_one_joins(store: WorkflowStore) -> None:
    """The id comes from the event; later events of the model join; another model has an incident of its own."""
    first = admit(store, drift(1))
    assert first.kind == "opened"
    assert first.incident == "inc-" + hashlib.sha256(b"test\n1").hexdigest()[:12]
    assert admit(store, drift(2)) == type(first)("joined", first.incident)
    assert admit(store, drift(3, model="other")).kind == "opened"
    assert admit(store, drift(2)).kind == "duplicate"
    held = claim(store)
    assert [json.loads(raw)["id"] for raw in held.events] == ["1", "2"]
    assert (held.state, held.version, held.doc, held.opened_at) == ("received", 0, {}, NOW)


def test_the_same_admission_again_answers_the_same(store: WorkflowStore) -> None:
    """A repeat of one entry (its reply was lost) is no duplicate, and has no second effect."""
    first = store.admit("7-0", drift(1), now=NOW)
    assert store.admit("7-0", drift(1), now=NOW) == first
    assert store.admit("8-0", drift(1), now=NOW).kind == "duplicate"
    joined = store.admit("9-0", drift(2), now=NOW)
    assert store.admit("9-0", drift(2), now=NOW) == joined
    assert len(claim(store).events) == 2
    assert store.counts() == {"received": 1}


def test_an_incident_outlives_the_memory_of_its_event(client: Redis, store: WorkflowStore) -> None:
    """When the memory of an event expired, its incident still tells that it was seen."""
    opened = admit(store, drift(1))
    step(store, claim(store), "closed", "finish")
    for key in client.scan_iter("driftwarden:seen:*"):
        assert client.pttl(key) > 29 * 24 * 3600 * 1000
        client.delete(key)
    assert admit(store, drift(1)) == type(opened)("duplicate", opened.incident)


def test_an_id_that_is_taken_is_lengthened(client: Redis, store: WorkflowStore) -> None:
    """Two events whose short ids collide have an incident each."""
    opened = admit(store, drift(1))
    step(store, claim(store), "closed", "finish")
    client.hset(f"driftwarden:wf:{opened.incident}", "identity", "another")
    for key in client.scan_iter("driftwarden:seen:*"):
        client.delete(key)
    longer = admit(store, drift(1))
    assert longer.kind == "opened"
    assert longer.incident.startswith(opened.incident)
    assert len(longer.incident) == len("inc-") + 16


def test_who_does_not_accept_is_not_joined(store: WorkflowStore) -> None:
    """Once the incident stops accepting, the next event opens another; it waits for the model's slot."""
    first = admit(store, drift(1))
    held = step(store, claim(store), "executing", accepting=False)
    second = admit(store, drift(2))
    assert second.kind == "opened"
    assert nothing(store, "other")
    step(store, held, "closed", "finish")
    assert claim(store).incident == second.incident
    assert store.get(first.incident).ended


def test_an_event_that_joins_wakes_the_incident(store: WorkflowStore) -> None:
    """What waits takes note of the new event at once."""
    admit(store, drift(1))
    step(store, claim(store), "awaiting_approval", "release", due_s=3600)
    assert nothing(store)
    assert admit(store, drift(2)).kind == "joined"
    woken = claim(store)
    assert (woken.why, len(woken.events)) == ("event", 2)


def test_an_event_that_comes_with_the_end_opens_the_next_incident(store: WorkflowStore) -> None:
    """What joined after the last step was never weighed: it must not end with the incident that did not see it."""
    opened = admit(store, drift(1))
    held = claim(store)
    assert admit(store, drift(2)).kind == "joined"
    assert admit(store, drift(3)).kind == "joined"
    end = step(store, held, "closed", "finish", token="t")
    assert step(store, held, "closed", "finish", token="t").successor == end.successor
    assert end.successor is not None
    after = claim(store)
    assert after.incident == end.successor
    assert [json.loads(raw)["id"] for raw in after.events] == ["2", "3"]
    assert len(store.get(opened.incident).events) == 1
    assert admit(store, drift(4)).incident == after.incident
    assert store.counts() == {"closed": 1, "received": 1}
    assert nothing(store)


def test_a_performance_report_wakes_who_verifies(store: WorkflowStore) -> None:
    """It opens no incident, is kept once, and wakes the model's incidents in `verifying`."""
    assert store.record_performance("1-1", report(1)).kind == "performance"
    assert nothing(store)
    opened = admit(store, drift(1))
    step(store, claim(store), "verifying", "release", accepting=False)
    admit(store, drift(2, model="other"))
    step(store, claim(store), "verifying", "release", accepting=False)
    assert store.record_performance("1-2", report(2)).kind == "performance"
    assert store.record_performance("1-2", report(2)).kind == "performance"
    assert store.record_performance("1-3", report(2)).kind == "duplicate"
    woken = claim(store)
    assert (woken.incident, woken.why) == (opened.incident, "performance")
    assert nothing(store, "other")
    assert [json.loads(raw)["id"] for raw in store.performance_reports("m")] == ["p1", "p2"]
    step(store, woken, "resolved", "finish")
    store.record_performance("1-4", report(3))
    assert nothing(store)


def test_drift_of_another_environment_does_not_join(store: WorkflowStore) -> None:
    """A staging model's drift says nothing about production's, and must not change its incident."""
    production, staging = admit(store, drift(1)), admit(store, drift(2, environment="staging"))
    assert staging.kind == "opened"
    assert admit(store, drift(3)).incident == production.incident
    assert admit(store, drift(4, environment="staging")).incident == staging.incident


def test_an_admission_settles_its_entry(client: Redis, store: WorkflowStore) -> None:
    """Opened, joined, duplicate or a report: nothing stays in the intake, delivered or pending."""
    stream = "driftwarden:events"
    client.xgroup_create(stream, "workers", id="0", mkstream=True)
    for event in (drift(1), drift(2), drift(2), report(1), report(1)):
        entry = client.xadd(stream, {"event": event.raw})
        client.xreadgroup("workers", "w", {stream: ">"})
        if event.kind == "performance":
            store.record_performance(entry.decode(), event)
        else:
            store.admit(entry.decode(), event, now=NOW)
        assert client.xlen(stream) == 0
        assert client.xpending(stream, "workers")["pending"] == 0


def test_a_full_incident_is_joined_no_more(store: WorkflowStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Storage is capped, and nothing is lost: the next event opens another incident."""
    monkeypatch.setattr("driftwarden.service.workflow.admitting.EVENTS_PER_INCIDENT_MAX", 2)
    first = admit(store, drift(1))
    assert admit(store, drift(2)).incident == first.incident
    third = admit(store, drift(3))
    assert third.kind == "opened"
    assert admit(store, drift(4)).incident == third.incident


def test_prefixes_of_ids(store: WorkflowStore) -> None:
    """Any prefix that fits one incident only serves."""
    ids = sorted(admit(store, drift(number, model=f"m{number}")).incident for number in range(40))
    assert store.find(ids[0]) == ids[0]
    assert store.find(ids[0][4:]) == ids[0]
    assert store.find(ids[0][:-1]) == ids[0]
    with pytest.raises(BadInput, match="a longer prefix"):
        store.find("inc-")
    with pytest.raises(NotFound):
        store.find("inc-zz")
    with pytest.raises(NotFound):
        store.get("inc-zz")


def test_listing(store: WorkflowStore) -> None:
    """Newest first, by state and by model, in any number."""
    ids = [admit(store, drift(number, model=f"m{number % 3}")).incident for number in range(3)]
    held = [claim(store, f"w{number}") for number in range(3)]
    for number, one in enumerate(held):
        step(store, one, "closed", "finish")
        ids.append(admit(store, drift(f"x{number}", model=one.model)).incident)
    assert {one.id for one in store.list()} == set(ids)
    assert len(store.list(limit=2)) == 2
    assert {one.state for one in store.list(state="closed")} == {"closed"}
    assert [one.model for one in store.list(model="m1")] == ["m1", "m1"]
    assert store.list(model="m1")[0].state == "received"
    assert store.list(model="none") == ()


def test_watching(store: WorkflowStore) -> None:
    """Transitions come in order, and a watcher can go on where it left."""
    old = admit(store, drift(0, model="before"))
    later = store.watch(block_ms=1)
    assert next(later) is None
    opened = admit(store, drift(1))
    one = next(later)
    assert one is not None
    assert (one.incident, one.before, one.state, one.version) == (opened.incident, "", "received", 0)
    whole = store.watch("0", block_ms=1)
    first = next(whole)
    assert first is not None
    assert first.incident == old.incident
    assert next(whole) == one
    assert next(whole) is None


def test_a_server_that_stays_away_is_said(client: Redis) -> None:
    """The store does not wait for ever."""

    def away(where: str) -> None:
        raise redis_exceptions.ConnectionError("away")

    with pytest.raises(Retry, match="redis is away"):
        admit(WorkflowStore(client, retry_for_s=0.01, fail_point=away), drift(1))


def test_trimming_spares_what_is_pending(client: Redis, store: WorkflowStore) -> None:
    """Settled entries that stayed are cut, pending and undelivered ones stay, consumers that hold nothing are forgotten."""
    ids = [client.xadd("driftwarden:events", {"event": str(number)}) for number in range(6)]
    client.xgroup_create("driftwarden:events", "workers", id="0")
    client.xreadgroup("workers", "w", {"driftwarden:events": ">"}, count=4)
    client.xack("driftwarden:events", "workers", *ids[:2])
    assert store.trim() == 2
    assert [entry for entry, _ in client.xrange("driftwarden:events")] == ids[2:]
    assert [one["name"] for one in client.xinfo_consumers("driftwarden:events", "workers")] == [b"w"]


def test_every_key_begins_with_the_prefix(client: Redis) -> None:
    """The prefix is a setting; nothing is written outside of it."""
    store = WorkflowStore(client, prefix="other:")
    opened = admit(store, drift(1))
    store.record_performance("1-0", report(1))
    store.wake(opened.incident, "operator")
    held = claim(store)
    admit(store, drift(2))
    step(store, held, "verifying", "release")
    assert {key.split(b":")[0] for key in client.scan_iter("*")} == {b"other"}
