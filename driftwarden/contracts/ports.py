"""Ports: what the rooms ask of each other. The roof (`service/bootstrap.py`) plugs the real parts in."""

from collections.abc import Iterable
from typing import Any, Literal, Protocol

from driftwarden.contracts.base import ActionName, Value
from driftwarden.contracts.effects import (
    ActionRequest,
    Comparison,
    EffectResult,
    Estimate,
    TrainingRequest,
    TrainingResult,
)
from driftwarden.contracts.findings import Advice
from driftwarden.contracts.measurements import Measured, MeasurementName
from driftwarden.contracts.watch import WatchedModel

JsonObject = dict[str, Any]


class Actor(Value):
    """Who did it."""

    kind: Literal["service", "agent", "human", "timer"]
    id: str


RecordType = Literal[
    "open",
    "event",
    "finding",
    "plan",
    "rehearsal",
    "decision",
    "approval",
    "intent",
    "result",
    "verification",
    "settlement",
    "policy_change",
    "mode_change",
    "dead_letter",
    "checkpoint",
    "erasure",
    "close",
]


class AuditLog(Protocol):
    """The tamper-evident log of this process."""

    def append(
        self,
        type: RecordType,
        body: JsonObject,
        *,
        actor: Actor,
        incident: str | None = None,
        correlation_id: str | None = None,
        causation: str | None = None,
    ) -> str:
        """Make one record durable and return its `@hash`; raises LogUnwritable, after which nothing may execute."""
        ...


class Sandbox(Protocol):
    """Runs a function of ours in a process of its own, bounded in time and memory."""

    def call(self, task: str, payload: JsonObject, *, timeout_s: float, memory_bytes: int | None = None) -> JsonObject:
        """Call `driftwarden.module:function` with a JSON payload; raises GiveUp (it failed), Retry (the process died)."""
        ...


class KnowledgeHit(Value):
    """A passage of the knowledge base; `score` 0..1, more is nearer."""

    id: str
    kind: Literal["runbook", "incident"]
    title: str
    text: str
    score: float
    metadata: JsonObject = {}


class PastIncident(Value):
    """An incident as the knowledge base remembers it: what it was, what was done, whether it helped (None: not known)."""

    id: str
    correlation_id: str
    model: str
    root_cause: str
    columns: tuple[str, ...] = ()
    action: str
    outcome: str
    state: str
    helped: bool | None = None
    relative_gain: float | None = None
    summary: str
    at: str


class KnowledgeReader(Protocol):
    """What the agents may do with the knowledge base: read."""

    def search(
        self,
        text: str,
        *,
        kind: Literal["runbook", "incident"] | None = None,
        root_cause: str | None = None,
        limit: int = 5,
    ) -> tuple[KnowledgeHit, ...]:
        """The passages nearest to `text`, best first."""
        ...


class Knowledge(KnowledgeReader, Protocol):
    """The knowledge base of the service."""

    def record_incident(self, incident: PastIncident) -> None:
        """Remember an incident and how it ended; the same id replaces the earlier record."""
        ...


class RecordStore(Protocol):
    """Durable records by id, from which an index can be rebuilt."""

    def put(self, id: str, record: JsonObject) -> None:
        """Store or replace one record."""
        ...

    def all(self) -> Iterable[tuple[str, JsonObject]]:
        """Every record, ordered by id."""
        ...


class CaseFile(Protocol):
    """All that the agents may read about one incident. Every method is read-only; results are JSON-able."""

    def event(self) -> JsonObject:
        """The drift event: model, kind, window, columns with scores, drift share, performance, detector."""
        ...

    def model(self) -> JsonObject:
        """The watched model: task, target, metric, costs, value of a point, traffic, fallback version, upstream."""
        ...

    def measure(self, name: MeasurementName) -> Measured:
        """Measure now (or return what was measured already); never raises for bad data: `unavailable` says why."""
        ...

    def metric_history(self, limit: int = 20) -> list[JsonObject]:
        """Earlier windows, newest last: `{start, end, rows, metric, value, reference, drift_share, outcome}`."""
        ...

    def registry_history(self, limit: int = 10) -> list[JsonObject]:
        """Versions, newest first: `{version, aliases, created_at, strategy, rows, metrics, incident}`."""
        ...

    def recent_changes(self) -> list[JsonObject]:
        """What changed lately: actions taken, quarantined batches, references, open incidents of the same upstream."""
        ...


class Advisor(Protocol):
    """The agents: they read, and say what they think."""

    def advise(
        self, case: CaseFile, knowledge: KnowledgeReader, *, correlation_id: str, incident: str, offline: bool = False
    ) -> Advice:
        """Find the cause and plan remedies; raises Retry (model away) or GiveUp (no valid answer).

        `offline`: without asking a language model, whichever is configured.
        """
        ...


class Trainer(Protocol):
    """Trains a version in a process of its own (Kedro)."""

    def train(self, request: TrainingRequest) -> TrainingResult:
        """Run the training pipeline, or find the version that an earlier run left under the same idempotency key."""
        ...


class Comparer(Protocol):
    """Compares two registered versions on labelled rows, in the sandbox."""

    def compare(self, model: WatchedModel, *, champion: int, challenger: int, rows: Any) -> Comparison:
        """Paired block bootstrap of the model's metric over `rows` (a RowSelection)."""
        ...


class RegistryReader(Protocol):
    """The model registry, read-only."""

    def champion(self, model: WatchedModel, *, informs: bool = False) -> int | None:
        """Version behind the alias `champion`, or None.

        An alias may move, or not, by the answer: the registry itself gives it. Only where it `informs` (a fact that is
        told, a report) may it come from wherever it is cheapest to read.
        """
        ...

    def challenger(self, model: WatchedModel) -> int | None:
        """Version behind the alias `challenger`, or None."""
        ...

    def versions(self, model: WatchedModel, limit: int = 10) -> list[JsonObject]:
        """Versions, newest first (as `CaseFile.registry_history`); it only informs."""
        ...

    def find_by_key(self, model: WatchedModel, idempotency_key: str) -> int | None:
        """The version tagged with this idempotency key, or None."""
        ...


class StateStore(Protocol):
    """Shared small state of the monitors and the training data: quarantined batches and references, by model."""

    def quarantine(self, model: str, batch: str, record: JsonObject) -> bool:
        """Quarantine a batch unless it is already; True where this call did it (conditional on the batch's name)."""
        ...

    def release(self, model: str, batch: str) -> bool:
        """Release a batch; True where it was quarantined."""
        ...

    def quarantined(self, model: str) -> dict[str, JsonObject]:
        """Batches in quarantine, by name."""
        ...

    def reference(self, model: str) -> JsonObject | None:
        """The monitors' reference that was set by an action, or None (then: the champion's training rows)."""
        ...

    def set_reference(self, model: str, record: JsonObject | None, *, expected: JsonObject | None) -> bool:
        """Compare-and-set the reference; True where it was set."""
        ...


class Notifier(Protocol):
    """Tells people."""

    def notify(self, subject: str, body: str, *, key: str, fields: JsonObject) -> None:
        """Send one message; the same `key` twice is one message."""
        ...


class Action(Protocol):
    """One remedy with a real effect. Each method may be called again after a crash with the same request."""

    name: ActionName

    def estimate(self, request: ActionRequest) -> Estimate:
        """Costs and reach, without any effect."""
        ...

    def precheck(self, request: ActionRequest) -> None:
        """Raise Refused with the reason where it cannot be done (no earlier version, no data); no effect."""
        ...

    def lookup(self, request: ActionRequest) -> EffectResult | None:
        """Ask the sink whether this key already had its effect."""
        ...

    def execute(self, request: ActionRequest) -> EffectResult:
        """Have the effect once: looks the key up first, reads back what it set."""
        ...

    def undo(self, request: ActionRequest, result: EffectResult) -> EffectResult:
        """Take the effect back where the present state is still the one it left; raises Refused otherwise."""
        ...
