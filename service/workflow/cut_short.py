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
        return released(parts, incident, incident.intent.idempotency_key)
    if incident.result is not None:
        return None
    request = ActionRequest.model_validate(incident.intent.request)
    return parts.actions[request.candidate.action].lookup(request)


def released(parts: Parts, incident: Incident, idempotency_key: str) -> EffectResult | None:
    """Batches that were released before their undoing, under this key, came to no end; None where it is about one at most."""
    assert incident.undo_of is not None
    before = EffectResult.model_validate(incident.undo_of["result"])
    if before.action is not ActionName.QUARANTINE_DATA or "batches" not in before.undo:
        return None
    batches: dict[str, str] = before.undo["batches"]
    free = {model: batch for model, batch in batches.items() if batch not in parts.state.quarantined(model)}
    return EffectResult(
        action=before.action,
        idempotency_key=idempotency_key,
        changed=bool(free),
        detail=f"released for {len(free)} of {len(batches)} models",
        data={"batches": free, "missing": sorted(batches.keys() - free.keys())},
    )
