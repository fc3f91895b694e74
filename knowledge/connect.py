"""One process owns the index, all the others go through it; when it dies, the next caller takes its place."""

import contextlib
import json
import logging
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from driftwarden.contracts.ports import JsonObject, KnowledgeHit, PastIncident, RecordStore
from driftwarden.errors import BadInput, Error, GiveUp, Retry
from driftwarden.knowledge.base import LIMIT_MAX, ChromaKnowledge, KnowledgeBase, checked, put_incident
from driftwarden.knowledge.owner import REQUEST_BYTES_MAX, FolderLock, OwnerServer, told_socket
from driftwarden.knowledge.passages import Kind, incident_of
from driftwarden.knowledge.texts import SEARCH_CHARS_MAX, bounded
from driftwarden.resilience import Breaker
from driftwarden.strict import loads_json

log = logging.getLogger(__name__)
Answer = TypeVar("Answer")

ANSWER_BYTES_MAX = 16 * 1024 * 1024
TIMEOUT_S = 30.0
_PAUSE_S = 0.02


def connect_knowledge(
    state_folder: Path, records: RecordStore, chroma_url: str | None = None, *, timeout_s: float = TIMEOUT_S
) -> KnowledgeBase:
    """The knowledge base: of a Chroma server where `chroma_url` is set, else in `<state_folder>/knowledge`.

    Whoever comes first owns the folder, the rest speak to the owner; both look the same. Every process must be given
    the same `records`. Raises Retry where neither the folder nor its owner can be had within `timeout_s`.
    """
    if chroma_url:
        return ChromaKnowledge(chroma_url, records)
    return SharedKnowledge(state_folder / "knowledge", records, timeout_s=timeout_s)


class PatientKnowledge:
    """A knowledge base that may be away when the service starts, and come and go; thread-safe, each call bounded.

    What is to be remembered is written to the records in any case. While it is away nobody asks it (`breaker`); when it is
    back it is opened anew, which brings its index in line with the records.
    """

    def __init__(
        self, state_folder: Path, records: RecordStore, chroma_url: str | None = None, *, breaker: Breaker
    ) -> None:
        """Open it where it can be had now; raises BadInput (the URL) only."""
        self._folder, self._records, self._url, self._breaker = state_folder, records, chroma_url, breaker
        self._mutex = threading.Lock()
        self._base: KnowledgeBase | None = None
        self._closed = False
        try:
            with breaker.call():
                self._opened()
        except Retry as error:
            log.warning("%s", error.diagnostics())

    def search(
        self, text: str, *, kind: Kind | None = None, root_cause: str | None = None, limit: int = 5
    ) -> tuple[KnowledgeHit, ...]:
        """As `ChromaKnowledge.search`; raises Away."""
        return self._ask(lambda base: base.search(text, kind=kind, root_cause=root_cause, limit=limit))

    def record_incident(self, incident: PastIncident) -> None:
        """As `ChromaKnowledge.record_incident`; raises Away, the incident being in the records by then."""
        put_incident(self._records, incident)
        self._ask(lambda base: base.index_incident(incident))

    def close(self) -> None:
        """Let go of it."""
        with self._mutex:
            self._closed = True
            base, self._base = self._base, None
        if base is not None:
            base.close()

    def _ask(self, question: Callable[[KnowledgeBase], Answer]) -> Answer:
        with self._breaker.call():
            base = self._opened()
            try:
                return question(base)
            except Retry:
                if self._url is not None:
                    self._drop(base)
                raise

    def _opened(self) -> KnowledgeBase:
        with self._mutex:
            if self._closed:
                raise GiveUp("the knowledge base was closed")
            if self._base is None:
                self._base = connect_knowledge(self._folder, self._records, self._url)
            return self._base

    def _drop(self, base: KnowledgeBase) -> None:
        with self._mutex:
            if self._base is not base:
                return
            self._base = None
        try:
            base.close()
        except Error as error:
            log.warning("%s", error.diagnostics())


class SharedKnowledge:
    """Owner or client of one folder; a client becomes the owner when the owner is gone."""

    def __init__(self, folder: Path, records: RecordStore, *, timeout_s: float = TIMEOUT_S) -> None:
        """Take the folder if nobody has it."""
        self._folder, self._records, self._timeout_s = folder, records, timeout_s
        self._mutex = threading.RLock()
        self._lock = FolderLock(folder)
        self._own: ChromaKnowledge | None = None
        self._server: OwnerServer | None = None
        self._closed = False
        self._try_to_own()

    @property
    def is_owner(self) -> bool:
        """Whether this process owns the folder now."""
        return self._own is not None

    def search(
        self, text: str, *, kind: Kind | None = None, root_cause: str | None = None, limit: int = 5
    ) -> tuple[KnowledgeHit, ...]:
        """As `ChromaKnowledge.search`."""
        checked(kind, root_cause, limit)
        asked = {"text": bounded(text, 4_000), "kind": kind, "root_cause": root_cause, "limit": limit}
        return self._do(
            lambda own: own.search(text, kind=kind, root_cause=root_cause, limit=limit),
            {"do": "search", **asked},
            _hits,
        )

    def entries(
        self, *, kind: Kind | None = None, root_cause: str | None = None, limit: int = LIMIT_MAX
    ) -> tuple[KnowledgeHit, ...]:
        """As `ChromaKnowledge.entries`."""
        checked(kind, root_cause, limit)
        return self._do(
            lambda own: own.entries(kind=kind, root_cause=root_cause, limit=limit),
            {"do": "entries", "kind": kind, "root_cause": root_cause, "limit": limit},
            _hits,
        )

    def record_incident(self, incident: PastIncident) -> None:
        """As `ChromaKnowledge.record_incident`: durable before the owner is asked to index it."""
        put_incident(self._records, incident)
        self.index_incident(incident)

    def index_incident(self, incident: PastIncident) -> None:
        """As `ChromaKnowledge.index_incident`."""
        shown = incident.model_copy(
            update={"summary": bounded(incident.summary, SEARCH_CHARS_MAX), "columns": incident.columns[:20]}
        )
        self._do(
            lambda own: own.index_incident(incident),
            {"do": "index_incident", "incident": shown.model_dump(mode="json")},
            lambda answer: None,
        )

    def add_runbook(self, text: str, *, where: str) -> KnowledgeHit:
        """As `ChromaKnowledge.add_runbook`."""
        return self._do(
            lambda own: own.add_runbook(text, where=where),
            {"do": "add_runbook", "text": text, "where": where},
            lambda answer: _hits(answer)[0],
        )

    def rebuild(self) -> None:
        """As `ChromaKnowledge.rebuild`."""
        self._do(lambda own: own.rebuild(), {"do": "rebuild"}, lambda answer: None)

    def close(self) -> None:
        """Let go of the folder, where it is owned; the next caller of another process takes it."""
        with self._mutex:
            self._closed = True
            self._let_go()

    def _do(
        self, here: Callable[[ChromaKnowledge], Answer], request: JsonObject, read: Callable[[JsonObject], Answer]
    ) -> Answer:
        deadline = time.monotonic() + self._timeout_s
        while True:
            own = self._own or self._try_to_own()
            if own is not None:
                return here(own)
            try:
                answer = self._ask(request, max(0.1, deadline - time.monotonic()))
            except _OwnerGone as gone:
                if time.monotonic() > deadline:
                    raise Retry(f"the knowledge base's owner does not answer: {gone}") from None
                time.sleep(_PAUSE_S)
                continue
            return _checked_answer(answer, read)

    def _try_to_own(self) -> ChromaKnowledge | None:
        with self._mutex:
            if self._closed:
                raise GiveUp("the knowledge base was closed")
            if self._own is None and self._lock.take():
                try:
                    self._server = OwnerServer(self._folder)
                    self._own = ChromaKnowledge(self._folder / "index", self._records)
                    self._server.serve(self._handle)
                except BaseException:
                    self._let_go()
                    raise
            return self._own

    def _let_go(self) -> None:
        server, own = self._server, self._own
        self._server = self._own = None
        if server is not None:
            server.close()
        if own is not None:
            own.close()
        self._lock.release()

    def _ask(self, request: JsonObject, timeout_s: float) -> JsonObject:
        data = json.dumps(request).encode("ascii") + b"\n"
        if len(data) > REQUEST_BYTES_MAX:
            raise BadInput("knowledge request", got=f"{len(data)} bytes", expected=f"at most {REQUEST_BYTES_MAX}")
        try:
            path = told_socket(self._folder)
            with contextlib.closing(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)) as line:
                line.settimeout(timeout_s)
                line.connect(str(path))
                line.sendall(data)
                with line.makefile("rb") as stream:
                    answer = stream.readline(ANSWER_BYTES_MAX)
        except (OSError, Retry) as error:
            raise _OwnerGone(str(error)) from None
        if not answer.endswith(b"\n"):
            raise _OwnerGone("the connection broke")
        try:
            found = loads_json(answer, where="knowledge answer")
        except BadInput as error:
            raise _OwnerGone(error.diagnostics()) from None
        return found if isinstance(found, dict) else {}

    def _handle(self, request: JsonObject) -> JsonObject:
        own = self._own
        if own is None:
            raise Retry("the knowledge base's owner is leaving")
        match request:
            case {"do": "search", "text": str(text), "kind": kind, "root_cause": cause, "limit": limit}:
                return _told(own.search(text, kind=kind, root_cause=cause, limit=limit))
            case {"do": "entries", "kind": kind, "root_cause": cause, "limit": limit}:
                return _told(own.entries(kind=kind, root_cause=cause, limit=limit))
            case {"do": "index_incident", "incident": dict(incident)}:
                try:
                    own.index_incident(incident_of(incident))
                except ValueError as error:
                    raise BadInput("incident", got=str(error), expected="a past incident") from None
                return {}
            case {"do": "add_runbook", "text": str(text), "where": str(where)}:
                return _told((own.add_runbook(text, where=where),))
            case {"do": "rebuild"}:
                own.rebuild()
                return {}
        raise BadInput("knowledge request", got=request.get("do"), expected="a known request")


class _OwnerGone(Exception):
    """Nobody answered: the owner is dead, leaving, or not yet there."""


def _told(hits: tuple[KnowledgeHit, ...]) -> JsonObject:
    return {"hits": [hit.model_dump(mode="json") for hit in hits]}


def _hits(answer: JsonObject) -> tuple[KnowledgeHit, ...]:
    return tuple(KnowledgeHit.model_validate(hit) for hit in answer["hits"])


def _checked_answer(answer: JsonObject, read: Callable[[JsonObject], Answer]) -> Answer:
    if answer.get("ok") is True:
        try:
            return read(answer)
        except (ValidationError, KeyError, TypeError) as error:
            raise Retry(f"the knowledge base's owner gave no valid answer: {type(error).__name__}") from None
    message = str(answer.get("message", "no reason given"))
    raise BadInput(message) if answer.get("error") == "bad_input" else Retry(message)
