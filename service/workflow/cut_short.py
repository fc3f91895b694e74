"""What happened of an effect, or of its undo, that came to no end: its tries ran out, its workers died, a person must look."""

from driftwarden.contracts.base import ActionName
from driftwarden.contracts.effects import ActionRequest, EffectResult
from driftwarden.service.workflow.incident import Incident
from driftwarden.service.workflow.parts import Parts


def what_happened(parts: Parts, incident: Incident) -> EffectResult | None:
    """The part that happened of what was intended and is in no book yet; None where nothing was, or nothing can be found.

    Raises Away (the registry), AskHuman and others where nobody can tell.
    """
    if incident.intent is None:
        return None
    if incident.undo_of is not None:
        return _released(parts, incident)
    if incident.result is not None:
        return None
    request = ActionRequest.model_validate(incident.intent.request)
    return parts.actions[request.candidate.action].lookup(request)


def _released(parts: Parts, incident: Incident) -> EffectResult | None:
    """Batches that were released before their undoing came to no end."""
    assert incident.undo_of is not None
    assert incident.intent is not None
    before = EffectResult.model_validate(incident.undo_of["result"])
    if before.action is not ActionName.QUARANTINE_DATA or "batches" not in before.undo:
        return None
    batches: dict[str, str] = before.undo["batches"]
    released = {model: batch for model, batch in batches.items() if batch not in parts.state.quarantined(model)}
    return EffectResult(
        action=before.action,
        idempotency_key=incident.intent.idempotency_key,
        changed=bool(released),
        detail=f"released for {len(released)} of {len(batches)} models",
        data={"batches": released, "missing": sorted(batches.keys() - released.keys())},
    )
