"""The index can always be made again: deleted, damaged, foreign, or made by another version."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from driftwarden.contracts.ports import JsonObject, PastIncident
from driftwarden.errors import Retry
from driftwarden.knowledge import ChromaKnowledge, MemoryRecordStore
from driftwarden.knowledge.index import ASIDE_KEPT


def _generation(folder: Path) -> Path:
    return next(folder.glob("chroma-*"))


def _garbled_tables(folder: Path) -> None:
    database = _generation(folder) / "chroma.sqlite3"
    database.write_bytes(b"not a database at all" * 1_000)


def _torn_tables(folder: Path) -> None:
    database = _generation(folder) / "chroma.sqlite3"
    content = bytearray(database.read_bytes())
    content[4096:-4096] = b"\xa5" * (len(content) - 8192)
    database.write_bytes(content)


def _no_tables(folder: Path) -> None:
    (_generation(folder) / "chroma.sqlite3").unlink()


def _other_version(folder: Path) -> None:
    marker = json.loads((folder / "index.json").read_text())
    (folder / "index.json").write_text(json.dumps({**marker, "chroma": "0.4.14"}))


def _other_format(folder: Path) -> None:
    marker = json.loads((folder / "index.json").read_text())
    (folder / "index.json").write_text(json.dumps({**marker, "format": "0"}))


def _bad_marker(folder: Path) -> None:
    (folder / "index.json").write_text('{"format": ')


def _leaving_marker(folder: Path) -> None:
    marker = json.loads((folder / "index.json").read_text())
    (folder / "index.json").write_text(json.dumps({**marker, "generation": "../../etc"}))


def _no_marker(folder: Path) -> None:
    (folder / "index.json").unlink()


@pytest.fixture
def filled(folder: Path, records: MemoryRecordStore, incident: PastIncident) -> Path:
    """A folder with the packaged runbooks and one incident, closed."""
    knowledge = ChromaKnowledge(folder, records)
    knowledge.record_incident(incident)
    knowledge.close()
    return folder


@pytest.mark.parametrize(
    "harm",
    [
        _garbled_tables,
        _torn_tables,
        _no_tables,
        _other_version,
        _other_format,
        _bad_marker,
        _leaving_marker,
        _no_marker,
    ],
)
def test_what_cannot_be_used_is_set_aside_and_made_again(
    filled: Path, records: MemoryRecordStore, harm: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing is lost, nothing is deleted, and the log says what happened."""
    harm(filled)
    knowledge = ChromaKnowledge(filled, records)
    found = knowledge.search("boiler thermometer of hall seven")
    knowledge.close()
    assert found[0].id == "inc-0001"
    assert "set aside" in caplog.text
    assert any((filled / "aside-0001").iterdir())


def test_a_deleted_folder_is_made_again(filled: Path, records: MemoryRecordStore) -> None:
    """The records are the truth; the folder may vanish."""
    shutil.rmtree(filled)
    knowledge = ChromaKnowledge(filled, records)
    assert knowledge.search("boiler thermometer", kind="incident")[0].id == "inc-0001"
    assert knowledge.search("frozen sensor", limit=1)[0].id == "stuck-sensor"
    knowledge.close()


def test_an_index_that_fell_behind_the_records_catches_up(
    filled: Path, records: MemoryRecordStore, incident: PastIncident
) -> None:
    """Recorded, then killed before it was indexed: the next start indexes it, and drops what has no record."""
    late = incident.model_copy(update={"id": "inc-0002", "summary": "Zirconium dust."})
    only = MemoryRecordStore()
    only.put("incident:inc-0002", {"type": "incident", **late.model_dump(mode="json")})
    knowledge = ChromaKnowledge(filled, only)
    assert [entry.id for entry in knowledge.entries(kind="incident")] == ["inc-0002"]
    knowledge.close()


def test_a_fault_in_the_middle_of_the_work_is_mended(
    filled: Path, records: MemoryRecordStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Chroma's core fails once: the index is made again and the question answered."""
    knowledge = ChromaKnowledge(filled, records)

    class Panic(BaseException):
        __module__ = "pyo3_runtime"

    def panics(*arguments: object) -> None:
        raise Panic("range end index out of bounds")

    monkeypatch.setattr(knowledge._index, "candidates", panics)
    assert knowledge.search("boiler thermometer", kind="incident")[0].id == "inc-0001"
    knowledge.close()
    assert "Panic: range end index" in caplog.text


def test_records_that_are_away_are_no_damage(filled: Path, records: MemoryRecordStore) -> None:
    """A store that does not answer is told to the caller; the index stays as it was."""

    class Away(MemoryRecordStore):
        def all(self) -> list[tuple[str, JsonObject]]:
            raise Retry("redis is away")

    with pytest.raises(Retry, match="redis is away"):
        ChromaKnowledge(filled, Away())
    assert not list(filled.glob("aside-*"))


def test_old_damage_is_not_kept_for_ever(filled: Path, records: MemoryRecordStore) -> None:
    """Only the newest folders that were set aside stay."""
    for _ in range(ASIDE_KEPT + 1):
        _bad_marker(filled)
        ChromaKnowledge(filled, records).close()
    assert sorted(item.name for item in filled.glob("aside-*")) == ["aside-0002", "aside-0003"]
    assert len(list(filled.glob("chroma-*"))) == 1
