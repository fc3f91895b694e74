"""What was done of an effect is told before it is given up: who must be asked for that, and is away, is waited for."""

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from fakes.workflow_world import Crash, World

from driftwarden.contracts.base import ActionName
from driftwarden.errors import AskHuman, Away, GiveUp


class Outage:
    """The action asks a registry that may be `down`."""

    def __init__(self, world: World) -> None:
        action: Any = world.actions[ActionName.RETRAIN]
        self.down, self.asked, self._lookup = False, 0, action.lookup
        action.lookup = self.lookup

    def lookup(self, request: Any) -> Any:
        """As the action does, where the registry answers."""
        self.asked += 1
        if self.down:
            raise Away("the model registry", "it is away: connection refused")
        return self._lookup(request)


@pytest.fixture
def outage(world: World) -> Outage:
    """Of this world's registry."""
    return Outage(world)


def die(where: str) -> None:
    """Whatever it is about to do."""
    raise Crash(where)


def loop(world: World, outage: Outage) -> None:
    """The champion is moved, whoever takes over dies, and the registry goes away before the last word is heard."""
    world.plant.die_at = lambda where: die(where) if where == "effect:moved" else None
    world.send()
    with pytest.raises(Crash):
        world.run()
    world.plant.die_at, claim = die, world.store.claim

    def heard(*args: Any, **more: Any) -> Any:
        found = claim(*args, **more)
        outage.down = outage.down or (found is not None and found.state == "failed")
        return found

    world.store.claim = heard  # type: ignore[method-assign]
    while world.store.list()[0].state != "failed":
        with suppress(Crash):
            world.restart()
    world.plant.die_at, world.store.claim = lambda where: None, claim  # type: ignore[method-assign]


def later(world: World, times: int, **span: float) -> None:
    """It is looked at again and again."""
    for _ in range(times):
        world.later(**span)


def waits(world: World) -> list[str]:
    """What its timeline says that it waits for."""
    return [line["summary"] for line in world.only().timeline if line["summary"].startswith("waits: ")]


def is_told(world: World, how: str) -> None:
    """The champion was moved once, and every book says so."""
    incident = world.only()
    assert (incident.state, incident.waits_since) == ("failed", None)
    assert how in str(incident.problem)
    assert incident.result is not None
    assert (incident.result.after, len(world.plant.moves)) == (2, 1)
    (result,) = world.records("result")
    assert (result["body"]["changed"], result["body"]["after"]) == (True, 2)
    (entry,) = world.parts.ledger.entries().values()
    assert (entry["state"], entry["failed"]) == ("done", True)
    assert [one["body"]["state"] for one in world.records("close")] == ["failed"]


def test_the_last_word_of_a_crash_loop_waits_for_the_registry(world: World, outage: Outage) -> None:
    """Nobody can tell what was done: nothing is told, and nothing freed, until the registry is back."""
    loop(world, outage)
    later(world, 12, minutes=10)
    assert (world.only().state, world.store.list()[0].ended) == ("failed", False)
    assert (world.records("result"), world.records("close")) == ([], [])
    assert world.parts.ledger.running() == [world.only().id]
    assert len(waits(world)) == 1
    assert "the model registry: it is away" in waits(world)[0]
    assert 12 <= outage.asked < 30, "once a look, and it is looked at seldom"
    outage.down = False
    later(world, 1, minutes=10)
    is_told(world, "crash loop")
    assert world.store.list()[0].ended


def test_that_patience_has_an_end_too(world: World, outage: Outage) -> None:
    """After the stated time it ends, says that nobody can tell what was done, and a person is told."""
    loop(world, outage)
    later(world, 1, hours=23)
    assert world.records("close") == []
    later(world, 1, hours=2)
    incident = world.only()
    assert (incident.state, incident.waits_since, incident.result) == ("failed", None, None)
    assert "what was done of it cannot be told: the model registry: it is away" in str(incident.problem)
    (result,) = world.records("result")
    assert (result["body"]["changed"], result["body"]["failed"]) == (None, True)
    assert world.parts.ledger.running() == []
    assert str(incident.problem) in world.silent.messages[f"{incident.id}:failed"]
    assert world.store.list()[0].ended


@pytest.mark.parametrize("how", ["tries", "gives up", "asks"])
def test_whatever_else_ends_it_waits_as_well(world: World, outage: Outage, how: str) -> None:
    """The champion is moved, and then it fails for another reason while the registry is away: that is found out first."""
    action: Any = world.actions[ActionName.RETRAIN]
    execute: Callable[[Any], Any] = action.execute
    errors = {"tries": OSError("no answer"), "gives up": GiveUp("no such run"), "asks": AskHuman("two of them")}

    def fail(request: Any) -> Any:
        execute(request)
        outage.down = world.only().tries + 1 >= world.settings.service.tries_max if how == "tries" else True
        raise errors[how]

    action.execute = fail
    world.send()
    world.run()
    later(world, 12, minutes=10)
    assert (world.only().state, world.records("result")) == ("executing", [])
    assert world.parts.ledger.running() == [world.only().id]
    outage.down = False
    if how != "tries":  # it is looked up, and gone on with
        action.execute = execute
        later(world, 1, minutes=10)
        assert (world.only().state, len(world.plant.moves)) == ("verifying", 1)
        return
    later(world, 1, minutes=10)
    is_told(world, "gave up after")
