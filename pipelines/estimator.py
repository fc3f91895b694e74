"""The shipped estimator: gradient-boosted trees over any table, made of scikit-learn's own parts only.

What a fitted model expects stands in its first step, so that a version loads and scores without this package.
Numbers keep their missing values, categories are native (unseen ones count as missing), moments become clock features.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import OrdinalEncoder
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from driftwarden.errors import BadInput, GiveUp

Array = NDArray[Any]

CATEGORIES_MAX = 200  # HistGradientBoosting takes at most 255; rarer categories share one code
ONE_THREAD_ROWS = 50_000
CLOCK_PARTS = ("hour", "weekday", "month")
_DATE = re.compile(r"\s*\d{4}-\d{2}-\d{2}([T ].*)?")
_SURE = 0.95
_PARAMS = {
    "class_weight",
    "interaction_cst",
    "l2_regularization",
    "learning_rate",
    "loss",
    "max_bins",
    "max_depth",
    "max_features",
    "max_iter",
    "max_leaf_nodes",
    "min_samples_leaf",
    "monotonic_cst",
}


@dataclass(frozen=True)
class Columns:
    """The columns a model is given, by how they are read; `numeric` holds clock features as `<column>.<part>`."""

    numeric: tuple[str, ...]
    categorical: tuple[str, ...]

    @property
    def all(self) -> list[str]:
        """Every column, in the order the model was given them."""
        return [*self.categorical, *self.numeric]


def choose_columns(
    frame: pd.DataFrame, *, target: str, time_column: str | None, features: Sequence[str] | None = None
) -> Columns:
    """Decide how each feature is read; long free text is left out, since it tells rows apart and teaches nothing.

    Raises BadInput where a named feature is absent or none is left.
    """
    names = (
        list(features) if features is not None else [str(c) for c in frame.columns if c not in {target, time_column}]
    )
    numeric: list[str] = []
    categorical: list[str] = []
    for name in names:
        if name not in frame.columns:
            raise BadInput("feature is not there", got=name, expected="a column of the table")
        if name == target:
            raise BadInput("the target among the features", got=name, expected="other columns")
        kind = column_kind(frame[name])
        if kind == "numeric":
            numeric.append(name)
        elif kind == "categorical":
            categorical.append(name)
        elif kind == "datetime":
            numeric.extend(f"{name}.{part}" for part in CLOCK_PARTS)
    if not numeric and not categorical:
        raise BadInput("no feature is left", got=", ".join(names) or "no column", expected="numbers or categories")
    return Columns(tuple(numeric), tuple(categorical))


def column_kind(values: "pd.Series[Any]") -> str:
    """`numeric`, `categorical`, `datetime` or `text`, by type, and for objects by what most values are."""
    if pd.api.types.is_bool_dtype(values.dtype) or pd.api.types.is_numeric_dtype(values.dtype):
        return "numeric"
    if pd.api.types.is_datetime64_any_dtype(values.dtype):
        return "datetime"
    if pd.api.types.is_timedelta64_dtype(values.dtype):
        return "numeric"
    known = values.dropna()
    if not len(known):
        return "numeric"
    if not isinstance(values.dtype, pd.CategoricalDtype):
        sample = known.iloc[:: max(1, len(known) // 500)]
        if pd.to_numeric(sample, errors="coerce").notna().mean() >= _SURE:
            return "numeric"
        if sample.map(lambda value: bool(_DATE.fullmatch(str(value)))).mean() >= _SURE:
            return "datetime"
    distinct = known.astype(str).nunique()
    return "text" if distinct > CATEGORIES_MAX and distinct > 0.5 * len(known) else "categorical"


def prepare(frame: pd.DataFrame, columns: Columns) -> pd.DataFrame:
    """The model's inputs (n x columns): float64 with NaN for what is missing, infinite or unreadable, text or None.

    A column that vanished is all missing: scoring goes on, and the schema measurement says so.
    """
    prepared: dict[str, Any] = {}
    for name in columns.categorical:
        prepared[name] = _texts(frame[name]) if name in frame.columns else np.full(len(frame), None, dtype=object)
    for name in columns.numeric:
        prepared[name] = _numbers(frame, name)
    return pd.DataFrame(prepared, index=pd.RangeIndex(len(frame)), columns=columns.all)


def _texts(values: "pd.Series[Any]") -> Array:
    known = values.notna().to_numpy()
    texts = values.astype(object).to_numpy(copy=True)
    texts[known] = [str(value) for value in texts[known]]
    texts[~known] = None
    return cast(Array, texts)


def _numbers(frame: pd.DataFrame, name: str) -> Array:
    if name not in frame.columns:
        base, _, part = name.rpartition(".")
        if base in frame.columns and part in CLOCK_PARTS:
            return _clock(frame[base], part)
        return np.full(len(frame), np.nan)
    values = frame[name]
    if pd.api.types.is_timedelta64_dtype(values.dtype):
        numbers = values.dt.total_seconds().to_numpy(dtype="float64")
    else:
        if pd.api.types.is_datetime64_any_dtype(values.dtype):
            return np.full(len(frame), np.nan)
        numbers = pd.to_numeric(values, errors="coerce").to_numpy(dtype="float64", na_value=np.nan)
    return np.where(np.isfinite(numbers), numbers, np.nan)


def _clock(values: "pd.Series[Any]", part: str) -> Array:
    moments = pd.to_datetime(values, utc=True, errors="coerce")
    numbers: dict[str, pd.Series[Any]] = {
        "hour": moments.dt.hour + moments.dt.minute / 60,
        "weekday": moments.dt.weekday,
        "month": moments.dt.month,
    }
    return np.asarray(numbers[part].to_numpy(dtype="float64", na_value=np.nan))


def truth(values: "pd.Series[Any] | Array", task: str) -> Array:
    """Targets in one form: float64 for regression; for classification integers where they are whole, else text.

    Tables that went through csv, parquet or a join hold the same class as 1, 1.0, True or "1". Raises BadInput for a
    regression target that is no number.
    """
    series = pd.Series(values)
    if task == "regression":
        try:
            return cast(Array, pd.to_numeric(series).to_numpy(dtype="float64", na_value=np.nan))
        except (ValueError, TypeError):
            raise BadInput("target of a regression", got=str(series.dtype), expected="numbers") from None
    numbers = pd.to_numeric(series, errors="coerce")
    if numbers.notna().all() and np.isfinite(numbers.to_numpy(dtype="float64")).all():
        whole = numbers.to_numpy(dtype="float64")
        if (whole == np.round(whole)).all():
            return whole.astype("int64")
    return np.array([str(value) for value in series], dtype=object)


def build(task: str, columns: Columns, *, params: Mapping[str, Any] | None = None, seed: int = 0) -> Pipeline:
    """An unfitted model; `params` are HistGradientBoosting's, others raise BadInput."""
    given = dict(params or {})
    unknown = sorted(set(given) - _PARAMS)
    if unknown:
        raise BadInput("parameter of the training", got=unknown[0], expected=f"one of {', '.join(sorted(_PARAMS))}")
    encoder = OrdinalEncoder(
        handle_unknown="use_encoded_value",
        unknown_value=np.nan,
        encoded_missing_value=np.nan,
        max_categories=CATEGORIES_MAX,
    )
    encode = ColumnTransformer(
        [
            ("categorical", encoder, list(columns.categorical)),
            ("numeric", "passthrough", list(columns.numeric)),
        ],
        verbose_feature_names_out=False,
    )
    encode.set_output(transform="pandas")
    settings: dict[str, Any] = {"early_stopping": False, "random_state": seed, **given}
    settings["categorical_features"] = list(columns.categorical) or None
    kind = HistGradientBoostingClassifier if task == "classification" else HistGradientBoostingRegressor
    return Pipeline([("encode", encode), ("model", kind(**settings))])


def fit(
    model: Pipeline, columns: Columns, frame: pd.DataFrame, target: Array, weights: Array | None = None
) -> Pipeline:
    """Fit on rows (n) with targets (n) and optional weights (n); raises GiveUp for rows that teach nothing."""
    if not len(frame):
        raise GiveUp("cannot train: no labelled rows")
    if isinstance(model.named_steps["model"], HistGradientBoostingClassifier) and len(np.unique(target)) < 2:
        raise GiveUp(f"cannot train: the {len(frame)} rows hold one class only, {target[0]}")
    inputs = prepare(frame, columns)
    with few_threads(len(inputs)):
        fitted: Pipeline = model.fit(inputs, target, model__sample_weight=weights)
    return fitted


def few_threads(rows: int) -> "threadpool_limits":
    """One OpenMP thread for small tables: on busy cores, threads that wait for each other cost more than they save."""
    return threadpool_limits(limits=1 if rows < ONE_THREAD_ROWS else None, user_api="openmp")


def expected_columns(model: BaseEstimator) -> Columns | None:
    """The columns a fitted model of ours expects; None for a model that someone else made."""
    steps = getattr(model, "named_steps", {})
    encode = steps.get("encode")
    if not isinstance(encode, ColumnTransformer):
        return None
    parts = {name: tuple(columns) for name, _, columns in encode.transformers}
    if set(parts) != {"categorical", "numeric"}:
        return None
    return Columns(numeric=parts["numeric"], categorical=parts["categorical"])
