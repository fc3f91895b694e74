"""What costs no call of a language model, through the real workflow; and drift from before a change, which asks for nothing."""

from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest
from fakes.cases import QUIET, performance, shift

from driftwarden.clock import rfc3339
from driftwarden.contracts.base import ActionName
from driftwarden.contracts.findings import Candidate
from driftwarden.service.workflow.changes import changes_of
from driftwarden.service.workflow.ledger import Caps

NOTIFY = (Candidate(id="c1", action=ActionName.NOTIFY),)


def said(world: Any) -> str:
    """The finding's summary of the newest incident."""
    summary: str = world.incidents()[-1].finding.summary
    return summary


def test_drift_costs_one_call(world: Any) -> None:
    """The usual case."""
    world.send()
    world.run()
    assert world.script.model_calls == 1
    assert said(world) == "scripted"


def test_duplicates_and_joins_cost_none(world: Any) -> None:
    """The same event twice, and more drift while people are asked: looked at again, without a model."""
    world.script.win = 0.5
    first = world.event()
    world.send(first)
    world.send(first)
    world.run()
    world.send()
    world.run()
    assert (len(world.only().events), world.script.advised, world.script.model_calls) == (2, 2, 1)
    assert said(world) == "triaged: more drift joined what a model has looked at, no model was asked. scripted"


def test_a_halted_model_costs_none(world: Any) -> None:
    """Nothing may be done to it: people are asked, and no model."""
    world.parts.halts.halt("m", reason="stop", by="ada")
    world.send()
    world.run()
    assert (world.script.advised, world.script.model_calls) == (1, 0)
    assert said(world).startswith("triaged: halted, no model was asked")
    assert world.only().outcome == "escalate"


def test_a_model_that_is_being_changed_costs_none(world: Any) -> None:
    """Another incident's action on it runs."""
    world.parts.ledger.reserve(
        "inc-other", model="n", models=["m"], action="quarantine_data", cost_usd=Decimal(0),
        now=rfc3339(world.clock.now()), caps=Caps(),
    )  # fmt: skip
    world.send()
    world.run()
    assert world.script.model_calls == 0
    assert said(world).startswith("triaged: being remediated by inc-other")


def test_a_model_whose_change_is_being_judged_costs_none(world: Any) -> None:
    """The next window drifts before labels have said whether the retraining helped."""
    world.send()
    world.run()
    first = world.only()
    assert first.state == "verifying"
    world.send()
    world.run()
    assert world.script.model_calls == 1
    assert said(world).startswith(f"triaged: being remediated by {first.id}")


@pytest.mark.parametrize(
    ("changes", "calls"),
    [
        ({}, 0),
        ({"shift": shift("temperature")}, 1),
        ({"performance": performance(current=0.8, p_worse=1.0)}, 1),
        ({"performance": performance().model_copy(update={"basis": "reported"})}, 1),
    ],
)
def test_immaterial_drift_costs_none(world: Any, changes: dict[Any, Any], calls: int) -> None:
    """Measured: no column moved beyond chance and nothing is lost. What the producer says makes no difference."""
    world.script.measured = QUIET | changes
    loud = {"drift_share": 1.0, "columns": [{"name": "temperature", "drifted": True}]}
    world.send(world.event(**loud))
    world.run()
    assert world.script.model_calls == calls
    assert said(world).startswith("triaged: the drift is immaterial") is (calls == 0)


def test_a_joined_drift_that_is_material_is_asked_about(world: Any) -> None:
    """The first window showed nothing, so nobody was asked; the second, which joined, does."""
    world.script.measured = dict(QUIET)
    world.script.candidates = NOTIFY
    world.script.on_advise = lambda: (
        world.script.measured.update(shift=shift("temperature")) or world.send(later.pop()) if later else None
    )
    later = [world.event()]
    world.send()
    world.run()
    assert (world.script.advised, world.script.model_calls) == (2, 1)
    assert said(world) == "scripted"


def window(world: Any, **minutes: int) -> dict[str, Any]:
    """A window that begins and ends so many minutes from now."""
    from datetime import timedelta

    moments = {name: rfc3339(world.clock.now() + timedelta(minutes=count)) for name, count in minutes.items()}
    return {**moments, "rows": 2, "uri": str(world.data / "w.csv")}


def changed(world: Any) -> Any:
    """The model was retrained a moment ago, and that helped."""
    world.send()
    world.run()
    world.script.gain, world.script.gain_win = 0.1, 0.99
    world.later(seconds=301)
    assert world.only().state == "resolved"
    return world.only()


@pytest.mark.parametrize("span", [{"start": -120, "end": -30}, {"start": -60, "end": 30}, {"end": -30}])
def test_drift_from_before_a_change_asks_for_no_action(world: Any, span: dict[str, int]) -> None:
    """A monitor that looks back over the change sees what was mended: watched, with the reason, by no model."""
    changed(world)
    world.send(world.event(window=window(world, **span)))
    world.run()
    incident = world.incidents()[-1]
    assert (incident.state, incident.outcome, incident.candidate.action) == ("closed", "monitor", "none")
    assert "measured on rows from before 2026-11-20T09:00:00" in said(world)
    assert (world.script.model_calls, len(world.plant.moves)) == (1, 1)


@pytest.mark.parametrize("span", [{"start": 0, "end": 60}, {"start": -30, "end": 60}])
def test_harm_that_persists_after_a_change_is_handled_as_always(world: Any, span: dict[str, int]) -> None:
    """Most of the window's time lies after the change: what is wrong there was not mended by it."""
    changed(world)
    world.send(world.event(window=window(world, **span)))
    world.run()
    assert (world.script.model_calls, len(world.plant.moves)) == (2, 2)


def test_one_event_from_before_does_not_hide_one_from_after(world: Any) -> None:
    """A late, or forged, event of an old window joins the incident of a new one: it is handled as always."""
    changed(world)
    world.send(world.event(window=window(world, start=0, end=60)))
    world.send(world.event(window=window(world, start=-120, end=-30)))
    world.run()
    assert len(world.incidents()[-1].events) == 2
    assert (world.script.model_calls, len(world.plant.moves)) == (2, 2)


def test_an_undo_is_a_change_and_a_message_is_none(world: Any) -> None:
    """What was told changed no rows; what was taken back makes earlier drift old."""
    world.script.candidates = NOTIFY
    world.send(world.event(window=window(world, start=-120, end=-30)))
    world.run()
    assert changes_of(world.parts.ledger.entries(), "m", besides="") == []
    world.script.candidates = (Candidate(id="c1", action=ActionName.RETRAIN, cost_usd=Decimal(5)),)
    world.send()
    world.run()
    (taken,) = changes_of(world.parts.ledger.entries(), "m", besides="")
    world.script.gain, world.script.gain_win = -0.3, 0.01
    world.later(seconds=301)
    assert world.incidents()[-1].state == "undone"
    assert max(change.at for change in changes_of(world.parts.ledger.entries(), "m", besides="")) > taken.at


def test_over_several_models_it_must_hold_for_each(new_world: Callable[..., Any]) -> None:
    """One was changed, the other was not: their common incident is handled as always."""
    world = new_world(models=("a", "b"), upstream=("sensors",))
    world.script.candidates = NOTIFY
    world.parts.ledger.reserve(
        "inc-other", model="a", action="retrain", cost_usd=Decimal(0), now=rfc3339(world.clock.now()), caps=Caps()
    )
    world.parts.ledger.settle("inc-other", changed_at=rfc3339(world.clock.now()))
    old = {"window": window(world, start=-120, end=-30), "columns": [{"name": "x", "drifted": True}]}
    world.send(world.event("a", **old))
    world.send(world.event("b", **old))
    world.run()
    assert world.only().triaged is None
    assert (world.script.model_calls, world.only().outcome) == (1, "execute")
