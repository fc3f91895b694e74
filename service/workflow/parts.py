"""What the steps of the workflow need, chosen by the composition root and injected."""

from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Protocol

from driftwarden.clock import Clock, parse_rfc3339, rfc3339
from driftwarden.contracts.base import ActionName
from driftwarden.contracts.decision import Decision
from driftwarden.contracts.ports import (
    Action,
    Actor,
    Advisor,
    AuditLog,
    Comparer,
    Knowledge,
    Notifier,
    RegistryReader,
    Sandbox,
    StateStore,
)
from driftwarden.errors import AskHuman, Fenced
from driftwarden.resilience import Breakers
from driftwarden.service.workflow.approvals import Approvals
from driftwarden.service.workflow.caps import Caps
from driftwarden.service.workflow.facts import CLOCK_SKEW_MAX_S
from driftwarden.service.workflow.floor import AuditFloor
from driftwarden.service.workflow.halts import Halts
from driftwarden.service.workflow.incident import Incident
from driftwarden.service.workflow.ledger import Ledger
from driftwarden.service.workflow.metrics import MetricHistory
from driftwarden.settings import Settings

SERVICE = Actor(kind="service", id="driftwarden")


class PolicyInForce(Protocol):
    """The policy that decides now."""

    @property
    def digest(self) -> str:
        """Its digest (contract §4)."""
        ...

    def decide(self, facts: dict[str, Any]) -> Decision:
        """A decision from facts alone."""
        ...

    def canonical(self) -> dict[str, Any]:
        """The whole canonical policy."""
        ...


class DecisionClock(Protocol):
    """The time that decisions and the policy's limits run on: real time, or a stream's own in demo and bench."""

    def now_for(self, incident: Incident) -> str:
        """RFC 3339 moment at which this incident is decided."""
        ...

    def reached(self, told: str) -> str:
        """RFC 3339 moment that time has reached when a producer tells of `told`: its word alone moves no real clock."""
        ...


class RealTime:
    """Decisions at the moment they are made."""

    def __init__(self, clock: Clock) -> None:
        """Use this clock."""
        self._clock = clock

    def now_for(self, incident: Incident) -> str:
        """The clock's present moment."""
        del incident
        return rfc3339(self._clock.now())

    def reached(self, told: str) -> str:
        """The clock's present moment, whatever was told."""
        del told
        return rfc3339(self._clock.now())


class StreamTime:
    """Decisions at the time of the window that they are about."""

    def now_for(self, incident: Incident) -> str:
        """The latest moment that the incident's events are about."""
        return incident.latest or incident.event_time

    def reached(self, told: str) -> str:
        """What was told: a stream that is replayed has no other clock."""
        return rfc3339(parse_rfc3339(told))


Span = Callable[..., AbstractContextManager[Any]]


def _none_of(model: str) -> Collection[str]:
    del model
    return ()


def _alone(digest: str | None = None) -> None:
    del digest


@contextmanager
def _no_span(name: str, **attributes: Any) -> Iterator[None]:
    del name, attributes
    yield


@dataclass
class Parts:
    """Everything a step may use."""

    settings: Settings
    clock: Clock
    decision_clock: DecisionClock
    audit: AuditLog
    policy: Callable[[], PolicyInForce]
    registry: RegistryReader
    state: StateStore
    actions: dict[ActionName, Action]
    ledger: Ledger
    floor: AuditFloor
    halts: Halts
    approvals: Approvals
    metrics: MetricHistory
    advisor: Advisor
    knowledge: Knowledge
    sandbox: Sandbox
    comparer: Comparer
    notifier: Notifier
    span: Span = field(default=_no_span)
    # Raises Disagreed while workers hold different policies, or that of `digest` is not in force. Default: one process.
    require_agreement: Callable[..., None] = field(default=_alone)
    breakers: Breakers = field(default_factory=Breakers)
    # Incidents whose effect on a model is being verified.
    verifying: Callable[[str], Collection[str]] = field(default=_none_of)

    def now_for(self, incident: Incident) -> str:
        """The moment of a decision about this incident (RFC 3339); an undo is decided when the harm is seen, not before."""
        now = self.decision_clock.now_for(incident)
        if incident.undo_of is None:
            return now
        return max([now, *(self.decision_clock.reached(one["end"]) for one in self.metrics.last(incident.model, 1))])

    def lies_ahead(self, told: str) -> bool:
        """Whether a moment that a producer tells of lies further ahead of the decisions' clock than clocks differ."""
        ahead = parse_rfc3339(told) - parse_rfc3339(self.decision_clock.reached(told))
        return ahead.total_seconds() > CLOCK_SKEW_MAX_S

    def quarantined(self, model: str) -> dict[str, dict[str, Any]]:
        """Batches kept out, by name; raises AskHuman where the log knows of one that the store has lost."""
        found = self.state.quarantined(model)
        if lost := sorted(self.floor.quarantined(model) - found.keys()):
            raise AskHuman(f"`{lost[0]}` of {model} is in quarantine in the audit log, and not in redis")
        return found

    def caps(self) -> Caps:
        """The caps of the policy in force."""
        return Caps.of(self.policy().canonical())


class Lease(Protocol):
    """The worker's hold on the incident."""

    def check(self) -> None:
        """Raise Fenced where another worker has taken it over."""
        ...

    def require_now(self) -> None:
        """Raise Fenced where it is lost; asks only where it may have run out since it was last renewed."""
        ...


# The lease of the step that runs in this thread: what moves an alias asks it right before.
current_lease: ContextVar[Lease | None] = ContextVar("current_lease", default=None)


class HeldLease:
    """Asks whichever step is running; without one nothing is held, and nothing may move."""

    def check(self) -> None:
        """Raise Fenced where the step's lease is lost."""
        self._lease().check()

    def require_now(self) -> None:
        """Raise Fenced where the step's lease is lost or may have run out: enough for a record, which moves nothing."""
        self._lease().require_now()

    def _lease(self) -> Lease:
        lease = current_lease.get()
        if lease is None:
            raise Fenced("no incident is held by this thread")
        return lease
