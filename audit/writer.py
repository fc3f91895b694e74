"""The writer: one stream per process, one line per record, on the disk before `append` returns.

Records are staged under a lock (that gives each its place in the chain) and committed in batches (`batch.py`), each with one
write that is on the disk when it returns. After a failed write the writer is dead: what reached the disk is not known, so
nothing may be added and nothing may execute.
"""

import os
import re
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Self, TypeVar

from driftwarden import __version__
from driftwarden.audit import files, notes
from driftwarden.audit.batch import GroupCommit, Note, Op, Rotate
from driftwarden.audit.codec import encode
from driftwarden.audit.merkle import Tree, leaf_hash
from driftwarden.audit.record import FORMAT, GENESIS, LINE_BYTES_MAX, check_envelope, seal
from driftwarden.audit.redact import clean_bytes, redact
from driftwarden.audit.vault import Committer
from driftwarden.clock import Clock, rfc3339
from driftwarden.contracts.ports import Actor, RecordType
from driftwarden.errors import BadInput, LogUnwritable
from driftwarden.keyfile import give_to_owner, make_folder
from driftwarden.strict import plain

_LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}")
_SELF = Actor(kind="service", id="audit")


@dataclass(frozen=True)
class Limits:
    """When a file is full and when a checkpoint is due; `idle_s` None: no thread looks after an idle log."""

    file_bytes_max: int = 256 * 1024 * 1024
    file_age_max: timedelta = timedelta(days=1)
    checkpoint_records: int = 1024
    checkpoint_age: timedelta = timedelta(minutes=5)
    idle_s: float | None = 30.0


_Placed = TypeVar("_Placed")


class AuditWriter:
    """The `AuditLog` of this process: `stream` is a label, made unique so that no two processes ever share a stream."""

    def __init__(
        self,
        directory: Path,
        *,
        stream: str,
        clock: Clock,
        key_path: Path | None = None,
        limits: Limits | None = None,
        personal: tuple[str, ...] = (),
        write: Callable[[int, bytes], None] = files.write_durably,
    ) -> None:
        """Open a new stream in `directory` (created) with its `open` record on disk.

        `key_path`: the log's signing key, created on first use (default: `keys/audit.key` beside the folder).
        `personal`: body paths whose values are written as salted commitments (`reason`, `granted.*.by`). `write`: how bytes
        are made durable on a file that was opened with `files.DURABLE`.
        Raises LogUnwritable where the folder cannot be written or an operator has not yet acted on an earlier failure.
        """
        if not _LABEL.fullmatch(stream):
            raise BadInput("audit stream", got=stream, expected="1-80 of A-Z a-z 0-9 . _ -")
        self._clock, self._limits, self._write_out = clock, limits or Limits(), write
        self._directory, self._notes_folder = directory, directory / files.NOTES_FOLDER
        self._mutex, self._disk = threading.Lock(), threading.Lock()
        self._commit = GroupCommit(self._write_batch, self._die_of)
        self._staged: list[Op] = []
        self._pid, self._handle = os.getpid(), -1
        self._dead: str | None = None
        self._closed = False
        self._seq, self._prev, self._ts = 0, GENESIS, ""
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None
        started = clock.now()
        self.stream = f"{stream}-{started.astimezone(UTC):%Y%m%dT%H%M%S}-{os.urandom(4).hex()}"
        self._stream_bytes = self.stream.encode()
        try:
            make_folder(self._notes_folder)
            mark = directory / files.UNWRITABLE_MARK
            if mark.exists():
                raise LogUnwritable(
                    f"the audit log failed earlier ({mark}): mend the disk, then `driftwarden audit fsck`"
                )
            self._key = notes.load_or_create_key(key_path or directory.parent / "keys" / "audit.key")
            self._committer = Committer(directory, self.stream, personal) if personal else None
            self._place(self._begin_file)
        except OSError as error:
            raise LogUnwritable(f"the audit log cannot be opened in {directory}: {error.strerror}") from error
        if self._limits.idle_s is not None:
            self._thread = threading.Thread(target=self._look_after, name=f"audit-{stream}", daemon=True)
            self._thread.start()

    @property
    def healthy(self) -> bool:
        """Whether records can still be made durable."""
        return self._dead is None and not self._closed

    @property
    def directory(self) -> Path:
        """The folder of the log."""
        return self._directory

    def append(
        self,
        type: RecordType,
        body: Mapping[str, Any],
        *,
        actor: Actor,
        incident: str | None = None,
        correlation_id: str | None = None,
        causation: str | None = None,
    ) -> str:
        """Make one record durable and return its `@hash`.

        Raises LogUnwritable, after which nothing may execute, and BadInput for a record that the format does not allow.
        """
        check_envelope(type, incident, correlation_id, causation)
        self._require_alive()
        try:
            begin = self._begin(type, actor, dict(body), incident, correlation_id)
        except (RecursionError, ValueError) as error:
            raise BadInput("audit record body", got=error.__class__.__name__, expected="a JSON document") from None
        head = b'%b,"causation":%b,"correlation_id":%b,"incident":%b' % (
            begin,
            encode(causation),
            encode(correlation_id),
            _encode_text(incident),
        )
        if len(head) > LINE_BYTES_MAX - 1024:
            raise BadInput("audit record", got=f"{len(head)} bytes", expected=f"at most {LINE_BYTES_MAX - 1024}")

        def stage(now: datetime) -> str:
            if self._file_is_full(now):
                self._stage_checkpoint(now)
                self._begin_file(now)
            digest = self._stage(type, head, now)
            if self._checkpoint_is_due(now):
                self._stage_checkpoint(now)
            return digest

        return self._place(stage)

    def checkpoint(self) -> None:
        """Sign what was written since the last checkpoint, if anything was."""

        def stage(now: datetime) -> None:
            if self._tree.size > self._signed_size:
                self._stage_checkpoint(now)

        self._place(stage)

    def close(self) -> None:
        """Write a last checkpoint and the `close` record; a dead or closed writer only lets go of its file."""
        self._wake.set()
        if self._closed or os.getpid() != self._pid:
            return

        def stage(now: datetime) -> None:
            self._stage_checkpoint(now)
            self._stage("close", _head({"records": self._seq + 1}), now)
            self._closed = True

        try:
            if self._dead is None:
                self._place(stage)
        finally:
            with self._disk:
                self._let_go()

    def __enter__(self) -> Self:
        """Use as a context manager: closes at the end."""
        return self

    def __exit__(self, *exc: object) -> None:
        """Close."""
        self.close()

    # Staging: under the mutex.

    def _place(self, stage: Callable[[datetime], _Placed]) -> _Placed:
        """Give records their place in the chain, all or none, and return when they are on the disk."""
        with self._mutex:
            if self._staged and self._dead is None:  # interrupted twice: the second time while the first was dealt with
                self._die(InterruptedError("records were given their place and not handed in"))
            self._require_alive()
            try:
                placed = stage(self._clock.now())
            except BaseException as error:  # the chain may be half advanced: nothing may follow
                reason = self._die(error)
                if isinstance(error, Exception):
                    raise LogUnwritable(f"the audit log cannot be written ({reason})") from error
                raise
            try:
                batch, gate = self._commit.hand_in(self._staged)
            except BaseException as error:
                if self._staged:  # they have their place in the chain, and nobody will write them
                    self._die(error)
                raise
        failure = self._commit.finish(batch, gate)
        if failure is not None:
            raise LogUnwritable(f"the audit log cannot be written ({failure})")
        return placed

    def _add(self, op: Op) -> None:
        self._staged.append(op)

    def _require_alive(self) -> None:
        if self._dead is not None:
            raise LogUnwritable(f"the audit log cannot be written ({self._dead}): nothing executes until it is mended")
        if self._closed:
            raise LogUnwritable("the audit log of this process is closed")
        if os.getpid() != self._pid:
            raise LogUnwritable("this process was forked from the one that writes this audit stream: open another")

    def _stage(self, kind: str, head: bytes, now: datetime) -> str:
        self._ts = max(self._ts, rfc3339(now))
        rest = b'%b,"prev":"%b","seq":%d,"stream":"%b","ts":"%b","type":"%b","v":1}' % (
            head,
            self._prev.encode(),
            self._seq,
            self._stream_bytes,
            self._ts.encode(),
            kind.encode(),
        )
        line, digest = seal(rest)
        self._tree.add(leaf_hash(line))
        self._add(line + b"\n")
        self._file_bytes += len(line) + 1
        self._prev = digest
        self._seq += 1
        return digest

    def _begin_file(self, now: datetime) -> None:
        others = files.heads(self._directory)
        others.pop(self.stream, None)
        self._add(Rotate(self._directory / files.file_name(self.stream, self._seq)))
        self._tree, self._first_seq, self._signed_size = Tree(), self._seq, 0
        self._file_bytes, self._file_begun, self._signed_at = 0, now, now
        body = {
            "format": FORMAT,
            "key": self._key.verifier_key,
            "pid": self._pid,
            "software": f"driftwarden {__version__}",
            "streams": {name: {"hash": head.hash, "seq": head.seq} for name, head in others.items()},
        }
        self._stage("open", _head(body), now)

    def _stage_checkpoint(self, now: datetime) -> None:
        size = self._tree.size
        signed = self._key.sign(notes.note_text(self.stream, self._first_seq, size, self._tree.root()))
        self._stage("checkpoint", _head({"note": signed}), now)
        self._signed_size, self._signed_at = self._tree.size, now
        self._add(Note(files.note_name(self.stream, self._first_seq, size), signed))

    def _file_is_full(self, now: datetime) -> bool:
        grown = self._file_bytes >= self._limits.file_bytes_max
        return self._tree.size > 1 and (grown or now - self._file_begun >= self._limits.file_age_max)

    def _checkpoint_is_due(self, now: datetime) -> bool:
        many = self._tree.size - self._signed_size >= self._limits.checkpoint_records
        return many or now - self._signed_at >= self._limits.checkpoint_age

    def _begin(
        self, kind: str, actor: Actor, body: dict[str, Any], incident: str | None, correlation_id: str | None
    ) -> bytes:
        """A record's canonical bytes from its `actor` to the end of its `body`, without secrets."""
        begin: dict[str, Any] = {"actor": {"id": actor.id, "kind": actor.kind}, "body": body}
        if self._committer is None or kind == "erasure":  # why something was erased must stay readable
            return clean_bytes(begin)[:-1]
        begin = redact(plain(begin))
        return encode(begin | {"body": self._protect(begin["body"], incident, correlation_id)})[:-1]

    def _protect(self, body: Any, incident: str | None, correlation_id: str | None) -> Any:
        assert self._committer is not None
        try:
            return self._committer.commit(body, incident=incident, correlation_id=correlation_id)
        except OSError as error:
            with self._mutex:
                self._die(error)
            raise LogUnwritable("the vault of personal data cannot be written") from error

    # Committing: outside the mutex, one batch at a time in the order of their creation.

    def _write_batch(self, ops: list[Op]) -> str | None:
        """Make a batch durable, or say why it is not."""
        try:
            with self._disk:
                failure = self._dead
                if failure is None:
                    self._write(ops)
        except OSError as error:
            return self._die_of(error)
        return failure

    def _die_of(self, error: BaseException) -> str:
        with self._mutex:
            return self._die(error)

    def _write(self, ops: list[Op]) -> None:
        lines: list[bytes] = []
        for op in ops:
            if isinstance(op, bytes):
                lines.append(op)
                continue
            self._flush(lines)
            if isinstance(op, Rotate):
                self._open_file(op.path)
            else:
                files.create_durably(self._notes_folder / op.name, op.text.encode())
        self._flush(lines)

    def _flush(self, lines: list[bytes]) -> None:
        if lines:
            self._write_out(self._handle, b"".join(lines))
            lines.clear()

    def _open_file(self, path: Path) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC | files.DURABLE
        handle = os.open(path, flags, 0o640)
        give_to_owner(handle, self._directory)
        files.lock_for_writing(handle)
        self._let_go()
        self._handle = handle
        files.sync_folder(self._directory)

    def _die(self, error: BaseException) -> str:
        reason = " ".join(f"{error.__class__.__name__}: {error}".split())
        self._dead = self._dead or reason
        try:
            files.create_durably(self._directory / files.UNWRITABLE_MARK, encode({"reason": plain(reason)}) + b"\n")
        except OSError:
            return reason  # the disk that failed may refuse this too; this process stays dead all the same
        return reason

    def _let_go(self) -> None:
        handle, self._handle = self._handle, -1
        if handle >= 0:
            os.close(handle)

    def _look_after(self) -> None:
        while not self._wake.wait(self._limits.idle_s):
            if not self.healthy:
                return
            try:
                self.checkpoint()
            except LogUnwritable:
                return


def _encode_text(text: str | None) -> bytes:
    try:
        return encode(text)
    except ValueError:  # a lone surrogate
        return encode(plain(text))


def _head(body: Mapping[str, Any]) -> bytes:
    return b'{"actor":%b,"body":%b,"causation":null,"correlation_id":null,"incident":null' % (
        encode(_SELF.model_dump()),
        encode(plain(dict(body))),
    )
