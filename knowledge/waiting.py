"""Incidents that wait to be written into the index: many at once cost a tenth of what they cost one by one.

Until then they are searched here. Nothing is lost with them: they stand in the records, from which the index is brought in
line whenever it is opened.
"""

import threading
from typing import TYPE_CHECKING, Any

from driftwarden.knowledge.passages import Passage
from driftwarden.knowledge.ranking import Candidate

if TYPE_CHECKING:
    import numpy as np

FULL = 64
WAITING_MAX = 1_024


class Waiting:
    """Passages of incidents and their vectors, by id; thread-safe."""

    def __init__(self) -> None:
        """Nothing waits."""
        self._lock = threading.Lock()
        self._entries: dict[str, tuple[Passage, np.ndarray[Any, Any]]] = {}

    def add(self, passage: Passage) -> bool:
        """Put it among those that wait, in the place of one of its id; True where it is time to write them.

        Where nothing could be written for long the oldest is let go: the next open finds it in the records.
        """
        from driftwarden.knowledge.embedding import embed

        entry = passage, embed(passage.search_text)
        with self._lock:
            self._entries.pop(passage.id, None)
            self._entries[passage.id] = entry
            if len(self._entries) > WAITING_MAX:
                del self._entries[next(iter(self._entries))]
            return len(self._entries) >= FULL

    def all(self) -> list[tuple[Passage, "np.ndarray[Any, Any]"]]:
        """What waits, in the order it came, with its vectors."""
        with self._lock:
            return list(self._entries.values())

    def written(self, passages: list[Passage]) -> None:
        """These are in the index now; what replaced one of them meanwhile goes on waiting."""
        with self._lock:
            for passage in passages:
                if self._entries.get(passage.id, (None,))[0] is passage:
                    del self._entries[passage.id]

    def candidates(self, vector: "np.ndarray[Any, Any]", root_cause: str | None) -> dict[str, Candidate | None]:
        """What may answer a query of this unit vector, by id; None for one that the cause rules out: what the index still
        holds of it is no answer either."""
        return {
            passage.id: Candidate(
                kind=passage.kind,
                similarity=float(vector @ own),
                metadata=passage.metadata,
                text=passage.search_text,
            )
            if root_cause is None or root_cause in passage.root_causes
            else None
            for passage, own in self.all()
        }
