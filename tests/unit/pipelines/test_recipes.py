"""Recipes: which rows a strategy trains on."""

import numpy as np
import pandas as pd
import pytest

from driftwarden.errors import BadInput
from driftwarden.pipelines.recipes import Recipe

POSITIONS = np.arange(10, 20)
TIMES = pd.Series(pd.date_range("2026-01-01", periods=10, freq="D", tz="UTC"))


@pytest.mark.parametrize(
    ("params", "kept"),
    [
        ({}, 10),
        ({"strategy": "recent"}, 4),
        ({"strategy": "recent", "rows": 2}, 2),
        ({"strategy": "since_drift", "since": 17}, 3),
        ({"strategy": "since_drift", "since": "2026-01-09T00:00:00Z"}, 2),
        ({"strategy": "reweighted"}, 10),
    ],
)
def test_a_strategy_keeps_the_newest_rows(params: dict[str, object], kept: int) -> None:
    """Rows are dropped from the oldest on."""
    keep = Recipe.of(params, recent_rows=4).select(TIMES, POSITIONS)
    assert keep.tolist() == [False] * (10 - kept) + [True] * kept


def test_reweighted_rows_lose_half_their_weight_every_quarter() -> None:
    """The newest row counts one."""
    weights = Recipe.of({"strategy": "reweighted"}, None).weights(101)
    assert weights is not None
    assert weights[-1] == 1
    assert weights[0] == pytest.approx(0.5 ** (100 / (101 / 4)))


@pytest.mark.parametrize(
    "params",
    [
        {"strategy": "other"},
        {"strategy": "recent", "rows": 0},
        {"strategy": "recent", "rows": "many"},
        {"strategy": "since_drift"},
        {"strategy": "since_drift", "since": True},
    ],
)
def test_what_is_not_known_is_refused(params: dict[str, object]) -> None:
    """Parameters come from agents: nothing is guessed."""
    with pytest.raises(BadInput):
        Recipe.of(params, None)


def test_a_time_that_cannot_be_compared_is_refused() -> None:
    """Neither an unreadable time, nor a time without a time column."""
    recipe = Recipe.of({"strategy": "since_drift", "since": "yesterday"}, None)
    for times in (TIMES, None):
        with pytest.raises(BadInput):
            recipe.select(times, POSITIONS)
