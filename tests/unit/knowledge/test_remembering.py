"""What is remembered of the index answers for words as the index itself does."""

from collections.abc import Iterator
from pathlib import Path

import chromadb
import pytest

from driftwarden.contracts.ports import PastIncident
from driftwarden.knowledge import index as module
from driftwarden.knowledge.embedding import embed
from driftwarden.knowledge.index import CANDIDATES_MAX, ChromaIndex
from driftwarden.knowledge.passages import Passage, incident_passage

COUNT = CANDIDATES_MAX["incident"] + 60
RARE = "quicksilver"  # stands in a few incidents that are not near the question
QUESTION = f"boiler thermometer fahrenheit {RARE}"


def _passage(incident: PastIncident, number: int) -> Passage:
    far = number % 20 == 7
    summary = f"The pump leaked {RARE} on floor {number}" if far else incident.summary
    cause = "unit_change" if number % 2 else "stuck_values"
    return incident_passage(
        incident.model_copy(update={"id": f"inc-{number:04}", "summary": summary, "root_cause": cause})
    )


@pytest.fixture
def client(tmp_path: Path) -> Iterator[chromadb.ClientAPI]:
    """Chroma in a folder."""
    made = chromadb.PersistentClient(
        str(tmp_path / "chroma"), settings=chromadb.config.Settings(anonymized_telemetry=False)
    )
    yield made
    made.close()


@pytest.fixture
def filled(client: chromadb.ClientAPI, incident: PastIncident) -> ChromaIndex:
    """More incidents than are ranked by nearness."""
    index = ChromaIndex(client, alone=True)
    index.put("incident", [_passage(incident, number) for number in range(COUNT)])
    return index


def _found(index: ChromaIndex, cause: str | None) -> dict[str, float]:
    candidates = index.candidates("incident", QUESTION, embed(QUESTION), cause)
    assert any(RARE in one.text for one in candidates)
    return {one.metadata["digest"]: round(one.similarity, 4) for one in candidates}


@pytest.mark.parametrize("cause", [None, "unit_change"])
def test_memory_and_index_find_the_same(client: chromadb.ClientAPI, filled: ChromaIndex, cause: str | None) -> None:
    """Whoever wrote it, whoever opens it anew, and whoever is not alone and so remembers nothing."""
    by_index = _found(ChromaIndex(client), cause)
    assert _found(filled, cause) == by_index
    assert _found(ChromaIndex(client, alone=True), cause) == by_index


def test_what_is_replaced_or_removed_is_found_no_more(filled: ChromaIndex, incident: PastIncident) -> None:
    """Memory follows what is done to the index."""
    _found(filled, None)
    numbers = [number for number in range(COUNT) if number % 20 == 7]
    filled.remove("incident", [_passage(incident, number).id for number in numbers[1:]])
    plain = incident_passage(incident.model_copy(update={"id": f"inc-{numbers[0]:04}"}))
    filled.put("incident", [plain])
    candidates = filled.candidates("incident", QUESTION, embed(QUESTION), None)
    assert not any(RARE in one.text for one in candidates)


def test_too_many_to_remember_are_looked_up(
    client: chromadb.ClientAPI, filled: ChromaIndex, incident: PastIncident, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where they become too many while it works."""
    by_index = _found(filled, None)
    monkeypatch.setattr(module, "REMEMBERED_MAX", COUNT - 50)
    assert _found(ChromaIndex(client, alone=True), None) == by_index
    filled.put("incident", [_passage(incident, number) for number in range(20, 27)])
    rare = {one.text for one in filled.candidates("incident", QUESTION, embed(QUESTION), None) if RARE in one.text}
    assert rare == {_passage(incident, number).search_text for number in range(COUNT) if number % 20 == 7}
