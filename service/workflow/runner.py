"""The worker: takes an incident under a lease and walks it from state to state until it waits for something or ends."""

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from driftwarden.clock import rfc3339
from driftwarden.contracts.event import parse_event
from driftwarden.errors import AskHuman, BadInput, Error, Fenced, GiveUp, LogUnwritable, NotYet, Refused, Retry
from driftwarden.service.workflow import acting, byhand, deciding, understand
from driftwarden.service.workflow.incident import Incident
from driftwarden.service.workflow.parts import SERVICE, Parts, current_lease
from driftwarden.service.workflow.reminding import next_look
from driftwarden.service.workflow.store import Claim, Signal, WorkflowStore
from driftwarden.service.workflow.transitions import JOINABLE, TERMINAL, State, check_arrow
from driftwarden.telemetry import correlation

log = logging.getLogger(__name__)

CRASH_LOOP = "crash-loop"
VERIFY_AGAIN_S = 300.0
AGREE_AGAIN_S = 5.0
RETRY_AFTER_S = (1.0, 5.0, 30.0, 120.0)
WAITING = frozenset({State.AWAITING_APPROVAL, State.VERIFYING})


class Worker:
    """One worker of a process; several may run side by side, in one process or on many hosts."""

    def __init__(
        self, parts: Parts, store: WorkflowStore, name: str, *, fail_point: Callable[[str], None] | None = None
    ) -> None:
        """`name` is unique among live workers; `fail_point` is told where the walk stands (tests of crashes)."""
        self._parts, self._store, self._name = parts, store, name
        self._lease_ms = int(parts.settings.service.lease_s * 1000)
        self._fail_point = fail_point or (lambda where: None)
        self._stop: threading.Event | None = None

    def run(self, stop: threading.Event, *, block_ms: int = 1000) -> None:
        """Work until `stop` is set; the step in hand is finished first, and its incident handed back."""
        self._stop = stop
        while not stop.is_set():
            try:
                self.work_once(block_ms=block_ms)
            except Retry as error:
                log.warning("waiting for redis: %s", error.diagnostics())
                stop.wait(1.0)
            except LogUnwritable as error:
                log.critical("the audit log cannot be written; nothing executes until it can: %s", error.diagnostics())
                stop.set()

    def work_once(self, *, block_ms: int = 0) -> bool:
        """Take one incident, if any waits, as far as it goes; True where there was one."""
        claim = self._store.claim(self._name, block_ms=block_ms, lease_ms=self._lease_ms)
        if claim is None:
            return False
        with self._heart(claim) as lease:
            token = current_lease.set(lease)
            try:
                self._walk(claim)
            except Fenced as error:
                log.info("handed over: %s", error.diagnostics(), extra={"incident": claim.incident})
            finally:
                current_lease.reset(token)
        return True

    def _walk(self, claim: Claim) -> None:
        incident = self._incident(claim)
        with correlation(incident.correlation_id, incident.id):
            if self._distrusted(claim, incident):
                return
            resumed, asked = True, False
            while True:
                # A commit brings what was left meanwhile: each word is read before the commit that says it was handled.
                kept = incident.model_copy(deep=True)
                try:
                    asked = self._hear(claim, incident) or asked
                except Retry as error:
                    _rewind(incident, kept)
                    log.info("a word waits: %s", error.diagnostics(), extra={"incident": incident.id})
                    self._park(claim, incident, AGREE_AGAIN_S, handled=())
                    return
                if incident.state in TERMINAL:
                    # Nothing is left to walk: a word that came too late, or a close that a person asked for.
                    self._finish(claim, incident, closing=asked)
                    return
                before = incident.state
                after = self._step(claim, incident, resumed=resumed)
                if after is None:
                    return  # parked for another try
                resumed = False
                check_arrow(before, after)
                incident.state = after
                claim, going_on = self._commit(claim, incident, before)
                self._fail_point(f"committed:{after}")
                if not going_on:
                    return
                if self._stop is not None and self._stop.is_set() and after is not State.EXECUTING:
                    self._store.hand_back(claim)
                    return

    def _distrusted(self, claim: Claim, incident: Incident) -> bool:
        """True where the stored state is not the last one: the incident ends, as the log says or as failed."""
        forged, floor = bool(claim.doc) and not claim.genuine, self._parts.floor
        ended = None if forged else floor.ended_as(incident.id, claim.version)
        if ended in set(TERMINAL):
            incident.state = State(ended)
            incident.note(self._parts.clock, "close", "the audit log says that it had ended", SERVICE)
            self._finish(claim, incident, closing=False)
            return True
        if forged:
            why = "what is stored of it was not written by this service"
        elif floor.has_unknown_effect(incident):
            why = "the audit log tells of an effect that the stored state does not know"
        else:
            return False
        log.error("incident is not walked: %s", why, extra={"incident": incident.id, "model": incident.model})
        deciding.fail(self._parts, incident, why)
        incident.state = State.FAILED
        self._finish(claim, incident, closing=True)
        return True

    def _hear(self, claim: Claim, incident: Incident) -> bool:
        """Take up what people asked for by hand; True where that changed the state."""
        before, closing = incident.state, False
        for signal in claim.signals:
            if signal.why == CRASH_LOOP:
                deciding.fail(self._parts, incident, f"crash loop: {signal.payload}")
                closing = True
            if signal.why in byhand.ALLOWED:
                incident.state = byhand.take_request(self._parts, incident, signal.why, signal.payload)
        return closing or incident.state is not before

    def _incident(self, claim: Claim) -> Incident:
        if claim.doc and claim.genuine:
            incident = Incident.model_validate(claim.doc)
        else:
            event = parse_event(claim.events[0])
            now = rfc3339(self._parts.clock.now())
            incident = Incident(
                id=claim.incident,
                correlation_id=event.correlation_id,
                model=event.model,
                environment=event.data.environment,
                opened_at=claim.opened_at or now,
                updated_at=now,
            )
        if claim.state == State.FAILED:  # a crash loop ends an incident without a worker's word
            incident.state = State.FAILED
        return incident

    def _step(self, claim: Claim, incident: Incident, *, resumed: bool) -> State | None:
        started = time.monotonic()
        name = incident.state.value
        kept = incident.model_copy(deep=True)
        try:
            with self._parts.span(
                f"step {name}", correlation_id=incident.correlation_id, incident=incident.id, kind="chain"
            ):
                after = advance(self._parts, incident, claim, resumed=resumed)
        except (Fenced, LogUnwritable):
            raise
        except NotYet as error:
            _rewind(incident, kept)
            return self._wait(claim, incident, error)
        except (Retry, OSError, TimeoutError) as error:
            _rewind(incident, kept)
            return self._again(claim, incident, error)
        except (GiveUp, Refused, AskHuman, BadInput) as error:
            return deciding.fail(self._parts, incident, error.diagnostics())
        except Exception as error:
            # A fault of ours must not end the worker, nor be lost: it is tried again, and then the incident fails with it.
            log.exception("step %s", name, extra={"incident": incident.id})
            _rewind(incident, kept)
            return self._again(claim, incident, error)
        if after is not State.EXECUTING:  # within it, a retry decides and intends anew: that alone is no progress
            incident.tries = 0
        incident.seconds[name] = round(incident.seconds.get(name, 0.0) + time.monotonic() - started, 3)
        self._fail_point(f"stepped:{name}")
        return after

    def _wait(self, claim: Claim, incident: Incident, error: NotYet) -> State | None:
        """Parked until workers agree or settings load, however long that takes: no failed try, and said once."""
        reason = f"waits: {error.diagnostics()}"
        if not any(line["summary"].startswith("waits: ") for line in incident.timeline[-1:]):
            incident.note(self._parts.clock, "decision", reason, SERVICE)
        log.info("incident %s", reason, extra={"incident": incident.id})
        self._park(claim, incident, AGREE_AGAIN_S)
        return None

    def _again(self, claim: Claim, incident: Incident, error: BaseException) -> State | None:
        reason = error.diagnostics() if isinstance(error, Error) else f"{type(error).__name__} in step {incident.state}"
        incident.tries += 1
        if incident.tries >= self._parts.settings.service.tries_max:
            return deciding.fail(self._parts, incident, f"gave up after {incident.tries} tries: {reason}")
        delay_s = RETRY_AFTER_S[min(incident.tries, len(RETRY_AFTER_S)) - 1]
        incident.note(self._parts.clock, "close", f"try {incident.tries} of {incident.state}: {reason}", SERVICE)
        self._park(claim, incident, delay_s)
        return None

    def _park(
        self, claim: Claim, incident: Incident, delay_s: float, *, handled: Sequence[Signal] | None = None
    ) -> None:
        self._store.commit(
            claim,
            state=incident.state.value,
            doc=incident.to_store(),
            disposition="park",
            due_s=delay_s,
            accepting=_accepts(incident),
            handled=claim.signals if handled is None else handled,
            weighed=len(incident.events),
        )

    def _commit(self, claim: Claim, incident: Incident, before: State) -> tuple[Claim, bool]:
        state = incident.state
        if state in TERMINAL:
            return self._finish(claim, incident, closing=True), False
        waits = state in WAITING and (state == before or state is State.AWAITING_APPROVAL)
        if state is State.VERIFYING and acting.is_harmed(incident) and incident.helped is None:
            waits = False  # the verdict is in, and nothing came of it yet
        claim = self._store.commit(
            claim,
            state=state.value,
            doc=incident.to_store(),
            disposition="release" if waits else "go",
            due_s=self._due_s(incident) if waits else None,
            accepting=_accepts(incident),
            handled=claim.signals,
            weighed=len(incident.events),
            # What joined too late to be weighed is not held up by the effect and its verification.
            split=state is State.EXECUTING,
        )
        return claim, not waits

    def _finish(self, claim: Claim, incident: Incident, *, closing: bool) -> Claim:
        if closing:
            acting.close(self._parts, incident, claim.version)
        # What was taken in is what was weighed: any event beyond that opens the next incident.
        weighed = claim.events[: len(incident.events)] or claim.events
        claim = self._store.commit(
            replace(claim, events=weighed),
            state=incident.state.value,
            doc=incident.to_store(),
            disposition="finish",
            accepting=False,
            handled=claim.signals,
        )
        state = incident.state.value
        log.info("incident %s: %s", state, incident.problem or incident.outcome, extra={"model": incident.model})
        return claim

    def _due_s(self, incident: Incident) -> float:
        if incident.state is State.AWAITING_APPROVAL and incident.approval:
            request = self._parts.approvals.get(incident.approval)
            if request.state != "pending":
                return 0.0
            wait_s = (next_look(self._parts, incident, request) - self._parts.clock.now()).total_seconds()
            return max(1.0, wait_s)
        return VERIFY_AGAIN_S

    @contextmanager
    def _heart(self, claim: Claim) -> Iterator["Heart"]:
        heart = Heart(self._store, claim, interval_s=self._lease_ms / 3000)
        heart.start()
        try:
            yield heart
        finally:
            heart.stop()


def _rewind(incident: Incident, kept: Incident) -> None:
    """Undo what half a step changed: it is done again from its beginning, or told from there."""
    for name in Incident.model_fields:
        setattr(incident, name, getattr(kept, name))


def _accepts(incident: Incident) -> bool:
    """Whether later drift may join: not while an effect is taken back, which nothing that comes now could change."""
    return incident.state in JOINABLE and incident.undo_of is None


Step = Callable[[Parts, Incident, list[str]], State]


def _triaged(parts: Parts, incident: Incident, raws: list[str]) -> State:
    if len(raws) > len(incident.events):
        understand.take_in(parts, incident, raws)
    if incident.problem:
        return deciding.decide_problem(parts, incident)
    return understand.investigate(parts, incident)


STEPS: dict[State, Step] = {
    State.RECEIVED: understand.take_in,
    State.TRIAGED: _triaged,
    State.INVESTIGATED: lambda parts, incident, raws: understand.write_plan(parts, incident),
    State.PLANNED: lambda parts, incident, raws: understand.rehearse(parts, incident),
    State.REHEARSED: lambda parts, incident, raws: deciding.decide_first(parts, incident),
    State.DECIDED: deciding.follow,
    State.AWAITING_APPROVAL: deciding.answer,
    State.APPROVED: lambda parts, incident, raws: deciding.decide_approved(parts, incident),
    State.VERIFYING: lambda parts, incident, raws: acting.verify(parts, incident),
    State.MONITORING: lambda parts, incident, raws: State.CLOSED,
}


def advance(parts: Parts, incident: Incident, claim: Claim, *, resumed: bool) -> State:
    """One step of the walk: the state that follows, after everything that had to be written was written."""
    raws = list(claim.events)
    if incident.state is State.EXECUTING:
        return acting.execute(parts, incident, raws, resumed=resumed)
    step = STEPS.get(incident.state)
    if step is None:
        raise GiveUp(f"incident {incident.id} has ended as `{incident.state}`")
    return step(parts, incident, raws)


class Heart:
    """Keeps a lease alive while a step runs, and tells the step where it was lost."""

    def __init__(self, store: WorkflowStore, claim: Any, *, interval_s: float) -> None:
        """Beat every `interval_s`; a third of the lease leaves room for two lost beats."""
        self._store, self._claim, self._interval_s = store, claim, interval_s
        self._stop = threading.Event()
        self._lost = threading.Event()
        self._thread = threading.Thread(target=self._beat, name=f"heart {claim.incident}", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End; the lease then runs out by itself or was given up by a commit."""
        self._stop.set()
        self._thread.join()

    def check(self) -> None:
        """Ask now; raises Fenced where the lease is lost or cannot be renewed."""
        if self._lost.is_set():
            raise Fenced(f"incident {self._claim.incident} was taken over")
        self._store.heartbeat(self._claim)

    def _beat(self) -> None:
        while not self._stop.wait(self._interval_s):
            try:
                self._store.heartbeat(self._claim)
            except Fenced:
                self._lost.set()
                return
            except Error as error:
                log.warning("heartbeat: %s", error.diagnostics())
