"""What was changed for a model, as the ledger has it, and which drift that ended. Pure.

A changed champion or reference ends all drift that was measured before it. Rows that were kept out, or released, end the drift
of those rows alone: what other rows say of the model is as true as it was.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from driftwarden.clock import parse_rfc3339, rfc3339
from driftwarden.contracts.base import ActionName
from driftwarden.contracts.effects import ActionRequest, EffectResult
from driftwarden.service.workflow.incident import Incident

_NO_CHANGE = frozenset({"notify", "none"})


@dataclass(frozen=True)
class Change:
    """When (RFC 3339) something in force changed; `rows` (`uri`, `start`, `end`): for these alone, None: for all of the model."""

    at: str
    rows: Mapping[str, Any] | None = None


def changes_of(entries: Mapping[str, Mapping[str, Any]], model: str, *, besides: str) -> list[Change]:
    """The changes of one model by other incidents than `besides`; `entries` as `Ledger.entries` gives them.

    A quarantine of which the ledger does not say which rows it was about (an earlier version's) ends no drift.
    """
    found = []
    for key, entry in entries.items():
        concerns = entry["model"] == model or model in entry.get("models", ())
        if entry.get("changed") is None or entry["action"] in _NO_CHANGE or not concerns:
            continue
        if key.partition("#")[0] == besides:
            continue
        at = rfc3339(datetime.fromtimestamp(entry["changed"] / 1000, UTC))
        rows = entry.get("rows", {}).get(model, {}) if entry["action"] == ActionName.QUARANTINE_DATA else None
        found.append(Change(at, rows))
    return found


def rows_of(request: ActionRequest, result: EffectResult) -> dict[str, dict[str, Any]] | None:
    """By model the rows that a quarantine, or its taking back, was about; None for any other effect."""
    if result.action is not ActionName.QUARANTINE_DATA:
        return None
    reached = result.data.get("batches") if request.members else [request.model.name]
    return {
        one.model.name: {"uri": one.window_uri, "start": one.window_start, "end": one.window_end}
        for one in (request, *request.members)
        if one.model.name in (reached or ())
    }


def others_changed(incident: Incident, result: EffectResult) -> list[str] | None:
    """The other models that data were kept out of, or released for; None where it is about all that are concerned."""
    if not incident.others or result.action is not ActionName.QUARANTINE_DATA:
        return None
    return [model for model in result.data.get("batches") or () if model != incident.model]


def ended_at(window: Mapping[str, Any], middle: datetime, changes: Sequence[Change], *, timed: bool) -> str | None:
    """The moment (RFC 3339) of the last change that ended a window's drift, or None: it counts.

    `middle` of the window's time: it is from before a change where no more than half of it lies after. Of a change of some rows
    alone, no more than half of it may lie outside of them. `timed`: the model's rows have times; else the file tells.
    """
    ended = [
        change.at
        for change in changes
        if middle <= parse_rfc3339(change.at) and (change.rows is None or lies_in(window, change.rows, timed=timed))
    ]
    return max(ended, default=None)


def lies_in(window: Mapping[str, Any], rows: Mapping[str, Any], *, timed: bool) -> bool:
    """Whether no more than half of a window lies outside of these rows (both `uri`, `start`, `end`)."""
    spans = [window.get("start"), window.get("end"), rows.get("start"), rows.get("end")]
    if not timed or None in spans:
        return window.get("uri") is not None and window.get("uri") == rows.get("uri")
    start, end, first, last = (parse_rfc3339(str(moment)) for moment in spans)
    inside = min(end, last) - max(start, first)
    return inside >= (end - start) / 2 if end > start else first <= end <= last
