"""What could not be handled: kept whole, listed, shown, and put back when the cause is mended.

Stream `<prefix>dead-letters`, an entry each:

    kind         `event` (an entry of the intake that cannot be read) or `incident` (one that kept killing its workers)
    reason       one line for people
    field got expected   the field of the event that is wrong, what it held, what the contract says ('' where none)
    source event_id      identity of the event, as far as it could be read ('' where not)
    deliveries   how often the entry was handed out
    entry        its id in the intake;  incident: the incident's id
    shape raw    `event`: raw is the bytes of its one field `event`; else a JSON list of the lengths of names and values,
                 in turn, that raw holds one after another

Hash `<prefix>dead-letters:redriven`: letter id -> id of the entry that it became (on a cluster its name ends with
`{<prefix>events}`, which puts it on the slot of the intake). Keys `<prefix>dead-letters:once:<digest>{<prefix>dead-letters}`
remember, for 30 days, what has its letter: a letter is written in one step, and what it is about settled in the next.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from driftwarden.clock import rfc3339
from driftwarden.errors import BadInput, NotFound
from driftwarden.stream.client import beside, redis_errors
from driftwarden.stream.scripts import Arg, Scripts

if TYPE_CHECKING:
    from redis import Redis

_BATCH = 50  # of up to a megabyte each
_FIELDS_MAX = 2000  # of an entry that a script can put back
_ONCE_TTL_MS = 30 * 24 * 3600 * 1000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class DeadLetter:
    """One dead letter; `fields` are the name-value pairs of the entry as they came, empty for an incident."""

    id: str
    kind: str
    reason: str
    field: str | None
    got: str | None
    expected: str | None
    source: str | None
    event_id: str | None
    deliveries: int
    at: str
    incident: str | None
    redriven_as: str | None
    fields: tuple[tuple[bytes, bytes], ...]

    @property
    def raw(self) -> bytes:
        """The bytes of the field `event`, empty where there is none."""
        return next((value for name, value in self.fields if name == b"event"), b"")

    def to_json(self, *, whole: bool = False) -> dict[str, Any]:
        """The fields of contract §6; `whole` adds the entry as it came (bytes that are not UTF-8 escaped)."""
        identity = {"source": self.source, "id": self.event_id} if self.source and self.event_id else None
        document: dict[str, Any] = {
            "id": self.id,
            "reason": self.reason,
            "field": self.field,
            "got": self.got,
            "expected": self.expected,
            "event": identity,
            "deliveries": self.deliveries,
            "at": self.at,
            "kind": self.kind,
            "incident": self.incident,
            "redriven_as": self.redriven_as,
        }
        if whole:
            document["entry"] = [[_text(name), _text(value)] for name, value in self.fields]
        return document


class DeadLetters:
    """The dead letters of one Redis."""

    def __init__(self, client: "Redis", prefix: str = "driftwarden:", *, scripts: Scripts | None = None) -> None:
        """`client` answers bytes (`driftwarden.stream.client.connect`); `scripts` of this package, with their fail points."""
        self._client = client
        self.stream, self._intake = f"{prefix}dead-letters", f"{prefix}events"
        self._redriven = beside(client, f"{self.stream}:redriven", self._intake)
        self._scripts = scripts or Scripts(client, "driftwarden.stream")

    def write(self, about: str, letter: Mapping[str, Arg]) -> str:
        """Write a letter, once for what it is `about` (any text), and return its id. Raises Retry."""
        digest = hashlib.sha256(about.encode("utf-8", "backslashreplace")).hexdigest()
        once = f"{self.stream}:once:{digest}{{{self.stream}}}"
        fields = [part for pair in letter.items() for part in pair]
        found: bytes = self._scripts.run("letter", [self.stream, once], [_ONCE_TTL_MS, *fields])
        return found.decode()

    def list(self, limit: int | None = None) -> Iterator[DeadLetter]:
        """Dead letters, newest first; their entries are not loaded into memory together."""
        end, left = "+", limit
        while left is None or left > 0:
            with redis_errors():
                count = _BATCH if left is None else min(_BATCH, left)
                batch: Any = self._client.xrevrange(self.stream, max=end, min="-", count=count)
                marks: Any = self._client.hmget(self._redriven, [item[0] for item in batch]) if batch else []
            for (letter_id, fields), mark in zip(batch, marks, strict=True):
                yield _letter(letter_id.decode(), fields, mark)
            if len(batch) < count:
                return
            end = "(" + batch[-1][0].decode()
            left = None if left is None else left - len(batch)

    def left(self) -> int:
        """How many nobody has put back; one that was, and was then deleted by hand, counts for nothing."""
        with redis_errors():
            total, marked = int(self._client.xlen(self.stream)), list(self._client.hkeys(self._redriven))
            for start in range(0, len(marked), _BATCH):
                with self._client.pipeline(transaction=False) as pipe:
                    for letter in marked[start : start + _BATCH]:
                        pipe.xrange(self.stream, letter, letter)
                    total -= sum(bool(found) for found in pipe.execute())
        return max(0, total)

    def show(self, prefix: str) -> DeadLetter:
        """The one dead letter whose id begins with `prefix`; raises NotFound, or BadInput where there are several."""
        found: list[DeadLetter] = []
        for letter in self.list():
            if letter.id == prefix:
                return letter
            if letter.id.startswith(prefix):
                found.append(letter)
        if not found:
            raise NotFound("no such dead letter", got=prefix, expected="an id of `driftwarden dead-letters list`")
        if len(found) > 1:
            raise BadInput("dead letter", got=prefix, expected=f"a longer prefix: {len(found)} begin with it")
        return found[0]

    def redrive(self, prefix: str) -> tuple[DeadLetter, str, bool]:
        """Put an event back into the intake, once however often it is asked.

        Returns the letter, the id of the new entry, and whether an earlier call had done it already. Raises BadInput for
        a letter that holds no event to put back.
        """
        letter = self.show(prefix)
        if letter.kind != "event":
            expected = f"an event (this is an incident: `driftwarden incidents retry {letter.incident}`)"
            raise BadInput("cannot redrive", got=letter.id, expected=expected)
        if not letter.fields:
            expected = "an entry that was still in the stream when it was read"
            raise BadInput("cannot redrive", got=letter.id, expected=expected)
        if len(letter.fields) > _FIELDS_MAX:
            raise BadInput("cannot redrive", got=letter.id, expected=f"an entry of at most {_FIELDS_MAX} fields")
        parts: list[Arg] = [part for pair in letter.fields for part in pair]
        entry, again = self._scripts.run("redrive", [self._intake, self._redriven], [letter.id, *parts])
        return letter, entry.decode(), bool(again)


def _letter(letter_id: str, fields: dict[bytes, bytes], mark: bytes | None) -> DeadLetter:
    def text(name: str) -> str | None:
        return _text(fields.get(name.encode(), b"")) or None

    at_ms = int(letter_id.partition("-")[0])
    return DeadLetter(
        id=letter_id,
        kind=text("kind") or "event",
        reason=text("reason") or "unknown",
        field=text("field"),
        got=text("got"),
        expected=text("expected"),
        source=text("source"),
        event_id=text("event_id"),
        deliveries=int(text("deliveries") or 1),
        at=rfc3339(_EPOCH + timedelta(milliseconds=at_ms)),
        incident=text("incident"),
        redriven_as=mark.decode() if mark else None,
        fields=_entry_fields(text("shape"), fields.get(b"raw", b"")),
    )


def pack(fields: tuple[tuple[bytes, bytes], ...]) -> tuple[str, bytes]:
    """Shape and raw bytes of an entry, as a letter keeps it: repeated fields and bytes as they came."""
    if len(fields) == 1 and fields[0][0] == b"event":
        return "event", fields[0][1]
    parts = [part for pair in fields for part in pair]
    return json.dumps([len(part) for part in parts]), b"".join(parts)


def _entry_fields(shape: str | None, raw: bytes) -> tuple[tuple[bytes, bytes], ...]:
    if shape is None:
        return ()
    if shape == "event":
        return ((b"event", raw),)
    lengths, parts, at = json.loads(shape), [], 0
    for length in lengths or []:
        parts.append(raw[at : at + length])
        at += length
    return tuple(zip(parts[::2], parts[1::2], strict=True))


def _text(value: bytes) -> str:
    return value.decode("utf-8", "backslashreplace")
