"""Putting a fitted model into MLflow: run, metrics, reference rows, model without pickle, version with its tags."""

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pandas as pd

from driftwarden.contracts.effects import TrainingRequest
from driftwarden.pipelines import registry

JsonObject = dict[str, Any]

# Columns of `holdout.parquet` beside the rows' own.
PREDICTION_COLUMN = "__prediction"
SCORE_COLUMN = "__score"


def publish(
    request: TrainingRequest,
    model: Any,
    *,
    inputs: pd.DataFrame,
    reference: pd.DataFrame,
    holdout: pd.DataFrame | None,
    window: JsonObject,
    metrics: dict[str, float],
) -> tuple[int, str]:
    """Log one run and register one version; returns the version and the run's id.

    `inputs`: some rows as the model is given them (for the signature); `reference`: training rows with target, kept as
    `reference.parquet` of the run; `holdout`: held-out rows with the predictions made of them before the last fit, kept as
    `holdout.parquet`. Tags are set in the same call that makes the version, so that a version without its
    key cannot be left behind.
    """
    client = registry.client(request.tracking_uri)
    import mlflow
    from mlflow.models import infer_signature

    tags = version_tags(request, window)
    mlflow.set_tracking_uri(request.tracking_uri)
    mlflow.set_registry_uri(request.tracking_uri)
    experiment = _experiment(client, request)
    with mlflow.start_run(experiment_id=experiment, run_name=f"train-{request.strategy}", tags=tags) as run:
        mlflow.log_params({"strategy": request.strategy, "rows": window["rows"], "metric": request.model.metric})
        mlflow.log_metrics(metrics)
        with TemporaryDirectory() as folder:
            for name, frame in ((registry.REFERENCE_FILE, reference), (registry.HOLDOUT_FILE, holdout)):
                if frame is not None:
                    file = Path(folder) / name
                    storable(frame).to_parquet(file, index=False)
                    mlflow.log_artifact(str(file))
        logged = mlflow.sklearn.log_model(
            model,
            name="model",
            signature=infer_signature(inputs, model.predict(inputs)),
            serialization_format="skops",
            skops_trusted_types=list(registry.TRUSTED_TYPES),
            pip_requirements=registry.pip_requirements(),
        )
        registered = mlflow.register_model(logged.model_uri, request.model.registered_model, tags=tags)
    return int(registered.version), str(run.info.run_id)


def version_tags(request: TrainingRequest, window: JsonObject) -> dict[str, str]:
    """The tags of a version and its run."""
    tags = {
        registry.KEY_TAG: request.idempotency_key,
        registry.TAG + "correlation_id": request.correlation_id,
        registry.TAG + "strategy": request.strategy,
        registry.WINDOW_TAG: json.dumps(window, sort_keys=True),
    }
    if request.incident is not None:
        tags[registry.TAG + "incident"] = request.incident
    return tags


def _experiment(client: Any, request: TrainingRequest) -> str:
    name = f"driftwarden/{request.model.name}"
    found = client.get_experiment_by_name(name)
    if found is not None:
        return str(found.experiment_id)
    location = None
    if request.tracking_uri.startswith("sqlite:"):  # a tracking server has its own place
        folder = Path(request.artifact_root) / request.model.name
        folder.mkdir(parents=True, exist_ok=True)
        location = folder.resolve().as_uri()
    with registry.first_open(request.tracking_uri):
        found = client.get_experiment_by_name(name)
        return str(found.experiment_id if found is not None else client.create_experiment(name, location))


def storable(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame with columns of mixed objects as text, so that parquet takes it."""
    mixed = {
        str(name): column.map(lambda value: None if value is None or value != value else str(value))
        for name, column in frame.items()
        if column.dtype == object and pd.api.types.infer_dtype(column, skipna=True) not in {"string", "date", "boolean"}
    }
    return frame.assign(**mixed) if mixed else frame
