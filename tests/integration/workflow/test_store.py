"""The workflow store, step by step, against a real server."""

import hashlib
import json
import threading
from typing import Any

import pytest
from redis import Redis
from redis import exceptions as redis_exceptions

from driftwarden.contracts.event import DriftEvent, parse_event
from driftwarden.errors import BadInput, Fenced, NotFound, Retry
from driftwarden.service.workflow.store import Claim, WorkflowStore
from driftwarden.stream.publisher import build_event

LEASE_MS = 60_000
NOW = "2026-11-20T09:00:00.000000Z"


def drift(number: int | str, model: str = "m", environment: str = "production") -> DriftEvent:
    """A drift event."""
    data = {"model": model, "kind": "data_drift", "environment": environment}
    document = build_event(data, source="test", id=str(number), time=NOW)
    return parse_event(json.dumps(document))


def report(number: int, model: str = "m") -> DriftEvent:
    """A performance report."""
    data = {"model": model, "environment": "production", "window": {}, "performance": {"current": 0.9}}
    document = build_event(data, source="test", id=f"p{number}", type="io.driftwarden.performance.v1", time=NOW)
    return parse_event(json.dumps(document))


_entries = iter(range(1, 10**9))


def admit(store: WorkflowStore, event: DriftEvent) -> Any:
    """Admit an event as the next entry of the intake."""
    return store.admit(f"1-{next(_entries)}", event, now=NOW)


def claim(store: WorkflowStore, consumer: str = "w", lease_ms: int = LEASE_MS) -> Claim:
    """Claim what must be there."""
    found = store.claim(consumer, block_ms=0, lease_ms=lease_ms)
    assert found is not None
    return found


def nothing(store: WorkflowStore, consumer: str = "w") -> bool:
    """True where no incident waits."""
    return store.claim(consumer, block_ms=0, lease_ms=LEASE_MS) is None


def step(store: WorkflowStore, held: Claim, state: str, disposition: Any = "go", **more: Any) -> Claim:
    """Commit a step."""
    options = {"accepting": True, "doc": held.doc} | more
    return store.commit(held, state=state, disposition=disposition, **options)


def expire(client: Redis, held: Claim) -> None:
    """As if the lease's time had passed without a heartbeat."""
    client.hset(f"driftwarden:wf:{held.incident}", "lease", 0)
    client.execute_command(
        "XCLAIM driftwarden:activations", "workers", held.consumer, 0, held.entry, "IDLE", 10**9, "JUSTID"
    )


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


def test_a_release_gives_the_slot_to_the_next_in_line(store: WorkflowStore) -> None:
    """The incident lives on without the slot, and queues for it when it is taken up again."""
    first = admit(store, drift(1))
    held = step(store, claim(store, "a"), "executing", accepting=False)
    second = admit(store, drift(2))
    assert nothing(store, "b")
    step(store, held, "verifying", "release", accepting=False, due_s=3600)
    running = claim(store, "b")
    assert running.incident == second.incident
    assert store.pump_timers(ahead_s=3601) == 1
    assert nothing(store, "a")
    step(store, running, "closed", "finish")
    assert claim(store, "a").incident == first.incident


def test_a_park_keeps_the_slot(store: WorkflowStore) -> None:
    """While it waits for another try, nobody else works on the model."""
    admit(store, drift(1))
    step(store, claim(store), "investigated", "park", accepting=False, due_s=30)
    admit(store, drift(2))
    assert nothing(store)
    assert store.pump_timers(ahead_s=29) == 0
    assert store.pump_timers(ahead_s=31) == 1
    assert store.pump_timers(ahead_s=31) == 0
    assert claim(store).state == "investigated"


def test_an_event_that_joins_wakes_the_incident(store: WorkflowStore) -> None:
    """What waits takes note of the new event at once."""
    admit(store, drift(1))
    step(store, claim(store), "awaiting_approval", "release", due_s=3600)
    assert nothing(store)
    assert admit(store, drift(2)).kind == "joined"
    woken = claim(store)
    assert (woken.why, len(woken.events)) == ("event", 2)


def test_later_commits_replace_the_timer(client: Redis, store: WorkflowStore) -> None:
    """One timer an incident; without one of its own, a park gets a backstop, so that nothing is forgotten."""
    opened = admit(store, drift(1))
    step(store, claim(store), "investigated", "park", due_s=30)
    store.wake(opened.incident, "operator")
    held = step(store, claim(store), "planned", "go")
    assert client.zcard("driftwarden:timers") == 0
    step(store, held, "monitoring", "release")
    assert store.pump_timers(ahead_s=23 * 3600) == 0
    assert store.pump_timers(ahead_s=25 * 3600) == 1


def test_a_zombie_is_fenced(client: Redis, store: WorkflowStore) -> None:
    """After its lease ran out and another took over, nothing a worker does has an effect."""
    admit(store, drift(1))
    zombie = claim(store, "a")
    expire(client, zombie)
    heir = claim(store, "b")
    assert heir.fence > zombie.fence
    assert heir.crashes == 1
    for attempt in (store.heartbeat, store.hand_back, lambda held: step(store, held, "triaged")):
        with pytest.raises(Fenced):
            attempt(zombie)
    done = step(store, heir, "triaged", doc={"by": "b"})
    assert (done.version, done.crashes) == (1, 0)
    assert store.get(heir.incident).doc == {"by": "b"}
    expire(client, done)
    assert claim(store, "c").crashes == 1


def test_a_new_reason_takes_over_from_a_dead_worker(client: Redis, store: WorkflowStore) -> None:
    """The entry that the dead one held goes with its lease: nothing comes twice."""
    opened = admit(store, drift(1))
    dead = claim(store, "a")
    client.hset(f"driftwarden:wf:{opened.incident}", "lease", 0)
    store.wake(opened.incident, "operator")
    heir = claim(store, "b")
    assert heir.entry != dead.entry
    assert [entry.decode() for entry, _ in client.xrange("driftwarden:activations")] == [heir.entry]


def test_a_slow_worker_that_nobody_replaced_may_commit(client: Redis, store: WorkflowStore) -> None:
    """An expired lease alone loses nothing."""
    admit(store, drift(1))
    held = claim(store, "a")
    expire(client, held)
    assert step(store, held, "triaged").version == 1


def test_a_late_heartbeat_does_not_bring_a_lease_back(client: Redis, store: WorkflowStore) -> None:
    """After a park the lease is over: a heartbeat that was under way must not swallow the next wake-up."""
    opened = admit(store, drift(1))
    held = claim(store, "a")
    store.heartbeat(held)
    step(store, held, "awaiting_approval", "park", due_s=3600)
    with pytest.raises(Fenced):
        store.heartbeat(held)
    assert not store.get(opened.incident).leased
    store.wake(opened.incident, "approval")
    assert claim(store, "b").incident == opened.incident


def test_the_same_commit_twice_is_one(store: WorkflowStore) -> None:
    """Under one token a step is written once, whatever else happened; an old version is refused."""
    admit(store, drift(1))
    held = claim(store)
    once = step(store, held, "triaged", token="t1")
    assert step(store, held, "triaged", token="t1") == once
    assert store.get(held.incident).version == 1
    with pytest.raises(Fenced):
        step(store, held, "investigated", token="t2")
    end = step(store, once, "closed", "finish", token="t3")
    assert step(store, once, "closed", "finish", token="t3").version == end.version
    assert store.counts() == {"closed": 1}


def test_a_signal_while_leased_is_not_lost(store: WorkflowStore) -> None:
    """It comes with the next commit, stays until a commit has handled it, and wakes a parked incident."""
    opened = admit(store, drift(1))
    held = claim(store)
    store.wake(opened.incident, "approval", {"by": "ann"})
    assert nothing(store, "other")
    held = step(store, held, "triaged")
    assert [(one.why, one.payload) for one in held.signals] == [("approval", {"by": "ann"})]
    store.wake(opened.incident, "operator")
    step(store, held, "awaiting_approval", "park", due_s=3600)
    again = claim(store)
    assert [one.why for one in again.signals] == ["approval", "operator"]
    step(store, again, "awaiting_approval", "park", due_s=3600, handled=again.signals[:1])
    while spare := store.claim("w", block_ms=0, lease_ms=LEASE_MS):  # several reasons may activate more than once
        step(store, spare, "awaiting_approval", "park", due_s=3600)
    store.pump_timers(ahead_s=3601)
    assert [one.why for one in claim(store).signals] == ["operator"]


def test_a_signal_that_comes_with_the_end_is_heard_after_it(store: WorkflowStore) -> None:
    """An approval or an operator's word in the last moment, or later, reactivates the finished incident."""
    opened = admit(store, drift(1))
    held = claim(store)
    store.wake(opened.incident, "operator", "undo")
    step(store, held, "resolved", "finish")
    late = claim(store)
    assert (late.state, [one.payload for one in late.signals]) == ("resolved", ["undo"])
    step(store, late, "undone", "finish", handled=late.signals)
    assert nothing(store)
    store.wake(opened.incident, "operator", "retry")
    assert claim(store).state == "undone"
    with pytest.raises(NotFound):
        store.wake("inc-000000000000", "operator")


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


def test_a_crash_loop_ends_in_the_dead_letters(client: Redis, store: WorkflowStore) -> None:
    """An incident that kills its workers fails, says so, and gives the model's slot to the next."""
    opened = admit(store, drift(1))
    held = step(store, claim(store, "w"), "executing", accepting=False)
    second = admit(store, drift(2))
    for crash in range(4):
        assert held.crashes == crash
        assert nothing(store, "other")
        expire(client, held)
        if crash < 3:
            held = claim(store, f"w{crash}")
    found = claim(store, "x")
    assert found.incident == second.incident
    failed = store.get(opened.incident)
    assert (failed.state, failed.ended) == ("failed", True)
    assert "died 4 times in state executing" in (failed.reason or "")
    ((_, letter),) = client.xrange("driftwarden:dead-letters")
    assert letter[b"kind"] == b"incident"
    assert letter[b"incident"].decode() == opened.incident
    with pytest.raises(Fenced):
        step(store, held, "verifying")
    assert store.counts() == {"failed": 1, "received": 1}


def test_an_incident_that_failed_is_not_joined(client: Redis) -> None:
    """What comes after a crash loop opens an incident of its own."""
    store = WorkflowStore(client, crashes_max=0)
    opened = admit(store, drift(1))
    expire(client, claim(store, "a"))
    last_word = claim(store, "b")
    assert store.get(opened.incident).state == "failed"
    assert [signal.why for signal in last_word.signals] == ["crash-loop"]
    assert admit(store, drift(2)).kind == "opened"
    expire(client, last_word)  # it kills whoever closes its books, too: then it is left alone
    assert claim(store, "c").incident != opened.incident
    assert nothing(store, "d")


def test_what_joined_a_crash_loop_is_not_lost(client: Redis) -> None:
    """Events that the failing incident never weighed open the next one, which goes on where they say."""
    store = WorkflowStore(client, crashes_max=0)
    opened = admit(store, drift(1))
    held = claim(store, "a")
    held = store.commit(held, state="triaged", doc={}, disposition="go", accepting=True)
    for number in (2, 3):
        assert admit(store, drift(number)).kind == "joined"
    expire(client, held)
    last_word = claim(store, "b")
    step(store, last_word, "failed", "finish", handled=last_word.signals)
    held = claim(store, "b")
    failed = store.get(opened.incident)
    assert (failed.state, failed.successor, len(failed.events)) == ("failed", held.incident, 1)
    assert [json.loads(raw)["id"] for raw in held.events] == [json.loads(drift(n).raw)["id"] for n in (2, 3)]
    assert store.get(held.incident).predecessor == opened.incident
    assert admit(store, drift(4)).incident == held.incident


def test_an_event_that_kills_whoever_reads_it_ends_once(client: Redis) -> None:
    """The first event of an incident always ends with it: each of a row of poisonous ones has one incident, and no more."""
    store = WorkflowStore(client, crashes_max=0)
    admit(store, drift(1))
    held = claim(store, "a")
    for number in (2, 3):
        admit(store, drift(number))
    for worker in "bcdefghi":
        expire(client, held)
        again = store.claim(worker, block_ms=0, lease_ms=LEASE_MS)
        if again is None:
            break
        held = again
    assert store.counts() == {"failed": 3}
    assert len(client.xrange("driftwarden:dead-letters")) == 3


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


def test_a_signal_whose_reply_was_lost_is_heard_once(client: Redis, store: WorkflowStore) -> None:
    """Even where it was handled before its sender asked again."""
    heard: list[str] = []

    def handle_then_drop(where: str) -> None:
        if where == "after:wake" and not heard:
            held = claim(store)
            heard.extend(one.why for one in held.signals)
            step(store, held, "closed", "finish", handled=held.signals)
            raise redis_exceptions.ConnectionError("reply lost")

    opened = admit(store, drift(1))
    WorkflowStore(client, fail_point=handle_then_drop).wake(opened.incident, "operator")
    while spare := store.claim("w", block_ms=0, lease_ms=LEASE_MS):
        heard.extend(one.why for one in spare.signals)
        step(store, spare, "closed", "finish", handled=spare.signals)
    assert heard == ["operator"]


def test_handing_back_is_no_crash(store: WorkflowStore) -> None:
    """A worker that stops gives its incident to the next at once, at the last committed state."""
    admit(store, drift(1))
    held = step(store, claim(store, "a"), "triaged", doc={"x": 1.5})
    store.hand_back(held)
    again = claim(store, "b")
    assert (again.state, again.doc, again.crashes) == ("triaged", {"x": 1.5}, 0)


def test_a_worker_of_the_same_name_finds_what_it_left(client: Redis, store: WorkflowStore) -> None:
    """After a restart under the old name: nothing while the lease lasts, then its own entry."""
    admit(store, drift(1))
    held = claim(store, "a")
    assert nothing(store, "a")
    expire(client, held)
    assert claim(store, "a").incident == held.incident


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


def test_a_lost_reply_is_asked_again(client: Redis) -> None:
    """Every script may be executed twice because its reply was lost; each has one effect, and answers the same."""
    lost: set[str] = set()

    def drop(where: str) -> None:
        if where.startswith("after:") and where not in lost:
            lost.add(where)
            raise redis_exceptions.ConnectionError("reply lost")

    store = WorkflowStore(client, fail_point=drop)
    opened = admit(store, drift(1))
    assert opened.kind == "opened"
    assert store.record_performance("1-0", report(1)).kind == "performance"
    held = claim(store)
    assert held.crashes == 0
    store.heartbeat(held)
    held = step(store, held, "triaged")
    assert held.version == 1
    store.wake(opened.incident, "operator")
    held = step(store, held, "planned", "park", due_s=0)
    assert len(held.signals) == 1
    store.pump_timers()
    store.hand_back(claim(store))
    assert len(claim(store).signals) == 1
    taking_in = ("admit", "acknowledge", "performance")
    scripts = (*taking_in, "acquire", "heartbeat", "commit", "wake", "timers", "hand_back")
    assert lost == {f"after:{name}" for name in scripts}


def test_a_server_that_stays_away_is_said(client: Redis) -> None:
    """The store does not wait for ever."""

    def away(where: str) -> None:
        raise redis_exceptions.ConnectionError("away")

    with pytest.raises(Retry, match="redis is away"):
        admit(WorkflowStore(client, retry_for_s=0.01, fail_point=away), drift(1))


def test_a_destroyed_group_and_a_flushed_server(client: Redis, store: WorkflowStore) -> None:
    """A group that vanished comes back with every entry; work on what was flushed is fenced; new events work."""
    admit(store, drift(1))
    held = claim(store)
    client.xgroup_destroy("driftwarden:activations", "workers")
    store.heartbeat(held)
    held = step(store, held, "triaged")
    assert nothing(store, "other")
    step(store, held, "awaiting_approval", "park", due_s=0)
    assert store.pump_timers() == 1
    held = claim(store)
    client.flushall()
    with pytest.raises(Fenced):
        step(store, held, "approved")
    with pytest.raises(Fenced):
        store.heartbeat(held)
    assert admit(store, drift(1)).kind == "opened"
    assert claim(store).state == "received"


def test_a_document_that_was_tampered_with_stops_nobody(client: Redis) -> None:
    """The incident fails with a dead letter, others go on, and it can still be listed."""
    store = WorkflowStore(client, crashes_max=0)
    broken = admit(store, drift(1))
    client.hset(f"driftwarden:wf:{broken.incident}", mapping={"doc": "{", "opened": b"\xff"})
    admit(store, drift(2, model="other"))
    held = claim(store)
    assert held.model == "other"
    step(store, held, "closed", "finish")
    assert nothing(store)
    assert {one.id: one.reason for one in store.list(model="m")} == {broken.incident: "its document cannot be read"}
    client.hset(f"driftwarden:wf:{broken.incident}", "lease", 0)
    assert nothing(store)
    assert store.get(broken.incident).state == "failed"
    client.hset(f"driftwarden:wf:{broken.incident}", "lease", 0)  # the last word about it cannot be read either
    assert nothing(store)
    assert client.xlen("driftwarden:dead-letters") == 1
    client.xadd("driftwarden:activations", {"incident": "inc-none", "model": "m"})
    client.xadd("driftwarden:activations", {"nonsense": b"\xff"})
    assert nothing(store)
    assert client.xlen("driftwarden:activations") == 0


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


def test_two_workers_never_hold_one_model(url: str, client: Redis, store: WorkflowStore) -> None:
    """Eight threads work through forty incidents of five models: one at a time a model, every event once."""
    for number in range(40):
        client.xadd("driftwarden:events", {"event": drift(number, model=f"m{number % 5}").raw})
    busy: dict[str, threading.Lock] = {f"m{number}": threading.Lock() for number in range(5)}
    overlaps: list[str] = []
    ended: list[str] = []
    for number in range(40):
        admit(store, drift(number, model=f"m{number % 5}"))

    def work(name: str) -> None:
        while len(ended) < 40:
            held = store.claim(name, block_ms=20, lease_ms=LEASE_MS)
            if held is None:
                continue
            if not busy[held.model].acquire(blocking=False):
                overlaps.append(held.incident)
            for state in ("triaged", "investigated"):
                held = step(store, held, state)
            busy[held.model].release()
            ended.extend(json.loads(raw)["id"] for raw in held.events)
            step(store, held, "closed", "finish")

    threads = [threading.Thread(target=work, args=(f"w{number}",)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert overlaps == []
    assert sorted(ended, key=int) == [str(number) for number in range(40)]


@pytest.mark.parametrize("where", ["before:letter", "after:letter"])
def test_a_crash_loop_whose_letter_was_not_written(client: Redis, where: str) -> None:
    """Who fails an incident and dies before, or after, its dead letter: there is one letter before anybody goes on with it."""

    class Died(BaseException):
        pass

    def die(at: str) -> None:
        if at == where:
            raise Died

    store = WorkflowStore(client, crashes_max=0)
    admit(store, drift(1))
    held = claim(store)
    expire(client, held)
    with pytest.raises(Died):
        WorkflowStore(client, crashes_max=0, fail_point=die).claim("x", block_ms=0, lease_ms=LEASE_MS)
    assert store.get(held.incident).state == "failed"
    assert client.xlen("driftwarden:dead-letters") == (where == "after:letter")
    last = claim(store, "y")
    assert [one.why for one in last.signals] == ["crash-loop"]
    ((_, letter),) = client.xrange("driftwarden:dead-letters")
    assert letter[b"incident"].decode() == held.incident
    assert b"died 1 times" in letter[b"reason"]
    step(store, last, "failed", "finish", handled=last.signals)
    assert nothing(store)
    assert client.xlen("driftwarden:dead-letters") == 1
