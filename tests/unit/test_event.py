"""Drift events are read as the contract says: strictly where it names a field, generously where it does not."""

import hashlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from driftwarden import DriftEvent, parse_event
from driftwarden.contracts.event import EVENT_BYTES_MAX, DriftData, PerformanceData
from driftwarden.errors import EventRejected

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


def event(**changes: Any) -> dict[str, Any]:
    """A full event; a change of None removes an attribute."""
    document = {
        "specversion": "1.0",
        "id": "e-1",
        "source": "monitor/churn",
        "type": "io.driftwarden.drift.v1",
        "time": "2026-11-20T10:00:00+01:00",
        "data": {
            "model": "churn",
            "kind": "data_drift",
            "window": {"start": "2026-11-19T00:00:00Z", "end": "2026-11-20T00:00:00Z", "rows": 500, "uri": "w.parquet"},
            "columns": [{"name": "age", "type": "numeric", "role": "feature", "score": 0.4, "drifted": True}],
            "drift_share": 0.25,
            "performance": {"metric": "accuracy", "reference": 0.9, "current": 0.8, "higher_is_better": True},
        },
    } | changes
    return {name: value for name, value in document.items() if value is not None}


def with_data(**changes: Any) -> dict[str, Any]:
    """The event with some fields of its data changed; None removes one."""
    data = {name: value for name, value in (event()["data"] | changes).items() if value is not None}
    return event(data=data)


def read(document: Any) -> DriftEvent:
    """Parse a document as it would come over the wire."""
    return parse_event(json.dumps(document))


def test_a_full_event_is_read() -> None:
    """Typed fields, the moment in UTC, the default environment, and the string that came."""
    raw = json.dumps(event())
    parsed = parse_event(raw.encode())
    assert isinstance(parsed.data, DriftData)
    assert (parsed.model, parsed.kind, parsed.data.environment) == ("churn", "data_drift", "production")
    assert parsed.time.isoformat() == "2026-11-20T09:00:00+00:00"
    assert parsed.data.columns[0].drifted is True
    assert parsed.raw == raw


def test_a_performance_report_is_read() -> None:
    """Its type decides which data it has; all four fields are required."""
    data = {"model": "churn", "environment": "staging", "window": {"rows": 10}, "performance": {"current": 0.7}}
    parsed = read(event(type="io.driftwarden.performance.v1", data=data))
    assert isinstance(parsed.data, PerformanceData)
    assert parsed.kind == "performance"
    for name in data:
        rest = {key: value for key, value in data.items() if key != name}
        with pytest.raises(EventRejected) as caught:
            read(event(type="io.driftwarden.performance.v1", data=rest))
        assert caught.value.field == f"data.{name}"


def test_fields_that_are_not_named_are_carried() -> None:
    """Everywhere, and they are shown again."""
    parsed = read(event(datacontenttype="application/json", data=event()["data"] | {"ticket": "INC-1"}))
    shown = parsed.model_dump()
    assert (shown["datacontenttype"], shown["data"]["ticket"]) == ("application/json", "INC-1")


@pytest.mark.parametrize(
    ("traceparent", "kept"),
    [
        (f"00-{TRACE}-00f067aa0ba902b7-01", True),
        (f"cc-{TRACE}-00f067aa0ba902b7-01-later", True),
        (f"00-{TRACE}-00f067aa0ba902b7-01-extra", False),
        (f"ff-{TRACE}-00f067aa0ba902b7-01", False),
        (f"00-{'0' * 32}-00f067aa0ba902b7-01", False),
        (f"00-{TRACE}-{'0' * 16}-01", False),
        (f"00-{TRACE.upper()}-00f067aa0ba902b7-01", False),
        ("nonsense", False),
        (17, False),
        (None, False),
    ],
)
def test_the_correlation_id(traceparent: Any, kept: bool) -> None:
    """The trace id where W3C allows it, else from source and id; a malformed one is ignored, never an error."""
    own = hashlib.sha256(b"monitor/churn\ne-1").hexdigest()[:32]
    assert read(event(traceparent=traceparent)).correlation_id == (TRACE if kept else own)


@pytest.mark.parametrize(
    ("document", "field"),
    [
        (event(specversion="0.3"), "specversion"),
        (event(specversion=None), "specversion"),
        (event(id=None), "id"),
        (event(id=""), "id"),
        (event(id=7), "id"),
        (event(source=""), "source"),
        (event(type="io.driftwarden.other.v1"), "type"),
        (event(time="2026-11-20T10:00:00"), "time"),
        (event(time="yesterday"), "time"),
        (event(time=1700000000), "time"),
        (event(subject=5), "subject"),
        (event(data=None), "data"),
        (event(data=[]), "data"),
        (with_data(model=None), "data.model"),
        (with_data(model="a b"), "data.model"),
        (with_data(model="x" * 129), "data.model"),
        (with_data(model="churn\n"), "data.model"),
        (with_data(kind="drift"), "data.kind"),
        (with_data(drift_share=1.5), "data.drift_share"),
        (with_data(drift_share="0.5"), "data.drift_share"),
        (with_data(drift_share=True), "data.drift_share"),
        (with_data(window={"rows": -1}), "data.window.rows"),
        (with_data(window={"rows": "500"}), "data.window.rows"),
        (with_data(window={"start": "2026-11-19"}), "data.window.start"),
        (with_data(window=[]), "data.window"),
        (with_data(columns={}), "data.columns"),
        (with_data(columns=[{}]), "data.columns.0.name"),
        (with_data(columns=[{"name": "a"}, {"name": "b", "type": "number"}]), "data.columns.1.type"),
        (with_data(columns=[{"name": "a", "drifted": "yes"}]), "data.columns.0.drifted"),
        (with_data(performance={"current": "0.8"}), "data.performance.current"),
        (with_data(report_uri=["x"]), "data.report_uri"),
    ],
)
def test_what_cannot_be_read_names_its_field(document: dict[str, Any], field: str) -> None:
    """The reason says the field, what was got, and what was expected."""
    with pytest.raises(EventRejected) as caught:
        read(document)
    assert caught.value.field == field
    assert caught.value.got is not None
    assert caught.value.expected


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"null",
        b"[]",
        b'"text"',
        b"{",
        b"\xff\xfe",
        b"[" * 9999,
    ],
)
def test_what_is_no_event_at_all(raw: bytes) -> None:
    """Not JSON, not UTF-8, not an object, nested without end: rejected as a whole."""
    with pytest.raises(EventRejected) as caught:
        parse_event(raw)
    assert caught.value.field == "event"


@pytest.mark.parametrize(
    ("raw", "field"),
    [
        ('{"id": 1, "id": 2}', "id"),
        ('{"id": "1", "data": {"model": "a", "model": "b"}}', "data.model"),
        ('{"data": {"columns": [{"name": "a"}, {"name": "b", "name": "b"}]}}', "data.columns.1.name"),
    ],
)
def test_a_key_that_stands_twice_is_named(raw: str, field: str) -> None:
    """Two values for one field are contradictory, whichever they are; the reason says which field."""
    with pytest.raises(EventRejected) as caught:
        parse_event(raw)
    assert (caught.value.field, caught.value.got, caught.value.expected) == (field, "the key twice", "each key once")


@pytest.mark.parametrize(
    ("document", "got", "expected"),
    [
        (event(source=""), "an empty string", "a string that is not empty"),
        (with_data(drift_share=True), "true", "a number"),
        (with_data(model="churn\n"), '"churn\\n"', "1 to 128 of `A-Z a-z 0-9 . _ -`"),
        (with_data(window=[None]), "[null]", "an object"),
        (event(subject=None) | {"data": None}, "null", "an object"),
    ],
)
def test_what_was_got_is_shown_as_it_came(document: dict[str, Any], got: str, expected: str) -> None:
    """An empty string, a flag, a line break: the reason shows JSON, not another language's word for it."""
    with pytest.raises(EventRejected) as caught:
        read(document)
    assert (caught.value.got, caught.value.expected) == (got, expected)


def test_the_field_of_a_union_is_named_without_its_kinds() -> None:
    """A reference's version is text or a number; what is neither is named by its field alone."""
    with pytest.raises(EventRejected) as caught:
        read(with_data(reference={"version": {}}))
    assert caught.value.field == "data.reference.version"


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_what_is_no_number_is_named_by_its_field(number: str) -> None:
    """Not-a-number and infinities are rejected wherever they stand, and the reason says where."""
    with pytest.raises(EventRejected) as caught:
        parse_event(f'{{"id": "1", "data": {{"columns": [{{"score": {number}}}]}}}}')
    assert caught.value.field == "data.columns.0.score"


def test_the_limit_of_size_is_exact() -> None:
    """1 MiB is read, one byte more is not, in bytes of UTF-8."""
    room = EVENT_BYTES_MAX - len(json.dumps(event(subject="")))
    assert read(event(subject="x" * room)).id == "e-1"
    for subject in ("x" * (room + 1), "x" * (room - 1) + "é"):
        with pytest.raises(EventRejected, match="bytes"):
            parse_event(json.dumps(event(subject=subject), ensure_ascii=False))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
)


def outcome(document: Any) -> DriftEvent | EventRejected:
    """The event, or why it was rejected; any other exception fails the test."""
    try:
        return read(document)
    except EventRejected as error:
        return error


@given(st.sampled_from(sorted(event())), JSON)
def test_any_value_anywhere_is_read_or_rejected(name: str, value: Any) -> None:
    """Whatever an attribute holds, the event is read, or rejected in words."""
    found = outcome(event() | {name: value})
    assert found.correlation_id if isinstance(found, DriftEvent) else found.diagnostics()


@given(st.sampled_from(["kind", "window", "reference", "columns", "drift_share", "performance", "detector"]), JSON)
def test_any_value_in_the_data_is_read_or_rejected(name: str, value: Any) -> None:
    """The same for the fields of the data, and the field that is named lies there."""
    found = outcome(event(data=event()["data"] | {name: value}))
    assert found.model == "churn" if isinstance(found, DriftEvent) else found.field.startswith("data.")
