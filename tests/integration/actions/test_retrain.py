"""`retrain` against a real registry: what wins is promoted once, what loses changes nothing, whatever dies in between."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from driftwarden.contracts.base import ActionName
from driftwarden.contracts.data import RowSelection
from driftwarden.errors import AskHuman, Fenced, GiveUp, Refused
from driftwarden.settings import Settings

RETRAIN = ActionName.RETRAIN


def test_a_winner_is_refitted_on_everything_and_promoted(world: Any) -> None:
    """Given a challenger that wins, the version trained again on all rows becomes champion and knows its predecessor."""
    request = world.request(RETRAIN)

    result = world.action(RETRAIN).execute(request)

    assert (result.changed, result.before, result.after) == (True, 1, 3)
    assert (world.registry.champion(world.model), world.registry.challenger(world.model)) == (3, None)
    assert world.registry.previous(world.model) == 1
    assert [training.rows.row_end for training in world.trainer.requests] == [800, 1000]
    assert world.tags(3)["driftwarden.incident"] == "inc-1"
    assert world.tags(3)["driftwarden.correlation_id"] == "a" * 32


def test_exact_promotes_the_very_version_that_was_compared(new_world: Callable[..., Any]) -> None:
    """Under `exact`, one version is trained, on rows before the comparison, and promoted."""
    world = new_world(promotion="exact")

    result = world.action(RETRAIN).execute(world.request(RETRAIN))

    assert (result.after, world.version_count()) == (2, 2)
    assert world.trainer.requests[0].rows.row_end == 800
    assert world.comparer.rows[0].row_start == 800


@pytest.mark.parametrize(("gain", "win"), [(-0.1, 0.9), (0.1, 0.4), (0.0, 0.9), (None, None)])
def test_a_loser_changes_nothing_in_force(world: Any, gain: float | None, win: float | None) -> None:
    """A challenger that loses, or whose figures are missing, stays a challenger; the attempt is on record."""
    world.comparer.gain, world.comparer.win = gain, win
    request = world.request(RETRAIN)

    result = world.action(RETRAIN).execute(request)

    assert (result.changed, world.registry.champion(world.model), world.registry.challenger(world.model)) == (
        False,
        1,
        2,
    )
    assert world.action(RETRAIN).lookup(request).replayed
    with pytest.raises(Refused):
        world.action(RETRAIN).undo(request, result)


@pytest.mark.parametrize("promotion", ["refit", "exact"])
def test_a_crash_after_any_step_leaves_one_effect(new_world: Callable[..., Any], promotion: str) -> None:
    """Wherever the process dies, the next one finishes the same effect: no version is trained twice, one alias moves."""
    reference = new_world(promotion=promotion)
    reference.action(RETRAIN).execute(reference.request(RETRAIN))
    for crash_at in range(1, len(reference.steps) + 1):
        world = new_world(promotion=promotion, crash_at=crash_at)
        request = world.request(RETRAIN)
        with pytest.raises(world.crash):
            world.action(RETRAIN).execute(request)
        world.crash_at = None

        result = world.action(RETRAIN).lookup(request) or world.action(RETRAIN).execute(request)

        died = f"died after {world.steps[crash_at - 1]}"
        assert result.changed, died
        assert world.version_count() == reference.version_count(), died
        assert world.registry.champion(world.model) == reference.registry.champion(reference.model) == result.after
        assert world.action(RETRAIN).execute(request).replayed, died


def test_a_run_that_dies_after_registering_is_not_repeated(world: Any) -> None:
    """A version that stands in the registry under the key is taken, though nobody was told of it."""
    request = world.request(RETRAIN)
    world.trainer.dies = True
    with pytest.raises(world.crash):
        world.action(RETRAIN).execute(request)
    world.trainer.dies = False

    result = world.action(RETRAIN).execute(request)

    assert result.after == 3
    assert [len(world.trainer.requests), world.version_count()] == [2, 3]


def test_a_lost_lease_stops_it_before_the_next_change(new_world: Callable[..., Any]) -> None:
    """Once another worker has taken over, neither version nor alias is touched."""
    world = new_world()
    action, request = world.action(RETRAIN), world.request(RETRAIN)
    world.lease.lost = True

    with pytest.raises(Fenced):
        action.execute(request)

    assert (world.version_count(), world.registry.champion(world.model)) == (1, 1)


def test_a_lease_lost_during_training_never_moves_the_alias(world: Any) -> None:
    """Fencing is asked again right before the alias moves."""
    request = world.request(RETRAIN)
    train = world.trainer.train

    def train_and_lose(asked: Any) -> Any:
        result = train(asked)
        world.lease.lost = True
        return result

    world.trainer.train = train_and_lose
    with pytest.raises(Fenced):
        world.action(RETRAIN).execute(request)
    assert (world.registry.champion(world.model), world.registry.challenger(world.model)) == (1, None)


def test_a_champion_that_was_moved_meanwhile_stays(world: Any) -> None:
    """The decision was made for another champion: it is refused, and the other one stands."""
    request = world.request(RETRAIN)
    world.set_alias("champion", world.register())

    with pytest.raises(Refused, match=r"champion .* is version 2"):
        world.action(RETRAIN).precheck(request)
    with pytest.raises(Refused):
        world.action(RETRAIN).execute(request)
    assert world.registry.champion(world.model) == 2


def test_a_champion_moved_by_someone_between_intent_and_move_asks_a_human(new_world: Callable[..., Any]) -> None:
    """Begun, and then neither where it was nor where it should be: nobody can tell whether the effect happened."""
    world = new_world(promotion="exact")
    request = world.request(RETRAIN)
    recorded = new_world(promotion="exact")
    recorded.action(RETRAIN).execute(recorded.request(RETRAIN))
    world.crash_at = recorded.steps.index("begun") + 1
    with pytest.raises(world.crash):
        world.action(RETRAIN).execute(request)
    world.set_alias("champion", world.register())
    world.crash_at = None

    with pytest.raises(AskHuman, match="somebody else"):
        world.action(RETRAIN).execute(request)


def test_a_pipeline_that_leaves_no_version_under_its_key_is_given_up(world: Any) -> None:
    """A user's pipeline that forgets the tag cannot be promoted."""
    request = world.request(RETRAIN)
    train = world.trainer.train
    world.trainer.train = lambda asked: train(asked.model_copy(update={"idempotency_key": "another"}))

    with pytest.raises(GiveUp, match="under its key"):
        world.action(RETRAIN).execute(request)
    assert world.registry.champion(world.model) == 1


def test_undo_points_back_once_and_only_from_where_it_was_left(world: Any) -> None:
    """Undone, asked again, and asked after somebody else moved the alias."""
    request = world.request(RETRAIN)
    action = world.action(RETRAIN)
    result = action.execute(request)

    undone = action.undo(request, result)

    assert (undone.before, undone.after, world.registry.champion(world.model)) == (3, 1, 1)
    assert action.undo(request, result).replayed
    other = world.request(RETRAIN)
    second = action.execute(other)
    world.set_alias("champion", 2)
    with pytest.raises(Refused):
        action.undo(other, second)
    assert world.registry.champion(world.model) == 2


def test_undo_survives_a_crash_at_every_step(new_world: Callable[..., Any]) -> None:
    """An undo that died is finished by the next one."""
    for crash_at in (1, 2, 3, 4):
        world = new_world(promotion="exact")
        request = world.request(RETRAIN)
        result = world.action(RETRAIN).execute(request)
        world.steps.clear()
        world.crash_at = crash_at
        with pytest.raises(world.crash):
            world.action(RETRAIN).undo(request, result)
        world.crash_at = None

        assert world.action(RETRAIN).undo(request, result).after == 1
        assert world.registry.champion(world.model) == 1


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"training_rows": None}, "no labelled rows"),
        ({"evaluation_rows": RowSelection(paths=("/data/rows.parquet",))}, "come before"),
        ({"champion_version": 9}, "decision was made for 9"),
    ],
)
def test_precheck_says_what_is_missing(world: Any, changes: dict[str, Any], reason: str) -> None:
    """What cannot be trained and compared on unseen rows is refused before anything is done."""
    with pytest.raises(Refused, match=reason):
        world.action(RETRAIN).precheck(world.request(RETRAIN, **changes))


def test_an_unknown_strategy_is_refused(world: Any) -> None:
    """A strategy that the contract does not know never reaches a training run."""
    with pytest.raises(Refused, match="strategy `magic`"):
        world.action(RETRAIN).execute(world.request(RETRAIN, {"strategy": "magic"}))
    assert world.version_count() == 1


def test_the_newest_rows_of_a_real_table_are_split_off(world: Any, tmp_path: Path) -> None:
    """Given all known rows and "the newest of them", the fit ends where the comparison begins, the refit takes all."""
    file = tmp_path / "rows.parquet"
    times = pd.date_range("2026-01-01", periods=1000, freq="h", tz="UTC")
    pd.DataFrame({"ts": times, "x": range(1000), "y": [0, 1] * 500}).to_parquet(file)
    known = RowSelection(paths=(str(file),), time_column="ts", target="y", labelled_only=True)
    request = world.request(RETRAIN, training_rows=known, evaluation_rows=known.narrowed(last_rows=5000))

    world.action(RETRAIN).execute(request)

    fit, refit = (training.rows for training in world.trainer.requests)
    cut = 1000 - int(1000 * Settings.model_fields["rehearsal"].default.holdout_share)
    assert (fit.row_end, world.comparer.rows[0].row_start, refit.row_end) == (cut, cut, None)


def test_a_table_that_cannot_be_read_is_given_up_in_one_line(world: Any) -> None:
    """A file of the user's that is gone fails the incident with the reason, and trains nothing."""
    known = RowSelection(paths=("/nowhere/rows.parquet",), target="y", labelled_only=True)
    request = world.request(RETRAIN, training_rows=known, evaluation_rows=known.narrowed(last_rows=500))

    with pytest.raises(GiveUp, match=r"^retrain: .*rows\.parquet") as caught:
        world.action(RETRAIN).execute(request)

    assert "\n" not in caught.value.diagnostics()
    assert world.version_count() == 1
