"""What people ask of an incident by hand: retry, close, undo, another candidate. Signed; the same policy decides, and the
same records are written.

A request waits in Redis, where others can write: it is heard where its signature is that of someone who is listed on disk,
once, and within a day (docs/approvals.md). Anything else is nobody's word and changes nothing.
"""

import logging
from datetime import timedelta

from driftwarden.clock import parse_rfc3339
from driftwarden.contracts.ports import Actor
from driftwarden.errors import AskHuman, BadInput, GiveUp, NotFound, Refused
from driftwarden.service.signing.requests import AGE_MAX, SignedRequest, hear_request
from driftwarden.service.signing.roster import roster_in_force
from driftwarden.service.workflow.deciding import withdraw
from driftwarden.service.workflow.incident import HEARD_MAX, Incident
from driftwarden.service.workflow.parts import SERVICE, Parts
from driftwarden.service.workflow.transitions import State
from driftwarden.service.workflow.undoing import leave, propose

log = logging.getLogger(__name__)

S = State

# From where each may be asked.
ALLOWED: dict[str, frozenset[State]] = {
    "retry": frozenset({S.FAILED, S.REJECTED, S.EXPIRED, S.CLOSED, S.AWAITING_APPROVAL}),
    "close": frozenset({S.AWAITING_APPROVAL, S.VERIFYING, S.MONITORING}),
    "undo": frozenset({S.RESOLVED, S.VERIFYING, S.CLOSED, S.FAILED}),
    "choose": frozenset({S.AWAITING_APPROVAL}),
}


_NOT_DONE = {"retry": "not retried", "close": "not closed", "undo": "not undone", "choose": "not chosen"}


def check_request(state: str, what: str, *, stands: bool = True) -> None:
    """Raise BadInput where an incident in this state cannot be asked that, or has nothing to undo (`stands` False)."""
    if state not in ALLOWED[what]:
        allowed = ", ".join(sorted(ALLOWED[what]))
        raise BadInput(f"cannot {what} this incident", got=f"state `{state}`", expected=f"one of: {allowed}")
    if what == "undo" and not stands:
        raise BadInput("cannot undo this incident", got="one of which nothing stands", expected="an effect that stands")


def other_candidates(incident: Incident) -> list[str]:
    """Ids of the candidates that a person may choose in place of the one that is asked for."""
    if incident.plan is None or incident.undo_of is not None:
        return []
    refused = incident.rehearsal_notes.get("refused", {})
    return [
        one.id
        for one in incident.plan.candidates
        if one.id not in refused and one.id != incident.chosen and "undo" not in one.params
    ]


def check_choice(incident: Incident, candidate: str) -> None:
    """Raise BadInput where this candidate cannot be chosen: refused, unknown, or the one that is asked for already."""
    others = other_candidates(incident)
    if candidate in others:
        return
    expected = f"one of: {', '.join(others)}" if others else "nothing: there is no other candidate"
    refused = incident.rehearsal_notes.get("refused", {})
    if candidate in refused:
        raise BadInput(f"candidate `{candidate}`", got=f"refused: {refused[candidate]}", expected=expected)
    if candidate == incident.chosen:
        raise BadInput(f"candidate `{candidate}`", got="the one that is asked for", expected=expected)
    raise NotFound("no such candidate", got=candidate, expected=expected)


def take_request(parts: Parts, incident: Incident, what: str, payload: object) -> State:
    """The state in which the walk goes on after a person's request; stays where it is if that is not possible any more,
    or if it is nobody's word."""
    try:
        said = _heard(parts, incident, what, payload)
    except BadInput as error:
        log.warning("%s of %s is not heard: %s", what, incident.id, error.diagnostics())
        incident.note(parts.clock, "approval", f"not heard: {what}: {error.diagnostics()}", SERVICE)
        return incident.state
    actor = Actor(kind="human", id=said.by)
    if incident.state not in ALLOWED[what]:
        incident.note(parts.clock, "close", f"{what} was asked too late: {said.reason}", actor)
        return incident.state
    state, refusal = incident.state, None
    try:
        after = _follow(parts, incident, said)
    except (Refused, BadInput, GiveUp, AskHuman) as error:
        after, refusal = state, error.diagnostics()
    _record(parts, incident, said, actor, state)
    if refusal is not None:
        incident.note(parts.clock, "close", f"{_NOT_DONE[said.what]}: {refusal}", actor)
    return after


def _follow(parts: Parts, incident: Incident, said: SignedRequest) -> State:
    """Where the request leads; raises Refused and others where it leads nowhere, Retry where it must wait."""
    if said.what == "undo":
        propose(parts, incident, by=said.by, rationale=f"undo, asked by a person: {said.reason}")
        return State.REHEARSED
    if said.what == "choose":
        _choose(incident, str(said.candidate), said.approval)
        withdraw(parts, incident, also_approved=True)
        return State.REHEARSED
    if said.what == "retry":
        check_retry(incident)
    withdraw(parts, incident, also_approved=True)
    if said.what == "close":
        return State.CLOSED if incident.undo_of is None else leave(parts, incident, "people closed the question")
    incident.begin_again()
    return State.TRIAGED


def check_retry(incident: Incident) -> None:
    """Raise Refused where beginning again would forget an effect: it counts against no cap of its own incident."""
    if incident.undo_of is not None:
        raise Refused("an undo waits for an answer")
    if incident.undone is not None:  # under the same key it would be found as done
        raise Refused("its effect was done and taken back: the next drift opens an incident of its own")
    if incident.result is not None and incident.result.changed:
        raise Refused("its effect stands: undo it first, or let the next drift open an incident of its own")


def _heard(parts: Parts, incident: Incident, what: str, payload: object) -> SignedRequest:
    """The request, once; raises BadInput where it is not to be heard, NotYet where nobody can tell just now."""
    now = parts.clock.now()
    approvers = roster_in_force(parts.settings)
    said = hear_request(payload, incident=incident.id, what=what, now=now, approvers=approvers)
    # What is older than a day is not heard for its age: nothing else need be remembered.
    fresh = {made: at for made, at in incident.heard.items() if now - parse_rfc3339(at) <= AGE_MAX + timedelta(hours=1)}
    if said.digest in fresh:
        raise BadInput("signed request", got=f"one of {said.at} again", expected="one that was not heard before")
    if len(fresh) >= HEARD_MAX:
        raise BadInput("signed request", got=f"more than {HEARD_MAX} within a day", expected="fewer")
    incident.heard = fresh | {said.digest: said.at}
    return said


def _record(parts: Parts, incident: Incident, said: SignedRequest, actor: Actor, state: State) -> None:
    # Not the incident's own approval: what was approved and waits is still allowed by that one, whatever else is asked.
    parts.audit.append(
        "approval",
        {
            "verdict": f"{said.what}_requested",
            "by": said.by,
            "at": said.at,
            "reason": said.reason,
            "state": state.value,
            "candidate": said.candidate,
            "public_key": said.public_key,
            "signature": said.signature,
            "statement": said.statement.decode(),
        },
        actor=actor,
        incident=incident.id,
        correlation_id=incident.correlation_id,
    )
    which = f" {said.candidate}" if said.candidate else ""
    incident.note(parts.clock, "approval", f"{said.what}{which} asked: {said.reason}", actor)


def _choose(incident: Incident, candidate: str, asked: str | None) -> None:
    """This candidate from now on; sure of it is only its own rehearsal, and what a model claimed only lowers that."""
    if asked != incident.asked:
        raise BadInput("a choice", got=f"one in the place of {asked}", expected=f"of {incident.asked}")
    check_choice(incident, candidate)
    incident.chosen = candidate
    rehearsal = incident.rehearsal
    win = rehearsal.win_probability if rehearsal and rehearsal.status == "rehearsed" else None
    claims = [incident.plan.claimed_confidence if incident.plan else None]
    claims.append(incident.finding.claimed_confidence if incident.finding else None)
    incident.confidence = None if win is None else min([win, *(claim for claim in claims if claim is not None)])
