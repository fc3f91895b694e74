"""Erasure, retention, fsck: what an operator does, and the log still verifies."""

import errno
import hashlib
import hmac
import sqlite3
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from driftwarden.audit import AuditWriter, Limits, files, read_records, vault, verify
from driftwarden.audit.maintain import erase, fsck, retain
from driftwarden.contracts.ports import Actor
from driftwarden.errors import BadInput, LogUnwritable, NotFound, Refused
from driftwarden.service.cli.main import run

QUIET = Limits(idle_s=None)
ADA = Actor(kind="human", id="ada")
PATHS = ("reason", "granted.*.by")
DAY = timedelta(days=1)


def _personal(directory: Path, clock: Any, **more: Any) -> AuditWriter:
    return AuditWriter(directory, **{"stream": "serve", "clock": clock, "limits": QUIET, "personal": PATHS, **more})


def _approve(writer: AuditWriter, incident: str) -> str:
    body = {"verdict": "approved", "reason": "Grace asked me", "granted": [{"by": "grace"}, {"by": "ada"}], "seen": 0.5}
    return writer.append("approval", body, actor=ADA, incident=incident)


def test_personal_values_stand_as_commitments_that_open(tmp_path: Path, clock: Any) -> None:
    """Given personal paths, the log holds HMACs of path and value under salts that only the vault has."""
    directory = tmp_path / "audit"
    with _personal(directory, clock) as writer:
        _approve(writer, "inc-1")
    raw = b"".join(path.read_bytes() for path in directory.glob("*.jsonl"))
    assert b"grace" not in raw.lower()
    (record,) = [record for record in read_records(directory) if record.type == "approval"]
    made = record.body["granted"][1]["by"]["_c"]
    (entry,) = vault.entries(directory, made=made)
    assert entry.path == "granted.1.by"
    message = b'["granted.1.by","ada"]'
    assert hmac.new(entry.salt, message, hashlib.sha256).hexdigest() == made
    assert vault.revealed(directory, {made}) == {made: "ada"}
    assert verify(directory).ok


def test_erasure_is_recorded_forgets_the_values_and_keeps_the_log_whole(tmp_path: Path, clock: Any) -> None:
    """Given an erasure of one incident, its values are gone from the disk, another's stay, and the log verifies."""
    directory = tmp_path / "audit"
    with _personal(directory, clock) as writer:
        _approve(writer, "inc-1")
        _approve(writer, "inc-2")
        assert erase(writer, reason="request 7", actor=ADA, incident="inc-1") == 3
        with pytest.raises(NotFound, match="inc-1"):
            erase(writer, reason="again", actor=ADA, incident="inc-1")
        with pytest.raises(BadInput, match="what to erase"):
            erase(writer, reason="all", actor=ADA)
    assert vault.entries(directory, incident="inc-1") == []
    assert len(vault.entries(directory, incident="inc-2")) == 3
    (record,) = [record for record in read_records(directory) if record.type == "erasure"]
    assert len(record.body["commitments"]) == 3
    assert verify(directory).ok


def test_the_command_takes_an_unambiguous_prefix(tmp_path: Path, clock: Any) -> None:
    """As for every id; a prefix of several incidents erases nothing, and writes nothing."""
    directory = tmp_path / "audit"
    with _personal(directory, clock, key_path=tmp_path / "keys" / "audit.key") as writer:
        _approve(writer, "inc-1a")
        _approve(writer, "inc-2b")
    before = list(directory.iterdir())
    ask = ["audit", "erase", "--dir", str(directory), "--reason", "request 114", "--incident"]
    assert run([*ask, "inc-"]) == 2
    assert list(directory.iterdir()) == before
    assert run([*ask, "inc-1"]) == 0
    assert vault.entries(directory, incident="inc-1a") == []
    assert len(vault.entries(directory, incident="inc-2b")) == 3
    assert verify(directory).ok
    assert (directory / vault.VAULT_FILE).read_bytes().count(b"Grace asked me") == 1


def test_a_vault_that_cannot_be_written_stops_the_log(tmp_path: Path, clock: Any) -> None:
    """Given personal data that the vault does not take, the record is not written and nothing may execute."""
    writer = _personal(tmp_path / "audit", clock)
    with sqlite3.connect(tmp_path / "audit" / vault.VAULT_FILE) as connection:
        connection.execute("DROP TABLE entry")
        connection.execute("CREATE VIEW entry AS SELECT 1")
    with pytest.raises(LogUnwritable, match="vault"):
        _approve(writer, "inc-1")
    assert not writer.healthy


class _Days:
    at = datetime(2026, 1, 1, tzinfo=UTC)

    def now(self) -> datetime:
        self.at += timedelta(hours=8)
        return self.at


@pytest.fixture
def aged(tmp_path: Path, actor: Actor) -> tuple[Path, _Days]:
    """A closed stream and one that goes on, a file a day."""
    directory, clock = tmp_path / "audit", _Days()
    limits = Limits(idle_s=None, file_age_max=DAY, checkpoint_age=99 * DAY)
    for stream in ("first", "second"):
        with AuditWriter(directory, stream=stream, clock=clock, limits=limits) as writer:
            for _ in range(9):
                writer.append("event", {"event": "{}"}, actor=actor)
    return directory, clock


def test_retention_removes_whole_old_files_records_it_and_the_log_verifies(aged: tuple[Path, _Days]) -> None:
    """Given old files, they go from the front, twice over, and what remains is whole because the removal is signed."""
    directory, clock = aged
    for keep in (5, 3):
        before = {path.name for path in directory.glob("*.jsonl")}
        with AuditWriter(directory, stream="retain", clock=clock, limits=QUIET) as writer:
            gone = retain(writer, now=clock.now(), reason="schedule", actor=ADA, age_max=keep * DAY)
        assert gone
        assert before - {path.name for path in directory.glob("*.jsonl")} == set(gone)
        assert verify(directory).ok
        assert verify(directory, [directory / "checkpoints"]).ok
    (oldest, *_) = sorted(directory.glob("second-*"))
    oldest.unlink()
    assert not verify(directory).ok, "a file that retention did not remove is still missed"


def test_retention_by_size_keeps_the_newest(aged: tuple[Path, _Days]) -> None:
    """Given a bound of size, the oldest files go until the rest fits."""
    directory, clock = aged
    sizes = sum(path.stat().st_size for path in directory.glob("*.jsonl"))
    with AuditWriter(directory, stream="retain", clock=clock, limits=QUIET) as writer:
        gone = retain(writer, now=clock.now(), reason="space", actor=ADA, bytes_max=sizes // 2)
        assert writer.healthy
    assert gone
    assert all(name.startswith("first-") for name in gone[:1])
    assert verify(directory).ok


def test_retention_never_touches_a_file_that_is_written_or_a_log_that_is_damaged(tmp_path: Path, actor: Actor) -> None:
    """Given a writer at work, its file stays however old; given damage, nothing is removed at all."""
    directory, clock = tmp_path / "audit", _Days()
    with AuditWriter(directory, stream="live", clock=clock, limits=QUIET) as live:
        live.append("event", {"event": "{}"}, actor=actor)
        clock.at += 900 * DAY
        with AuditWriter(directory, stream="retain", clock=clock, limits=QUIET) as writer:
            assert retain(writer, now=clock.now(), reason="schedule", actor=ADA, age_max=DAY) == ()
            path = next(directory.glob("live-*"))
            path.write_bytes(path.read_bytes().replace(b'"event"', b'"evemt"'))
            with pytest.raises(Refused, match="does not verify"):
                retain(writer, now=clock.now(), reason="schedule", actor=ADA, age_max=DAY)


def test_fsck_restores_notes_and_reports_a_vault_that_was_changed(tmp_path: Path, clock: Any) -> None:
    """Given notes that are gone and a vault entry that was altered, the notes come back and the entry is named."""
    directory = tmp_path / "audit"
    with _personal(directory, clock) as writer:
        _approve(writer, "inc-1")
    (note,) = (directory / "checkpoints").iterdir()
    held = note.read_bytes()
    note.unlink()
    report = fsck(directory)
    assert report.ok
    assert report.notes_restored == (note.name,)
    assert note.read_bytes() == held
    with sqlite3.connect(directory / vault.VAULT_FILE) as connection:
        connection.execute("UPDATE entry SET value = ? WHERE path = 'granted.0.by'", (b'"mallory"',))
    report = fsck(directory)
    assert not report.ok
    assert len(report.vault_faults) == 1


def test_fsck_on_a_full_disk_says_which_is_wrong_and_leaves_nothing_behind(
    tmp_path: Path, clock: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Given a note that is gone and no room to write it, that is a line and exit code 1; with room again it comes back."""
    directory = tmp_path / "audit"
    with _personal(directory, clock) as writer:
        _approve(writer, "inc-1")
    (note,) = (directory / "checkpoints").iterdir()
    note.unlink()

    def full(*_: object, **__: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as disk:
        disk.setattr(files.os, "write", full)
        report = fsck(directory)
        assert (report.ok, report.log.ok, report.notes_restored) == (False, True, ())
        assert report.notes_fault == "no space left on device"
        assert run(["audit", "fsck", "--dir", str(directory)]) == 1
        assert "no space left on device" in capsys.readouterr().out
        # A command that has no words of its own for it says it all the same.
        disk.setattr("driftwarden.audit.maintain.fsck", full)
        assert run(["audit", "fsck", "--dir", str(directory)]) == 1
        assert capsys.readouterr().err == "driftwarden: cannot write: no space left on device\n"
    assert list((directory / "checkpoints").iterdir()) == [], "what could not be written whole is gone again"
    assert fsck(directory).notes_restored == (note.name,)


def test_fsck_leaves_the_mark_where_the_log_is_damaged(tmp_path: Path, clock: Any, actor: Actor) -> None:
    """Given a failed write and a damaged file, the mark stays and the log stays shut."""
    directory = tmp_path / "audit"
    with AuditWriter(directory, stream="s", clock=clock, limits=QUIET) as writer:
        writer.append("event", {"event": "{}"}, actor=actor)
    (directory / "unwritable").write_text("disk")
    path = next(directory.glob("*.jsonl"))
    path.write_bytes(path.read_bytes()[:-40] + b"\n")
    report = fsck(directory)
    assert (report.ok, report.cleared, report.was_unwritable) == (False, False, "disk")
    with pytest.raises(LogUnwritable):
        AuditWriter(directory, stream="s", clock=clock, limits=QUIET)
