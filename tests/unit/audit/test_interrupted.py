"""A thread is interrupted at every place at which it can be, one after the other: nobody else waits for ever, nobody is told wrong.

The interpreter looks for signals after calls, at the begin of functions and at jumps backwards: there, and only there, a hook
raises KeyboardInterrupt. Those who wait are run after the victim, one by one: whatever they still wait for, nobody does.
"""

import dis
import itertools
import json
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import CodeType, FrameType, FunctionType
from typing import Any

import pytest

from driftwarden.audit import batch as module
from driftwarden.audit.batch import GroupCommit, Op
from driftwarden.audit.writer import AuditWriter
from driftwarden.clock import SystemClock
from driftwarden.contracts.ports import Actor
from driftwarden.errors import LogUnwritable

ENDS_WITHIN_S = 60  # a hang, and no measurement
ME = Actor(kind="service", id="test")


def places(code: CodeType) -> set[int]:
    """Offsets of the instructions right before which the interpreter looks for signals.

    A jump backwards looks for them before it jumps or after, by the version of the interpreter: both count.
    """
    found = list(dis.get_instructions(code))
    after = {after.offset for one, after in itertools.pairwise(found) if one.opname.startswith(("CALL", "RESUME"))}
    return after | {place for one in found if "BACKWARD" in one.opname for place in (one.offset, one.argval)}


CODES = {
    one.__code__: places(one.__code__)
    for one in [*vars(GroupCommit).values(), AuditWriter._place]
    if isinstance(one, FunctionType) and one.__name__ != "__init__"
}


class Interrupt:
    """Raises KeyboardInterrupt at the `at`-th place that a call comes to; `struck`: it came to that."""

    def __init__(self, at: int) -> None:
        self._left, self.struck = at, False

    def __call__(self, call: Callable[[], Any]) -> Any:
        """Call; None where it was interrupted."""
        with watched(self._comes_to):
            try:
                return call()
            except KeyboardInterrupt:
                return None

    def _comes_to(self, code: CodeType, offset: int) -> None:
        if not self.struck and offset in CODES[code]:
            self._left -= 1
            if self._left < 0:
                self.struck = True
                raise KeyboardInterrupt


Watcher = Callable[[CodeType, int], None]
WATCHERS: list[Watcher] = []  # the last one is told

if sys.version_info >= (3, 12):
    # A trace function would not do: it is told of the instructions of a function only from its second call on.
    TOOL, EVENTS = 4, sys.monitoring.events

    @contextmanager
    def watched(watcher: Watcher) -> Iterator[None]:
        """Tell it of each instruction of CODES, right before that; what it raises is raised there."""
        WATCHERS.append(watcher)
        if len(WATCHERS) == 1:
            sys.monitoring.use_tool_id(TOOL, __name__)
            sys.monitoring.register_callback(TOOL, EVENTS.INSTRUCTION, lambda *where: WATCHERS[-1](*where))
            for code in CODES:
                sys.monitoring.set_local_events(TOOL, code, EVENTS.INSTRUCTION)
        try:
            yield
        finally:
            WATCHERS.pop()
            if not WATCHERS:
                for code in CODES:
                    sys.monitoring.set_local_events(TOOL, code, EVENTS.NO_EVENTS)
                sys.monitoring.register_callback(TOOL, EVENTS.INSTRUCTION, None)
                sys.monitoring.free_tool_id(TOOL)
else:

    def trace(frame: FrameType, event: str, arg: Any) -> Any:
        """Of the functions in CODES, each instruction."""
        del arg
        if frame.f_code not in CODES:
            return None
        frame.f_trace_lines, frame.f_trace_opcodes = False, True
        if event == "opcode":
            WATCHERS[-1](frame.f_code, frame.f_lasti)
        return trace

    @contextmanager
    def watched(watcher: Watcher) -> Iterator[None]:
        """Tell it of each instruction of CODES, right before that; what it raises is raised there."""
        before = sys.gettrace()
        WATCHERS.append(watcher)
        sys.settrace(trace)
        try:
            yield
        finally:
            sys.settrace(before)
            WATCHERS.pop()


class World:
    """A disk that keeps what was written, who hands in, and what they were told."""

    def __init__(self) -> None:
        self.written: list[Op] = []
        self.meanwhile: Callable[[], None] | None = None
        self.dead: str | None = None
        self.commit = GroupCommit(self.write, self.die)
        self.waiting: list[tuple[bytes, Any]] = []
        self._names = itertools.count()

    def write(self, ops: list[Op]) -> str | None:
        """As the writer does: once dead, nothing."""
        if self.dead is None:
            self.written += ops
            if self.meanwhile is not None:
                then, self.meanwhile = self.meanwhile, None
                then()
        return self.dead

    def die(self, error: BaseException) -> str:
        """Nothing more is written."""
        self.dead = self.dead or repr(error)
        return self.dead

    def hands_in(self) -> Any:
        """Another one hands in, and will see what came of it at the end."""
        op = b"%d" % next(self._names)
        self.waiting.append((op, self.commit.hand_in([op])))
        return self.waiting[-1][1]

    def ends(self, *, reverse: bool) -> None:
        """All of them come through, and one more; who hears that it is written finds it written."""
        self.hands_in()
        for op, place in reversed(self.waiting) if reverse else self.waiting:
            assert self.commit.finish(*place) is not None or op in self.written
        assert len(set(self.written)) == len(self.written)


def appends(world: World) -> None:
    """One that stands alone."""
    assert world.commit.finish(*world.commit.hand_in([b"victim"])) is not None or b"victim" in world.written


def leads(world: World) -> Callable[[], None]:
    """One that writes for two others, while two more come."""

    def two() -> None:
        for _ in range(2):
            world.hands_in()

    def victim() -> None:
        place = world.commit.hand_in([b"victim"])
        two()
        world.meanwhile = two
        world.commit.finish(*place)

    return victim


def waits(world: World) -> Callable[[], None]:
    """One between two others, of whom the first writes."""
    first = world.commit.hand_in([b"first"])
    place: list[Any] = []

    def victim() -> None:
        place.append(world.commit.hand_in([b"victim"]))
        world.hands_in()
        with watched(lambda code, offset: None):
            assert world.commit.finish(*first) is None
        world.commit.finish(*place[0])

    return victim


def takes_over(world: World) -> Callable[[], None]:
    """One behind somebody who was told to write, and comes late or never."""
    world.hands_in()
    world.hands_in()
    return lambda: appends(world)


def inherits(world: World) -> Callable[[], None]:
    """One of the batch that is filled while another writes, and to whom that hands over."""
    first, place = world.commit.hand_in([b"first"]), list[Any]()

    def more() -> None:
        place.append(world.commit.hand_in([b"victim"]))
        world.hands_in()

    def victim() -> None:
        world.meanwhile = more
        with watched(lambda code, offset: None):
            assert world.commit.finish(*first) is None
        world.commit.finish(*place[0])

    return victim


def leaves(world: World) -> Callable[[], None]:
    """One who is interrupted at its gate, and then again."""
    world.hands_in()
    batch, gate = world.commit.hand_in([b"victim"])
    world.hands_in()

    class Gate:
        def acquire(self, *patience: object) -> None:
            raise KeyboardInterrupt

        def release(self) -> None:
            """Nobody is there any more."""

    interrupted: Any = Gate()
    batch.gates[batch.gates.index(gate)] = interrupted  # type: ignore[arg-type]

    def victim() -> None:
        world.commit.finish(batch, interrupted)

    return victim


def fails(world: World) -> Callable[[], None]:
    """One who is interrupted while it writes for another, while a third comes; and then again."""

    def interrupted() -> None:
        world.hands_in()
        raise KeyboardInterrupt

    def victim() -> None:
        place = world.commit.hand_in([b"victim"])
        world.hands_in()
        world.meanwhile = interrupted
        world.commit.finish(*place)

    return victim


def within_time(call: Callable[[], None]) -> None:
    """It ends, and raises what it raises."""
    faults: list[BaseException] = []

    def run() -> None:
        try:
            call()
        except BaseException as error:  # noqa: BLE001 - told below
            faults.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(ENDS_WITHIN_S)
    assert not thread.is_alive(), "somebody waits for ever"
    if faults:
        raise faults[0]


def interrupts() -> Iterator[Interrupt]:
    """One for each place, until there is none any more."""
    for at in itertools.count():
        one = Interrupt(at)
        yield one
        if not one.struck:
            assert at > 0
            return


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize(
    "scene", [lambda world: lambda: appends(world), leads, waits, takes_over, inherits, leaves, fails],
    ids=["alone", "leads", "waits", "takes-over", "inherits", "leaves", "fails"],
)  # fmt: skip
def test_whoever_is_interrupted_everybody_else_ends(
    scene: Callable[[World], Callable[[], None]], reverse: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their records are written, or they hear that the log is dead."""
    monkeypatch.setattr(module, "PATIENCE_S", 0.001)
    if scene is inherits:
        monkeypatch.setattr(module, "LEAD_S", 0.0)

    def play(interrupt: Interrupt) -> None:
        world = World()
        victim = scene(world)
        interrupt(victim)
        world.meanwhile = None
        world.ends(reverse=reverse)

    for interrupt in interrupts():
        within_time(partial(play, interrupt))


def test_the_chain_holds_whenever_an_append_is_interrupted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A record that has its place and is not written would break it: then nothing more is written."""
    monkeypatch.setattr(module, "PATIENCE_S", 0.001)

    def play(writer: AuditWriter, interrupt: Interrupt) -> None:
        interrupt(lambda: writer.append("event", {"n": 1}, actor=ME))
        try:
            writer.append("event", {"n": 2}, actor=ME)
        except LogUnwritable:
            assert interrupt.struck
        writer.close()

    healthy = []
    for number, interrupt in enumerate(interrupts()):
        folder = tmp_path / str(number) / "audit"
        folder.mkdir(parents=True)
        writer = AuditWriter(folder, stream="s", clock=SystemClock(), key_path=tmp_path / "audit.key")
        within_time(partial(play, writer, interrupt))
        (log,) = folder.glob("*.jsonl")
        records = [json.loads(line) for line in log.read_text().splitlines()]
        assert [one["seq"] for one in records] == list(range(len(records)))
        assert all(after["prev"] == before["@hash"] for before, after in itertools.pairwise(records))
        healthy.append(writer._dead is None)
        assert (records[-1]["type"] == "close") == healthy[-1]
    assert set(healthy) == {True, False}
