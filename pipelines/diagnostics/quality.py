"""Is the window's data sound: columns and types, missing, stuck, infinite and far-out values, unknown categories."""

from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from driftwarden.contracts.measurements import (
    CategoriesMeasure,
    ColumnQuality,
    NewCategory,
    QualityMeasure,
    SchemaMeasure,
)
from driftwarden.pipelines.diagnostics.bootstrap import dependence_length
from driftwarden.pipelines.diagnostics.case import (
    Array,
    DiagnosticInput,
    column_type,
    finite,
    holm,
    ks_distance,
    words,
)

ALPHA = 0.01
MISSING_FLOOR = 0.02
STUCK_ROWS_MIN = 10
STUCK_TIMES_REFERENCE = 3
STUCK_SHARE_MIN = 0.02
OUTLIER_FLOOR = 0.005
SWAP_BEFORE_MIN = 0.3
SWAP_AFTER_MAX = 0.2
_VALUES_SHOWN = 10


def measure_schema(case: DiagnosticInput) -> SchemaMeasure:
    """Columns that vanished, came or changed type, and pairs that hold each other's distribution.

    Target, time column and whatever is not a feature are not missed; a column without any value has no type to change.
    """
    if len(case.reference.columns) == 0:
        return SchemaMeasure(**case.facts, unavailable="the reference has no columns")
    expected = [name for name in case.columns if name in case.reference.columns]
    here = set(case.current.columns)
    aside = {case.target, case.time_column}
    changes = []
    for name in expected:
        if name in here:
            before, after = case.type_of(name), column_type(case.current[name])
            if before != after and "empty" not in {before, after}:
                changes.append({"name": name, "reference": before, "current": after})
    return SchemaMeasure(
        **case.facts,
        vanished=tuple(name for name in expected if name not in here),
        added=tuple(n for n in case.current.columns if n not in case.reference.columns and n not in aside),
        type_changes=tuple(changes),
        swapped=_swapped(case),
    )


def _swapped(case: DiagnosticInput) -> tuple[tuple[str, str], ...]:
    """Pairs of numeric features where each lies far from its own reference and near the other's."""
    names = [name for name in case.shared if case.type_of(name) == "numeric"]
    reference = {name: finite(case.values("reference", name)) for name in names}
    current = {name: finite(case.values("current", name)) for name in names}
    own = {name: ks_distance(reference[name], current[name]) for name in names}
    moved = [name for name in names if own[name] >= SWAP_BEFORE_MIN]
    found = []
    for position, first in enumerate(moved):
        for second in moved[position + 1 :]:
            crossed = max(
                ks_distance(reference[first], current[second]), ks_distance(reference[second], current[first])
            )
            if crossed <= SWAP_AFTER_MAX and crossed <= min(own[first], own[second]) / 2:
                found.append((first, second))
    return tuple(found)


def measure_quality(case: DiagnosticInput) -> QualityMeasure:
    """Missing, stuck, infinite and far-out values of every feature that both tables have."""
    names = [name for name in case.columns if name in case.reference.columns and name in case.current.columns]
    if not names or len(case.current) == 0 or len(case.reference) == 0:
        return QualityMeasure(**case.facts, unavailable="no rows or no feature in both tables")
    missing = [_missing(case.reference[name], case.current[name]) for name in names]
    adjusted = holm([p for _, _, p in missing])
    columns = []
    for name, (before, now, _), p in zip(names, missing, adjusted, strict=True):
        columns.append(
            ColumnQuality(
                name=name,
                missing_reference=before,
                missing_current=now,
                missing_p_adjusted=p,
                missing_suspect=p < ALPHA and now - before >= MISSING_FLOOR,
                **(_numeric_quality(case, name) if name in case.shared and case.type_of(name) == "numeric" else {}),
            )
        )
    columns.sort(key=lambda column: (not _suspect(column), -column.missing_current, column.name))
    return QualityMeasure(**case.facts, columns=tuple(columns))


def _suspect(column: ColumnQuality) -> bool:
    return column.missing_suspect or column.stuck_suspect or column.outlier_suspect or column.infinite_rows > 0


def _missing(reference: "pd.Series[Any]", current: "pd.Series[Any]") -> tuple[float, float, float]:
    """Shares missing, and the one-sided p-value that more are missing now.

    Two proportions over effective rows: gaps come in bursts, which are no more than one event. A window that misses more
    than the reference ever did in a stretch of its length is judged on the number of bursts, at least ten rows' worth.
    """
    first, second = reference.isna().to_numpy(dtype=float), current.isna().to_numpy(dtype=float)
    before, now = float(first.mean()), float(second.mean())
    if now <= before:
        return before, now, 1.0
    rows_first = max(10.0, len(first) / dependence_length(first))
    rows_second = min(float(len(second)), max(10.0, len(second) / dependence_length(second)))
    pooled = (before * rows_first + now * rows_second + 0.5) / (rows_first + rows_second + 1)
    error = float(np.sqrt(pooled * (1 - pooled) * (1 / rows_first + 1 / rows_second)))
    return before, now, float(stats.norm.sf((now - before) / error))


def _numeric_quality(case: DiagnosticInput, name: str) -> dict[str, Any]:
    reference, current = case.values("reference", name), case.values("current", name)
    run, usual = longest_run(current), longest_run(reference)
    needed = max(STUCK_ROWS_MIN, STUCK_TIMES_REFERENCE * usual, STUCK_SHARE_MIN * len(current))
    before, now, rows = _outliers(finite(reference), finite(current))
    return {
        "infinite_rows": _infinite(case.current[name]),
        "stuck_rows": run,
        "stuck_share": run / max(1, len(current)),
        "stuck_suspect": run >= needed,
        "outlier_reference": before,
        "outlier_share": now,
        "outlier_suspect": rows >= 3 and now >= max(3 * before, before + OUTLIER_FLOOR),
    }


def _infinite(column: "pd.Series[Any]") -> int:
    if not pd.api.types.is_float_dtype(column.dtype):
        return 0
    return int(np.isinf(column.to_numpy(dtype=float, na_value=np.nan)).sum())


def longest_run(values: Array) -> int:
    """The longest run of rows with exactly one value; a gap ends a run."""
    if len(values) == 0:
        return 0
    breaks = np.flatnonzero(~np.isfinite(values) | np.r_[True, values[1:] != values[:-1]])
    lengths = np.diff(np.r_[breaks, len(values)])
    valid = np.isfinite(values[breaks])
    return int(lengths[valid].max(initial=0))


def _outliers(reference: Array, current: Array) -> tuple[float, float, int]:
    """Shares of rows beyond three interquartile ranges from the quartiles, and the window's number of them.

    A row of the window has to be far out by the window's own quartiles as well: a cold month is no burst of outliers.
    """
    if len(reference) < 20 or len(current) == 0:
        return 0.0, 0.0, 0
    low, high = np.percentile(reference, [25, 75])
    low_now, high_now = np.percentile(current, [25, 75])
    reach, reach_now = 3 * (high - low), 3 * max(high - low, high_now - low_now)
    if reach == 0:
        return 0.0, 0.0, 0
    before = (reference < low - reach) | (reference > high + reach)
    below, above = min(low - reach, low_now - reach_now), max(high + reach, high_now + reach_now)
    now = (current < below) | (current > above)
    return float(before.mean()), float(now.mean()), int(now.sum())


def measure_categories(case: DiagnosticInput) -> CategoriesMeasure:
    """Values of categorical features that the reference never held, beyond what a rare value's turn explains.

    The share of values still unseen is estimated as the reference's share of values seen once (Good, 1953); a column is
    listed where the window's share of new values is more than three times that, in at least three rows or one in a hundred.
    """
    names = [name for name in case.shared if case.type_of(name) == "categorical"]
    if len(case.current) == 0:
        return CategoriesMeasure(**case.facts, unavailable="the window is empty")
    found = []
    for name in names:
        known, counts = np.unique(
            [value for value in words(case.reference[name]) if value is not None], return_counts=True
        )
        current = [value for value in words(case.current[name]) if value is not None]
        unknown = [value for value in current if value not in set(known.tolist())]
        share = len(unknown) / len(case.current)
        expected = float((counts == 1).sum()) / max(1, int(counts.sum()))
        if unknown and share > 3 * expected and (len(unknown) >= 3 or share >= 0.01):
            values, seen = np.unique(unknown, return_counts=True)
            order = np.argsort(-seen, kind="stable")[:_VALUES_SHOWN]
            found.append(
                NewCategory(
                    name=name,
                    values=tuple(str(values[position])[:80] for position in order),
                    rows=len(unknown),
                    share=share,
                    known_values=len(known),
                )
            )
    found.sort(key=lambda column: (-column.share, column.name))
    return CategoriesMeasure(**case.facts, columns=tuple(found))
