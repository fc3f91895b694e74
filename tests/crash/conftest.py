"""One lane for all tests of the matrix, in a process that has everything imported."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))

from crash.matrix import Lane
from crash.recording import TOLD, Recording
from crash.scenarios import BY_NAME


@pytest.fixture(scope="session")
def lane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lane]:
    """A folder and a Redis of its own; its server is killed by nobody, so its own fsync is left out."""
    lane = Lane(tmp_path_factory.mktemp("crash"))
    lane.client.config_set("appendfsync", "no")
    yield lane
    lane.close()


@pytest.fixture(scope="session")
def recorded(lane: Lane) -> dict[str, Recording]:
    """Recordings by scenario, the checker content with each."""
    found = {}
    for name in TOLD:
        verdict = lane.record(BY_NAME[name])
        assert verdict.faults == []
        found[name] = Recording(verdict.passed, lane.history())
    return found
