"""Which rows a challenger may see."""

from typing import Any

import pytest

from driftwarden.actions.rows import needs_split, trial_rows, unseen_training_rows
from driftwarden.contracts.data import ExcludedRows, RowSelection
from driftwarden.errors import Refused

ALL = RowSelection(paths=("/d/rows.parquet",), time_column="ts", target="y")


def test_positions_cut_the_training_rows_before_the_evaluation() -> None:
    """The fit ends where the evaluation begins, the refit where it ends."""
    rows = trial_rows(ALL.narrowed(row_start=10), ALL.narrowed(row_start=80, row_end=100), {}, 50)

    assert (rows.fit.row_start, rows.fit.row_end) == (10, 80)
    assert (rows.refit.row_start, rows.refit.row_end) == (10, None)


def test_times_cut_where_there_are_no_positions() -> None:
    """The same by time; moments in different zones are compared as moments."""
    training = ALL.narrowed(end="2026-01-10T00:00:00Z")
    evaluation = ALL.narrowed(start="2026-01-08T01:00:00+01:00", end="2026-01-12T00:00:00Z")

    rows = trial_rows(training, evaluation, {}, 50)

    assert (rows.fit.end, rows.refit.end) == ("2026-01-08T01:00:00+01:00", "2026-01-12T00:00:00Z")


def test_different_files_are_apart() -> None:
    """Rows of other files need no cut; the refit reads both."""
    evaluation = ALL.narrowed(paths=("/d/window.parquet",))

    rows = trial_rows(ALL, evaluation, {}, 50)

    assert (rows.fit, rows.refit.paths) == (ALL, ("/d/rows.parquet", "/d/window.parquet"))


@pytest.mark.parametrize(
    ("training", "evaluation"),
    [
        (ALL, ALL),
        (ALL, ALL.narrowed(last_rows=10)),
        (ALL.narrowed(row_start=80), ALL.narrowed(row_start=80)),
        (ALL, ALL.narrowed(row_start=80, excluded=(ExcludedRows(path="/d/x"),))),
        (ALL, ALL.narrowed(row_start=80, paths=("/d/rows.parquet", "/d/more.parquet"))),
        (ALL.narrowed(start="2026-01-08T00:00:00Z"), ALL.narrowed(start="2026-01-08T00:00:00Z")),
        (ALL.narrowed(paths=("/d",)), ALL.narrowed(paths=("/d/window.parquet",))),
    ],
)
def test_what_cannot_be_told_apart_is_refused(training: RowSelection, evaluation: RowSelection) -> None:
    """Overlapping or incomparable selections leave no rows that are surely unseen."""
    assert unseen_training_rows(training, evaluation) is None
    with pytest.raises(Refused):
        trial_rows(training, evaluation, {}, 50)


def test_the_newest_rows_need_a_split_first() -> None:
    """Only an evaluation that is the tail of the very training rows is split by reading the table."""
    assert needs_split(ALL, ALL.narrowed(last_rows=10))
    assert not needs_split(ALL, ALL)
    assert not needs_split(ALL, ALL.narrowed(last_rows=10, paths=("/other",)))


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        ({"strategy": "recent"}, {"last_rows": 50}),
        ({"strategy": "recent", "rows": 7}, {"last_rows": 7}),
        ({"strategy": "since_drift", "since": 30}, {"row_start": 30}),
        ({"strategy": "since_drift", "since": "2026-01-08T00:00:00Z"}, {"start": "2026-01-08T00:00:00Z"}),
        ({"strategy": "reweighted"}, {}),
    ],
)
def test_recipes_cut_both_fits(params: dict[str, Any], expected: dict[str, Any]) -> None:
    """The recipe that is compared is the recipe that is refitted."""
    rows = trial_rows(ALL, ALL.narrowed(row_start=80), params, 50)

    assert rows.fit == ALL.narrowed(row_end=80, **expected)
    assert rows.refit == ALL.narrowed(**expected)


@pytest.mark.parametrize(
    "params",
    [
        {"strategy": "recent", "rows": 0},
        {"strategy": "recent", "rows": "many"},
        {"strategy": "since_drift"},
        {"strategy": "since_drift", "since": -1},
        {"strategy": "since_drift", "since": "yesterday"},
    ],
)
def test_recipes_that_make_no_sense_are_refused(params: dict[str, Any]) -> None:
    """A plan's parameters come from an agent: what cannot be read is not guessed."""
    with pytest.raises(Refused):
        trial_rows(ALL, ALL.narrowed(row_start=80), params, 50)
