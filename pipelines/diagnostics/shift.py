"""Which columns moved: two-sample tests whose p-values know that rows follow each other in time."""

from typing import Any

import numpy as np
from scipy import stats

from driftwarden.contracts.measurements import ColumnShift, LabelsMeasure, ShiftMeasure
from driftwarden.pipelines.diagnostics.case import (
    CATEGORIES_MAX,
    Array,
    DiagnosticInput,
    chunk_slices,
    column_type,
    design_effect,
    finite,
    holm,
    ks_distance,
    numbers,
    robust_spread,
    words,
)

ALPHA = 0.01
KS_FLOOR = 0.20
MEDIAN_FLOOR = 0.40
VARIATION_FLOOR = 0.10
ROWS_MIN = 20


def measure_shift(case: DiagnosticInput) -> ShiftMeasure:
    """Kolmogorov-Smirnov (numeric) or chi-square (categorical) per feature, Holm over all of them.

    Effective sample sizes replace row counts (`design_effect`). `shifted` needs significance at 0.01 and an effect beyond
    a practical floor: distance of distributions 0.20 or of medians 0.40 spreads, total variation 0.10.
    """
    if min(len(case.reference), len(case.current)) < ROWS_MIN:
        return ShiftMeasure(**case.facts, unavailable=f"too few rows: {len(case.reference)} and {len(case.current)}")
    found = [shift for name in case.shared if (shift := column_shift(case, name)) is not None]
    if not found:
        return ShiftMeasure(**case.facts, unavailable="no feature has values in both tables")
    adjusted = holm([shift.p_value for shift in found])
    columns = [
        shift.model_copy(update={"p_adjusted": p, "shifted": p < ALPHA and _matters(shift)})
        for shift, p in zip(found, adjusted, strict=True)
    ]
    columns.sort(key=lambda shift: (not shift.shifted, -strength(shift), shift.name))
    return ShiftMeasure(**case.facts, alpha=ALPHA, columns=tuple(columns))


def strength(shift: ColumnShift) -> float:
    """How far a column moved, 0..1, on one scale for both types: distance of distributions, or total variation."""
    return shift.statistic if shift.type == "numeric" else shift.effect


def _matters(shift: ColumnShift) -> bool:
    if shift.type == "categorical":
        return shift.effect >= VARIATION_FLOOR
    return shift.statistic >= KS_FLOOR or (abs(shift.effect) >= MEDIAN_FLOOR and shift.statistic >= KS_FLOOR / 2)


def column_shift(case: DiagnosticInput, name: str) -> ColumnShift | None:
    """One column's shift, uncorrected; None where a table has too few values."""
    if case.type_of(name) == "numeric":
        return _numeric(name, case.values("reference", name), case.values("current", name))
    return _categorical(name, words(case.reference[name]), words(case.current[name]))


def _numeric(name: str, reference: Array, current: Array) -> ColumnShift | None:
    first, second = finite(reference), finite(current)
    if min(len(first), len(second)) < ROWS_MIN:
        return None
    distance = ks_distance(first, second)
    size = len(first) * len(second) / (len(first) + len(second)) / design_effect(first, second)
    spread = robust_spread(first) or robust_spread(second) or 1.0
    p_value = float(stats.kstwobign.sf(np.sqrt(size) * distance))
    return ColumnShift(
        name=name,
        type="numeric",
        method="kolmogorov-smirnov",
        statistic=round(distance, 6),
        p_value=p_value,
        p_adjusted=p_value,
        effect=_bounded((np.median(second) - np.median(first)) / spread),
        shifted=False,
        reference=summary(first),
        current=summary(second),
    )


def _categorical(name: str, reference: Array, current: Array) -> ColumnShift | None:
    first, second = _present(reference), _present(current)
    if min(len(first), len(second)) < ROWS_MIN:
        return None
    statistic, p_value, variation = compare_counts(first, second)
    return ColumnShift(
        name=name,
        type="categorical",
        method="chi-square",
        statistic=_bounded(statistic),
        p_value=p_value,
        p_adjusted=p_value,
        effect=variation,
        shifted=False,
        reference=shares(first),
        current=shares(second),
    )


def _present(values: Array) -> Array:
    return np.array([value for value in values if value is not None], dtype=object)


def compare_counts(reference: Array, current: Array) -> tuple[float, float, float]:
    """Chi-square statistic (first-order Rao-Scott: divided by the design effect), its p-value, and the total variation.

    The design effect is the median of the statistic per degree of freedom among stretches of the reference. Values
    beyond the 30 most frequent are counted together.
    """
    table = _table(reference, current)
    variation = 0.5 * float(np.abs(table[0] / table[0].sum() - table[1] / table[1].sum()).sum())
    if table.shape[1] < 2:
        return 0.0, 1.0, variation
    statistic, degrees = _chi_square(table)
    inner = []
    for part in chunk_slices(len(reference), len(current)):
        rest = np.concatenate([reference[: part.start], reference[part.stop :]])
        within = _table(rest, reference[part])
        if within.shape[1] > 1:
            value, freedom = _chi_square(within)
            inner.append(value / float(stats.chi2.median(freedom)))
    effect = max(1.0, float(np.median(inner))) if inner else 1.0
    return statistic / effect, float(stats.chi2.sf(statistic / effect, degrees)), variation


def _chi_square(table: Array) -> tuple[float, int]:
    result = stats.chi2_contingency(table, correction=False)
    return float(result.statistic), int(result.dof)


def _table(reference: Array, current: Array) -> Array:
    values, codes = np.unique(np.concatenate([reference, current]).astype(str), return_inverse=True)
    first = np.bincount(codes[: len(reference)], minlength=len(values)).astype(float)
    second = np.bincount(codes[len(reference) :], minlength=len(values)).astype(float)
    if len(values) > CATEGORIES_MAX:
        order = np.argsort(-(first + second), kind="stable")
        kept, rare = order[: CATEGORIES_MAX - 1], order[CATEGORIES_MAX - 1 :]
        first = np.append(first[kept], first[rare].sum())
        second = np.append(second[kept], second[rare].sum())
    return np.vstack([first, second])


def summary(values: Array) -> dict[str, Any]:
    """Quantiles, mean and spread of a sample, as plain numbers."""
    low, median, high = np.percentile(values, [5, 50, 95])
    return {
        "rows": len(values),
        "p05": _bounded(low),
        "median": _bounded(median),
        "p95": _bounded(high),
        "mean": _bounded(values.mean()),
        "spread": _bounded(robust_spread(values)),
    }


def shares(values: Array) -> dict[str, Any]:
    """Shares of the ten most frequent values."""
    names, counts = np.unique(values.astype(str), return_counts=True)
    order = np.argsort(-counts, kind="stable")[:10]
    top = {str(names[position])[:60]: round(float(counts[position]) / len(values), 6) for position in order}
    return {"rows": len(values), "shares": top}


def _bounded(value: Any) -> float:
    number = float(value)
    return float(np.clip(number, -1e12, 1e12)) if np.isfinite(number) else 0.0


def measure_labels(case: DiagnosticInput) -> LabelsMeasure:
    """The target's distribution, by the same tests as a feature's."""
    target = case.target
    if target is None or target not in case.reference.columns or target not in case.current.columns:
        return LabelsMeasure(**case.facts, unavailable="the target is not in both tables")
    numeric = case.task == "regression" and column_type(case.reference[target]) == "numeric"
    if numeric:
        shift = _numeric(target, numbers(case.reference[target]), numbers(case.current[target]))
    else:
        shift = _categorical(target, words(case.reference[target]), words(case.current[target]))
    if shift is None:
        return LabelsMeasure(**case.facts, unavailable="too few labelled rows")
    return LabelsMeasure(
        **case.facts,
        method=shift.method,
        statistic=shift.statistic,
        p_value=shift.p_value,
        effect=shift.effect,
        shifted=shift.p_value < ALPHA and _matters(shift),
        reference=shift.reference,
        current=shift.current,
    )
