"""What stands between the service and the things it leans on: a breaker for each, and how long anything may take.

The pattern is Nygard's circuit breaker ("Release It!", 2nd edition, chapter 5): closed, open, half-open.
"""

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Annotated, Literal

from pydantic import Field

from driftwarden.clock import Clock, SystemClock
from driftwarden.contracts.base import Value
from driftwarden.contracts.watch import Duration
from driftwarden.errors import Away, Error, Retry, shorten

log = logging.getLogger(__name__)

REASON_CHARS_MAX = 200

BreakerState = Literal["closed", "open", "half-open"]


class BreakerSettings(Value):
    """After `failures` in a row nobody asks for `open_for`; then one call is let through to see."""

    failures: Annotated[int, Field(ge=1, le=1000)] = 3
    open_for: Annotated[Duration, Field(ge=timedelta(seconds=1), le=timedelta(days=1))] = timedelta(minutes=1)


class BreakersSettings(Value):
    """One breaker for each thing that the service leans on, in each process."""

    model: BreakerSettings = BreakerSettings()
    mlflow: BreakerSettings = BreakerSettings()
    chroma: BreakerSettings = BreakerSettings()


Deadline = Annotated[Duration, Field(gt=timedelta(0), le=timedelta(days=2))]


class StepDeadlines(Value):
    """How long one step may take, by the state that it begins in; after that its result is not taken.

    Longer than all that a step waits for: agents (`agents.timeout_s`), sandbox (`rehearsal.timeout_s`), training
    (`actions.train_timeout_s`).
    """

    received: Deadline = timedelta(minutes=5)
    triaged: Deadline = timedelta(minutes=20)
    investigated: Deadline = timedelta(minutes=5)
    planned: Deadline = timedelta(minutes=20)
    rehearsed: Deadline = timedelta(minutes=5)
    decided: Deadline = timedelta(minutes=5)
    awaiting_approval: Deadline = timedelta(minutes=5)
    approved: Deadline = timedelta(minutes=5)
    executing: Deadline = timedelta(hours=3)
    verifying: Deadline = timedelta(minutes=20)
    monitoring: Deadline = timedelta(minutes=5)


class DegradedSettings(Value):
    """How the service goes on where something is away.

    `patience`: so long an incident waits for the registry without a counted try. `knowledge_factor`: what confidence is
    multiplied by where the knowledge base could not be asked.
    """

    patience: Duration = timedelta(days=1)
    knowledge_factor: Annotated[float, Field(ge=0, le=1)] = 0.9


@dataclass(frozen=True)
class BreakerView:
    """A breaker as it is now: how many calls failed in a row, why the last one did, for how long it has been in its state."""

    name: str
    state: BreakerState
    failures: int
    reason: str | None
    for_s: float
    again_s: float


class Breaker:
    """One thing that may be away. Thread-safe; time is the clock's, and one that was set back shortens no wait for ever.

    Closed: calls go through. After `failures` in a row it opens, and nobody calls for `open_for`. Then it is half-open: one
    call goes through to see, the others are refused until that one has answered, or was out for `open_for` itself.
    """

    def __init__(self, name: str, settings: BreakerSettings | None = None, clock: Clock | None = None) -> None:
        """Closed; `name` is what people know the thing by."""
        self.name = name
        self._settings, self._clock = settings or BreakerSettings(), clock or SystemClock()
        self._lock = threading.Lock()
        self._state: BreakerState = "closed"
        self._failures, self._reason = 0, ""
        self._since = self._clock.now()

    def admit(self) -> None:
        """Raise Away where nobody may call now; else the caller calls, and says `succeeded` or `failed`."""
        with self._lock:
            if self._state == "closed":
                return
            left_s = self._left_s()
            if left_s <= 0:
                if self._state == "open":
                    log.info("%s is tried again", self.name)
                # Also a half-open one whose call was never heard of again.
                self._turn("half-open")
                return
            raise self._away(left_s)

    def succeeded(self) -> None:
        """It answered: closed, whatever was before."""
        with self._lock:
            if self._state != "closed":
                log.info("%s answers again", self.name)
                self._turn("closed")
            self._failures, self._reason = 0, ""

    def failed(self, reason: str) -> Away:
        """It did not answer; returns what the caller may raise."""
        with self._lock:
            self._failures, self._reason = self._failures + 1, shorten(reason, REASON_CHARS_MAX)
            if self._state == "half-open":
                self._turn("open")
            elif self._state == "closed" and self._failures >= self._settings.failures:
                self._turn("open")
                seconds = self._settings.open_for.total_seconds()
                log.warning(
                    "%s is away: it failed %d times in a row, and is not asked for %d s: %s",
                    self.name,
                    self._failures,
                    seconds,
                    reason,
                )
            return self._away(max(0.0, self._left_s()) if self._state == "open" else 0.0)

    @contextmanager
    def call(self) -> Iterator[None]:
        """Guard one call: Retry, OSError and TimeoutError say that it is away (raised as Away), any other end that it answers."""
        self.admit()
        try:
            yield
        except (Retry, OSError, TimeoutError) as error:
            reason = error.diagnostics() if isinstance(error, Error) else f"{type(error).__name__}: {error}"
            raise self.failed(reason) from error
        except Exception:
            self.succeeded()
            raise
        self.succeeded()

    def view(self) -> BreakerView:
        """As it stands now."""
        with self._lock:
            again_s = max(0.0, self._left_s()) if self._state == "open" else 0.0
            reason = self._reason or None
            return BreakerView(self.name, self._state, self._failures, reason, self._age_s(), again_s)

    def _turn(self, state: BreakerState) -> None:
        self._state, self._since = state, self._clock.now()

    def _age_s(self) -> float:
        now: datetime = self._clock.now()
        self._since = min(self._since, now)  # a clock that was set back
        return (now - self._since).total_seconds()

    def _left_s(self) -> float:
        return self._settings.open_for.total_seconds() - self._age_s()

    def _away(self, left_s: float) -> Away:
        return Away(self.name, f"it is away: {self._reason}", again_s=left_s)


class Breakers:
    """The breakers of one process."""

    def __init__(self, settings: BreakersSettings | None = None, clock: Clock | None = None) -> None:
        """All closed."""
        settings = settings or BreakersSettings()
        self.model = Breaker("the agents' model", settings.model, clock)
        self.mlflow = Breaker("the model registry", settings.mlflow, clock)
        self.chroma = Breaker("the knowledge base", settings.chroma, clock)

    def views(self) -> dict[str, BreakerView]:
        """Each of them as it stands now, by the name of its setting."""
        return {name: getattr(self, name).view() for name in BreakersSettings.model_fields}
