"""What is measured: a reference table, a window, earlier windows, and what the champion said of them.

Beside it the few helpers that every measurement shares: which columns are numeric, clean values, the distance of two
samples, and how much less than independent rows a table's rows are worth.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from driftwarden.pipelines.diagnostics.bootstrap import dependence_length

Array = NDArray[Any]
ColumnType = Literal["numeric", "categorical", "datetime", "empty"]
Kept = TypeVar("Kept")

ROWS_MAX = 20_000
CATEGORIES_MAX = 30
MAGNITUDE_MAX = 1e100  # beyond, squares and conversions overflow
KOLMOGOROV_MEDIAN = 0.8276
_NUMERIC_SHARE_MIN = 0.95


@dataclass
class DiagnosticInput:
    """One case to measure; tables in time order, one row per observation.

    `history`: earlier windows (label, rows), oldest first. `features` may be empty: then every column but target and time.
    `metric` is a scikit-learn scorer's name (`rmse`, `mae`, `log_loss` are understood). Predictions belong to the rows of
    `reference` and `current` one by one; `*_score` is the positive class's probability. The champion must not have been
    fitted on the rows that `reference_prediction` is judged on (hold-out or out of fold), or every window looks worse.
    `reported_performance` is the event's own (`metric`, `reference`, `current`, `higher_is_better`).
    Tables longer than 20,000 rows are read from their end. Results of a case are kept: do not change it afterwards.
    """

    reference: pd.DataFrame
    current: pd.DataFrame
    history: list[tuple[str, pd.DataFrame]] = field(default_factory=list)
    features: list[str] = field(default_factory=list)
    target: str | None = None
    time_column: str | None = None
    task: Literal["classification", "regression"] = "classification"
    metric: str = "accuracy"
    higher_is_better: bool = True
    reference_prediction: Array | None = None
    current_prediction: Array | None = None
    reference_score: Array | None = None
    current_score: Array | None = None
    reported_performance: dict[str, Any] | None = None
    seed: int = 0
    _kept: dict[str, Any] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Cut what is too long, and give tables plain string column names without repeats."""
        self.reference, self.reference_prediction, self.reference_score = _tail(
            self.reference, self.reference_prediction, self.reference_score
        )
        self.current, self.current_prediction, self.current_score = _tail(
            self.current, self.current_prediction, self.current_score
        )
        self.history = [(label, _plain_names(rows.tail(ROWS_MAX))) for label, rows in self.history]

    def keep(self, key: str, make: Callable[[], Kept]) -> Kept:
        """Make something once per case."""
        if key not in self._kept:
            self._kept[key] = make()
        kept: Kept = self._kept[key]
        return kept

    @property
    def columns(self) -> list[str]:
        """The features that are named, or every column of the reference but target and time."""
        if self.features:
            return list(dict.fromkeys(str(name) for name in self.features))
        return [name for name in self.reference.columns if name not in {self.target, self.time_column}]

    @property
    def shared(self) -> list[str]:
        """Features that both tables have, with a value in the reference, of one type, dates left out."""
        return self.keep("shared", self._shared)

    def _shared(self) -> list[str]:
        return [
            name
            for name in self.columns
            if name in self.reference.columns
            and name in self.current.columns
            and self.type_of(name) in {"numeric", "categorical"}
            and (self.type_of(name) == "categorical" or column_type(self.current[name]) in {"numeric", "empty"})
        ]

    def type_of(self, name: str) -> ColumnType:
        """The column's type in the reference."""
        return self.keep(f"type:{name}", lambda: column_type(self.reference[name]))

    def values(self, table: Literal["reference", "current"], name: str) -> Array:
        """A column's numbers in time order, NaN where there is none (missing, infinite, not a number)."""
        return self.keep(f"{table}:{name}", lambda: numbers(getattr(self, table)[name]))

    @property
    def facts(self) -> dict[str, Any]:
        """The fields that every result carries."""
        return {"rows_reference": len(self.reference), "rows_current": len(self.current)}


def _tail(table: pd.DataFrame, *beside: Array | None) -> tuple[Any, ...]:
    kept = []
    for array in beside:
        aligned = None if array is None else np.asarray(array).ravel()
        kept.append(aligned[-ROWS_MAX:] if aligned is not None and len(aligned) == len(table) else None)
    return (_plain_names(table.tail(ROWS_MAX)), *kept)


def _plain_names(table: pd.DataFrame) -> pd.DataFrame:
    named = table.copy(deep=False)
    named.columns = [str(name) for name in table.columns]
    return named.loc[:, ~named.columns.duplicated()].reset_index(drop=True)


def column_type(column: "pd.Series[Any]") -> ColumnType:
    """`numeric` where the dtype is, or where nearly every value reads as a number; flags and words are `categorical`."""
    if pd.api.types.is_datetime64_any_dtype(column.dtype) or pd.api.types.is_timedelta64_dtype(column.dtype):
        return "datetime"
    present = column.dropna()
    if present.empty:
        return "empty"
    if pd.api.types.is_bool_dtype(column.dtype):
        return "categorical"
    if pd.api.types.is_numeric_dtype(column.dtype):
        return "numeric" if not pd.api.types.is_complex_dtype(column.dtype) else "categorical"
    if isinstance(column.dtype, pd.CategoricalDtype) or present.map(lambda value: isinstance(value, bool)).all():
        return "categorical"
    readable = pd.to_numeric(present.astype(str), errors="coerce").notna().mean()
    return "numeric" if readable >= _NUMERIC_SHARE_MIN else "categorical"


def numbers(column: "pd.Series[Any]") -> Array:
    """Values as floats; NaN for what is missing, infinite or not a number."""
    if pd.api.types.is_numeric_dtype(column.dtype) and not pd.api.types.is_complex_dtype(column.dtype):
        values = column.to_numpy(dtype=float, na_value=np.nan)
    else:
        values = pd.to_numeric(column.astype(str), errors="coerce").to_numpy(dtype=float)
    return np.where(np.isfinite(values), np.clip(values, -MAGNITUDE_MAX, MAGNITUDE_MAX), np.nan)


def words(column: "pd.Series[Any]") -> Array:
    """Values as text, None where missing."""
    present = column.notna().to_numpy()
    text: Array = column.astype(object).map(str).to_numpy(dtype=object).copy()
    text[~present] = None
    return text


def finite(values: Array) -> Array:
    """The values that are numbers."""
    return np.asarray(values[np.isfinite(values)])


def ks_distance(first: Array, second: Array) -> float:
    """The greatest distance of two empirical distribution functions, 0 (same) to 1 (disjoint); NaN without values."""
    if len(first) == 0 or len(second) == 0:
        return float("nan")
    first, second = np.sort(first), np.sort(second)
    grid = np.concatenate([first, second])
    below_first = np.searchsorted(first, grid, side="right") / len(first)
    below_second = np.searchsorted(second, grid, side="right") / len(second)
    return float(np.abs(below_first - below_second).max())


def robust_spread(values: Array) -> float:
    """The interquartile range on the scale of a standard deviation; the standard deviation where that is zero."""
    if len(values) == 0:
        return 0.0
    low, high = np.percentile(values, [25, 75])
    return float((high - low) / 1.349) or float(values.std())


def chunk_slices(rows: int, size: int) -> list[slice]:
    """Consecutive stretches of about `size` rows, at least four of them where there are 40 rows."""
    size = max(10, min(size, rows // 4))
    count = rows // size
    return [slice(rows - (count - step) * size, rows - (count - step - 1) * size) for step in range(count)]


def stretch_distances(values: Array, size: int) -> list[float]:
    """The distance of every stretch of the reference to the rest of it: how far windows lie without any fault."""
    distances = []
    for part in chunk_slices(len(values), size):
        rest = np.concatenate([values[: part.start], values[part.stop :]])
        distances.append(ks_distance(finite(values[part]), finite(rest)))
    return [distance for distance in distances if np.isfinite(distance)]


def typical_distance(values: Array, size: int) -> float:
    """The median of `stretch_distances`."""
    return float(np.median(stretch_distances(values, size) or [0.0]))


def design_effect(reference: Array, current: Array) -> float:
    """How many rows of these columns, in time order, are worth one independent row (at least 1).

    The larger of two estimates: the window's integrated autocorrelation time, and what the distances among stretches of
    the reference imply (under independence their median would be the Kolmogorov distribution's), which also sees
    slow movements that outlast a window.
    """
    rows, size = len(reference), max(10, min(len(current), len(reference) // 4))
    independent = size * (rows - size) / rows if rows > size else 1.0
    implied = independent * (typical_distance(reference, size) / KOLMOGOROV_MEDIAN) ** 2
    longest = max(1.0, len(current) / 5)
    return float(min(longest, max(1.0, dependence_length(current), implied)))


def holm(p_values: list[float]) -> list[float]:
    """Holm's step-down correction (1979): the family-wise error over all columns, under any dependence."""
    order = np.argsort(p_values, kind="stable")
    adjusted, running = [1.0] * len(p_values), 0.0
    for rank, position in enumerate(order):
        running = max(running, min(1.0, p_values[position] * (len(p_values) - rank)))
        adjusted[int(position)] = running
    return adjusted
