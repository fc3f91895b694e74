"""Guards of the scripts that no story in the other tests needs, each by itself; the check of mutants names them."""

import json
from decimal import Decimal
from typing import Any

import pytest
from redis import Redis
from redis.exceptions import ConnectionError as RedisConnectionError

from driftwarden.contracts.event import DriftEvent, parse_event
from driftwarden.errors import BadInput, Fenced
from driftwarden.sealing import Seal
from driftwarden.service.workflow.backpressure import backpressure
from driftwarden.service.workflow.ledger import Caps, Ledger
from driftwarden.service.workflow.store import Claim, WorkflowStore
from driftwarden.service.workflow.store_types import identity_of
from driftwarden.stream.group import Group
from driftwarden.stream.intake import Delivery, Intake
from driftwarden.stream.publisher import build_event
from driftwarden.stream.scripts import Scripts

LEASE_MS = 60_000
NOW = "2026-11-20T09:00:00.000000Z"
GROUP = "workers"


@pytest.fixture
def store(client: Redis) -> WorkflowStore:
    """A store on it, with patience for a worker that dies often."""
    return WorkflowStore(client, crashes_max=100)


_entries = iter(range(1, 10**9))


def drift(number: int, model: str = "m", environment: str = "production") -> DriftEvent:
    """A drift event."""
    data = {"model": model, "kind": "data_drift", "environment": environment}
    return parse_event(json.dumps(build_event(data, source="guards", id=str(number), time=NOW)))


def admit(store: WorkflowStore, number: int, model: str = "m", environment: str = "production") -> str:
    """Admit an event; the incident that it opened or joined."""
    return store.admit(f"1-{next(_entries)}", drift(number, model, environment), now=NOW).incident


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


def test_queues_are_known_by_their_models(client: Any, store: WorkflowStore) -> None:
    """So that what waits is counted without a search through all keys; the last to leave takes the model with it."""
    waiting = lambda: backpressure(client, "driftwarden:")["queued"]  # noqa: E731
    for number, place in enumerate(("production", "staging", "test")):
        admit(store, number, environment=place)
    admit(store, 9, "other")
    held = claim(store, "a")
    assert claim(store, "b").model == "other"
    assert (waiting(), client.smembers(store.keys.queues)) == (2, {b"m"})
    step(store, held, "release")
    assert (waiting(), client.smembers(store.keys.queues)) == (1, {b"m"})
    step(store, claim(store, "c"), "finish", accepting=False)
    assert (waiting(), client.smembers(store.keys.queues)) == (0, set())


def test_a_slot_that_is_handed_over_without_a_commit_takes_its_queue_with_it(client: Any, store: WorkflowStore) -> None:
    """Who held it was removed by hand, and the only one in the queue has it now."""
    gone = admit(store, 1)
    admit(store, 2, environment="staging")
    step(store, claim(store), "park", due_s=1)
    assert nothing(store)
    assert client.smembers(store.keys.queues) == {b"m"}
    client.delete(store.keys.wf(gone))
    store.pump_timers(ahead_s=2)
    assert claim(store).environment == "staging"
    assert client.smembers(store.keys.queues) == set()


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
    assert last.signals[0].seq == 2
    assert "letter" not in fields(client, store, incident)
    step(store, last, "finish", state="failed", accepting=False)
    assert nothing(store)


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
    found = fields(client, store, incident)
    assert (found["state"], found["run"], found["crashes"]) == ("closed", "0", "0")


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


def test_handing_back_to_a_later_time_has_a_timer(client: Redis, store: WorkflowStore) -> None:
    """Nothing before that time, and then it goes on."""
    incident = admit(store, 1)
    store.hand_back(claim(store), after_s=1000)
    assert nothing(store)
    assert (store.pump_timers(ahead_s=900), store.pump_timers(ahead_s=1100)) == (0, 1)
    assert claim(store).incident == incident


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


def test_what_has_ended_is_not_joined(client: Redis, store: WorkflowStore) -> None:
    """Writes were lost, and the model still names it: its next event opens another."""
    first = admit(store, 1)
    step(store, claim(store), "finish", state="closed", accepting=False)
    client.hset(store.keys.model("m"), "open:production", first)
    assert admit(store, 2) != first


def test_a_later_event_of_a_model_does_not_overtake(client: Redis, store: WorkflowStore) -> None:
    """The first of two must ask again, because its group has an incident by now; the second waits for it."""
    first = admit(store, 1)
    assert WorkflowStore(client).admit("9-1", drift(7, model="other"), now=NOW, groups=["g"]).kind == "opened"
    batch = [Delivery(f"8-{number}", drift(number)) for number in (2, 3)]
    told = store.admit_many(batch, now=NOW, groups=lambda event: ["g"] if event.id == "2" else [])
    assert [one.incident for one in told] == [first, first]
    assert [json.loads(raw)["id"] for raw in store.get(first).events] == ["1", "2", "3"]


def test_a_successor_whose_id_is_taken_has_a_longer_one(client: Redis, store: WorkflowStore) -> None:
    """Two events whose identities begin alike: nothing of the one that has the id is overwritten."""
    first = admit(store, 1)
    held = claim(store)
    assert admit(store, 2) == first
    identity = identity_of("guards", "2")
    client.hset(store.keys.wf(f"inc-{identity[:12]}"), "identity", "another")
    after = step(store, held, "finish", state="closed", accepting=False, weighed=1)
    assert after.successor == f"inc-{identity[:16]}"
    assert client.hgetall(store.keys.wf(f"inc-{identity[:12]}")) == {b"identity": b"another"}
    assert fields(client, store, str(after.successor))["identity"] == identity
    assert store.find(identity[:16]) == after.successor


def test_reports_are_not_kept_for_ever(store: WorkflowStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """The newest stay."""
    monkeypatch.setattr("driftwarden.service.workflow.store.REPORTS_PER_MODEL_MAX", 2)
    for number in range(3):
        data = {"model": "m", "environment": "production", "window": {}, "performance": {"current": 0.9}}
        kind = "io.driftwarden.performance.v1"
        event = parse_event(json.dumps(build_event(data, source="guards", id=f"p{number}", type=kind, time=NOW)))
        store.record_performance(f"7-{number}", event)
    assert [json.loads(raw)["id"] for raw in store.performance_reports("m")] == ["p1", "p2"]


# Trimming


def test_consumers_that_hold_nothing_and_are_gone_are_forgotten(
    client: Redis, store: WorkflowStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that holds an entry never is, or the entry would be pending with nobody; one that lives is not."""
    admit(store, 1)
    held = claim(store, "holds")
    assert nothing(store, "idle")
    stream = store.keys.activations

    def names() -> set[bytes]:
        return {one["name"] for one in client.xinfo_consumers(stream, GROUP)}

    store.trim()
    assert names() == {b"holds", b"idle"}
    monkeypatch.setattr("driftwarden.service.workflow.store._CONSUMER_IDLE_MS", -1)
    store.trim()
    assert names() == {b"holds"}
    assert [one["message_id"].decode() for one in client.xpending_range(stream, GROUP, "-", "+", 10)] == [held.entry]


def test_what_nobody_reads_yet_is_not_trimmed(client: Redis, store: WorkflowStore) -> None:
    """No group, or one that was given nothing: every entry stays."""
    for _ in range(3):
        client.xadd(store.keys.intake, {"event": "{}"})
    assert store.trim() == 0
    client.xgroup_create(store.keys.intake, GROUP, id="0")
    assert store.trim() == 0
    assert client.xlen(store.keys.intake) == 3


def test_what_is_settled_and_still_there_is_trimmed(client: Redis, store: WorkflowStore) -> None:
    """Acknowledged, and not deleted: up to the first that is pending, such entries go."""
    stream = store.keys.intake
    ids = [client.xadd(stream, {"event": "{}"}) for _ in range(3)]
    client.xgroup_create(stream, GROUP, id="0")
    client.xreadgroup(GROUP, "w", {stream: ">"})
    client.xack(stream, GROUP, ids[0], ids[2])
    assert store.trim() == 1
    assert [entry for entry, _ in client.xrange(stream)] == ids[1:]


def test_a_stream_that_is_not_there_is_not_made(client: Redis, store: WorkflowStore) -> None:
    """An empty server stays empty."""
    assert store.trim() == 0
    assert client.dbsize() == 0


# The intake


def test_a_group_that_vanishes_in_the_middle_of_a_takeover_loses_nothing(
    client: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What could not be taken over is not taken for deleted: the new group hands it out again."""
    stream = "driftwarden:events"
    client.xadd(stream, {"event": drift(1).raw})
    assert len(Intake(client, "dead").read(1)) == 1
    group = Group(client, stream, GROUP)
    really = group._again

    def again(command: str, *args: Any) -> Any:
        if command == "XCLAIM":
            client.xgroup_destroy(stream, GROUP)
        return really(command, *args)

    monkeypatch.setattr(group, "_again", again)
    assert [*group.stale("w", idle_ms=0)] == []
    assert [one.event.id for one in Intake(client, "w").read(1)] == ["1"]


# Shards


def test_who_has_another_number_of_shards_pins_no_model(client: Redis) -> None:
    """Two processes start at once with different settings: the one that comes second writes nothing."""
    WorkflowStore(client, shards=2).shards.pin()
    late = WorkflowStore(client, shards=4)
    late.shards._pinned = True  # it had looked before
    with pytest.raises(BadInput):
        late.shards.of_model("m")
    assert client.hgetall(late.shards.shared.shards) == {b"#": b"2"}


# The ledger


def reserve(
    ledger: Ledger, incident: str, *, model: str = "m", cost: int = 5, now: str = NOW, **more: Any
) -> str | None:
    """Reserve an action; the cap that it would break."""
    about = {"model": model, "action": "retrain", "cost_usd": Decimal(cost), "now": now, "caps": Caps()}
    return ledger.reserve(incident, **(about | more))


@pytest.fixture
def ledger(client: Redis) -> Ledger:
    """An empty ledger."""
    return Ledger(client, "driftwarden:", Seal(b"k" * 32))


def test_ledger_a_reservation_that_runs_stays(ledger: Ledger) -> None:
    """Asked for again, it is the one that is there."""
    assert reserve(ledger, "inc-1", cost=5) is None
    assert reserve(ledger, "inc-1", cost=9) is None
    assert ledger.entries()["inc-1"]["cost"] == 5_000_000


def test_ledger_what_an_incident_did_before_does_not_count(ledger: Ledger) -> None:
    """A cap that its own earlier effects would break; another incident's effects do count."""
    caps = Caps(per_model_day=Decimal(9))
    for _ in range(3):
        assert reserve(ledger, "inc-1", caps=caps) is None
        ledger.settle("inc-1")
    assert reserve(ledger, "inc-2", caps=caps) == "cost-per-model-per-day"


def test_ledger_every_effect_of_an_incident_is_kept(ledger: Ledger) -> None:
    """Under names of their own."""
    for _ in range(3):
        reserve(ledger, "inc-1")
        ledger.settle("inc-1")
    assert set(ledger.entries()) == {"inc-1", "inc-1#1", "inc-1#2"}


@pytest.mark.parametrize("name", ["inc-1", "inc-2"])
def test_ledger_what_cannot_be_read_stops(client: Redis, ledger: Ledger, name: str) -> None:
    """Nobody knows what stood there."""
    client.hset("driftwarden:ledger", name, "0" * 64 + " nonsense")
    assert reserve(ledger, "inc-1") == "unreadable"
    assert client.hlen("driftwarden:ledger") == 1


CONCURRENCY = (Caps(concurrency_model=1), Caps(concurrency_global=1))
RATES = (Caps(rate_model=(1, 3_600_000)), Caps(rate_global=(1, 3_600_000)))
DAYS = (Caps(per_model_day=Decimal(9)), Caps(per_day=Decimal(9)))


def test_ledger_what_is_over_counts_no_more(ledger: Ledger) -> None:
    """Settled: it runs no more. Released: it had no effect at all."""
    reserve(ledger, "inc-1")
    ledger.settle("inc-1")
    for number, caps in enumerate(CONCURRENCY, 20):
        assert reserve(ledger, f"inc-{number}", caps=caps) is None
        ledger.release(f"inc-{number}")
    ledger.release("inc-1")
    for number, caps in enumerate((*RATES, *DAYS), 3):
        assert reserve(ledger, f"inc-{number}", caps=caps) is None
        ledger.release(f"inc-{number}")


def test_ledger_what_is_long_ago_counts_no_more(ledger: Ledger) -> None:
    """The day before, and outside the window of a rate."""
    reserve(ledger, "inc-1", now="2026-11-19T09:00:00Z")
    ledger.settle("inc-1")
    for number, caps in enumerate((*RATES, *DAYS), 2):
        assert reserve(ledger, f"inc-{number}", caps=caps) is None
        ledger.release(f"inc-{number}")


@pytest.mark.parametrize("caps", [CONCURRENCY[0], RATES[0], DAYS[0]])
def test_ledger_every_model_that_it_concerns(ledger: Ledger, caps: Caps) -> None:
    """An action on several models counts for each of them."""
    assert reserve(ledger, "inc-1", model="a", models=("a", "b")) is None
    assert reserve(ledger, "inc-2", model="b", caps=caps) is not None
    assert reserve(ledger, "inc-3", model="c", caps=caps) is None


def test_ledger_actions_of_one_model_wait_for_each_other(ledger: Ledger) -> None:
    """Where the policy sets no cap, and whoever holds the model's slot."""
    assert reserve(ledger, "inc-1", model="a") is None
    assert reserve(ledger, "inc-2", model="a") == "concurrency-per-model"
    assert reserve(ledger, "inc-3", model="b") is None


def test_ledger_an_action_on_several_models_waits_for_each(ledger: Ledger) -> None:
    """It has the slot of its lead alone: no cap is set, and still it runs beside no action on any of its models."""
    assert reserve(ledger, "inc-1", model="a", models=("a", "b")) is None
    assert reserve(ledger, "inc-2", model="b") == "concurrency-per-model"
    assert reserve(ledger, "inc-3", model="c", models=("c", "b")) == "concurrency-per-model"
    assert reserve(ledger, "inc-4", model="c") is None


def test_a_policy_from_the_future_is_nobodys(client: Redis) -> None:
    """A word that is dated later than any clock could be: told without what it says, and removed."""
    seconds, _ = client.time()
    client.hset("driftwarden:policies", "forged", f"{(seconds + 9_000) * 1000} agreed")
    scripts = Scripts(client, "driftwarden.service.workflow")
    assert scripts.run("policy_agreement", ["driftwarden:policies"], ["", "", 15_000, 0]) == [b"forged", b""]
    told = scripts.run("policy_agreement", ["driftwarden:policies"], ["me", "agreed", 15_000, 0])
    assert dict(zip(told[::2], told[1::2], strict=True)) == {b"forged": b"", b"me": b"agreed"}
    assert client.hkeys("driftwarden:policies") == [b"me"]


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
