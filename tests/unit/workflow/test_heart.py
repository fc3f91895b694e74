"""A worker's pacemaker: one thread that keeps one lease after another alive."""

import queue
import threading
from typing import Any

import pytest

from driftwarden.contracts.ports import Actor
from driftwarden.errors import Fenced, Retry
from driftwarden.service.workflow import heart as module
from driftwarden.service.workflow.heart import HeldLog, Pacemaker
from driftwarden.service.workflow.store import Claim

WAIT_S = 30.0  # that a test gives a thread before it calls it hanging


def a_claim(incident: str) -> Claim:
    """A claim of an incident."""
    return Claim(
        incident=incident,
        model="m",
        environment="production",
        correlation_id="ab" * 16,
        state="received",
        doc={},
        version=0,
        events=(),
        signals=(),
        crashes=0,
        fence=1,
        entry="1-1",
        why="new",
        consumer="w",
        lease_ms=1000,
        opened_at="",
        genuine=False,
    )


class Beats:
    """A store that tells of each beat, by incident and thread, and then does what it was told to."""

    def __init__(self) -> None:
        self.seen: queue.Queue[tuple[str, int]] = queue.Queue()
        self.answers: list[BaseException] = []

    def heartbeat(self, claim: Claim) -> None:
        """One beat."""
        self.seen.put((claim.incident, threading.get_ident()))
        if self.answers:
            raise self.answers.pop(0)

    def next_of(self, incident: str) -> int:
        """Wait for a beat of this incident; the thread that made it."""
        while True:
            name, thread = self.seen.get(timeout=WAIT_S)
            if name == incident:
                return thread


@pytest.fixture
def beats() -> Beats:
    """A store that counts."""
    return Beats()


def threads(name: str) -> list[threading.Thread]:
    """The threads of this name that live."""
    return [one for one in threading.enumerate() if one.name == name]


def keep(pacemaker: Pacemaker, store: Any, incident: str, interval_s: float = 0.001) -> Any:
    """A heart for an incident."""
    return pacemaker.keep(store, a_claim(incident), interval_s=interval_s)


def test_one_thread_keeps_one_claim_after_another(beats: Beats, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each beats while it is kept; short ones in between need no beat and no thread."""
    monkeypatch.setattr(module, "IDLE_S", 3600.0)
    pacemaker = Pacemaker("one thread")
    with keep(pacemaker, beats, "first"):
        first = beats.next_of("first")
    for number in range(50):
        with keep(pacemaker, beats, f"short-{number}", interval_s=60.0):
            assert len(threads("one thread")) == 1
    with keep(pacemaker, beats, "last"):
        assert beats.next_of("last") == first
    assert {name for name, _ in list(beats.seen.queue)} <= {"last"}


@pytest.mark.parametrize("error", [Retry("redis is away"), RuntimeError("a fault of our own")])
def test_a_beat_that_failed_is_followed_by_the_next(beats: Beats, error: Exception) -> None:
    """Whatever went wrong, the lease is not given up, and the thread lives."""
    beats.answers = [error]
    with keep(Pacemaker("heart"), beats, "a") as heart:
        assert beats.next_of("a") == beats.next_of("a")
        heart.require_held()


def test_a_lease_that_was_taken_over_is_told_and_beats_no_more(beats: Beats) -> None:
    """The hold is lost at the beat that says so; the next claim has a heart of its own."""
    beats.answers = [Fenced("taken over")]
    pacemaker = Pacemaker("heart")
    with keep(pacemaker, beats, "lost") as heart:
        beats.next_of("lost")
    with pytest.raises(Fenced):  # it ended after that beat had
        heart.require_held()
    with keep(pacemaker, beats, "other") as other:
        beats.next_of("other")
        other.require_held()
    assert "lost" not in {name for name, _ in list(beats.seen.queue)}


def test_a_late_step_is_told_of_before_its_claim_ends(beats: Beats) -> None:
    """The word that it is late comes once, from the pacemaker's thread, and its end waits for it."""
    told: list[int] = []
    struck = threading.Event()

    def tell() -> None:
        struck.set()
        told.append(threading.get_ident())

    with (
        keep(Pacemaker("heart"), beats, "late", interval_s=60.0) as heart,
        pytest.raises(Fenced),
        heart.within(0.001, tell),
    ):
        assert struck.wait(WAIT_S)
    assert len(told) == 1
    assert told[0] != threading.get_ident()
    assert heart.late


def test_a_thread_without_work_ends_and_another_begins(beats: Beats, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is left of a worker that has stopped."""
    monkeypatch.setattr(module, "IDLE_S", 0.001)
    pacemaker = Pacemaker("without work")
    with keep(pacemaker, beats, "a"):
        beats.next_of("a")
        (thread,) = threads("without work")
    thread.join(WAIT_S)
    assert not thread.is_alive()
    with keep(pacemaker, beats, "b"):
        beats.next_of("b")


def test_where_no_thread_can_be_started_the_next_claim_has_one(beats: Beats, monkeypatch: pytest.MonkeyPatch) -> None:
    """The system has no thread to give for a moment: that claim is not worked on, and none after it goes without a beat."""
    pacemaker, refused = Pacemaker("refused"), [RuntimeError("can't start new thread")]
    start = threading.Thread.start

    def begin(thread: threading.Thread) -> None:
        if thread.name == "refused" and refused:
            raise refused.pop()
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", begin)
    with pytest.raises(RuntimeError), keep(pacemaker, beats, "first"):
        pytest.fail("worked on without a beat")
    with keep(pacemaker, beats, "second"):
        beats.next_of("second")
    assert "first" not in {name for name, _ in list(beats.seen.queue)}


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_thread_that_died_is_followed_by_another(beats: Beats) -> None:
    """Whatever ended it in the middle of a claim, the next claim is kept."""
    beats.answers = [SystemExit()]
    pacemaker = Pacemaker("dying")
    with keep(pacemaker, beats, "first"):
        beats.next_of("first")
        for thread in threads("dying"):
            thread.join(WAIT_S)
    with keep(pacemaker, beats, "second"):
        beats.next_of("second")


@pytest.mark.parametrize("machine", [False, True])
def test_who_slept_for_longer_than_a_lease_asks_before_it_writes(
    beats: Beats, machine: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing of a process that was paused, or whose machine slept, comes into the log once another holds its incident."""
    written: list[str] = []
    audit: Any = type("Audit", (), {"append": lambda self, kind, body, **about: written.append(kind)})()
    with keep(Pacemaker("heart"), beats, "a", interval_s=60.0) as heart:
        log = HeldLog(audit, heart)
        log.append("intent", {}, actor=Actor(kind="service", id="test"))
        passed = module.passed
        if machine:
            monkeypatch.setattr(module, "passed", lambda: passed() + 180.0)
        else:
            heart.beat_at -= 180.0
        beats.answers = [Fenced("taken over")]
        with pytest.raises(Fenced):
            log.append("result", {}, actor=Actor(kind="service", id="test"))
    assert written == ["intent"]
