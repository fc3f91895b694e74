"""Incidents are found as soon as they are told, and written into the index several at once."""

import errno
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from driftwarden.contracts.ports import PastIncident
from driftwarden.errors import Retry
from driftwarden.knowledge import ChromaKnowledge, MemoryRecordStore, base
from driftwarden.knowledge.index import ChromaIndex, IndexDamaged, IndexFolder
from driftwarden.knowledge.passages import Passage, incident_passage
from driftwarden.knowledge.waiting import FULL, WAITING_MAX, Waiting

SUMMARY = "Boiler thermometer of hall seven"


@pytest.fixture
def puts(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many incidents each write into the index held."""
    real, sizes = ChromaIndex.put, []

    def counted(self: ChromaIndex, kind: Any, passages: Sequence[Passage], *vectors: Any) -> None:
        if kind == "incident" and passages:
            sizes.append(len(passages))
        real(self, kind, passages, *vectors)

    monkeypatch.setattr(ChromaIndex, "put", counted)
    monkeypatch.setattr(base, "WRITE_AFTER_S", 3600.0)
    return sizes


def _found(knowledge: ChromaKnowledge, cause: str | None = None) -> list[str]:
    return [hit.id for hit in knowledge.search(SUMMARY, kind="incident", root_cause=cause)]


def test_what_waits_is_found_and_outlives_the_process(
    folder: Path, records: MemoryRecordStore, incident: PastIncident, puts: list[int]
) -> None:
    """Nothing was written when the process ends without a word: the next one has it from the records."""
    dying = ChromaKnowledge(folder, records)
    dying.record_incident(incident)
    assert (_found(dying), puts) == ([incident.id], [])

    dying._index.close()
    heir = ChromaKnowledge(folder, records)
    assert (_found(heir), puts) == ([incident.id], [1])
    heir.close()


def test_what_waits_stands_for_what_is_written(
    folder: Path, records: MemoryRecordStore, incident: PastIncident, puts: list[int]
) -> None:
    """An incident that was told again is found under its new cause alone, before and after it is written."""
    knowledge = ChromaKnowledge(folder, records)
    knowledge.record_incident(incident)
    assert [entry.id for entry in knowledge.entries(kind="incident")] == [incident.id]
    knowledge.record_incident(incident.model_copy(update={"root_cause": "stuck_values"}))
    assert puts == [1]
    for _ in range(2):
        assert (_found(knowledge, "stuck_values"), _found(knowledge, "unit_change")) == ([incident.id], [])
        knowledge.entries()  # writes
    assert puts == [1, 1]
    knowledge.close()


def test_many_are_written_at_once(
    folder: Path, records: MemoryRecordStore, incident: PastIncident, puts: list[int]
) -> None:
    """A full lot is written without waiting for its time, in one write; closing writes the rest."""
    knowledge = ChromaKnowledge(folder, records)
    for number in range(FULL):
        knowledge.record_incident(incident.model_copy(update={"id": f"inc-{number}"}))
    assert knowledge._writer is not None
    while not puts:
        knowledge._writer.join(0.01)
    knowledge.record_incident(incident)
    knowledge.close()
    assert puts == [FULL, 1]


def test_a_rebuild_takes_in_what_waits_and_keeps_nothing_older(
    folder: Path,
    records: MemoryRecordStore,
    incident: PastIncident,
    puts: list[int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What the records say by then counts, and is written once; what comes while they are read goes on waiting."""
    knowledge = ChromaKnowledge(folder, records)
    knowledge.record_incident(incident)
    base.put_incident(records, incident.model_copy(update={"root_cause": "stuck_values"}))  # told again, elsewhere
    knowledge.rebuild()
    for _ in range(2):
        assert (_found(knowledge, "stuck_values"), _found(knowledge, "unit_change")) == ([incident.id], [])
        assert [entry.id for entry in knowledge.entries(kind="incident")] == [incident.id]  # writes what waits
    assert puts == [1]

    read = records.all

    def meanwhile() -> Any:
        found = [*read()]
        knowledge.record_incident(incident)
        knowledge.record_incident(incident.model_copy(update={"id": "inc-next"}))
        return found

    with monkeypatch.context() as patched:
        patched.setattr(records, "all", meanwhile)
        knowledge.rebuild()
    assert [passage.id for passage, _ in knowledge._waiting.all()] == [incident.id, "inc-next"]
    assert sorted(_found(knowledge, "unit_change")) == [incident.id, "inc-next"]
    assert sorted(entry.id for entry in knowledge.entries(kind="incident")) == [incident.id, "inc-next"]
    assert (puts, _found(knowledge, "stuck_values"), knowledge._waiting.all()) == ([1, 1, 2], [], [])
    knowledge.close()


def test_a_rebuild_without_the_records_is_made_up_for(
    folder: Path, records: MemoryRecordStore, incident: PastIncident, puts: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Records that are away leave an empty index, which is brought in line before it answers anything."""
    knowledge = ChromaKnowledge(folder, records)
    knowledge.record_incident(incident)
    assert [entry.id for entry in knowledge.entries(kind="incident")] == [incident.id]

    def away() -> Any:
        raise Retry("Redis does not answer")

    with monkeypatch.context() as patched:
        patched.setattr(records, "all", away)
        for ask in (knowledge.rebuild, lambda: knowledge.search(SUMMARY), knowledge.entries):
            with pytest.raises(Retry, match="does not answer"):
                ask()
        knowledge.record_incident(incident.model_copy(update={"id": "inc-next"}))
    assert sorted(_found(knowledge)) == [incident.id, "inc-next"]
    assert (puts, knowledge._waiting.all()) == ([1, 2], [])
    knowledge.close()


def test_what_cannot_be_written_goes_on_waiting(
    folder: Path, records: MemoryRecordStore, incident: PastIncident, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that is full keeps it from being written, not from being found, and is no error of the incident's."""
    knowledge = ChromaKnowledge(folder, records)
    knowledge.record_incident(incident)

    def full(*arguments: Any) -> None:
        del arguments
        raise IndexDamaged("no space left")

    with monkeypatch.context() as patched:
        patched.setattr(ChromaIndex, "put", full)
        with pytest.raises(Retry):
            knowledge.entries()
    assert _found(knowledge) == [incident.id]
    assert [entry.id for entry in knowledge.entries(kind="incident")] == [incident.id]
    knowledge.close()


def test_a_full_disk_does_not_end_the_writing(
    folder: Path, records: MemoryRecordStore, incident: PastIncident, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where not even the damaged index can be set aside, the thread that writes lives on and writes once there is room."""
    monkeypatch.setattr(base, "WRITE_AFTER_S", 0.0)
    knowledge = ChromaKnowledge(folder, records)
    tried = threading.Event()

    def full(*arguments: Any) -> None:
        del arguments
        raise IndexDamaged("no space left")

    def nowhere(*arguments: Any) -> None:
        del arguments
        tried.set()
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(ChromaIndex, "put", full)
        patched.setattr(IndexFolder, "set_aside", nowhere)
        knowledge.record_incident(incident)
        assert tried.wait(60)
    assert knowledge._writer is not None
    knowledge.record_incident(incident.model_copy(update={"id": "inc-next"}))
    while knowledge._waiting.all() and knowledge._writer.is_alive():
        knowledge._writer.join(0.01)
    assert knowledge._writer.is_alive()
    knowledge.close()


def test_what_waits_is_bounded(incident: PastIncident) -> None:
    """However long nothing can be written, the newest are kept and the oldest let go; the records hold them all."""
    waiting = Waiting()
    for number in range(WAITING_MAX + 5):
        waiting.add(incident_passage(incident.model_copy(update={"id": f"inc-{number}"})))
    kept = [passage.id for passage, _ in waiting.all()]
    assert (len(kept), kept[0], kept[-1]) == (WAITING_MAX, "inc-5", f"inc-{WAITING_MAX + 4}")
