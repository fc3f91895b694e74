"""The body of a `policy_change` audit record, and a policy made from it again: with the window intervals of that day."""

from collections.abc import Mapping
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any, Final

from driftwarden import __version__
from driftwarden.errors import BadInput
from driftwarden.policies.document import PolicyDocument
from driftwarden.policies.facts import moment
from driftwarden.policies.reader import read_policy
from driftwarden.policies.reading import Node
from driftwarden.policies.rules import moment_text
from driftwarden.policies.windows import YEAR_MAX, YEAR_MIN, Timeline, resolve, year_start
from driftwarden.policies.zones import data_versions, epoch
from driftwarden.strict import JsonObject, digest

ENGINE_VERSION: Final = f"driftwarden {__version__}"
_YEARS_DEFAULT: Final = (2024, 2033)
_WHERE = "policy_change record"


def change_body(document: PolicyDocument, policy_digest: str, now: datetime | None) -> JsonObject:
    """The record's body: canonical policy, digest, versions, and each window's intervals in UTC over a stated horizon."""
    first, last = _YEARS_DEFAULT if now is None else (now.astimezone(UTC).year - 1, now.astimezone(UTC).year + 2)
    first, last = max(first, YEAR_MIN), min(last, YEAR_MAX)
    return {
        "policy": document.raw,
        "digest": policy_digest,
        "engine": ENGINE_VERSION,
        **data_versions(),
        "horizon": {"from": _text(year_start(first)), "to": _text(year_start(last + 1))},
        "windows": {window.id: _intervals(resolve(window, first, last)) for window in document.windows},
    }


def _intervals(timeline: Timeline) -> list[list[str]] | None:
    if timeline.known_to == timeline.known_from:
        return None
    return [[_text(start), _text(end)] for start, end in zip(timeline.starts, timeline.ends, strict=True)]


def _text(at: int) -> str:
    return moment_text(datetime.fromtimestamp(at, UTC))


def document_of(body: Mapping[str, Any]) -> PolicyDocument:
    """The policy of a record's body; BadInput where it is not one, or its digest is not that of its policy."""
    raw, stated = body.get("policy"), body.get("digest")
    if not isinstance(raw, dict):
        raise BadInput("`policy`", got=type(raw).__name__, expected="the canonical policy", where=_WHERE)
    if stated != digest(raw):
        raise BadInput("`digest`", got=stated, expected=digest(raw), where=_WHERE)
    return read_policy(Node(raw, (), {}, _WHERE))


def recorded_timelines(body: Mapping[str, Any], document: PolicyDocument) -> dict[str, Timeline]:
    """The recorded intervals by window id; BadInput where they are missing, unordered or not times."""
    horizon, windows = body.get("horizon"), body.get("windows")
    if not isinstance(horizon, dict) or not isinstance(windows, dict):
        raise BadInput("`windows`", got="nothing", expected="the resolved intervals and their horizon", where=_WHERE)
    begin, end = _seconds(horizon.get("from")), _seconds(horizon.get("to"))
    timelines: dict[str, Timeline] = {}
    for window in document.windows:
        intervals = windows.get(window.id)
        if intervals is None:
            continue
        if not isinstance(intervals, list) or not all(isinstance(item, list) and len(item) == 2 for item in intervals):
            raise BadInput(f"`windows.{window.id}`", got="another form", expected="pairs of times", where=_WHERE)
        bounds = [(_seconds(start), _seconds(stop)) for start, stop in intervals]
        flat = [at for pair in bounds for at in pair]
        if any(later <= earlier for earlier, later in pairwise(flat)):
            raise BadInput(f"`windows.{window.id}`", got="unordered times", expected="intervals in order", where=_WHERE)
        timelines[window.id] = Timeline(
            tuple(start for start, _ in bounds), tuple(stop for _, stop in bounds), begin, end
        )
    return timelines


def _seconds(value: object) -> int:
    found = moment(value)
    if found is None:
        raise BadInput("`windows`", got=value, expected="RFC 3339 times", where=_WHERE)
    return epoch(found)
