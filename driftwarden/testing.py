"""Doubles of the ports for tests, the project's own and anyone's: in memory, deterministic, each as strict as what it replaces.

    clock = FakeClock()
    log = CapturedAuditLog(clock)
    log.append("event", {"model": "churn"}, actor=SERVICE)
    assert log.of_type("event")[0]["body"] == {"model": "churn"}

No double reaches the network, a disk or another process.
"""

import hashlib
import importlib
import json
import re
import threading
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, NamedTuple, get_args

from driftwarden.clock import Clock, rfc3339
from driftwarden.contracts.findings import Advice
from driftwarden.contracts.ports import (
    Actor,
    CaseFile,
    JsonObject,
    KnowledgeHit,
    KnowledgeReader,
    PastIncident,
    RecordType,
)
from driftwarden.errors import BadInput, Error, GiveUp, LogUnwritable
from driftwarden.sandbox import PREFIXES
from driftwarden.strict import canonical_json, plain

SERVICE = Actor(kind="service", id="test")
START = datetime(2026, 11, 20, 9, 0, tzinfo=UTC)
GENESIS = "0" * 64
_RECORD_TYPES = frozenset(get_args(RecordType))


class FakeClock:
    """The port `Clock`: stands still until it is moved; never goes back."""

    def __init__(self, start: datetime = START) -> None:
        """Begin at `start`, which has a zone."""
        if start.tzinfo is None:
            raise ValueError("the zone is missing")
        self._now = start.astimezone(UTC)

    def now(self) -> datetime:
        """The moment it was last set to, UTC."""
        return self._now

    def advance(self, by: timedelta | float) -> datetime:
        """Move on by a duration or a number of seconds, at least zero, and return the new moment."""
        step = by if isinstance(by, timedelta) else timedelta(seconds=by)
        if step < timedelta(0):
            raise ValueError(f"a clock does not go back: {step}")
        self._now += step
        return self._now


class Asked(NamedTuple):
    """One call of a ScriptedAdvisor."""

    case: CaseFile
    knowledge: KnowledgeReader
    correlation_id: str
    incident: str
    offline: bool = False


class ScriptedAdvisor:
    """The port `Advisor`: gives what it was told to, in order, the last one for ever; an exception is raised.

    `asked` holds every call.
    """

    def __init__(self, *script: Advice | Exception) -> None:
        """At least one advice, or exception (Retry, GiveUp)."""
        if not script:
            raise ValueError("a scripted advisor needs at least one answer")
        self._script = script
        self.asked: list[Asked] = []

    def advise(
        self, case: CaseFile, knowledge: KnowledgeReader, *, correlation_id: str, incident: str, offline: bool = False
    ) -> Advice:
        """The next answer of the script."""
        answer = self._script[min(len(self.asked), len(self._script) - 1)]
        self.asked.append(Asked(case, knowledge, correlation_id, incident, offline))
        if isinstance(answer, Exception):
            raise answer
        return answer


class CapturedAuditLog:
    """The port `AuditLog` in memory: records with the chain and the hashes of the real log (one stream, no checkpoints).

    `break_down` makes every later append raise LogUnwritable, as after a failed disk.
    """

    def __init__(self, clock: Clock | None = None, stream: str = "test") -> None:
        """`clock` None: one that stands still."""
        self._clock: Clock = clock or FakeClock()
        self._stream = stream
        self._lock = threading.Lock()
        self._broken: str | None = None
        self.records: list[JsonObject] = []

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
        """Keep one record and return its `@hash`; raises BadInput for a type, correlation id or cause of the wrong form."""
        if type not in _RECORD_TYPES:
            raise BadInput("audit record type", got=type, expected=f"one of: {', '.join(sorted(_RECORD_TYPES))}")
        for name, value, digits in (("correlation_id", correlation_id, 32), ("causation", causation, 64)):
            if value is not None and not re.fullmatch(f"[0-9a-f]{{{digits}}}", value):
                raise BadInput(f"audit record {name}", got=value, expected=f"{digits} hex digits")
        with self._lock:
            if self._broken is not None:
                raise LogUnwritable(
                    f"the audit log cannot be written ({self._broken}): nothing executes until it is mended"
                )
            last = self.records[-1] if self.records else None
            now = rfc3339(self._clock.now())
            record: JsonObject = {
                "actor": plain(actor.model_dump()),
                "body": plain(body),
                "causation": causation,
                "correlation_id": correlation_id,
                "incident": incident,
                "prev": last["@hash"] if last else GENESIS,
                "seq": len(self.records),
                "stream": self._stream,
                "ts": max(now, last["ts"]) if last else now,
                "type": type,
                "v": 1,
            }
            digest = hashlib.sha256(canonical_json(record)).hexdigest()
            self.records.append({"@hash": digest, **record})
        return digest

    def of_type(self, type: RecordType, incident: str | None = None) -> list[JsonObject]:
        """The records of one type, in order; of one incident where it is named."""
        return [
            record
            for record in self.records
            if record["type"] == type and (incident is None or record["incident"] == incident)
        ]

    def lines(self) -> bytes:
        """The records as they would stand in a file: canonical JSON, one a line."""
        return b"".join(canonical_json(record) + b"\n" for record in self.records)

    def break_down(self, reason: str = "no space left on device") -> None:
        """Fail from now on."""
        self._broken = reason


class MemoryStateStore:
    """The port `StateStore` in memory; records are copied in and out, as through a wire."""

    def __init__(self) -> None:
        """Nothing is quarantined, no reference is set."""
        self._lock = threading.Lock()
        self._batches: dict[str, dict[str, str]] = {}
        self._references: dict[str, str] = {}

    def quarantine(self, model: str, batch: str, record: JsonObject) -> bool:
        """Quarantine a batch unless it is already; True where this call did it."""
        with self._lock:
            batches = self._batches.setdefault(model, {})
            if batch in batches:
                return False
            batches[batch] = _text(record)
            return True

    def release(self, model: str, batch: str) -> bool:
        """Release a batch; True where it was quarantined."""
        with self._lock:
            return self._batches.get(model, {}).pop(batch, None) is not None

    def quarantined(self, model: str) -> dict[str, JsonObject]:
        """Batches in quarantine, by name."""
        with self._lock:
            return {batch: json.loads(text) for batch, text in self._batches.get(model, {}).items()}

    def reference(self, model: str) -> JsonObject | None:
        """The reference that was set, or None."""
        with self._lock:
            text = self._references.get(model)
        record: JsonObject | None = None if text is None else json.loads(text)
        return record

    def set_reference(self, model: str, record: JsonObject | None, *, expected: JsonObject | None) -> bool:
        """Compare-and-set the reference; True where it was set."""
        with self._lock:
            if self._references.get(model) != (None if expected is None else _text(expected)):
                return False
            if record is None:
                self._references.pop(model, None)
            else:
                self._references[model] = _text(record)
            return True


class MemoryKnowledge:
    """The port `Knowledge` in memory: a passage scores the share of the query's words that it holds."""

    def __init__(self, *passages: KnowledgeHit) -> None:
        """Begin with these passages; their own scores are ignored."""
        self._passages = {passage.id: passage for passage in passages}
        self.incidents: dict[str, PastIncident] = {}

    def search(
        self,
        text: str,
        *,
        kind: Literal["runbook", "incident"] | None = None,
        root_cause: str | None = None,
        limit: int = 5,
    ) -> tuple[KnowledgeHit, ...]:
        """The passages that share a word with `text`, best first, ties by id."""
        wanted = _words(text)
        hits = []
        for passage in self._passages.values():
            if kind not in {None, passage.kind} or root_cause not in {None, passage.metadata.get("root_cause")}:
                continue
            shared = wanted & _words(f"{passage.title} {passage.text}")
            if shared:
                hits.append(passage.model_copy(update={"score": len(shared) / len(wanted)}))
        return tuple(sorted(hits, key=lambda hit: (-hit.score, hit.id))[: max(limit, 0)])

    def record_incident(self, incident: PastIncident) -> None:
        """Remember an incident; the same id replaces the earlier record."""
        self.incidents[incident.id] = incident
        self._passages[incident.id] = KnowledgeHit(
            id=incident.id,
            kind="incident",
            title=f"{incident.model}: {incident.root_cause}",
            text=f"{incident.summary} {incident.action} {incident.outcome}",
            score=0.0,
            metadata={"root_cause": incident.root_cause, "action": incident.action, "helped": incident.helped},
        )


class Message(NamedTuple):
    """What a CollectedNotifier was told."""

    subject: str
    body: str
    key: str
    fields: JsonObject


class CollectedNotifier:
    """The port `Notifier`: keeps the messages; the same key twice is one message."""

    def __init__(self) -> None:
        """Nothing has been sent."""
        self._lock = threading.Lock()
        self.messages: list[Message] = []

    def notify(self, subject: str, body: str, *, key: str, fields: JsonObject) -> None:
        """Keep one message."""
        with self._lock:
            if not self.sent(key):
                self.messages.append(Message(subject, body, key, dict(fields)))

    def sent(self, key: str) -> bool:
        """Whether a message with this key is out."""
        return any(message.key == key for message in self.messages)


class InlineSandbox:
    """The port `Sandbox` without a process: calls the task here and now. It bounds nothing, so never outside tests.

    Payload and answer cross as JSON, and errors arrive as from the real one. `calls` holds task and payload of every call.
    """

    def __init__(self, prefixes: Sequence[str] = PREFIXES) -> None:
        """`prefixes`: modules whose functions may be called."""
        self._prefixes = tuple(prefixes)
        self.calls: list[tuple[str, JsonObject]] = []

    def call(self, task: str, payload: JsonObject, *, timeout_s: float, memory_bytes: int | None = None) -> JsonObject:
        """Call `module:function`; raises errors of `driftwarden.errors` as they are, GiveUp for any other.

        `timeout_s` must be above zero, and is otherwise not enforced; nor is `memory_bytes`.
        """
        module, colon, function = task.partition(":")
        if not colon or not function.isidentifier() or not task.startswith(self._prefixes):
            raise BadInput("sandbox task", got=task, expected=f"a function below {', '.join(self._prefixes)}")
        if timeout_s <= 0 or (memory_bytes is not None and memory_bytes <= 0):
            raise BadInput("sandbox limits", got=f"{timeout_s} s, {memory_bytes} bytes", expected="limits above zero")
        try:
            crossed = json.loads(json.dumps(payload, allow_nan=False))
        except (TypeError, ValueError) as error:
            raise BadInput("sandbox payload", got=str(error), expected="a JSON object", where=task) from None
        self.calls.append((task, crossed))
        try:
            answer: Any = json.loads(json.dumps(getattr(importlib.import_module(module), function)(crossed)))
        except Error:
            raise
        except Exception as error:
            raise GiveUp(f"{task}: {type(error).__name__}: {error}") from error
        if not isinstance(answer, dict):
            raise GiveUp(f"{task}: answered {type(answer).__name__}, expected a JSON object")
        return answer


def _text(record: JsonObject) -> str:
    return json.dumps(record, sort_keys=True, allow_nan=False)


def _words(text: str) -> set[str]:
    return set(re.findall(r"[a-z0-9]+", text.lower()))
