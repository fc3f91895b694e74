"""Group commit: what many threads hand in is made durable batch by batch, each with one sync.

A thread that finds nobody writing writes its own batch and then some of those that were filled meanwhile, for to wake
another thread costs more than to write. Those who wait are woken one after another, each by the one before it: the
interpreter runs one thread at a time, and the one that writes must not queue behind all the others.

Any thread may be interrupted between any two lines (Ctrl-C in the main thread of a command), also right after it was told to
write or to wake the next. So who is to write, and who wakes whom, are hints: that one writes at a time is a lock, which an
interrupted thread lets go of, and who has waited for long looks whether anybody holds it, and else does what was left undone.

Loops within `try` or `with` are `while True` here, with their test at the top and a plain statement at the end: what interrupts
Python 3.13 where another loop jumps back to its begin passes by the `except` and the `with` around it (its exception table
leaves that jump out), and a lock would be held for ever.
"""

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

PATIENCE_S = 0.5  # after which one who waits looks whether anybody is still writing
LEAD_S = 0.005  # that one thread writes for others before it hands over, lest its own caller wait for ever


@dataclass(frozen=True)
class Rotate:
    """The lines that follow stand in a new file."""

    path: Path


@dataclass(frozen=True)
class Note:
    """A signed note to be put beside the log."""

    name: str
    text: str


Op = bytes | Rotate | Note


class Batch:
    """What one sync makes durable, or, as `failure` says, did not; `gates`: shut locks of those who wait for it."""

    __slots__ = ("done", "failure", "gates", "ops")

    def __init__(self) -> None:
        """Begin an empty batch."""
        self.ops: list[Op] = []
        self.done = False
        self.failure: str | None = None
        self.gates: list[threading.Lock] = []


class GroupCommit:
    """Batches in the order of their creation, one at a time. `write` makes one durable and says why it could not."""

    def __init__(self, write: Callable[[list[Op]], str | None], die: Callable[[BaseException], str]) -> None:
        """`die` is told of what interrupted a write and gives the reason to those who wait."""
        self._write, self._die = write, die
        self._lock = threading.Lock()
        self._leading = threading.Lock()  # held by the one that writes, taken before `_lock`
        self._batch: Batch | None = None
        self._writing = False  # somebody was told to write, and may have been interrupted before that
        self._decided: deque[threading.Lock] = deque()  # whose batch is done and who are not woken yet
        self._waking = False  # one of them is woken and has not yet woken the next

    def hand_in(self, ops: list[Op]) -> "tuple[Batch, threading.Lock | None]":
        """The batch that these are part of, and a gate to wait at; None where nobody is writing, so that who hands in must.

        Leaves `ops` empty: who is interrupted here sees by it whether they were taken.
        """
        with self._lock:
            batch = self._batch
            if batch is None:
                batch = self._batch = Batch()
            batch.ops += ops
            ops.clear()
            if not self._writing:
                self._writing = True
                return batch, None
            gate = threading.Lock()
            gate.acquire()
            batch.gates.append(gate)
            return batch, gate

    def finish(self, batch: Batch, gate: "threading.Lock | None") -> str | None:
        """Wait until the batch is done, or write it; returns why it is not durable, None where it is."""
        if gate is None or not self._is_done(batch, gate):
            self._lead(batch)
        return batch.failure

    def _is_done(self, batch: Batch, gate: threading.Lock) -> bool:
        """Wait until the batch is done, and wake the next, or until it is to be written here: False."""
        try:
            opened = gate.acquire(True, PATIENCE_S)
            while True:  # its shape: see above
                if opened:
                    break
                if batch.done or not self._leading.locked():
                    self._forget(batch, gate)  # whoever was to open it may be gone
                    break
                opened = gate.acquire(True, PATIENCE_S)
        except BaseException:
            self._leave(batch, gate)
            raise
        if batch.done:
            self._wake_next()
        return batch.done

    def _forget(self, batch: Batch, gate: threading.Lock) -> None:
        with self._lock:
            if gate in batch.gates:
                batch.gates.remove(gate)
            elif gate in self._decided:
                self._decided.remove(gate)

    def _lead(self, own: Batch) -> None:
        """Write the batch that is being filled, and those that are filled meanwhile; then hand over or stop writing."""
        with self._leading:
            if own.done:  # another has taken it for abandoned
                return
            if own is not self._batch:  # whoever took it to write it is gone, and what reached the disk is not known
                self._abandon(own, self._die(InterruptedError("the thread that wrote the log was interrupted")))
                return
            batch: Batch | None = None
            try:
                until = monotonic() + LEAD_S
                while True:  # its shape: see above
                    if batch is not None and monotonic() >= until:
                        break
                    with self._lock:
                        batch, self._batch = self._batch, None
                        if batch is None:
                            self._writing = False
                            return
                    batch.failure = self._write(batch.ops)
                    self._decide(batch)
            except BaseException as error:  # whatever interrupts a write leaves the file's end unknown
                self._abandon(batch, self._die(error))
                raise
        with self._lock:
            self._hand_over()

    def _decide(self, batch: Batch) -> None:
        with self._lock:
            batch.done = True
            self._decided += batch.gates
            batch.gates = []
            if not self._waking and self._decided:
                self._waking = True
                self._decided.popleft().release()

    def _wake_next(self) -> None:
        with self._lock:
            if self._decided:
                self._decided.popleft().release()
            else:
                self._waking = False

    def _hand_over(self) -> None:
        """Under the lock: wake one who waits for the batch that is being filled to write it, where there is one."""
        if self._batch is not None and self._batch.gates:
            self._batch.gates.pop(0).release()
        else:
            self._writing = False

    def _leave(self, batch: Batch, gate: threading.Lock) -> None:
        """Somebody was interrupted at a gate: what they were to do, if they had been woken, another does."""
        with self._lock:
            if not batch.done:
                if gate in batch.gates:
                    batch.gates.remove(gate)
                else:
                    self._hand_over()
                return
            if gate in self._decided:
                self._decided.remove(gate)
                return
        self._wake_next()

    def _abandon(self, batch: Batch | None, reason: str) -> None:
        """Nobody goes on writing: who waits, for this batch or the next, hears that it is lost."""
        with self._lock:
            lost, self._batch, self._writing = self._batch, None, False
        for one in (batch, lost):
            if one is not None:
                one.failure = reason
                self._decide(one)
