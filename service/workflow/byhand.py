"""What people ask of an incident by hand: retry, close, undo. The same policy decides, and the same records are written."""

from typing import Any

from driftwarden.contracts.ports import Actor
from driftwarden.errors import BadInput, Refused, Retry
from driftwarden.service.workflow.deciding import withdraw
from driftwarden.service.workflow.incident import Incident
from driftwarden.service.workflow.parts import Parts
from driftwarden.service.workflow.transitions import State
from driftwarden.service.workflow.undoing import propose

S = State

# From where each may be asked.
ALLOWED: dict[str, frozenset[State]] = {
    "retry": frozenset({S.FAILED, S.REJECTED, S.EXPIRED, S.CLOSED, S.AWAITING_APPROVAL}),
    "close": frozenset({S.AWAITING_APPROVAL, S.VERIFYING, S.MONITORING}),
    "undo": frozenset({S.RESOLVED, S.VERIFYING}),
}


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
        propose(parts, incident, by=actor.id, rationale=f"undo, asked by a person: {reason}")
    except (Refused, BadInput, Retry) as error:
        incident.note(parts.clock, "close", f"not undone: {error.diagnostics()}", actor)
        return incident.state
    return State.REHEARSED


def _begin_again(incident: Incident) -> None:
    incident.problem = None
    incident.finding = incident.plan = incident.chosen = incident.confidence = None
    incident.facts = incident.decision = incident.intent = incident.result = incident.verification = None
    incident.rehearsals, incident.rehearsal_notes, incident.measures, incident.effect_rows = [], {}, {}, {}
    incident.outcome = incident.helped = incident.undo_of = incident.undone = incident.asked = None
    incident.tries = incident.rounds = incident.attempts = 0
    # The events are taken in anew: files that were absent may be there now.
    incident.events = []
