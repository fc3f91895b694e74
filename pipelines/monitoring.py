"""The monitoring pipeline: two tables in, one drift event of contract §2 out, or none where nothing drifted."""

from dataclasses import dataclass
from datetime import timedelta
from importlib.metadata import version as installed
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from kedro.io import DataCatalog, MemoryDataset
from kedro.pipeline import Pipeline, node, pipeline
from kedro.runner import SequentialRunner
from pydantic import Field, ValidationError

from driftwarden.clock import rfc3339
from driftwarden.contracts.base import Value
from driftwarden.errors import BadInput, shorten
from driftwarden.pipelines import estimator
from driftwarden.pipelines.detection import ALPHA, Detection, Roles, detect
from driftwarden.pipelines.diagnostics.bootstrap import block_weights
from driftwarden.pipelines.diagnostics.metrics import Predictions, score_replicates, score_rows, scorer_name
from driftwarden.stream.publisher import build_event as envelope
from driftwarden.tables import read_table, time_key

JsonObject = dict[str, Any]

LABELLED_ROWS_MIN = 50
LOSS_MIN = 0.02
P_WORSE_MIN = 0.99
REPLICATES = 200


class MonitorRequest(Value):
    """What to compare. Files are paths ("" where rows are in no file); roles are column names; `metric` is a
    scikit-learn scorer (default: accuracy, or neg_mean_absolute_error for a number)."""

    model: str
    reference: str
    current: str
    environment: str = "production"
    source: str = ""
    target: str | None = None
    prediction: str | None = None
    time_column: str | None = None
    metric: str | None = None
    window_start: str | None = None
    window_end: str | None = None
    reference_version: int | str | None = None
    alpha: float = Field(default=ALPHA, gt=0, lt=1)


@dataclass(frozen=True)
class Tables:
    """Reference and window as read, the columns' roles."""

    reference: pd.DataFrame
    current: pd.DataFrame
    roles: Roles


@dataclass(frozen=True)
class PerformanceChange:
    """The contract's `performance` (None: not measurable), and whether it dropped beyond chance and by over 2 %."""

    fields: JsonObject | None = None
    dropped: bool = False


def load_tables(request: MonitorRequest) -> Tables:
    """Read both tables; raises BadInput where one cannot be read, is empty, lacks a named column, or one is named twice."""
    reference, current = read_table(request.reference), read_table(request.current)
    for file, frame in ((request.reference, reference), (request.current, current)):
        if not len(frame):
            raise BadInput("empty table", got="0 rows", expected="at least one row", where=file)
    named = [name for name in (request.target, request.prediction, request.time_column) if name is not None]
    for number, name in enumerate(named):
        if name in named[:number]:
            expected = "a column each for target, prediction and time"
            raise BadInput("one column under two names", got=name, expected=expected, where=request.reference)
        if name not in reference.columns:
            expected = f"one of {shorten(', '.join(map(str, reference.columns)), 200)}"
            raise BadInput("column is not there", got=name, expected=expected, where=request.reference)
    time_column = request.time_column or _only_moment(reference, current)
    return Tables(reference, current, Roles(request.target, request.prediction, time_column))


def _only_moment(reference: pd.DataFrame, current: pd.DataFrame) -> str | None:
    moments = [
        str(name)
        for name in reference.columns
        if name in current.columns and estimator.column_kind(reference[name]) == "datetime"
    ]
    return moments[0] if len(moments) == 1 else None


def find_drift(request: MonitorRequest, tables: Tables) -> Detection:
    """What drifted, column by column."""
    return detect(tables.reference, tables.current, tables.roles, alpha=request.alpha)


def measure_performance(request: MonitorRequest, tables: Tables) -> PerformanceChange:
    """The metric on both tables' labelled rows; nothing where target or predictions are missing, or rows too few."""
    target, prediction = tables.roles.target, tables.roles.prediction
    if target is None or prediction is None:
        return PerformanceChange()
    for frame in (tables.reference, tables.current):
        if target not in frame.columns or prediction not in frame.columns:
            return PerformanceChange()
    task = _task(tables.reference[target])
    metric = request.metric or ("accuracy" if task == "classification" else "neg_mean_absolute_error")
    try:
        name = scorer_name(metric)
    except ValueError:
        raise BadInput("metric", got=metric, expected="a scikit-learn scorer, like accuracy or r2") from None
    sides = [_labelled(frame, target, prediction, task) for frame in (tables.reference, tables.current)]
    if min(len(truth) for truth, _ in sides) < LABELLED_ROWS_MIN:
        return PerformanceChange()
    try:
        before, now = (score_rows(name, truth, said) for truth, said in sides)
        drawn = [
            score_replicates(name, truth, said, block_weights(len(truth), replicates=REPLICATES, seed=seed))
            for seed, (truth, said) in enumerate(sides)
        ]
    except (ValueError, TypeError) as error:
        raise BadInput(f"metric of a {task}", got=metric, expected=f"one that fits ({error})") from None
    if not (np.isfinite(before) and np.isfinite(now)):
        return PerformanceChange()
    loss = (before - now) / max(abs(before), 1e-9)
    fields = {
        "metric": metric,
        "reference": before,
        "current": now,
        "higher_is_better": True,
        "labelled_rows": len(sides[1][0]),
    }
    worse = float(np.nanmean(drawn[1] < drawn[0]))
    return PerformanceChange(fields, dropped=bool(loss >= LOSS_MIN and worse >= P_WORSE_MIN))


def _task(values: "pd.Series[Any]") -> str:
    known = values.dropna()
    numeric = pd.api.types.is_float_dtype(values.dtype) or pd.api.types.is_integer_dtype(values.dtype)
    return "regression" if numeric and known.nunique() > 20 else "classification"


def _labelled(frame: pd.DataFrame, target: str, prediction: str, task: str) -> tuple[estimator.Array, Predictions]:
    rows = frame[[target, prediction]].replace([np.inf, -np.inf], np.nan).dropna()
    return estimator.truth(rows[target], task), Predictions(estimator.truth(rows[prediction], task))


def build_event(
    request: MonitorRequest,
    tables: Tables,
    found: Detection,
    performance: PerformanceChange,
    rows: tuple[int, int] | None = None,
) -> JsonObject:
    """`{"event": {...} | null, "drifted", "kind", "columns", "drift_share", "performance", "left_out"}`.

    `rows`: how many rows reference and window hold, where the tables are samples of them.
    """
    share = len(found.drifted()) / len(found.columns) if found.columns else 0.0
    kind = choose_kind(found, performance)
    summary: JsonObject = {
        "drifted": kind is not None,
        "kind": kind,
        "columns": found.columns,
        "drift_share": share,
        "performance": performance.fields,
        "left_out": found.left_out,
    }
    if kind is None:
        return {"event": None, **summary}
    reference_rows, current_rows = rows or (len(tables.reference), len(tables.current))
    data: JsonObject = {
        "model": request.model,
        "kind": kind,
        "environment": request.environment,
        "window": {"rows": current_rows, **_uri(request.current), **_span(request, tables)},
        "reference": {"rows": reference_rows, **_uri(request.reference)},
        "columns": found.columns,
        "drift_share": share,
        "detector": {"name": "evidently", "version": installed("evidently")},
    }
    if request.reference_version is not None:
        data["reference"]["version"] = request.reference_version
    if performance.fields is not None:
        data["performance"] = performance.fields
    if found.schema.changed or found.schema.added:
        data["schema"] = {
            "vanished": list(found.schema.vanished),
            "added": list(found.schema.added),
            "type_changes": list(found.schema.type_changes),
        }
    return {"event": envelope(data, source=request.source or f"driftwarden/monitor/{request.model}"), **summary}


def choose_kind(found: Detection, performance: PerformanceChange) -> str | None:
    """The contract's kind of what was found, the most telling first; None where nothing drifted."""
    if found.schema.changed:
        return "schema_change"
    if any(column["method"] == "missing_share" for column in found.drifted()):
        return "data_quality"
    if performance.dropped:
        return "performance_drop" if found.drifted("feature") else "concept_drift"
    for role, kind in (("feature", "data_drift"), ("target", "label_drift"), ("prediction", "prediction_drift")):
        if found.drifted(role):
            return kind
    return None


def _uri(file: str) -> JsonObject:
    return {"uri": Path(file).resolve().as_uri()} if file else {}


def _span(request: MonitorRequest, tables: Tables) -> JsonObject:
    """`start` and `end` of the window, the end excluded."""
    start, end = request.window_start, request.window_end
    column = tables.roles.time
    if column is not None and column in tables.current.columns and (start is None or end is None):
        moments = time_key(tables.current, column).dropna()
        if len(moments) and isinstance(moments.iloc[0], pd.Timestamp):
            start = start or rfc3339(moments.min().to_pydatetime())
            end = end or rfc3339((moments.max() + timedelta(microseconds=1)).to_pydatetime())
    return {name: moment for name, moment in (("start", start), ("end", end)) if moment is not None}


def create_pipeline() -> Pipeline:
    """Kedro's pipeline `monitor`: `monitor_request` in, `monitor_result` out."""
    return pipeline(
        [
            node(load_tables, "monitor_request", "monitor_tables", name="load_tables"),
            node(find_drift, ["monitor_request", "monitor_tables"], "monitor_drift", name="find_drift"),
            node(
                measure_performance,
                ["monitor_request", "monitor_tables"],
                "monitor_performance",
                name="measure_performance",
            ),
            node(
                build_event,
                ["monitor_request", "monitor_tables", "monitor_drift", "monitor_performance"],
                "monitor_result",
                name="build_event",
            ),
        ]
    )


def monitor(payload: JsonObject) -> JsonObject:
    """Run the pipeline once over a MonitorRequest (JSON); returns what `build_event` does.

    Raises BadInput for a request or table that is wrong.
    """
    try:
        request = MonitorRequest.model_validate(payload)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"]) or "request"
        raise BadInput(f"monitor `{place}`", got=first.get("input"), expected=first["msg"]) from None
    catalog = DataCatalog({"monitor_request": MemoryDataset(request, copy_mode="assign")})
    outputs = SequentialRunner().run(create_pipeline(), catalog)
    result: JsonObject = outputs["monitor_result"].load()
    return result
