"""`rollback` against a real registry."""

import threading
from collections.abc import Callable
from typing import Any

import pytest

from driftwarden.contracts.base import ActionName
from driftwarden.errors import AskHuman, Refused

ROLLBACK, RETRAIN = ActionName.ROLLBACK, ActionName.RETRAIN


def _with_three_versions(world: Any) -> Any:
    world.register()
    world.set_alias("champion", world.register())
    return world


def test_the_champion_before_is_taken_by_default(world: Any) -> None:
    """Given a champion that replaced version 1, rolling back points at version 1, and from there nowhere."""
    world.action(RETRAIN).execute(world.request(RETRAIN))

    result = world.action(ROLLBACK).execute(world.request(ROLLBACK))

    assert (result.before, result.after, world.registry.champion(world.model)) == (3, 1, 1)
    with pytest.raises(Refused, match="no champion before"):
        world.action(ROLLBACK).precheck(world.request(ROLLBACK))


@pytest.mark.parametrize("version", [1, "2"])
def test_a_named_version_is_taken(world: Any, version: int | str) -> None:
    """`to_version` names an earlier version, as a number or its digits."""
    request = _with_three_versions(world).request(ROLLBACK, {"to_version": version})

    assert world.action(ROLLBACK).execute(request).after == int(version)
    assert world.registry.champion(world.model) == int(version)


@pytest.mark.parametrize("version", [3, 4, 0, "latest", True, 1.5])
def test_what_is_not_an_earlier_version_is_refused(world: Any, version: Any) -> None:
    """The champion itself, later, absent or meaningless versions never get the alias."""
    request = _with_three_versions(world).request(ROLLBACK, {"to_version": version})

    with pytest.raises(Refused):
        world.action(ROLLBACK).precheck(request)
    with pytest.raises(Refused):
        world.action(ROLLBACK).execute(request)
    assert world.registry.champion(world.model) == 3


def test_a_model_without_a_known_earlier_champion_is_refused(world: Any) -> None:
    """Nobody guesses which of the versions was the champion before."""
    with pytest.raises(Refused, match="no champion before"):
        world.action(ROLLBACK).precheck(_with_three_versions(world).request(ROLLBACK))


def test_a_crash_after_any_step_is_finished(new_world: Callable[..., Any]) -> None:
    """Begun, tagged, moved, done: the next process ends at the same version, and knows what it was."""
    for crash_at in (1, 2, 3, 4):
        world = _with_three_versions(new_world(crash_at=crash_at))
        request = world.request(ROLLBACK, {"to_version": 1})
        with pytest.raises(world.crash):
            world.action(ROLLBACK).execute(request)
        world.crash_at = None

        result = world.action(ROLLBACK).execute(request)

        assert (result.before, result.after, world.registry.champion(world.model)) == (3, 1, 1)
        assert world.action(ROLLBACK).lookup(request).undo == {"before": 3, "after": 1}


def test_a_repeated_call_long_after_has_no_second_effect(world: Any) -> None:
    """The same key finds its record though the champion has moved on."""
    request = _with_three_versions(world).request(ROLLBACK, {"to_version": 1})
    world.action(ROLLBACK).execute(request)
    world.set_alias("champion", 3)

    assert world.action(ROLLBACK).execute(request).replayed
    assert world.registry.champion(world.model) == 3


def test_undo_points_back(world: Any) -> None:
    """The version it came from is the champion again."""
    request = _with_three_versions(world).request(ROLLBACK, {"to_version": 1})
    result = world.action(ROLLBACK).execute(request)

    world.action(ROLLBACK).undo(request, result)

    assert world.registry.champion(world.model) == 3


def test_an_alias_that_reads_back_differently_asks_a_human(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody moves the alias between our write and our read."""
    from mlflow.tracking import MlflowClient

    request = _with_three_versions(world).request(ROLLBACK, {"to_version": 1})
    really = MlflowClient.set_registered_model_alias

    def contested(self: Any, name: str, alias: str, version: str) -> None:
        really(self, name, alias, version)
        really(self, name, alias, "2")

    monkeypatch.setattr(MlflowClient, "set_registered_model_alias", contested)
    with pytest.raises(AskHuman, match="reads back as 2"):
        world.action(ROLLBACK).execute(request)
    assert world.action(ROLLBACK).lookup(request) is None


def test_a_champion_moved_within_the_call_is_refused_then_and_later(
    world: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody moves the alias after our record and before our move: nothing was done, and a retry says the same."""
    request = _with_three_versions(world).request(ROLLBACK, {"to_version": 1})
    tag_version = world.registry.tag_version

    def meanwhile(*arguments: Any) -> None:
        tag_version(*arguments)
        world.set_alias("champion", 2)

    monkeypatch.setattr(world.registry, "tag_version", meanwhile)
    for _ in range(2):
        with pytest.raises(Refused, match="version 2, expected 3"):
            world.action(ROLLBACK).execute(request)
    assert world.registry.champion(world.model) == 2


def test_of_two_incidents_at_once_one_moves_the_alias(world: Any) -> None:
    """Both were decided for champion 3: the second finds another one and is refused."""
    _with_three_versions(world)
    requests = [world.request(ROLLBACK, {"to_version": version}) for version in (1, 2)]
    outcomes: list[int | str] = []

    def run(request: Any) -> None:
        try:
            outcomes.append(world.action(ROLLBACK).execute(request).after)
        except Refused:
            outcomes.append("refused")

    threads = [threading.Thread(target=run, args=(request,)) for request in requests]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert outcomes.count("refused") == 1
    assert world.registry.champion(world.model) in outcomes
