"""Guards of the scripts that no story in the other tests needs, each by itself; the check of mutants names them."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from redis import Redis
from redis.exceptions import ConnectionError as RedisConnectionError

from driftwarden.contracts.event import parse_event
from driftwarden.errors import Fenced
from driftwarden.service.workflow.store import Claim, WorkflowStore
from driftwarden.stream.client import connect
from driftwarden.stream.embedded import EmbeddedRedis
from driftwarden.stream.publisher import build_event

LEASE_MS = 60_000
NOW = "2026-11-20T09:00:00.000000Z"
GROUP = "workers"


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a server for this module."""
    with EmbeddedRedis.acquire(tmp_path_factory.mktemp("guards-redis")) as embedded:
        connect(embedded.url).config_set("appendfsync", "no")  # the server itself is not killed here
        yield embedded.url


@pytest.fixture
def client(url: str) -> Iterator[Redis]:
    """A client of an empty server."""
    client = connect(url)
    client.flushall()
    yield client
    client.close()


@pytest.fixture
def store(client: Redis) -> WorkflowStore:
    """A store on it, with patience for a worker that dies often."""
    return WorkflowStore(client, crashes_max=100)


_entries = iter(range(1, 10**9))


def admit(store: WorkflowStore, number: int, model: str = "m", environment: str = "production") -> str:
    """Admit an event; the incident that it opened or joined."""
    data = {"model": model, "kind": "data_drift", "environment": environment}
    event = parse_event(json.dumps(build_event(data, source="guards", id=str(number), time=NOW)))
    return store.admit(f"1-{next(_entries)}", event, now=NOW).incident


def claim(store: WorkflowStore, consumer: str = "w") -> Claim:
    """Claim what must be there."""
    found = store.claim(consumer, block_ms=0, lease_ms=LEASE_MS)
    assert found is not None
    return found


def nothing(store: WorkflowStore, consumer: str = "w") -> bool:
    """True where no incident waits."""
    return store.claim(consumer, block_ms=0, lease_ms=LEASE_MS) is None


def step(store: WorkflowStore, held: Claim, disposition: Any = "go", state: str = "triaged", **more: Any) -> Claim:
    """Commit a step."""
    options = {"accepting": True, "doc": held.doc} | more
    return store.commit(held, state=state, disposition=disposition, **options)


def expire(client: Redis, store: WorkflowStore, held: Claim) -> None:
    """As if the lease's time had passed without a heartbeat."""
    keys = store.keys
    client.hset(keys.wf(held.incident), "lease", 0)
    arguments = (GROUP, held.consumer, 0, held.entry, "IDLE", 10**9, "JUSTID")
    client.execute_command(f"XCLAIM {keys.activations}", *arguments)


def fields(client: Redis, store: WorkflowStore, incident: str) -> dict[str, str]:
    """An incident's hash."""
    return {name.decode(): value.decode() for name, value in client.hgetall(store.keys.wf(incident)).items()}


def activations(client: Redis, store: WorkflowStore) -> tuple[int, int]:
    """How many entries there are, and how many of them are pending."""
    stream = store.keys.activations
    pending: Any = client.xpending(stream, GROUP)
    return int(client.xlen(stream)), int(pending["pending"])


# Taking up


def test_who_slept_with_a_settled_activation_takes_nothing(client: Redis, store: WorkflowStore) -> None:
    """Given one entry, asleep, woken after another worker had run and settled it: there is nothing to take."""
    admit(store, 1)
    held = claim(store, "slow")
    expire(client, store, held)

    def overtaken(where: str) -> None:
        if where == "before:acquire":
            expire(client, store, held)
            step(store, claim(store, "quick"), "park", due_s=1000)

    late = WorkflowStore(client, fail_point=overtaken)
    assert nothing(late, "slow")
    record = store.get(held.incident)
    assert (record.leased, activations(client, store)) == (False, (0, 0))
    assert store.pump_timers(ahead_s=2000) == 1


def test_an_incident_that_is_gone_leaves_queue_and_slot(client: Redis, store: WorkflowStore) -> None:
    """Somebody removed two incidents by hand, one with the slot and one in the queue: the third goes on."""
    gone = [admit(store, number, environment=place) for number, place in enumerate(("production", "staging"))]
    third = admit(store, 3, environment="test")
    step(store, claim(store), "park", due_s=1)
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
    admit(store, 1)
    waits = admit(store, 2, environment="staging")
    held = claim(store)
    assert nothing(store, "other")
    assert activations(client, store) == (1, 1)
    queue = store.keys.model("m", "queue")
    client.zadd(queue, {waits: 5})
    store.wake(waits, "test")
    assert nothing(store, "other")
    assert client.zscore(queue, waits) == 5
    step(store, held, "release")
    assert claim(store).incident == waits


def test_woken_while_leased_goes_on_at_once(client: Redis, store: WorkflowStore) -> None:
    """What came while it was leased does not wait for the timer of the park."""
    incident = admit(store, 1)
    held = claim(store)
    store.wake(incident, "test")
    assert nothing(store, "other")
    assert activations(client, store) == (1, 1)
    step(store, held, "park", due_s=10_000)
    assert claim(store).incident == incident


def test_a_fence_outgrows_writes_that_were_lost(client: Redis, store: WorkflowStore) -> None:
    """The server came back as it was before the last claim: the fence of the claim that it forgot is not given again."""
    incident = admit(store, 1)
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
    incident = admit(store, 1)
    step(store, claim(store), "release", state="verifying", due_s=1)
    store.pump_timers(ahead_s=2)
    held = claim(store)
    client.zadd(store.keys.timers, {f"{incident}|m": 10**15})  # handed back to a later time
    store.wake(incident, "test")
    expire(client, store, held)
    last = claim(store, "other")
    assert [signal.why for signal in last.signals] == ["crash-loop"]
    failed = next(one for one in seen if one["state"] == "failed")
    assert (failed["joinable"], failed["crashes"], failed["done"]) == ("0", "0", "1")
    assert int(failed["fence"]) > held.fence
    assert activations(client, store) == (2, 1)  # the signal's runs; the last word's comes to nothing
    assert client.zcard(store.keys.timers) == 0
    assert client.scard(store.keys.model("m", "verifying")) == 0
    assert client.hget(store.keys.model("m"), "open:production") is None


def test_a_commit_asked_again_after_a_crash_loop_is_fenced(client: Redis) -> None:
    """Its reply was lost; since then the incident has failed: the version of that is not its own."""
    store = WorkflowStore(client, crashes_max=0)
    admit(store, 1)
    held = claim(store)
    step(store, held, token="t")
    expire(client, store, held)
    claim(store, "other")
    with pytest.raises(Fenced):
        step(store, held, token="t")


def test_a_last_word_that_kills_leaves_nothing(client: Redis) -> None:
    """It had ended; whoever hears its late signal dies: it stays ended, the signal is dropped, nothing is pending."""
    store = WorkflowStore(client, crashes_max=0)
    incident = admit(store, 1)
    step(store, claim(store), "finish", state="closed", accepting=False)
    store.wake(incident, "test")
    expire(client, store, claim(store))
    assert nothing(store, "other")
    assert client.hlen(store.keys.wf(incident, "signals")) == 0
    assert activations(client, store) == (0, 0)
    assert store.get(incident).state == "closed"


def test_what_was_weighed_ends_with_a_crash_loop(client: Redis) -> None:
    """Both events were dealt with: none of them opens a successor."""
    store = WorkflowStore(client, crashes_max=0)
    incident = admit(store, 1)
    assert admit(store, 2) == incident
    held = step(store, claim(store), weighed=2)
    expire(client, store, held)
    claim(store, "other")
    assert len(store.list()) == 1


# Leases


def test_each_step_and_each_heartbeat_prolongs_the_lease(client: Redis, store: WorkflowStore) -> None:
    """A slow worker that nobody replaced holds it again, and its activation is not idle and is its own."""
    admit(store, 1)
    held = claim(store)
    for again in (lambda: store.heartbeat(held), lambda: step(store, held)):
        expire(client, store, held)
        stream, entry = store.keys.activations, held.entry
        client.execute_command(f"XCLAIM {stream}", GROUP, "other", 0, entry, "IDLE", 10**9, "JUSTID")
        again()
        assert store.get(held.incident).leased
        (pending,) = client.xpending_range(stream, GROUP, "-", "+", 10)
        assert pending["consumer"] == b"w"
        assert pending["time_since_delivered"] < LEASE_MS


def test_who_parked_has_nothing_to_hand_back(store: WorkflowStore) -> None:
    """Its fence is still the last one; what runs no more cannot be handed back, or it would be activated before its time."""
    admit(store, 1)
    held = claim(store)
    step(store, held, "park", due_s=1000)
    with pytest.raises(Fenced):
        store.hand_back(held)
    assert nothing(store)


def test_who_handed_back_has_no_heart(client: Redis, store: WorkflowStore) -> None:
    """A late heartbeat does not lease it to nobody; the entry that ran is settled."""
    admit(store, 1)
    held = claim(store)
    store.hand_back(held)
    assert activations(client, store) == (1, 0)
    with pytest.raises(Fenced):
        store.heartbeat(held)


def test_handing_back_to_a_later_time_keeps_an_earlier_timer(client: Redis, store: WorkflowStore) -> None:
    """The timer of the last commit is due before: it goes on then."""
    incident = admit(store, 1)
    held = claim(store)
    client.zadd(store.keys.timers, {f"{incident}|m": 5})
    store.hand_back(held, after_s=1000)
    assert client.zscore(store.keys.timers, f"{incident}|m") == 5
    assert activations(client, store) == (0, 0)


# Ends


def test_an_end_leaves_no_timer_and_no_signal_that_was_heard(client: Redis, store: WorkflowStore) -> None:
    """Also one that the step did not call handled: it was delivered, and this was its hearing."""
    incident = admit(store, 1)
    store.wake(incident, "test")
    step(store, claim(store), "finish", state="closed", accepting=False)
    assert client.zcard(store.keys.timers) == 0
    assert client.hlen(store.keys.wf(incident, "signals")) == 0
    assert nothing(store)


def test_an_end_gives_no_slot_away_that_is_not_its_own(client: Redis, store: WorkflowStore) -> None:
    """Writes were lost, and another incident has the slot."""
    admit(store, 1)
    held = claim(store)
    client.hset(store.keys.model("m"), "active", "inc-other")
    step(store, held, "finish", state="closed", accepting=False)
    assert client.hget(store.keys.model("m"), "active") == b"inc-other"


def test_signals_are_told_in_the_order_they_came(store: WorkflowStore) -> None:
    """However their tokens sort."""
    incident = admit(store, 1)
    for number in range(20):
        store.wake(incident, "test", number)
    signals = claim(store).signals
    assert [signal.payload for signal in signals] == [*range(20)]
    assert [signal.seq for signal in signals] == [*range(1, 21)]


# Joining


def test_who_accepts_again_is_joined_again(store: WorkflowStore) -> None:
    """An incident that accepted no more and does again is the one that later events join."""
    incident = admit(store, 1)
    held = step(store, claim(store), accepting=False)
    step(store, held, accepting=True)
    assert admit(store, 2) == incident


def test_who_accepts_again_leaves_the_open_one_alone(store: WorkflowStore) -> None:
    """Meanwhile another incident of the model was opened: that one is joined."""
    first = admit(store, 1)
    held = step(store, claim(store), accepting=False)
    second = admit(store, 2)
    assert second != first
    step(store, held, accepting=True)
    assert admit(store, 3) == second


def test_lost_reply_of_everything(client: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each script's reply is lost once: asked again, it answers as it would have."""
    monkeypatch.setattr("tenacity.nap.time.sleep", lambda seconds: None)
    lost: set[str] = set()

    def lose(where: str) -> None:
        if where.startswith("after:") and where not in lost:
            lost.add(where)
            raise RedisConnectionError(where)

    store = WorkflowStore(client, fail_point=lose)
    incident = admit(store, 1)
    held = claim(store)
    store.heartbeat(held)
    held = step(store, held)
    store.wake(incident, "test")
    store.hand_back(held)
    held = claim(store)
    assert held.version == 1
    assert [signal.why for signal in held.signals] == ["test"]
    assert {"after:admit", "after:acquire", "after:commit", "after:hand_back", "after:wake"} <= lost
