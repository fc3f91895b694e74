"""Tasks of the service that run in the sandbox: JSON in, JSON out, nothing but reading."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from driftwarden.clock import rfc3339
from driftwarden.contracts.data import RowSelection
from driftwarden.contracts.findings import Candidate
from driftwarden.contracts.measurements import MEASUREMENT_NAMES
from driftwarden.contracts.watch import WatchedModel
from driftwarden.errors import BadInput, Error
from driftwarden.windows import check_window

if TYPE_CHECKING:
    import pandas as pd


def measure(payload: dict[str, Any]) -> dict[str, Any]:
    """Every diagnostic measurement of one window by name, `faults`: what is plainly wrong with its table, in words, and `span`:
    the times of its first and last row (RFC 3339; None where they have none).

    `payload`: `model` (WatchedModel), `tracking_uri`, `champion_version`, `current` (RowSelection), `reference` (path or
    null: the champion's training rows), `history` (paths of earlier windows, oldest first), `reported_performance`,
    `rows_max`, and optionally `only`: names of the measurements that are wanted.
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
    wanted = [name for name in MEASUREMENT_NAMES if name in payload.get("only", MEASUREMENT_NAMES)]
    measured: dict[str, Any] = {name: measure_one(name, case).model_dump(mode="json") for name in wanted}
    model = WatchedModel.model_validate(payload["model"])
    late = model.labels.uri is not None or model.labels.delay.total_seconds() > 0
    unsaid = {"missing_values"} | ({"no_target", "no_labels"} if late else set())
    faults = [one.text for one in check_window(case.current, model, case.columns) if one.fault not in unsaid]
    return {**measured, "faults": faults, "span": _span(case.current, model.time_column)}


def _span(rows: "pd.DataFrame", time_column: str | None) -> list[str] | None:
    """The times of the first and the last of the rows; what cannot be read as a time tells nothing."""
    import pandas as pd

    from driftwarden.tables import time_key

    if time_column is None:
        return None
    try:
        times = time_key(rows, time_column).dropna()
    except BadInput:
        return None
    if times.empty or not isinstance(times.dtype, pd.DatetimeTZDtype):
        return None
    return [rfc3339(moment.to_pydatetime()) for moment in (times.min(), times.max())]


def rehearse(payload: dict[str, Any]) -> dict[str, Any]:
    """Rehearse candidates on the newest share of the known rows: `{"rehearsals", "holdout": {row_start, row_end}}`.

    `payload` as for `pipelines.tasks.rehearse`, with shares and bounds (`settings.RehearsalSettings`) in place of row
    counts, which only the rows themselves can tell. `holdout` names, by positions in the ordered table, the rows of the
    rehearsal's last origin: the action trains on all rows before them and compares on them, as was rehearsed.
    """
    from driftwarden.pipelines import registry, rehearsal

    model = WatchedModel.model_validate(payload["model"])
    selection = RowSelection.model_validate(payload["rows"])
    uri, champion = payload["tracking_uri"], int(payload["champion_version"])
    rows = rehearsal.labelled_rows(model, selection)
    count = len(rows.target)
    wanted = max(int(payload["window_rows"] * payload["holdout_windows"]), payload["holdout_rows_min"])
    holdout_rows = min(wanted, int(count * payload["holdout_share"]), payload["holdout_rows_max"])
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
        "holdout": {
            "row_start": int(rows.positions[rehearsal.origin_edges(cut, count)[-2]]),
            "row_end": int(rows.positions[-1]) + 1,
        },
    }


def watch(payload: dict[str, Any]) -> dict[str, Any]:
    """Monitor one window of a model as its champion sees it: what `pipelines.monitoring.monitor` returns.

    `payload`: `model`, `tracking_uri`, `champion_version`, `current` (RowSelection of the window), `reference` (path of
    the one that an action set, or null: the champion's hold-out rows), `window` (`uri`, `start`, `end`), `source`. Both
    tables carry the champion's predictions, so that a change of the target's relation shows where the inputs stand still.
    """
    from driftwarden.pipelines import registry
    from driftwarden.pipelines.monitoring import monitor
    from driftwarden.pipelines.publication import PREDICTION_COLUMN, SCORE_COLUMN, storable
    from driftwarden.pipelines.scoring import predictions_of
    from driftwarden.tables import read_rows, read_table

    model = WatchedModel.model_validate(payload["model"])
    uri, champion = payload["tracking_uri"], int(payload["champion_version"])
    version = registry.version_of(uri, model.registered_model, champion)
    held = registry.artifact(uri, version, registry.HOLDOUT_FILE)
    reference = read_table(
        payload["reference"] or held or registry.artifact(uri, version, registry.REFERENCE_FILE) or "reference.parquet"
    )
    current = read_rows(RowSelection.model_validate(payload["current"]))
    said = None
    try:
        loaded = registry.load_model(uri, model.registered_model, champion)
        said = predictions_of(loaded, current, model.task)
        if PREDICTION_COLUMN not in reference.columns:
            reference = reference.assign(**{PREDICTION_COLUMN: predictions_of(loaded, reference, model.task).label})
    except Error:
        reference = reference.drop(columns=[PREDICTION_COLUMN], errors="ignore")
    reference = reference.drop(columns=[SCORE_COLUMN], errors="ignore")
    if said is not None:
        current = current.assign(**{PREDICTION_COLUMN: said.label})
    files = {"reference": reference, "current": current}
    for name, frame in files.items():
        storable(frame).to_parquet(f"{name}.parquet", index=False)
    answer = monitor(
        {
            "model": model.name,
            "environment": model.environment,
            "reference": str(Path("reference.parquet").resolve()),
            "current": str(Path("current.parquet").resolve()),
            "source": payload["source"],
            "target": model.target if model.target in reference.columns else None,
            "prediction": PREDICTION_COLUMN if PREDICTION_COLUMN in reference.columns else None,
            "time_column": model.time_column,
            "metric": model.metric,
            "window_start": payload["window"]["start"],
            "window_end": payload["window"]["end"],
            "reference_version": champion,
        }
    )
    if answer["event"] is not None:
        data = answer["event"]["data"]
        data["window"]["uri"] = payload["window"]["uri"]
        data["reference"].pop("uri", None)  # the tables above go with this process; the champion's own rows stay
    return answer
