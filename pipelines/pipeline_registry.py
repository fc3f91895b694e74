"""The pipelines that Kedro finds in this project."""

from kedro.pipeline import Pipeline

from driftwarden.pipelines.monitoring import create_pipeline as create_monitoring
from driftwarden.pipelines.training import create_pipeline as create_training


def register_pipelines() -> dict[str, Pipeline]:
    """`train` (also the default) fits and registers a version; `monitor` builds a drift event of a window."""
    train, monitor = create_training(), create_monitoring()
    return {"train": train, "monitor": monitor, "__default__": train}
