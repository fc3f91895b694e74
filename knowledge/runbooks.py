"""Runbooks: Markdown with strict YAML front matter, shipped in `runbooks/` or added by a team."""

import hashlib
import re
from importlib.resources import files
from typing import Any, get_args

from driftwarden.contracts.base import ActionName, RootCause, Value
from driftwarden.contracts.event import EventKind
from driftwarden.errors import BadInput
from driftwarden.strict import Lines, load_yaml

RUNBOOK_CHARS_MAX = 64_000
_ID = re.compile(r"[a-z0-9]+(?:-[a-z0-9]+)*")
_FIELDS = ("id", "title", "root_causes", "actions", "kinds", "revision")
_EXPECTED = "front matter with " + ", ".join(f"`{field}`" for field in _FIELDS)


class Section(Value):
    """One `## heading` of a runbook with its text."""

    heading: str
    text: str


class Runbook(Value):
    """One runbook: what it is about, its sections, and the text as it was written."""

    id: str
    title: str
    root_causes: tuple[RootCause, ...]
    actions: tuple[ActionName, ...]
    kinds: tuple[str, ...]
    revision: int
    sections: tuple[Section, ...]
    source: str

    @property
    def digest(self) -> str:
        """SHA-256 of the source, as hex."""
        return hashlib.sha256(self.source.encode("utf-8", "surrogatepass")).hexdigest()


def packaged_runbooks() -> tuple[Runbook, ...]:
    """The runbooks that ship with driftwarden, ordered by id."""
    folder = files("driftwarden.knowledge").joinpath("runbooks")
    found = [
        parse_runbook(item.read_text(encoding="utf-8"), where=f"runbooks/{item.name}")
        for item in folder.iterdir()
        if item.name.endswith(".md")
    ]
    return tuple(sorted(found, key=lambda runbook: runbook.id))


def parse_runbook(text: str, *, where: str) -> Runbook:
    """Read one runbook; raises BadInput with file and line for anything that is not as it must be."""
    if len(text) > RUNBOOK_CHARS_MAX:
        raise BadInput(
            "runbook too long", got=f"{len(text)} characters", expected=f"at most {RUNBOOK_CHARS_MAX}", where=where
        )
    lines = text.removeprefix("\ufeff").replace("\r\n", "\n").split("\n")
    if lines[0].rstrip() != "---":
        raise BadInput("no front matter", got=lines[0], expected="`---` on the first line", where=f"{where}:1")
    end = next((number for number, line in enumerate(lines[1:], start=1) if line.rstrip() == "---"), None)
    if end is None:
        raise BadInput("front matter has no end", expected="a line `---` after it", where=f"{where}:1")
    # One empty line stands for the opening `---`, so that the parser's line numbers are the file's.
    head, places = load_yaml("\n" + "\n".join(lines[1:end]), where=where)
    fields = _Fields(head, places, where)
    return Runbook(
        id=fields.matching("id", _ID, "lowercase words joined by hyphens"),
        title=fields.text("title"),
        root_causes=tuple(
            RootCause(item) for item in fields.choices("root_causes", [cause.value for cause in RootCause])
        ),
        actions=tuple(ActionName(item) for item in fields.choices("actions", [action.value for action in ActionName])),
        kinds=fields.choices("kinds", list(get_args(EventKind))),
        revision=fields.count("revision"),
        sections=_sections(lines, end + 1, where),
        source="\n".join(lines),
    )


class _Fields:
    """The front matter, checked field by field with the line of each."""

    def __init__(self, head: Any, places: Lines, where: str) -> None:
        self._places, self._where = places, where
        if not isinstance(head, dict):
            raise BadInput("front matter", got=type(head).__name__, expected=_EXPECTED, where=f"{where}:1")
        for key in head:
            if key not in _FIELDS:
                raise BadInput("unknown field", got=key, expected=_EXPECTED, where=self._place(key))
        for field in _FIELDS:
            if field not in head:
                raise BadInput(f"missing field `{field}`", expected=_EXPECTED, where=f"{where}:1")
        self._head: dict[str, Any] = head

    def _place(self, *path: str | int) -> str:
        return f"{self._where}:{self._places.get(path, 1)}"

    def text(self, field: str) -> str:
        value = self._head[field]
        if not isinstance(value, str) or not 1 <= len(value.strip()) <= 200:
            raise BadInput(
                f"field `{field}`", got=value, expected="1 to 200 characters of text", where=self._place(field)
            )
        return value.strip()

    def matching(self, field: str, pattern: re.Pattern[str], expected: str) -> str:
        value = self.text(field)
        if not pattern.fullmatch(value):
            raise BadInput(f"field `{field}`", got=value, expected=expected, where=self._place(field))
        return value

    def count(self, field: str) -> int:
        value = self._head[field]
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise BadInput(f"field `{field}`", got=value, expected="a whole number from 1", where=self._place(field))
        return value

    def choices(self, field: str, allowed: list[str]) -> tuple[str, ...]:
        value = self._head[field]
        if not isinstance(value, list) or not value:
            raise BadInput(f"field `{field}`", got=value, expected="a list of at least one", where=self._place(field))
        for position, item in enumerate(value):
            if item not in allowed:
                expected = "one of " + ", ".join(allowed)
                raise BadInput(f"field `{field}`", got=item, expected=expected, where=self._place(field, position))
        return tuple(dict.fromkeys(value))


def _sections(lines: list[str], start: int, where: str) -> tuple[Section, ...]:
    found: list[tuple[str, list[str]]] = []
    fenced = False
    for number, line in enumerate(lines[start:], start=start + 1):
        fenced ^= line.startswith("```")
        if line.startswith("## ") and not fenced:
            found.append((line[3:].strip(), []))
        elif found:
            found[-1][1].append(line)
        elif line.strip() and not line.startswith("# "):
            raise BadInput(
                "text before the first section", got=line, expected="a heading `## ...`", where=f"{where}:{number}"
            )
    sections = tuple(Section(heading=heading, text="\n".join(body).strip()) for heading, body in found)
    if not any(section.text for section in sections):
        raise BadInput("no text", expected="at least one section `## ...` with text", where=f"{where}:{start}")
    return sections
