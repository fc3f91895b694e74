"""Records for other tools: CSV, Parquet, and JSON Lines, on wish with a proof that each stands in a signed checkpoint."""

import base64
import csv
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

from driftwarden.audit import notes
from driftwarden.audit.codec import encode
from driftwarden.audit.files import log_files
from driftwarden.audit.merkle import node_hash
from driftwarden.audit.reader import model_in, outcome_of
from driftwarden.audit.record import Record
from driftwarden.audit.scan import FileScan, Scanner
from driftwarden.audit.summary import summarise

COLUMNS = (
    "ts", "type", "incident", "correlation_id", "actor_kind", "actor_id", "model", "outcome", "summary",
    "stream", "seq", "hash", "prev", "causation", "body",
)  # fmt: skip


def row(record: Record) -> dict[str, Any]:
    """One flat row; `body` is its JSON."""
    document = record.to_json()
    return {
        "ts": record.ts,
        "type": record.type,
        "incident": record.incident,
        "correlation_id": record.correlation_id,
        "actor_kind": record.actor.kind,
        "actor_id": record.actor.id,
        "model": model_in(record.body),
        "outcome": outcome_of(document),
        "summary": summarise(record),
        "stream": record.stream,
        "seq": record.seq,
        "hash": record.hash,
        "prev": record.prev,
        "causation": record.causation,
        "body": json.dumps(record.body, ensure_ascii=False, sort_keys=True),
    }


def write_csv(records: Iterable[Record], out: IO[str]) -> int:
    """Rows as CSV with a header; a cell that a spreadsheet would take for a formula is quoted by an apostrophe."""
    writer = csv.DictWriter(out, COLUMNS, lineterminator="\n")
    writer.writeheader()
    count = 0
    for record in records:
        writer.writerow({key: _inert(value) for key, value in row(record).items()})
        count += 1
    return count


def _inert(value: Any) -> Any:
    return f"'{value}" if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r") else value


def write_parquet(records: Iterable[Record], path: Path) -> int:
    """Rows as one Parquet file (needs pyarrow)."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [row(record) for record in records]
    types = {"seq": pa.int64()}
    schema = pa.schema([(name, types.get(name, pa.string())) for name in COLUMNS])
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), path)
    return len(rows)


class Prover:
    """Makes inclusion proofs (RFC 6962 §2.1.1) against the last checkpoint of each file of a log."""

    def __init__(self, directory: Path) -> None:
        """Scan the log; damaged files are proved up to their first fault."""
        self._files: dict[str, list[FileScan]] = {}
        for path in log_files(directory):
            scan = Scanner(path, strict=False).run()
            if scan.stream is not None:
                self._files.setdefault(scan.stream, []).append(scan)
        self._nodes: dict[tuple[str, int, int], bytes] = {}

    def prove(self, record: Record) -> dict[str, Any] | None:
        """`{file, index, size, path, note}`, or None where no checkpoint covers the record yet."""
        for scan in self._files.get(record.stream, ()):
            index = record.seq - scan.first_seq
            if scan.hash_at(record.seq) == record.hash and scan.checkpoints:
                note = scan.checkpoints[-1][1]
                if index >= note.size:
                    return None
                path = self._path(scan, 0, note.size, index)
                shown = [base64.b64encode(sibling).decode() for sibling in path]
                text = notes.signed_text(note)
                return {"file": scan.path.name, "index": index, "size": note.size, "path": shown, "note": text}
        return None

    def _path(self, scan: FileScan, start: int, end: int, index: int) -> list[bytes]:
        if end - start == 1:
            return []
        middle = start + (1 << (end - start - 1).bit_length() - 1)
        if index < middle:
            return [*self._path(scan, start, middle, index), self._root(scan, middle, end)]
        return [*self._path(scan, middle, end, index), self._root(scan, start, middle)]

    def _root(self, scan: FileScan, start: int, end: int) -> bytes:
        if end - start == 1:
            return bytes(scan.leaves[32 * start : 32 * end])
        key = (scan.path.name, start, end)
        if key not in self._nodes:
            middle = start + (1 << (end - start - 1).bit_length() - 1)
            self._nodes[key] = node_hash(self._root(scan, start, middle), self._root(scan, middle, end))
        return self._nodes[key]


def json_lines(records: Iterable[Record], prover: Prover | None = None) -> Iterator[str]:
    """The lines of the log as they stand in it; with a prover: `{"record": ..., "proof": ...}`, canonical too."""
    for record in records:
        document = record.to_json()
        shown = document if prover is None else {"record": document, "proof": prover.prove(record)}
        yield encode(shown).decode()
