"""The worker: takes an incident under a lease and walks it from state to state until it waits for something or ends."""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

from driftwarden.clock import parse_rfc3339, rfc3339
from driftwarden.contracts.event import parse_event
from driftwarden.errors import Away, Error, Fenced, LogUnwritable, NotYet, Retry
from driftwarden.service.workflow import acting, byhand, deciding, ending
from driftwarden.service.workflow.heart import Hand, Pacemaker, WorkerView, held_books
from driftwarden.service.workflow.holding import rests_s
from driftwarden.service.workflow.incident import Incident
from driftwarden.service.workflow.parts import SERVICE, Parts, current_lease
from driftwarden.service.workflow.retries import LoopPauses, is_last, look_again_s, pause_s, verdict
from driftwarden.service.workflow.rewinding import Kept, kept_of, last_try, rewind
from driftwarden.service.workflow.steps import advance_or_tell
from driftwarden.service.workflow.store import Claim, Signal, WorkflowStore
from driftwarden.service.workflow.stored import LaterVersion, load_incident
from driftwarden.service.workflow.transitions import JOINABLE, TERMINAL, State, check_arrow
from driftwarden.stream.client import redis_away
from driftwarden.telemetry import correlation

log = logging.getLogger(__name__)

CRASH_LOOP = "crash-loop"
LATER_VERSION_AGAIN_S = 15.0
WAITING = frozenset({State.AWAITING_APPROVAL, State.VERIFYING})

Advance = Callable[..., State]


class Worker:
    """One worker of a process; several may run side by side, in one process or on many hosts."""

    def __init__(
        self,
        parts: Parts,
        store: WorkflowStore,
        name: str,
        *,
        fail_point: Callable[[str], None] | None = None,
        advance: Advance = advance_or_tell,
    ) -> None:
        """`name` is unique among live workers; `fail_point` is told where the walk stands (tests of crashes).

        `advance` does a step and says which state follows (benchmarks do none).
        """
        self._advance = advance
        self._parts, self._store, self.name = parts, store, name
        self._lease_ms = int(parts.settings.service.lease_s * 1000)
        self._fail_point = fail_point or (lambda where: None)
        self._stop: threading.Event | None = None
        self._hand: Hand | None = None
        self._pacemaker = Pacemaker(f"heart {name}")
        self._retired = threading.Event()
        self.fault: str | None = None

    def run(self, stop: threading.Event, *, block_ms: int = 1000) -> None:
        """Work until `stop` is set or it is retired; the step in hand is finished first, and its incident handed back.

        Sets `stop` itself, and `fault`, once nothing can be written down any more.
        """
        self._stop, pauses = stop, LoopPauses(self.name)
        while not stop.is_set() and not self._retired.is_set():
            try:
                self.work_once(block_ms=block_ms)
                pauses.reset()
            except Retry as error:
                log.warning("waiting for redis: %s", error.diagnostics())
                stop.wait(pauses.next_s())
            except LogUnwritable as error:
                log.critical("%s; nothing executes until it can: %s", error.what, error.diagnostics())
                self.fault = error.diagnostics()
                stop.set()

    def view(self) -> WorkerView:
        """What it is doing now; safe in any thread."""
        hand = self._hand
        return hand.view(self.name) if hand is not None else WorkerView(self.name, "waiting")

    @property
    def retired(self) -> bool:
        """Whether another works in its place."""
        return self._retired.is_set()

    def retire(self) -> None:
        """Take up nothing more: its step is late, perhaps for ever, and another works in its place."""
        self._retired.set()

    def give_back(self) -> str | None:
        """Hand back what is in hand in the middle of a step, which may change nothing any more; returns the incident.

        Raises Fenced where it has moved on meanwhile, Retry where Redis is away: then its lease runs out by itself.
        """
        hand = self._hand
        if hand is None or not hand.heart.lose():
            return None
        self._store.hand_back(hand.claim)
        return hand.claim.incident

    def work_once(self, *, block_ms: int = 0) -> bool:
        """Take one incident, if any waits, as far as it goes; True where there was one."""
        claim = self._store.claim(self.name, block_ms=block_ms, lease_ms=self._lease_ms)
        if claim is None:
            return False
        if self._stop is not None and self._stop.is_set():
            self._store.hand_back(claim)
            return False
        with self._pacemaker.keep(self._store, claim, interval_s=self._lease_ms / 3000) as heart:
            self._hand, token = Hand(claim, heart, claim.state), current_lease.set(heart)
            try:
                self._walk(claim)
            except Fenced as error:
                log.info("handed over: %s", error.diagnostics(), extra={"incident": claim.incident})
            except LogUnwritable:
                self._let_go()
                raise
            finally:
                current_lease.reset(token)
                self._hand = None
        return True

    def _let_go(self) -> None:
        """Nothing can be written down here any more: another may go on at once, and this death counts as nobody's fault."""
        if self._stop is not None:
            self._stop.set()
        try:
            self.give_back()
        except Error as error:
            log.warning("not handed back: %s", error.diagnostics())

    def _walk(self, claim: Claim) -> None:
        try:
            incident = self._incident(claim)
        except LaterVersion as error:
            log.warning("left to a later version: %s", error.diagnostics(), extra={"incident": claim.incident})
            self._store.hand_back(claim, after_s=LATER_VERSION_AGAIN_S)
            return
        with correlation(incident.correlation_id, incident.id):
            if self._distrusted(claim, incident):
                return
            assert self._hand is not None
            books = held_books(self._parts, self._hand.heart)
            held = replace(self._parts, verifying=self._store.verifying, **books)
            resumed, asked = True, False
            while True:
                # A commit brings what was left meanwhile: each word is read before the commit that says it was handled.
                kept = kept_of(claim, incident)
                try:
                    asked = self._hear(claim, incident) or asked
                except Retry as error:
                    self._word_waits(claim, incident, kept(), error)
                    return
                if incident.state in TERMINAL:
                    # Nothing is left to walk: a word that came too late, or a close that a person asked for.
                    self._finish(claim, incident, closing=asked)
                    return
                before = incident.state
                after = self._step(held, claim, incident, resumed=resumed)
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
        ended = None if forged else floor.ended_as(incident, claim.version)
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
                at_last = not self._has_patience(incident)
                acting.give_up(self._parts, incident, f"crash loop: {signal.payload}", at_last=at_last)
                incident.waits_since, closing = None, True
            if signal.why in byhand.ALLOWED:
                incident.state = byhand.take_request(self._parts, incident, signal.why, signal.payload)
        return closing or incident.state is not before

    def _word_waits(self, claim: Claim, incident: Incident, kept: Incident, error: Retry) -> None:
        """It is heard later: people or settings, or whoever must be asked what was done, is waited for."""
        since = incident.waits_since
        rewind(incident, kept)
        incident.waits_since = since
        self._wait(claim, incident, error.diagnostics(), look_again_s(error, incident.id), handled=())

    def _incident(self, claim: Claim) -> Incident:
        if claim.doc and claim.genuine:
            incident = load_incident(claim.doc)
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

    def _step(self, parts: Parts, claim: Claim, incident: Incident, *, resumed: bool) -> State | None:
        assert self._hand is not None
        started, name, heart, kept = time.monotonic(), incident.state.value, self._hand.heart, kept_of(claim, incident)
        if is_last(incident.tries, self._parts.settings.service.tries_max):
            # Its last try was late: that worker could only note it.
            reason = f"gave up after {incident.tries} tries: {last_try(incident)}"
            return self._give_up(parts, claim, incident, kept, reason)
        self._hand.at(name)
        deadline_s = getattr(self._parts.settings.service.step_deadlines, name).total_seconds()
        span = self._parts.span(
            f"step {name}", correlation_id=incident.correlation_id, incident=incident.id, kind="chain"
        )
        try:
            with heart.within(deadline_s, partial(self._late, claim, kept, deadline_s)), span:
                after = self._advance(parts, incident, claim, resumed=resumed)
        except Exception as error:  # noqa: BLE001 - its class says what follows
            return self._failed(parts, claim, incident, kept, error)
        if after is not State.EXECUTING:  # within it, a retry decides and intends anew: that alone is no progress
            incident.tries = 0
        incident.waits_since = None
        incident.seconds[name] = round(incident.seconds.get(name, 0.0) + time.monotonic() - started, 3)
        self._fail_point(f"stepped:{name}")
        return after

    def _failed(self, parts: Parts, claim: Claim, incident: Incident, kept: Kept, error: Exception) -> State | None:
        """What follows from a failed step. `parts` as it had them: who slept beyond the lease gives nothing up, either."""
        error = redis_away(error) or error
        what = verdict(error)
        if what == "stop":
            raise error
        reason = error.diagnostics() if isinstance(error, Error) else f"{type(error).__name__} in step {incident.state}"
        if what in {"give_up", "ask"}:
            told = f"a person must look: {reason}" if what == "ask" else reason
            return self._give_up(parts, claim, incident, kept, told)
        rewind(incident, kept())
        if isinstance(error, NotYet) or (isinstance(error, Away) and self._has_patience(incident)):
            incident.held = [*error.held] if isinstance(error, NotYet) and error.held else incident.held
            return self._wait(claim, incident, reason, look_again_s(error, incident.id))
        if not isinstance(error, Error | OSError):
            log.error("step %s", incident.state, exc_info=error, extra={"incident": incident.id})
        return self._again(parts, claim, incident, kept, reason)

    def _give_up(self, parts: Parts, claim: Claim, incident: Incident, kept: Kept, reason: str) -> State | None:
        """It fails; first whoever can tell what was done of its effect is waited for, with the patience of any step."""
        tries = incident.tries
        try:
            after = acting.give_up(parts, incident, reason)
        except Retry as error:
            rewind(incident, kept())
            incident.tries = tries
            if self._has_patience(incident):
                return self._wait(claim, incident, error.diagnostics(), look_again_s(error, incident.id))
            after = acting.give_up(parts, incident, reason, at_last=True)
        incident.waits_since = None
        return after

    def _late(self, claim: Claim, kept: Kept, deadline_s: float) -> None:
        """The step outlived its deadline, and may never end: the incident is parked as it was before, for another try.

        Runs beside the late step. Its commit is what the late one then fails at, if it ever comes to commit.
        """
        reason = f"no end within {deadline_s:g} s: the step is late, and whatever comes of it is not taken"
        incident = kept().model_copy(deep=True)
        log.error("step %s: %s", incident.state, reason, extra={"incident": incident.id, "model": incident.model})
        incident.tries += 1
        incident.note(self._parts.clock, "close", f"try {incident.tries} of {incident.state}: {reason}", SERVICE)
        # After the last try another worker says at once that it has failed, for which this one may have lost its hold.
        over = is_last(incident.tries, self._parts.settings.service.tries_max)
        self._park(claim, incident, 0.0 if over else pause_s(incident.tries, incident.id))

    def _has_patience(self, incident: Incident) -> bool:
        """Whether it still waits for what is away without a counted try."""
        now = self._parts.clock.now()
        incident.waits_since = incident.waits_since or rfc3339(now)
        return now - parse_rfc3339(incident.waits_since) < self._parts.settings.service.degraded.patience

    def _wait(
        self, claim: Claim, incident: Incident, reason: str, again_s: float, *, handled: Sequence[Signal] | None = None
    ) -> State | None:
        """Parked until workers agree, settings load or something answers again: no failed try, and said once."""
        if not any(line["summary"].startswith("waits: ") for line in incident.timeline[-1:]):
            incident.note(self._parts.clock, "decision", f"waits: {reason}", SERVICE)
            log.info("incident waits: %s", reason, extra={"incident": incident.id})
        self._park(claim, incident, again_s, handled=handled)
        return None

    def _again(self, parts: Parts, claim: Claim, incident: Incident, kept: Kept, reason: str) -> State | None:
        incident.tries += 1
        if is_last(incident.tries, self._parts.settings.service.tries_max):
            return self._give_up(parts, claim, incident, kept, f"gave up after {incident.tries} tries: {reason}")
        incident.note(self._parts.clock, "close", f"try {incident.tries} of {incident.state}: {reason}", SERVICE)
        self._park(claim, incident, pause_s(incident.tries, incident.id))
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
            due_s=rests_s(self._parts, incident) if waits else None,
            accepting=_accepts(incident),
            handled=claim.signals,
            weighed=len(incident.events),
            # What joined too late to be weighed is not held up by the effect and its verification, nor is what parted.
            split=state is State.EXECUTING or (before == state == State.TRIAGED and _parted(claim, incident)),
        )
        return claim, not waits

    def _finish(self, claim: Claim, incident: Incident, *, closing: bool) -> Claim:
        if closing:
            ending.close(self._parts, incident, claim.version)
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


def _parted(claim: Claim, incident: Incident) -> bool:
    """Whether it is about fewer events than it has taken in (`steps`): the rest belongs into another incident."""
    return len(incident.events) < len(claim.events)


def _accepts(incident: Incident) -> bool:
    """Whether later drift may join: not while an effect is taken back, which nothing that comes now could change."""
    return incident.state in JOINABLE and incident.undo_of is None
