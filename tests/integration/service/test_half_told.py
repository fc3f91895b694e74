"""What was done before nobody could go on stands in the log, once: whoever died, whoever swept up, whatever came in between."""

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

import pytest
from crash.history import judge, read_history
from crash.sink import Sink
from fakes.grouped import MODELS, always, drift, grouped
from fakes.workflow_world import Crash

from driftwarden.service.workflow.reservations import free_reservations


@pytest.fixture
def new(new_world: Callable[..., Any]) -> Callable[..., Any]:
    """Makes a world of models fed from one table, with the real quarantine."""
    return partial(grouped, new_world)


def faults(world: Any, *waiting: str) -> list[str]:
    """What the history checker finds; the log, the ledger and the quarantine are real."""
    history = read_history(world.client, (), audit=world.settings.audit_dir, sink=Sink())
    found: list[str] = judge(history, waiting=frozenset(waiting))
    return found


def told(world: Any) -> list[tuple[bool, bool | None, list[str]]]:
    """Every result in turn: whether of an undo, whether it changed anything, and for which models."""
    return [
        (body["undo"], body["changed"], sorted((body.get("data") or {}).get("batches", ())))
        for body in (one["body"] for one in world.records("result"))
    ]


def agree(world: Any) -> None:
    """The log knows what is kept out, and each intent has one result."""
    for model in MODELS:
        assert world.parts.floor.quarantined(model) == frozenset(world.parts.state.quarantined(model))
    causes = sorted(one["causation"] for one in world.records("result"))
    assert causes == sorted(one["@hash"] for one in world.records("intent"))


# What the sweep leaves to a worker


def loop(world: Any) -> None:
    """Two of three are kept out, and then whoever takes it up dies, until the store ends it."""
    for model in MODELS:
        drift(world, model)
    world.take_in()
    always(world, 2, Crash())
    while world.only().state != "failed" or world.store.list()[0].leased:
        with suppress(Crash):
            world.restart()


def is_booked(world: Any) -> None:
    """What was done stands in every book, and nothing is reserved."""
    assert told(world) == [(False, True, ["a", "b"])]
    (entry,) = world.parts.ledger.entries().values()
    assert (entry["state"], entry["failed"], entry["models"]) == ("done", True, ["b"])
    assert world.parts.ledger.running() == []
    assert world.only().result is not None
    agree(world)
    assert faults(world) == []


def test_the_sweep_leaves_a_crash_loop_to_the_worker_that_books_it(new: Callable[..., Any]) -> None:
    """It comes between the store's end of the incident and the worker's last word: only the worker knows what was done."""
    world = new()
    claim, freed = world.store.claim, list[str]()

    def swept(*args: Any, **more: Any) -> Any:
        found = claim(*args, **more)
        freed.extend(free_reservations(world.parts, world.store))
        return found

    world.store.claim = swept
    loop(world)
    assert freed == []
    is_booked(world)
    assert [one["body"]["state"] for one in world.records("close")] == ["failed"]


def test_a_last_word_that_wakes_nobody_is_left_again(new: Callable[..., Any]) -> None:
    """Its activation was taken out of Redis: nothing stays reserved for ever, and it is still the worker who books it."""
    world = new()
    claim = world.store.claim

    def lose(*args: Any, **more: Any) -> Any:
        found = claim(*args, **more)
        if found is None or found.state != "failed":
            return found
        world.store.hand_back(found)
        world.client.xtrim(world.store.keys.activations, maxlen=0)
        return None

    world.store.claim = lose
    loop(world)
    world.store.claim = claim
    assert free_reservations(world.parts, world.store) == []
    world.restart()
    assert world.parts.ledger.running() == [world.only().id], "it may be taken up at any moment"
    assert free_reservations(world.parts, world.store, patience_s=0.0) == []
    world.restart()
    is_booked(world)
