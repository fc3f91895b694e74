"""The shipped training pipeline: rows, features, fit, holdout metric, version in MLflow.

Nodes pass a `TrainingRequest`; whatever is wrong with the rows raises GiveUp or BadInput with one line.
"""

import contextlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from kedro.pipeline import Pipeline, node, pipeline
from numpy.typing import NDArray

from driftwarden.contracts.effects import TrainingRequest, TrainingResult
from driftwarden.errors import BadInput, GiveUp
from driftwarden.pipelines import estimator, recipes
from driftwarden.pipelines.detection import evenly
from driftwarden.pipelines.diagnostics.metrics import Predictions
from driftwarden.pipelines.publication import PREDICTION_COLUMN, SCORE_COLUMN, publish
from driftwarden.pipelines.scoring import metric_of, predictions_of
from driftwarden.strict import loads_json
from driftwarden.tables import read_rows_at, time_key

JsonObject = dict[str, Any]
HOLDOUT_ROWS_MIN = 20
OUT_OF_FOLD_ROWS_MAX = 4_000
OUT_OF_FOLD_BLOCKS = 4


@dataclass(frozen=True)
class TrainingRows:
    """Labelled rows in time order (n), their targets (n) and positions in the ordered table (n)."""

    frame: pd.DataFrame
    target: NDArray[Any]
    positions: NDArray[np.int64]
    columns: estimator.Columns
    window: JsonObject


def read_request(path: str | None) -> TrainingRequest:
    """The request that the service wrote; raises BadInput where there is none."""
    if not path:
        raise BadInput("training without a request", got="nothing", expected="the parameter `driftwarden.request`")
    return TrainingRequest.model_validate(loads_json(Path(path).read_bytes(), where="request"))


def load_rows(request: TrainingRequest) -> TrainingRows:
    """Read the labelled rows of the request and decide how each column is read; raises GiveUp where none is left."""
    model = request.model
    selection = request.rows.narrowed(target=model.target, time_column=model.time_column, labelled_only=True)
    frame, positions = read_rows_at(selection)
    if not len(frame):
        raise GiveUp(f"cannot train {model.name}: no labelled rows in the window")
    columns = estimator.choose_columns(
        frame, target=model.target, time_column=model.time_column, features=model.features
    )
    target = estimator.truth(frame[model.target], model.task)
    if model.task == "regression":
        finite = np.isfinite(target)
        if not finite.any():
            raise GiveUp(f"cannot train {model.name}: no finite value in the target")
        frame, target, positions = frame[finite].reset_index(drop=True), target[finite], positions[finite]
    window = describe_window(frame, positions, model.time_column)
    return TrainingRows(frame, target, positions, columns, window)


def describe_window(frame: pd.DataFrame, positions: NDArray[np.int64], time_column: str | None) -> JsonObject:
    """`rows`, `start`, `end` (RFC 3339, or what the time column holds), `row_start`, `row_end` (end excluded)."""
    window: JsonObject = {"rows": len(frame), "start": None, "end": None}
    if len(positions):
        window |= {"row_start": int(positions.min()), "row_end": int(positions.max()) + 1}
    if time_column is None:
        return window
    known = time_key(frame, time_column).dropna()
    if len(known):
        first, last = known.min(), known.max()
        moments = isinstance(first, pd.Timestamp)
        window["start"] = _rfc3339(first) if moments else repr(float(first))
        window["end"] = _rfc3339(last) if moments else repr(float(last))
    return window


def _rfc3339(moment: pd.Timestamp) -> str:
    return str(moment.tz_convert("UTC").strftime("%Y-%m-%dT%H:%M:%S.%fZ"))


@dataclass(frozen=True)
class Holdout:
    """Rows with what a model said of them that was fitted without them, and the metric of the newest; empty where undefined."""

    metrics: dict[str, float]
    rows: pd.DataFrame | None = None


def evaluate(request: TrainingRequest, rows: TrainingRows, settings: JsonObject) -> Holdout:
    """Fit on the older rows and score the newest; nothing where there are too few, or one class only."""
    held = min(int(len(rows.frame) * float(settings["holdout_share"])), int(settings["holdout_rows_max"]))
    cut = len(rows.frame) - held
    one_class = request.model.task == "classification" and len(np.unique(rows.target[:cut])) < 2
    if held < HOLDOUT_ROWS_MIN or one_class:
        return Holdout({})
    predictions = _said_of(request, rows, np.arange(cut), np.arange(cut, len(rows.frame)), settings)
    score = metric_of(request.model.metric, request.model.task, rows.target[cut:], predictions)
    kept = rows.frame.iloc[cut:]
    if len(rows.frame) < OUT_OF_FOLD_ROWS_MAX:
        with contextlib.suppress(GiveUp):  # all rows of a class may lie in one block: then the newest rows must do
            kept, predictions = rows.frame, _out_of_fold(request, rows, settings)
    kept = kept.assign(**{PREDICTION_COLUMN: predictions.label})
    if predictions.score is not None:
        kept[SCORE_COLUMN] = predictions.score
    metrics = {} if score is None else {request.model.metric: score, "holdout_rows": float(held)}
    return Holdout(metrics, kept)


def _out_of_fold(request: TrainingRequest, rows: TrainingRows, settings: JsonObject) -> Predictions:
    """Predictions of every row by a model that was fitted without its block: of few rows, a fifth would show too little."""
    everything = np.arange(len(rows.frame))
    parts = [
        _said_of(request, rows, np.setdiff1d(everything, block), block, settings)
        for block in np.array_split(everything, OUT_OF_FOLD_BLOCKS)
    ]
    scores = [part.score for part in parts if part.score is not None]
    label = np.concatenate([part.label for part in parts])
    return Predictions(label, np.concatenate(scores) if len(scores) == len(parts) else None)


def _said_of(
    request: TrainingRequest, rows: TrainingRows, fit: NDArray[Any], judged: NDArray[Any], settings: JsonObject
) -> Predictions:
    model = _fitted(request, rows, fit, settings)
    return predictions_of(model, rows.frame.iloc[judged], request.model.task)


def fit_model(request: TrainingRequest, rows: TrainingRows, settings: JsonObject) -> Any:
    """Fit the version that is registered, on every row."""
    return _fitted(request, rows, np.arange(len(rows.frame)), settings)


def _fitted(request: TrainingRequest, rows: TrainingRows, part: NDArray[Any], settings: JsonObject) -> Any:
    target = rows.target[part]
    weights = recipes.recency_weights(len(target)) if request.strategy == "reweighted" else None
    seed = int(settings.get("seed", 0))
    model = estimator.build(request.model.task, rows.columns, params=request.model.training.params, seed=seed)
    return estimator.fit(model, rows.columns, rows.frame.iloc[part], target, weights)


def register(
    request: TrainingRequest, rows: TrainingRows, model: Any, holdout: Holdout, settings: JsonObject
) -> JsonObject:
    """Log and register the version; returns a TrainingResult as JSON."""
    sample = evenly(rows.frame, int(settings["reference_rows_max"]))
    inputs = estimator.prepare(rows.frame.head(200), rows.columns)
    version, run_id = publish(
        request,
        model,
        inputs=inputs,
        reference=sample,
        holdout=holdout.rows,
        window=rows.window,
        metrics=holdout.metrics,
    )
    result = TrainingResult(version=version, run_id=run_id, rows=len(rows.frame), metrics=holdout.metrics)
    document: JsonObject = json.loads(result.model_dump_json())
    return document


def create_pipeline() -> Pipeline:
    """Kedro's pipeline `train`: one request in, one `training_result` out."""
    return pipeline(
        [
            node(read_request, "params:driftwarden.request", "training_request", name="read_request"),
            node(load_rows, "training_request", "training_rows", name="load_rows"),
            node(
                evaluate,
                ["training_request", "training_rows", "params:training"],
                "holdout",
                name="evaluate_on_holdout",
            ),
            node(fit_model, ["training_request", "training_rows", "params:training"], "fitted_model", name="fit_model"),
            node(
                register,
                ["training_request", "training_rows", "fitted_model", "holdout", "params:training"],
                "training_result",
                name="register_version",
            ),
        ]
    )
