"""An incident that Redis lost holds no budget, rate or place for good, and what its effect may have done is not forgotten."""

from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest
from crash.history import judge, read_history
from crash.sink import Sink
from fakes.workflow_world import PREFIX, Crash, World

from driftwarden.clock import rfc3339
from driftwarden.service.workflow.lost import OTHERS_FIRST, LostReservations
from driftwarden.service.workflow.process import ServiceProcess
from driftwarden.stream.intake import Intake


def lose(world: World) -> str:
    """Its keys are deleted, on whatever shard it lived; returns its id."""
    incident = world.only().id
    keys = world.store.shards.of_incident(incident)
    world.client.delete(keys.wf(incident), *(keys.wf(incident, part) for part in ("events", "keys", "signals")))
    for index in (keys.index, keys.ids, keys.model("m", "incidents")):
        world.client.zrem(index, incident)
    assert world.incidents() == []
    return incident


def sweep(world: World) -> list[str]:
    """What the service settles once its patience is over."""
    return LostReservations(world.parts, world.store, patience_s=0.0).turn()


def dying(point: str) -> Callable[[str], None]:
    """The process dies there."""

    def die(where: str) -> None:
        if where == point:
            raise Crash(where)

    return die


def cut_short(world: World, point: str) -> str:
    """It dies there, and Redis loses the incident."""
    world.plant.die_at = die = dying(point)
    world.send()
    with pytest.raises(Crash):
        world.run(world.worker(fail_point=die))
    world.plant.die_at = lambda where: None
    incident = lose(world)
    assert world.parts.ledger.running() == [incident]
    return incident


def counted(world: World) -> tuple[str, int, int, int | None]:
    """What a decision about the model counts: spent, actions, running, failures."""
    now = rfc3339(world.clock.now())
    found = world.parts.ledger.facts("inc-other", model="m", now=now, caps=world.parts.caps())
    return (
        found["spent_usd_today"],
        found["actions_in_window_model"],
        found["running_model"],
        found["recent_failures"],
    )


def next_one(world: World) -> str:
    """The state that the next drift of the model comes to, the policy's pauses being over."""
    world.clock.advance(hours=30)
    world.free_leases()
    world.send()
    world.run()
    return str(world.incidents()[-1].state.value)


def test_what_was_only_reserved_is_released(world: World) -> None:
    """It died before anything was intended: nothing can have happened, and nothing counts any more."""
    incident = cut_short(world, "committed:executing")
    assert sweep(world) == [incident]
    assert counted(world) == ("0", 0, 0, 0)
    (close,) = world.records("close")
    assert (close["incident"], close["body"]["state"], close["actor"]["kind"]) == (incident, "failed", "timer")
    assert "before anything was intended" in close["body"]["problem"]
    assert world.records("result") == []
    assert world.silent.messages == {}
    assert sweep(world) == []
    assert next_one(world) == "verifying"


@pytest.mark.parametrize("point", ["committed:executing#2", "effect:begin", "effect:moved"])
def test_what_was_intended_is_not_released_silently(world: World, point: str) -> None:
    """Whether its effect happened nobody says: it counts as a failure with all that it was to cost, and people are told."""
    if point.endswith("#2"):
        seen: list[str] = []

        def second(where: str) -> None:
            seen.append(where)
            if seen.count("committed:executing") == 2:
                raise Crash(where)

        world.send()
        with pytest.raises(Crash):
            world.run(world.worker(fail_point=second))
        incident = lose(world)
    else:
        incident = cut_short(world, point)
    assert sweep(world) == [incident]
    assert counted(world) == ("5", 1, 0, 1)
    (result,) = world.records("result")
    (intent,) = world.records("intent")
    assert (result["causation"], result["correlation_id"]) == (intent["@hash"], intent["correlation_id"])
    assert (result["body"]["changed"], result["body"]["failed"], result["body"]["action"]) == (None, True, "retrain")
    assert "not known" in world.silent.messages[f"{incident}:lost"]
    assert f"driftwarden audit show {incident}" in world.silent.messages[f"{incident}:lost"]
    assert sweep(world) == []
    history = read_history(world.client, (), audit=world.settings.audit_dir, sink=Sink())
    assert [fault for fault in judge(history, waiting=frozenset()) if "running" in fault or "stands" in fault] == []


def test_what_was_told_as_done_is_settled_as_that(world: World) -> None:
    """Its result is on record, and the ledger had not heard of it: it is a change of the model, at its own price."""

    def die(*args: Any, **more: Any) -> None:
        raise Crash("settling")

    settle = world.parts.ledger.settle
    world.parts.ledger.settle = die  # type: ignore[method-assign]
    world.send()
    with pytest.raises(Crash):
        world.run()
    world.parts.ledger.settle = settle  # type: ignore[method-assign]
    incident = lose(world)
    assert sweep(world) == [incident]
    assert counted(world) == ("5", 1, 0, 0)
    (entry,) = world.parts.ledger.entries().values()
    assert (entry["state"], entry["failed"], entry["changed"]) == ("done", False, entry["at"])
    assert len(world.records("result")) == 1
    assert "nobody verifies" in world.silent.messages[f"{incident}:lost"]


@pytest.mark.parametrize("whose", ["another host", "an earlier version"])
def test_what_this_log_does_not_know_is_left_to_others_first(world: World, whose: str) -> None:
    """It was begun, or an earlier version does not say: another host's log may know more, and if none does, it has failed."""
    ledger, now = world.parts.ledger, rfc3339(world.clock.now())
    one: dict[str, Any] = {"model": "m", "action": "retrain", "cost_usd": Decimal(5), "now": now}
    assert ledger.reserve("inc-lost", caps=world.parts.caps(), **one) is None
    if whose == "another host":
        ledger.begin("inc-lost")
    else:
        entry = ledger.entries()["inc-lost"]
        del entry["begun"]
        world.client.hset(f"{PREFIX}ledger", "inc-lost", ledger._sealed("inc-lost", entry))
    lost = LostReservations(world.parts, world.store, patience_s=3600.0)
    assert lost.turn() == []
    lost._since["inc-lost"] -= 2 * 3600.0
    assert lost.turn() == []
    lost._since["inc-lost"] -= (OTHERS_FIRST - 1) * 3600.0
    assert lost.turn() == ["inc-lost"]
    assert counted(world) == ("5", 1, 0, 1)
    assert "inc-lost:lost" in world.silent.messages
    assert [one["body"]["state"] for one in world.records("close")] == ["failed"]


@pytest.mark.parametrize("shards", [1, 4])
def test_what_is_there_or_was_gone_for_a_moment_is_left_alone(new_world: Callable[..., World], shards: int) -> None:
    """An incident is looked for on its own shard, and must be missing at every look for as long as an effect can take."""
    world = new_world(shards=shards)
    world.plant.die_at = dying("effect:begin")
    world.send()
    with pytest.raises(Crash):
        world.run()
    world.plant.die_at = lambda where: None
    incident = world.only().id
    lost, patient = (LostReservations(world.parts, world.store, patience_s=one) for one in (0.0, 3600.0))
    assert lost.turn() == []
    key = world.store.shards.of_incident(incident).wf(incident)
    world.client.rename(key, "away")
    assert patient.turn() == []
    patient._since[incident] -= 3599.0
    world.client.rename("away", key)
    assert patient.turn() == []
    world.client.rename(key, "away")
    assert patient.turn() == [], "it was there in between"
    world.client.rename("away", key)
    world.restart()
    assert (world.only().state, len(world.plant.moves)) == ("verifying", 1)
    assert (world.records("close"), world.silent.messages) == ([], {})
    world.plant.die_at = dying("effect:begin")
    world.clock.advance(hours=30)
    world.send()
    with pytest.raises(Crash):
        world.run()
    late = world.incidents()[-1].id
    world.client.delete(world.store.shards.of_incident(late).wf(late))
    assert lost.turn() == [late]


def test_a_service_looks_for_them_by_itself(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The thread of the timers does, with the patience of the settings."""
    incident = cut_short(world, "effect:moved")
    process = ServiceProcess(world.parts, world.store, Intake(world.client, "i0", prefix=PREFIX), name="p", workers=0)
    looked: list[float] = []
    turn = LostReservations.turn

    def then_stop(self: LostReservations) -> list[str]:
        looked.append(self._patience_s)
        self._patience_s = 0.0
        process.request_stop()
        return turn(self)

    for name, value in {"TIMER_EVERY_S": 0.001, "TRIM_EVERY_TICKS": 1}.items():
        monkeypatch.setattr(f"driftwarden.service.workflow.process.{name}", value)
    monkeypatch.setattr(LostReservations, "turn", then_stop)
    process._tick()
    longest_s = world.settings.service.step_deadlines.executing.total_seconds()
    assert longest_s < looked[0]
    assert (world.parts.ledger.running(), f"{incident}:lost" in world.silent.messages) == ([], True)


def test_a_worker_that_goes_on_with_what_was_released_is_stopped(world: World) -> None:
    """The sweep came between its reservation and its intent: nothing is intended that no cap counts."""
    ledger, begin = world.parts.ledger, world.parts.ledger.begin
    swept: list[bool] = []

    def late(incident: str) -> None:
        if not swept:
            swept.append(ledger.release_unbegun(incident))
        begin(incident)

    ledger.begin = late  # type: ignore[method-assign]
    world.send()
    world.run()
    assert (swept, world.only().tries, world.records("intent"), world.plant.done) == ([True], 1, [], {})
    world.later(seconds=5)
    assert (world.only().state, len(world.plant.moves)) == ("verifying", 1)
    (entry,) = ledger.entries().values()
    assert (entry["state"], entry["begun"]) == ("done", True)
    assert not ledger.release_unbegun(world.only().id)
