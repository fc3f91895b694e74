"""Each model of an incident for itself: its own harm, its own evidence, its own part of what was done."""

from collections.abc import Callable
from contextlib import suppress
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from fakes.grouped import MODELS, always, die_after, drift, grouped, halves, kept_out, loose, well
from fakes.workflow_world import Crash

from driftwarden.contracts.base import ActionName
from driftwarden.errors import AskHuman
from driftwarden.service.workflow.changes import changes_of

IMPACT = '    - {id: impact, fact: impact.relative_loss, atLeast: "0.02", else: monitor}\n'


@pytest.fixture
def new(new_world: Callable[..., Any]) -> Callable[..., Any]:
    """Makes a world of models fed from one table, with the real quarantine."""
    return partial(grouped, new_world)


def set_up(world: Any, *, measured_max: int, dear: str = "") -> None:
    """So many are measured in one step, first the one whose points cost most."""
    service = world.settings.service.model_copy(update={"group_measured_max": measured_max})
    models = dict(world.settings.models)
    if dear:
        value = models[dear].value.model_copy(update={"usd_per_point": Decimal(9)})
        models[dear] = models[dear].model_copy(update={"value": value})
    world.settings = world.parts.settings = world.settings.model_copy(update={"service": service, "models": models})


def all_drift(world: Any) -> None:
    """Every model has an event."""
    for model in MODELS:
        drift(world, model)


def grant_undo(world: Any, by: str, *, asked_by: str = "ada") -> None:
    """Somebody asks for the undo, and another one approves it: what is left is to run."""
    world.ask("undo", by=asked_by)
    world.run()
    world.approve(by)


def evidence(world: Any) -> dict[str, Any]:
    """What each model's decision was told of its own evidence."""
    facts = [one["body"]["facts"] for one in world.records("decision")]
    return {one["model"]["name"]: one["evidence"] for one in facts}


def check_the_log(world: Any) -> None:
    """What the log says is kept out is what is, of each model."""
    for model in MODELS:
        assert world.parts.floor.quarantined(model) == frozenset(world.parts.state.quarantined(model))


def test_every_member_is_measured_and_no_step_measures_more_than_the_bound(new: Callable[..., Any]) -> None:
    """The dearest first, which no producer chooses; the agents are asked once all are known."""
    models = ("a", "b", "c", "d", "e", "f")
    world = new(models)
    set_up(world, measured_max=2, dear="e")
    for model in models:
        drift(world, model)
    steps: list[list[str]] = []

    def commit(where: str) -> None:
        if where == "committed:triaged" or where == "committed:investigated":
            steps.append(list(world.script.measured_models))
            assert world.script.advised == (where == "committed:investigated")

    world.take_in()
    world.run(world.worker(fail_point=commit))
    assert steps == [[], ["e", "b"], ["e", "b", "c", "d"], ["e", "b", "c", "d", "f", "a", "a"]]
    assert {one.performance["relative_loss"] for one in world.only().members} == {0.2}
    assert set(kept_out(world)) == {*models}


def test_who_joins_between_two_of_these_steps_is_measured_too(new: Callable[..., Any]) -> None:
    """Its event comes while others are measured: it is taken in before anything is said of the cause."""
    world = new()
    set_up(world, measured_max=1)
    for model in ("a", "b"):
        drift(world, model)
    world.take_in()
    late: list[str] = []

    def join(where: str) -> None:
        if where == "stepped:triaged" and not late:
            late.append(where)
            drift(world, "c")
            world.take_in()

    world.run(world.worker(fail_point=join))
    assert late
    assert world.only().models == [*MODELS]
    assert set(kept_out(world)) == {*MODELS}
    assert world.script.model_calls == 1


@pytest.mark.parametrize("rule", ["on the loss", "none"])
def test_one_whose_loss_is_not_known_is_not_acted_on_unattended(new: Callable[..., Any], rule: str) -> None:
    """Two lose, and a third cannot be read: people are asked; where no rule asks, nothing is done to the third."""
    world = new()
    if rule == "none":
        loose(world, "", **{IMPACT: ""})
    drift(world, "a")
    drift(world, "b", window={"start": "2026-11-20T09:00:00Z", "end": "2026-11-20T09:00:09Z"})
    drift(world, "c")
    world.run()
    incident = world.only()
    if rule == "none":
        assert (incident.state, kept_out(world)) == ("resolved", {"a": ["a.csv"], "c": ["c.csv"]})
        assert any("kept out of b" in line["summary"] for line in incident.timeline)
        return
    assert (incident.state, kept_out(world)) == ("awaiting_approval", {})
    assert {one.model: one.failing for one in incident.members} == {"a": [], "b": ["impact"], "c": []}
    assert not any("kept out of" in line["summary"] for line in incident.timeline)
    assert {model: one["rows"] for model, one in evidence(world).items()} == {"a": 500, "b": None, "c": 500}
    world.approve("bob")
    world.run()
    assert (world.only().state, set(kept_out(world))) == ("resolved", {*MODELS})


def test_where_none_is_to_be_measured_nobody_acts_for_another(new: Callable[..., Any]) -> None:
    """Nothing says that they lose together: the lead that does goes on alone, and of those that are not known people are asked."""
    world = new()
    set_up(world, measured_max=0)
    world.script.losses = {"b": 0.0}
    all_drift(world)
    world.run()
    found = [(one.models, one.state.value) for one in world.incidents()]
    assert found == [(["a"], "verifying"), (["b", "c"], "awaiting_approval")]
    assert world.incidents()[1].members[1].failing == ["impact"]


def test_a_members_evidence_is_its_own(new: Callable[..., Any]) -> None:
    """Three rows of one model are not the lead's five hundred; of one that cannot be read nothing is known."""
    world = new()
    world.script.rows = {"b": 3}
    rule = '    - {id: evidence, fact: evidence.rows, atLeast: "400", else: escalate}\n'
    loose(world, "", **{"  require:\n": f"  require:\n{rule}"})
    all_drift(world)
    world.run()
    incident = world.only()
    assert (incident.state, kept_out(world)) == ("awaiting_approval", {})
    assert {one.model: one.failing for one in incident.members} == {"a": [], "b": ["evidence"], "c": []}
    rows = {model: (one["rows"], one["labelled_rows"]) for model, one in evidence(world).items()}
    assert rows == {"a": (500, 500), "b": (3, 3), "c": (500, 500)}


@pytest.mark.parametrize("how", ["tries", "crashes"])
def test_what_was_done_before_it_was_given_up_is_booked_and_undone(new: Callable[..., Any], how: str) -> None:
    """Two of three are kept out and then it ends so every time: the two stand in the books, the third does not."""
    world = new()
    all_drift(world)
    world.take_in()
    always(world, 2, OSError("no answer") if how == "tries" else Crash())
    if how == "tries":
        world.run()
        for _ in range(world.settings.service.tries_max):
            world.later(seconds=3600)
    while world.only().state != "failed" or world.store.list()[0].leased:
        with suppress(Crash):
            world.restart()
    incident = world.only()
    assert ("gave up after 4 tries" if how == "tries" else "crash loop") in str(incident.problem)
    assert halves(world) in str(incident.problem)
    assert set(kept_out(world)) == {"a", "b"}
    assert incident.result is not None
    assert (set(incident.result.data["batches"]), incident.result.data["missing"]) == ({"a", "b"}, ["c"])
    (result,) = world.records("result")
    assert set(result["body"]["data"]["batches"]) == {"a", "b"}
    assert result["causation"] == world.records("intent")[-1]["@hash"]
    assert world.records("close")[-1]["causation"] == result["@hash"]
    (entry,) = world.parts.ledger.entries().values()
    assert (entry["state"], entry["failed"], entry["model"], entry["models"]) == ("done", True, "a", ["b"])
    books = world.parts.ledger.entries()
    changed = {model: [one.rows for one in changes_of(books, model, besides="")] for model in MODELS}
    assert {model: [Path(rows["uri"]).name for rows in found] for model, found in changed.items()} == {
        "a": ["a.csv"],
        "b": ["b.csv"],
        "c": [],
    }
    assert world.parts.floor.quarantined("b") == frozenset(world.parts.state.quarantined("b"))
    assert world.parts.floor.quarantined("c") == frozenset()
    well(world)
    grant_undo(world, "bob")
    world.run()
    assert (world.only().state, kept_out(world)) == ("undone", {})


def test_an_undo_that_is_given_up_says_what_it_released(new: Callable[..., Any]) -> None:
    """One of three is released, and then it fails every time: the log knows which data are kept out, and it can be asked again."""
    world = new()
    all_drift(world)
    world.run()
    grant_undo(world, "bob")
    always(world, 1, OSError("no answer"))
    world.run()
    for _ in range(world.settings.service.tries_max):
        world.later(seconds=60)
    assert (world.only().state, set(kept_out(world))) == ("failed", {"b", "c"})
    released = world.records("result")[-1]["body"]
    assert (released["undo"], set(released["data"]["batches"]), released["data"]["missing"]) == (
        True,
        {"a"},
        ["b", "c"],
    )
    check_the_log(world)
    well(world)
    grant_undo(world, "ada", asked_by="bob")
    world.run()
    assert (world.only().state, kept_out(world)) == ("undone", {})


def test_an_undo_that_is_held_back_half_done_is_told_and_goes_on(new: Callable[..., Any]) -> None:
    """One of three is released, its process dies, and a halt comes: the log says what is kept out, and the rest follows."""
    world = new()
    all_drift(world)
    world.run()
    grant_undo(world, "bob")
    die_after(world, 1)
    with pytest.raises(Crash):
        world.run()
    world.parts.halts.halt(None, reason="stop", by="ada")
    well(world)
    world.restart()
    assert (world.only().state, set(kept_out(world))) == ("awaiting_approval", {"b", "c"})
    told = world.records("result")[-1]
    assert (told["body"]["undo"], told["body"]["changed"], [*told["body"]["data"]["batches"]]) == (True, True, ["a"])
    assert told["causation"] == world.records("intent")[-1]["@hash"]
    check_the_log(world)
    world.parts.halts.resume(None)
    world.later(seconds=60)
    assert (world.only().state, kept_out(world)) == ("undone", {})


def test_where_nobody_can_tell_what_was_done_that_is_said(new: Callable[..., Any]) -> None:
    """The records cannot be read any more: a person must look, and it counts for every model that it was reserved for."""
    world = new()
    all_drift(world)
    die_after(world, 2)
    with pytest.raises(Crash):
        world.run()
    well(world)

    def unreadable(request: Any) -> None:
        raise AskHuman("a record cannot be read")

    world.actions[ActionName.QUARANTINE_DATA].lookup = unreadable
    world.restart()
    incident = world.only()
    assert (incident.state, incident.result) == ("failed", None)
    assert str(incident.problem).endswith("what was done of it cannot be told: a record cannot be read")
    (told,) = [one["body"] for one in world.records("result")]
    assert (told["changed"], told["failed"], told["detail"]) == (None, True, incident.problem)
    (entry,) = world.parts.ledger.entries().values()
    assert (entry["state"], entry["failed"], entry["models"]) == ("done", True, ["b", "c"])
