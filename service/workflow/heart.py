"""A worker's hold on one incident: the lease is kept alive while a step runs, and given up where the step takes too long.

A thread cannot be stopped from outside. A step that outlives its deadline is therefore left to itself: its lease is lost
from that instant (whatever asks it before an effect is told so), nothing that it writes to the audit log, the ledger or the
approvals is taken any more, nobody is told anything by it, and its result is dropped if it ever comes.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

from driftwarden.contracts.ports import Actor, AuditLog, RecordType
from driftwarden.errors import Error, Fenced, LogUnwritable
from driftwarden.service.workflow.store import Claim, WorkflowStore

log = logging.getLogger(__name__)

IDLE_S = 5.0  # that a thread without a claim waits for the next one

# A lease runs out by the server's clock, also while this machine sleeps: Linux has a clock that counts that.
_SLEEPLESS: int = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def passed() -> float:
    """Seconds that passed since some moment, those in which the machine slept among them where the system counts them."""
    return time.clock_gettime(_SLEEPLESS)


class Heart:
    """One lease while steps run under it, told where it was lost; `Pacemaker` keeps it alive."""

    def __init__(self, store: WorkflowStore, claim: Claim, *, interval_s: float, turn: threading.Condition) -> None:
        """It is to beat every `interval_s`; a third of the lease leaves room for two lost beats. `turn`: its pacemaker's."""
        self._store, self._claim, self._interval_s, self._turn = store, claim, interval_s, turn
        self._lost = threading.Event()
        self._deadline: float | None = None
        self._on_late: Callable[[], None] = lambda: None
        self.late = False
        self.beat_at = passed()
        self._next_beat = time.monotonic() + interval_s

    def check(self) -> None:
        """Ask now; raises Fenced where the lease is lost or cannot be renewed."""
        self.require_held()
        self._store.heartbeat(self._claim)
        self.beat_at = passed()

    def require_now(self) -> None:
        """Raise Fenced where the lease is lost; asks where it may have run out unnoticed, as in a process that was paused."""
        self.require_held()
        if passed() - self.beat_at > 2 * self._interval_s:
            self.check()

    def require_held(self) -> None:
        """Raise Fenced where the lease is known to be lost, without asking anybody."""
        if self._lost.is_set():
            raise Fenced(f"incident {self._claim.incident} was taken over")

    def lose(self) -> bool:
        """Give the hold up for whoever is at work under it; False where it was lost already."""
        with self._turn:
            if self._lost.is_set():
                return False
            self._lost.set()
            self._deadline = None
            return True

    @contextmanager
    def within(self, seconds: float, on_late: Callable[[], None]) -> Iterator[None]:
        """One step: after `seconds` the hold is lost and `on_late` is called, once, in another thread.

        Raises Fenced at the end of a step that was late, whatever came of it.
        """
        with self._turn:
            self.require_held()
            self._deadline, self._on_late = time.monotonic() + seconds, on_late
            if self._deadline < self._next_beat:
                self._turn.notify()
        try:
            yield
        except LogUnwritable:
            raise  # that stops the process, in time or late
        except Exception as error:
            if self._in_time():
                raise
            raise Fenced(f"incident {self._claim.incident}: the step was late") from error
        else:
            if not self._in_time():
                raise Fenced(f"incident {self._claim.incident}: the step was late")
        finally:
            self._in_time()

    def _in_time(self) -> bool:
        """The step is over: True where its hold was not lost before; from here on no deadline strikes."""
        with self._turn:
            self._deadline = None
            return not self._lost.is_set()

    # What the pacemaker does, and asks under `turn`.

    def due_at(self) -> float | None:
        """When something is to be done for it; None: never more, for it is lost."""
        if self._lost.is_set():
            return None
        return self._next_beat if self._deadline is None else min(self._next_beat, self._deadline)

    def strike(self) -> bool:
        """Whether its step is late; its hold is lost from now on."""
        struck = self._deadline is not None and time.monotonic() >= self._deadline
        if struck:
            self._lost.set()
            self.late, self._deadline = True, None
        return struck

    def renew(self) -> None:
        """Beat once; where that cannot be said, the lease runs on, and may run out."""
        try:
            self._store.heartbeat(self._claim)
            self.beat_at = passed()
        except Fenced:
            self._lost.set()
        except Error as error:
            log.warning("heartbeat: %s", error.diagnostics())
        except Exception:  # the next beat must come all the same
            log.exception("heartbeat", extra={"incident": self._claim.incident})
        self._next_beat = time.monotonic() + self._interval_s

    def tell_late(self) -> None:
        """Say that its step is late to whoever asked for that."""
        try:
            self._on_late()
        except Error as error:  # the lease runs out, and another worker takes it up all the same
            log.warning("late step: %s", error.diagnostics(), extra={"incident": self._claim.incident})
        except Exception:
            log.exception("late step", extra={"incident": self._claim.incident})


class Pacemaker:
    """Keeps the leases of one worker alive, one after another, in one thread: many a step costs less than to start one.

    The thread sleeps through claims that end before anything is due, and ends when no claim came for a while.
    """

    def __init__(self, name: str) -> None:
        """`name` of the thread."""
        self._name = name
        self._turn = threading.Condition()
        self._at_work = threading.Lock()
        self._heart: Heart | None = None
        self._running = False
        self._wakes_at = 0.0

    @contextmanager
    def keep(self, store: WorkflowStore, claim: Claim, *, interval_s: float) -> Iterator[Heart]:
        """A heart that beats meanwhile; afterwards the lease runs out by itself or was given up by a commit."""
        heart = Heart(store, claim, interval_s=interval_s, turn=self._turn)
        with self._turn:
            if not self._running:
                threading.Thread(target=self._run, name=self._name, daemon=True).start()
                self._running = True  # not before: where none can be started now, the next claim tries again
            elif interval_s < self._wakes_at - time.monotonic():
                self._turn.notify()
            self._heart = heart
        try:
            yield heart
        finally:
            with self._turn:
                self._heart = None
            with self._at_work:
                pass  # a beat that is under way, or the word that a step was late, comes to its end first

    def _run(self) -> None:
        try:
            self._keep_pace()
        except BaseException:  # whatever it died of: the next claim begins another
            with self._turn:
                self._running = False
            raise

    def _keep_pace(self) -> None:
        idle_since: float | None = None
        while True:
            with self._turn:
                heart = self._heart
                due_at = None if heart is None else heart.due_at()
                now = time.monotonic()
                if heart is not None:
                    idle_since = None
                elif idle_since is None:
                    idle_since = now
                elif now - idle_since >= IDLE_S:
                    self._running = False
                    return
                self._wakes_at = now + IDLE_S if due_at is None else due_at
                if heart is None or due_at is None or now < due_at:
                    self._turn.wait(max(0.0, self._wakes_at - now))
                    continue
                late = heart.strike()
                self._at_work.acquire()
            try:
                if late:
                    heart.tell_late()
                else:
                    heart.renew()
            finally:
                self._at_work.release()


@dataclass(frozen=True)
class WorkerView:
    """A worker as it is now: `waiting` for work, `working`, `late` (its step outlived its deadline), or `gone`.

    `for_s`: how long it has been in this state of this incident; `beat_s`: since it last renewed its lease.
    """

    name: str
    doing: Literal["waiting", "working", "late", "gone"]
    incident: str | None = None
    model: str | None = None
    state: str | None = None
    for_s: float = 0.0
    beat_s: float | None = None


@dataclass
class Hand:
    """What one worker has in hand: the incident, the state that its step began in, and since when."""

    claim: Claim
    heart: Heart
    state: str
    since: float = field(default_factory=time.monotonic)

    def at(self, state: str) -> None:
        """The next step begins."""
        self.state, self.since = state, time.monotonic()

    def view(self, worker: str) -> WorkerView:
        """For those who look."""
        now = time.monotonic()
        doing: Literal["late", "working"] = "late" if self.heart.late else "working"
        spans = {"for_s": now - self.since, "beat_s": passed() - self.heart.beat_at}
        return WorkerView(worker, doing, self.claim.incident, self.claim.model, self.state, **spans)


class HeldLog:
    """The audit log as a step may write it: not once its hold is lost."""

    def __init__(self, audit: AuditLog, heart: Heart) -> None:
        """`heart` is that of the step."""
        self._audit, self._heart = audit, heart

    def append(
        self,
        type: RecordType,
        body: Mapping[str, Any],
        *,
        actor: Actor,
        incident: str | None = None,
        correlation_id: str | None = None,
        causation: str | None = None,
    ) -> str:
        """As `AuditLog.append`; raises Fenced where the hold is lost, and asks where it may have been unnoticed."""
        self._heart.require_now()
        return self._audit.append(
            type, dict(body), actor=actor, incident=incident, correlation_id=correlation_id, causation=causation
        )


# What a step changes in the books that incidents share: of an incident that another worker holds by now, it would be wrong.
_BOOKS = {
    "ledger": frozenset({"reserve", "begin", "settle", "release", "abandon", "fail_effect", "record_outcome"}),
    "approvals": frozenset({"request", "reopen", "mark"}),
    "notifier": frozenset({"notify"}),
}


class Held:
    """One of the step's stores; the named calls raise Fenced once its hold is lost, everything else goes through."""

    def __init__(self, inner: object, heart: Heart, calls: frozenset[str]) -> None:
        """`heart` is that of the step."""
        self._inner, self._heart, self._calls = inner, heart, calls

    def __getattr__(self, name: str) -> Any:
        """Asked each time a call is made."""
        if name in self._calls:
            self._heart.require_now()
        return getattr(self._inner, name)


def held_books(parts: Any, heart: Heart) -> dict[str, Any]:
    """The fields of `Parts` that a step may write to only while it holds its incident, so guarded; the log among them."""
    books = {name: Held(getattr(parts, name), heart, calls) for name, calls in _BOOKS.items()}
    return {"audit": HeldLog(parts.audit, heart), **books}
