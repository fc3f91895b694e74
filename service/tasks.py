"""Tasks of the service that run in the sandbox: JSON in, JSON out, nothing but reading."""

from pathlib import Path
from typing import Any

from driftwarden.contracts.data import RowSelection
from driftwarden.contracts.measurements import MEASUREMENT_NAMES
from driftwarden.contracts.watch import WatchedModel


def measure(payload: dict[str, Any]) -> dict[str, Any]:
    """Every diagnostic measurement of one window; keys are the measurements' names.

    `payload`: `model` (WatchedModel), `tracking_uri`, `champion_version`, `current` (RowSelection), `reference` (path or
    null: the champion's training rows), `history` (paths of earlier windows, oldest first), `reported_performance`,
    `rows_max`.
    """
    from driftwarden.pipelines.diagnosis_input import build_input

    from driftwarden.pipelines.diagnostics import measure as measure_one

    case = build_input(
        model=WatchedModel.model_validate(payload["model"]),
        tracking_uri=payload["tracking_uri"],
        champion_version=int(payload["champion_version"]),
        current=RowSelection.model_validate(payload["current"]),
        reference=Path(payload["reference"]) if payload["reference"] else None,
        history=[Path(path) for path in payload["history"]],
        reported_performance=payload["reported_performance"],
        rows_max=int(payload["rows_max"]),
    )
    return {name: measure_one(name, case).model_dump(mode="json") for name in MEASUREMENT_NAMES}
