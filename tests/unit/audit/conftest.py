"""A clock that ticks, and a small log of two streams, one of them rotated, that every test may damage."""

import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from driftwarden.audit import AuditWriter, Limits
from driftwarden.contracts.ports import Actor

SERVICE = Actor(kind="service", id="worker-1")


class TickingClock:
    """One second later at every look."""

    def __init__(self) -> None:
        """Start at nine in the morning."""
        self.moment = datetime(2026, 11, 20, 9, 0, tzinfo=UTC)

    def now(self) -> datetime:
        """The next second."""
        self.moment += timedelta(seconds=1)
        return self.moment


@pytest.fixture
def clock() -> TickingClock:
    """A clock that ticks one second a look."""
    return TickingClock()


@pytest.fixture
def actor() -> Actor:
    """The worker that writes."""
    return SERVICE


@pytest.fixture(scope="session")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole log: stream `serve` in three files, stream `cli` that saw it, a note a checkpoint."""
    directory = tmp_path_factory.mktemp("state") / "audit"
    clock = TickingClock()
    limits = Limits(idle_s=None, file_bytes_max=1800, checkpoint_records=3, checkpoint_age=timedelta(days=9))
    with AuditWriter(directory, stream="serve", clock=clock, limits=limits) as serve:
        cause = None
        for index in range(6):
            body = {"event": f'{{"n": {index}}}', "score": 0.25 * index, "name": "Zoë"}
            cause = serve.append("event", body, actor=SERVICE, incident=f"inc-{index}", causation=cause)
        with AuditWriter(directory, stream="cli", clock=clock, limits=limits) as cli:
            cli.append("mode_change", {"halted": True, "reason": "drill"}, actor=Actor(kind="human", id="ada"))
    return directory


@pytest.fixture
def log(pristine: Path, tmp_path: Path) -> Path:
    """A copy of the pristine log, without the key beside it."""
    return Path(shutil.copytree(pristine, tmp_path / "copy" / "audit"))


@pytest.fixture
def tiny(tmp_path: Path, clock: TickingClock) -> Path:
    """A log of one file: open, one event, checkpoint, close."""
    directory = tmp_path / "tiny" / "audit"
    with AuditWriter(directory, stream="t", clock=clock, limits=Limits(idle_s=None)) as writer:
        writer.append(
            "event", {"event": "é{}", "score": 0.5}, actor=SERVICE, incident="inc-1", correlation_id="ab" * 16
        )
    return directory
