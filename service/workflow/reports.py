"""Performance reports: kept as they come, measured afterwards by whoever has the time, and refused where they tell of the future.

The intake only keeps what was reported, atomically and once for each event: what a report costs to measure delays no other
event. A thread of each process measures what can be read here, a few windows of one model at a time, and wakes what waits for
the figures.
"""

import logging
from collections.abc import Sequence
from typing import Any

from driftwarden.clock import parse_rfc3339, rfc3339
from driftwarden.contracts.data import RowSelection
from driftwarden.contracts.event import DriftEvent
from driftwarden.contracts.watch import WatchedModel
from driftwarden.errors import Away, BadInput, Error, EventRejected, NotFound
from driftwarden.service.workflow.facts import CLOCK_SKEW_MAX_S
from driftwarden.service.workflow.metrics import Window
from driftwarden.service.workflow.parts import SERVICE, Parts
from driftwarden.service.workflow.rows import ModelRows
from driftwarden.service.workflow.store import WorkflowStore
from driftwarden.service.workflow.store_types import identity_of

log = logging.getLogger(__name__)

BATCH = 20


def check_report(parts: Parts, event: DriftEvent) -> None:
    """Raise EventRejected where a report's window ends further ahead of the service's clock than clocks differ."""
    window, end = getattr(event.data, "window", None), _end_of(event)
    if parts.lies_ahead(end):
        field = "data.window.end" if window is not None and window.end else "time"
        expected = f"a time at most {CLOCK_SKEW_MAX_S // 60} minutes ahead of the service's clock"
        raise EventRejected(field, got=end, expected=expected)


def take_report(parts: Parts, event: DriftEvent) -> None:
    """Keep what was reported of a window, once; it is measured later. Raises NotFound."""
    model = parts.settings.watched(event.model)
    window, reported = getattr(event.data, "window", None), getattr(event.data, "performance", None)
    end = _end_of(event)
    entry: Window = {
        "start": rfc3339(window.start) if window is not None and window.start else None,
        "end": end,
        "rows": window.rows if window is not None else None,
        "metric": reported.metric if reported else model.metric,
        "value": reported.current if reported else None,
        "reference": reported.reference if reported else None,
        "basis": "reported",
        "uri": window.uri if window is not None else None,
        "told": rfc3339(max(event.time, parse_rfc3339(end))),
    }
    # The log first: a report that was kept stands there, and one that comes again after a crash stands there twice.
    identity = identity_of(event.source, event.id)
    if not parts.metrics.knows(model.name, end, identity):
        parts.audit.append("event", {"event": event.raw}, actor=SERVICE, correlation_id=event.correlation_id)
        parts.metrics.report(model.name, entry, report=identity, source=event.source)


def measure_reports(parts: Parts, store: WorkflowStore) -> bool:
    """Measure some windows of each model that has some; True where there were any. Raises Away where the registry is."""
    busy = False
    for name in parts.metrics.with_unmeasured():
        model = parts.settings.models.get(name)
        if model is None:  # watched by others, or by nobody any more
            continue
        with parts.metrics.measuring(name, parts.settings.rehearsal.timeout_s * (BATCH + 1)) as ours:
            if ours and (found := parts.metrics.unmeasured(name, BATCH)):
                _measure(parts, model, found)
                busy = True
                for incident in store.verifying(name):
                    _wake(store, incident)
            if ours and len(found) < BATCH:
                parts.metrics.all_measured(name)
    return busy


def _measure(parts: Parts, model: WatchedModel, found: Sequence[tuple[bytes, Window]]) -> None:
    selections = [_rows(parts, model, window) for _, window in found]
    readable = [one for one in selections if one is not None]
    version = parts.registry.champion(model) if readable else None
    scores = iter(_scores(parts, model, version, readable) if readable else ())
    for (raw, window), rows in zip(found, selections, strict=True):
        score = next(scores) if rows is not None else None
        figure = {"unmeasured": False}
        if score is not None and score["value"] is not None:
            told = {"value": score["value"], "rows": score["rows"], "metric": model.metric, "basis": "measured"}
            figure |= told | {"version": version}
        parts.metrics.measured(model.name, raw, window | figure, rows_max=parts.settings.data.measure_rows_max)


def _rows(parts: Parts, model: WatchedModel, window: Window) -> RowSelection | None:
    try:
        # The producer's times lift no label's delay: only the service's own clock does.
        now = parts.decision_clock.reached(str(window.get("told") or window["end"]))
        return ModelRows(parts.settings, model, {}).window(str(window["uri"]), now)
    except (BadInput, Error) as error:
        log.info("performance report is taken as reported: %s", error.diagnostics())
        return None


def _scores(
    parts: Parts, model: WatchedModel, version: int | None, rows: Sequence[RowSelection]
) -> list[dict[str, Any] | None]:
    """A version's figures for each of these; None where there is none. What kills the sandbox spoils no other window."""
    try:
        scored = parts.sandbox.call(
            "driftwarden.pipelines.tasks:score",
            {
                "model": model.model_dump(mode="json"),
                "tracking_uri": parts.settings.tracking_uri,
                "version": version,
                "windows": [one.model_dump(mode="json") for one in rows],
            },
            timeout_s=parts.settings.rehearsal.timeout_s,
        )
    except Away:
        raise
    except (BadInput, Error) as error:
        if len(rows) > 1:
            return [score for one in rows for score in _scores(parts, model, version, [one])]
        log.info("performance report is taken as reported: %s", error.diagnostics())
        return [None]
    return list(scored["scores"])


def _wake(store: WorkflowStore, incident: str) -> None:
    try:
        store.wake(incident, "performance")
    except NotFound:
        log.debug("an incident that waited for a figure is gone")


def _end_of(event: DriftEvent) -> str:
    window = getattr(event.data, "window", None)
    return rfc3339(window.end if window is not None and window.end else event.time)
