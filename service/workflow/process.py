"""The threads of one service process: intake, timers, workers; started together, stopped together, nothing left behind."""

import importlib
import logging
import threading
from collections.abc import Callable, Sequence
from functools import partial
from itertools import groupby
from typing import Any

from driftwarden.clock import parse_rfc3339, rfc3339
from driftwarden.contracts.event import PERFORMANCE_TYPE, DriftEvent
from driftwarden.contracts.ports import Actor
from driftwarden.errors import BadInput, Error, LogUnwritable, NotFound
from driftwarden.service.workflow.parts import SERVICE, Parts
from driftwarden.service.workflow.rows import ModelRows
from driftwarden.service.workflow.runner import Worker
from driftwarden.service.workflow.store import WorkflowStore
from driftwarden.stream.intake import Delivery, Intake, Rejection
from driftwarden.telemetry import correlation

log = logging.getLogger(__name__)

INTAKE_BATCH = 50
TIMER_EVERY_S = 0.5
TRIM_EVERY_TICKS = 1200
HOUSEKEEPING_EVERY_TICKS = 7200
POLICY_EVERY_S = 1.0
# Imported before there are threads: two that import one of these at once see each other's half-made modules.
IMPORTED_FIRST = (
    "mlflow.tracking",
    "mlflow.exceptions",
    "driftwarden.agents.coordinator",
    "driftwarden.actions.verify",
)
TIMERS = Actor(kind="timer", id="driftwarden")


class ServiceProcess:
    """Runs the intake, the timers and the workers of one process."""

    def __init__(
        self,
        parts: Parts,
        store: WorkflowStore,
        intake: Intake,
        *,
        name: str,
        workers: int,
        watch_policy: Callable[[], None] | None = None,
        housekeeping: Callable[[], None] | None = None,
    ) -> None:
        """`name` is unique among live processes; `watch_policy` is called every second, `housekeeping` every hour.

        Nothing starts yet.
        """
        self._housekeeping = housekeeping
        self._parts, self._store, self._intake, self._name, self._workers = parts, store, intake, name, workers
        self._watch_policy = watch_policy
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []

    @property
    def stopping(self) -> bool:
        """True from the moment the process was asked to stop, or the audit log died."""
        return self._stop.is_set()

    def start(self) -> None:
        """Start every thread."""
        for module in IMPORTED_FIRST:
            importlib.import_module(module)
        self._thread("intake", self._take_in)
        self._thread("timers", self._tick)
        if self._watch_policy is not None:
            self._thread("policy", partial(self._watch, self._watch_policy))
        for number in range(self._workers):
            worker = Worker(self._parts, self._store, f"{self._name}-w{number}")
            self._thread(f"worker {number}", partial(worker.run, self._stop))

    def stop(self) -> None:
        """Stop reading, let every worker finish or hand back what it holds, and wait for them."""
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait until the process is asked to stop; True where it was."""
        return self._stop.wait(timeout_s)

    def request_stop(self) -> None:
        """Ask for a stop; safe in a signal handler."""
        self._stop.set()

    def _thread(self, name: str, work: Callable[[], Any]) -> None:
        thread = threading.Thread(target=self._guarded, args=(name, work), name=f"driftwarden {name}", daemon=True)
        self._threads.append(thread)
        thread.start()

    def _guarded(self, name: str, work: Callable[[], Any]) -> None:
        while not self._stop.is_set():
            try:
                work()
            except LogUnwritable as error:
                log.critical("%s: the audit log cannot be written: %s", name, error.diagnostics())
                self._stop.set()
            except Error as error:
                log.warning("%s: %s", name, error.diagnostics())
                self._stop.wait(1.0)
            except Exception:
                log.exception("%s", name)
                self._stop.wait(1.0)

    def _take_in(self) -> None:
        while not self._stop.is_set():
            self.take(self._intake.read(INTAKE_BATCH, block_ms=1000))

    def take(self, deliveries: Sequence[Delivery]) -> None:
        """Hand events to the workflow in the order they came: drifts open or join incidents, reports are measured.

        A report of a model that is not watched is an incident that says so, as a drift of it is.
        """
        for is_report, run in groupby(deliveries, key=lambda one: self._is_report(one.event)):
            if is_report:
                for one in run:
                    with correlation(one.event.correlation_id):
                        # Measured first: what the report wakes must find the figure.
                        take_performance(self._parts, one.event)
                        self._store.record_performance(one.entry_id, one.event)
            else:
                self._admit([*run])

    def admit(self, entry_id: str, event: DriftEvent) -> None:
        """Hand one event to the workflow."""
        self.take([Delivery(entry_id, event)])

    def _is_report(self, event: DriftEvent) -> bool:
        return event.type == PERFORMANCE_TYPE and event.model in self._parts.settings.models

    def _admit(self, deliveries: Sequence[Delivery]) -> None:
        admissions = self._store.admit_many(deliveries, now=rfc3339(self._parts.clock.now()))
        for one, admission in zip(deliveries, admissions, strict=True):
            with correlation(one.event.correlation_id):
                about = {"incident": admission.incident, "model": one.event.model, "kind": one.event.kind}
                log.info("event %s", admission.kind, extra=about)

    def _watch(self, watch_policy: Callable[[], None]) -> None:
        while not self._stop.wait(POLICY_EVERY_S):
            watch_policy()

    def _tick(self) -> None:
        ticks = 0
        while not self._stop.wait(TIMER_EVERY_S):
            self._store.pump_timers()
            ticks += 1
            if ticks % TRIM_EVERY_TICKS == 0:
                self._store.trim()
                free_reservations(self._parts, self._store)
            if self._housekeeping is not None and ticks % HOUSEKEEPING_EVERY_TICKS == 1:
                self._housekeeping()


def free_reservations(parts: Parts, store: WorkflowStore) -> list[str]:
    """Settle, as failed, what incidents reserved that ended without a worker's word (a crash loop); returns them."""
    freed = []
    for incident in parts.ledger.running():
        try:
            record = store.get(incident)
        except NotFound:
            continue
        if not record.ended:
            continue
        parts.ledger.abandon(incident)
        parts.audit.append(
            "close",
            {"state": record.state, "outcome": record.doc.get("outcome"), "problem": record.reason},
            actor=TIMERS,
            incident=incident,
            correlation_id=record.correlation_id,
        )
        freed.append(incident)
    return freed


def bury(parts: Parts) -> Callable[[Rejection], None]:
    """A dead letter stands in the audit log before it is written."""

    def record(rejection: Rejection) -> None:
        parts.audit.append(
            "dead_letter",
            {
                "entry": rejection.entry_id,
                "reason": rejection.reason,
                "field": rejection.field,
                "got": rejection.got,
                "expected": rejection.expected,
                "source": rejection.source,
                "event_id": rejection.event_id,
            },
            actor=SERVICE,
        )

    return record


def take_performance(parts: Parts, event: DriftEvent) -> None:
    """Labels are known: measure the window ourselves where it can be read, and keep the figure. Raises NotFound."""
    model = parts.settings.watched(event.model)
    parts.audit.append("event", {"event": event.raw}, actor=SERVICE, correlation_id=event.correlation_id)
    window, reported = getattr(event.data, "window", None), getattr(event.data, "performance", None)
    end = rfc3339(window.end if window is not None and window.end else event.time)
    entry: dict[str, Any] = {
        "start": rfc3339(window.start) if window is not None and window.start else None,
        "end": end,
        "rows": window.rows if window is not None else None,
        "metric": reported.metric if reported else model.metric,
        "value": reported.current if reported else None,
        "reference": reported.reference if reported else None,
        "basis": "reported",
        "uri": window.uri if window is not None else None,
    }
    if window is not None and window.uri:
        try:
            # The producer's times lift no label's delay: only the service's own clock does.
            now = parts.decision_clock.reached(rfc3339(max(event.time, parse_rfc3339(end))))
            rows = ModelRows(parts.settings, model, {}).window(window.uri, now)
            scored = parts.sandbox.call(
                "driftwarden.pipelines.tasks:score",
                {
                    "model": model.model_dump(mode="json"),
                    "tracking_uri": parts.settings.tracking_uri,
                    "version": parts.registry.champion(model),
                    "windows": [rows.model_dump(mode="json")],
                },
                timeout_s=parts.settings.rehearsal.timeout_s,
            )
            first = scored["scores"][0]
            if first["value"] is not None:
                entry |= {"value": first["value"], "rows": first["rows"], "metric": model.metric, "basis": "measured"}
        except (BadInput, Error) as error:
            log.info("performance report is taken as reported: %s", error.diagnostics())
    known = {parse_rfc3339(one["end"]): one for one in parts.metrics.last(model.name, 50)}
    parts.metrics.record(model.name, known.get(parse_rfc3339(end), {}) | entry)
