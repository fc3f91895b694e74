"""Verification of what is missing: notes kept elsewhere, pinned keys, removed files."""

import json
import shutil
from datetime import timedelta
from pathlib import Path

import pytest

from driftwarden.audit import AuditWriter, Limits, VerifyReport, notes, verify
from driftwarden.audit.files import whole_lines
from driftwarden.audit.record import seal
from driftwarden.audit.scan import FileScan, Scanner
from driftwarden.clock import SystemClock
from driftwarden.contracts.ports import Actor
from driftwarden.errors import BadInput
from driftwarden.keyfile import create_once


def _faults(report: VerifyReport) -> str:
    return "; ".join(f"{file.name}: {file.fault}" for file in report.files if not file.ok)


def _serve_files(log: Path) -> list[Path]:
    return sorted(log.glob("serve-*"))


def test_a_fault_names_file_line_and_what(log: Path) -> None:
    """Given one letter changed in the second record, the report says which file, which line and what."""
    path = _serve_files(log)[0]
    data = path.read_bytes().replace(b'"score":"0"', b'"score":"1"')
    path.write_bytes(data)
    report = verify(log)
    (wrong,) = [file for file in report.files if not file.ok and file.line == 2]
    assert (wrong.name, wrong.records) == (path.name, 1)
    assert wrong.fault == "line 2: the hash does not match the record"


def test_a_file_that_is_gone_is_missed_by_those_who_saw_it(log: Path, tmp_path: Path) -> None:
    """Given a stream that is gone as a whole with its notes, the `open` record of another stream that saw it shows it."""
    for path in [*_serve_files(log), *(log / "checkpoints").glob("serve-*")]:
        path.unlink()
    report = verify(log)
    assert not report.ok
    assert "cli-" in _faults(report)


def test_a_first_file_that_is_gone_is_a_fault_unless_a_given_checkpoint_covers_it(log: Path, tmp_path: Path) -> None:
    """Given a log that begins later, only a checkpoint that was kept elsewhere over the file it begins with excuses it."""
    elsewhere = shutil.copytree(log / "checkpoints", tmp_path / "elsewhere")
    shutil.rmtree(log / "checkpoints")
    for path in log.glob("cli-*"):
        path.unlink()
    first, second = _serve_files(log)[:2]
    first.unlink()
    assert "predecessor is in no file" in _faults(verify(log))
    number = second.name.split(".")[1]
    over_it = sorted(elsewhere.glob(f"serve-*.{number}.*.note"))[-1]
    excused = verify(log, [over_it])
    assert excused.ok
    assert any("covered by a given checkpoint" in remark for remark in excused.notes)
    over_the_lost = sorted(elsewhere.glob("serve-*.000000000000.*.note"))[-1]
    assert not verify(log, [over_the_lost]).ok
    assert not verify(log, [elsewhere]).ok, "a note over the file that is gone says that it is gone"


def test_a_log_cut_at_a_whole_record_is_found_by_a_note_kept_elsewhere(log: Path, tmp_path: Path) -> None:
    """Given whole records cut off and the notes beside the log removed, only a note kept elsewhere shows it."""
    elsewhere = shutil.copytree(log / "checkpoints", tmp_path / "elsewhere")
    shutil.rmtree(log / "checkpoints")
    path = _serve_files(log)[-1]
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:1]))
    for other in log.glob("cli-*"):
        other.unlink()
    for note in elsewhere.glob("cli-*"):
        note.unlink()
    assert verify(log).ok
    assert "truncated" in _faults(verify(log, [elsewhere]))


def test_a_note_signed_with_another_key_is_a_fault(log: Path, tmp_path: Path) -> None:
    """Given a note over the right records with someone else's signature, verification says so."""
    path = next(log.glob("cli-*"))
    other = notes.load_or_create_key(tmp_path / "other" / "audit.key")
    stream = verify(log).files[0].stream
    (held,) = notes.read_notes(min((log / "checkpoints").glob("cli-*")))
    assert held.stream == stream
    forged = tmp_path / "forged.note"
    forged.write_text(other.sign(notes.note_text(held.stream, held.first_seq, held.size, held.root)))
    assert "not signed with the key of this log" in _faults(verify(log, [forged]))
    assert path.name in _faults(verify(log, [forged]))


def test_a_stream_made_again_with_another_key_is_found_by_the_pinned_key(
    tmp_path: Path, clock: object, actor: Actor
) -> None:
    """Given a whole log written with an attacker's key, it verifies by itself and fails under the pinned key."""
    real = notes.load_or_create_key(tmp_path / "keys" / "audit.key")
    with AuditWriter(tmp_path / "audit", stream="s", clock=clock, key_path=tmp_path / "evil.key") as writer:  # type: ignore[arg-type]
        writer.append("event", {"event": "{}"}, actor=actor)
    assert verify(tmp_path / "audit").ok
    assert "another key" in _faults(verify(tmp_path / "audit", public_key=real.public))


def test_the_fast_mode_finds_changed_bytes_and_only_strict_mode_finds_other_spelling(log: Path) -> None:
    """Given a record spelled otherwise under a hash made again, only re-encoding shows it."""
    path = next(log.glob("cli-*"))
    for note in (log / "checkpoints").glob("cli-*"):
        note.unlink()
    lines = path.read_bytes().splitlines()
    line, _ = seal(b"{" + lines[1][76:].replace(b"drill", b"dri\\u006cl"))
    path.write_bytes(lines[0] + b"\n" + line + b"\n")
    assert verify(log, strict=False).ok
    assert "not in canonical form" in _faults(verify(log))
    path.write_bytes(lines[0] + b"\n" + lines[1].replace(b"drill", b"drall") + b"\n")
    assert not verify(log, strict=False).ok


def test_a_forged_retention_record_without_a_signature_excuses_nothing(tmp_path: Path, log: Path) -> None:
    """Given a removal that no signed checkpoint covers, the missing file stays a fault."""
    first = _serve_files(log)[0]
    whole = {file.name: file for file in verify(log).files}[first.name]
    path = next(log.glob("cli-*"))
    opened = path.read_bytes().splitlines()[0]
    record = json.loads(path.read_bytes().splitlines()[1])
    item = {"name": first.name, "stream": whole.stream, "first_seq": 0}
    item |= {"last_seq": whole.last_seq, "last_hash": whole.last_hash}
    del record["@hash"]
    record |= {"type": "erasure", "body": {"files": [item], "reason": "forged"}}
    rest = json.dumps(record, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    path.write_bytes(opened + b"\n" + seal(rest.encode())[0] + b"\n")
    shutil.rmtree(log / "checkpoints")
    assert verify(log).ok
    first.unlink()
    assert "predecessor is in no file" in _faults(verify(log))


def test_what_cannot_be_read_as_a_note_is_a_wrong_request(log: Path, tmp_path: Path) -> None:
    """Given a checkpoint file that is none, the request is wrong, and it is said where."""
    wrong = tmp_path / "wrong.note"
    for content in (b"", b"hello\n", b"\xff\xfe", b"driftwarden-audit/x/0\n1\nAAAA\n\n- x y\n"):
        wrong.write_bytes(content)
        with pytest.raises(BadInput, match=r"wrong\.note"):
            verify(log, [wrong])
    with pytest.raises(BadInput, match="cannot read"):
        verify(log, [tmp_path / "absent.note"])
    with pytest.raises(BadInput, match="audit folder"):
        verify(tmp_path / "absent")


def test_empty_files_and_a_lone_torn_tail_are_whole(tmp_path: Path) -> None:
    """Given what a crash leaves before the first record was durable, there is no fault and nothing is counted."""
    (tmp_path / "a.jsonl").write_bytes(b"")
    (tmp_path / "b.jsonl").write_bytes(b'{"@hash":"0123')
    report = verify(tmp_path)
    assert report.ok
    assert [(file.records, file.torn_bytes) for file in report.files] == [(0, 0), (0, 14)]


def test_two_processes_that_start_at_once_agree_on_one_key(tmp_path: Path) -> None:
    """Given a key that appears between the look and the creation, the one that was first counts."""
    path = tmp_path / "audit.key"
    first = notes.load_or_create_key(path)
    create_once(path, "00" * 32 + "\n")
    assert notes.load_or_create_key(path).public == first.public


def test_limits_of_age_do_not_hide_a_gap(tmp_path: Path, clock: object, actor: Actor) -> None:
    """Given a middle file that is gone, the file after it is at fault."""
    limits = Limits(idle_s=None, file_age_max=timedelta(seconds=4))
    with AuditWriter(tmp_path / "audit", stream="s", clock=clock, limits=limits) as writer:  # type: ignore[arg-type]
        for _ in range(12):
            writer.append("event", {"event": "{}"}, actor=actor)
    shutil.rmtree(tmp_path / "audit" / "checkpoints")
    paths = sorted((tmp_path / "audit").glob("*.jsonl"))
    assert len(paths) > 3
    paths[1].unlink()
    report = verify(tmp_path / "audit")
    assert [file.name for file in report.files if not file.ok] == [paths[2].name]
    assert "does not continue" in _faults(report)


def test_a_log_that_is_being_written_verifies_all_the_while(
    tmp_path: Path, actor: Actor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Given writers that go on, rotate and open while the files are read one by one, no fault is seen."""
    directory, limits = tmp_path / "audit", Limits(idle_s=None, file_bytes_max=2500, checkpoint_records=3)
    writers = [AuditWriter(directory, stream=name, clock=SystemClock(), limits=limits) for name in ("a", "z")]
    read = Scanner.run

    def read_and_write(scanner: Scanner) -> FileScan:
        scan = read(scanner)
        for writer in writers:
            for _ in range(4):
                writer.append("event", {"event": "{}"}, actor=actor)
        AuditWriter(directory, stream="m", clock=SystemClock(), limits=limits).close()
        return scan

    monkeypatch.setattr(Scanner, "run", read_and_write)
    for _ in range(2):  # every file that is read begets three: two rounds are some dozens
        report = verify(directory)
        assert report.ok, _faults(report)
    for writer in writers:
        writer.close()


@pytest.mark.parametrize("ahead", [0, 1])
def test_a_line_that_is_being_written_is_never_read_by_halves(tmp_path: Path, ahead: int) -> None:
    """Given a tail that its writer finishes while the file is read, it is left out or whole."""
    path = tmp_path / "s.jsonl"
    path.write_bytes(b"a\nb")
    lines = whole_lines(path)
    read = [next(lines) for _ in range(ahead)]
    with path.open("ab") as handle:
        handle.write(b"c\nd")
    assert [*read, *lines] in ([b"a"], [b"a", b"bc"])
