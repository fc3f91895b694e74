"""The threads of one service process: intake, timers, workers; started together, stopped together, nothing left behind."""

import importlib
import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import groupby
from typing import Any

from driftwarden.clock import rfc3339
from driftwarden.contracts.event import PERFORMANCE_TYPE, DriftEvent
from driftwarden.errors import Error, EventRejected, Fenced, LogUnwritable
from driftwarden.service.workflow.forgetting import Forgetting
from driftwarden.service.workflow.grouping import group_names
from driftwarden.service.workflow.health import Health, Said, SaidBreaker, SaidWorker
from driftwarden.service.workflow.lost import LostReservations
from driftwarden.service.workflow.parts import SERVICE, Parts
from driftwarden.service.workflow.reports import check_report, measure_reports, take_report
from driftwarden.service.workflow.reservations import free_reservations, withdraw_unasked
from driftwarden.service.workflow.retries import LoopPauses
from driftwarden.service.workflow.runner import Worker
from driftwarden.service.workflow.store import WorkflowStore
from driftwarden.stream.client import redis_away
from driftwarden.stream.intake import Delivery, Intake, Rejection
from driftwarden.telemetry import correlation

log = logging.getLogger(__name__)

INTAKE_BATCH = 50
TIMER_EVERY_S = 0.5
TRIM_EVERY_TICKS = 1200
HOUSEKEEPING_EVERY_TICKS = 7200
POLICY_EVERY_S = 1.0
HEALTH_EVERY_S = 3.0
LOOP_WELL_S = 60.0
# So many late steps a worker may leave behind, each with a thread that may never end, before nobody takes its place.
REPLACED_MAX = 2
# Imported before there are threads: two that import one of these at once see each other's half-made modules.
IMPORTED_FIRST = (
    "mlflow.tracking",
    "mlflow.exceptions",
    "driftwarden.agents.coordinator",
    "driftwarden.actions.verify",
)


@dataclass(frozen=True)
class Stopped:
    """How a stop went: incidents `handed` back in the middle of a step, those `left` to their leases, threads that run on."""

    handed: tuple[str, ...] = ()
    left: tuple[str, ...] = ()
    threads: tuple[str, ...] = ()


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
        health: Health | None = None,
        health_every_s: float = HEALTH_EVERY_S,
    ) -> None:
        """`name` is unique among live processes; `watch_policy` is called every second, `housekeeping` every hour.

        `health` hears every `health_every_s` how the process is. Nothing starts yet.
        """
        self._housekeeping = housekeeping
        self._parts, self._store, self._intake, self._name, self._count = parts, store, intake, name, workers
        self._watch_policy, self._health, self._health_every_s = watch_policy, health, health_every_s
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []
        self._workers: list[tuple[Worker, threading.Thread]] = []
        self._begun = 0
        self._started = self._read_at = time.monotonic()
        self._fault: str | None = None
        self._tried: dict[str, int] = {}

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
        self._thread("reports", self._measure)
        self._thread("retention", self._forget)
        if self._watch_policy is not None:
            self._thread("policy", partial(self._watch, self._watch_policy))
        for _ in range(self._count):
            self._begin_worker()
        if self._health is not None:
            self._told(self._health.begin)
        self._thread("health", self._look_after)

    def stop(self, within_s: float | None = None) -> Stopped:
        """Stop reading, let every worker finish its step or hand back, and wait for them, at most `within_s` (None: for ever).

        What is in hand then is handed back in the middle of its step, which can change nothing any more; where that cannot
        be (Redis is away) its lease runs out.
        """
        self._stop.set()
        end = None if within_s is None else time.monotonic() + within_s
        for thread in self._threads:
            thread.join(None if end is None else max(0.0, end - time.monotonic()))
        handed, left = [], []
        for worker, thread in self._workers:
            incident = worker.view().incident
            if not thread.is_alive() or incident is None:
                continue
            try:
                if worker.give_back() is not None:
                    handed.append(incident)
            except Fenced:  # it was done in this very moment
                continue
            except Error:
                left.append(incident)
        if self._health is not None:
            self._told(self._health.leave)
        running = tuple(thread.name for thread in self._threads if thread.is_alive())
        return Stopped(tuple(handed), tuple(left), running)

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait until the process is asked to stop; True where it was."""
        return self._stop.wait(timeout_s)

    def request_stop(self) -> None:
        """Ask for a stop; safe in a signal handler."""
        self._stop.set()

    def said(self) -> Said:
        """How this process is."""
        now = time.monotonic()
        return Said(
            host=socket.gethostname(),
            pid=os.getpid(),
            folder=str(self._parts.settings.audit_dir),
            up_s=now - self._started,
            workers=tuple(SaidWorker(**asdict(worker.view())) for worker, thread in self._workers if thread.is_alive()),
            breakers={name: SaidBreaker(**asdict(one)) for name, one in self._parts.breakers.views().items()},
            audit_fault=self.fault,
            policy=self._parts.policy().digest,
            intake_s=now - self._read_at,
            books=True,
            refusals=True,
            stopping=self._stop.is_set(),
            ended=self.fault if self._stop.is_set() else None,
        )

    @property
    def fault(self) -> str | None:
        """Why nothing could be written to the audit log, which is what ended the process; None where it was not."""
        return next((worker.fault for worker, _ in self._workers if worker.fault is not None), self._fault)

    def _told(self, tell: Callable[[Said], None]) -> None:
        try:
            tell(self.said())
        except Error as error:
            log.warning("health is not told: %s", error.diagnostics())

    def _look_after(self) -> None:
        while not self._stop.wait(self._health_every_s):
            self.replace_late()
            if self._health is not None:
                self._told(self._health.tell)

    def replace_late(self) -> None:
        """Put another worker in the place of each that is late: its thread may hang for ever."""
        self._workers = [pair for pair in self._workers if pair[1].is_alive()]
        late = [worker for worker, _ in self._workers if worker.view().doing == "late"]
        for worker in late:
            if worker.retired or len(late) > self._count * REPLACED_MAX:
                continue
            worker.retire()
            log.error("worker %s is late: another takes its place", worker.name)
            self._begin_worker()

    def _begin_worker(self) -> None:
        worker = Worker(self._parts, self._store, f"{self._name}-w{self._begun}")
        self._workers.append((worker, self._thread(f"worker {self._begun}", partial(worker.run, self._stop), worker)))
        self._begun += 1

    def _thread(self, name: str, work: Callable[[], Any], worker: Worker | None = None) -> threading.Thread:
        over = (lambda: worker.retired) if worker is not None else (lambda: False)
        thread = threading.Thread(
            target=self._guarded, args=(name, work, over), name=f"driftwarden {name}", daemon=True
        )
        self._threads.append(thread)
        thread.start()
        return thread

    def _guarded(self, name: str, work: Callable[[], Any], is_over: Callable[[], bool]) -> None:
        pauses = LoopPauses(f"{self._name} {name}")
        while not self._stop.is_set() and not is_over():
            begun = time.monotonic()
            try:
                work()
            except LogUnwritable as error:
                log.critical("%s: %s: %s", name, error.what, error.diagnostics())
                self._fault = error.diagnostics()
                self._stop.set()
            except Exception as error:
                known = redis_away(error) or error
                if isinstance(known, Error):
                    log.warning("%s: %s", name, known.diagnostics())
                else:
                    log.exception("%s", name)
                if time.monotonic() - begun > LOOP_WELL_S:
                    pauses.reset()
                self._stop.wait(pauses.next_s())

    def _take_in(self) -> None:
        while not self._stop.is_set():
            self.take_or_set_aside(self._intake.read(INTAKE_BATCH, block_ms=1000))
            self._read_at = time.monotonic()

    def take(self, deliveries: Sequence[Delivery]) -> None:
        """Hand events to the workflow in the order they came: drifts open or join incidents, reports are kept, and measured later.

        A report of a model that is not watched is an incident that says so, as a drift of it is.
        """
        for is_report, run in groupby(deliveries, key=lambda one: self._is_report(one.event)):
            if is_report:
                for one in run:
                    with correlation(one.event.correlation_id):
                        self._take_report(one)
            else:
                self._admit([*run])

    def _take_report(self, one: Delivery) -> None:
        try:
            check_report(self._parts, one.event)
        except EventRejected as error:
            self._intake.set_aside(one, error)
            return
        take_report(self._parts, one.event)
        self._store.record_performance(one.entry_id, one.event)

    def measure_reported(self) -> bool:
        """Measure some of what was reported; True where there was something."""
        return measure_reports(self._parts, self._store)

    def take_or_set_aside(self, deliveries: Sequence[Delivery]) -> None:
        """As `take`; what fails for a fault of ours, and not for something that is away, is tried alone, a few times, and then
        becomes a dead letter: no event may stop those behind it."""
        try:
            self.take(deliveries)
        except Exception as error:
            if _is_of_the_surroundings(error):
                raise
            faults = [fault for one in deliveries if (fault := self._take_alone(one)) is not None]
            if faults:
                raise faults[0] from error

    def _take_alone(self, one: Delivery) -> Exception | None:
        """The fault, where the event is to be tried again."""
        try:
            self.take([one])
        except Exception as error:
            if _is_of_the_surroundings(error):
                raise
            tries = self._tried.pop(one.entry_id, 0) + 1
            if tries < self._parts.settings.service.crashes_max:
                self._tried[one.entry_id] = tries
                return error
            log.exception("an event of %s is set aside", one.event.model)
            self._intake.set_aside(one, error)
        return None

    def admit(self, entry_id: str, event: DriftEvent) -> None:
        """Hand one event to the workflow."""
        self.take([Delivery(entry_id, event)])

    def _is_report(self, event: DriftEvent) -> bool:
        return event.type == PERFORMANCE_TYPE and event.model in self._parts.settings.models

    def _admit(self, deliveries: Sequence[Delivery]) -> None:
        admissions = self._store.admit_many(deliveries, now=rfc3339(self._parts.clock.now()), groups=self._groups)
        for one, admission in zip(deliveries, admissions, strict=True):
            with correlation(one.event.correlation_id):
                about = {"incident": admission.incident, "model": one.event.model, "kind": one.event.kind}
                log.info("event %s", admission.kind, extra=about)

    def _groups(self, event: DriftEvent) -> Sequence[str]:
        """Under which names events of other models share an incident with this one."""
        return group_names(event, self._parts.settings.models.get(event.model))

    def _watch(self, watch_policy: Callable[[], None]) -> None:
        while not self._stop.wait(POLICY_EVERY_S):
            watch_policy()

    def _forget(self) -> None:
        forgetting = Forgetting(self._parts, self._store)
        while not self._stop.wait(TIMER_EVERY_S):
            forgetting.turn()

    def _measure(self) -> None:
        while not self._stop.wait(TIMER_EVERY_S):
            while not self._stop.is_set() and self.measure_reported():
                pass

    def _tick(self) -> None:
        ticks, lost = 0, LostReservations(self._parts, self._store)
        while not self._stop.wait(TIMER_EVERY_S):
            self._store.pump_timers()
            ticks += 1
            if ticks % TRIM_EVERY_TICKS == 0:
                self._store.trim()
                free_reservations(self._parts, self._store)
                lost.turn()
                withdraw_unasked(self._parts, self._store)
            if self._housekeeping is not None and ticks % HOUSEKEEPING_EVERY_TICKS == 1:
                self._housekeeping()


def _is_of_the_surroundings(error: Exception) -> bool:
    """Whether it tells of what the service leans on rather than of the event in hand."""
    return redis_away(error) is not None or isinstance(error, Error | OSError | MemoryError)


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
