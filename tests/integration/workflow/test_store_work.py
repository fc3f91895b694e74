"""The workflow store against a real server: work on an incident, and what becomes of it when its workers die."""

import json
import threading

import pytest
from fakes.store_steps import LEASE_MS, admit, claim, drift, expire, nothing, report, step
from redis import Redis
from redis import exceptions as redis_exceptions

from driftwarden.errors import Fenced, NotFound
from driftwarden.service.workflow.store import WorkflowStore


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
