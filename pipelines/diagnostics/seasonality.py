"""Was the window's shape seen before: shifted columns held against earlier windows and stretches of the reference."""

from itertools import pairwise

import numpy as np
import pandas as pd

from driftwarden.contracts.measurements import SeasonalColumn, SeasonalityMeasure
from driftwarden.pipelines.diagnostics.case import (
    Array,
    DiagnosticInput,
    chunk_slices,
    finite,
    ks_distance,
    numbers,
    words,
)
from driftwarden.pipelines.diagnostics.shift import measure_shift

ROWS_MIN = 20
NEAR_FLOOR = 0.25
NEAR_TIMES_TYPICAL = 1.6
CLOSER_THAN_REFERENCE = 0.75


def measure_seasonality(case: DiagnosticInput) -> SeasonalityMeasure:
    """The earlier window that resembles this one most, over all shifted columns together.

    Earlier windows are the history, but for the last ones where this same shift was already there, and stretches of the
    reference of the window's length. One earlier window has to explain all columns: a season moves them together. A column
    was `seen_before` where its distance to that window is within 1.6 times the median distance of neighbouring windows (at
    least 0.25), and below three quarters of its distance to the reference.
    """
    shift = measure_shift(case)
    if shift.unavailable:
        return SeasonalityMeasure(**case.facts, unavailable=shift.unavailable)
    names = [column.name for column in shift.columns if column.shifted]
    earlier = _before_this_shift(case, names) + _stretches(case)
    if not earlier:
        return SeasonalityMeasure(**case.facts, unavailable="no earlier window to compare with")
    if not names:
        return SeasonalityMeasure(**case.facts, windows=len(earlier))
    distances = np.array([[distance(case, name, case.current, rows) for name in names] for _, rows in earlier])
    nearest = int(np.argmin(distances.mean(axis=1)))
    columns = []
    for position, name in enumerate(names):
        typical = _typical(case, name, [rows for _, rows in earlier])
        near = float(distances[nearest, position])
        away = distance(case, name, case.current, case.reference)
        columns.append(
            SeasonalColumn(
                name=name,
                distance_reference=away,
                distance_nearest=near,
                typical=typical,
                nearest=earlier[nearest][0],
                seen_before=near <= max(NEAR_FLOOR, NEAR_TIMES_TYPICAL * typical)
                and near <= CLOSER_THAN_REFERENCE * away,
            )
        )
    explained = sum(column.seen_before for column in columns) / len(columns)
    return SeasonalityMeasure(**case.facts, windows=len(earlier), columns=tuple(columns), explained_share=explained)


def _before_this_shift(case: DiagnosticInput, names: list[str]) -> list[tuple[str, pd.DataFrame]]:
    """The history without its last windows that are already as this one: a shift that goes on is not one that came back."""
    history = [(label, rows) for label, rows in case.history if len(rows) >= ROWS_MIN]
    if not names:
        return history
    away = np.mean([distance(case, name, case.current, case.reference) for name in names])
    while history:
        near = np.mean([distance(case, name, case.current, history[-1][1]) for name in names])
        if near > CLOSER_THAN_REFERENCE * away:
            break
        history.pop()
    return history


def _stretches(case: DiagnosticInput) -> list[tuple[str, pd.DataFrame]]:
    """Overlapping stretches of the reference: a season need not begin where a window does."""
    rows, size = len(case.reference), len(case.current)
    if size < ROWS_MIN or rows < 2 * size:
        return []
    starts = range(0, rows - size + 1, max(1, size // 3))
    return [
        (f"reference rows {start}-{start + size - 1}", case.reference.iloc[start : start + size]) for start in starts
    ]


def distance(case: DiagnosticInput, name: str, first: pd.DataFrame, second: pd.DataFrame) -> float:
    """Distance of two tables in one column, 0..1; 1 where one of them has no values."""
    if name not in first.columns or name not in second.columns:
        return 1.0
    if case.type_of(name) == "numeric":
        value = ks_distance(finite(numbers(first[name])), finite(numbers(second[name])))
    else:
        value = total_variation(words(first[name]), words(second[name]))
    return value if np.isfinite(value) else 1.0


def total_variation(first: Array, second: Array) -> float:
    """Half the sum of the differences of shares, missing values a value of their own."""
    if len(first) == 0 or len(second) == 0:
        return float("nan")
    values, codes = np.unique(np.concatenate([first, second]).astype(str), return_inverse=True)
    before = np.bincount(codes[: len(first)], minlength=len(values)) / len(first)
    now = np.bincount(codes[len(first) :], minlength=len(values)) / len(second)
    return 0.5 * float(np.abs(before - now).sum())


def _typical(case: DiagnosticInput, name: str, earlier: list[pd.DataFrame]) -> float:
    """The median distance of stretches that follow each other."""
    parts = [case.reference.iloc[part] for part in chunk_slices(len(case.reference), len(case.current))] or earlier
    pairs = [distance(case, name, one, other) for one, other in pairwise(parts)]
    return float(np.median(pairs)) if pairs else 0.0
