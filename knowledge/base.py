"""The knowledge base in one process: search, list, record, add, rebuild."""

import logging
import threading
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Protocol, TypeVar

from driftwarden.contracts.base import RootCause
from driftwarden.contracts.ports import JsonObject, Knowledge, KnowledgeHit, PastIncident, RecordStore
from driftwarden.errors import BadInput, Error, Retry
from driftwarden.knowledge.index import KINDS, ChromaIndex, IndexDamaged, IndexFolder, damage, open_server
from driftwarden.knowledge.passages import (
    Kind,
    Passage,
    entries_of,
    hit_of,
    incident_of,
    incident_passage,
    runbook_passages,
)
from driftwarden.knowledge.ranking import rank
from driftwarden.knowledge.runbooks import Runbook, packaged_runbooks, parse_runbook
from driftwarden.knowledge.texts import bounded, words
from driftwarden.knowledge.waiting import Waiting

log = logging.getLogger(__name__)
Answer = TypeVar("Answer")

QUERY_CHARS_MAX = 4_000
LIMIT_MAX = 1_000
REMEMBERED_MAX = 256  # searches among runbooks
WRITE_AFTER_S = 5.0
_INCIDENT, _RUNBOOK = "incident:", "runbook:"


class KnowledgeBase(Knowledge, Protocol):
    """The whole knowledge base: what the service needs (`Knowledge`), and what the command line needs."""

    def entries(
        self, *, kind: Kind | None = None, root_cause: str | None = None, limit: int = LIMIT_MAX
    ) -> tuple[KnowledgeHit, ...]:
        """Everything that is there, runbooks first, ordered by id (scores are 1)."""
        ...

    def index_incident(self, incident: PastIncident) -> None:
        """Have an incident found that is already in the records."""
        ...

    def add_runbook(self, text: str, *, where: str) -> KnowledgeHit:
        """Add or replace a runbook of one's own; raises BadInput with file and line."""
        ...

    def rebuild(self) -> None:
        """Make the index again from the packaged runbooks and the records."""
        ...

    def close(self) -> None:
        """Let go of the index."""
        ...


class ChromaKnowledge:
    """Knowledge over Chroma, in the one process that owns the folder, or over a Chroma server (safe for many).

    At open the index is brought in line with the runbooks and the records; a damaged one is set aside and made again.
    Incidents are searched as soon as they are told, and written into an own folder several at once, by a thread of its own.
    """

    def __init__(self, place: Path | str, records: RecordStore) -> None:
        """Open the folder `place`, or the server where it is a URL; raises BadInput, Retry (server or records away)."""
        self._records = records
        self._lock = threading.RLock()
        self._closed = False
        self._remembered: dict[tuple[str, str | None, int], tuple[KnowledgeHit, ...]] = {}
        self._waiting = Waiting()
        self._behind = False  # a new index that was not brought in line, for the records were away
        self._some, self._enough, self._over = threading.Event(), threading.Event(), threading.Event()
        self._writer: threading.Thread | None = None
        self._folder = IndexFolder(place) if isinstance(place, Path) else None
        self._server = place if isinstance(place, str) else ""
        self._index = self._opened()
        try:
            self._whole(self._reconcile)
        except BaseException:
            self._index.close()
            raise

    def search(
        self, text: str, *, kind: Kind | None = None, root_cause: str | None = None, limit: int = 5
    ) -> tuple[KnowledgeHit, ...]:
        """The runbooks and incidents nearest to `text`, best first, scores 0..1; none where `text` has no word."""
        kinds = checked(kind, root_cause, limit)
        query = bounded(text, QUERY_CHARS_MAX)
        if not words(query):
            return ()
        return self._whole(lambda: self._found(query, kinds, root_cause, limit))

    def entries(
        self, *, kind: Kind | None = None, root_cause: str | None = None, limit: int = LIMIT_MAX
    ) -> tuple[KnowledgeHit, ...]:
        """Everything that is there, runbooks first, ordered by id (scores are 1)."""
        kinds = checked(kind, root_cause, limit)

        def listed() -> list[KnowledgeHit]:
            self._write()
            return [hit for each in kinds for hit in entries_of(self._index.metadatas(each, root_cause), each)]

        return tuple(self._whole(listed)[:limit])

    def record_incident(self, incident: PastIncident) -> None:
        """Remember an incident: first in the records, then in the index; the same id replaces the earlier record."""
        put_incident(self._records, incident)
        self.index_incident(incident)

    def index_incident(self, incident: PastIncident) -> None:
        """Put an incident that is already in the records into the index: found from now on, on disk a little later."""
        passage = incident_passage(incident)
        if self._folder is None:  # other processes read the server's
            self._whole(lambda: self._index.put("incident", [passage]))
            return
        self._still_open()
        if self._waiting.add(passage):
            self._enough.set()
        self._some.set()
        with self._lock:
            if self._writer is None and not self._closed:
                self._writer = threading.Thread(target=self._write_on, name="knowledge-writer", daemon=True)
                self._writer.start()

    def _write_on(self) -> None:
        while not self._over.is_set():
            self._some.wait()
            self._enough.wait(WRITE_AFTER_S)
            self._some.clear()
            self._enough.clear()
            if self._over.is_set():
                return
            try:
                self._whole(self._write)
            except (Error, OSError) as error:  # they stay in the records, and go on waiting for the next that comes
                # OSError: a full disk, on which a damaged index cannot be set aside either.
                if self._over.is_set():
                    return
                log.warning("knowledge index: %s", error.diagnostics() if isinstance(error, Error) else error)

    def _write(self) -> None:
        """Write what waits into the index."""
        if entries := self._waiting.all():
            passages = [passage for passage, _ in entries]
            self._index.put("incident", passages, [vector for _, vector in entries])
            self._waiting.written(passages)

    def add_runbook(self, text: str, *, where: str) -> KnowledgeHit:
        """Add a runbook of one's own, kept as a record; its id replaces the one that bore it, a packaged one too."""
        runbook = parse_runbook(text, where=where)
        self._records.put(_RUNBOOK + runbook.id, {"type": "runbook", "where": where, "text": runbook.source})
        self._whole(self._reconcile)
        passages = [passage.metadata for passage in runbook_passages(runbook, origin="added")]
        return entries_of(passages, "runbook")[0]

    def rebuild(self) -> None:
        """Make the index again from the packaged runbooks and the records."""
        with self._lock, damage():
            self._still_open()
            self._renew()
            self._reconcile()

    def close(self) -> None:
        """Let go of the index; calling it twice does nothing more."""
        with self._lock:
            if self._closed:
                return
            try:
                with damage():
                    self._write()
            except Error as error:  # whoever opens it next finds them in the records
                log.warning("knowledge index: %s", error.diagnostics())
            self._closed = True
            self._over.set()
            self._index.close()
        self._some.set()
        self._enough.set()

    def _opened(self) -> ChromaIndex:
        return self._folder.open()[0] if self._folder else open_server(self._server)

    def _whole(self, work: Callable[[], Answer]) -> Answer:
        """Do the work; where the index turns out damaged, set it aside, make it again, and do the work once more."""
        with self._lock:
            self._still_open()
            try:
                with damage():
                    if self._behind:
                        self._reconcile()
                    return work()
            except IndexDamaged as error:
                if self._folder is None:
                    raise Retry(f"Chroma server `{self._server}` failed: {error.diagnostics()}") from error
                self._index.close()
                self._folder.set_aside(error.diagnostics())
                self._index, self._behind = self._folder.begin(), True
            with damage():
                self._reconcile()
                return work()

    def _still_open(self) -> None:
        # An index that was closed fails like a damaged one, and setting aside what another process owns would be worse.
        if self._closed:
            raise Retry("the knowledge base was closed")

    def _renew(self) -> None:
        self._behind = True
        if self._folder is not None:
            self._index.close()
            self._index = self._folder.begin()
            return
        for kind in KINDS:
            self._index.remove(kind, list(self._index.digests(kind)))

    def _found(
        self, query: str, kinds: tuple[Kind, ...], root_cause: str | None, limit: int
    ) -> tuple[KnowledgeHit, ...]:
        # The runbooks of an own folder change by `_reconcile` alone, and incidents ask the same of them again and again.
        if self._folder is None or kinds != ("runbook",):
            return self._ranked(query, kinds, root_cause, limit)
        found = self._remembered.get((query, root_cause, limit))
        if found is None:
            if len(self._remembered) >= REMEMBERED_MAX:
                self._remembered.clear()
            found = self._remembered[query, root_cause, limit] = self._ranked(query, kinds, root_cause, limit)
        return found

    def _ranked(
        self, query: str, kinds: tuple[Kind, ...], root_cause: str | None, limit: int
    ) -> tuple[KnowledgeHit, ...]:
        from driftwarden.knowledge.embedding import embed

        vector = embed(query)
        candidates = [found for each in kinds for found in self._index.candidates(each, query, vector, root_cause)]
        if "incident" in kinds:
            newer = self._waiting.candidates(vector, root_cause)
            candidates = [one for one in candidates if one.kind != "incident" or one.metadata["parent"] not in newer]
            candidates += [one for one in newer.values() if one is not None]
        parents: dict[tuple[Kind, str], list[tuple[float, JsonObject]]] = {}
        for score, candidate in rank(query, candidates):
            key = (candidate.kind, candidate.metadata["parent"])
            parents.setdefault(key, []).append((score, candidate.metadata))
        return tuple(hit_of(rows, each) for (each, _), rows in islice(parents.items(), limit))

    def _reconcile(self) -> None:
        """Bring the index in line. The index is read before the records: what another writer adds between stays.

        What waited before the records were read waits no more, for they hold the same or what was told since: written later,
        it would take the place of that.
        """
        self._remembered.clear()
        waited = [passage for passage, _ in self._waiting.all()]
        present = {kind: self._index.digests(kind) for kind in KINDS}
        wanted = self._wanted()
        for kind in KINDS:
            fresh = [
                passage for id, passage in wanted[kind].items() if present[kind].get(id) != passage.metadata["digest"]
            ]
            gone = [id for id in present[kind] if id not in wanted[kind]]
            self._index.remove(kind, gone)
            self._index.put(kind, fresh)
            if fresh or gone:
                log.info("knowledge index: %d passages of %ss put, %d removed", len(fresh), kind, len(gone))
        self._waiting.written([passage for passage in waited if passage.id in wanted["incident"]])
        self._behind = False

    def _wanted(self) -> dict[Kind, dict[str, Passage]]:
        runbooks = {runbook.id: runbook_passages(runbook, origin="packaged") for runbook in packaged_runbooks()}
        incidents: dict[str, Passage] = {}
        for id, record in self._records.all():
            try:
                if id.startswith(_RUNBOOK):
                    runbook = _runbook_of(record)
                    runbooks[runbook.id] = runbook_passages(runbook, origin="added")
                elif id.startswith(_INCIDENT):
                    incident = incident_of({key: value for key, value in record.items() if key != "type"})
                    incidents[incident.id] = incident_passage(incident)
            except (BadInput, ValueError) as error:
                log.warning("knowledge record `%s` passed over: %s", id, " ".join(str(error).split()))
        return {
            "runbook": {passage.id: passage for passages in runbooks.values() for passage in passages},
            "incident": incidents,
        }


def put_incident(records: RecordStore, incident: PastIncident) -> None:
    """Make an incident durable, whole; raises BadInput for an id that cannot be one."""
    try:
        incident_passage(incident)
    except ValueError as error:
        raise BadInput(str(error), got=incident.id, expected="1 to 200 printable characters") from None
    records.put(_INCIDENT + incident.id, {"type": "incident", **incident.model_dump(mode="json")})


def _runbook_of(record: JsonObject) -> Runbook:
    text = record.get("text")
    if not isinstance(text, str):
        raise BadInput("runbook record", got=type(text).__name__, expected="a text")
    return parse_runbook(text, where=str(record.get("where", "record")))


def checked(kind: str | None, root_cause: str | None, limit: int) -> tuple[Kind, ...]:
    """The kinds that are asked for; raises BadInput for a kind, cause or limit that cannot be."""
    if kind is not None and kind not in KINDS:
        raise BadInput("knowledge kind", got=kind, expected="`runbook` or `incident`")
    causes = [cause.value for cause in RootCause]
    if root_cause is not None and root_cause not in causes:
        raise BadInput("root cause", got=root_cause, expected="one of " + ", ".join(causes))
    if isinstance(limit, bool) or not isinstance(limit, int) or not 1 <= limit <= LIMIT_MAX:
        raise BadInput("limit", got=limit, expected=f"a whole number from 1 to {LIMIT_MAX}")
    return tuple(each for each in KINDS if kind in (None, each))
