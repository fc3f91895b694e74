"""The log as the floor reads it: what is gone is passed over, what cannot be read stops the work."""

from pathlib import Path

import pytest

from driftwarden.errors import LogUnwritable
from driftwarden.service.workflow.floor import LogTail

LINE = b'{"body":{"verdict":"stop"},"incident":"inc-1","seq":0,"ts":"2026-11-20T09:00:00.000000Z","type":"intent"}\n'


def test_new_records_come_once_and_a_torn_one_waits(tmp_path: Path) -> None:
    """Given a record that is being written, it is heard when its line is whole."""
    file, tail = tmp_path / "a.jsonl", LogTail(tmp_path)
    file.write_bytes(LINE + LINE[:20])
    assert [one["incident"] for one in tail()] == ["inc-1"]
    assert tail() == []
    file.write_bytes(LINE + LINE)
    assert len(tail()) == 1


def test_a_file_that_retention_took_is_passed_over(tmp_path: Path) -> None:
    """Its name is still listed, and it is gone."""
    (tmp_path / "gone.jsonl").symlink_to(tmp_path / "nothing")
    (tmp_path / "here.jsonl").write_bytes(LINE)
    assert len(LogTail(tmp_path)()) == 1


def test_a_file_that_cannot_be_read_is_never_passed_over(tmp_path: Path) -> None:
    """What it would add to the counters is unknown, and unknown does not act."""
    (tmp_path / "here.jsonl").write_bytes(LINE)
    (tmp_path / "loop.jsonl").symlink_to(tmp_path / "loop.jsonl")
    with pytest.raises(LogUnwritable, match=r"loop\.jsonl cannot be read"):
        LogTail(tmp_path)()


def test_what_other_files_said_is_not_lost_with_the_one_that_cannot_be_read(tmp_path: Path) -> None:
    """Whoever looks again, when it is mended, hears all of it."""
    tail, broken = LogTail(tmp_path), tmp_path / "loop.jsonl"
    (tmp_path / "here.jsonl").write_bytes(LINE)
    broken.symlink_to(broken)
    for _ in range(2):
        with pytest.raises(LogUnwritable):
            tail()
    broken.unlink()
    broken.write_bytes(LINE.replace(b"inc-1", b"inc-2"))
    assert [one["incident"] for one in tail()] == ["inc-1", "inc-2"]
    assert tail() == []
