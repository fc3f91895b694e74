"""Tasks for a sandboxed process: JSON object in, JSON object out. Each raises errors of `driftwarden.errors` only."""

import json
from typing import Any, TypeVar

from pydantic import ValidationError

from driftwarden.contracts.base import Value
from driftwarden.contracts.data import RowSelection
from driftwarden.contracts.effects import TrainingRequest
from driftwarden.contracts.findings import Candidate
from driftwarden.contracts.watch import WatchedModel
from driftwarden.errors import BadInput
from driftwarden.pipelines.quiet import quiet

JsonObject = dict[str, Any]
T = TypeVar("T", bound=Value)


class _Rehearse(Value):
    model: WatchedModel
    tracking_uri: str
    champion_version: int
    candidates: tuple[Candidate, ...]
    rows: RowSelection
    holdout_rows: int
    recent_rows: int | None = None
    seed: int = 0
    replicates: int = 400
    origins: int = 2


class _Compare(Value):
    model: WatchedModel
    tracking_uri: str
    champion: int
    challenger: int
    rows: RowSelection
    seed: int = 0
    replicates: int = 400


class _Score(Value):
    model: WatchedModel
    tracking_uri: str
    version: int
    windows: tuple[RowSelection, ...]


def rehearse(payload: JsonObject) -> JsonObject:
    """Rehearse candidates against the champion: `{"rehearsals": [Rehearsal]}`, one per candidate, in order.

    Payload: `model`, `tracking_uri`, `champion_version`, `candidates`, `rows` (RowSelection: all labelled rows known),
    `holdout_rows`, `recent_rows`, `seed`, `replicates`, `origins` (default 2: see `rehearsal`).
    """
    asked = _read(_Rehearse, payload)
    from driftwarden.pipelines import rehearsal

    results = rehearsal.rehearse(
        asked.model,
        asked.tracking_uri,
        asked.champion_version,
        list(asked.candidates),
        asked.rows,
        holdout_rows=asked.holdout_rows,
        recent_rows=asked.recent_rows,
        seed=asked.seed,
        replicates=asked.replicates,
        origins=asked.origins,
    )
    return {"rehearsals": [_json(result) for result in results]}


def compare(payload: JsonObject) -> JsonObject:
    """Compare two registered versions on labelled rows: a Comparison.

    Payload: `model`, `tracking_uri`, `champion`, `challenger` (versions), `rows`, `seed`, `replicates`.
    """
    asked = _read(_Compare, payload)
    from driftwarden.pipelines import rehearsal

    return _json(
        rehearsal.compare_versions(
            asked.model,
            asked.tracking_uri,
            asked.champion,
            asked.challenger,
            asked.rows,
            seed=asked.seed,
            replicates=asked.replicates,
        )
    )


def score(payload: JsonObject) -> JsonObject:
    """A version's metric on each window: `{"scores": [{"metric", "value", "rows", "detail"}]}`; null where undefined.

    Payload: `model`, `tracking_uri`, `version`, `windows` (list of RowSelection). `rows` counts labelled rows.
    """
    asked = _read(_Score, payload)
    from driftwarden.errors import Error
    from driftwarden.pipelines import registry, rehearsal, scoring

    model = registry.load_model(asked.tracking_uri, asked.model.registered_model, asked.version)
    scores: list[JsonObject] = []
    for window in asked.windows:
        entry: JsonObject = {"metric": asked.model.metric, "value": None, "rows": 0, "detail": ""}
        try:
            rows = rehearsal.labelled_rows(asked.model, window)
            predictions = scoring.predictions_of(model, rows.frame, asked.model.task)
            value = scoring.metric_of(asked.model.metric, asked.model.task, rows.target, predictions)
            entry |= {"value": value, "rows": len(rows.target)}
        except Error as error:
            entry["detail"] = error.diagnostics()
        scores.append(entry)
    return {"scores": scores}


def train(payload: JsonObject) -> JsonObject:
    """Run Kedro's pipeline `train` for a TrainingRequest: the TrainingResult of the version that was registered."""
    request = _read(TrainingRequest, payload)
    from driftwarden.pipelines import run_training

    return run_training.run(request.model_dump_json())


def monitor(payload: JsonObject) -> JsonObject:
    """Compare a window with a reference: see `monitoring.monitor`."""
    quiet()
    from driftwarden.pipelines import monitoring

    return monitoring.monitor(payload)


def _read(kind: type[T], payload: JsonObject) -> T:
    try:
        return kind.model_validate(payload)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"]) or "payload"
        raise BadInput(f"task payload `{place}`", got=first.get("input"), expected=first["msg"]) from None


def _json(value: Value) -> JsonObject:
    document: JsonObject = json.loads(value.model_dump_json())
    return document
