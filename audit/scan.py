"""One file of the log, read from front to back: hashes, chain, canonical form, checkpoints. Shows the first fault."""

import hashlib
import re
from binascii import hexlify
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from driftwarden.audit import notes
from driftwarden.audit.codec import NotCanonical, decode_canonical, is_canonical_object
from driftwarden.audit.files import whole_lines
from driftwarden.audit.merkle import Tree, leaf_hash
from driftwarden.audit.record import (
    ACTOR_KINDS,
    GENESIS,
    HASH_END,
    HEAD,
    HEX_64,
    LINE_BYTES_MAX,
    RECORD_TYPES,
    REST,
    content_fault,
    exists,
    field_fault,
)
from driftwarden.errors import BadInput, NotInstalled

# Everything after `incident` has one form; the bytes before it cannot hold `","prev":"` outside of an escaped string.
_END = re.compile(
    rb'"prev":"([0-9a-f]{64})","seq":(0|[1-9][0-9]{0,15}),"stream":"([A-Za-z0-9][A-Za-z0-9._-]{0,127})"'
    rb',"ts":"([0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{6}Z)","type":"([a-z_]{1,20})","v":1\}'
)
_END_BYTES = 420
_PREV = b',"prev":"'
# What stands around the body, in the only canonical form it has where strings hold nothing that is escaped.
_BEFORE_BODY = re.compile(
    rb'","actor":\{"id":"[ !#-\[\]-~]*","kind":"(?:%b)"\},"body":' % "|".join(ACTOR_KINDS).encode()
)
_AFTER_BODY = re.compile(
    rb',"causation":(?:null|"[0-9a-f]{64}"),"correlation_id":(?:null|"[0-9a-f]{32}")'
    rb',"incident":(?:null|"[ !#-\[\]-~]*")'
)
_CAUSATION = b',"causation":'
_READ_TYPES = frozenset((b"open", b"checkpoint", b"erasure"))
_TS = re.compile(rb"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{6}Z")
_TS_BYTES = 27
_TYPE, _TYPE_BYTES, _Z = b'","type":"', 40, ord("Z")
_ORDINARY_ENDS = frozenset(
    b'","type":"%b","v":1}' % kind.encode() for kind in RECORD_TYPES if kind.encode() not in _READ_TYPES
)
_sha256 = hashlib.sha256
_OWN, _LEAF = _sha256(b"{"), _sha256(b"\x00")  # what stands before the rest of a line, and before a leaf


@dataclass(frozen=True)
class Reference:
    """Something a record of this file says must exist: the record `seq` of `stream` with this hash."""

    line: int
    stream: str
    seq: int
    hash: str


@dataclass(frozen=True)
class Removal:
    """An `erasure` record that says a file was removed by retention; `line` is where it says so."""

    line: int
    name: str
    stream: str
    first_seq: int
    last_seq: int
    last_hash: str


@dataclass
class FileScan:
    """What one file holds, up to its first fault."""

    path: Path
    records: int = 0
    torn_bytes: int = 0
    fault_line: int | None = None
    fault: str | None = None
    stream: str | None = None
    first_seq: int = 0
    first_prev: str = GENESIS
    first_ts: bytes = b""
    last_hash: str = GENESIS
    last_ts: bytes = b""
    hashes: bytearray = field(default_factory=bytearray)
    leaves: bytearray = field(default_factory=bytearray)
    roots: dict[int, bytes] = field(default_factory=dict)
    references: list[Reference] = field(default_factory=list)
    removals: list[Removal] = field(default_factory=list)
    checkpoints: list[tuple[int, notes.Note]] = field(default_factory=list)
    key: bytes | None = None

    @property
    def last_seq(self) -> int:
        """`seq` of the last whole record."""
        return self.first_seq + self.records - 1

    def hash_at(self, seq: int) -> str | None:
        """`@hash` of the record `seq`, None where this file does not hold it."""
        index = seq - self.first_seq
        return self.hashes[32 * index : 32 * index + 32].hex() if 0 <= index < self.records else None

    def root_at(self, size: int) -> bytes:
        """Merkle root of the first `size` records."""
        if size not in self.roots:
            tree = Tree()
            tree.extend(self.leaves[: 32 * size])
            self.roots[size] = tree.root()
        return self.roots[size]

    def blame(self, line: int | None, what: str) -> None:
        """Keep a fault, unless an earlier one is known."""
        if self.fault is None:
            self.fault_line, self.fault = line, what


class _Stop(Exception):
    """The file cannot be followed any further."""


class Scanner:
    """Reads one file. `strict` re-encodes every line and holds it against its bytes; otherwise only the bytes count."""

    def __init__(self, path: Path, *, strict: bool, references_bytes: int | None = None) -> None:
        """Prepare to scan `path`; references to other files are kept from its first `references_bytes` only (None: all).

        A log that is being written is read file by file: what a later record names may be younger than another file's scan.
        """
        self._references_bytes, self._offset = references_bytes, 0
        self._scan = FileScan(path)
        self._strict = strict
        self._tree = Tree()

    def run(self) -> FileScan:
        """Scan to the end or the first fault; what follows a fault is not counted."""
        scan = self._scan
        lines = whole_lines(scan.path)
        try:
            while (line := self._follow(lines)) is not None:
                self._line(scan.records + 1, line)
            scan.torn_bytes = _torn_bytes(scan.path)
        except _Stop as stop:
            scan.blame(scan.records + 1, str(stop))
        except OSError as error:
            scan.blame(None, f"cannot be read: {error.strerror}")
        return scan

    def _follow(self, lines: Iterator[bytes]) -> bytes | None:
        """Read on while every line is an ordinary record in its one form that follows the one before; returns the first
        that must be looked at closely, None at the end. Accepts only what `_line` accepts: it is there for speed alone."""
        scan, strict, hashes, leaves = self._scan, self._strict, self._scan.hashes, self._scan.leaves
        if scan.stream is None:
            return next(lines, None)
        stream, seq, read = b'"stream":"%b","ts":"' % scan.stream.encode(), scan.last_seq, 0
        last, last_ts, second = scan.last_hash.encode(), scan.last_ts, b""
        begin = b"\n" if strict else b'",'  # what stands before the body, once a line has shown it
        begun = HASH_END + len(begin)
        line: bytes | None = None
        for line in lines:
            own = _OWN.copy()
            own.update(line[REST:])
            digest = own.digest()
            text = hexlify(digest)
            seq += 1
            end = b',"prev":"%b","seq":%d,%b' % (last, seq, stream)
            ts_end = line.rfind(_TYPE, -_TYPE_BYTES)
            ts_at = ts_end - _TS_BYTES
            at = ts_at - len(end)
            ts = line[ts_at:ts_end]
            if (
                at < REST
                or not line.startswith(end, at)
                or line[ts_end:] not in _ORDINARY_ENDS
                or ts < last_ts
                or len(line) > LINE_BYTES_MAX
            ):
                break
            if ts[:20] != second:
                if not _TS.fullmatch(ts) or not exists(ts.decode()):
                    break
                second = ts[:20]
            elif not ts[20:26].isdigit() or ts[26] != _Z:
                break
            if strict and not line.startswith(begin, HASH_END):
                before = _BEFORE_BODY.match(line, HASH_END)
                if before is None:
                    break
                begin, begun = before[0], before.end()
            if not line.startswith(HEAD + text + begin):
                break
            if strict:
                after = line.rfind(_CAUSATION, begun, at)
                if _AFTER_BODY.fullmatch(line, after, at) is None or not is_canonical_object(line[begun:after]):
                    break
            leaf = _LEAF.copy()
            leaf.update(line)
            hashes += digest
            leaves += leaf.digest()
            last, last_ts, read = text, ts, read + len(line) + 1
        else:
            line = None
        scan.records, scan.last_hash, scan.last_ts = len(hashes) // 32, last.decode(), last_ts
        self._offset += read
        return line

    def _line(self, number: int, line: bytes) -> None:
        scan = self._scan
        self._offset += len(line) + 1
        digest, text = _own_hash(line)
        kind = self._chain(line)
        if self._strict or kind in _READ_TYPES:
            document = _document(line)
            if kind in _READ_TYPES:
                self._special(number, kind, document)
        scan.records = number
        scan.last_hash = text
        scan.hashes += digest
        scan.leaves += leaf_hash(line)

    def _chain(self, line: bytes) -> bytes:
        """The record's type, by a close look at its end; raises _Stop where it does not follow the record before."""
        scan = self._scan
        at = line.rfind(_PREV, max(0, len(line) - _END_BYTES))
        match = _END.fullmatch(line, at + 1) if at >= 0 else None
        if match is None or match[5].decode() not in RECORD_TYPES:
            raise _Stop(_why_unreadable(line))
        prev, seq, stream, ts = match[1].decode(), int(match[2]), match[3].decode(), match[4]
        if scan.stream is None:
            if (seq == 0) != (prev == GENESIS):
                raise _Stop(f"seq {seq} with prev {prev[:16]}…, expected 64 zeros exactly where seq is 0")
            scan.stream, scan.first_seq, scan.first_prev, scan.first_ts = stream, seq, prev, ts
        else:
            if stream != scan.stream:
                raise _Stop(f"stream `{stream}` in a file of `{scan.stream}`")
            if seq != scan.first_seq + scan.records:
                raise _Stop(f"seq {seq}, expected {scan.first_seq + scan.records}")
            if prev != scan.last_hash:
                raise _Stop(f"prev {prev[:16]}…, expected the hash of the record before it, {scan.last_hash[:16]}…")
            if ts < scan.last_ts:
                raise _Stop(f"ts {ts.decode()} is before {scan.last_ts.decode()} of the record before it")
        scan.last_ts = ts
        return match[5]

    def _special(self, number: int, kind: bytes, document: Any) -> None:
        scan, body = self._scan, document["body"]
        try:
            if kind == b"open":
                self._open(number, body)
            elif kind == b"checkpoint":
                self._checkpoint(number, body)
            else:
                scan.removals += [_removal(number, item) for item in body.get("files", [])]
        except (KeyError, TypeError, ValueError, AttributeError):
            raise _Stop(f"the body of this {kind.decode()} record is malformed") from None
        except NotInstalled:
            raise
        except BadInput as error:
            raise _Stop(f"the body of this {kind.decode()} record: {error.diagnostics()}") from None

    def _open(self, number: int, body: dict[str, Any]) -> None:
        scan = self._scan
        for stream, head in body.get("streams", {}).items():
            reference = Reference(number, stream, _whole(head["seq"]), _hash(head["hash"]))
            if self._references_bytes is None or self._offset <= self._references_bytes:
                scan.references.append(reference)
        if "key" in body:
            public = notes.parse_verifier_key(body["key"])
            if scan.key is not None and scan.key != public:
                raise _Stop("this open record names another key than the one before it in this file")
            scan.key = public

    def _checkpoint(self, number: int, body: dict[str, Any]) -> None:
        scan = self._scan
        note = notes.parse_note(body["note"], where="note")
        if (note.stream, note.first_seq) != (scan.stream, scan.first_seq) or note.size != scan.records:
            raise _Stop(f"the checkpoint speaks of {note.size} records of `{note.stream}` from seq {note.first_seq}")
        self._tree.extend(scan.leaves[32 * self._tree.size :])
        scan.roots[scan.records] = self._tree.root()
        if note.root != scan.roots[scan.records]:
            raise _Stop("the checkpoint's Merkle root is not that of the records before it")
        if scan.key is not None and not notes.signature_holds(note, scan.key):
            raise _Stop("the checkpoint's signature does not hold under the key of this file's open record")
        scan.checkpoints.append((number, note))


def _whole(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise ValueError("a whole number from 0")
    return value


def _hash(value: Any) -> str:
    if type(value) is not str or not HEX_64.fullmatch(value):
        raise ValueError("64 hex digits")
    return value


def _removal(line: int, item: dict[str, Any]) -> Removal:
    first, last = _whole(item["first_seq"]), _whole(item["last_seq"])
    return Removal(line, str(item["name"]), str(item["stream"]), first, last, _hash(item["last_hash"]))


def _own_hash(line: bytes) -> tuple[bytes, str]:
    """The digest of a line that is the one it states, raw and in hex; raises _Stop."""
    if len(line) > LINE_BYTES_MAX:
        raise _Stop(f"a line of {len(line)} bytes")
    if line[:10] != HEAD or line[HASH_END:REST] != b'",':
        raise _Stop(_why_unreadable(line))
    digest = _sha256(b"{" + line[REST:])
    text = digest.hexdigest()
    if text.encode() != line[10:HASH_END]:
        raise _Stop("the hash does not match the record")
    return digest.digest(), text


def _document(line: bytes) -> Any:
    """The record behind a line that is canonical and complete; raises _Stop."""
    try:
        document = decode_canonical(line)
    except NotCanonical as error:
        raise _Stop(f"the record is damaged: {error}") from None
    if what := content_fault(document):
        raise _Stop(f"the record is malformed: {what}")
    return document


def _why_unreadable(line: bytes) -> str:
    if not line:
        return "an empty line"
    try:
        document = decode_canonical(line)
    except NotCanonical as error:
        return f"the line is no record: {error}"
    return f"the line is no record: {field_fault(document) or 'its fields are not in canonical order'}"


def _torn_bytes(path: Path) -> int:
    """Bytes after the last newline."""
    with path.open("rb") as handle:
        end = handle.seek(0, 2)
        torn, start = 0, end
        while start > 0:
            step = min(start, 1 << 16)
            start -= step
            handle.seek(start)
            chunk = handle.read(step)
            newline = chunk.rfind(b"\n")
            if newline >= 0:
                return torn + step - newline - 1
            torn += step
        return torn
