"""Whoever waits for people reminds them: every so often, a last time before the end, and never twice."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from fakes.workflow_world import Crash

from driftwarden.clock import parse_rfc3339
from driftwarden.errors import BadInput
from driftwarden.service.workflow.reminding import moments
from driftwarden.settings import ServiceSettings

START = datetime(2026, 11, 20, 9, 0, tzinfo=UTC)
HOUR = timedelta(hours=1)


@pytest.fixture
def waiting(world: Any) -> Any:
    """A request that waits for four hours."""
    world.script.win = 0.5
    world.send()
    world.run()
    assert world.only().state == "awaiting_approval"
    return world


def reminders(world: Any) -> list[str]:
    """Keys of the reminders that were sent."""
    return [key for key in world.silent.messages if ":reminder:" in key]


@pytest.mark.parametrize(
    ("life", "interval", "expected"),
    [
        (4 * HOUR, HOUR, [1, 2, 3, 3.6]),
        (24 * HOUR, HOUR, [1, 2, 3, 4, 5, 23]),
        (HOUR, HOUR, [0.9]),
        (3 * HOUR, timedelta(days=1), [2.7]),
        (timedelta(0), HOUR, []),
    ],
)
def test_when_people_are_reminded(life: timedelta, interval: timedelta, expected: list[float]) -> None:
    """Every interval, at most five times, and once shortly before the end; within the request's life."""
    found = moments(START, START + life, interval)
    assert [round((moment - START) / HOUR, 6) for moment in found] == expected


def test_people_are_reminded_until_it_expires(waiting: Any) -> None:
    """Each reminder is sent when it is due, by the incident's own timer; the end comes when it should."""
    request = waiting.pending()
    seen = []
    for minutes in (60, 60, 60, 36, 24):
        assert waiting.store.pump_timers(ahead_s=minutes * 60 - 30) == 0, "not before it is due"
        waiting.later(minutes=minutes)
        seen.append((len(reminders(waiting)), str(waiting.only().state)))
    waits = "awaiting_approval"
    assert seen == [(1, waits), (2, waits), (3, waits), (4, waits), (4, "expired")]
    asked = f"{request.id}@{request.requested_at}"
    assert reminders(waiting) == [f"{asked}:reminder:{number}" for number in (1, 2, 3, 4)]
    assert "0 of 1 have signed" in waiting.silent.messages[f"{asked}:reminder:1"]
    assert "3 h 0 min left" in waiting.silent.messages[f"{asked}:reminder:1"]


def test_nobody_is_reminded_of_what_was_answered(waiting: Any) -> None:
    """Approved: no reminder follows."""
    waiting.later(minutes=61)
    assert len(reminders(waiting)) == 1
    waiting.approve()
    waiting.run()
    waiting.later(hours=2)
    assert len(reminders(waiting)) == 1


def test_a_service_that_was_away_reminds_once(waiting: Any) -> None:
    """Three were due meanwhile: people get the newest."""
    waiting.later(hours=3, minutes=5)
    assert [key[-1] for key in reminders(waiting)] == ["3"]


def test_a_crash_does_not_repeat_one(waiting: Any) -> None:
    """The process dies right after it told people: whoever takes over tells them under the same key, which is one message."""
    told: list[str] = []
    notify = waiting.silent.notify

    def die(subject: str, body: str, *, key: str, fields: dict[str, Any]) -> None:
        notify(subject, body, key=key, fields=fields)
        told.append(key)
        if len(told) == 1:
            raise Crash("after telling")

    waiting.silent.notify = die
    with pytest.raises(Crash):
        waiting.later(minutes=61)
    waiting.restart()
    assert len(told) == 2
    assert len(set(told)) == len(reminders(waiting)) == 1
    assert waiting.only().state == "awaiting_approval"


def test_a_request_that_was_put_elsewhere_in_time_reminds_nobody(waiting: Any) -> None:
    """Its times are no longer those of what was asked."""
    request = waiting.pending()
    moved = request.model_copy(update={"requested_at": "2026-11-19T09:00:00.000000Z"})
    waiting.client.hset("driftwarden:approvals", request.id, moved.model_dump_json())
    waiting.store.wake(waiting.only().id, "approval")
    waiting.run()
    assert reminders(waiting) == []
    assert parse_rfc3339(request.expires_at) > waiting.clock.now()


def test_the_interval_is_at_least_a_minute() -> None:
    """Nobody is flooded by a slip."""
    with pytest.raises((BadInput, ValueError), match="greater than or equal"):
        ServiceSettings.model_validate({"approval_reminder": "5s"})
