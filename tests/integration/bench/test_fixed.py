"""The fixed strategies: what they may learn from, and when."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from driftwarden.contracts.watch import WatchedModel
from driftwarden.service.bench_fixed import (
    ALARM,
    ALL,
    FIXED,
    FROZEN,
    LAST,
    RECENT,
    Player,
    Timing,
    evidently_alarm,
    training_batches,
)

MODEL = WatchedModel.model_validate(
    {"name": "m", "task": "classification", "target": "y", "metric": "accuracy", "features": ["a", "b"]}
)


@given(strategy=st.sampled_from(FIXED), window=st.integers(0, 60), delay=st.integers(0, 12))
def test_no_strategy_sees_a_label_early(strategy: str, window: int, delay: int) -> None:
    """The newest batch that a model in force on window k may be fitted on is window k - 1 - delay."""
    batches = training_batches(strategy, window, Timing(delay))
    newest_window = max(batches, default=0) - 1  # batch 0 is the training rows
    assert newest_window <= max(-1, window - 1 - delay)


def test_labels_are_used_as_soon_as_they_are_there_and_once() -> None:
    """With a delay of two windows, the first retraining is for window 3, on window 0."""
    timing = Timing(2)
    assert [len(training_batches(ALL, window, timing)) for window in range(6)] == [0, 0, 0, 2, 3, 4]
    assert [list(training_batches(LAST, window, timing)) for window in range(5)] == [[], [], [], [1], [2]]
    assert not any(training_batches(FROZEN, window, timing) for window in range(6))


def batches(turn_at: int = 2, shift_at: int = 99) -> list[pd.DataFrame]:
    """Training rows and five windows; the relation turns over at one batch, the inputs move at another."""
    rng = np.random.default_rng(5)
    made = []
    for batch in range(6):
        a, b = rng.normal(size=(2, 400 if batch == 0 else 150))
        sign = -1 if batch >= turn_at else 1
        made.append(
            pd.DataFrame({"a": a + 3 * (batch >= shift_at), "b": b + 3 * (batch >= shift_at), "y": (sign * a > 0) * 1})
        )
    return made


def test_rows_seen_are_the_rows_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every model's training rows, spied on as they are fitted, come from batches whose labels had arrived."""
    tables = [table.assign(a=table["a"].round(1) + 100 * number) for number, table in enumerate(batches())]
    seen: list[set[int]] = []
    fit = Player._fit

    def spied(self: Player, rows: pd.DataFrame) -> object:
        seen.append(set((rows["a"] / 100).round().astype(int)))
        return fit(self, rows)

    monkeypatch.setattr(Player, "_fit", spied)
    player = Player(MODEL, tables, Timing(1), recent_rows=200)
    sides = player.play([ALL, RECENT, LAST])
    for side in sides.values():
        assert [max(used) for used in side.batches] == [0, 1, 2, 3]
        assert side.in_force == [0, 0, 1, 2, 3]
    assert seen[0] == {0}
    assert [max(used) for used in seen[1:]] == [1, 1, 1, 2, 2, 2, 3, 3, 3]
    assert seen[2] == {0, 1}  # the newest 200 rows reach into the training rows
    assert seen[3] == {1}


def test_a_turned_relation_is_learned_by_those_who_retrain() -> None:
    """The frozen model is wrong on every turned window, the one that follows the last window right."""
    player = Player(MODEL, batches(), Timing(), recent_rows=300)
    sides = player.play()
    frozen = [player.score(sides[FROZEN], number, window) for window, number in enumerate(sides[FROZEN].in_force)]
    last = [player.score(sides[LAST], number, window) for window, number in enumerate(sides[LAST].in_force)]
    assert frozen[0] == last[0]
    assert max(score or 0 for score in frozen[1:]) < 0.2
    assert min(score or 0 for score in last[2:]) > 0.9
    assert len(sides[FROZEN].models) == 1
    assert len(sides[LAST].models) == 5


def test_evidently_sounds_on_moved_inputs_and_not_on_moved_labels() -> None:
    """Its alarm retrains once for a shift that stays, since the moved rows are then its reference too."""
    steady = Player(MODEL, batches(), Timing(), recent_rows=300).play([ALARM])[ALARM]
    assert len(steady.models) == 1
    moved = Player(MODEL, batches(turn_at=99, shift_at=3), Timing(), recent_rows=300).play([ALARM])[ALARM]
    assert moved.in_force[2] == 0  # the shift is in window 2: seen at its end
    assert moved.in_force[3] == 1


def test_the_alarm_takes_tables_that_evidently_would_refuse() -> None:
    """A column without a value, a text, a category: left out, or compared as text."""
    reference = pd.DataFrame({"a": np.arange(60.0), "gone": [None] * 60, "kind": ["x", "y", None] * 20})
    assert not evidently_alarm(reference, reference, ["a", "gone", "kind", "absent"])
    assert not evidently_alarm(reference, reference, ["gone"])
    assert evidently_alarm(reference, reference.assign(a=reference["a"] + 500), ["a", "gone"])
