"""Events that nobody foresaw stop none of those behind them."""

from collections.abc import Callable
from typing import Any

import pytest
from fakes.workflow_world import PREFIX, World

from driftwarden.errors import Retry
from driftwarden.service.workflow.process import ServiceProcess, bury
from driftwarden.stream.dead_letters import DeadLetters
from driftwarden.stream.intake import Intake


def test_an_event_that_cannot_be_taken_up_stops_none_behind_it(
    new_world: Callable[..., World], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fault of ours in the intake: what else was read is taken at once, and after a few tries it is a dead letter."""
    world = new_world(models=("m", "n"))
    intake = Intake(world.client, "i0", prefix=PREFIX, before_burial=bury(world.parts), reclaim_after_ms=0)
    process = ServiceProcess(world.parts, world.store, intake, name="p", workers=0)
    groups = process._groups

    def fault(event: Any) -> Any:
        return 1 / 0 if event.model == "n" else groups(event)

    monkeypatch.setattr(process, "_groups", fault)
    world.send(world.event("n", id="poison"))
    world.send()
    for _ in range(world.settings.service.crashes_max - 1):
        with pytest.raises(ZeroDivisionError):
            process.take_or_set_aside(intake.read(10))
        assert [one.model for one in world.incidents()] == ["m"]
    process.take_or_set_aside(intake.read(10))
    (letter,) = DeadLetters(world.client, PREFIX).list()
    assert (letter.event_id, letter.got) == ("poison", "ZeroDivisionError")
    assert [record["body"]["event_id"] for record in world.records("dead_letter")] == ["poison"]
    assert world.client.xlen(f"{PREFIX}events") == 0
    monkeypatch.undo()
    DeadLetters(world.client, PREFIX).redrive(letter.id)
    world.take_in()
    assert sorted(one.model for one in world.incidents()) == ["m", "n"]


def test_what_is_away_sets_no_event_aside(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """However often: it is not the event's fault."""
    intake = Intake(world.client, "i0", prefix=PREFIX, reclaim_after_ms=0)
    process = ServiceProcess(world.parts, world.store, intake, name="p", workers=0)

    def away(*args: Any, **about: Any) -> Any:
        raise Retry("redis is away")

    with monkeypatch.context() as patch:
        patch.setattr(world.store, "admit_many", away)
        world.send()
        for _ in range(9):
            with pytest.raises(Retry):
                process.take_or_set_aside(intake.read(10))
    process.take_or_set_aside(intake.read(10))
    assert [one.model for one in world.incidents()] == ["m"]


@pytest.mark.parametrize("uri", ["file://[x/y", "http://[::1/x", "file://a]/b"])
def test_a_report_of_a_file_that_is_no_place_is_taken_as_reported(world: World, uri: str) -> None:
    """It must not stop the intake: its figure stands as somebody's word."""
    world.report(uri=uri)
    world.take_in()
    assert world.client.xlen(f"{PREFIX}events") == 0
    assert world.parts.metrics.last("m")[-1]["basis"] == "reported"
