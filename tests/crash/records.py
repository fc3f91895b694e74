"""All that the history checker looks at, read as a stranger would read it."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from crash.dump import Dump, take_dump
from crash.sink import Sink

Record = Mapping[str, Any]


@dataclass(frozen=True)
class Acknowledged:
    """One entry that XADD acknowledged: its id, and the bytes of its field `event`."""

    entry: str
    raw: bytes

    @property
    def identity(self) -> str | None:
        """SHA-256 of source and id, as 64 hex digits; None where the bytes have neither."""
        return identity_of(self.raw)


@dataclass(frozen=True)
class History:
    """All that the checker looks at. `records` in the order of their time; `verified` is what is wrong with the log itself."""

    acknowledged: tuple[Acknowledged, ...]
    dump: Dump
    records: tuple[Record, ...] = ()
    sink: Sink = field(default_factory=Sink)
    verified: tuple[str, ...] = ()
    messages: tuple[Record, ...] | None = None

    def of_type(self, *types: str) -> list[Record]:
        """Records of these types, in order."""
        return [one for one in self.records if one["type"] in types]


def identity_of(raw: bytes | str) -> str | None:
    """SHA-256 (64 hex digits) of what identifies an event; None where it cannot be read."""
    try:
        document = json.loads(raw)
    except (ValueError, RecursionError):
        return None
    if not isinstance(document, dict):
        return None
    source, id = document.get("source"), document.get("id")
    if not isinstance(source, str) or not isinstance(id, str):
        return None
    return hashlib.sha256(f"{source}\n{id}".encode("utf-8", "surrogatepass")).hexdigest()


def read_history(
    client: Any,
    acknowledged: Iterable[Acknowledged],
    *,
    audit: Path,
    sink: Sink,
    prefix: str = "driftwarden:",
    messages: Path | None = None,
) -> History:
    """Read everything once; `audit` is the log's folder, `messages` the file of the messages that were sent."""
    told = messages.read_bytes().splitlines() if messages is not None and messages.exists() else []
    sent = None if messages is None else tuple(_parsed(told))
    return History(
        acknowledged=tuple(acknowledged),
        dump=take_dump(client, prefix),
        records=tuple(sorted(_lines(audit), key=lambda one: (one["ts"], one["stream"], one["seq"]))),
        sink=sink,
        verified=_verified(audit),
        messages=sent,
    )


def _parsed(lines: Iterable[bytes]) -> Iterator[Record]:
    for line in lines:
        try:
            found = json.loads(line)
        except ValueError:  # torn
            continue
        if isinstance(found, dict):
            yield found


def _lines(folder: Path) -> Iterator[Record]:
    for path in sorted(folder.glob("*.jsonl")):
        yield from _parsed(path.read_bytes().rpartition(b"\n")[0].split(b"\n"))


def _verified(folder: Path) -> tuple[str, ...]:
    from driftwarden.audit import verify

    if not folder.is_dir():
        return ("there is none",)
    report = verify(folder)
    return () if report.ok else tuple(f"{one.name}: {one.fault}" for one in report.files if not one.ok) or report.notes
