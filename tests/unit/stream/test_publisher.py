"""Building and checking events before they leave, without a server."""

import subprocess
import sys
from datetime import UTC, datetime, timedelta, timezone

import pytest

from driftwarden.contracts.event import parse_event
from driftwarden.errors import EventRejected
from driftwarden.stream.publisher import Publisher, _encoded, build_event

DATA = {"model": "m", "kind": "data_drift"}


def test_an_event_is_complete() -> None:
    """It can be read; its id is unique, its time has a zone; what is not given is left out."""
    first, second = build_event(DATA, source="here"), build_event(DATA, source="here")
    assert first["id"] != second["id"]
    event = parse_event(_encoded(first))
    assert (event.model, event.kind, event.source) == ("m", "data_drift", "here")
    assert event.time.tzinfo is not None
    assert "subject" not in first
    assert "traceparent" not in first


def test_what_is_given_is_kept() -> None:
    """Id, time, subject and traceparent travel with the event."""
    moment = datetime(2026, 11, 20, 10, tzinfo=timezone(timedelta(hours=1)))
    trace = "00-" + "a" * 32 + "-" + "b" * 16 + "-01"
    event = build_event(DATA, source="s", id="7", time=moment, subject="x", traceparent=trace)
    assert event["time"] == "2026-11-20T09:00:00.000000Z"
    read = parse_event(_encoded(event))
    assert (read.id, read.time, read.subject) == ("7", datetime(2026, 11, 20, 9, tzinfo=UTC), "x")
    assert read.correlation_id == "a" * 32


@pytest.mark.parametrize(
    "event",
    [
        build_event({"model": "m"}, source="s"),
        build_event({**DATA, "drift_share": float("nan")}, source="s"),
        build_event({**DATA, "note": object()}, source="s"),
        build_event({**DATA, "note": "\ud800"}, source="s"),
        build_event({**DATA, "note": "x" * 1_100_000}, source="s"),
        "{",
        "[]",
    ],
    ids=["missing", "nan", "object", "surrogate", "large", "broken", "list"],
)
def test_what_could_not_be_read_is_not_published(event: dict[str, object] | str) -> None:
    """The publisher refuses before it connects: this address leads nowhere."""
    with pytest.raises(EventRejected), Publisher("redis://127.0.0.1:1") as publisher:
        publisher.publish(event)


def test_the_publisher_is_light() -> None:
    """Importing it loads neither redis nor pandas."""
    code = (
        "import sys, driftwarden.stream.publisher; "
        "sys.exit(len({'redis', 'pandas', 'numpy', 'tenacity'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
