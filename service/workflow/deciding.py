"""The middle of the walk: the policy decides, people are asked where it says so, and what they say is decided again."""

from typing import Any

from driftwarden.contracts.base import Outcome
from driftwarden.contracts.decision import ApprovalTerms, Decision
from driftwarden.contracts.ports import Actor
from driftwarden.service.signing.roster import roster_in_force
from driftwarden.service.workflow.approvals import (
    ApprovalRequest,
    approved_by,
    asked_as,
    is_bound,
    refused_by,
    standing,
)
from driftwarden.service.workflow.binding import lifts_by_model
from driftwarden.service.workflow.holding import (
    begin_anew,
    has_waited,
    hold,
    is_still_held,
    stopped_by,
    wait_for_turn,
    why_refused,
)
from driftwarden.service.workflow.incident import Incident
from driftwarden.service.workflow.intents import tell_not_done
from driftwarden.service.workflow.judging import decide, joint_terms, would_decide
from driftwarden.service.workflow.members import named
from driftwarden.service.workflow.parts import SERVICE, Parts
from driftwarden.service.workflow.reminding import remind
from driftwarden.service.workflow.transitions import State
from driftwarden.service.workflow.undoing import drop, give_back, leave

# How often more drift may send an incident back before it acts on what it knows; the rest opens the next incident.
ROUNDS_MAX = 3


def decide_first(parts: Parts, incident: Incident) -> State:
    """rehearsed -> decided."""
    decide(parts, incident)
    return State.DECIDED


def follow(parts: Parts, incident: Incident, raws: list[str]) -> State:
    """decided -> executing | awaiting_approval | monitoring, or triaged again where more drift came meanwhile."""
    if has_waited(parts, incident):
        return begin_anew(parts, incident)
    if look_again(parts, incident, raws):
        return State.TRIAGED
    return carry_on(parts, incident, approval=None)


def look_again(parts: Parts, incident: Incident, raws: list[str]) -> bool:
    """True where drift joined that nobody has looked at, and it is not the last round.

    What comes while an effect is taken back is the next incident's.
    """
    if incident.undo_of is not None or len(raws) <= len(incident.events) or incident.rounds >= ROUNDS_MAX:
        return False
    incident.rounds += 1
    incident.note(parts.clock, "event", "more drift came meanwhile: looked at again before anything is done", SERVICE)
    return True


def carry_on(parts: Parts, incident: Incident, *, approval: dict[str, Any] | None) -> State:
    """What the decision on record says."""
    assert incident.decision is not None
    outcome = Outcome(incident.decision["outcome"])
    if outcome is Outcome.EXECUTE:
        # It waits here, where more drift still joins and nothing is reserved yet.
        parts.require_agreement()
        broken = reserve(parts, incident)
        if broken is None:
            withdraw(parts, incident, also_approved=False)
            return State.EXECUTING
        if approval is not None and would_decide(parts, incident, approval).outcome is Outcome.EXECUTE:
            return hold(parts, incident, [broken])  # no rule counts it, and the same decision again would say nothing
        if approval is None:
            wait_for_turn(parts, incident)
        # Another worker took the last of a cap between our facts and our reservation: the facts say so now.
        decision = decide(parts, incident, approval=approval)
        incident.note(parts.clock, "decision", f"the cap `{broken}` was taken meanwhile", SERVICE)
        outcome = Outcome.MONITOR if decision.outcome is Outcome.MONITOR else Outcome.ESCALATE
        if decision.outcome is Outcome.EXECUTE:
            if approval is not None:
                return hold(parts, incident, [broken])
            why = why_refused(parts, incident, broken)
            withdraw(parts, incident, also_approved=False)
            return ask(parts, incident, why)
    return hold_back(parts, incident, outcome, approval=approval)


def hold_back(parts: Parts, incident: Incident, outcome: Outcome, *, approval: dict[str, Any] | None) -> State:
    """Where an incident goes that is not executed: what was approved waits until it may be done, people are asked, or it is
    only watched."""
    assert incident.decision is not None
    if approval is not None and (rules := stopped_by(incident.decision)):
        return hold(parts, incident, rules)
    withdraw(parts, incident, also_approved=approval is not None or outcome is Outcome.MONITOR)
    if outcome is Outcome.ESCALATE:
        return ask(parts, incident)
    if incident.undo_of is not None:
        return give_back(parts, incident, "the policy says monitor")
    return State.MONITORING


def reserve(parts: Parts, incident: Incident) -> str | None:
    """Count it against every cap, where it does not already; the id of the cap that it would break, else None."""
    candidate = incident.candidate
    assert candidate is not None
    assert incident.decision is not None
    # What was lifted or excused for one member alone was asked of the others a moment ago, with their own facts.
    lifted = {rule for member in incident.concerned for rule in member.lifted}
    return parts.ledger.reserve(
        incident.id,
        model=incident.model,
        action=candidate.action.value,
        cost_usd=candidate.cost_usd,
        now=parts.now_for(incident),
        caps=parts.caps().without(lifted),
        undo=incident.undo_of is not None,
        models=[member.model for member in incident.others],
    )


def withdraw(parts: Parts, incident: Incident, *, also_approved: bool) -> None:
    """What was asked is about a plan, or a moment, that is no more."""
    if incident.approval is None:
        return
    gone = {"pending", "approved"} if also_approved else {"pending"}
    request = parts.approvals.find(incident.approval)
    if request is not None and request.state in gone:
        parts.approvals.mark(request.id, "superseded")
    elif request is not None and request.state == "rejected" and incident.state is not State.REJECTED:
        _hear_late(parts, incident, request)


def _hear_late(parts: Parts, incident: Incident, request: ApprovalRequest) -> None:
    """A refusal that came while more drift was weighed: of a plan that is no more, and somebody's word all the same."""
    if incident.asked != asked_as(request):
        return
    _record_refusal(parts, incident, request)
    incident.asked = None


def _record_refusal(parts: Parts, incident: Incident, request: ApprovalRequest) -> None:
    approvers = roster_in_force(parts.settings)
    refused = refused_by(request, approvers)
    actor = Actor(kind="human", id=refused.by) if refused else SERVICE
    said = refused.reason if refused else "nobody signed it; stopped all the same"
    request = request.model_copy(update={"refused": refused, "granted": standing(request, approvers)})
    _record_approval(parts, incident, request, "rejected", actor, cause="decision")
    incident.note(parts.clock, "approval", f"rejected: {said}", actor)


def ask(parts: Parts, incident: Incident, besides: str = "") -> State:
    """Put the plan into the approval queue; where the policy names nobody who could approve, the incident fails.

    `besides`: why, where it is no rule of the policy.
    """
    assert incident.decision is not None
    decision = decision_of(incident.decision)
    if decision.approvals is None or incident.candidate is None:
        whom = f" for all of {named(incident.models)}" if incident.others else ""
        unanswerable = f"the policy escalates, and names nobody who could approve{whom}"
        if incident.undo_of is not None:
            return leave(parts, incident, unanswerable)
        incident.problem = incident.problem or unanswerable
        return fail(parts, incident, incident.problem)
    finding = incident.finding
    summary = finding.summary if finding else ""
    if incident.others:
        summary = f"one upstream cause over {len(incident.models)} models ({named(incident.models)}): {summary}"
    summary = "; ".join(part for part in (summary, besides) if part)
    request, _ = parts.approvals.request(incident, decision, summary)
    incident.approval, incident.held = request.id, []
    # Not whether the request is new: a process may have died right after it wrote it, and then nobody was told.
    asked = asked_as(request)
    if request.state == "rejected":
        incident.asked = asked  # the same plan, which people refused: they are not asked again, and it says so at once
    elif incident.asked != asked:
        incident.asked = asked
        _record_approval(parts, incident, request, "requested", SERVICE, cause="decision")
        incident.note(
            parts.clock,
            "approval",
            f"{request.id}: {request.required} of {', '.join(request.groups)} by {request.expires_at}",
            SERVICE,
        )
        parts.notifier.notify(
            f"approval needed: {request.action} on {request.model}",
            f"{summary}\nwhy: {', '.join(request.why) or besides}\ndriftwarden approvals show {request.id}",
            key=asked,
            fields={"approval": request.id, "incident": incident.id, "correlation_id": incident.correlation_id},
        )
    return State.AWAITING_APPROVAL


def decision_of(document: dict[str, Any]) -> Decision:
    """A decision from its JSON form."""
    terms = document.get("approvals")
    return Decision.model_validate(
        {
            **{key: document[key] for key in ("outcome", "would_be", "rules", "decisive", "facts_digest")},
            "approvals": terms
            and {
                "required": terms["required"],
                "from_": terms["from"],
                "expires_after_seconds": terms["expires_after_seconds"],
            },
            "policy_name": document["policy"]["name"],
            "policy_revision": document["policy"]["revision"],
            "policy_digest": document["policy"]["digest"],
        }
    )


def _record_approval(
    parts: Parts, incident: Incident, request: ApprovalRequest, verdict: str, actor: Actor, *, cause: str
) -> None:
    incident.audit["approval"] = parts.audit.append(
        "approval",
        {
            "approval": request.id,
            "digest": request.digest,
            "bound": request.bound if request.altered() is None else None,
            "verdict": verdict,
            "action": request.action,
            "params": request.params,
            "granted": [grant.model_dump() for grant in request.granted],
            "refused": request.refused.model_dump() if request.refused else None,
            "lifts": list(request.why),
            "expires_at": request.expires_at,
        },
        actor=actor,
        incident=incident.id,
        correlation_id=incident.correlation_id,
        causation=incident.audit.get(cause),
    )


def answer(parts: Parts, incident: Incident, raws: list[str]) -> State:
    """awaiting_approval -> approved | rejected | expired, or triaged again where more drift has come meanwhile."""
    assert incident.approval is not None
    request, held = parts.approvals.find(incident.approval), incident.held
    incident.held = []
    too_late = request is not None and parts.approvals.is_expired(request)
    if request is None or request.state in {"superseded", "executed"} or (request.state == "expired" and not too_late):
        return ask(parts, incident)  # it is gone, or was called something that it cannot be while it is waited for
    if request.state == "approved" and incident.asked != asked_as(request):
        # Somebody put an older request of this plan in the place of the one that was asked.
        parts.approvals.mark(request.id, "superseded")
        return ask(parts, incident)
    if request.state == "approved" and held and (after := _look_at_held(parts, incident, request, raws, held)):
        return after
    approvers = roster_in_force(parts.settings) if request.state == "approved" else {}
    if request.state == "approved" and (granted := approved_by(request, approvers)) is not None:
        request = request.model_copy(update={"granted": granted})
        actor = Actor(kind="human", id=", ".join(grant.by for grant in request.granted))
        _record_approval(parts, incident, request, "approved", actor, cause="decision")
        incident.note(parts.clock, "approval", f"approved: {'; '.join(g.reason for g in request.granted)}", actor)
        return State.APPROVED
    if request.state == "approved":
        incident.note(parts.clock, "approval", f"{request.id}: called approved, and too few have signed it", SERVICE)
        request = parts.approvals.reopen(request.id, standing(request, approvers))
    if request.state == "rejected":
        _record_refusal(parts, incident, request)
        return leave(parts, incident, "people refused it") if incident.undo_of is not None else State.REJECTED
    if parts.approvals.is_expired(request):
        return _expire(parts, incident, request, "nobody answered in time")
    # More drift came while it waited: what is asked for may no longer be what helps.
    if _has_more_drift(incident, raws):
        return State.TRIAGED
    remind(parts, incident, request)
    return State.AWAITING_APPROVAL


def _look_at_held(
    parts: Parts, incident: Incident, request: ApprovalRequest, raws: list[str], held: list[str]
) -> State | None:
    """Where what was approved and held back goes on; None where the approval does not count any more."""
    if parts.approvals.is_expired(request):
        return _expire(parts, incident, request, f"still held back by {', '.join(held)} when its time was over")
    if _has_more_drift(incident, raws):
        return State.TRIAGED
    facts = approval_facts(parts, incident)
    if facts is None:
        return None
    if not is_still_held(parts, incident, held, facts):
        return State.APPROVED  # that people said so is on record already; it is decided again, which will be
    incident.held = held
    return State.AWAITING_APPROVAL


def _has_more_drift(incident: Incident, raws: list[str]) -> bool:
    return len(raws) > len(incident.events) and incident.undo_of is None


def _expire(parts: Parts, incident: Incident, request: ApprovalRequest, why: str) -> State:
    request, timer = parts.approvals.mark(request.id, "expired"), Actor(kind="timer", id="expiry")
    _record_approval(parts, incident, request, "expired", timer, cause="decision")
    incident.note(parts.clock, "approval", f"{why}: not done", timer)
    return leave(parts, incident, why) if incident.undo_of is not None else State.EXPIRED


def decide_approved(parts: Parts, incident: Incident) -> State:
    """approved -> executing, or whatever fresh facts say: what the signers saw failing is lifted, nothing else."""
    parts.require_agreement()
    facts = approval_facts(parts, incident)
    if facts is None:
        wait_for_turn(parts, incident)  # before it is decided, which would be on record at every look
        incident.held = []
    decision = decide(parts, incident, approval=facts)
    if facts is None and decision.outcome is not Outcome.EXECUTE:
        withdraw(parts, incident, also_approved=True)
    return carry_on(parts, incident, approval=facts)


def approval_facts(parts: Parts, incident: Incident) -> dict[str, Any] | None:
    """The fact `approval` of contract §4.10, where this incident's request was granted and not used up.

    Over several models also `members`: by model the rules whose failure for it the signers saw (`judging` tells them apart).
    """
    request = parts.approvals.find(incident.approval) if incident.approval is not None else None
    if request is None or incident.candidate is None or request.state != "approved":
        return None
    if incident.asked != asked_as(request) or parts.approvals.is_expired(request):
        return None
    if not is_bound(incident, request, _terms_now(parts, incident, incident.candidate.action.value)):
        return None
    granted = approved_by(request, roster_in_force(parts.settings))
    if granted is None:
        return None
    return {
        "digest": request.digest,
        "granted": [{"by": grant.by, "group": grant.group, "at": grant.at} for grant in granted],
        "lifts": list(request.why),
        **({"members": lifts_by_model(request.bound)} if incident.others else {}),
    }


def _terms_now(parts: Parts, incident: Incident, action: str) -> ApprovalTerms | None:
    """What the tiers of all members ask for, as the policy is now: what stands in the store decides nothing."""
    policy = parts.policy()
    about = {
        "finding": {"root_cause": incident.finding.root_cause.value if incident.finding else None},
        "plan": {"action": action},
    }
    names = ({"name": one.model, "environment": incident.of(one).environment} for one in incident.concerned)
    return joint_terms([policy.decide(about | {"model": name}).approvals for name in names])


def fail(parts: Parts, incident: Incident, reason: str) -> State:
    """Any state -> failed: it ends here, says why, and people are told; an intent without a result has failed with it."""
    incident.problem = reason
    tell_not_done(parts, incident, reason, failed=True)
    parts.ledger.abandon(incident.id)
    withdraw(parts, incident, also_approved=True)
    drop(incident)
    incident.note(parts.clock, "close", f"failed: {reason}", SERVICE)
    parts.notifier.notify(
        f"incident failed on {incident.model}",
        f"{reason}\ndriftwarden incidents show {incident.id}",
        key=f"{incident.id}:failed",
        fields={"incident": incident.id, "correlation_id": incident.correlation_id},
    )
    return State.FAILED


def decide_problem(parts: Parts, incident: Incident) -> State:
    """triaged -> failed for an event that cannot be handled: decided like any other (unknown facts escalate), and said."""
    decide(parts, incident)
    return fail(parts, incident, incident.problem or "the event cannot be handled")
