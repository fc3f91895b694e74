"""Passages: what is put into the index for a runbook or an incident, and the hit that is made of them again."""

import hashlib
import json
from collections.abc import Iterable, Sequence
from typing import Any, Literal

from pydantic import ValidationError

from driftwarden.contracts.base import Value
from driftwarden.contracts.ports import JsonObject, KnowledgeHit, PastIncident
from driftwarden.knowledge.runbooks import Runbook
from driftwarden.knowledge.texts import SEARCH_CHARS_MAX, TEXT_CHARS_MAX, bounded, line

Kind = Literal["runbook", "incident"]
FORMAT = "1"


class Passage(Value):
    """One entry of the index: a section of a runbook, or a whole incident. `search_text` (lowercase) is embedded and looked
    through for words, `text` is shown."""

    id: str
    kind: Kind
    parent: str
    position: int
    title: str
    text: str
    search_text: str
    root_causes: tuple[str, ...]
    facts: JsonObject

    @property
    def metadata(self) -> JsonObject:
        """The fixed set of keys in Chroma: an upsert merges keys, so a key that comes and goes would stay."""
        content = self.model_dump_json()
        return {
            "digest": hashlib.sha256((FORMAT + content).encode("utf-8")).hexdigest(),
            "facts": json.dumps(self.facts, sort_keys=True),
            "parent": self.parent,
            "position": self.position,
            "root_causes": list(self.root_causes) or ["unknown"],
            "text": self.text,
            "title": self.title,
        }


def runbook_passages(runbook: Runbook, *, origin: Literal["packaged", "added"]) -> tuple[Passage, ...]:
    """A runbook's sections; each carries the title and the causes, so that it is found by either."""
    title = line(runbook.title)
    subject = f"{title}. {' '.join(runbook.root_causes)} {' '.join(runbook.actions)}"
    facts: JsonObject = {
        "root_causes": list(runbook.root_causes),
        "actions": list(runbook.actions),
        "kinds": list(runbook.kinds),
        "revision": runbook.revision,
        "origin": origin,
    }
    return tuple(
        Passage(
            id=f"{runbook.id}#{position}",
            kind="runbook",
            parent=runbook.id,
            position=position,
            title=title,
            text=bounded(f"{section.heading}\n{section.text}"),
            search_text=bounded(f"{subject}\n{section.heading}\n{section.text}", SEARCH_CHARS_MAX).lower(),
            root_causes=tuple(runbook.root_causes),
            facts=facts,
        )
        for position, section in enumerate(runbook.sections)
        if section.text
    )


def incident_passage(incident: PastIncident) -> Passage:
    """One incident as one passage; its texts are untrusted and are cleaned and bounded here.

    Raises ValueError for an id that cannot be one.
    """
    if not incident.id.strip() or line(incident.id) != incident.id:
        raise ValueError("incident id")
    columns = ", ".join(line(column, 80) for column in incident.columns[:20])
    helped = {True: "helped", False: "did not help", None: "effect not known"}[incident.helped]
    gain = "" if incident.relative_gain is None else f", relative gain {incident.relative_gain:+.3f}"
    head = (
        f"Model {line(incident.model)} at {line(incident.at, 40)}: {line(incident.root_cause, 40)}"
        f"{f' in {columns}' if columns else ''}; {line(incident.action, 40)}, {line(incident.outcome, 40)}, "
        f"{line(incident.state, 40)}: {helped}{gain}."
    )
    summary = bounded(incident.summary, SEARCH_CHARS_MAX)
    return Passage(
        id=incident.id,
        kind="incident",
        parent=incident.id,
        position=0,
        title=line(f"{incident.model}: {incident.root_cause}, {incident.action}, {helped}"),
        text=bounded(f"{head}\n{summary}"),
        search_text=bounded(f"{head}\n{summary}", SEARCH_CHARS_MAX).lower(),
        root_causes=(line(incident.root_cause, 40),),
        facts={
            "model": line(incident.model),
            "root_cause": line(incident.root_cause, 40),
            "columns": [line(column, 80) for column in incident.columns[:20]],
            "action": line(incident.action, 40),
            "outcome": line(incident.outcome, 40),
            "state": line(incident.state, 40),
            "helped": incident.helped,
            "relative_gain": incident.relative_gain,
            "at": line(incident.at, 40),
            "correlation_id": line(incident.correlation_id, 64),
        },
    )


def incident_of(record: JsonObject) -> PastIncident:
    """Read an incident from a record or a request; raises ValueError where it is none."""
    try:
        return PastIncident.model_validate(record)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise ValueError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from None


def hit_of(rows: Sequence[tuple[float, JsonObject]], kind: Kind) -> KnowledgeHit:
    """One hit from the scored passages (score, metadata) of one parent, best first; text at most 2,000 characters.

    The best passages that fit are shown in the order of the document.
    """
    best = rows[0][1]
    chosen: list[JsonObject] = []
    room = TEXT_CHARS_MAX
    for _, metadata in rows:
        size = len(metadata["text"]) + 2
        if chosen and size > room:
            continue
        chosen.append(metadata)
        room -= size
    text = "\n\n".join(item["text"] for item in sorted(chosen, key=_position))
    return KnowledgeHit(
        id=best["parent"],
        kind=kind,
        title=best["title"],
        text=bounded(text),
        score=round(min(1.0, max(0.0, rows[0][0])), 6),
        metadata=json.loads(best["facts"]),
    )


def entries_of(metadatas: Iterable[JsonObject], kind: Kind) -> list[KnowledgeHit]:
    """Every parent among the passages as a hit with score 1, ordered by id."""
    parents: dict[str, list[JsonObject]] = {}
    for metadata in metadatas:
        parents.setdefault(metadata["parent"], []).append(metadata)
    return [hit_of([(1.0, item) for item in sorted(parents[id], key=_position)], kind) for id in sorted(parents)]


def _position(metadata: JsonObject) -> Any:
    return metadata["position"]
