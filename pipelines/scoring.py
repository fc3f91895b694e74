"""Predictions of registered versions, and their metric."""

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from driftwarden.errors import BadInput, GiveUp
from driftwarden.pipelines import estimator, registry
from driftwarden.pipelines.diagnostics.metrics import Predictions, score_rows, scorer_name

Array = NDArray[Any]


def predict(
    tracking_uri: str, registered_model: str, version: int, frame: pd.DataFrame, task: str
) -> tuple[Array, Array | None]:
    """Predictions (n) of a version for rows (n), and the positive class's probability (n) of a binary classifier.

    The model is cached in this process. Classes are in the form of `estimator.truth`. Raises NotFound (no such version)
    and GiveUp (it cannot be loaded, or cannot take these rows).
    """
    model = registry.load_model(tracking_uri, registered_model, version)
    predictions = predictions_of(model, frame, task)
    return predictions.label, predictions.score


def predictions_of(model: Any, frame: pd.DataFrame, task: str) -> Predictions:
    """What a fitted model says of rows (n); empty for no rows. Raises GiveUp where it cannot take them."""
    if not len(frame):
        return Predictions(np.array([], dtype="int64" if task == "classification" else "float64"))
    columns = estimator.expected_columns(model)
    inputs = estimator.prepare(frame, columns) if columns is not None else _as_it_was_given(model, frame)
    try:
        with estimator.few_threads(len(inputs)):
            return _said(model, inputs, task)
    except (ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
        raise GiveUp(f"the model cannot score these rows: {type(error).__name__}: {error}") from None


def _said(model: Any, inputs: pd.DataFrame, task: str) -> Predictions:
    """Labels, and for a binary classifier the probabilities they follow from (one pass over the trees)."""
    if task != "classification" or not hasattr(model, "predict_proba"):
        return Predictions(estimator.truth(np.asarray(model.predict(inputs)).ravel(), task))
    probability = np.asarray(model.predict_proba(inputs), dtype="float64")
    if estimator.expected_columns(model) is None:  # someone else's model may not decide by the largest probability
        label = np.asarray(model.predict(inputs)).ravel()
    else:
        label = np.asarray(model.classes_)[probability.argmax(axis=1)]
    return Predictions(estimator.truth(label, task), probability[:, 1] if probability.shape[1] == 2 else None)


def _as_it_was_given(model: Any, frame: pd.DataFrame) -> pd.DataFrame:
    """Inputs of a model that someone else made: the columns it was fitted on, in their order."""
    names = getattr(model, "feature_names_in_", None)
    if names is None:
        return frame
    gone = [str(name) for name in names if name not in frame.columns]
    if gone:
        raise GiveUp(f"the model needs columns that the rows lack: {', '.join(gone)}")
    return frame[list(names)]


def metric_of(metric: str, task: str, target: Array, predictions: Predictions) -> float | None:
    """The score of predictions under a scikit-learn scorer's name; None where it is not defined on these rows.

    Raises BadInput for a metric that does not exist or does not fit the task.
    """
    try:
        name = scorer_name(metric)
    except ValueError:
        raise BadInput("metric", got=metric, expected="a scikit-learn scorer, like accuracy or r2") from None
    if not len(target):
        return None
    try:
        score = score_rows(name, target, predictions)
    except (ValueError, TypeError) as error:
        raise BadInput(f"metric of a {task}", got=metric, expected=f"one that fits ({error})") from None
    return score if np.isfinite(score) else None
