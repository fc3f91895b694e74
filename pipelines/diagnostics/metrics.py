"""Scores of predictions under scikit-learn's scorer names, for one set of rows or for hundreds of bootstrap replicates.

Every score follows scikit-learn's sign: more is better, losses are negative (`neg_*`). Metrics that are sums over rows,
and the area under the ROC curve, are computed for all replicates at once; any other scorer is called per replicate.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.metrics import get_scorer, get_scorer_names

Array = NDArray[Any]
Combine = Callable[[Array], Array]

ALIASES = {
    "mae": "neg_mean_absolute_error",
    "mse": "neg_mean_squared_error",
    "rmse": "neg_root_mean_squared_error",
    "mape": "neg_mean_absolute_percentage_error",
    "log_loss": "neg_log_loss",
    "brier_score": "neg_brier_score",
    "auc": "roc_auc",
}
PROBABILITY_METRICS = frozenset({"roc_auc", "neg_log_loss", "neg_brier_score", "average_precision"})
_CELLS_AT_ONCE = 4_000_000


@dataclass(frozen=True)
class Predictions:
    """What a model said of some rows: `label` (class or number), and `score`, the positive class's probability
    (binary; None otherwise)."""

    label: Array
    score: Array | None = None

    def take(self, index: Array) -> "Predictions":
        """The same for some rows, in their order."""
        return Predictions(self.label[index], None if self.score is None else self.score[index])


def scorer_name(metric: str) -> str:
    """The scikit-learn scorer behind `metric` (`rmse` and the like are understood); raises ValueError for others."""
    name = ALIASES.get(metric.lower(), metric)
    if name not in get_scorer_names():
        raise ValueError(f"metric `{metric}` is not a scikit-learn scorer")
    return name


def score_rows(metric: str, truth: Array, predictions: Predictions) -> float:
    """The score of all rows; NaN where it is not defined (one class only, no rows)."""
    weights = np.ones((1, len(truth)))
    return float(score_replicates(metric, truth, predictions, weights)[0])


def score_replicates(metric: str, truth: Array, predictions: Predictions, weights: Array) -> Array:
    """The score of every replicate: `weights` (replicates x rows) counts how often a row was drawn.

    Returns one float per replicate, NaN where the score is not defined. Raises ValueError for an unknown metric, or one
    that needs probabilities where `predictions.score` is None.
    """
    name = scorer_name(metric)
    truth = np.asarray(truth)
    if name in PROBABILITY_METRICS and predictions.score is None:
        raise ValueError(f"metric `{metric}` needs the positive class's probability")
    if len(truth) == 0:
        return np.full(len(weights), np.nan)
    with np.errstate(divide="ignore", invalid="ignore"):
        if name == "roc_auc":
            return _in_chunks(weights, lambda part: _roc_auc(truth, predictions, part))
        sums = _as_sums(name, truth, predictions)
        if sums is not None:
            columns, combine = sums
            return np.asarray(combine(np.asarray(weights, dtype=float) @ columns), dtype=float)
    return np.array([_by_scorer(name, truth, predictions, row) for row in weights])


def _in_chunks(weights: Array, score: Callable[[Array], Array]) -> Array:
    step = max(1, _CELLS_AT_ONCE // max(1, weights.shape[1]))
    return np.concatenate([score(weights[start : start + step]) for start in range(0, len(weights), step)])


def row_losses(metric: str, truth: Array, predictions: Predictions) -> Array:
    """One loss per row (less is better) that moves with the metric, for localising a change within a window."""
    name = scorer_name(metric)
    if name in _REGRESSION or name == "r2" or (truth.dtype.kind == "f" and predictions.score is None):
        error = np.asarray(truth, dtype=float) - np.asarray(predictions.label, dtype=float)
        squared = name in {"r2", "neg_mean_squared_error", "neg_root_mean_squared_error"}
        return np.asarray(np.square(error) if squared else np.abs(error))
    if predictions.score is not None and name in PROBABILITY_METRICS:
        return np.asarray(np.square(_positive(truth).astype(float) - predictions.score))
    return np.asarray(truth != predictions.label, dtype=float)


_REGRESSION: dict[str, Callable[[Array, Array], Array]] = {
    "neg_mean_absolute_error": lambda y, p: -np.abs(y - p),
    "neg_mean_squared_error": lambda y, p: -np.square(y - p),
    "neg_root_mean_squared_error": lambda y, p: -np.square(y - p),
    "neg_mean_absolute_percentage_error": lambda y, p: -np.abs(y - p) / np.maximum(np.abs(y), np.finfo(float).eps),
}


def _as_sums(name: str, truth: Array, predictions: Predictions) -> tuple[Array, Combine] | None:
    """Per-row columns and how their weighted sums make the score; None where the metric is not such a function."""
    if name in _REGRESSION or name == "r2":
        return _regression_sums(name, truth.astype(float), np.asarray(predictions.label, dtype=float))
    one = np.ones(len(truth))
    if name == "accuracy":
        hit = (truth == predictions.label).astype(float)
        return np.column_stack([one, hit]), lambda s: s[:, 1] / s[:, 0]
    if name in {"neg_brier_score", "neg_log_loss"}:
        positive, score = _positive(truth), np.asarray(predictions.score, dtype=float)
        if name == "neg_brier_score":
            loss = np.square(positive - score)
        else:
            eps = np.finfo(float).eps
            loss = -np.log(np.clip(np.where(positive, score, 1 - score), eps, 1 - eps))
        return np.column_stack([one, loss]), lambda s: -s[:, 1] / s[:, 0]
    if name in {"f1", "precision", "recall", "balanced_accuracy"}:
        return _confusion_sums(name, truth, predictions)
    return None


def _regression_sums(name: str, truth: Array, predicted: Array) -> tuple[Array, Combine]:
    one = np.ones(len(truth))
    if name == "r2":
        centred = truth - truth.mean()  # keeps the variance's difference of sums well conditioned
        columns = np.column_stack([one, centred, np.square(centred), np.square(truth - predicted)])
        return columns, lambda s: 1 - s[:, 3] / (s[:, 2] - np.square(s[:, 1]) / s[:, 0])
    columns = np.column_stack([one, _REGRESSION[name](truth, predicted)])
    if name == "neg_root_mean_squared_error":
        return columns, lambda s: -np.sqrt(-s[:, 1] / s[:, 0])
    return columns, lambda s: s[:, 1] / s[:, 0]


def _confusion_sums(name: str, truth: Array, predictions: Predictions) -> tuple[Array, Combine] | None:
    classes = _classes(truth, predictions.label)
    if len(classes) > 2:
        return None
    positive = _positive_class(classes)
    real, said = truth == positive, predictions.label == positive
    columns = np.column_stack([real & said, ~real & said, real & ~said, ~real & ~said]).astype(float)

    def combine(s: Array) -> Array:
        hit, false, missed, quiet = s.T
        if name == "balanced_accuracy":
            return np.asarray(0.5 * (hit / (hit + missed) + quiet / (quiet + false)))
        over = {"f1": hit + 0.5 * (false + missed), "precision": hit + false, "recall": hit + missed}[name]
        return np.asarray(np.where(over > 0, hit / np.where(over > 0, over, 1), 0.0))

    return columns, combine


def _roc_auc(truth: Array, predictions: Predictions, weights: Array) -> Array:
    """The weighted Mann-Whitney form, ties counted half; NaN where a replicate holds one class only."""
    score = np.asarray(predictions.score, dtype=float)
    order = np.argsort(score, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(score[order]) != 0])
    drawn, positive = np.asarray(weights, dtype=float)[:, order], _positive(truth)[order]
    wins = np.add.reduceat(drawn * positive, starts, axis=1)
    losses = np.add.reduceat(drawn * ~positive, starts, axis=1)
    below = np.cumsum(losses, axis=1) - 0.5 * losses
    pairs = wins.sum(axis=1) * losses.sum(axis=1)
    return np.asarray(np.where(pairs > 0, (wins * below).sum(axis=1) / np.where(pairs > 0, pairs, 1), np.nan))


def _classes(*parts: Array) -> list[Any]:
    found = {value for part in parts for value in np.unique(part).tolist()}
    return sorted(found, key=lambda value: (isinstance(value, str), value))


def _positive(truth: Array) -> NDArray[np.bool_]:
    return np.asarray(truth == _positive_class(_classes(truth)))


def _positive_class(classes: list[Any]) -> Any:
    """1 or True where the labels are 0/1 (or only 0 was seen), else the greatest class."""
    greatest = classes[-1]
    return 1 if not isinstance(greatest, str) and greatest < 1 else greatest


class _PrecomputedClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """Answers a scorer with predictions that were made before; X is the index of the rows."""

    def __init__(self, predictions: Predictions, classes: list[Any]) -> None:
        self.predictions, self.classes_ = predictions, np.array(classes)

    def predict(self, index: Array) -> Array:
        return self.predictions.label[index[:, 0]]

    def predict_proba(self, index: Array) -> Array:
        if self.predictions.score is None or len(self.classes_) != 2:
            raise ValueError("no probabilities")
        positive = self.predictions.score[index[:, 0]]
        return np.column_stack([1 - positive, positive])


class _PrecomputedRegressor(RegressorMixin, BaseEstimator):  # type: ignore[misc]
    """The same for numbers."""

    def __init__(self, predictions: Predictions) -> None:
        self.predictions = predictions
        self.fitted_ = True

    def predict(self, index: Array) -> Array:
        return self.predictions.label[index[:, 0]]


def _by_scorer(name: str, truth: Array, predictions: Predictions, weights: Array) -> float:
    index = np.repeat(np.arange(len(truth)), np.asarray(weights, dtype=int))
    regression = truth.dtype.kind == "f" and len(np.unique(truth)) > 20
    model = (
        _PrecomputedRegressor(predictions)
        if regression
        else _PrecomputedClassifier(predictions, _classes(truth, predictions.label))
    )
    try:
        return float(get_scorer(name)(model, index[:, None], truth[index]))
    except ValueError:
        return float("nan")
