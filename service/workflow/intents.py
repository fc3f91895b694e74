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
    parts.ledger.begin(incident.id)
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


def tell_replaced(parts: Parts, incident: Incident) -> None:
    """What was intended anew under the same key: the result of that intent tells of the whole.

    Once the new one is committed: at no moment is it told that nothing is under way, and until then whatever an undo of which
    the worker died has released is told as the result of the one that did it, if it comes to no other end.
    """
    why = "came to no end: its worker died or gave up; it is intended anew, and its result is told there"
    for intent in parts.floor.open_intents(incident.id):
        if incident.intent is not None and intent != incident.intent.audit_hash:
            begun = intent in incident.intents
            _tell(parts, incident, intent, _not_done(incident, why) | ({"changed": None} if begun else {}))


def call_off(parts: Parts, incident: Incident) -> None:
    """Intents that stand in the log, and that a fresh decision no longer allows, are called off there too."""
    why = "not carried out: its worker died or gave up, and a fresh decision no longer allows it"
    for intent in parts.floor.open_intents(incident.id):
        # An effect was looked up before. Of an undo that was begun, what was released is told before (`recording`); of
        # anything else nobody knows.
        begun = incident.undo_of is not None and intent in incident.intents
        _tell(parts, incident, intent, _not_done(incident, why) | ({"changed": None} if begun else {}))


def tell_not_done(parts: Parts, incident: Incident, why: str, *, failed: bool) -> None:
    """The result of intents that have none: `cancelled`, nothing happened; `failed`, what happened is not known here.

    Only the one that was committed can have begun.
    """
    for intent in parts.floor.open_intents(incident.id):
        body = _not_done(incident, why, failed=failed and intent == incident.audit.get("intent"))
        _tell(parts, incident, intent, body)


def _not_done(incident: Incident, why: str, *, failed: bool = False) -> dict[str, Any]:
    action = incident.candidate.action.value if incident.candidate else None
    return not_done_body(action, why, undo=incident.undo_of is not None, failed=failed)


def _tell(parts: Parts, incident: Incident, intent: str, body: dict[str, Any]) -> None:
    parts.audit.append(
        "result",
        body,
        actor=SERVICE,
        incident=incident.id,
        correlation_id=incident.correlation_id,
        causation=intent,
    )


def not_done_body(action: str | None, why: str, *, undo: bool, failed: bool) -> dict[str, Any]:
    """The body of such a record; `changed` is null where it is not known."""
    end = {"changed": None, "failed": True} if failed else {"changed": False, "cancelled": True}
    return {"action": action, "before": None, "after": None, "undo": undo, "detail": why} | end


def _intended_of(incident: Incident, request: ActionRequest) -> dict[str, Any]:
    """What the record of an intent over several models says of the others, and of what allows it for each."""
    if not incident.others:
        return {}
    changes = request.candidate.action is ActionName.QUARANTINE_DATA
    return {
        "members": [one.model.name for one in request.members] if changes else incident.models[1:],
        "decisions": {member.model: member.decided for member in incident.members},
    }
