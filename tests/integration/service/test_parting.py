"""Who came together parts where it is measured that not all lose: nobody silences another, or keeps one from being mended."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from fakes.grouped import MODELS, NONE, drift, grouped, kept_out
from fakes.workflow_world import Crash


@pytest.fixture
def new(new_world: Callable[..., Any]) -> Callable[..., Any]:
    """Makes a world of models fed from one table, with the real quarantine."""
    return partial(grouped, new_world)


def send(world: Any, losses: dict[str, float], order: str = "abc") -> None:
    """Drift of these models in this order, of which each loses so much."""
    world.script.losses = losses
    for model in order:
        drift(world, model)


def ends(world: Any) -> list[tuple[str, str, str | None]]:
    """Models, state and action of every incident, in the order in which they opened."""
    found = world.incidents()
    return [("".join(one.models), one.state.value, one.candidate and one.candidate.action.value) for one in found]


def test_a_harmless_lead_speaks_for_nobody(new: Callable[..., Any]) -> None:
    """It goes on alone, and is only watched; those that lose have an incident, a lead and an investigation of their own."""
    world = new()
    send(world, {"a": 0.0, "b": 0.2, "c": 0.2})
    world.run()
    assert ends(world) == [("a", "closed", "retrain"), ("bc", "resolved", "quarantine_data")]
    assert kept_out(world) == {"b": ["b.csv"], "c": ["c.csv"]}
    first, second = world.incidents()
    assert (first.outcome, first.finding.models, second.finding.models) == ("monitor", (), ("b", "c"))
    assert any("a does not: b, c go on" in line["summary"] for line in first.timeline)
    assert world.store.get(second.id).predecessor == first.id
    assert world.plant.moves == []


def test_a_harmless_lead_whose_agents_would_do_nothing_ends_no_other(new: Callable[..., Any]) -> None:
    """Nothing is to be done about the first; of the others, of whom the same is said, people are told."""
    world = new()
    world.script.candidates = (NONE,)
    send(world, {"a": 0.0, "b": 0.2, "c": 0.3})
    world.run()
    assert ends(world) == [("a", "closed", "none"), ("bc", "resolved", "notify")]
    assert world.incidents()[1].facts["impact"]["relative_loss"] == "0.3"


@pytest.mark.parametrize("order", ["bac", "abc", "acb", "cba"])
def test_harmless_models_keep_no_other_from_being_retrained(new: Callable[..., Any], order: str) -> None:
    """Whoever is named beside it, before or after: the one that loses is mended as it would be by itself."""
    world = new()
    send(world, {"a": 0.0, "b": 0.2, "c": 0.0}, order)
    world.run()
    assert [(model, after) for model, _, after, _ in world.plant.moves] == [("b", 2)]
    assert ("b", "verifying", "retrain") in ends(world)
    assert {state for models, state, _ in ends(world) if models != "b"} == {"closed"}
    assert kept_out(world) == {}


def test_where_nobody_loses_or_all_do_they_stay_together(new: Callable[..., Any]) -> None:
    """One incident, whatever comes of it."""
    world = new()
    send(world, dict.fromkeys(MODELS, 0.0))
    world.run()
    assert ends(world) == [("abc", "closed", "quarantine_data")]
    send(world, {"a": 0.2, "b": 0.0, "c": 0.4})
    world.run()
    assert ends(world)[1:] == [("abc", "resolved", "quarantine_data")]
    assert kept_out(world) == {"a": ["a.csv"], "c": ["c.csv"]}


def test_a_loss_that_is_only_told_of_binds_nobody_whose_loss_was_measured(new: Callable[..., Any]) -> None:
    """A producer says that another model loses too: the one that was measured to is retrained all the same."""
    world = new()
    world.script.bases = {"a": "reported", "b": "measured", "c": "reported"}
    send(world, {"a": 0.5, "b": 0.2, "c": 0.5})
    world.run()
    assert [models for models, *_ in ends(world)] == ["a", "b", "c"]
    assert ends(world)[1] == ("b", "verifying", "retrain")


def test_events_by_turns_part_to_the_last_and_all_end(new: Callable[..., Any]) -> None:
    """A harmless model is named between every two events of another: each is dealt with in turn, the other is mended once."""
    world = new()
    world.script.losses = {"a": 0.0, "b": 0.2}
    for model in "abababab":
        window = {"start": "2026-11-20T08:00:00Z", "end": "2026-11-20T08:30:00Z", "uri": str(world.data / "w.csv")}
        drift(world, model, window=window)
    world.run()
    world.script.gain, world.script.gain_win = 0.1, 0.99
    world.later(seconds=400)
    assert {state for _, state, _ in ends(world)} == {"closed", "resolved"}
    assert {models for models, *_ in ends(world)} == {"a", "b"}
    assert [model for model, *_ in world.plant.moves] == ["b"]
    assert sum(len(one.events) for one in world.incidents()) == 8


def test_later_events_of_the_group_join_those_that_lose(new: Callable[..., Any]) -> None:
    """The lead that went apart is waited for, and takes no more of them; its own later events do join it."""
    world = new()
    world.script.confidence, world.script.candidates = 0.5, world.script.candidates[1:]
    models = {"a": 0.2, "b": 0.0, "c": 0.0}
    send(world, models, "ab")
    world.run()
    first, second = world.incidents()
    assert (first.models, first.state.value, second.models) == (["a"], "awaiting_approval", ["b"])
    drift(world, "c")
    world.run()
    assert [one.models for one in world.incidents()][:2] == [["a"], ["b"]]
    assert "c" not in world.incidents()[0].models
    drift(world, "a")
    world.run()
    assert (world.incidents()[0].models, len(world.incidents()[0].events)) == (["a"], 2)


@pytest.mark.parametrize("place", ["stepped:triaged", "committed:triaged", "committed:investigated"])
def test_a_process_that_dies_while_they_part_loses_nobody(new: Callable[..., Any], place: str) -> None:
    """Before and after each of these commits: the same incidents, each event in one of them."""
    world = new()
    send(world, {"a": 0.0, "b": 0.2, "c": 0.2})
    world.take_in()
    for death in range(1, 5):
        seen: list[str] = []

        def die(where: str, seen: list[str] = seen, death: int = death) -> None:
            seen.append(where)
            if seen.count(place) == 1 and where == place and death < 4:
                raise Crash

        world.free_leases()
        try:
            world.run(world.worker(fail_point=die))
        except Crash:
            continue
    assert ends(world) == [("a", "closed", "retrain"), ("bc", "resolved", "quarantine_data")]
    assert [[event["id"] for event in one.events] for one in world.incidents()] == [["e1"], ["e2", "e3"]]
    assert len(world.records("result")) == 1
