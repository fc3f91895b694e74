"""The policy is asked for every model that an incident concerns; the strictest answer is the incident's.

A member may be of a stricter tier, halted, in a deny window or over its own limits: each is asked about with its own facts,
and each answer stands in a `decision` record of its own, the strictest last.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from driftwarden.clock import rfc3339
from driftwarden.contracts.base import Outcome
from driftwarden.contracts.decision import ApprovalTerms, Decision
from driftwarden.contracts.watch import WatchedModel
from driftwarden.service.workflow.binding import lifted_rules
from driftwarden.service.workflow.caps import Caps
from driftwarden.service.workflow.facts import build_facts, proven_loss, usd_per_day
from driftwarden.service.workflow.floor import raised
from driftwarden.service.workflow.incident import Incident, Member
from driftwarden.service.workflow.ledger import wilson_lower
from driftwarden.service.workflow.members import UNKNOWN_IMPACT, group_impact, named, watched
from driftwarden.service.workflow.parts import SERVICE, Parts, PolicyInForce

_RANK = {Outcome.EXECUTE: 0, Outcome.MONITOR: 1, Outcome.ESCALATE: 2}


@dataclass(frozen=True)
class Answer:
    """What the policy says of one member; `spared`: nothing is done to it, for by its own measured loss alone it would only be
    watched, or for its loss is not known and nobody has approved of it."""

    member: Member
    facts: dict[str, Any]
    decision: Decision
    spared: bool = False

    @property
    def strictness(self) -> tuple[int, int, bool, int]:
        """More is stricter: the outcome, what it would be, that nobody could approve, how many would have to."""
        said, terms = self.decision, self.decision.approvals
        would = _RANK[said.would_be] if said.would_be is not None else 0
        return _RANK[said.outcome], would, terms is None, terms.required if terms else 0


def decide(parts: Parts, incident: Incident, *, approval: dict[str, Any] | None = None) -> Decision:
    """The policy in force, asked from fresh facts for every member; on record before anything follows from it.

    `approval` as `deciding.approval_facts` gives it. The decision that is returned, and kept in the incident, is the
    strictest, with the terms on which all members may be approved together.
    """
    # Taken once: the windows that facts are counted over are those of the policy that decides, whatever is reloaded meanwhile.
    policy = parts.policy()
    answers = _ask(parts, incident, policy, approval)
    strictest = max(answers, key=lambda one: one.strictness)  # the lead's, where none is stricter
    for answer in [*(one for one in answers if one is not strictest), strictest]:
        _record(parts, incident, answer, policy.digest)
    incident.audit["decision"] = strictest.member.decided or ""
    terms = joint_terms([one.decision.approvals for one in answers])
    decision = strictest.decision.model_copy(update={"approvals": terms})
    incident.facts, incident.decision = strictest.facts, decision.to_json()
    incident.outcome = decision.outcome.value
    if incident.decided_at is None:
        incident.decided_at = rfc3339(parts.clock.now())
    whose = f" (of {strictest.member.model}, the strictest of {len(answers)} models)" if len(answers) > 1 else ""
    incident.note(parts.clock, "decision", f"{in_words(decision)}{whose}", SERVICE)
    # Where people are asked, they may want it of those too that nothing is known of.
    sure = [one.member for one in answers if one.spared and proven_loss(one.member.performance) is not None]
    spared = [one.member for one in answers if one.spared] if decision.outcome is Outcome.EXECUTE else sure
    if spared and decision.outcome is not Outcome.MONITOR:
        models = named([member.model for member in spared])
        told = f"no data is kept out of {models}: what they lose themselves asks for nothing, or is not known"
        incident.note(parts.clock, "decision", told, SERVICE)
    return decision


def would_decide(parts: Parts, incident: Incident, approval: dict[str, Any] | None) -> Decision:
    """What `decide` would say now, the strictest of all; it is not on record, and nothing may follow from it."""
    answers = _ask(parts, incident, parts.policy(), approval)
    return max(answers, key=lambda one: one.strictness).decision


def joint_terms(found: Sequence[ApprovalTerms | None]) -> ApprovalTerms | None:
    """The terms that satisfy each of these: the most approvals that one asks for, from groups that all of them name, in the
    shortest time. None where one of them has none, or where no group may approve for all: then nobody can approve."""
    terms = [one for one in found if one is not None]
    if not terms or len(terms) < len(found):
        return None
    groups = tuple(group for group in terms[0].from_ if all(group in one.from_ for one in terms))
    if not groups:
        return None
    return ApprovalTerms(
        required=max(one.required for one in terms),
        from_=groups,
        expires_after_seconds=min(one.expires_after_seconds for one in terms),
    )


def _ask(parts: Parts, incident: Incident, policy: PolicyInForce, approval: dict[str, Any] | None) -> list[Answer]:
    members = incident.members = incident.concerned
    caps, now = Caps.of(policy.canonical()), parts.now_for(incident)
    state = _states(parts, incident, [one.model for one in members], now, caps)
    # What an undo mends is what the effect cost, which is no member's drift.
    impact = group_impact(parts, incident) if len(members) > 1 and incident.undo_of is None else {}
    action = incident.candidate.action.value if incident.candidate else None
    answers = []
    for member in members:
        model = watched(parts, member.model)
        ask = partial(
            build_facts,
            incident.of(member),
            now=now,
            model=model,
            state=state[member.model],
            halted=parts.halts.is_halted(member.model),
            track_record=_track_record(parts, member.model, action) if action else None,
            approval=_approval_of(member.model, approval),
        )
        facts = ask(impact=impact.get(member.model))
        decision, spared = policy.decide(facts), member.spared
        if member.unknown and incident.undo_of is None:
            # What its other windows cost is not known: that the one that speaks is harmless does not make them so.
            unknown = ask(impact=UNKNOWN_IMPACT)
            if _rests_on_impact(decision, without := policy.decide(unknown)):
                facts, decision = unknown, without
        if impact and member.model != incident.model:
            own = _own_impact(member, model)
            watched_only = own is not None and _only_watches(policy.decide(ask(impact=own)))
            # Of what was not measured, or not counted, people must have said that they want it all the same.
            is_known = own is not None and not (watched_only and member.unknown)
            spared = watched_only if is_known else not _is_lifted(decision)
        answers.append(Answer(member, facts, decision, spared))
    return answers


def _own_impact(member: Member, model: WatchedModel | None) -> dict[str, Any] | None:
    """The facts `impact` as they would be in an incident of the member's own; None where it was not measured.

    It counts by the worst of all, so that no harm is overlooked. But what others lose is no reason to change it, or whoever
    names a healthy model in an event would have its data kept out.
    """
    loss = proven_loss(member.performance)
    return None if loss is None else {"relative_loss": loss, "usd_per_day": usd_per_day(member.performance, model)}


def _rests_on_impact(known: Decision, unknown: Decision) -> bool:
    """Whether a rule fails for how small the impact is: where that is not known, it does not."""
    verdicts = {rule.id: rule.verdict for rule in unknown.rules}
    return any(rule.verdict == "fail" and verdicts.get(rule.id) == "unknown" for rule in known.rules)


def _is_lifted(decision: Decision) -> bool:
    return any(rule.effect == "lifted" for rule in decision.rules)


def _only_watches(decision: Decision) -> bool:
    return Outcome.MONITOR in {decision.outcome, decision.would_be}


def _states(parts: Parts, incident: Incident, models: Sequence[str], now: str, caps: Caps) -> dict[str, dict[str, Any]]:
    """`state.*` of each model as Redis and the log have it; it never counts this incident."""
    counted = parts.ledger.facts_of(incident.id, models=models, now=now, caps=caps)
    floor = parts.floor.facts_of(incident.id, models=models, now=now, caps=caps)
    return {model: raised(counted[model], floor[model]) for model in models}


def _approval_of(model: str, approval: dict[str, Any] | None) -> dict[str, Any] | None:
    """The fact `approval` for one model: of its rules, only those are lifted whose failure the signers saw."""
    if approval is None:
        return None
    lifts = approval.get("members", {}).get(model, [] if "members" in approval else approval["lifts"])
    return {"digest": approval["digest"], "granted": approval["granted"], "lifts": lifts}


def _track_record(parts: Parts, model: str, action: str) -> dict[str, Any]:
    """As Redis has it, with no fewer failures than the log."""
    track = parts.ledger.track_record(model=model, action=action)
    if track["failures"] is None:
        return track
    failures = max(track["failures"], parts.floor.failures(model, action))
    return track | {
        "failures": failures,
        "lower_bound": wilson_lower(track["successes"], track["successes"] + failures),
    }


def _record(parts: Parts, incident: Incident, answer: Answer, policy_digest: str) -> None:
    member, decision = answer.member, answer.decision
    member.decided = parts.audit.append(
        "decision",
        {"facts": answer.facts, "decision": decision.to_json(), "policy_digest": policy_digest},
        actor=SERVICE,
        incident=incident.id,
        correlation_id=incident.correlation_id,
        causation=incident.audit.get("plan") or incident.audit.get("event"),
    )
    member.outcome, member.failing = decision.outcome.value, sorted(lifted_rules(decision))
    member.spared = answer.spared
    # What an exception excuses is `not_applicable`: it must not bind in the ledger what it does not bind here.
    member.lifted = [rule.id for rule in decision.rules if rule.effect == "lifted" or rule.verdict == "not_applicable"]


def in_words(decision: Decision) -> str:
    """The outcome and the rules that decided it, in words."""
    would = f" (would be {decision.would_be})" if decision.would_be else ""
    lifted = ", ".join(rule.id for rule in decision.rules if rule.effect == "lifted")
    if decision.decisive:
        return f"{decision.outcome}{would} because of {', '.join(decision.decisive)}"
    return f"{decision.outcome}{would}" + (
        f": people lifted {lifted}, every other rule passes" if lifted else ": every rule passes"
    )
