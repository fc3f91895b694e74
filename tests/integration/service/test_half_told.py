"""What was done before nobody could go on stands in the log, once: whoever died, whoever swept up, whatever came in between."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
from crash.history import judge, read_history
from crash.sink import Sink
from fakes.grouped import MODELS, Counting, always, die_after, drift, grouped, kept_out, well
from fakes.workflow_world import Crash

from driftwarden.actions.quarantine import QuarantineData
from driftwarden.actions.reference import RefreshReference
from driftwarden.contracts.base import ActionName, RootCause
from driftwarden.contracts.findings import Candidate
from driftwarden.errors import AskHuman, GiveUp
from driftwarden.service.workflow.parts import HeldLease
from driftwarden.service.workflow.reservations import free_reservations


@pytest.fixture
def new(new_world: Callable[..., Any]) -> Callable[..., Any]:
    """Makes a world of models fed from one table, with the real quarantine."""
    return partial(grouped, new_world)


def faults(world: Any, *waiting: str, without: str = "") -> list[str]:
    """What the history checker finds; the log, the ledger and the quarantine are real. `without`: a record's hash."""
    history = read_history(world.client, (), audit=world.settings.audit_dir, sink=Sink())
    history = replace(history, records=tuple(one for one in history.records if one["@hash"] != without))
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


# An undo that was cut short


def half_undone(world: Any) -> None:
    """All three are kept out, an undo is approved, one is released, and its process dies."""
    for model in MODELS:
        drift(world, model)
    world.run()
    world.ask("undo")
    world.run()
    world.approve("bob")
    die_after(world, 1)
    with pytest.raises(Crash):
        world.run()
    well(world)
    assert set(kept_out(world)) == {"b", "c"}


def dying_at(point: str, nth: int = 1) -> Callable[[str], None]:
    """A process that dies there the nth time it comes by."""
    seen: list[str] = []

    def die(where: str) -> None:
        seen.append(where)
        if seen.count(point) == nth:
            raise Crash(where)

    return die


def die_settling(*args: Any, **more: Any) -> None:
    """The process dies when the ledger is to hear of a change; the log has heard of it."""
    if "changed_at" in more:
        raise Crash("settling")


def dying_before_the_second_intent_s_commit(world: Any) -> None:
    """It is intended anew, and that is written down, and no more."""
    with pytest.raises(Crash):
        world.restart_with(dying_at("stepped:executing", 2))
    assert len(world.records("intent")) == 3


def test_a_part_that_an_undo_released_is_told_where_it_is_not_gone_on_with(new: Callable[..., Any]) -> None:
    """It died half done, died again over its second intent, and a halt came: the part is told there, and then the rest."""
    world = new()
    half_undone(world)
    dying_before_the_second_intent_s_commit(world)
    world.parts.halts.halt(None, reason="stop", by="ada")
    world.restart()
    assert (world.only().state, set(kept_out(world))) == ("awaiting_approval", {"b", "c"})
    assert told(world)[1:] == [(True, True, ["a"]), (True, False, [])]
    assert world.parts.ledger.running() == []
    agree(world)
    assert faults(world, "awaiting_approval") == []
    part = next(one for one in world.records("result") if one["body"]["undo"] and one["body"]["changed"])
    untold = faults(world, "awaiting_approval", without=part["@hash"])
    assert any("on a stands 0 times, expected 1" in fault for fault in untold), untold
    world.parts.halts.resume(None)
    world.later(seconds=60)
    assert (world.only().state, kept_out(world)) == ("undone", {})
    assert told(world)[3:] == [(True, True, ["b", "c"])]
    agree(world)
    assert faults(world) == []


def test_what_was_told_is_not_told_again(new: Callable[..., Any]) -> None:
    """Held back a second time, before anything more was released: that changed nothing."""
    world = new()
    half_undone(world)
    world.parts.halts.halt(None, reason="stop", by="ada")
    world.restart()
    world.parts.halts.resume(None)
    world.clock.advance(seconds=60)
    world.store.pump_timers(ahead_s=60)
    with pytest.raises(Crash):
        world.restart_with(dying_at("stepped:executing"))
    world.parts.halts.halt(None, reason="stop", by="ada")
    world.restart()
    assert told(world)[1:] == [(True, True, ["a"]), (True, False, [])]
    assert world.parts.ledger.running() == []
    agree(world)
    assert faults(world, "awaiting_approval") == []


def test_what_was_told_before_a_crash_is_not_told_again(new: Callable[..., Any]) -> None:
    """Who held it back told the part and died before the commit, and the halt is lifted: the next result is of the rest."""
    world = new()
    half_undone(world)
    settle = world.parts.ledger.settle
    world.parts.halts.halt(None, reason="stop", by="ada")
    world.parts.ledger.settle = die_settling
    with pytest.raises(Crash):
        world.restart()
    assert told(world)[1:] == [(True, True, ["a"])]
    world.parts.ledger.settle = settle
    world.parts.halts.resume(None)
    world.restart()
    assert (world.only().state, kept_out(world)) == ("undone", {})
    assert told(world)[1:] == [(True, True, ["a"]), (True, True, ["b", "c"])]
    agree(world)
    assert faults(world) == []


@pytest.mark.parametrize("settled", [False, True])
def test_what_was_told_before_a_crash_is_told_by_no_other_intent(new: Callable[..., Any], settled: bool) -> None:
    """Who held it back told the part and died before the commit, and it is held back again: another intent is still open."""
    world = new()
    half_undone(world)
    dying_before_the_second_intent_s_commit(world)
    world.parts.halts.halt(None, reason="stop", by="ada")
    settle = world.parts.ledger.settle

    def die(*args: Any, **more: Any) -> None:
        if settled:
            settle(*args, **more)
        raise Crash("settling")

    world.parts.ledger.settle = die
    with pytest.raises(Crash):
        world.restart()
    world.parts.ledger.settle = settle
    world.restart()
    assert told(world)[1:] == [(True, True, ["a"]), (True, False, [])]
    assert world.parts.ledger.running() == []
    assert world.parts.ledger.entries()[world.only().id]["state"] == "done"
    agree(world)
    assert faults(world, "awaiting_approval") == []


@pytest.mark.parametrize("again", [False, True])
def test_a_refused_undo_says_what_it_had_released(new: Callable[..., Any], again: bool) -> None:
    """One is released, and then another incident keeps the next one out: it is not undone, and the log knows what is free."""
    world = new()
    half_undone(world)
    if again:
        dying_before_the_second_intent_s_commit(world)
    ((batch, record),) = world.parts.state.quarantined("b").items()
    world.parts.state.release("b", batch)
    world.parts.state.quarantine("b", batch, record | {"key": "f" * 64, "incident": "inc-ffffffffffff"})
    world.restart()
    incident = world.only()
    assert (incident.state, incident.undo_of, set(kept_out(world))) == ("resolved", None, {"b", "c"})
    assert "was quarantined again" in incident.timeline[-1]["summary"]
    assert [one for one in told(world) if one[1]] == [(False, True, ["a", "b", "c"]), (True, True, ["a", "b"])]
    causes = sorted(one["causation"] for one in world.records("result"))
    assert causes == sorted(one["@hash"] for one in world.records("intent"))
    assert world.parts.ledger.running() == []
    assert world.parts.floor.quarantined("a") == world.parts.floor.quarantined("b") == frozenset()
    world.ask("undo", by="bob")
    world.run()
    world.approve("ada")
    world.run()
    assert (world.only().state, set(kept_out(world))) == ("undone", {"b"})
    assert told(world)[-1] == (True, True, ["c"])


@pytest.mark.parametrize("how", ["crash loop", "tries"])
def test_an_undo_that_is_given_up_between_two_intents_says_what_it_released(
    new: Callable[..., Any], how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is intended at the moment when it comes to no end, and what the first intent did is still told."""
    from driftwarden.service.workflow import acting

    world = new()
    half_undone(world)

    def fail(*args: Any, **more: Any) -> Any:
        raise Crash if how == "crash loop" else OSError("no answer")

    monkeypatch.setattr(acting, "decide", fail)
    for _ in range(8):
        with suppress(Crash):
            world.restart()
            world.later(seconds=3600)
    assert world.only().state == "failed"
    assert told(world)[1:] == [(True, True, ["a"])]
    assert world.parts.ledger.running() == []
    agree(world)
    assert faults(world) == []


def test_a_part_that_is_told_is_not_gone_on_with_after_a_crash(new: Callable[..., Any]) -> None:
    """Who gave an undo up told the part and died before the commit: the rest is not released under the same intent."""
    world = new()
    half_undone(world)
    action = world.actions[ActionName.QUARANTINE_DATA]
    undo, settle = action.undo, world.parts.ledger.settle

    def ask(*args: Any) -> Any:
        raise AskHuman("it moved on")

    action.undo, world.parts.ledger.settle = ask, die_settling
    with pytest.raises(Crash):
        world.restart()
    assert told(world)[-1] == (True, True, ["a"])
    action.undo, world.parts.ledger.settle = undo, settle
    world.restart()
    assert (world.only().state, set(kept_out(world))) == ("failed", {"b", "c"})
    assert world.parts.ledger.running() == []
    agree(world)
    assert faults(world) == []


def one_action(world: Any, action: Any) -> Callable[[Callable[[str], None]], None]:
    """The real action on one model, done; the answer sets what happens at its steps."""
    parts: Any = type("Parts", (), {"state": world.parts.state, "lease": HeldLease(), "sandbox": Counting(),
                                    "settings": world.settings, "on_step": staticmethod(lambda name: None)})  # fmt: skip
    world.actions[action.name] = action(parts)
    world.script.candidates, world.script.root_cause = (Candidate(id="c1", action=action.name),), RootCause.STUCK_VALUES
    world.send()
    world.run()
    if world.only().state == "awaiting_approval":  # nothing measures how sure that is
        world.approve("bob")
        world.run()
    assert world.only().state == "resolved"

    def at_steps(step: Callable[[str], None]) -> None:
        parts.on_step = staticmethod(step)

    return at_steps


def ask_to_undo(world: Any) -> None:
    """Asked and approved."""
    world.ask("undo", by="ada")
    world.run()
    world.approve("bob")


def test_a_reference_that_was_put_back_is_told_under_a_halt(world: Any) -> None:
    """Its process died right after it, and everything is halted: it is looked up, and it has happened."""
    at_steps = one_action(world, RefreshReference)
    ask_to_undo(world)
    at_steps(dying_at("unset"))
    with pytest.raises(Crash):
        world.run()
    world.parts.halts.halt(None, reason="stop", by="ada")
    world.restart()
    assert (world.only().state, world.parts.state.reference("m")) == ("undone", None)
    assert told(world) == [(False, True, []), (True, True, [])]
    assert faults(world) == []


def test_a_batch_whose_release_never_answers_is_told_as_released(world: Any) -> None:
    """It is released, and every try fails after that: the log knows that it is free."""
    at_steps = one_action(world, QuarantineData)
    ask_to_undo(world)

    def fail(name: str) -> None:
        raise OSError("no answer")

    at_steps(fail)
    world.run()
    for _ in range(world.settings.service.tries_max):
        world.later(seconds=3600)
    assert (world.only().state, kept_out(world)) == ("failed", {})
    assert told(world) == [(False, True, []), (True, True, [])]
    assert world.parts.floor.quarantined("m") == frozenset()
    world.ask("undo", by="ada")
    world.run()
    assert "not undone: there is nothing to undo" in world.only().timeline[-1]["summary"]
    assert len(told(world)) == 2, "it was released once"
    assert faults(world) == []


def test_a_champion_that_was_pointed_back_and_then_given_up_is_told(world: Any) -> None:
    """The alias had moved when the registry said that a person must look."""
    world.send()
    world.run()
    action = world.actions[ActionName.RETRAIN]
    undo = action.undo

    def give_up(*args: Any) -> Any:
        undo(*args)
        raise GiveUp("its record cannot be written")

    action.undo = give_up
    ask_to_undo(world)
    world.run()
    assert (world.only().state, world.plant.champions["m"]) == ("failed", 1)
    result = world.records("result")[-1]
    body = result["body"]
    assert (body["undo"], body["changed"], body["before"], body["after"]) == (True, True, 2, 1)
    assert result["causation"] == world.records("intent")[-1]["@hash"]
    assert world.parts.ledger.running() == []
    assert world.only().undone.after == 1
    world.clock.advance(seconds=1)
    world.ask("undo", by="ada")
    world.run()
    assert "its effect was taken back" in world.only().timeline[-1]["summary"]
    world.ask("retry", by="bob")
    world.run()
    assert "done and taken back" in world.only().timeline[-1]["summary"]
    assert (world.only().state, len(world.plant.moves)) == ("failed", 2)
