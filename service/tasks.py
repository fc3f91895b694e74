"""Tasks of the service that run in the sandbox: JSON in, JSON out, nothing but reading."""

from pathlib import Path
from typing import Any

from driftwarden.contracts.data import RowSelection
from driftwarden.contracts.findings import Candidate
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


def rehearse(payload: dict[str, Any]) -> dict[str, Any]:
    """Rehearse candidates on the newest share of the known rows: `{"rehearsals", "holdout": {row_start, row_end}}`.

    `payload` as for `pipelines.tasks.rehearse`, with shares and bounds (`settings.RehearsalSettings`) in place of row
    counts, which only the rows themselves can tell. The holdout is named by positions in the ordered table, so that the
    action compares on the very rows that were rehearsed on.
    """
    from driftwarden.pipelines import registry, rehearsal

    model = WatchedModel.model_validate(payload["model"])
    selection = RowSelection.model_validate(payload["rows"])
    uri, champion = payload["tracking_uri"], int(payload["champion_version"])
    rows = rehearsal.labelled_rows(model, selection)
    count = len(rows.target)
    holdout_rows = min(
        max(int(count * payload["holdout_share"]), payload["holdout_rows_min"]), payload["holdout_rows_max"]
    )
    window = registry.window_of(registry.version_of(uri, model.registered_model, champion))
    cut, _ = rehearsal.choose_holdout(rows, holdout_rows, window)
    results = rehearsal.rehearse(
        model,
        uri,
        champion,
        [Candidate.model_validate(one) for one in payload["candidates"]],
        selection,
        holdout_rows=holdout_rows,
        recent_rows=max(int(cut * payload["recent_share"]), payload["recent_rows_min"]),
        seed=payload["seed"],
        replicates=payload["replicates"],
    )
    return {
        "rehearsals": [one.model_dump(mode="json") for one in results],
        "holdout": {"row_start": int(rows.positions[cut]), "row_end": int(rows.positions[-1]) + 1},
    }
