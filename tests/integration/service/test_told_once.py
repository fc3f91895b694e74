"""Every intent has one result, also where nothing came of it, and every settlement stands in the log once."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from fakes.workflow_world import Crash, World

from driftwarden.audit.record import Record
from driftwarden.audit.summary import summarise
from driftwarden.clock import rfc3339
from driftwarden.contracts.base import ActionName
from driftwarden.errors import AskHuman, GiveUp
from driftwarden.service.workflow.floor import AuditFloor, LogTail


def harmed(world: World) -> None:
    """A retraining was executed, and later labels say that it did harm."""
    world.send()
    world.run()
    world.script.gain, world.script.gain_win = -0.2, 0.01


def dying_once_at(point: str, begun: Callable[[], object] = lambda: True) -> Callable[[str], None]:
    """A process that dies there the first time that it is `begun`."""
    left = [1]

    def die(where: str) -> None:
        if where == point and left and begun():
            left.clear()
            raise Crash(where)

    return die


def each_has_one(world: World) -> list[dict[str, Any]]:
    """The bodies of the results, after it was seen that each intent has one."""
    results = world.records("result")
    assert Counter(one["causation"] for one in results) == Counter(one["@hash"] for one in world.records("intent"))
    return [one["body"] for one in results]


@pytest.mark.parametrize("dies", [False, True])
def test_an_undo_that_is_refused_has_a_result(world: World, dies: bool) -> None:
    """Intended, and then the champion is another one: the log says that nothing came of it, once, also after a crash."""
    harmed(world)

    def refuse(where: str) -> None:
        if where == "committed:executing" and len(world.records("intent")) == 2:
            world.plant.champions["m"] = 7
        die(where)

    die = dying_once_at("stepped:executing", lambda: dies and len(world.records("result")) == 2)
    world.clock.advance(seconds=301)
    world.store.pump_timers(ahead_s=301)
    if dies:
        with pytest.raises(Crash):
            world.run(world.worker(fail_point=refuse))
        world.plant.champions["m"] = 2  # it would be possible again by now: what was told is not taken back in silence
        world.restart()
    else:
        world.run(world.worker(fail_point=refuse))
    done, refused = each_has_one(world)
    assert (done["changed"], refused["changed"], refused["cancelled"], refused["undo"]) == (True, False, True, True)
    assert "the champion is another one by now" in refused["detail"]
    incident = world.only()
    assert (incident.state, incident.undone, incident.problem) == ("resolved", None, None)
    assert f"{incident.id}:harm" in world.silent.messages
    assert len(world.plant.moves) == 1
    assert world.parts.ledger.running() == []


@pytest.mark.parametrize("dies", [False, True])
@pytest.mark.parametrize("error", [GiveUp("it refuses to move the alias"), AskHuman("it may have happened")])
def test_an_undo_that_failed_has_a_result(world: World, error: Exception, dies: bool) -> None:
    """What happened of it is not known: the result says so, and the log counts it as an action that failed."""
    harmed(world)

    def fail(*args: Any) -> Any:
        raise error

    world.actions[ActionName.RETRAIN].undo = fail  # type: ignore[method-assign]
    world.clock.advance(seconds=301)
    world.store.pump_timers(ahead_s=301)
    if dies:
        with pytest.raises(Crash):
            world.run(
                world.worker(fail_point=dying_once_at("stepped:executing", lambda: len(world.records("result")) == 2))
            )
        world.restart()
    else:
        world.run()
    _, failed = each_has_one(world)
    assert (failed["changed"], failed["failed"], failed["undo"]) == (None, True, True)
    assert (world.only().state, "a person must look" in str(world.only().problem)) == ("failed", True)
    floor = AuditFloor(LogTail(world.settings.audit_dir))
    seen = floor.facts("another", model="m", now=rfc3339(world.clock.now()), caps=world.parts.caps())
    assert seen["last_action_failed"] is True


def test_an_effect_that_is_refused_or_whose_worker_died_has_a_result(world: World) -> None:
    """An intent that no commit knows is called off when it is intended anew; one that is refused has failed."""
    world.send()
    died = dying_once_at("stepped:executing", lambda: world.records("intent"))
    with pytest.raises(Crash):
        world.run(world.worker(fail_point=died))
    world.actions[ActionName.RETRAIN].refuse = "the champion is version 7"
    world.restart()
    called_off, refused = each_has_one(world)
    assert (called_off["cancelled"], "intended anew" in called_off["detail"]) == (True, True)
    assert (refused["failed"], refused["changed"]) == (True, None)
    assert (world.only().state, world.plant.moves) == ("failed", [])
    floor = AuditFloor(LogTail(world.settings.audit_dir))
    seen = floor.facts("another", model="m", now=rfc3339(world.clock.now()), caps=world.parts.caps())
    assert (seen["actions_in_window_model"], seen["recent_failures"]) == (1, 1)
    told = [summarise(Record.model_validate(one)) for one in world.records("result")]
    assert told[0].startswith("retrain was not done: ")
    assert told[1].startswith("retrain failed: ")


@pytest.mark.parametrize(
    ("gain", "where"),
    [
        (-0.2, "stepped:verifying"),
        (-0.2, "committed:executing"),
        (-0.2, "stepped:executing"),
        (0.2, "stepped:verifying"),
        (0.0, "stepped:verifying"),
    ],
)
def test_a_settlement_is_written_once(world: World, gain: float, where: str) -> None:
    """Whoever dies between the settlement and a commit that follows it: labels have spoken once."""
    world.send()
    world.run()
    world.script.gain, world.script.gain_win = gain, {-0.2: 0.01, 0.2: 0.99}.get(gain, 0.5)
    world.clock.advance(seconds=301)
    world.store.pump_timers(ahead_s=301)
    with pytest.raises(Crash):
        world.run(world.worker(fail_point=dying_once_at(where, lambda: world.records("settlement"))))
    world.restart()
    (settled,) = world.records("settlement")
    (effect,) = [one for one in world.records("result") if not one["body"]["undo"]]
    assert (settled["body"]["basis"], settled["body"]["result"]) == ("measured", effect["@hash"])
    assert settled["body"]["helped"] is world.only().helped is (gain > 0)
    each_has_one(world)


def test_what_later_rows_say_otherwise_is_another_settlement(world: World) -> None:
    """Judged, then a crash before the commit, and judged otherwise by rows that came since: the later word counts."""
    world.send()
    world.run()
    world.script.gain, world.script.gain_win = 0.2, 0.99
    world.clock.advance(seconds=301)
    world.store.pump_timers(ahead_s=301)
    with pytest.raises(Crash):
        world.run(world.worker(fail_point=dying_once_at("stepped:verifying")))
    world.script.gain, world.script.gain_win = -0.2, 0.01
    world.restart()
    assert [one["body"]["helped"] for one in world.records("settlement")] == [True, False]
    assert AuditFloor(LogTail(world.settings.audit_dir)).failures("m", "retrain") == 1
    assert world.only().state == "undone"
