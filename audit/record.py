"""One record of the log (contract §5): the model, its JSON Schema, and how a line is made."""

import hashlib
import re
from datetime import datetime
from typing import Annotated, Any, Literal, get_args

from pydantic import ConfigDict, Field

from driftwarden.clock import parse_rfc3339
from driftwarden.contracts.base import Value
from driftwarden.contracts.ports import Actor, RecordType
from driftwarden.errors import BadInput, kind_of

FORMAT = "driftwarden-audit/1"
GENESIS = "0" * 64
RECORD_TYPES: tuple[str, ...] = get_args(RecordType)
ACTOR_KINDS = ("service", "agent", "human", "timer")
_TYPES, _ACTOR_KEYS = frozenset(RECORD_TYPES), {"kind", "id"}
KEYS = frozenset(
    ("@hash", "actor", "body", "causation", "correlation_id", "incident", "prev", "seq", "stream", "ts", "type", "v")
)
LINE_BYTES_MAX = 16 * 1024 * 1024
STREAM_PATTERN = r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}"
TS_PATTERN = r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{6}Z"

HEX_64 = re.compile(r"[0-9a-f]{64}")
HEX_32 = re.compile(r"[0-9a-f]{32}")
STREAM_NAME = re.compile(STREAM_PATTERN)
_TS = re.compile(TS_PATTERN)

# The constant bytes around a line's own hash: `{"@hash":"` + 64 hex + `",` + the canonical rest without its brace.
HEAD = b'{"@hash":"'
HASH_END = len(HEAD) + 64
REST = HASH_END + 2

Hash = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class Record(Value):
    """One line of the log; `ts` is RFC 3339 in UTC with six digits and sorts as text."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True, title="driftwarden audit record")

    hash: Annotated[Hash, Field(alias="@hash", description="SHA-256 of the canonical record without this field")]
    actor: Actor
    body: Annotated[dict[str, Any], Field(description="by type; floating-point numbers are decimal strings")]
    causation: Annotated[Hash | None, Field(description="@hash of the record that led to this one")]
    correlation_id: Annotated[str, Field(pattern="^[0-9a-f]{32}$")] | None
    incident: str | None
    prev: Annotated[Hash, Field(description="@hash of the record before it in its stream, 64 zeros in the first")]
    seq: Annotated[int, Field(ge=0, lt=2**53, strict=True)]
    stream: Annotated[str, Field(pattern=f"^{STREAM_PATTERN}$")]
    ts: Annotated[str, Field(pattern=f"^{TS_PATTERN}$")]
    type: RecordType
    v: Literal[1]

    @property
    def moment(self) -> datetime:
        """When it was written, UTC."""
        return parse_rfc3339(self.ts)

    def to_json(self) -> dict[str, Any]:
        """The record as it stands in the log, `@hash` included."""
        return self.model_dump(by_alias=True, mode="json")


def json_schema() -> dict[str, Any]:
    """The published JSON Schema (2020-12) of one line."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **Record.model_json_schema(by_alias=True)}


def seal(rest: bytes) -> tuple[bytes, str]:
    """Make the line (without newline) and the hash of a record whose canonical bytes without `@hash` are `rest`."""
    digest = hashlib.sha256(rest).hexdigest()
    return b'%b%b",%b' % (HEAD, digest.encode(), rest[1:]), digest


def field_fault(document: Any) -> str | None:
    """Say what is wrong with the fields of a parsed record, or None; the same rules as the JSON Schema, much faster."""
    if fault := content_fault(document):
        return fault
    if type(document["prev"]) is not str or not HEX_64.fullmatch(document["prev"]):
        return "prev is not 64 hex digits"
    if type(document["seq"]) is not int or document["seq"] < 0:
        return "seq is not a whole number from 0"
    if type(document["stream"]) is not str or not STREAM_NAME.fullmatch(document["stream"]):
        return "stream is not a name"
    if type(document["ts"]) is not str or not _TS.fullmatch(document["ts"]):
        return "ts is not RFC 3339 in UTC with six digits"
    if type(document["v"]) is not int or document["v"] != 1:
        return "v is not 1"
    return None


def content_fault(document: Any) -> str | None:
    """The part of `field_fault` that the bytes at a line's end do not show: keys, actor, body, ids, an existing moment."""
    if type(document) is not dict or document.keys() != KEYS:
        return f"keys {_shown(document)}, expected exactly {', '.join(sorted(KEYS))}"
    actor = document["actor"]
    if type(actor) is not dict or actor.keys() != _ACTOR_KEYS or type(actor["id"]) is not str:
        return "actor is not {kind, id}"
    if actor["kind"] not in ACTOR_KINDS:
        return f"actor kind, expected one of {', '.join(ACTOR_KINDS)}"
    if type(document["body"]) is not dict:
        return "body is not an object"
    causation, correlation_id, incident = document["causation"], document["correlation_id"], document["incident"]
    if causation is not None and not (type(causation) is str and HEX_64.fullmatch(causation)):
        return "causation is neither null nor 64 hex digits"
    if correlation_id is not None and not (type(correlation_id) is str and HEX_32.fullmatch(correlation_id)):
        return "correlation_id is neither null nor 32 hex digits"
    if incident is not None and type(incident) is not str:
        return "incident is neither null nor a string"
    if document["type"] not in _TYPES:
        return "type is not known"
    return None if exists(document["ts"]) else "ts is not a moment that exists"


def exists(ts: Any) -> bool:
    """Whether a text is a moment in time."""
    try:
        datetime.fromisoformat(ts)
    except (TypeError, ValueError):
        return False
    return True


def _shown(document: Any) -> str:
    return ", ".join(sorted(map(str, document))) if isinstance(document, dict) else f"of {kind_of(document)}"


def check_envelope(kind: str, incident: str | None, correlation_id: str | None, causation: str | None) -> None:
    """Refuse what a record may not bear, before anything is written; raises BadInput."""
    if kind not in RECORD_TYPES:
        raise BadInput("audit record type", got=kind, expected=f"one of: {', '.join(RECORD_TYPES)}")
    if incident is not None and not isinstance(incident, str):
        raise BadInput("audit record incident", got=incident, expected="a string or nothing")
    if correlation_id is not None and not HEX_32.fullmatch(correlation_id):
        raise BadInput("audit record correlation_id", got=correlation_id, expected="32 hex digits")
    if causation is not None and not HEX_64.fullmatch(causation):
        raise BadInput("audit record causation", got=causation, expected="64 hex digits")
