"""No telemetry, no progress bars, and no logging set-up by the libraries that this room uses."""

import logging
import os
from pathlib import Path

_CONF = Path(__file__).parent.parent / "conf" / "base"
LOGGING_VARIABLE = "KEDRO_LOGGING_CONFIG"
PROJECT_LOGGING = str(_CONF / "logging_project.yml")

_VARIABLES = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "KEDRO_DISABLE_TELEMETRY": "1",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_LOGGING_LEVEL": "ERROR",
    # Kedro replaces the process's logging when it is imported; this configuration only sets levels.
    LOGGING_VARIABLE: str(_CONF / "logging.yml"),
}


def quiet() -> None:
    """Silence the libraries in this process and its children; to be called before they are imported.

    For driftwarden's own processes only, never in a user's pipeline.
    """
    for name, value in _VARIABLES.items():
        os.environ.setdefault(name, value)
    logging.getLogger("alembic").setLevel(logging.WARNING)
    logging.getLogger("kedro").setLevel(logging.CRITICAL)  # what fails is raised to the caller, who says it once
