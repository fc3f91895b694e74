"""The pipelines that Kedro finds in this project."""

from kedro.pipeline import Pipeline

from driftwarden.pipelines import monitoring, training


def register_pipelines() -> dict[str, Pipeline]:
    """`train` (also the default) fits and registers a version; `monitor` builds a drift event of a window."""
    train, monitor = training.create_pipeline(), monitoring.create_pipeline()
    return {"train": train, "monitor": monitor, "__default__": train}
