"""What an approval binds: the document whose digest people sign, and the rules whose failure they saw.

Another action, parameter, version, window, cost, member, tier's terms or failing rule makes another document.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from driftwarden.contracts.decision import ApprovalTerms, Decision
from driftwarden.errors import BadInput
from driftwarden.service.workflow.incident import Incident
from driftwarden.strict import digest, plain


def bound_document(
    incident: Incident,
    terms: ApprovalTerms,
    lifts: Sequence[str],
    lifts_of: Mapping[str, Sequence[str]] | None = None,
) -> dict[str, Any]:
    """Everything that an approval of this incident's plan approves (docs/approvals.md lists the fields).

    `lifts_of`: by model, where several are concerned; default: what failed for each in its last decision.
    """
    candidate, undo = incident.candidate, incident.undo_of
    if candidate is None:
        raise BadInput("nothing to approve", got=incident.id, expected="a plan")
    members = [
        {
            "model": one.model,
            "champion": one.champion,
            "window": _window(one.event),
            "lifts": sorted(one.failing if lifts_of is None else lifts_of.get(one.model, ())),
        }
        for one in incident.concerned
    ]
    document: dict[str, Any] = plain(
        {
            "incident": incident.id,
            "model": incident.model,
            "environment": incident.environment,
            "action": candidate.action.value,
            "params": candidate.params,
            "champion": incident.champion_before,
            "challenger": candidate.params.get("to_version"),
            "window": _window(incident.event),
            "cost_usd": candidate.cost_usd,
            "approvals": {
                "required": terms.required,
                "from": list(terms.from_),
                "expires_after_seconds": terms.expires_after_seconds,
            },
            "lifts": sorted(lifts),
            "undo": digest(plain([undo.get("request"), undo.get("result")])) if undo else None,
            "requested_by": undo.get("by") if undo else None,
            **({"members": members} if incident.others else {}),
        }
    )
    return document


def _window(event: Mapping[str, Any]) -> dict[str, Any]:
    window = event.get("window") or {}
    return {name: window.get(name) for name in ("uri", "start", "end", "rows")}


def lifted_rules(decision: Decision) -> tuple[str, ...]:
    """Ids of the rules that failed or were unknown and held the action back: what the signers see, and lift."""
    return tuple(rule.id for rule in decision.rules if rule.verdict in {"fail", "unknown"} and rule.effect is not None)


def lifts_by_model(bound: Mapping[str, Any]) -> dict[str, list[str]]:
    """By model the rules whose failure the signers saw, where the request is about several; raises nothing: `is_bound`
    holds it against the digest."""
    members = bound.get("members")
    found = [one for one in members if isinstance(one, dict)] if isinstance(members, list) else []
    told = [one for one in found if isinstance(one.get("lifts"), list)]
    return {str(one.get("model")): [str(rule) for rule in one["lifts"]] for one in told}


def lifts_of(incident: Incident, decision: Decision) -> tuple[str, ...]:
    """What an approval would lift for any of the models concerned."""
    if not incident.others:
        return lifted_rules(decision)
    return tuple(sorted({rule for member in incident.members for rule in member.failing}))
