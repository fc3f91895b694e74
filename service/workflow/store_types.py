"""What the workflow store hands out, and the names of its keys."""

import hashlib
import hmac
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from driftwarden.clock import rfc3339
from driftwarden.sealing import Seal

JsonObject = dict[str, Any]
Disposition = Literal["go", "park", "release", "finish"]

ID_LENGTHS = (12, 16, 24, 32)  # hex digits of an incident's id: more where two events share the first

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def identity_of(source: str, event_id: str) -> str:
    """SHA-256 (64 hex digits) of what identifies an event."""
    return hashlib.sha256(f"{source}\n{event_id}".encode()).hexdigest()


def moment(ms: str | int) -> str:
    """RFC 3339 of Redis's milliseconds."""
    return rfc3339(_EPOCH + timedelta(milliseconds=int(ms)))


class Keys:
    """Names of keys; every one begins with the prefix, and the schema stands above `store.py`."""

    def __init__(self, prefix: str, shard: int | None = None) -> None:
        """`prefix` ends with a colon; `shard`: these are keys of that one of several (`sharding.py`)."""
        self.prefix, self._suffix = prefix, "" if shard is None else f"{shard:03x}"
        self.shards = f"{prefix}shards"
        self.intake, self.dead_letters = f"{prefix}events", f"{prefix}dead-letters"
        self.activations, self.transitions = f"{prefix}activations", f"{prefix}transitions"
        self.timers, self.index, self.ids = f"{prefix}timers", f"{prefix}incidents", f"{prefix}incident-ids"
        self.counts, self.removed, self.queues = f"{prefix}counts", f"{prefix}removed", f"{prefix}queues"

    def wf(self, incident: str, part: str = "") -> str:
        """An incident's hash, or one of its parts (`events`, `keys`, `signals`)."""
        return f"{self.prefix}wf:{incident}" + (f":{part}" if part else "")

    def model(self, model: str, part: str = "") -> str:
        """A model's hash, or one of its parts (`queue`, `incidents`, `verifying`, `performance`)."""
        return f"{self.prefix}model:{model}" + (f":{part}" if part else "")

    def group(self, environment: str, name: str) -> str:
        """The incident that events with this name in common join."""
        return f"{self.prefix}group:{environment}:{name}"

    def incident_id(self, identity: str, digits: int) -> str:
        """The id of the incident that the event of this identity opens."""
        return f"inc-{identity[:digits]}{self._suffix}"

    def identity(self, identity: str) -> str:
        """With several shards: the shard that an event was first seen on."""
        return f"{self.prefix}identity:{identity}"

    def seen(self, identity: str) -> str:
        """The memory of an event."""
        return f"{self.prefix}seen:{identity}"

    def once(self, token: str) -> str:
        """The memory of a signal that was left."""
        return f"{self.prefix}once:{token}"


@dataclass(frozen=True)
class Admission:
    """What became of an entry of the intake; `incident` is empty for a report, and where a duplicate names another model."""

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
    hint at what activated it (several reasons may have become one). `genuine`: `doc` is what was committed last, by whoever
    has the store's seal (a crash loop's end, which needs none, leaves it so). `successor`: the incident that the events opened
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
    genuine: bool = False
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


def sealed_name(incident: str, version: int, state: str) -> str:
    """What the seal of a document binds it to."""
    return f"{incident}\n{version}\n{state}"


def _is_genuine(incident: str, fields: Mapping[str, str], seal: Seal | None) -> bool:
    if seal is None or "mac" not in fields:
        return False
    version, _, state = fields.get("sealed", "").partition("|")
    moved_on = (fields["version"], fields["state"]) != (version, state)
    if moved_on and fields["state"] != "failed":
        return False
    mac = seal.mac("incident", sealed_name(incident, _number(version), state), fields["doc"])
    return hmac.compare_digest(mac, fields["mac"])


def claim_of(incident: str, reply: Any, seal: Seal | None, **about: Any) -> Claim:
    """The answer of the script `acquire` as a claim; raises KeyError or ValueError where the hash was tampered with."""
    _, fence, h, events, signals = reply
    fields = pairs(h)
    return Claim(
        incident=incident,
        model=fields["model"],
        environment=fields["environment"],
        correlation_id=fields["correlation"],
        opened_at=fields["opened"],
        fence=int(fence),
        version=int(fields["version"]),
        state=fields["state"],
        doc=json.loads(fields["doc"]),
        events=texts(events),
        signals=signals_of(signals),
        crashes=int(fields["crashes"]),
        genuine=_is_genuine(incident, fields, seal),
        successor=fields.get("successor"),
        **about,
    )


def record_of(incident: str, flat: Mapping[bytes, bytes], events: Sequence[bytes], now_ms: int) -> IncidentRecord:
    """An incident's hash as a record; one that was tampered with is shown as far as it can be read."""
    h = {name.decode("utf-8", "replace"): value.decode("utf-8", "replace") for name, value in flat.items()}
    doc = _document(h.get("doc", ""))
    return IncidentRecord(
        id=incident,
        model=h.get("model", ""),
        environment=h.get("environment", ""),
        correlation_id=h.get("correlation", ""),
        state=h.get("state", ""),
        version=_number(h.get("version")),
        fence=_number(h.get("fence")),
        doc=doc or {},
        events=tuple(raw.decode("utf-8", "replace") for raw in events),
        crashes=_number(h.get("crashes")),
        leased=_number(h.get("lease")) > now_ms,
        ended=h.get("done") == "1",
        opened_at=h.get("opened", ""),
        updated_at=moment(_number(h.get("updated"))),
        reason=h.get("reason", "its document cannot be read" if doc is None else None),
        predecessor=h.get("predecessor"),
        successor=h.get("successor"),
    )


def transition_of(entry_id: str, place: str, fields: Mapping[bytes, bytes]) -> Transition:
    """An entry of the stream of transitions; `place`: where `watch` can go on after it."""
    one = {name.decode(): value.decode("utf-8", "replace") for name, value in fields.items()}
    return Transition(
        id=place,
        incident=one.get("incident", ""),
        model=one.get("model", ""),
        version=_number(one.get("version")),
        before=one.get("from", ""),
        state=one.get("state", ""),
        fence=_number(one.get("fence")),
        at=moment(entry_id.partition("-")[0]),
    )


def _document(text: str) -> JsonObject | None:
    try:
        document = json.loads(text)
    except ValueError:
        return None
    return document if isinstance(document, dict) else None


def _number(text: str | None) -> int:
    return int(text) if text and text.isascii() and text.isdigit() and len(text) < 19 else 0
