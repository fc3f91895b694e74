"""The case as the agents may read it: measured live in the sandbox, never more than read-only."""

import logging
from typing import Any

from driftwarden.contracts.measurements import MEASURE_TYPES, Measured, MeasurementName
from driftwarden.contracts.watch import WatchedModel
from driftwarden.errors import Away, BadInput, Error
from driftwarden.service.workflow.books import models_of
from driftwarden.service.workflow.incident import Incident
from driftwarden.service.workflow.parts import Parts
from driftwarden.service.workflow.rows import ModelRows
from driftwarden.strict import plain

log = logging.getLogger(__name__)

HISTORY_WINDOWS_MAX = 60


class LiveCase:
    """Implements the port `CaseFile` over one incident. Measurements are made once, together, and kept; `unreadable` says
    why there are none, `span` are the times of the window's first and last row (RFC 3339; None: they have none)."""

    def __init__(self, parts: Parts, incident: Incident, model: WatchedModel) -> None:
        """Read-only views of this incident's surroundings."""
        self._parts, self._incident, self._model = parts, incident, model
        self.faults: list[str] = []
        self._measures: dict[str, Measured] = {}
        self.unreadable: str | None = None
        self.span: tuple[str | None, str | None] = None, None

    def event(self) -> dict[str, Any]:
        """The data of the drift event whose window speaks for the model, and how many events the incident holds."""
        event = dict(self._incident.event)
        event["columns"] = list(event.get("columns") or ())[:200]
        models = self._incident.models
        return event | {
            "events_in_incident": len(self._incident.events),
            "models_in_incident": len(models),
            "other_models": [name for name in models if name != self._model.name][:20],
        }

    def model(self) -> dict[str, Any]:
        """The watched model without its files."""
        card: dict[str, Any] = plain(
            self._model.model_dump(mode="json", exclude={"data", "training", "labels", "registered_model"})
        )
        return card | {
            "label_delay_seconds": int(self._model.labels.delay.total_seconds()),
            "champion_version": self._incident.champion_before,
            "retraining": self._retraining(),
        }

    def _retraining(self) -> dict[str, Any]:
        """How many rows `recent` means, and since when (a time, or a row's position) the model has been worse."""
        bounds, window = self._parts.settings.rehearsal, self._incident.event.get("window") or {}
        rows = max(bounds.recent_rows_min, bounds.recent_windows * int(window.get("rows") or 0))
        first = since_when(self._incident, self._parts.metrics.windows(self._model.name, HISTORY_WINDOWS_MAX))
        if self._model.time_column is not None or first is None:
            return {"recent_rows": rows, "since": first}
        selection = ModelRows(self._parts.settings, self._model, self._parts.quarantined(self._model.name))
        try:
            return {
                "recent_rows": rows,
                "since": selection.position_of(first, self._parts.metrics.windows(self._model.name)),
            }
        except BadInput:
            return {"recent_rows": rows, "since": None}

    def measure(self, name: MeasurementName) -> Measured:
        """One measurement; the first call measures everything in one sandboxed pass over the rows."""
        if not self._measures:
            self._measures = self._measure_all()
        return self._measures[name]

    def performance(self, *, timeout_s: float) -> dict[str, Any]:
        """The measurement `performance` alone, JSON-able; `{}` where the window cannot be read (`unreadable` says why)."""
        try:
            answer = self._parts.sandbox.call(
                "driftwarden.service.tasks:measure",
                self._payload() | {"only": ["performance"]},
                timeout_s=timeout_s,
                memory_bytes=self._parts.settings.rehearsal.memory_mib * 1024 * 1024,
            )
        except Away:
            raise  # as below
        except (BadInput, Error) as error:
            self._parts.registry.champion(self._model)
            self.unreadable = error.diagnostics()
            return {}
        self.span = _span(answer)
        return MEASURE_TYPES["performance"].model_validate(answer["performance"]).model_dump(mode="json")

    def measured(self) -> dict[str, dict[str, Any]]:
        """Every measurement made, JSON-able."""
        return {name: one.model_dump(mode="json") for name, one in self._measures.items()}

    def metric_history(self, limit: int = 20) -> list[dict[str, Any]]:
        """Earlier windows, newest last."""
        return self._parts.metrics.windows(self._model.name, limit)

    def registry_history(self, limit: int = 10) -> list[dict[str, Any]]:
        """Versions, newest first."""
        return self._parts.registry.versions(self._model, limit)

    def recent_changes(self) -> list[dict[str, Any]]:
        """Actions on this model, batches in quarantine and the reference in force, newest last.

        An action that was put away is told like any other; those whose incidents were removed, as one.
        """
        own, changes = self._incident.id, list[dict[str, Any]]()
        for key, entry in self._parts.ledger.entries([self._model.name]).items():
            # The incident's last action is its own affair, wherever it stands.
            if self._model.name not in models_of(entry) or key == own or key.startswith(f"{own}#@"):
                continue
            whose = {"what": "earlier actions"} if "times" in entry else {"incident": key.partition("#")[0]}
            changes.append({"what": "action", **whose, **entry})
        changes.sort(key=lambda change: change["at"])
        quarantined = self._parts.quarantined(self._model.name)
        changes += [{"what": "quarantined batch", "batch": batch, **record} for batch, record in quarantined.items()]
        reference = self._parts.state.reference(self._model.name)
        if reference:
            changes.append({"what": "reference", **reference})
        return changes[-30:]

    def _measure_all(self) -> dict[str, Measured]:
        try:
            answer = self._parts.sandbox.call(
                "driftwarden.service.tasks:measure",
                self._payload(),
                timeout_s=self._parts.settings.rehearsal.timeout_s,
                memory_bytes=self._parts.settings.rehearsal.memory_mib * 1024 * 1024,
            )
        except Away:
            raise  # Redis, which knows what is in quarantine: that is waited for, and not investigated without
        except (BadInput, Error) as error:
            if self._window_uri():  # without one nothing was asked of anybody
                # Raises Away where it is the registry that is missing, which is waited for as well.
                self._parts.registry.champion(self._model)
            log.warning("measurements: %s", error.diagnostics())
            self.unreadable = error.diagnostics()
            return {name: kind(unavailable=error.diagnostics()) for name, kind in MEASURE_TYPES.items()}
        self.faults = [str(fault) for fault in answer.get("faults", ())]
        self.span = _span(answer)
        return {name: MEASURE_TYPES[name].model_validate(answer[name]) for name in MEASURE_TYPES}

    def _payload(self) -> dict[str, Any]:
        uri = self._window_uri()
        if not uri:
            raise BadInput(
                "event field `data.window.uri`", got="nothing", expected="where the window's rows can be read"
            )
        now = self._parts.decision_clock.now_for(self._incident)
        rows = ModelRows(self._parts.settings, self._model, self._parts.quarantined(self._model.name))
        current = rows.window(uri, now)
        history = [str(path) for path in rows.history_files() if str(path) not in current.paths]
        quarantined = {str(one.path) for one in rows.known(now, uri).excluded}
        return {
            "model": self._model.model_dump(mode="json"),
            "tracking_uri": self._parts.settings.tracking_uri,
            "champion_version": self._incident.champion_before,
            "current": current.model_dump(mode="json"),
            "reference": self._reference(rows),
            "history": [path for path in history if path not in quarantined][-HISTORY_WINDOWS_MAX:],
            "reported_performance": self._incident.event.get("performance"),
            "rows_max": self._parts.settings.data.measure_rows_max,
        }

    def _window_uri(self) -> str:
        return str((self._incident.event.get("window") or {}).get("uri") or "")

    def _reference(self, rows: ModelRows) -> str | None:
        """The file to compare with: the event's own, else the one that an action set; None: the champion's training rows."""
        named = (self._incident.event.get("reference") or {}).get("uri")
        held = self._parts.state.reference(self._model.name) or {}
        uri = named or held.get("uri")
        return str(rows.path(uri)) if uri else None


def _span(answer: dict[str, Any]) -> tuple[str | None, str | None]:
    first, last = answer.get("span") or (None, None)
    return first, last


def since_when(incident: Incident, history: list[dict[str, Any]]) -> str | None:
    """Start of the first of the latest unbroken run of worse windows, this incident's own included; None: not known.

    `history` as `MetricHistory.windows` gives it; a window is worse where its value is 2 % or more below its reference.
    """
    starts = [str(window["start"]) for window in [incident.event.get("window") or {}] if window.get("start")]
    if not starts:
        return None
    first = starts[0]
    for window in reversed([one for one in history if str(one.get("end") or "") <= first or one.get("start") == first]):
        if window.get("start") == first:
            continue
        if not _worse(window):
            break
        first = str(window.get("start") or first)
    return first


def _worse(window: dict[str, Any]) -> bool:
    value, reference = window.get("value"), window.get("reference")
    try:
        now, before = float(str(value)), float(str(reference))
    except ValueError:
        return False
    return now <= before - 0.02 * abs(before)
