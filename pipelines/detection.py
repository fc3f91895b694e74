"""What drifted between a reference and a window: validated first, then tested with Evidently, false alarms controlled.

Evidently raises for a whole report where one column is absent, empty or text among numbers, so that is settled before.
Its default methods alarm on stationary data (its chi-square takes the reference as exact; its distances need a thousand
rows), so the methods are chosen here: Kolmogorov-Smirnov for numbers, a contingency test for categories, at `alpha`
divided by the number of columns (Bonferroni), and a smallest effect, since with many rows any difference is significant.
"""

import functools
import os
import warnings
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import pandas as pd
from scipy import stats

from driftwarden.pipelines.estimator import column_kind

JsonObject = dict[str, Any]
Table = TypeVar("Table", pd.DataFrame, "pd.Series[Any]")

ALPHA = 0.01
EFFECT_MIN = 0.1  # largest difference of the distribution functions, or total variation
ROWS_MAX = 5_000  # per side and test: more rows only make smaller differences significant
ROWS_MIN = 20
MISSING_MIN = 0.05  # a smaller rise of the missing share is no fault of the data
CATEGORIES_MAX = 100
CONTINGENCY = "driftwarden_contingency"
_SAME_KIND_MIN = 0.95


@dataclass(frozen=True)
class Schema:
    """Columns that vanished, came, or changed kind (`name`, `reference`, `current`)."""

    vanished: tuple[str, ...] = ()
    added: tuple[str, ...] = ()
    type_changes: tuple[JsonObject, ...] = ()

    @property
    def changed(self) -> bool:
        """Whether a column that the model may rely on is gone or different; new columns alone harm nobody."""
        return bool(self.vanished or self.type_changes)


@dataclass
class Detection:
    """Measured columns (as in the contract's `columns`), those left out (name: why), the schema's difference."""

    columns: list[JsonObject]
    schema: Schema
    left_out: dict[str, str] = field(default_factory=dict)

    def drifted(self, role: str | None = None) -> list[JsonObject]:
        """The columns that drifted, of one role or of all."""
        return [column for column in self.columns if column["drifted"] and role in {None, column["role"]}]


@dataclass(frozen=True)
class Roles:
    """Columns that are no features; `time` orders the rows and is not tested."""

    target: str | None = None
    prediction: str | None = None
    time: str | None = None

    def of(self, name: str) -> str:
        """The role of a column in an event."""
        return {self.target: "target", self.prediction: "prediction"}.get(name, "feature")


def compare_schema(reference: pd.DataFrame, current: pd.DataFrame, roles: Roles) -> Schema:
    """How the window's columns differ from the reference's; the target may be absent (labels come later)."""
    late = {roles.target, roles.prediction, roles.time}
    vanished = tuple(str(name) for name in reference.columns if name not in current.columns and name not in late)
    added = tuple(str(name) for name in current.columns if name not in reference.columns and name not in late)
    changes = []
    for name in reference.columns:
        if name not in current.columns or name == roles.time or not current[name].notna().any():
            continue
        was, now = column_kind(reference[name]), column_kind(current[name])
        unreadable = was == "numeric" and now != "numeric" and reference[name].notna().any()
        recoded = was == "categorical" and now in {"numeric", "datetime"} and not _same_values(reference, current, name)
        if unreadable or recoded:
            changes.append({"name": str(name), "reference": was, "current": now})
    return Schema(vanished, added, tuple(changes))


def _same_values(reference: pd.DataFrame, current: pd.DataFrame, name: str) -> bool:
    known = set(reference[name].dropna().astype(str))
    return bool(current[name].dropna().astype(str).isin(known).mean() >= _SAME_KIND_MIN)


def detect(reference: pd.DataFrame, current: pd.DataFrame, roles: Roles, *, alpha: float = ALPHA) -> Detection:
    """Compare a window (m rows) with a reference (n rows), column by column; never raises for bad data."""
    found = Detection([], compare_schema(reference, current, roles))
    changed = {change["name"] for change in found.schema.type_changes}
    kinds: dict[str, str] = {}
    for name in map(str, reference.columns):
        if name == roles.time or name not in current.columns or name in changed:
            continue
        kind = column_kind(reference[name])
        reason = _left_out(reference[name], current[name], kind, name == roles.target)
        if reason:
            found.left_out[name] = reason
        else:
            kinds[name] = kind
    threshold = alpha / max(1, 2 * len(kinds))  # two tests a column: values and missing share
    tested: dict[str, str] = {}
    for name, kind in kinds.items():
        missing = _missing(reference[name], current[name], threshold)
        if missing is not None:
            found.columns.append({"name": name, "type": kind, "role": roles.of(name), **missing})
        elif min(_known(reference[name], kind).notna().sum(), _known(current[name], kind).notna().sum()) < ROWS_MIN:
            found.left_out[name] = f"fewer than {ROWS_MIN} values"
        else:
            tested[name] = kind
    for name, result in _evidently(reference, current, tested, threshold).items():
        found.columns.append({"name": name, "type": tested[name], "role": roles.of(name), **result})
    order = {str(name): position for position, name in enumerate(reference.columns)}
    found.columns.sort(key=lambda column: order[column["name"]])
    return found


def _left_out(reference: "pd.Series[Any]", current: "pd.Series[Any]", kind: str, is_target: bool) -> str:
    if kind in {"text", "datetime"}:
        return f"{kind} is not tested"
    if not len(current):
        return "the window is empty"
    if not reference.notna().any():
        return "the reference holds no value"
    if is_target and not current.notna().any():
        return "no label yet"
    return "a row number" if kind == "numeric" and _is_row_number(reference) and _is_row_number(current) else ""


def _is_row_number(values: "pd.Series[Any]") -> bool:
    if not pd.api.types.is_integer_dtype(values.dtype) or len(values) < ROWS_MIN:
        return False
    return bool((np.diff(values.to_numpy(dtype="float64", na_value=np.nan)) > 0).all())


def _missing(reference: "pd.Series[Any]", current: "pd.Series[Any]", threshold: float) -> JsonObject | None:
    """The missing share where it rose: one-sided exact test of two shares, and at least five points."""
    gone, total = int(current.isna().sum()), len(current)
    gone_before, total_before = int(reference.isna().sum()), len(reference)
    before, now = gone_before / max(1, total_before), gone / max(1, total)
    if now - before < MISSING_MIN:
        return None
    table = [[gone, total - gone], [gone_before, total_before - gone_before]]
    p_value = float(stats.fisher_exact(table, alternative="greater").pvalue)
    if p_value >= threshold:
        return None
    return {
        "method": "missing_share",
        "score": now,
        "threshold": before + MISSING_MIN,
        "drifted": True,
        "effect": now - before,
    }


def _known(values: "pd.Series[Any]", kind: str) -> "pd.Series[Any]":
    if kind != "numeric":
        texts = values.astype(object)
        texts[values.notna()] = values[values.notna()].map(str)
        return texts
    numbers = pd.to_numeric(values, errors="coerce").astype("float64")
    return numbers.where(np.isfinite(numbers))


def evenly(rows: Table, rows_max: int) -> Table:
    """At most `rows_max` rows (or values) at even distances, in order."""
    if len(rows) <= rows_max:
        return rows
    return rows.iloc[np.linspace(0, len(rows) - 1, rows_max).round().astype(int)]


def _evidently(
    reference: pd.DataFrame, current: pd.DataFrame, kinds: dict[str, str], threshold: float
) -> dict[str, JsonObject]:
    """Evidently's p-value of every column; each column is tested on its own known values."""
    if not kinds:
        return {}
    os.environ.setdefault(
        "DO_NOT_TRACK", "true"
    )  # no telemetry; nothing else, since this also runs in users' processes
    from evidently import DataDefinition, Dataset, Report
    from evidently.metrics import ValueDrift

    _register_contingency()
    before, now = (
        {
            name: evenly(_known(side[name], kind).dropna(), ROWS_MAX).reset_index(drop=True)
            for name, kind in kinds.items()
        }
        for side in (reference, current)
    )
    for name, kind in kinds.items():
        if kind == "categorical":
            before[name], now[name] = _folded(before[name], now[name])
    # Evidently names columns in its report; positions keep a user's names (dots, spaces, duplicates by case) out of it.
    alias = {name: f"column_{index}" for index, name in enumerate(kinds)}
    definition = DataDefinition(
        numerical_columns=[alias[name] for name, kind in kinds.items() if kind == "numeric"],
        categorical_columns=[alias[name] for name, kind in kinds.items() if kind == "categorical"],
    )
    method = {name: "ks" if kind == "numeric" else CONTINGENCY for name, kind in kinds.items()}
    report = Report([ValueDrift(column=alias[name], method=method[name], threshold=threshold) for name in kinds])
    sides = [
        Dataset.from_pandas(pd.DataFrame({alias[name]: values for name, values in side.items()}), definition)
        for side in (now, before)
    ]
    with warnings.catch_warnings():  # scipy says where it takes the asymptotic p-value, which is what is wanted
        warnings.filterwarnings("ignore", category=RuntimeWarning, message="ks_2samp")
        snapshot = report.run(*sides)
    p_values = {item["config"]["column"]: float(item["value"]) for item in snapshot.dict()["metrics"]}
    results: dict[str, JsonObject] = {}
    for name, kind in kinds.items():
        effect = distance(before[name], now[name], kind)
        p_value = p_values[alias[name]]
        results[name] = {
            "method": method[name].removeprefix("driftwarden_"),
            "score": p_value,
            "threshold": threshold,
            "drifted": bool(p_value < threshold and effect >= EFFECT_MIN),
            "effect": effect,
        }
    return results


def distance(reference: "pd.Series[Any]", current: "pd.Series[Any]", kind: str) -> float:
    """Largest difference of the two distribution functions (numeric), total variation (categorical): 0..1."""
    if kind == "numeric":
        return float(stats.ks_2samp(reference, current, method="asymp").statistic)
    shares = pd.concat([reference.value_counts(normalize=True), current.value_counts(normalize=True)], axis=1).fillna(0)
    return float(0.5 * (shares.iloc[:, 0] - shares.iloc[:, 1]).abs().sum())


def _folded(reference: "pd.Series[Any]", current: "pd.Series[Any]") -> "tuple[pd.Series[Any], pd.Series[Any]]":
    """Rare categories as one, so that the contingency test's approximation holds."""
    counts = pd.concat([reference, current]).value_counts()
    kept = set(counts[counts >= 10].index[:CATEGORIES_MAX])
    return reference.where(reference.isin(kept), "(rare)"), current.where(current.isin(kept), "(rare)")


@functools.cache
def _register_contingency() -> None:
    """Teach Evidently the test of two samples that its chi-square is not."""
    from evidently.legacy.calculations.stattests.registry import StatTest, register_stattest
    from evidently.legacy.core import ColumnType

    test = StatTest(
        name=CONTINGENCY,
        display_name="contingency chi-square p_value",
        allowed_feature_types=[ColumnType.Categorical],
        default_threshold=ALPHA,
    )
    register_stattest(test, _contingency)


def _contingency(
    reference_data: "pd.Series[Any]", current_data: "pd.Series[Any]", feature_type: Any, threshold: float
) -> tuple[float, bool]:
    table = pd.concat([reference_data.value_counts(), current_data.value_counts()], axis=1).fillna(0).to_numpy().T
    if table.shape[1] < 2 or (table.sum(axis=1) == 0).any():
        return 1.0, False
    p_value = float(stats.chi2_contingency(table)[1])
    return p_value, p_value < threshold
