"""Verification of a whole log: every file, the chains across files, what is missing, and notes that were kept elsewhere."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from driftwarden.audit import notes
from driftwarden.audit.files import NOTES_FOLDER, listing, log_files
from driftwarden.audit.scan import FileScan, Removal, Scanner
from driftwarden.contracts.base import Value
from driftwarden.errors import BadInput


class FileReport(Value):
    """One file: whole records, whether it is whole, and else its first fault (`line` counts from 1)."""

    name: str
    records: int
    ok: bool
    fault: str | None = None
    line: int | None = None
    torn_bytes: int = 0
    stream: str | None = None
    first_seq: int | None = None
    last_seq: int | None = None
    last_hash: str | None = None
    checkpoints: int = 0


class VerifyReport(Value):
    """The whole log: `ok` where every file is whole and nothing is missing; `notes` are findings that are no faults."""

    ok: bool
    files: tuple[FileReport, ...]
    records: int
    checkpoints: int = 0
    notes: tuple[str, ...] = ()


def verify(
    directory: Path,
    checkpoints: Iterable[Path] = (),
    *,
    strict: bool = True,
    public_key: bytes | None = None,
) -> VerifyReport:
    """Recompute everything in a log folder.

    `checkpoints`: signed notes kept elsewhere (files, or folders of `*.note`). `strict` also re-encodes every record.
    `public_key`: the key that the log's checkpoints must be signed with (default: the one its `open` records name).
    Raises BadInput for a folder or a note that cannot be read.
    """
    given = [note for path in checkpoints for note in notes.read_notes(path)]
    # In this order a log that is being written verifies: what is named was on the disk before what names it.
    beside = _notes_beside(directory)
    sizes = {path: path.stat().st_size for path in log_files(directory)}
    scans = [Scanner(path, strict=strict, references_bytes=sizes.get(path, 0)).run() for path in log_files(directory)]
    return _Verification(scans, given, beside, public_key).report()


def _notes_beside(directory: Path) -> dict[str, notes.Note | str]:
    """The notes in the log's own folder by name, or what is wrong with them."""
    found: dict[str, notes.Note | str] = {}
    folder = directory / NOTES_FOLDER
    for path in listing(folder, ".note") if folder.exists() else ():
        try:
            (found[f"{NOTES_FOLDER}/{path.name}"],) = notes.read_notes(path)
        except BadInput as error:
            found[f"{NOTES_FOLDER}/{path.name}"] = error.diagnostics()
    return found


class _Verification:
    """The checks that need more than one file."""

    def __init__(
        self,
        scans: Sequence[FileScan],
        given: Sequence[notes.Note],
        beside: dict[str, notes.Note | str],
        public_key: bytes | None,
    ) -> None:
        self._scans, self._given, self._beside, self._pinned = scans, given, beside, public_key
        self._missing: list[FileReport] = []
        self._remarks: list[str] = []
        self._streams: dict[str, list[FileScan]] = {}
        for scan in scans:
            if scan.stream is not None:
                self._streams.setdefault(scan.stream, []).append(scan)
        for files in self._streams.values():
            files.sort(key=lambda scan: scan.first_seq)
        self._removed = self._signed_removals()

    def report(self) -> VerifyReport:
        """Run every check; the order decides which fault of a file is shown."""
        self._check_keys()
        for stream, files in self._streams.items():
            self._check_chain(stream, files)
        self._check_references()
        for note in self._given:
            self._check_note(note, "the checkpoint that was given")
        self._check_local_notes()
        for scan in self._scans:
            if scan.torn_bytes:
                self._remarks.append(f"{scan.path.name}: torn tail of {scan.torn_bytes} bytes, not counted")
        reports = (*map(_report, self._scans), *self._missing)
        return VerifyReport(
            ok=all(file.ok for file in reports),
            files=reports,
            records=sum(file.records for file in reports),
            checkpoints=sum(file.checkpoints for file in reports),
            notes=tuple(self._remarks),
        )

    def _key_of(self, stream: str) -> bytes | None:
        if self._pinned is not None:
            return self._pinned
        return next((scan.key for scan in self._streams.get(stream, ()) if scan.key is not None), None)

    def _check_keys(self) -> None:
        for scan in self._scans:
            if self._pinned is not None and scan.key is not None and scan.key != self._pinned:
                scan.blame(1, "the open record names another key than the one that was given")
            key = self._pinned if self._pinned is not None else scan.key
            for line, note in scan.checkpoints:
                if key is None:
                    self._remarks.append(f"{scan.path.name}: line {line}: no key is known for this checkpoint")
                elif not notes.signature_holds(note, key):
                    scan.blame(line, "the checkpoint's signature does not hold")

    def _signed_removals(self) -> dict[str, list[Removal]]:
        """Removals by retention that a later, signed checkpoint of the same file covers, by stream."""
        found: dict[str, list[Removal]] = {}
        if self._pinned is None and len({scan.key for scan in self._scans if scan.key is not None}) > 1:
            return found  # whoever can add a file could bring a key of his own
        for scan in self._scans:
            key = self._pinned if self._pinned is not None else scan.key
            signed = max((line for line, n in scan.checkpoints if key and notes.signature_holds(n, key)), default=0)
            for removal in scan.removals:
                if removal.line < signed:
                    found.setdefault(removal.stream, []).append(removal)
        return found

    def _check_chain(self, stream: str, files: list[FileScan]) -> None:
        for index, scan in enumerate(files):
            before = files[index - 1] if index else None
            if before is None:
                if scan.first_seq > 0 and not self._is_excused(stream, scan):
                    scan.blame(1, f"begins at seq {scan.first_seq}, and its predecessor is in no file")
                continue
            if scan.first_seq <= before.last_seq:
                scan.blame(1, f"begins at seq {scan.first_seq}, which {before.path.name} already holds")
            elif before.fault is not None:
                continue  # what it lacks is behind its own fault
            elif scan.first_seq != before.last_seq + 1 or scan.first_prev != before.last_hash:
                if scan.first_seq <= before.last_seq + 1 or not self._is_excused(stream, scan):
                    scan.blame(1, f"does not continue {before.path.name}, which ends with seq {before.last_seq}")
            elif scan.first_ts < before.last_ts:
                scan.blame(1, f"its first ts is before the last one of {before.path.name}")

    def _is_excused(self, stream: str, scan: FileScan) -> bool:
        """Whether the files before this one are known to be gone: by retention, or by a checkpoint that was given."""
        for gone in self._removed.get(stream, ()):
            if gone.last_seq == scan.first_seq - 1 and gone.last_hash == scan.first_prev:
                self._remarks.append(f"{scan.path.name}: the file before seq {scan.first_seq} was removed by retention")
                return True
        for note in self._given:
            if (note.stream, note.first_seq) == (stream, scan.first_seq) and self._holds(note, scan):
                self._remarks.append(f"{scan.path.name}: begins at seq {scan.first_seq}, covered by a given checkpoint")
                return True
        return False

    def _holds(self, note: notes.Note, scan: FileScan) -> bool:
        key = self._key_of(note.stream)
        signed = key is not None and notes.signature_holds(note, key)
        return signed and 0 < note.size <= scan.records and scan.root_at(note.size) == note.root

    def _is_gone_by_retention(self, stream: str, seq: int) -> bool:
        return any(gone.first_seq <= seq <= gone.last_seq for gone in self._removed.get(stream, ()))

    def _check_references(self) -> None:
        for scan in self._scans:
            for reference in scan.references:
                who = f"{scan.path.name} line {reference.line}"
                self._check_reference(reference.stream, reference.seq, reference.hash, who)

    def _check_reference(self, stream: str, seq: int, digest: str, who: str) -> None:
        files = self._streams.get(stream, [])
        holder = next((scan for scan in files if scan.hash_at(seq) is not None), None)
        if holder is not None:
            if holder.hash_at(seq) != digest:
                line = seq - holder.first_seq + 1
                holder.blame(line, f"seq {seq} has another hash than {who} saw: the file was rewritten")
            return
        if any(scan.fault is not None for scan in files) or self._is_gone_by_retention(stream, seq):
            return
        if files and files[0].first_seq > seq:
            return  # its beginning is missing, which the chain check has judged
        what = f"seq {seq}, which {who} saw, is missing"
        self._lack(stream, files, what)

    def _lack(self, stream: str, files: list[FileScan], what: str) -> None:
        if files:
            files[-1].blame(files[-1].records + 1, f"the stream ends with seq {files[-1].last_seq}; {what}")
        elif all(report.stream != stream for report in self._missing):
            fault = f"the stream `{stream}` is not whole: {what}"
            self._missing.append(FileReport(name=f"{stream}.*.jsonl", records=0, ok=False, fault=fault, stream=stream))

    def _check_local_notes(self) -> None:
        for name, note in self._beside.items():
            if isinstance(note, str):
                self._missing.append(FileReport(name=name, records=0, ok=False, fault=note))
            else:
                self._check_note(note, name)

    def _check_note(self, note: notes.Note, who: str) -> None:
        scan = next((s for s in self._streams.get(note.stream, ()) if s.first_seq == note.first_seq), None)
        if scan is None:
            if not self._is_gone_by_retention(note.stream, max(note.last_seq, note.first_seq)):
                what = f"the file from seq {note.first_seq}, of which {who} covers {note.size} records, is missing"
                self._lack(note.stream, [], what)
            return
        key = self._key_of(note.stream)
        if key is not None and not notes.signature_holds(note, key):
            scan.blame(None, f"{who} is not signed with the key of this log")
        elif scan.fault is not None:
            return
        elif note.size > scan.records:
            scan.blame(
                scan.records + 1, f"holds {scan.records} records, and {who} covers {note.size}: it was truncated"
            )
        elif scan.root_at(note.size) != note.root:
            scan.blame(None, f"its first {note.size} records are not those that {who} covers: it was rewritten")


def _report(scan: FileScan) -> FileReport:
    known = scan.records > 0
    return FileReport(
        name=scan.path.name,
        records=scan.records,
        ok=scan.fault is None,
        fault=None if scan.fault is None else (f"line {scan.fault_line}: " if scan.fault_line else "") + scan.fault,
        line=scan.fault_line,
        torn_bytes=scan.torn_bytes,
        stream=scan.stream,
        first_seq=scan.first_seq if known else None,
        last_seq=scan.last_seq if known else None,
        last_hash=scan.last_hash if known else None,
        checkpoints=len(scan.checkpoints),
    )
