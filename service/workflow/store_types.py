"""What the workflow store hands out, and the names of its keys."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from driftwarden.clock import rfc3339

JsonObject = dict[str, Any]
Disposition = Literal["go", "park", "release", "finish"]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def identity_of(source: str, event_id: str) -> str:
    """SHA-256 (64 hex digits) of what identifies an event."""
    return hashlib.sha256(f"{source}\n{event_id}".encode()).hexdigest()


def moment(ms: str | int) -> str:
    """RFC 3339 of Redis's milliseconds."""
    return rfc3339(_EPOCH + timedelta(milliseconds=int(ms)))


class Keys:
    """Names of keys; every one begins with the prefix, and the schema stands above `store.py`."""

    def __init__(self, prefix: str) -> None:
        """`prefix` ends with a colon."""
        self.prefix = prefix
        self.intake, self.dead_letters = f"{prefix}events", f"{prefix}dead-letters"
        self.activations, self.transitions = f"{prefix}activations", f"{prefix}transitions"
        self.timers, self.index, self.ids = f"{prefix}timers", f"{prefix}incidents", f"{prefix}incident-ids"
        self.counts = f"{prefix}counts"

    def wf(self, incident: str, part: str = "") -> str:
        """An incident's hash, or one of its parts (`events`, `keys`, `signals`)."""
        return f"{self.prefix}wf:{incident}" + (f":{part}" if part else "")

    def model(self, model: str, part: str = "") -> str:
        """A model's hash, or one of its parts (`queue`, `incidents`, `verifying`, `performance`)."""
        return f"{self.prefix}model:{model}" + (f":{part}" if part else "")

    def seen(self, identity: str) -> str:
        """The memory of an event."""
        return f"{self.prefix}seen:{identity}"

    def once(self, token: str) -> str:
        """The memory of a signal that was left."""
        return f"{self.prefix}once:{token}"


@dataclass(frozen=True)
class Admission:
    """What became of an entry of the intake."""

    kind: Literal["opened", "joined", "duplicate", "performance"]
    incident: str


@dataclass(frozen=True)
class Signal:
    """Something that an incident must hear (an approval, an operator's word); gone once a commit says it was handled."""

    token: str
    seq: int
    why: str
    payload: Any
    at: str


@dataclass(frozen=True)
class Claim:
    """A worker's hold on an incident: what it may commit, under which fence and version, and all that it knows.

    `events`: raw strings in the order they came. `crashes`: how many workers died on it since the last commit. `why`: a
    hint at what activated it (several reasons may have become one). `successor`: the incident that the events opened
    which came too late for this one, set by a `finish`.
    """

    incident: str
    model: str
    environment: str
    correlation_id: str
    opened_at: str
    fence: int
    version: int
    entry: str
    consumer: str
    lease_ms: int
    state: str
    doc: JsonObject
    events: tuple[str, ...]
    signals: tuple[Signal, ...]
    crashes: int
    why: str
    successor: str | None = None


@dataclass(frozen=True)
class IncidentRecord:
    """An incident as it stands, for reading. `reason`: why it failed without a worker's word (a crash loop)."""

    id: str
    model: str
    environment: str
    correlation_id: str
    state: str
    version: int
    fence: int
    doc: JsonObject
    events: tuple[str, ...]
    crashes: int
    leased: bool
    ended: bool
    opened_at: str
    updated_at: str
    reason: str | None = None
    predecessor: str | None = None
    successor: str | None = None


@dataclass(frozen=True)
class Transition:
    """One committed arrow; `id` is where `watch` can go on."""

    id: str
    incident: str
    model: str
    version: int
    before: str
    state: str
    fence: int
    at: str


def pairs(flat: Sequence[bytes]) -> dict[str, str]:
    """A flat reply of names and values as text."""
    texts = [part.decode("utf-8", "replace") for part in flat]
    return dict(zip(texts[::2], texts[1::2], strict=True))


def texts(reply: Sequence[bytes]) -> tuple[str, ...]:
    """A reply of strings as text."""
    return tuple(part.decode("utf-8") for part in reply)


def signals_of(flat: Sequence[bytes]) -> tuple[Signal, ...]:
    """The signals of an incident in the order they were left."""
    found = []
    for token, value in pairs(flat).items():
        seq, _, text = value.partition("|")
        content = json.loads(text)
        found.append(Signal(token, int(seq), content["why"], content["payload"], content["at"]))
    return tuple(sorted(found, key=lambda signal: signal.seq))


def record_of(incident: str, h: Mapping[str, str], events: Sequence[bytes], now_ms: int) -> IncidentRecord:
    """An incident's hash as a record."""
    return IncidentRecord(
        id=incident,
        model=h["model"],
        environment=h["environment"],
        correlation_id=h["correlation"],
        state=h["state"],
        version=int(h["version"]),
        fence=int(h["fence"]),
        doc=json.loads(h["doc"]),
        events=texts(events),
        crashes=int(h["crashes"]),
        leased=int(h["lease"]) > now_ms,
        ended=h["done"] == "1",
        opened_at=h["opened"],
        updated_at=moment(h["updated"]),
        reason=h.get("reason"),
        predecessor=h.get("predecessor"),
        successor=h.get("successor"),
    )
