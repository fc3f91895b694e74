"""What an operator does to the log: erase personal data, remove old files, check and mend what can be mended."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from driftwarden.audit import files, notes, vault
from driftwarden.audit.scan import FileScan, Scanner
from driftwarden.audit.verify import VerifyReport, verify
from driftwarden.audit.writer import AuditWriter
from driftwarden.clock import parse_rfc3339
from driftwarden.contracts.base import Value
from driftwarden.contracts.ports import Actor
from driftwarden.errors import BadInput, NotFound, Refused, unreadable

_REMOVAL_KEYS = ("name", "stream", "first_seq", "last_seq", "last_hash")


def erase(
    writer: AuditWriter,
    *,
    reason: str,
    actor: Actor,
    incident: str | None = None,
    correlation_id: str | None = None,
    commitment: str | None = None,
) -> int:
    """Erase the personal values of an incident, a correlation id or one commitment; returns how many.

    The `erasure` record names the commitments and is on disk before the vault forgets them; the log still verifies.
    Raises NotFound where the vault holds nothing of the kind (what was never protected cannot be erased).
    """
    found = erasable(writer.directory, incident=incident, correlation_id=correlation_id, commitment=commitment)
    made = [entry.commitment for entry in found]
    body = {"commitments": made, "paths": sorted({entry.path for entry in found}), "reason": reason}
    writer.append("erasure", body, actor=actor, incident=incident, correlation_id=correlation_id)
    return vault.erase(writer.directory, made)


def erasable(
    directory: Path, *, incident: str | None = None, correlation_id: str | None = None, commitment: str | None = None
) -> list[vault.Entry]:
    """What `erase` would erase, before a writer is opened for it; raises as `erase` does."""
    if incident is None and correlation_id is None and commitment is None:
        raise BadInput("what to erase", expected="an incident, a correlation id or a commitment")
    found = vault.entries(directory, incident=incident, correlation_id=correlation_id, made=commitment)
    if not found:
        raise NotFound("no personal data to erase", got=incident or correlation_id or commitment)
    return found


def retain(
    writer: AuditWriter,
    *,
    now: datetime,
    reason: str,
    actor: Actor,
    age_max: timedelta | None = None,
    bytes_max: int | None = None,
) -> tuple[str, ...]:
    """Remove whole files whose last record is older than `age_max`, and the oldest beyond `bytes_max` in all.

    Removed from the front of a stream only, never a file that is being written. The removal is recorded and signed
    before anything is deleted. Raises Refused where the log does not verify. Returns the names of the removed files.
    """
    directory = writer.directory
    if not verify(directory).ok:
        raise Refused("the log does not verify: nothing is removed from it (see `driftwarden audit verify`)")
    scans = [Scanner(path, strict=False).run() for path in files.log_files(directory)]
    gone = _expired([scan for scan in scans if scan.records], now, age_max, bytes_max)
    if not gone:
        return ()
    # What the removed files said about still earlier removals must outlive them.
    carried = [{key: getattr(removal, key) for key in _REMOVAL_KEYS} for scan in gone for removal in scan.removals]
    writer.append("erasure", {"files": carried + [_removal(scan) for scan in gone], "reason": reason}, actor=actor)
    writer.checkpoint()
    for scan in gone:
        scan.path.unlink()
    files.sync_folder(directory)
    return tuple(scan.path.name for scan in gone)


def _expired(scans: list[FileScan], now: datetime, age_max: timedelta | None, bytes_max: int | None) -> list[FileScan]:
    total = sum(scan.path.stat().st_size for scan in scans)
    gone: list[FileScan] = []
    kept_streams: set[str | None] = set()
    for scan in sorted(scans, key=lambda scan: (scan.last_ts, scan.first_seq)):
        old = age_max is not None and now - parse_rfc3339(scan.last_ts.decode()) > age_max
        large = bytes_max is not None and total > bytes_max
        if scan.stream in kept_streams or not (old or large) or files.is_being_written(scan.path):
            kept_streams.add(scan.stream)
            continue
        gone.append(scan)
        total -= scan.path.stat().st_size
    return gone


def _removal(scan: FileScan) -> dict[str, Any]:
    return {
        "name": scan.path.name,
        "stream": scan.stream,
        "first_seq": scan.first_seq,
        "last_seq": scan.last_seq,
        "last_hash": scan.last_hash,
    }


class FsckReport(Value):
    """What was found and mended; `ok` where the log is whole and can be written. `notes_fault`: why notes are still missing."""

    ok: bool
    log: VerifyReport
    notes_restored: tuple[str, ...] = ()
    notes_fault: str | None = None
    vault_entries: int = 0
    vault_faults: tuple[str, ...] = ()
    was_unwritable: str | None = None
    cleared: bool = False


def fsck(directory: Path, checkpoints: Sequence[Path] = (), *, public_key: bytes | None = None) -> FsckReport:
    """Recompute everything, restore notes that are missing beside the log, and lift the mark of a failed write.

    The mark is lifted only where the log is whole and the folder takes a durable write again.
    """
    log = verify(directory, checkpoints, public_key=public_key)
    restored, notes_fault = _restore_notes(directory) if log.ok else ((), None)
    held = vault.entries(directory)
    broken = tuple(entry.commitment for entry in held if not _entry_holds(entry))
    mark = directory / files.UNWRITABLE_MARK
    reason = mark.read_text(encoding="utf-8", errors="replace").strip() if mark.exists() else None
    cleared = reason is not None and log.ok and _takes_a_write(directory)
    if cleared:
        mark.unlink()
        files.sync_folder(directory)
    return FsckReport(
        ok=log.ok and not broken and notes_fault is None and (reason is None or cleared),
        log=log,
        notes_restored=restored,
        notes_fault=notes_fault,
        vault_entries=len(held),
        vault_faults=broken,
        was_unwritable=reason,
        cleared=cleared,
    )


def _restore_notes(directory: Path) -> tuple[tuple[str, ...], str | None]:
    """The notes that were written anew, and why the others could not be (a disk that is full or read-only)."""
    restored: list[str] = []
    for path in files.log_files(directory):
        for _, note in Scanner(path, strict=False).run().checkpoints:
            name = files.note_name(note.stream, note.first_seq, note.size)
            target = directory / files.NOTES_FOLDER / name
            if target.exists():
                continue
            try:
                target.parent.mkdir(exist_ok=True)
                files.create_durably(target, notes.signed_text(note).encode())
            except OSError as error:
                return tuple(restored), unreadable(error)
            restored.append(name)
    return tuple(restored), None


def _entry_holds(entry: vault.Entry) -> bool:
    return vault.commitment_of_bytes(entry.salt, entry.path, entry.value) == entry.commitment


def _takes_a_write(directory: Path) -> bool:
    probe = directory / ".probe"
    try:
        files.create_durably(probe, b"probe\n")
        probe.unlink()
    except OSError:
        return False
    return True
