"""A second verifier, written from docs/audit.md alone, agrees with the first on a good log and on every mutation tried.

Nothing here but the comparison at the end imports `driftwarden.audit`.
"""

import base64
import hashlib
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import rfc8785
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

ZEROS = "0" * 64
TYPES = {
    *("open", "event", "finding", "plan", "rehearsal", "decision", "approval", "intent", "result", "verification"),
    *("settlement", "policy_change", "mode_change", "dead_letter", "checkpoint", "erasure", "close"),
}
KEYS = {"@hash", "actor", "body", "causation", "correlation_id", "incident", "prev", "seq", "stream", "ts", "type", "v"}


class Wrong(Exception):
    """A fault."""


def need(condition: object, what: str) -> None:
    if not condition:
        raise Wrong(what)


def is_hex(value: object, digits: int) -> bool:
    return isinstance(value, str) and re.fullmatch(f"[0-9a-f]{{{digits}}}", value) is not None


def is_name(value: object) -> bool:
    return isinstance(value, str) and re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}", value) is not None


def is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def refuse_number(text: str) -> Any:
    raise Wrong(f"number {text}")


def ascii_keys(value: Any) -> bool:
    if isinstance(value, dict):
        return all(key.isascii() and ascii_keys(item) for key, item in value.items())
    return all(map(ascii_keys, value)) if isinstance(value, list) else True


def parse(line: bytes) -> dict[str, Any]:
    """§1 and §2."""
    need(len(line) <= 16_777_216, "too long")
    try:
        record = json.loads(line.decode("utf-8"), parse_float=refuse_number, parse_constant=refuse_number)
        need(rfc8785.dumps(record) == line, "not canonical")
    except (ValueError, RecursionError) as error:
        raise Wrong("not canonical JSON") from error
    need(ascii_keys(record), "a key that is not ASCII")
    need(isinstance(record, dict) and set(record) == KEYS, "keys")
    rest = {key: value for key, value in record.items() if key != "@hash"}
    need(hashlib.sha256(rfc8785.dumps(rest)).hexdigest() == record["@hash"], "hash")
    actor = record["actor"]
    need(isinstance(actor, dict) and set(actor) == {"id", "kind"} and isinstance(actor["id"], str), "actor")
    need(actor["kind"] in ("service", "agent", "human", "timer"), "actor kind")
    need(isinstance(record["body"], dict), "body")
    need(record["causation"] is None or is_hex(record["causation"], 64), "causation")
    need(record["correlation_id"] is None or is_hex(record["correlation_id"], 32), "correlation_id")
    need(record["incident"] is None or isinstance(record["incident"], str), "incident")
    need(is_hex(record["prev"], 64), "prev")
    need(is_count(record["seq"]), "seq")
    need((record["seq"] == 0) == (record["prev"] == ZEROS), "zeros")
    need(is_name(record["stream"]), "stream")
    need(
        isinstance(record["ts"], str) and re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", record["ts"], re.A),
        "ts",
    )
    try:
        datetime.strptime(record["ts"] + "+0000", "%Y-%m-%dT%H:%M:%S.%fZ%z")
    except ValueError as error:
        raise Wrong("ts") from error
    need(record["type"] in TYPES, "type")
    need(record["v"] == 1 and isinstance(record["v"], int) and not isinstance(record["v"], bool), "v")
    return record


def merkle(entries: list[bytes]) -> bytes:
    """RFC 6962 §2.1, by its recursive definition."""
    if not entries:
        return hashlib.sha256(b"").digest()
    if len(entries) == 1:
        return hashlib.sha256(b"\x00" + entries[0]).digest()
    split = 1
    while split * 2 < len(entries):
        split *= 2
    return hashlib.sha256(b"\x01" + merkle(entries[:split]) + merkle(entries[split:])).digest()


def strict_base64(text: str) -> bytes:
    try:
        raw = base64.b64decode(text, validate=True)
    except ValueError as error:
        raise Wrong("base64") from error
    need(base64.b64encode(raw).decode() == text, "base64")
    return raw


@dataclass
class Note:
    text: str
    stream: str
    first: int
    size: int
    root: bytes
    signature: bytes

    def signed_by(self, key: bytes) -> bool:
        expected = hashlib.sha256(b"driftwarden-audit\n\x01" + key).digest()[:4]
        try:
            Ed25519PublicKey.from_public_bytes(key).verify(self.signature[4:], self.text.encode())
        except InvalidSignature:
            return False
        return self.signature[:4] == expected


def parse_note(signed: object) -> Note:
    """§5."""
    need(isinstance(signed, str), "note")
    lines = str(signed).split("\n")
    need(len(lines) >= 6 and lines[3] == "" and lines[-1] == "", "lines of the note")
    origin = re.fullmatch(r"driftwarden-audit/([A-Za-z0-9][A-Za-z0-9._-]{0,127})/(0|[1-9][0-9]*)", lines[0])
    need(origin and re.fullmatch(r"0|[1-9][0-9]*", lines[1]), "origin and size")
    assert origin is not None
    root = strict_base64(lines[2])
    need(len(root) == 32, "root")
    for line in lines[4:-1]:
        mine = re.fullmatch(r"— driftwarden-audit (\S+)", line)
        if mine and len(raw := strict_base64(mine.group(1))) == 68:
            return Note("\n".join(lines[:3]) + "\n", origin.group(1), int(origin.group(2)), int(lines[1]), root, raw)
    raise Wrong("no signature")


def parse_key(text: object) -> bytes:
    need(isinstance(text, str), "key")
    parts = str(text).split("+", 2)
    need(len(parts) == 3 and parts[0] == "driftwarden-audit", "key")
    raw = strict_base64(parts[2])
    need(len(raw) == 33 and raw[0] == 1, "key")
    need(parts[1] == hashlib.sha256(b"driftwarden-audit\n" + raw).hexdigest()[:8], "key id")
    return raw[1:]


@dataclass
class File:
    name: str
    lines: list[bytes] = field(default_factory=list)
    records: list[dict[str, Any]] = field(default_factory=list)
    wrong: str | None = None
    key: bytes | None = None
    notes: list[tuple[int, Note]] = field(default_factory=list)
    removals: list[tuple[int, dict[str, Any]]] = field(default_factory=list)
    heads: list[tuple[str, dict[str, Any]]] = field(default_factory=list)

    @property
    def first(self) -> int:
        return int(self.records[0]["seq"])

    @property
    def last(self) -> int:
        return int(self.records[-1]["seq"])

    def at(self, seq: int) -> str | None:
        return next((record["@hash"] for record in self.records if record["seq"] == seq), None)

    def fault(self, what: str) -> None:
        self.wrong = self.wrong or what


def read_file(path: Path) -> File:
    """§1 to §5 for one file: stops at its first fault."""
    file = File(path.name)
    *lines, _torn = path.read_bytes().split(b"\n")
    try:
        for line in lines:
            record = parse(line)
            if file.records:
                before = file.records[-1]
                need(record["stream"] == before["stream"], "stream")
                need(record["seq"] == before["seq"] + 1 and record["prev"] == before["@hash"], "chain")
                need(record["ts"] >= before["ts"], "time")
            read_body(file, record)
            file.lines.append(line)
            file.records.append(record)
    except Wrong as wrong:
        file.fault(str(wrong))
    return file


def read_body(file: File, record: dict[str, Any]) -> None:
    body, number = record["body"], len(file.records) + 1
    if record["type"] == "open":
        streams = body.get("streams", {})
        need(isinstance(streams, dict), "streams")
        for stream, head in streams.items():
            need(isinstance(head, dict) and is_count(head.get("seq")) and is_hex(head.get("hash"), 64), "head")
            file.heads.append((stream, head))
        if "key" in body:
            key = parse_key(body["key"])
            need(file.key in (None, key), "two keys")
            file.key = key
    elif record["type"] == "checkpoint":
        note = parse_note(body.get("note"))
        first = file.records[0]["seq"] if file.records else record["seq"]
        need((note.stream, note.first) == (record["stream"], first), "origin")
        need(note.size == len(file.records) and note.root == merkle(file.lines), "root")
        need(file.key is None or note.signed_by(file.key), "signature")
        file.notes.append((number, note))
    elif record["type"] == "erasure":
        for item in body.get("files", []):
            need(isinstance(item, dict) and is_hex(item.get("last_hash"), 64), "removal")
            file.removals.append((number, item))


def judge(folder: Path) -> dict[str, tuple[bool, int]]:
    """The whole log: every file with its verdict and count, and what is missing under the key `missing`."""
    files = [read_file(path) for path in sorted(folder.glob("*.jsonl"))]
    missing: list[str] = []
    streams: dict[str, list[File]] = {}
    for file in files:
        if file.records:
            streams.setdefault(file.records[0]["stream"], []).append(file)
    keys = {file.key for file in files if file.key}
    gone = [
        item
        for file in files
        for number, item in file.removals
        if len(keys) == 1 and any(number < line and note.signed_by(min(keys)) for line, note in file.notes)
    ]
    for members in streams.values():
        judge_stream(members, gone)
    for file in files:
        for stream, head in file.heads:
            judge_head(streams.get(stream, []), stream, head, gone, missing)
    for path in sorted((folder / "checkpoints").glob("*.note")):
        try:
            judge_note(parse_note(path.read_bytes().decode("utf-8")), streams, gone, missing)
        except (Wrong, UnicodeDecodeError):
            missing.append(path.name)
    verdicts = {file.name: (file.wrong is None, len(file.records)) for file in files}
    return {**verdicts, "missing": (not missing, len(missing) and 1)}


def judge_stream(members: list[File], gone: list[dict[str, Any]]) -> None:
    """§3 and §6."""
    members.sort(key=lambda file: file.first)
    for index, file in enumerate(members):
        start = file.records[0]
        removed = any(g["last_seq"] == file.first - 1 and g["last_hash"] == start["prev"] for g in gone)
        before = members[index - 1] if index else None
        if before is None:
            if file.first > 0 and not removed:
                file.fault("its predecessor is missing")
        elif file.first <= before.last:
            file.fault("seq twice")
        elif before.wrong is None:
            end = before.records[-1]
            if (start["seq"], start["prev"]) != (end["seq"] + 1, end["@hash"]):
                if not removed:
                    file.fault("gap")
            elif start["ts"] < end["ts"]:
                file.fault("time")


def judge_head(members: list[File], stream: str, head: dict[str, Any], gone: list[Any], missing: list[str]) -> None:
    """§4: what an open record saw must be there."""
    for file in members:
        if (held := file.at(head["seq"])) is not None:
            if held != head["hash"]:
                file.fault("another hash than an open record saw")
            return
    removed = any(g["stream"] == stream and g["first_seq"] <= head["seq"] <= g["last_seq"] for g in gone)
    if removed or any(file.wrong for file in members) or (members and members[0].first > head["seq"]):
        return
    if members:
        members[-1].fault("ends before what an open record saw")
    else:
        missing.append(stream)


def judge_note(note: Note, streams: dict[str, list[File]], gone: list[dict[str, Any]], missing: list[str]) -> None:
    """§5: the folder's own notes."""
    file = next((f for f in streams.get(note.stream, []) if f.first == note.first), None)
    if file is None:
        if not any(g["stream"] == note.stream and g["first_seq"] == note.first for g in gone):
            missing.append(note.stream)
        return
    key = next((f.key for f in streams[note.stream] if f.key), None)
    if key is not None and not note.signed_by(key):
        file.fault("a note with another signature")
    elif file.wrong is None and (note.size > len(file.records) or merkle(file.lines[: note.size]) != note.root):
        file.fault("a note covers other records")


# The comparison.


def first_verifier(folder: Path) -> dict[str, tuple[bool, int]]:
    from driftwarden.audit import verify

    report = verify(folder)
    verdicts = {
        f.name: (f.ok, f.records) for f in report.files if (folder / f.name).suffix == ".jsonl" and "*" not in f.name
    }
    absent = any("*" in f.name or f.name.endswith(".note") for f in report.files)
    assert (report.ok == all(ok for ok, _ in verdicts.values()) and not absent) or not report.ok
    return {**verdicts, "missing": (not absent, int(absent))}


def agree(folder: Path, what: object) -> bool:
    """Hold both verifiers against each other; returns whether the log is whole."""
    mine, theirs = judge(folder), first_verifier(folder)
    assert mine == theirs, what
    return all(ok for ok, _ in mine.values())


def files_of(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.jsonl"))


def reseal(records: list[dict[str, Any]]) -> bytes:
    """Lines with their hashes and chain made again, as someone with the disk and no key could."""
    lines, prev = [], records[0]["prev"]
    for record in records:
        rest = {key: value for key, value in record.items() if key != "@hash"} | {"prev": prev}
        text = json.dumps(rest, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        prev = hashlib.sha256(text.encode()).hexdigest()
        lines.append(f'{{"@hash":"{prev}",{text[1:]}\n')
    return "".join(lines).encode()


def test_both_agree_that_the_log_is_whole(log: Path) -> None:
    """Given an untouched log, both verifiers say that it is whole."""
    assert agree(log, "pristine")
    assert len(files_of(log)) >= 4


def test_every_byte_flipped_is_found_by_both(tiny: Path) -> None:
    """Given any byte of a file changed, both find it; only a lost last newline may pass, as a torn tail."""
    (path,) = files_of(tiny)
    data = path.read_bytes()
    for index in range(len(data)):
        for wrong in {data[index] ^ (1 << index % 8), 0x0A if index % 3 else 0x22} - {data[index]}:
            path.write_bytes(data[:index] + bytes([wrong]) + data[index + 1 :])
            whole = agree(tiny, (index, wrong))
            assert not whole or index == len(data) - 1, (index, wrong)


def test_every_cut_is_judged_alike(tiny: Path) -> None:
    """Given a file cut anywhere that no note covers, both count the same whole records and find a torn tail, no fault."""
    (path,) = files_of(tiny)
    data = path.read_bytes()
    for note in (tiny / "checkpoints").glob("*"):
        note.unlink()
    for cut in range(len(data) + 1):
        path.write_bytes(data[:cut])
        assert agree(tiny, cut), cut


def _line_mutations(lines: list[bytes]) -> Iterator[tuple[str, list[bytes]]]:
    for index in range(len(lines)):
        yield f"removed {index}", lines[:index] + lines[index + 1 :]
        yield f"repeated {index}", [*lines[: index + 1], *lines[index:]]
        yield f"emptied {index}", [*lines[:index], b"\n", *lines[index + 1 :]]
        if index:
            yield f"swapped {index}", [*lines[: index - 1], lines[index], lines[index - 1], *lines[index + 1 :]]


def test_every_record_removed_swapped_or_repeated_is_found_by_both(log: Path) -> None:
    """Given whole lines moved about in any file, both find it, the end of the last file excepted where nothing saw it."""
    for path in files_of(log):
        lines = path.read_bytes().splitlines(keepends=True)
        for what, mutated in _line_mutations(lines):
            path.write_bytes(b"".join(mutated))
            whole = agree(log, (path.name, what))
            cut_end = what == f"removed {len(lines) - 1}"
            assert not whole or cut_end, (path.name, what)
        path.write_bytes(b"".join(lines))


def test_files_removed_joined_exchanged_and_copied_are_judged_alike(log: Path) -> None:
    """Given files moved about as wholes, both agree; a new name alone is no fault."""
    paths = files_of(log)
    held = {path: path.read_bytes() for path in paths}

    def restore() -> None:
        for path in files_of(log):
            path.unlink()
        for path, data in held.items():
            path.write_bytes(data)

    for path in paths:
        path.unlink()
        assert not agree(log, ("removed", path.name))
        restore()
        (log / "copy.jsonl").write_bytes(held[path])
        assert not agree(log, ("copied", path.name))
        restore()
        for other in paths:
            if other != path:
                path.write_bytes(held[path] + held[other])
                assert not agree(log, ("joined", path.name, other.name))
                half = held[other].splitlines(keepends=True)[1:]
                path.write_bytes(held[path].splitlines(keepends=True)[0] + b"".join(half))
                assert not agree(log, ("tail exchanged", path.name, other.name))
                restore()
    paths[0].write_bytes(held[paths[1]])
    paths[1].write_bytes(held[paths[0]])
    assert agree(log, "names exchanged")


def _set(**changes: Any) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda record: {**record, **changes}


FORGERIES: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "float": _set(body={"x": 0.5}),
    "whole float": _set(body={"x": 1.0}),
    "NaN": _set(body={"x": float("nan")}),
    "large integer": _set(body={"x": 2**53}),
    "largest integer": _set(body={"x": 2**53 - 1}),
    "huge integer": _set(body={"x": 10**40}),
    "key not ASCII": _set(body={"é": 1}),
    "text not ASCII": _set(body={"e": "é\u2028\x7f\x01"}),
    "extra key": _set(more=1),
    "actor kind": _set(actor={"id": "x", "kind": "robot"}),
    "actor key": _set(actor={"id": "x", "kind": "human", "name": "x"}),
    "body list": _set(body=[]),
    "causation": _set(causation="x"),
    "correlation": _set(correlation_id="A" * 32),
    "incident": _set(incident=7),
    "type": _set(type="note"),
    "version": _set(v=2),
    "version true": _set(v=True),
    "ts form": _set(ts="2026-11-20T09:00:00Z"),
    "ts that does not exist": _set(ts="2026-13-41T09:00:00.000000Z"),
    "ts before": _set(ts="2025-11-20T09:00:00.000000Z"),
    "stream": _set(stream="other"),
    "seq true": _set(seq=True),
    "seq far": _set(seq=9),
    "close in the middle": _set(type="close"),
    "open malformed": _set(type="open", body={"streams": {"x": {"seq": "0", "hash": "0" * 64}}}),
    "open sees more": _set(type="open", body={"streams": {"ghost": {"seq": 0, "hash": "a" * 64}}}),
    "checkpoint empty": _set(type="checkpoint", body={}),
    "other text": _set(body={"halted": False}),
}


@pytest.mark.parametrize("name", FORGERIES)
def test_forged_records_with_their_hashes_made_again_are_judged_alike(log: Path, name: str) -> None:
    """Given a record rewritten and everything after it hashed anew, both verifiers say the same."""
    path = next(p for p in files_of(log) if p.name.startswith("cli-"))
    records = [json.loads(line) for line in path.read_bytes().splitlines()]
    path.write_bytes(reseal([records[0], FORGERIES[name](records[1])]))
    for note in (log / "checkpoints").glob("cli-*"):
        note.unlink()
    whole = agree(log, name)
    assert whole == (name in {"largest integer", "text not ASCII", "close in the middle", "other text"})


def test_a_rewritten_stream_is_found_by_the_note_beside_it(log: Path) -> None:
    """Given a stream rewritten with all its hashes, its note shows it, and without the note the signature inside does."""
    path = next(p for p in files_of(log) if p.name.startswith("cli-"))
    records = [json.loads(line) for line in path.read_bytes().splitlines()]
    records[1]["body"] = {"halted": False, "reason": "drill"}
    path.write_bytes(reseal(records))
    assert not agree(log, "rewritten")
    for note in (log / "checkpoints").glob("cli-*"):
        note.unlink()
    assert not agree(log, "rewritten, no note beside")


def test_every_byte_of_a_note_flipped_is_judged_alike(log: Path) -> None:
    """Given any byte of a note beside the log changed, both find it."""
    path = min((log / "checkpoints").glob("*.note"))
    data = path.read_bytes()
    for index in range(len(data)):
        path.write_bytes(data[:index] + bytes([data[index] ^ 1]) + data[index + 1 :])
        assert not agree(log, index)
