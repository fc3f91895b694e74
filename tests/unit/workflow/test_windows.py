"""Which windows count, and which takes the place of another."""

import json
from typing import Any

import pytest

from driftwarden.contracts.event import parse_event
from driftwarden.service.workflow.changes import Change, ended_at
from driftwarden.service.workflow.incident import SeenWindow
from driftwarden.service.workflow.windows import Told, middle_of, replaces, windows_of

DAY = "2026-11-20T{:02d}:00:00Z"


def told(uri: str = "w.csv", start: int = 8, end: int = 9, *, source: str = "a", id: str = "1", **data: Any) -> Told:
    """The one window of an event."""
    (one,) = windows_of([event(uri, start, end, source=source, id=id, **data)])
    return one


def event(uri: str, start: int, end: int, *, source: str = "a", id: str = "1", **data: Any) -> Any:
    """An event about some hours of a day."""
    window = {"uri": uri, "start": DAY.format(start), "end": DAY.format(end)}
    document = {
        "specversion": "1.0",
        "id": id,
        "source": source,
        "type": "io.driftwarden.drift.v1",
        "time": DAY.format(end),
    }
    return parse_event(json.dumps(document | {"data": {"model": "m", "kind": "data_drift", "window": window} | data}))


def seen(
    first: int | None = 9, last: int = 10, *, loss: float | None = 0.0, basis: str = "measured", rows: int = 500
) -> SeenWindow:
    """A measured window whose rows are of these hours."""
    times = [None, None] if first is None else [DAY.format(first), DAY.format(last)]
    performance = {"relative_loss": loss, "basis": basis, "labelled_rows": rows, "rows_current": 200}
    return SeenWindow(content="c", performance=performance, first=times[0], last=times[1])


def test_one_window_of_one_source_is_told_once_by_its_newest_event() -> None:
    """Other rows, another time, another source or another reference make another window."""
    events = [
        event("w.csv", 8, 9, id="1"), event("w.csv", 8, 9, id="2", drift_share=0.5), event("v.csv", 8, 9, id="3"),
        event("w.csv", 7, 9, id="4"), event("w.csv", 8, 9, id="5", source="b"),
        event("w.csv", 8, 9, id="6", reference={"uri": "r.csv"}), event("w.csv", 8, 9, id="7", kind="data_quality"),
    ]  # fmt: skip
    assert [one.event.id for one in windows_of(events)] == ["3", "4", "5", "6", "7"]
    assert len({one.content for one in windows_of(events)}) == 3


@pytest.mark.parametrize(
    ("newer", "measured", "expected"),
    [
        ({}, seen(), True),
        ({}, seen(loss=0.5), True),
        ({"source": "b"}, seen(), False),
        ({"reference": {"uri": "w2.csv"}}, seen(), False),
        ({}, None, False),
        ({}, seen(loss=None), False),
        ({}, seen(basis="reported"), False),
        ({}, seen(basis="estimated"), False),
        ({}, seen(first=None), False),
        ({}, seen(first=7), False),
        ({}, seen(first=8, last=9), False),
        ({"start": 7, "end": 8}, seen(), False),
        ({}, seen(rows=20), False),
        ({}, seen(rows=499), False),
    ],
)
def test_only_later_rows_of_the_same_source_take_a_place(
    newer: dict[str, Any], measured: SeenWindow | None, expected: bool
) -> None:
    """And only where the service measured them itself, with labels, against the same reference, and on half of what the older
    may have: as many as are measured at most, where its event does not say."""
    one = told("w2.csv", **({"start": 9, "end": 10} | newer))
    assert replaces(one, told(), measured, timed=True, position=lambda uri: None, rows_max=1000) is expected


@pytest.mark.parametrize(
    ("places", "expected"), [((0, 1), True), ((1, 0), False), ((None, 1), False), ((0, None), False)]
)
def test_rows_without_times_are_later_by_their_place_in_the_history(places: Any, expected: bool) -> None:
    """The order of the history's files, which no event chooses."""
    position = dict(zip(("w.csv", "w2.csv"), places, strict=True)).get
    newer = told("w2.csv", start=9, end=10)
    assert replaces(newer, told(), seen(first=None), timed=False, position=position, rows_max=1000) is expected


@pytest.mark.parametrize(
    ("change", "timed", "over"),
    [
        (Change(DAY.format(9)), True, True),
        (Change(DAY.format(7)), True, False),
        (Change(DAY.format(12), {"uri": None, "start": DAY.format(8), "end": DAY.format(9)}), True, True),
        (Change(DAY.format(12), {"uri": "v.csv", "start": DAY.format(6), "end": DAY.format(8)}), True, False),
        # One file that all rows are appended to: its name says nothing where the times do.
        (Change(DAY.format(12), {"uri": "w.csv", "start": DAY.format(6), "end": DAY.format(8)}), True, False),
        (Change(DAY.format(12), {"uri": "w.csv", "start": None, "end": None}), True, True),
        (Change(DAY.format(12), {"uri": "v.csv", "start": DAY.format(8), "end": DAY.format(9)}), False, False),
        (Change(DAY.format(12), {"uri": "w.csv", "start": DAY.format(1), "end": DAY.format(2)}), False, True),
        (Change(DAY.format(7), {"uri": "w.csv", "start": DAY.format(8), "end": DAY.format(9)}), True, False),
        (Change(DAY.format(12), {}), True, False),
    ],
)
def test_a_change_ends_the_drift_that_it_was_about(change: Change, timed: bool, over: bool) -> None:
    """All that was measured before it, or of some rows alone what lies in them."""
    one = told()
    assert (ended_at(one.window, middle_of(one.event), [change], timed=timed) is not None) is over


def test_half_a_window_in_the_rows_that_were_kept_out_is_over() -> None:
    """More than half outside of them is drift of other rows."""
    rows = {"uri": "v.csv", "start": DAY.format(8), "end": DAY.format(10)}
    ends = [
        ended_at(one.window, middle_of(one.event), [Change(DAY.format(20), rows)], timed=True) is not None
        for one in (told(start=6, end=10), told(start=5, end=10))
    ]
    assert ends == [True, False]
