"""What people ask of an incident by hand: retry, close, undo. The same policy decides, and the same records are written."""

from typing import Any

from driftwarden.contracts.base import ActionName
from driftwarden.contracts.findings import Candidate
from driftwarden.contracts.ports import Actor
from driftwarden.errors import BadInput, GiveUp, Retry
from driftwarden.service.workflow.deciding import withdraw
from driftwarden.service.workflow.incident import Incident
from driftwarden.service.workflow.parts import Parts
from driftwarden.service.workflow.transitions import State

S = State

# From where each may be asked.
ALLOWED: dict[str, frozenset[State]] = {
    "retry": frozenset({S.FAILED, S.REJECTED, S.EXPIRED, S.CLOSED, S.AWAITING_APPROVAL}),
    "close": frozenset({S.AWAITING_APPROVAL, S.VERIFYING, S.MONITORING}),
    "undo": frozenset({S.RESOLVED, S.VERIFYING}),
}

CANDIDATES_MAX = 6
VERSIONS_MOVED = frozenset({ActionName.RETRAIN, ActionName.ROLLBACK, ActionName.RECALIBRATE, ActionName.FALLBACK_MODEL})


def check_request(state: str, what: str, *, changed: bool = True) -> None:
    """Raise BadInput where an incident in this state cannot be asked that, or has nothing to undo (`changed` False)."""
    if state not in ALLOWED[what]:
        allowed = ", ".join(sorted(ALLOWED[what]))
        raise BadInput(f"cannot {what} this incident", got=f"state `{state}`", expected=f"one of: {allowed}")
    if what == "undo" and not changed:
        raise BadInput("cannot undo this incident", got="one that changed nothing", expected="an effect that stands")


def take_request(parts: Parts, incident: Incident, what: str, payload: dict[str, Any]) -> State:
    """The state in which the walk goes on after a person's request; stays where it is if that is not possible any more."""
    actor = Actor(kind="human", id=str(payload.get("by") or "?"))
    reason = str(payload.get("reason") or "")
    if incident.state not in ALLOWED[what]:
        incident.note(parts.clock, "close", f"{what} was asked too late: {reason}", actor)
        return incident.state
    incident.audit["approval"] = parts.audit.append(
        "approval",
        {"verdict": f"{what}_requested", "by": actor.id, "reason": reason, "state": incident.state.value},
        actor=actor,
        incident=incident.id,
        correlation_id=incident.correlation_id,
    )
    incident.note(parts.clock, "approval", f"{what} asked: {reason}", actor)
    if what == "close":
        withdraw(parts, incident, also_approved=True)
        return State.CLOSED
    if what == "retry":
        withdraw(parts, incident, also_approved=True)
        _begin_again(incident)
        return State.TRIAGED
    try:
        return _plan_undo(parts, incident, reason, actor)
    except (GiveUp, BadInput, Retry) as error:
        incident.note(parts.clock, "close", f"not undone: {error.diagnostics()}", actor)
        return incident.state


def _begin_again(incident: Incident) -> None:
    incident.problem = None
    incident.finding = incident.plan = incident.chosen = incident.confidence = None
    incident.facts = incident.decision = incident.intent = incident.result = incident.verification = None
    incident.rehearsals, incident.rehearsal_notes, incident.measures, incident.effect_rows = [], {}, {}, {}
    incident.outcome = incident.helped = incident.undo_of = None
    incident.tries = incident.rounds = incident.attempts = 0
    # The events are taken in anew: files that were absent may be there now.
    incident.events = []


def _plan_undo(parts: Parts, incident: Incident, reason: str, actor: Actor) -> State:
    result, plan = incident.result, incident.plan
    if result is None or plan is None or incident.intent is None or not result.changed:
        raise GiveUp("there is nothing to undo: the incident changed nothing")
    kept = plan.candidates[: CANDIDATES_MAX - 1]
    id = f"c{max(int(one.id[1:]) for one in plan.candidates) + 1}"
    action, params = result.action, dict[str, Any](undo=incident.id)
    if action in VERSIONS_MOVED and result.before is not None:
        action, params = ActionName.ROLLBACK, {"to_version": result.before}
    candidate = Candidate(id=id, action=action, params=params, rationale=f"undo, asked by a person: {reason}")
    champion = parts.registry.champion(parts.settings.watched(incident.model))
    incident.plan = plan.model_copy(update={"candidates": (*kept, candidate)})
    incident.undo_of = {
        "request": incident.intent.request,
        "result": result.model_dump(mode="json"),
        "by": actor.id,
    }
    # Nothing measures a person's wish: confidence is unknown, so the policy escalates, and people sign.
    incident.chosen, incident.confidence, incident.intent, incident.approval = candidate.id, None, None, None
    incident.champion_before, incident.verification, incident.helped = champion, None, None
    return State.REHEARSED
