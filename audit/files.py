"""The files of a log folder: names, whole lines, tails, and how bytes are made durable."""

import fcntl
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from driftwarden.audit.codec import NotCanonical, decode_canonical
from driftwarden.audit.record import LINE_BYTES_MAX, field_fault
from driftwarden.errors import BadInput, unreadable
from driftwarden.keyfile import give_to_owner

NOTES_FOLDER = "checkpoints"
UNWRITABLE_MARK = "unwritable"
# Each write returns as if fdatasync had followed it (POSIX, synchronised I/O data integrity): one wait instead of two.
# Other systems know the flag, too, but not all of them keep what it says: there a sync follows each write.
DURABLE = os.O_DSYNC if sys.platform == "linux" else 0
_CHUNK_BYTES = 1 << 18  # what is read stays in the processor's cache until it is hashed
_NEWLINE = 0x0A


def file_name(stream: str, first_seq: int) -> str:
    """Name of the file of a stream that begins at `first_seq`; only people read it, verification goes by content."""
    return f"{stream}.{first_seq:012d}.jsonl"


def note_name(stream: str, first_seq: int, size: int) -> str:
    """Name of the note over the first `size` records of the file of a stream that begins at `first_seq`."""
    return f"{stream}.{first_seq:012d}.{size:012d}.note"


def log_files(directory: Path) -> list[Path]:
    """Every file of the log, by name; raises BadInput where the folder is absent, or may not be read."""
    if not directory.is_dir():
        raise BadInput("audit folder", got=str(directory), expected="a folder with *.jsonl files")
    return [path for path in listing(directory, ".jsonl") if path.is_file()]


def listing(directory: Path, ending: str) -> list[Path]:
    """What stands in a folder under names that end so, by name. A glob would take a folder that may not be read for an
    empty one, and nothing would be found wrong with it: here that is BadInput."""
    try:
        return sorted(path for path in directory.iterdir() if path.name.endswith(ending))
    except OSError as error:
        expected = "a folder that this account may read"
        raise BadInput("folder", got=unreadable(error), expected=expected, where=str(directory)) from None


def whole_lines(path: Path) -> Iterator[bytes]:
    """Lines that end with a newline, without it; what follows the last one, a torn tail, is left out."""
    with path.open("rb", buffering=_CHUNK_BYTES) as handle:
        for line in handle:
            if line[-1] != _NEWLINE:
                return  # and not read on: a writer that finishes this line meanwhile would give its second half
            yield line[:-1]


def parse_line(line: bytes, *, where: str) -> dict[str, Any]:
    """The document of one line; raises BadInput where it is no record."""
    try:
        document = decode_canonical(line)
    except NotCanonical as error:
        raise BadInput("damaged record", got=str(error), expected="one record of canonical JSON", where=where) from None
    if what := field_fault(document):
        raise BadInput("damaged record", got=what, expected="a record of the log", where=where)
    record: dict[str, Any] = document
    return record


@dataclass(frozen=True)
class Head:
    """The last whole record of a stream, and the file it stands in."""

    stream: str
    seq: int
    hash: str
    path: Path


def head_of(path: Path) -> Head | None:
    """The last whole record of a file, None where there is none that can be read."""
    try:
        with path.open("rb") as handle:
            start = handle.seek(0, os.SEEK_END)
            tail = b""
            while start > 0 and tail.count(b"\n") < 2 and len(tail) <= LINE_BYTES_MAX:
                step = min(start, 1 << 16)
                start -= step
                handle.seek(start)
                tail = handle.read(step) + tail
    except OSError:
        return None
    lines = tail.split(b"\n")[:-1]
    if not lines or (start > 0 and len(lines) < 2):
        return None
    try:
        record = parse_line(lines[-1], where=path.name)
    except BadInput:
        return None
    return Head(record["stream"], record["seq"], record["@hash"], path)


def heads(directory: Path) -> dict[str, Head]:
    """The last record of every stream in the folder, on the disk: what is named elsewhere must survive a power failure."""
    found: dict[str, Head] = {}
    for path in log_files(directory):
        head = head_of(path)
        if head is not None and (head.stream not in found or found[head.stream].seq < head.seq):
            found[head.stream] = head
    for head in found.values():
        with head.path.open("rb") as handle:
            os.fsync(handle.fileno())
    return found


def sync_folder(directory: Path) -> None:
    """Force a folder's entries to the disk, so that a new file is found after a power failure."""
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_all(handle: int, data: bytes) -> None:
    """Write every byte; a disk that is full raises OSError."""
    view = memoryview(data)
    while view:
        view = view[os.write(handle, view) :]


def write_durably(handle: int, data: bytes) -> None:
    """Write every byte of `data` to the disk; `handle` was opened with `DURABLE`."""
    write_all(handle, data)
    if not DURABLE:
        os.fsync(handle)


def create_durably(path: Path, data: bytes, *, mode: int = 0o640) -> None:
    """Create or replace a small file in one durable step; where that fails, OSError, and nothing of it stays."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{os.urandom(4).hex()}")
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        try:
            write_all(handle, data)
            give_to_owner(handle, path.parent)
            os.fsync(handle)
        finally:
            os.close(handle)
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def lock_for_writing(handle: int) -> None:
    """Mark an open file as being written for as long as this process holds it."""
    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)


def is_being_written(path: Path) -> bool:
    """Whether a living process holds this file open for writing."""
    with path.open("rb") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return True
    return False
