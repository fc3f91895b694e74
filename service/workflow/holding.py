"""What was approved and may not be done yet: the approval stands, and waits for what no signature lifts.

A halt, `enforcement: halt` and another remediation under way cannot be lifted by signing, and a window that its signers did
not see ends by itself: to ask anew would only use signatures up. The same holds where no rule of the policy counts what is under
way: the ledger lets nothing run beside it all the same, and what needs no approval then waits for its turn. So the incident goes
on waiting with the approval that it has, bound to its digest, and looks again and again without a record. Once another answer
is to be expected, it is decided again, on record and with fresh facts. When the request's time is over before that, the answer
is no.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from driftwarden.clock import parse_rfc3339
from driftwarden.contracts.base import Outcome
from driftwarden.errors import NotYet
from driftwarden.service.workflow.approvals import asked_as
from driftwarden.service.workflow.incident import Incident
from driftwarden.service.workflow.judging import would_decide
from driftwarden.service.workflow.members import named
from driftwarden.service.workflow.parts import SERVICE, Parts
from driftwarden.service.workflow.reminding import next_look
from driftwarden.service.workflow.transitions import State

HELD_AGAIN_S = 30.0
VERIFY_AGAIN_S = 300.0
PER_MODEL, UNREADABLE = "concurrency-per-model", "unreadable"
_PASSING = ("halted", "enforcement")
_PASSING_KINDS = ("concurrency-", "window:")


def stopped_by(decision: Mapping[str, Any]) -> list[str]:
    """Ids of the rules that hold back what was approved, in a decision that escalates: those that waiting helps against."""
    if decision["outcome"] != Outcome.ESCALATE:
        return []
    return sorted(rule for rule in decision["decisive"] if rule in _PASSING or rule.startswith(_PASSING_KINDS))


def hold(parts: Parts, incident: Incident, rules: Sequence[str]) -> State:
    """Wait with the approval; people are told why, once for each asking and reason."""
    assert incident.approval is not None
    incident.held = list(rules)
    request, why = parts.approvals.find(incident.approval), ", ".join(rules)
    until = request.expires_at if request is not None else "its end"
    incident.note(
        parts.clock,
        "approval",
        f"approved, and held back by {why}: decided again once that is over, until {until}",
        SERVICE,
    )
    if request is not None:
        parts.notifier.notify(
            f"approved, and held back: {request.action} on {request.model}",
            f"by {why}; it is decided again once that is over, until {until}\ndriftwarden approvals show {request.id}",
            key=f"{asked_as(request)}:held:{why}",
            fields={"approval": request.id, "incident": incident.id, "correlation_id": incident.correlation_id},
        )
    return State.AWAITING_APPROVAL


def is_still_held(parts: Parts, incident: Incident, held: Sequence[str], approval: dict[str, Any]) -> bool:
    """Whether the very same rules would hold it back now; nothing is written down, for nothing follows."""
    decision = would_decide(parts, incident, approval)
    if decision.outcome is Outcome.EXECUTE:
        return _stopped_by_ledger(parts, incident) == list(held)
    return stopped_by(decision.to_json()) == list(held)


def _stopped_by_ledger(parts: Parts, incident: Incident) -> list[str]:
    """What the ledger would name for refusing what every rule lets pass: it bounds a model's actions by itself, too."""
    counted = parts.ledger.facts_of(incident.id, models=incident.models, now=parts.now_for(incident), caps=parts.caps())
    running = [of["running_model"] for of in counted.values()]
    if None in running:
        return [UNREADABLE]
    return [PER_MODEL] if any(running) else []


def wait_for_turn(parts: Parts, incident: Incident) -> None:
    """Raise NotYet where the policy lets it be done, and the ledger does not: another action runs on one of its models.

    That no rule counts it makes it no question to people, who could not lift it either; its turn comes by itself. Nothing is
    written down, for nothing follows.
    """
    running = parts.ledger.running_by_model(besides=incident.id)
    taken = {model: running[model] for model in incident.models if model in running}
    if taken and would_decide(parts, incident, None).outcome is Outcome.EXECUTE:
        whose, models = sorted({one for each in taken.values() for one in each}), named([*taken])
        reason = f"an action of {named(whose)} runs on {models}, and a model is changed by one at a time"
        raise NotYet(reason, held=(PER_MODEL,), again_s=HELD_AGAIN_S)


def has_waited(parts: Parts, incident: Incident) -> bool:
    """True once, when its turn has come: it is to begin again, for the other may have mended it, or put another version in force.

    An undo goes on, and refuses itself where the state has moved on.
    """
    if not incident.held:
        return False
    wait_for_turn(parts, incident)
    incident.held = []
    return incident.undo_of is None


def begin_anew(parts: Parts, incident: Incident) -> State:
    """What was found out, planned and decided before it waited is about a model that was changed since."""
    incident.begin_again()
    incident.note(parts.clock, "event", "the other action is over: looked at again before anything is done", SERVICE)
    return State.TRIAGED


def why_refused(parts: Parts, incident: Incident, broken: str) -> str:
    """Why the ledger refuses what every rule lets pass, where people must know; raises NotYet where the cap is free again."""
    if _stopped_by_ledger(parts, incident) != [UNREADABLE]:
        raise NotYet(f"the cap `{broken}` was taken for a moment")
    return "no rule: an entry of the ledger cannot be read, and nothing is reserved beside it"


def rests_s(parts: Parts, incident: Incident) -> float:
    """Seconds until an incident that waits is looked at again, if nobody wakes it before."""
    if incident.state is not State.AWAITING_APPROVAL or incident.approval is None:
        return VERIFY_AGAIN_S
    request, held = parts.approvals.get(incident.approval), incident.held_back_by
    if request.state != "pending" and not held:
        return 0.0
    until = parse_rfc3339(request.expires_at) if held else next_look(parts, incident, request)
    wait_s = max(1.0, (until - parts.clock.now()).total_seconds())
    return min(HELD_AGAIN_S, wait_s) if held else wait_s
