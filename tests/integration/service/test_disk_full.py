"""No room for the audit log: nothing executes that was not written down, nothing is lost, and it goes on where there is room."""

import errno
import os
from pathlib import Path
from typing import Any

import pytest
from fakes.running import PATIENCE_S, start
from fakes.workflow_world import PREFIX, World

from driftwarden.audit import AuditWriter, files, verify
from driftwarden.audit.maintain import fsck
from driftwarden.errors import LogUnwritable
from driftwarden.service.workflow.health import processes


class Disk:
    """The disk under the audit log, behind the real `os.write`: `full` after so many writes of records of a type."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.full: str | None = None
        self.code = errno.ENOSPC
        write, self.folder = os.write, folder

        def guarded(handle: int, data: Any) -> int:
            if self.full is not None and Path(f"/proc/self/fd/{handle}").readlink().is_relative_to(folder):
                begun = self.full == "everything" or f'"type":"{self.full}"'.encode() in bytes(data)
                if begun:
                    self.full = "everything"
                    raise OSError(self.code, os.strerror(self.code))
            return write(handle, data)

        monkeypatch.setattr(files.os, "write", guarded)


@pytest.fixture
def disk(world: World, monkeypatch: pytest.MonkeyPatch) -> Disk:
    """Of this world's log."""
    if not Path("/proc/self/fd").exists():
        pytest.skip("which file a handle belongs to is read from /proc")
    return Disk(world.settings.audit_dir, monkeypatch)


@pytest.mark.parametrize(
    ("at", "code"),
    [
        ("event", errno.ENOSPC),
        ("finding", errno.EDQUOT),
        ("decision", errno.EROFS),
        ("intent", errno.ENOSPC),
        ("result", errno.ENOSPC),
    ],
)
def test_a_full_disk_stops_everything_and_loses_nothing(world: World, disk: Disk, at: str, code: int) -> None:
    """Nothing executes that was not written down; the process ends and says why; with room again the next one goes on."""
    disk.full, disk.code = at, code
    process = start(world)
    world.send()
    assert process.wait(PATIENCE_S)
    assert process.stop(PATIENCE_S).threads == ()
    assert os.strerror(code) in (process.fault or "")
    assert bool(world.plant.moves) is (at == "result"), "an effect only after its intent was on the disk"
    (word,) = processes(world.client, PREFIX)
    assert not word.is_live
    assert os.strerror(code) in (word.said.ended or "")
    (record,) = world.store.list()
    assert (record.crashes, record.leased, record.ended) == (0, False, False)

    # A restart on the disk as it is changes nothing, and counts against nobody.
    for _ in range(world.settings.service.crashes_max + 1):
        with pytest.raises(LogUnwritable):
            AuditWriter(world.settings.audit_dir, stream="again", clock=world.clock)
    world.send()
    disk.full = None
    if (world.settings.audit_dir / files.UNWRITABLE_MARK).exists():
        assert fsck(world.settings.audit_dir).cleared
    world.log = AuditWriter(world.settings.audit_dir, stream="mended", clock=world.clock)
    world.parts = world._parts()
    following = start(world, name="q")
    for transition in world.store.watch("0", block_ms=500):
        if transition is not None and transition.state in {"verifying", "failed"}:
            break
    following.stop()
    assert world.incidents()[0].state == "verifying"
    assert len(world.plant.moves) == 1
    assert len(world.records("intent")) == len(world.records("result")) == 1
    assert verify(world.settings.audit_dir).ok
    assert processes(world.client, PREFIX) == (), "the old one's last words are over, and the new one has left"


def test_a_full_disk_leaves_events_in_the_intake(world: World, disk: Disk) -> None:
    """What came in while nothing could be written waits where it was put, and is taken in later."""
    disk.full = "everything"
    process = start(world)
    world.send()
    assert process.wait(PATIENCE_S)
    process.stop(PATIENCE_S)
    for _ in range(5):
        world.send(world.event("other"))
    assert world.client.xlen(f"{PREFIX}events") + sum(len(one.events) for one in world.store.list()) == 6
