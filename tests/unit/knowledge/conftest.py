"""One knowledge base with the packaged runbooks for the tests that only read, and a fresh folder for the others."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from driftwarden.contracts.ports import PastIncident
from driftwarden.knowledge import ChromaKnowledge, MemoryRecordStore


@pytest.fixture(scope="session")
def knowledge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ChromaKnowledge]:
    """The packaged runbooks and no incidents; read-only."""
    base = ChromaKnowledge(tmp_path_factory.mktemp("knowledge"), MemoryRecordStore())
    yield base
    base.close()


@pytest.fixture
def records() -> MemoryRecordStore:
    """Records in memory."""
    return MemoryRecordStore()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where a test's own index lies."""
    return tmp_path / "index"


@pytest.fixture
def incident() -> PastIncident:
    """An incident that went well."""
    return PastIncident(
        id="inc-0001",
        correlation_id="a" * 32,
        model="factory-failure",
        root_cause="unit_change",
        columns=("temperature",),
        action="quarantine_data",
        outcome="execute",
        state="resolved",
        helped=True,
        relative_gain=0.12,
        summary="Boiler thermometer of hall seven reported Fahrenheit after a firmware update.",
        at="2026-11-20T09:00:00.000000Z",
    )
