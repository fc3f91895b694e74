"""Reading the log: every record in time order across its writers, the story of one incident, a search."""

import heapq
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby
from pathlib import Path
from typing import Any

from driftwarden.audit.files import log_files, parse_line, whole_lines
from driftwarden.audit.record import HEX_32, Record
from driftwarden.clock import rfc3339
from driftwarden.errors import BadInput, NotFound

_Document = dict[str, Any]


def read_records(directory: Path, *, skip_damaged: bool = False) -> Iterator[Record]:
    """Every whole record, ordered by `ts`, then causes before what they caused; each stream keeps its own order.

    A torn tail is left out. A damaged line raises BadInput with file and line (or is left out); whether the log is whole
    is for `verify` to say.
    """
    return (Record.model_validate(document) for document in _documents(directory, skip_damaged=skip_damaged))


def _documents(directory: Path, *, skip_damaged: bool = False, needles: Iterable[bytes] = ()) -> Iterator[_Document]:
    wanted = tuple(needles)
    files: dict[str, list[tuple[int, Path]]] = {}
    for path in log_files(directory):
        first = next(_file_documents(path, skip_damaged, ()), None)
        if first is not None:
            files.setdefault(first["stream"], []).append((first["seq"], path))
    streams = [_stream_documents([path for _, path in sorted(of)], skip_damaged, wanted) for of in files.values()]
    merged = heapq.merge(*streams, key=lambda document: document["ts"])
    for _, same_moment in groupby(merged, key=lambda document: document["ts"]):
        yield from _causes_first(list(same_moment))


def _stream_documents(paths: list[Path], skip_damaged: bool, needles: tuple[bytes, ...]) -> Iterator[_Document]:
    for path in paths:
        yield from _file_documents(path, skip_damaged, needles)


def _file_documents(path: Path, skip_damaged: bool, needles: tuple[bytes, ...]) -> Iterator[_Document]:
    for number, line in enumerate(whole_lines(path), 1):
        if needles and not any(needle in line for needle in needles):
            continue
        try:
            yield parse_line(line, where=f"{path}:{number}")
        except BadInput:
            if not skip_damaged:
                raise


def _causes_first(documents: list[_Document]) -> list[_Document]:
    """A stable order in which every record follows its cause and its predecessor in the stream, where they are here."""
    if len(documents) < 2:
        return documents
    here = {document["@hash"]: document for document in documents}
    done: set[str] = set()
    ordered: list[_Document] = []
    for document in documents:
        waiting = [document]
        while waiting:
            top = waiting[-1]
            before = [h for h in (top["prev"], top["causation"]) if h in here and h not in done]
            fresh = [h for h in before if all(h != other["@hash"] for other in waiting)]
            if fresh:
                waiting.append(here[fresh[0]])
                continue
            waiting.pop()
            if top["@hash"] not in done:
                done.add(top["@hash"])
                ordered.append(top)
    return ordered


def _needle(text: str) -> bytes:
    return json.dumps(text, ensure_ascii=False)[1:-1].encode()


def story(directory: Path, id: str, *, skip_damaged: bool = False) -> list[Record]:
    """Everything about one incident (id or unambiguous prefix) or correlation id, in time order across writers.

    An incident's story holds its own records and those of its events that name no incident. Raises NotFound, and
    BadInput where a prefix is ambiguous.
    """
    if not id:
        raise BadInput("incident or correlation id", got="nothing", expected="an id, or a prefix of an incident's")
    near = list(_documents(directory, skip_damaged=skip_damaged, needles=[_needle(id)]))
    by_correlation = HEX_32.fullmatch(id) and any(document["correlation_id"] == id for document in near)
    if by_correlation:
        incidents = {document["incident"] for document in near if document["correlation_id"] == id} - {None}
        correlations = {id}
    else:
        incidents = {_the_incident(id, near)}
        correlations = {d["correlation_id"] for d in near if d["incident"] in incidents} - {None}
    needles = [_needle(text) for text in sorted(incidents | correlations)]
    return [
        Record.model_validate(document)
        for document in _documents(directory, skip_damaged=skip_damaged, needles=needles)
        if document["incident"] in incidents
        or (document["correlation_id"] in correlations and document["incident"] is None)
    ]


def whole_incident(directory: Path, prefix: str) -> str:
    """The id of the one incident of the log that begins so; raises NotFound, and BadInput where there are several."""
    near = list(_documents(directory, skip_damaged=True, needles=[_needle(prefix)])) if prefix else []
    return _the_incident(prefix, near)


def _the_incident(prefix: str, documents: list[_Document]) -> str:
    ids = {document["incident"] for document in documents if (document["incident"] or "").startswith(prefix)}
    if prefix in ids or len(ids) == 1:
        return prefix if prefix in ids else ids.pop()
    if ids:
        raise BadInput("ambiguous id", got=prefix, expected=f"one of: {', '.join(sorted(ids)[:8])}")
    raise NotFound("no record of this id", got=prefix, expected="an incident id, a prefix of one, or a correlation id")


@dataclass(frozen=True)
class Criteria:
    """What a search looks for; every criterion that is given must hold. Times: `since` <= ts < `until`."""

    since: datetime | None = None
    until: datetime | None = None
    model: str | None = None
    types: tuple[str, ...] = ()
    actor: str | None = None
    outcome: str | None = None
    text: str | None = None
    incident: str | None = None


def search(directory: Path, criteria: Criteria, *, skip_damaged: bool = False) -> Iterator[Record]:
    """Records that match, in time order. `model` follows an incident from the event that named the model."""
    since = rfc3339(criteria.since) if criteria.since else ""
    until = rfc3339(criteria.until) if criteria.until else "~"
    models = _Models()
    for document in _documents(directory, skip_damaged=skip_damaged):
        model = models.of(document)
        if not since <= document["ts"] < until:
            continue
        if criteria.model is not None and model != criteria.model:
            continue
        if _matches(document, criteria):
            yield Record.model_validate(document)


def _matches(document: _Document, criteria: Criteria) -> bool:
    if criteria.types and document["type"] not in criteria.types:
        return False
    if criteria.actor is not None and criteria.actor not in _actors(document["actor"]):
        return False
    if criteria.incident is not None and not (document["incident"] or "").startswith(criteria.incident):
        return False
    if criteria.outcome is not None and outcome_of(document) != criteria.outcome:
        return False
    return criteria.text is None or criteria.text.lower() in json.dumps(document, ensure_ascii=False).lower()


def _actors(actor: _Document) -> tuple[str, ...]:
    """What an actor is found by: its kind, its id, and each of several people who did it together."""
    return (actor["kind"], actor["id"], *actor["id"].split(", "))


def outcome_of(document: _Document) -> str | None:
    """What a record ends in: a decision's outcome, an approval's or verification's verdict."""
    body = document["body"]
    decision = body.get("decision")
    values = (decision.get("outcome") if isinstance(decision, dict) else None, body.get("verdict"), body.get("outcome"))
    return next((value for value in values if isinstance(value, str)), None)


class _Models:
    """Which model a record is about: named in its body, or by an earlier record of its incident or correlation id."""

    def __init__(self) -> None:
        self._known: dict[str, str] = {}

    def of(self, document: _Document) -> str | None:
        named = model_in(document["body"])
        keys = [key for key in (document["incident"], document["correlation_id"]) if key]
        if named is None:
            return next((self._known[key] for key in keys if key in self._known), None)
        for key in keys:
            self._known.setdefault(key, named)
        return named


def model_in(body: _Document) -> str | None:
    """The model that a record's body names, None where it names none."""
    event = event_in(body)
    facts = body.get("facts")
    places: list[Any] = [body.get("model"), event.get("data") if event else None, facts]
    for place in places:
        if isinstance(place, str):
            return place
        if isinstance(place, dict):
            inner = place.get("model", place.get("name"))
            inner = inner.get("name") if isinstance(inner, dict) else inner
            inner = place.get("model.name", inner)
            if isinstance(inner, str):
                return inner
    return None


def event_in(body: _Document) -> _Document | None:
    """The drift event in an `event` record's body, parsed, None where it cannot be read."""
    raw = body.get("event")
    if not isinstance(raw, str):
        return None
    try:
        event = json.loads(raw)
    except (ValueError, RecursionError):
        return None
    return event if isinstance(event, dict) else None
