"""What happened of an effect, or of its undo, that came to no end: its tries ran out, its workers died, a person must look."""

from collections.abc import Collection

from driftwarden.contracts.base import ActionName
from driftwarden.contracts.effects import ActionRequest, EffectResult
from driftwarden.service.workflow.incident import Incident
from driftwarden.service.workflow.members import named
from driftwarden.service.workflow.parts import Parts
from driftwarden.service.workflow.undoing import VERSION_ACTIONS, left_to_undo

TOLD_MAX = 20


def what_happened(parts: Parts, incident: Incident) -> EffectResult | None:
    """The part that happened of what was intended and is in no book yet; None where nothing was, or nothing can be found.

    Raises Away (the registry), AskHuman and others where nobody can tell.
    """
    if incident.undo_of is not None:
        if incident.intent is None:  # what can be looked up whole was, before it was to be intended anew
            return released(parts, incident)
        return taken_back(parts, incident)
    if incident.intent is None or incident.result is not None:
        return None
    request = ActionRequest.model_validate(incident.intent.request)
    return parts.actions[request.candidate.action].lookup(request)


def halves(incident: Incident) -> str | None:
    """Which of its models had an effect and which had not, with their windows; None where it is whole, or about one."""
    result, intent = incident.result, incident.intent
    missing = result.data.get("missing") if result is not None else None
    if result is None or intent is None or not missing or incident.undo_of is not None:
        return None
    request = ActionRequest.model_validate(intent.request)
    every = {one.model.name: one for one in (request, *request.members)}

    def told(models: Collection[str]) -> str:
        return named([f"{model} (`{_window(every[model])}`)" for model in every if model in models], shown=TOLD_MAX)

    return f"done: {told(result.data.get('batches') or ())}; not done: {told(missing)}"


def _window(request: ActionRequest) -> str:
    return request.window_uri or f"{request.window_start} to {request.window_end}"


def taken_back(parts: Parts, incident: Incident) -> EffectResult | None:
    """What the undo of an effect has done by now; None where it has done nothing, or where nobody can tell.

    `data.missing` are models for which it is still to be done.
    """
    before = left_to_undo(incident)
    if before.action is ActionName.QUARANTINE_DATA:
        return released(parts, incident)
    if before.action is ActionName.REFRESH_REFERENCE:
        return _put_back(parts, incident, before)
    if before.action not in VERSION_ACTIONS:
        return None
    if parts.registry.champion(parts.settings.watched(incident.model)) != before.before:
        return None
    detail = f"champion pointed back from version {before.after} to {before.before}"
    return _undone(before, detail, before=before.after, after=before.before)


def released(parts: Parts, incident: Incident) -> EffectResult | None:
    """Batches that the undo of a quarantine has released: those that stand under its own keys no longer.

    None where no such undo was begun, and where it is about none.
    """
    assert incident.undo_of is not None
    before = left_to_undo(incident)
    if before.action is not ActionName.QUARANTINE_DATA or not before.undo or not incident.attempts:
        return None
    request = ActionRequest.model_validate(incident.undo_of["request"])
    keys = {one.model.name: one.idempotency_key for one in (request, *request.members)}
    batches: dict[str, str] = before.undo.get("batches") or {request.model.name: before.undo["batch"]}
    free = {
        model: batch
        for model, batch in batches.items()
        if parts.state.quarantined(model).get(batch, {}).get("key") != keys[model]
    }
    data = {"batch": batches.get(request.model.name), "missing": sorted(batches.keys() - free.keys())}
    several = {"batches": free} if "batches" in before.undo else {}
    detail = f"released for {len(free)} of {len(batches)} models"
    return _undone(before, detail, changed=bool(free), data=data | several)


def _put_back(parts: Parts, incident: Incident, before: EffectResult) -> EffectResult | None:
    if "earlier" not in before.undo:
        return None
    present = parts.state.reference(incident.model)
    done = before.undo["earlier"] is None if present is None else f"{before.idempotency_key}.undo" in present["keys"]
    return _undone(before, "the earlier reference is back") if done else None


def _undone(effect: EffectResult, detail: str, **more: object) -> EffectResult:
    known = {"action": effect.action, "idempotency_key": effect.idempotency_key, "changed": True, "detail": detail}
    return EffectResult.model_validate(known | more)
