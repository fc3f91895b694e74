"""Guards of the scripts that no story in the other tests needs, each by itself (mutants.toml names them): work on incidents."""

from typing import Any

import pytest
from fakes.store_steps import GROUP, LEASE_MS, admitted, claim, expire, fields, nothing, step
from redis import Redis
from redis.exceptions import ConnectionError as RedisConnectionError

from driftwarden.errors import Fenced
from driftwarden.service.workflow.backpressure import backpressure
from driftwarden.service.workflow.store import WorkflowStore


@pytest.fixture
def store(client: Redis) -> WorkflowStore:
    """A store on it, with patience for a worker that dies often."""
    return WorkflowStore(client, crashes_max=100)


def activations(client: Redis, store: WorkflowStore) -> tuple[int, int]:
    """How many entries there are, and how many of them are pending."""
    stream = store.keys.activations
    pending: Any = client.xpending(stream, GROUP)
    return int(client.xlen(stream)), int(pending["pending"])


# Taking up


def test_who_slept_with_a_settled_activation_takes_nothing(client: Redis, store: WorkflowStore) -> None:
    """Given one entry, asleep, woken after another worker had run and settled it: there is nothing to take."""
    admitted(store, 1)
    held = claim(store, "slow")
    expire(client, held)

    def overtaken(where: str) -> None:
        if where == "before:acquire":
            expire(client, held)
            step(store, claim(store, "quick"), "triaged", "park", due_s=1000)

    late = WorkflowStore(client, fail_point=overtaken)
    assert nothing(late, "slow")
    record = store.get(held.incident)
    assert (record.leased, activations(client, store)) == (False, (0, 0))
    assert store.pump_timers(ahead_s=2000) == 1


def test_an_incident_that_is_gone_leaves_queue_and_slot(client: Redis, store: WorkflowStore) -> None:
    """Somebody removed two incidents by hand, one with the slot and one in the queue: the third goes on."""
    gone = [admitted(store, number, environment=place) for number, place in enumerate(("production", "staging"))]
    third = admitted(store, 3, environment="test")
    step(store, claim(store), "triaged", "park", due_s=1)
    assert nothing(store)
    queue = store.keys.model("m", "queue")
    assert {one.decode() for one in client.zrange(queue, 0, -1)} == {gone[1], third}
    for incident in gone:
        client.delete(store.keys.wf(incident))
    client.xadd(store.keys.activations, {"incident": gone[1], "model": "m", "why": "test"})
    assert nothing(store)
    assert {one.decode() for one in client.zrange(queue, 0, -1)} == {third}
    store.pump_timers(ahead_s=2)
    assert claim(store).incident == third


def test_a_place_in_the_queue_is_kept(client: Redis, store: WorkflowStore) -> None:
    """Who is activated again while it waits does not go to the end; its entries are settled."""
    admitted(store, 1)
    waits = admitted(store, 2, environment="staging")
    held = claim(store)
    assert nothing(store, "other")
    assert activations(client, store) == (1, 1)
    queue = store.keys.model("m", "queue")
    client.zadd(queue, {waits: 5})
    store.wake(waits, "test")
    assert nothing(store, "other")
    assert client.zscore(queue, waits) == 5
    step(store, held, "triaged", "release")
    assert claim(store).incident == waits


def test_queues_are_known_by_their_models(client: Any, store: WorkflowStore) -> None:
    """So that what waits is counted without a search through all keys; the last to leave takes the model with it."""
    waiting = lambda: backpressure(client, "driftwarden:")["queued"]  # noqa: E731
    for number, place in enumerate(("production", "staging", "test")):
        admitted(store, number, environment=place)
    admitted(store, 9, "other")
    held = claim(store, "a")
    assert claim(store, "b").model == "other"
    assert (waiting(), client.smembers(store.keys.queues)) == (2, {b"m"})
    step(store, held, "triaged", "release")
    assert (waiting(), client.smembers(store.keys.queues)) == (1, {b"m"})
    step(store, claim(store, "c"), "triaged", "finish", accepting=False)
    assert (waiting(), client.smembers(store.keys.queues)) == (0, set())


def test_a_slot_that_is_handed_over_without_a_commit_takes_its_queue_with_it(client: Any, store: WorkflowStore) -> None:
    """Who held it was removed by hand, and the only one in the queue has it now."""
    gone = admitted(store, 1)
    admitted(store, 2, environment="staging")
    step(store, claim(store), "triaged", "park", due_s=1)
    assert nothing(store)
    assert client.smembers(store.keys.queues) == {b"m"}
    client.delete(store.keys.wf(gone))
    store.pump_timers(ahead_s=2)
    assert claim(store).environment == "staging"
    assert client.smembers(store.keys.queues) == set()


def test_woken_while_leased_goes_on_at_once(client: Redis, store: WorkflowStore) -> None:
    """What came while it was leased does not wait for the timer of the park."""
    incident = admitted(store, 1)
    held = claim(store)
    store.wake(incident, "test")
    assert nothing(store, "other")
    assert activations(client, store) == (1, 1)
    step(store, held, "triaged", "park", due_s=10_000)
    assert claim(store).incident == incident


def test_a_fence_outgrows_writes_that_were_lost(client: Redis, store: WorkflowStore) -> None:
    """The server came back as it was before the last claim: the fence of the claim that it forgot is not given again."""
    incident = admitted(store, 1)
    before = client.dump(store.keys.wf(incident))
    lost = claim(store)
    client.restore(store.keys.wf(incident), 0, before, replace=True)
    held = claim(store)
    assert held.fence > lost.fence
    with pytest.raises(Fenced):
        step(store, lost)


# Crash loops


def test_what_a_crash_loop_leaves(client: Redis) -> None:
    """Nothing that would bring it back by itself, and nothing that its slow worker could still do."""
    seen: list[dict[str, str]] = []

    def look(where: str) -> None:
        if where == "after:acquire":
            seen.append(fields(client, store, incident))

    store = WorkflowStore(client, crashes_max=0, fail_point=look)
    incident = admitted(store, 1)
    step(store, claim(store), "verifying", "release", due_s=1)
    store.pump_timers(ahead_s=2)
    held = claim(store)
    client.zadd(store.keys.timers, {f"{incident}|m": 10**15})  # handed back to a later time
    store.wake(incident, "test")
    expire(client, held)
    last = claim(store, "other")
    assert [signal.why for signal in last.signals] == ["crash-loop"]
    failed = next(one for one in seen if one["state"] == "failed")
    assert (failed["joinable"], failed["crashes"], failed["done"]) == ("0", "0", "1")
    assert int(failed["fence"]) > held.fence
    assert activations(client, store) == (2, 1)  # the signal's runs; the last word's comes to nothing
    assert client.zcard(store.keys.timers) == 0
    assert client.scard(store.keys.model("m", "verifying")) == 0
    assert client.hget(store.keys.model("m"), "open:production") is None
    assert last.signals[0].seq == 2
    assert "letter" not in fields(client, store, incident)
    step(store, last, "failed", "finish", accepting=False)
    assert nothing(store)


def test_a_commit_asked_again_after_a_crash_loop_is_fenced(client: Redis) -> None:
    """Its reply was lost; since then the incident has failed: the version of that is not its own."""
    store = WorkflowStore(client, crashes_max=0)
    admitted(store, 1)
    held = claim(store)
    step(store, held, token="t")
    expire(client, held)
    claim(store, "other")
    with pytest.raises(Fenced):
        step(store, held, token="t")


def test_a_last_word_that_kills_leaves_nothing(client: Redis) -> None:
    """It had ended; whoever hears its late signal dies: it stays ended, the signal is dropped, nothing is pending."""
    store = WorkflowStore(client, crashes_max=0)
    incident = admitted(store, 1)
    step(store, claim(store), "closed", "finish", accepting=False)
    store.wake(incident, "test")
    expire(client, claim(store))
    assert nothing(store, "other")
    assert client.hlen(store.keys.wf(incident, "signals")) == 0
    assert activations(client, store) == (0, 0)
    found = fields(client, store, incident)
    assert (found["state"], found["run"], found["crashes"]) == ("closed", "0", "0")


def test_what_was_weighed_ends_with_a_crash_loop(client: Redis) -> None:
    """Both events were dealt with: none of them opens a successor."""
    store = WorkflowStore(client, crashes_max=0)
    incident = admitted(store, 1)
    assert admitted(store, 2) == incident
    held = step(store, claim(store), weighed=2)
    expire(client, held)
    claim(store, "other")
    assert len(store.list()) == 1


# Leases


def test_each_step_and_each_heartbeat_prolongs_the_lease(client: Redis, store: WorkflowStore) -> None:
    """A slow worker that nobody replaced holds it again, and its activation is not idle and is its own."""
    admitted(store, 1)
    held = claim(store)
    for again in (lambda: store.heartbeat(held), lambda: step(store, held)):
        expire(client, held)
        stream, entry = store.keys.activations, held.entry
        client.execute_command(f"XCLAIM {stream}", GROUP, "other", 0, entry, "IDLE", 10**9, "JUSTID")
        again()
        assert store.get(held.incident).leased
        (pending,) = client.xpending_range(stream, GROUP, "-", "+", 10)
        assert pending["consumer"] == b"w"
        assert pending["time_since_delivered"] < LEASE_MS


def test_who_parked_has_nothing_to_hand_back(store: WorkflowStore) -> None:
    """Its fence is still the last one; what runs no more cannot be handed back, or it would be activated before its time."""
    admitted(store, 1)
    held = claim(store)
    step(store, held, "triaged", "park", due_s=1000)
    with pytest.raises(Fenced):
        store.hand_back(held)
    assert nothing(store)


def test_who_handed_back_has_no_heart(client: Redis, store: WorkflowStore) -> None:
    """A late heartbeat does not lease it to nobody; the entry that ran is settled."""
    admitted(store, 1)
    held = claim(store)
    store.hand_back(held)
    assert activations(client, store) == (1, 0)
    with pytest.raises(Fenced):
        store.heartbeat(held)


def test_handing_back_to_a_later_time_keeps_an_earlier_timer(client: Redis, store: WorkflowStore) -> None:
    """The timer of the last commit is due before: it goes on then."""
    incident = admitted(store, 1)
    held = claim(store)
    client.zadd(store.keys.timers, {f"{incident}|m": 5})
    store.hand_back(held, after_s=1000)
    assert client.zscore(store.keys.timers, f"{incident}|m") == 5
    assert activations(client, store) == (0, 0)


def test_handing_back_to_a_later_time_has_a_timer(client: Redis, store: WorkflowStore) -> None:
    """Nothing before that time, and then it goes on."""
    incident = admitted(store, 1)
    store.hand_back(claim(store), after_s=1000)
    assert nothing(store)
    assert (store.pump_timers(ahead_s=900), store.pump_timers(ahead_s=1100)) == (0, 1)
    assert claim(store).incident == incident


# Ends


def test_an_end_leaves_no_timer_and_no_signal_that_was_heard(client: Redis, store: WorkflowStore) -> None:
    """Also one that the step did not call handled: it was delivered, and this was its hearing."""
    incident = admitted(store, 1)
    store.wake(incident, "test")
    step(store, claim(store), "closed", "finish", accepting=False)
    assert client.zcard(store.keys.timers) == 0
    assert client.hlen(store.keys.wf(incident, "signals")) == 0
    assert nothing(store)


def test_an_end_gives_no_slot_away_that_is_not_its_own(client: Redis, store: WorkflowStore) -> None:
    """Writes were lost, and another incident has the slot."""
    admitted(store, 1)
    held = claim(store)
    client.hset(store.keys.model("m"), "active", "inc-other")
    step(store, held, "closed", "finish", accepting=False)
    assert client.hget(store.keys.model("m"), "active") == b"inc-other"


def test_signals_are_told_in_the_order_they_came(store: WorkflowStore) -> None:
    """However their tokens sort."""
    incident = admitted(store, 1)
    for number in range(20):
        store.wake(incident, "test", number)
    signals = claim(store).signals
    assert [signal.payload for signal in signals] == [*range(20)]
    assert [signal.seq for signal in signals] == [*range(1, 21)]


# Repeats


def test_lost_reply_of_everything(client: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each script's reply is lost once: asked again, it answers as it would have."""
    monkeypatch.setattr("tenacity.nap.time.sleep", lambda seconds: None)
    lost: set[str] = set()

    def lose(where: str) -> None:
        if where.startswith("after:") and where not in lost:
            lost.add(where)
            raise RedisConnectionError(where)

    store = WorkflowStore(client, fail_point=lose)
    incident = admitted(store, 1)
    held = claim(store)
    store.heartbeat(held)
    held = step(store, held)
    store.wake(incident, "test")
    store.hand_back(held)
    held = claim(store)
    assert held.version == 1
    assert [signal.why for signal in held.signals] == ["test"]
    assert {"after:admit", "after:acquire", "after:commit", "after:hand_back", "after:wake"} <= lost
