"""Intents: what is about to be done stands in the log before it is done, and what came of it afterwards, also that it was not."""

from typing import Any

from driftwarden.contracts.base import ActionName
from driftwarden.contracts.effects import ActionRequest
from driftwarden.service.workflow.incident import Incident, Intent
from driftwarden.service.workflow.parts import SERVICE, Parts
from driftwarden.service.workflow.requests import build_request


def intend(parts: Parts, incident: Incident, cause: str) -> None:
    """Write down what is about to be done, and which decision or approval allows it, before it is done."""
    candidate = incident.candidate
    assert candidate is not None
    model = parts.settings.watched(incident.model)
    request = build_request(parts, incident, model, candidate)
    estimate = parts.actions[candidate.action].estimate(request)
    cause_hash = incident.audit[cause]
    written = parts.audit.append(
        "intent",
        {
            "action": candidate.action.value,
            "params": candidate.params,
            "idempotency_key": request.idempotency_key,
            "model": incident.model,
            "at": request.now,
            "before": incident.champion_before,
            "undo": incident.undo_of is not None,
            "estimate": estimate.model_dump(mode="json"),
            **_intended_of(incident, request),
        },
        actor=SERVICE,
        incident=incident.id,
        correlation_id=incident.correlation_id,
        causation=cause_hash,
    )
    incident.audit["intent"] = written
    incident.intents.append(written)
    incident.intent = Intent(
        idempotency_key=request.idempotency_key,
        candidate=candidate.id,
        request=request.model_dump(mode="json"),
        audit_hash=written,
        cause_hash=cause_hash,
    )
    incident.note(parts.clock, "intent", f"{candidate.action} under key {request.idempotency_key[:12]}", SERVICE)


def call_off(parts: Parts, incident: Incident) -> None:
    """An intent that stands in the log, and that a fresh decision no longer allows, is called off there too."""
    intent = incident.audit.get("intent")
    if intent is None or parts.floor.result_of(incident.id, intent) is not None:
        return
    parts.audit.append(
        "result",
        {
            "action": incident.candidate.action.value if incident.candidate else None,
            "changed": False,
            "before": None,
            "after": None,
            "cancelled": True,
            "undo": incident.undo_of is not None,
            "detail": "not carried out: its worker died or gave up, and a fresh decision no longer allows it",
        },
        actor=SERVICE,
        incident=incident.id,
        correlation_id=incident.correlation_id,
        causation=intent,
    )


def _intended_of(incident: Incident, request: ActionRequest) -> dict[str, Any]:
    """What the record of an intent over several models says of the others, and of what allows it for each."""
    if not incident.others:
        return {}
    changes = request.candidate.action is ActionName.QUARANTINE_DATA
    return {
        "members": [one.model.name for one in request.members] if changes else incident.models[1:],
        "decisions": {member.model: member.decided for member in incident.members},
    }
