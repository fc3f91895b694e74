"""The index in Chroma: two collections, cosine space, ids of passages; it can be thrown away and made again.

A folder holds `index.json` (format, Chroma's version, the generation in use) and one folder per generation. What is
damaged or was written by another format is renamed to `aside-...`, never repaired.
"""

import json
import logging
import shutil
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any
from uuid import uuid4

from driftwarden.contracts.ports import JsonObject
from driftwarden.errors import BadInput, Error, NotInstalled, Retry
from driftwarden.keyfile import make_folder
from driftwarden.knowledge.passages import FORMAT, Kind, Passage
from driftwarden.knowledge.ranking import Candidate
from driftwarden.knowledge.texts import telling_words
from driftwarden.strict import loads_json

log = logging.getLogger(__name__)

KINDS: tuple[Kind, ...] = ("runbook", "incident")
# How many passages are ranked. All sections of the runbooks, nearly; of the incidents, which are much alike, the nearest.
CANDIDATES_MAX: dict[Kind, int] = {"runbook": 400, "incident": 64}
HOLDING_MAX = 20
WORDS_MAX = 4
REMEMBERED_MAX = 4_096
PAGE = 1_000
SERVER_TIMEOUT_S = 20.0
ASIDE_KEPT = 2
_HNSW = {"hnsw": {"space": "cosine", "ef_search": 400, "ef_construction": 400, "max_neighbors": 32}}


class IndexDamaged(Retry):
    """The index cannot be read; it must be made again."""


class ChromaIndex:
    """The two collections of one Chroma client. Errors of Chroma become IndexDamaged."""

    def __init__(self, client: Any, *, prefix: str = "", session: Any = None, alone: bool = False) -> None:
        """Open or create the collections `<prefix>runbooks` and `<prefix>incidents`; `session` is closed at the end.

        `alone`: nobody else writes to them, so that passages may be remembered (reading them again is most of a search).
        """
        from driftwarden.knowledge.embedding import HashedText

        self._client, self._session, self._alone = client, session, alone
        self._remembered: dict[Kind, dict[str, tuple[JsonObject, str]]] = {kind: {} for kind in KINDS}
        self._all: dict[Kind, bool] = {}  # whether what is remembered is everything, once it was asked for
        self._collections = {
            kind: client.get_or_create_collection(
                f"{prefix}{kind}s",
                embedding_function=HashedText(),
                configuration=_HNSW,
                metadata={"driftwarden_format": FORMAT},
            )
            for kind in KINDS
        }

    def digests(self, kind: Kind) -> dict[str, str]:
        """The digest of every passage, by id."""
        return {id: str(metadata.get("digest")) for id, metadata in self._pages(kind, None)}

    def metadatas(self, kind: Kind, root_cause: str | None) -> list[JsonObject]:
        """What is known of every passage, filtered by cause."""
        return [metadata for _, metadata in self._pages(kind, root_cause)]

    def _pages(self, kind: Kind, root_cause: str | None) -> Iterable[tuple[str, JsonObject]]:
        offset = 0
        while True:
            page = self._collections[kind].get(
                where=_where(root_cause), include=["metadatas"], limit=PAGE, offset=offset
            )
            yield from zip(page["ids"], page["metadatas"], strict=True)
            if len(page["ids"]) < PAGE:
                return
            offset += PAGE

    def put(self, kind: Kind, passages: Sequence[Passage], vectors: Sequence[Any] | None = None) -> None:
        """Store or replace passages by id; `vectors` are theirs, where they are known."""
        for start in range(0, len(passages), PAGE):
            batch = passages[start : start + PAGE]
            metadatas = [passage.metadata for passage in batch]
            for passage in batch:
                self._remembered[kind].pop(passage.id, None)
            self._collections[kind].upsert(
                ids=[passage.id for passage in batch],
                embeddings=list(vectors[start : start + PAGE]) if vectors is not None else None,
                documents=[passage.search_text for passage in batch],
                metadatas=metadatas,
            )
            for passage, metadata in zip(batch, metadatas, strict=True):
                self._remember(kind, passage.id, metadata, passage.search_text)

    def remove(self, kind: Kind, ids: Sequence[str]) -> None:
        """Remove passages by id."""
        for start in range(0, len(ids), PAGE):
            batch = list(ids[start : start + PAGE])
            for id in batch:
                self._remembered[kind].pop(id, None)
            self._collections[kind].delete(ids=batch)

    def candidates(self, kind: Kind, text: str, vector: Any, root_cause: str | None) -> list[Candidate]:
        """The passages nearest to the text by cosine (`vector` is the text's), and where there are more, those that hold what
        the nearest lack of its rarest-looking words."""
        most = CANDIDATES_MAX[kind]
        found = self._collections[kind].query(
            query_embeddings=[vector],
            n_results=most,
            where=_where(root_cause),
            include=["distances"] if self._alone else ["distances", "documents", "metadatas"],
        )
        ids, distances = found["ids"][0], found["distances"][0]
        if self._alone:
            known = self._known(kind, ids)
        else:
            known = dict(zip(ids, zip(found["metadatas"][0], found["documents"][0], strict=True), strict=True))
        candidates = {
            id: Candidate(kind, 1.0 - float(distance), *known[id]) for id, distance in zip(ids, distances, strict=True)
        }
        if len(ids) == most:
            lacking = [
                word
                for word in telling_words(text, WORDS_MAX)
                if not any(word in candidate.text for candidate in candidates.values())
            ]
            for id, candidate in self._holding(kind, lacking, vector, root_cause):
                candidates.setdefault(id, candidate)
        return list(candidates.values())

    def _known(self, kind: Kind, ids: Sequence[str]) -> Mapping[str, tuple[JsonObject, str]]:
        """Metadata and text of passages, by id."""
        remembered = self._remembered[kind]
        known = {id: remembered[id] for id in ids if id in remembered}
        missing = [id for id in ids if id not in known]
        if missing:
            page = self._collections[kind].get(ids=missing, include=["documents", "metadatas"])
            for id, metadata, document in zip(page["ids"], page["metadatas"], page["documents"], strict=True):
                known[id] = dict(metadata), document
                self._remember(kind, id, *known[id])
        return known

    def _remember(self, kind: Kind, id: str, metadata: JsonObject, document: str) -> None:
        remembered = self._remembered[kind]
        if self._alone:
            remembered[id] = metadata, document
            if len(remembered) > REMEMBERED_MAX:
                del remembered[next(iter(remembered))]
                self._all[kind] = False

    def _holding(
        self, kind: Kind, words: Sequence[str], vector: Any, root_cause: str | None
    ) -> Iterable[tuple[str, Candidate]]:
        if self._remembers_all(kind):
            yield from self._remembered_holding(kind, words, vector, root_cause)
            return
        for word in words:
            page = self._collections[kind].get(
                where=_where(root_cause),
                where_document={"$contains": word},
                include=["documents", "embeddings", "metadatas"],
                limit=HOLDING_MAX,
            )
            columns = page["ids"], page["embeddings"], page["metadatas"], page["documents"]
            for id, own, metadata, document in zip(*columns, strict=True):
                yield id, Candidate(kind, float(vector @ own), dict(metadata), document)

    def _remembered_holding(
        self, kind: Kind, words: Sequence[str], vector: Any, root_cause: str | None
    ) -> Iterable[tuple[str, Candidate]]:
        """The same by what is remembered, where that is everything: Chroma looks through its tables for each word."""
        known = {
            id: one
            for id, one in self._remembered[kind].items()
            if root_cause is None or root_cause in one[0]["root_causes"]
        }
        found: dict[str, None] = {}
        for word in words:
            found |= dict.fromkeys(islice((id for id, (_, text) in known.items() if word in text), HOLDING_MAX))
        if found:
            page = self._collections[kind].get(ids=[*found], include=["embeddings"])
            for id, own in zip(page["ids"], page["embeddings"], strict=True):
                yield id, Candidate(kind, float(vector @ own), *known[id])

    def _remembers_all(self, kind: Kind) -> bool:
        """Whether every passage is remembered; what an earlier process wrote is read once, where it is not too much."""
        if self._alone and kind not in self._all:
            remembered, offset = self._remembered[kind], 0
            while offset < self._collections[kind].count() <= REMEMBERED_MAX:
                page = self._collections[kind].get(include=["documents", "metadatas"], limit=PAGE, offset=offset)
                for id, metadata, document in zip(page["ids"], page["metadatas"], page["documents"], strict=True):
                    remembered.setdefault(id, (dict(metadata), document))
                offset += PAGE
            self._all[kind] = len(remembered) == self._collections[kind].count()
        return self._all.get(kind, False)

    def check(self) -> None:
        """Raise IndexDamaged where the vectors do not answer for what the tables hold."""
        for kind, collection in self._collections.items():
            held = collection.peek(limit=1)
            if not held["ids"]:
                continue
            answer = collection.query(query_embeddings=[held["embeddings"][0]], n_results=1, include=["distances"])
            if not answer["ids"][0] or answer["distances"][0][0] > 0.01:
                raise IndexDamaged(f"collection of {kind}s does not find its own passages")

    def close(self) -> None:
        """Let go of the client; one that is too damaged to be closed is left behind."""
        try:
            with damage():
                self._client.close()
                if self._session is not None:
                    self._session.close()
        except IndexDamaged as error:
            log.warning("knowledge index not closed: %s", error.diagnostics())


def _where(root_cause: str | None) -> Mapping[str, Any] | None:
    return None if root_cause is None else {"root_causes": {"$contains": root_cause}}


def import_chroma() -> Any:
    """Chroma, imported where it is used (half a second of CPU); raises NotInstalled."""
    try:
        import chromadb
    except ImportError as error:
        raise NotInstalled("service", str(error.name)) from None
    return chromadb


class IndexFolder:
    """The index's folder on disk; only its owner may open it."""

    def __init__(self, path: Path) -> None:
        """Use `path`, made where it is absent."""
        self._path = path
        self._marker = path / "index.json"

    def open(self) -> tuple[ChromaIndex, bool]:
        """Open the present generation, or begin a new one; True where it is new and empty."""
        make_folder(self._path, 0o700)
        generation, fault = self._present()
        if generation is not None:
            try:
                return self._opened(generation, checked=True), False
            except IndexDamaged as error:
                fault = error.diagnostics()
        if fault:
            self.set_aside(fault)
        return self.begin(), True

    def begin(self) -> ChromaIndex:
        """Begin a new, empty generation and make it the present one; the one before it is removed."""
        generation = f"chroma-{uuid4().hex[:12]}"
        index = self._opened(generation, checked=False)
        marker = {"format": FORMAT, "chroma": import_chroma().__version__, "generation": generation}
        fresh = self._marker.with_suffix(".new")
        fresh.write_text(json.dumps(marker) + "\n", encoding="utf-8")
        fresh.replace(self._marker)
        for old in self._path.glob("chroma-*"):
            if old.name != generation:
                shutil.rmtree(old, ignore_errors=True)
        return index

    def set_aside(self, fault: str) -> None:
        """Rename everything that is here into `aside-NNNN` and say so; the newest of these are kept."""
        taken = sorted(self._path.glob("aside-*"))
        number = int(taken[-1].name.partition("-")[2]) + 1 if taken else 1
        aside = self._path / f"aside-{number:04d}"
        aside.mkdir(mode=0o700)
        for item in sorted(self._path.iterdir()):
            if not item.name.startswith("aside-"):
                item.rename(aside / item.name)
        log.warning("knowledge index set aside in `%s` and made again from the records: %s", aside, fault)
        for old in [*taken, aside][:-ASIDE_KEPT]:
            shutil.rmtree(old, ignore_errors=True)

    def _present(self) -> tuple[str | None, str]:
        """The generation in use, or None and what is wrong (empty where there is simply nothing)."""
        if not self._marker.exists():
            foreign = [item.name for item in self._path.iterdir() if not item.name.startswith("aside-")]
            return None, f"`{foreign[0]}` is not ours" if foreign else ""
        try:
            marker = loads_json(self._marker.read_bytes(), where=str(self._marker))
        except BadInput as error:
            return None, error.diagnostics()
        version = import_chroma().__version__
        written = marker if isinstance(marker, dict) else {}
        if written.get("format") != FORMAT or written.get("chroma") != version:
            return (
                None,
                f"written by format {written.get('format')}, Chroma {written.get('chroma')}, not {FORMAT}, {version}",
            )
        generation = str(written.get("generation"))
        if Path(generation).name != generation or not generation.startswith("chroma-"):
            return None, "the marker names no generation"
        fault = _database_fault(self._path / generation / "chroma.sqlite3")
        return (None, fault) if fault else (generation, "")

    def _opened(self, generation: str, *, checked: bool) -> ChromaIndex:
        chromadb = import_chroma()
        with damage():
            client = chromadb.PersistentClient(
                str(self._path / generation), settings=chromadb.config.Settings(anonymized_telemetry=False)
            )
            index = ChromaIndex(client, alone=True)
            if checked:
                index.check()
            return index


def _database_fault(path: Path) -> str:
    """What is wrong with Chroma's tables, empty where nothing is (asked before Chroma, whose core may panic)."""
    if not path.is_file():
        return f"`{path.name}` is missing"
    try:
        with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as database:
            answer = database.execute("PRAGMA quick_check(1)").fetchone()
    except sqlite3.Error as error:
        return f"`{path.name}`: {error}"
    return "" if answer == ("ok",) else f"`{path.name}`: {answer}"


class damage:  # noqa: N801
    """Context: every error of Chroma, a panic of its Rust core included, becomes IndexDamaged; our own errors pass."""

    def __enter__(self) -> None:
        """Nothing to prepare."""

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        """Translate."""
        if error is None or isinstance(error, Error):
            return
        if not isinstance(error, Exception) and type(error).__module__ != "pyo3_runtime":
            return
        raise IndexDamaged(f"{type(error).__name__}: {error}") from error


def open_server(url: str) -> ChromaIndex:
    """The collections of a Chroma server at `http(s)://host:port`; raises BadInput (the URL), Retry (it is away)."""
    from urllib.parse import urlsplit

    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.username or parts.query:
        raise BadInput("Chroma server", got=url, expected="a URL like `http://127.0.0.1:8000`")
    chromadb = import_chroma()
    import httpx

    try:
        with damage():
            httpx.get(f"{url.rstrip('/')}/api/v2/heartbeat", timeout=SERVER_TIMEOUT_S).raise_for_status()
            client = chromadb.HttpClient(
                host=parts.hostname,
                port=parts.port or (443 if parts.scheme == "https" else 80),
                ssl=parts.scheme == "https",
                settings=chromadb.config.Settings(anonymized_telemetry=False),
            )
            # Chroma sets no timeout of its own: a server that hangs would hang us.
            session = client._server._session  # noqa: SLF001
            session.timeout = httpx.Timeout(SERVER_TIMEOUT_S)
            return ChromaIndex(client, prefix="driftwarden-", session=session)
    except IndexDamaged as error:
        raise Retry(f"Chroma server `{url}` does not serve: {error.diagnostics()}") from None
