"""The facts of a decision (contract §4), gathered from what was measured, planned, rehearsed and counted. Pure."""

from decimal import Decimal
from typing import Any

from driftwarden.clock import parse_rfc3339
from driftwarden.contracts.findings import Candidate, Rehearsal
from driftwarden.contracts.watch import WatchedModel
from driftwarden.policies import canonical_facts
from driftwarden.service.workflow.incident import Incident
from driftwarden.strict import plain

P_WORSE_MIN = 0.9
CLOCK_SKEW_MAX_S = 300


def build_facts(
    incident: Incident,
    *,
    now: str,
    model: WatchedModel | None,
    state: dict[str, Any],
    halted: bool | None,
    track_record: dict[str, Any] | None,
    approval: dict[str, Any] | None = None,
    impact: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """One JSON object of facts; what is not known is null, which the policy takes as unknown.

    `impact`: where several models are concerned, what they lose together; default: what the lead does.
    """
    candidate, rehearsal = incident.candidate, incident.rehearsal
    # What an undo mends is what the effect cost since, not what led to the effect.
    measures = {"performance": incident.undo_of["performance"]} if incident.undo_of else incident.measures
    performance = measures.get("performance") or {}
    own = {"relative_loss": proven_loss(performance), "usd_per_day": usd_per_day(performance, model)}
    facts = {
        "now": now,
        "model": {
            "name": incident.model,
            "environment": incident.environment,
            "traffic_percent": model.traffic_percent if model else None,
        },
        "event": {
            "kind": incident.event.get("kind"),
            "age_seconds": _age_seconds(now, incident.event_time),
        },
        "finding": {
            "root_cause": incident.finding.root_cause.value if incident.finding else None,
            "confidence": incident.finding.confidence if incident.finding else None,
        },
        "plan": _plan_facts(incident, candidate),
        "impact": own if impact is None else impact,
        "evidence": _evidence_facts(measures, incident, now),
        "rehearsal": _rehearsal_facts(rehearsal),
        "track_record": track_record or {"successes": None, "failures": None, "lower_bound": None},
        "approval": approval,
        "state": {"halted": halted, **state},
    }
    # Canonical first: a figure that is NaN or infinite stays one, and is unknown; made plain at once it would be a null,
    # which some rules take for known.
    result: dict[str, Any] = plain(canonical_facts(facts))
    return result


def proven_loss(performance: dict[str, Any]) -> float | None:
    """The relative loss where it is more than chance (`p_worse` of at least 0.9), else the lower end of its interval.

    A window of a few hundred rows is worse than the reference every other time; only what outlasts the noise is harm.
    """
    loss, p_worse = performance.get("relative_loss"), performance.get("p_worse")
    if loss is None or p_worse is None or p_worse >= P_WORSE_MIN:
        return loss
    return max(0.0, float(performance.get("relative_loss_low") or 0.0))


def _plan_facts(incident: Incident, candidate: Candidate | None) -> dict[str, Any]:
    if candidate is None:
        return {
            "action": None,
            "params": {},
            "confidence": None,
            "cost_usd": None,
            "benefit_usd": None,
            "models_affected": None,
            "reversible": None,
        }
    return {
        "action": candidate.action.value,
        "params": candidate.params,
        "confidence": incident.confidence,
        "cost_usd": candidate.cost_usd,
        "benefit_usd": candidate.benefit_usd,
        "models_affected": candidate.models_affected,
        "reversible": candidate.reversible,
    }


def _evidence_facts(measures: dict[str, dict[str, Any]], incident: Incident, now: str) -> dict[str, Any]:
    measured = (measure.get("rows_current") for measure in measures.values())
    rows = max((int(count) for count in measured if count is not None), default=None)
    end = (incident.event.get("window") or {}).get("end") or incident.event_time
    return {
        "rows": rows,
        "labelled_rows": (measures.get("performance") or {}).get("labelled_rows"),
        "age_seconds": _age_seconds(now, end),
    }


def _rehearsal_facts(rehearsal: Rehearsal | None) -> dict[str, Any]:
    if rehearsal is None or rehearsal.status != "rehearsed":
        return {"win_probability": None, "relative_gain": None}
    return {"win_probability": rehearsal.win_probability, "relative_gain": rehearsal.relative_gain}


def usd_per_day(performance: dict[str, Any], model: WatchedModel | None) -> Decimal | None:
    """What the loss costs a day, in USD; None where it is not known."""
    reference, current = performance.get("reference"), performance.get("current")
    if model is None or reference is None or current is None:
        return None
    higher = performance.get("higher_is_better", True)
    lost = float(reference) - float(current) if higher else float(current) - float(reference)
    points = Decimal(repr(max(0.0, lost))) * 100
    return (points * model.value.usd_per_point).quantize(Decimal("0.01"))


def _age_seconds(now: str, then: str) -> int | None:
    """Whole seconds, 0 within the skew of two clocks; None for what lies in the future: its age is not known."""
    if not then:
        return None
    seconds = int((parse_rfc3339(now) - parse_rfc3339(then)).total_seconds())
    return max(0, seconds) if seconds >= -CLOCK_SKEW_MAX_S else None
