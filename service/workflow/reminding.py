"""Reminders of a request that waits for people: one every interval, at most five, and one shortly before its time is over."""

from collections.abc import Sequence
from datetime import datetime, timedelta

from driftwarden.clock import parse_rfc3339
from driftwarden.service.workflow.approvals import ApprovalRequest, asked_as
from driftwarden.service.workflow.incident import Incident
from driftwarden.service.workflow.parts import Parts

REMINDERS_MAX = 5
# The last one: this share of the request's life before its end, at most one interval.
LAST_SHARE = 0.1


def moments(requested_at: datetime, expires_at: datetime, interval: timedelta) -> list[datetime]:
    """When people are reminded, in order: strictly within the request's life."""
    last = expires_at - min(interval, (expires_at - requested_at) * LAST_SHARE)
    every = [requested_at + number * interval for number in range(1, REMINDERS_MAX + 1)]
    return [*(moment for moment in every if moment < last), *([last] if requested_at < last < expires_at else [])]


def next_look(parts: Parts, incident: Incident, request: ApprovalRequest) -> datetime:
    """When the request must be looked at again: its next reminder, or its end."""
    expires_at = parse_rfc3339(request.expires_at)
    now = parts.clock.now()
    return min((moment for moment in _moments(parts, incident, request) if moment > now), default=expires_at)


def remind(parts: Parts, incident: Incident, request: ApprovalRequest) -> None:
    """Send the newest reminder that is due; those that nobody was there to send are not made up for.

    Its key is that of the asking and its number, so that whoever takes over after a crash does not send it again.
    """
    now = parts.clock.now()
    due = sum(moment <= now for moment in _moments(parts, incident, request))
    if due == 0:
        return
    minutes = max(0, int((parse_rfc3339(request.expires_at) - now).total_seconds() // 60))
    left = f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min"
    parts.notifier.notify(
        f"still waits for approval: {request.action} on {request.model}",
        f"{request.summary}\n{left} left; {len(request.granted)} of {request.required} have signed\n"
        f"driftwarden approvals show {request.id}",
        key=f"{asked_as(request)}:reminder:{due}",
        fields={
            "approval": request.id,
            "incident": incident.id,
            "correlation_id": incident.correlation_id,
            "expires_at": request.expires_at,
        },
    )


def _moments(parts: Parts, incident: Incident, request: ApprovalRequest) -> Sequence[datetime]:
    if incident.asked != asked_as(request) or request.altered() is not None:
        return ()  # not what people were asked: its times are anybody's
    interval = parts.settings.service.approval_reminder
    return moments(parse_rfc3339(request.requested_at), parse_rfc3339(request.expires_at), interval)
