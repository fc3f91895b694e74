"""What an effect, or its taking back, leaves in the books: the audit log, the ledger, the approval that it used up.

Each intent has one result, which says what was changed. Where an undo was begun and came to no end, and none is intended at the
moment, what it did is told as the result of the intent under which it was begun: that one still waits for it.
"""

import logging

from driftwarden.contracts.effects import ActionRequest, EffectResult
from driftwarden.errors import Error, Retry
from driftwarden.service.workflow.changes import others_changed, rows_of
from driftwarden.service.workflow.cut_short import what_happened
from driftwarden.service.workflow.incident import Incident
from driftwarden.service.workflow.parts import SERVICE, Parts
from driftwarden.service.workflow.undoing import narrow

log = logging.getLogger(__name__)


def book(parts: Parts, incident: Incident, result: EffectResult) -> None:
    """Record it, once, whoever died in between."""
    undo = incident.undo_of is not None
    # The log first: whatever else of the books cannot be written, what happened must not be hidden by it.
    _tell(parts, incident, result, undo=undo)
    request = incident.undo_of["request"] if incident.undo_of else incident.intent and incident.intent.request
    parts.ledger.settle(
        incident.id,
        cost_usd=result.cost_usd,
        changed_at=parts.now_for(incident) if result.changed else None,
        models=others_changed(incident, result),
        rows=rows_of(ActionRequest.model_validate(request), result),
    )
    told = result.detail or result.action.value
    incident.note(parts.clock, "result", f"undone: {told}" if undo else told, SERVICE)


def book_part(parts: Parts, incident: Incident, *, at_last: bool = False) -> str | None:
    """What of an effect, or of its undo, happened before it came to no end stands in the books all the same, and can be undone.

    It counts as a failure whatever of it happened. Why that cannot be told, else None; raises Retry where it may be told later,
    but for `at_last`.
    """
    try:
        found = what_happened(parts, incident)
    except Error as error:
        if isinstance(error, Retry) and not at_last:
            raise
        log.warning("what was done cannot be told: %s", error.diagnostics(), extra={"incident": incident.id})
        return error.diagnostics()
    if found is None or not found.changed:
        return None
    if incident.undo_of is None:
        incident.result = found
    elif not found.data.get("missing"):
        incident.undone = (
            found  # it fails for whatever came after that; nothing of it stands, or is left to be taken back
        )
    book(parts, incident, found)
    use_up(parts, incident)
    narrow(incident, found.data.get("missing", ()))
    parts.ledger.settle(incident.id, failed=True)
    return None


def book_released(parts: Parts, incident: Incident, part: EffectResult | None) -> None:
    """An undo is not gone on with: its reservation is over, and counts where a part of it happened, which is told."""
    if part is None or not part.changed:
        parts.ledger.release(incident.id)
        return
    book(parts, incident, part)
    narrow(incident, part.data["missing"])


def use_up(parts: Parts, incident: Incident) -> None:
    """The approval that allowed the effect is used up by it; one that allowed nothing is about a plan that is no more."""
    request = parts.approvals.find(incident.approval) if incident.approval else None
    if incident.intent is not None and request is not None and request.state == "approved":
        allowed = incident.intent.cause_hash == incident.audit.get("approval")
        parts.approvals.mark(request.id, "executed" if allowed else "superseded")


def _tell(parts: Parts, incident: Incident, result: EffectResult, *, undo: bool) -> None:
    untold, intent = _untold(parts, incident, result), _bearer(parts, incident)
    if untold is None or intent is None:
        return
    if intent not in incident.intents:
        incident.intents.append(intent)  # or the log would tell of an effect that the incident does not know
    written = parts.floor.result_of(incident.id, intent)
    incident.audit["result"] = written or parts.audit.append(
        "result",
        {**untold.model_dump(mode="json"), "undo": undo},
        actor=SERVICE,
        incident=incident.id,
        correlation_id=incident.correlation_id,
        causation=intent,
    )


def _untold(parts: Parts, incident: Incident, result: EffectResult) -> EffectResult | None:
    """What it tells beyond what stands in the log; None: nothing.

    Where nothing is intended, whoever told a part of an undo may have died before the commit: another intent must not tell it
    again, which may be open still.
    """
    if incident.undo_of is None or incident.intent is not None:
        return result
    batches = result.data.get("batches") or {incident.model: result.data.get("batch")}
    told = parts.floor.released(incident.id)
    left = {model: batch for model, batch in batches.items() if (model, batch) not in told}
    if not left:
        return None
    return result.model_copy(update={"data": result.data | {"batches": left}}) if "batches" in result.data else result


def _bearer(parts: Parts, incident: Incident) -> str | None:
    """The intent whose result tells it; None where every one has told what it had to."""
    if incident.intent is not None:
        return incident.intent.audit_hash
    waiting = parts.floor.open_intents(incident.id)
    begun = [one for one in waiting if one in incident.intents]
    return next(reversed(begun or waiting), None)
