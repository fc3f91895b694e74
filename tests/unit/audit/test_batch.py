"""Group commit: those who wait are woken one by one, and whoever is interrupted while waiting leaves nobody behind."""

import itertools
import threading
from collections.abc import Callable
from typing import Any

import pytest

from driftwarden.audit.batch import LEAD_S, Batch, GroupCommit, Op

SHARE = 8  # batches that one thread writes before it hands over, by the clock of this test


class _Interrupted:
    """A gate whose waiter is interrupted, woken or not."""

    def __init__(self) -> None:
        self.released = False

    def acquire(self, *patience: object) -> None:
        raise KeyboardInterrupt

    def release(self) -> None:
        self.released = True


class _Disk:
    """Keeps what was written; `meanwhile` is called during each write."""

    def __init__(self) -> None:
        self.written: list[list[Op]] = []
        self.meanwhile: Callable[[], None] | None = None
        self.commit = GroupCommit(self.write, self.die)

    def write(self, ops: list[Op]) -> str | None:
        self.written.append(list(ops))
        if self.meanwhile is not None:
            self.meanwhile()
        return None

    def die(self, error: BaseException) -> str:
        return repr(error)

    def waits(self, op: bytes) -> tuple[Batch, Any]:
        """Hand in while somebody writes."""
        batch, gate = self.commit.hand_in([op])
        assert gate is not None
        assert gate.locked()
        return batch, gate

    def interrupts(self, batch: Batch, gate: Any, gates: Any) -> None:
        """The waiter at `gate`, which stands in `gates` or was opened, is interrupted."""
        interrupted: Any = _Interrupted()
        for index, one in enumerate(gates):
            if one is gate:
                gates[index] = interrupted
        with pytest.raises(KeyboardInterrupt):
            self.commit.finish(batch, interrupted)


def test_those_who_wait_are_woken_each_by_the_one_before() -> None:
    """Given two batches done while nobody came through, one gate is open at a time, in the order of handing in."""
    disk = _Disk()
    first, leads = disk.commit.hand_in([b"0"])
    assert leads is None
    waiting = [disk.waits(b"%d" % n) for n in (1, 2)]
    later: list[tuple[Batch, Any]] = []

    def more() -> None:
        if not later:
            later.extend(disk.waits(b"%d" % n) for n in (3, 4))

    disk.meanwhile = more
    assert disk.commit.finish(first, None) is None
    assert disk.written == [[b"0", b"1", b"2"], [b"3", b"4"]]
    everyone = waiting + later
    for index, (batch, gate) in enumerate(everyone):
        assert [one.locked() for _, one in everyone[index:]] == [False] + [True] * (len(everyone) - index - 1)
        assert disk.commit.finish(batch, gate) is None
    assert disk.commit.hand_in([b"5"])[1] is None, "nobody writes any more"


@pytest.mark.parametrize("woken", [True, False])
def test_who_is_interrupted_at_the_gate_stops_nobody(woken: bool) -> None:
    """Given one of three who wait is interrupted, woken or not, the others come through and its record is written."""
    disk = _Disk()
    first, _ = disk.commit.hand_in([b"0"])
    waiting = [disk.waits(b"%d" % n) for n in (1, 2, 3)]
    if not woken:
        disk.interrupts(*waiting[1], first.gates)
    assert disk.commit.finish(first, None) is None
    assert disk.written == [[b"0", b"1", b"2", b"3"]]
    if woken:
        disk.interrupts(*waiting[0], [])
        rest = waiting[1:]
    else:
        rest = [waiting[0], waiting[2]]
    for batch, gate in rest:
        assert not gate.locked()
        assert disk.commit.finish(batch, gate) is None


def test_who_is_interrupted_between_done_and_woken_is_passed_over() -> None:
    """Given a batch that is done and one of it who left before being woken, the one behind is woken."""
    disk = _Disk()
    first, _ = disk.commit.hand_in([b"0"])
    waiting = [disk.waits(b"%d" % n) for n in (1, 2, 3)]
    disk.commit.finish(first, None)
    disk.interrupts(*waiting[1], disk.commit._decided)
    for index in (0, 2):
        assert not waiting[index][1].locked()
        disk.commit.finish(*waiting[index])


@pytest.mark.parametrize("others", [0, 1])
def test_an_heir_that_is_interrupted_leaves_its_batch_to_another(others: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Given the one who was to go on writing is interrupted, who waits beside it writes, else who comes next."""
    ticks = itertools.count()
    monkeypatch.setattr("driftwarden.audit.batch.monotonic", lambda: next(ticks) * LEAD_S / SHARE)
    disk = _Disk()
    handed: list[tuple[Batch, Any]] = []

    def more() -> None:
        count = 1 if len(disk.written) < SHARE else 1 + others
        if len(disk.written) <= SHARE:
            handed.extend(disk.waits(b"%d" % (len(handed) + 1)) for _ in range(count))

    disk.meanwhile = more
    first, _ = disk.commit.hand_in([b"0"])
    assert disk.commit.finish(first, None) is None
    assert len(disk.written) == SHARE
    batch, heir = handed[SHARE - 1]
    assert not heir.locked()
    disk.interrupts(batch, heir, [])
    if others:
        assert not handed[-1][1].locked()
        assert disk.commit.finish(*handed[-1]) is None
    else:
        last, gate = disk.commit.hand_in([b"last"])
        assert gate is None
        assert disk.commit.finish(last, None) is None
    assert batch.done
    assert disk.written[SHARE] == [b"8", b"9" if others else b"last"]


def test_an_interrupted_write_is_told_to_all_who_wait() -> None:
    """Given the one who writes is interrupted, those of its batch and of the next hear that their records are lost."""
    disk = _Disk()
    first, _ = disk.commit.hand_in([b"0"])
    same = disk.waits(b"1")
    next_: list[tuple[Batch, Any]] = []

    def broken() -> None:
        next_.append(disk.waits(b"2"))
        raise KeyboardInterrupt

    disk.meanwhile = broken
    with pytest.raises(KeyboardInterrupt):
        disk.commit.finish(first, None)
    for batch, gate in (same, *next_):
        assert not gate.locked()
        assert disk.commit.finish(batch, gate) == "KeyboardInterrupt()"


def test_many_threads_are_each_told_once_their_record_is_written() -> None:
    """Given 16 threads of 50 records each, whoever returns finds its record written, and each is written once."""
    disk = _Disk()
    missing: list[bytes] = []

    def work(thread: int) -> None:
        for index in range(50):
            op = b"%d-%d" % (thread, index)
            disk.commit.finish(*disk.commit.hand_in([op]))
            if not any(op in ops for ops in reversed(disk.written)):
                missing.append(op)

    threads = [threading.Thread(target=work, args=(thread,)) for thread in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert missing == []
    written = [op for ops in disk.written for op in ops]
    assert len(written) == len(set(written)) == 800
