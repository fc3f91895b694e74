"""A handful of the matrix's cases, and the matrix itself: `make crash` runs all of them."""

import os
import signal
from collections import Counter
from pathlib import Path

import pytest
from crash.matrix import LOST, TORN, Case, Lane, Passed, choose
from crash.points import Point, Points
from crash.recording import Recording

KILLED = 5


def passed(*points: tuple[str, int]) -> list[Passed]:
    """A recording of one scenario: places in order, each with the number of its world."""
    seen: Counter[str] = Counter()
    found = []
    for place, state in points:
        seen[place] += 1
        found.append(Passed("s", Point(place, seen[place]), state))
    return found


def test_one_is_killed_in_each_world_and_at_each_place() -> None:
    """Of neighbours between which nothing was written one is enough, but every place has its turn; losses always."""
    recording = passed(("a", 0), ("b", 0), ("a", 1), ("unsynced:x", 1), ("torn:x", 1), ("a", 2), ("unsynced:x", 2),
                       ("torn:x", 2), ("c", 2))  # fmt: skip
    cases = [str(case.point) for case in choose(recording)]
    assert cases == ["a#1", "b#1", "a#2", "unsynced:x#1", "torn:x#1", "unsynced:x#2", "c#1"]
    assert len(choose(recording, every=True)) == len(recording)


@pytest.mark.parametrize("at_once", [0, os.O_DSYNC])
def test_what_no_fsync_made_durable_is_taken_away(tmp_path: Path, at_once: int) -> None:
    """A process dies at a fsync, or a write that is one, as a machine does that loses power: its unsynced bytes go with it."""
    left = {}
    for place in ("unsynced:fsync .jsonl in opening", "torn:fsync .jsonl in opening", "after:fsync .jsonl in opening"):
        file = tmp_path / f"{place[:4]}.jsonl"
        pid = os.fork()
        if pid == 0:
            Points(at=Point(place, 2)).watch_syncs()
            handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND | at_once)
            for _ in range(3):
                os.write(handle, b"0123456789")
                if not at_once:
                    os.fdatasync(handle)
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
        left[place[:4]] = file.stat().st_size
    assert left == {"unsy": 10, "torn": 15, "afte": 20}


@pytest.fixture(scope="module")
def recording(recorded: dict[str, Recording]) -> list[Passed]:
    """An approved effect, recorded."""
    return recorded["approved"].passed


def test_a_recording_passes_through_everything(recording: list[Passed]) -> None:
    """Scripts, effects, fsyncs, books and the walk itself: each has its places, before and after."""
    places = {one.point.place for one in recording}
    for part in ("admit", "acquire", "commit", "ledger.reserve", "approvals.request", "approvals.grant"):
        assert {f"before:{part}", f"after:{part}"} <= places
    for part in ("mlflow.create_run", "mlflow.create_model_version", "mlflow.set_registered_model_alias"):
        assert {f"before:{part}", f"after:{part}"} <= places
    assert {"stepped:executing", "committed:verifying", "action moved"} <= places
    for kind in ("before:audit.append intent", "after:audit.append result"):
        assert kind in places
    assert {place.partition(":")[0] for place in places if "in audit.append intent" in place} == {
        "unsynced",
        "torn",
        "after",
    }


@pytest.mark.parametrize("share", [(number + 0.5) / KILLED for number in range(KILLED)])
def test_killed_and_taken_over(lane: Lane, recording: list[Passed], share: float) -> None:
    """A real process is killed there, another one finishes, and every invariant holds."""
    cases = choose(recording)
    verdict = lane.kill(cases[int(share * len(cases))])
    assert verdict.faults == []


@pytest.mark.parametrize(
    "loss", [f"{LOST}fsync .jsonl in audit.append intent", f"{TORN}fsync .jsonl in audit.append result"]
)
def test_power_is_lost_at_a_record(lane: Lane, loss: str) -> None:
    """The intent, or the result, never reached the disk: the effect happened once, and is told of once."""
    verdict = lane.kill(Case("approved", Point(loss, 1)))
    assert verdict.faults == []


def test_a_point_that_is_not_reached_is_a_failure(lane: Lane) -> None:
    """A case that killed nobody has proved nothing."""
    verdict = lane.kill(Case("monitored", Point("before:nothing", 1)))
    assert "was not reached" in verdict.faults[0]
