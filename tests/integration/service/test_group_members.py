"""Each model of an incident for itself: its own harm, its own evidence, its own part of what was done."""

from collections.abc import Callable
from decimal import Decimal
from functools import partial
from typing import Any

import pytest
from fakes.grouped import MODELS, drift, grouped, kept_out, loose

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
    assert steps == [[], ["e", "b"], ["e", "b", "c", "d"], ["e", "b", "c", "d", "f", "a"]]
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
def test_what_nobody_measured_is_not_acted_on_unattended(new: Callable[..., Any], rule: str) -> None:
    """Where none is to be measured: people are asked; and without a rule that asks, nothing is done to these members."""
    world = new()
    set_up(world, measured_max=0)
    if rule == "none":
        loose(world, "", **{IMPACT: ""})
    for model in MODELS:
        drift(world, model)
    world.run()
    incident = world.only()
    if rule == "none":
        assert (incident.state, kept_out(world)) == ("resolved", {"a": ["a.csv"]})
        assert any("kept out of b, c" in line["summary"] for line in incident.timeline)
        return
    assert (incident.state, kept_out(world)) == ("awaiting_approval", {})
    assert {one.model: one.failing for one in incident.members} == {"a": [], "b": ["impact"], "c": ["impact"]}
    assert not any("kept out of" in line["summary"] for line in incident.timeline)
    world.approve("bob")
    world.run()
    assert (world.only().state, set(kept_out(world))) == ("resolved", {*MODELS})


def test_a_members_evidence_is_its_own(new: Callable[..., Any]) -> None:
    """Three rows of one model are not the lead's five hundred; of one that cannot be read nothing is known."""
    world = new()
    world.script.rows = {"b": 3}
    evidence = '    - {id: evidence, fact: evidence.rows, atLeast: "400", else: escalate}\n'
    loose(world, "", **{"  require:\n": f"  require:\n{evidence}"})
    for model in MODELS:
        drift(world, model)
    world.run()
    incident = world.only()
    assert (incident.state, kept_out(world)) == ("awaiting_approval", {})
    assert {one.model: one.failing for one in incident.members} == {"a": [], "b": ["evidence"], "c": []}
    told = {
        one["body"]["facts"]["model"]["name"]: one["body"]["facts"]["evidence"] for one in world.records("decision")
    }
    assert {model: (one["rows"], one["labelled_rows"]) for model, one in told.items()} == {
        "a": (500, 500),
        "b": (3, 3),
        "c": (500, 500),
    }


def test_a_member_without_readable_rows_has_no_evidence(new: Callable[..., Any]) -> None:
    """Not the lead's: unknown, which escalates."""
    world = new(models=("a", "b"))
    drift(world, "a")
    drift(world, "b", window={"start": "2026-11-20T09:00:00Z", "end": "2026-11-20T09:00:09Z"})
    world.run()
    (facts,) = (
        one["body"]["facts"] for one in world.records("decision") if one["body"]["facts"]["model"]["name"] == "b"
    )
    assert (facts["evidence"]["rows"], facts["evidence"]["labelled_rows"]) == (None, None)
