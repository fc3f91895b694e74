"""Which windows an incident was told of, and which of them still count. Pure.

A producer's word opens a window and never closes one. What takes a window out is an effect that was done since, or rows: a later
window of the same source that the service read and measured itself, and whose rows are later than those of the one it replaces.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from driftwarden.clock import parse_rfc3339
from driftwarden.contracts.event import DriftData, DriftEvent
from driftwarden.service.workflow.facts import proven_loss
from driftwarden.service.workflow.incident import SeenWindow
from driftwarden.strict import digest, plain

# Less than this is no harm (agents/remedies.py draws the same line).
LOSS_MIN = 0.005
# Fewer rows than this prove no model well.
ROWS_MIN = 50
# Figures that the service came to itself; what is `reported` is a producer's word.
OWN_BASIS = frozenset({"measured", "estimated"})

# The place of a file in the model's history, for models whose rows have no times; None: it is not in it.
Position = Callable[[str], int | None]


def key_of(event: DriftEvent) -> str:
    """The event's identity."""
    return f"{event.source}\n{event.id}"


def moment_of(event: DriftEvent) -> datetime:
    """What the event is about: the end of its window, else its own time."""
    window = getattr(event.data, "window", None)
    return window.end if window is not None and window.end is not None else event.time


def middle_of(event: DriftEvent) -> datetime:
    """The moment by which half of the window's time is over; its end, or the event's time, where no more is told."""
    window = event.data.window if isinstance(event.data, DriftData) else None
    if window is None or window.end is None:
        return event.time
    if window.start is None or window.start > window.end:
        return window.end
    return window.start + (window.end - window.start) / 2


def content_of(data: Mapping[str, Any]) -> str:
    """What would be measured for an event of these JSON-able data: the same rows, held against the same, are measured once."""
    uri = (data.get("window") or {}).get("uri")
    return digest(plain([uri, _reference_of(data), data.get("performance")]))


def _reference_of(data: Mapping[str, Any]) -> Any:
    return (data.get("reference") or {}).get("uri")


@dataclass(frozen=True)
class Told:
    """One window as one source told of it, by its newest event that did: `data` are that one's, JSON-able.

    `content` as `content_of` names it; `over`: since when (RFC 3339) its drift is mended; None: it counts.
    """

    event: DriftEvent
    data: dict[str, Any]
    content: str
    place: int
    over: str | None = None

    @property
    def window(self) -> dict[str, Any]:
        """The window's fields, or none."""
        return self.data.get("window") or {}

    @property
    def uri(self) -> str | None:
        """Where its rows can be read."""
        return self.window.get("uri")

    @property
    def recency(self) -> tuple[datetime, int]:
        """More is newer: the end of its rows, then the order in which the events came."""
        return moment_of(self.event), self.place

    @property
    def loudness(self) -> tuple[float, float]:
        """How bad its producer says that it is; it orders what is measured first, and decides nothing."""
        told = self.data.get("performance") or {}
        reference, current = told.get("reference"), told.get("current")
        lost = abs(reference - current) / abs(reference) if reference and current is not None else 0.0
        return lost, float(self.data.get("drift_share") or 0.0)


def windows_of(events: Sequence[DriftEvent]) -> list[Told]:
    """The distinct windows that these events of one model tell of, in the order in which each was last told of."""
    found: dict[tuple[Any, ...], Told] = {}
    for place, event in enumerate(events):
        data = event.data.model_dump(mode="json")
        one = Told(event, data, content_of(data), place)
        found[event.source, one.content, one.window.get("start"), one.window.get("end")] = one
    return sorted(found.values(), key=lambda one: one.place)


def loss_of(seen: SeenWindow | None) -> float | None:
    """What the model measurably loses on the window; None where that is not known."""
    return None if seen is None or seen.fault else proven_loss(seen.performance)


def is_own(seen: SeenWindow) -> bool:
    """Whether the service came to the figures itself; what is reported is a producer's word."""
    return seen.performance.get("basis") in OWN_BASIS


def replaces(
    newer: Told, older: Told, seen: SeenWindow | None, *, timed: bool, position: Position, rows_max: int
) -> bool:
    """Whether `newer`, of which `seen` was measured, speaks in the place of `older`.

    Both are of one source, held against the same reference, and `newer` was measured by the service itself with labels (an
    estimate sees no harm from a changed relation), on at least half as many rows as the older has (of which at most `rows_max`
    would be measured; as many as that, where its event does not say): a handful proves nothing. That it is later is borne
    out by its rows: their own times, or where the model's rows have none (`timed`) the order of the history's files.
    """
    if seen is None or loss_of(seen) is None or seen.performance.get("basis") != "measured":
        return False
    alike = newer.event.source == older.event.source and _reference_of(newer.data) == _reference_of(older.data)
    if not alike or moment_of(newer.event) <= moment_of(older.event):
        return False
    rows = seen.performance.get("labelled_rows") or 0
    if rows < max(ROWS_MIN, min(older.window.get("rows") or rows_max, rows_max) / 2):
        return False
    if not timed:
        places = [position(one.uri) if one.uri else None for one in (older, newer)]
        return places[0] is not None and places[1] is not None and places[0] < places[1]
    if not seen.first or not seen.last:
        return False
    end = moment_of(older.event)
    start = parse_rfc3339(older.window["start"]) if older.window.get("start") else end
    return parse_rfc3339(seen.first) >= start and parse_rfc3339(seen.last) > end
