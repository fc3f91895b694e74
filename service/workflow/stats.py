"""Figures of a service's work: autonomy, response times, success, spend, calibration, approvals; what waits. Pure."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from decimal import Decimal
from statistics import median
from typing import Any

from driftwarden.clock import parse_rfc3339
from driftwarden.service.workflow.answered import Tally, proves, waited_s
from driftwarden.service.workflow.approvals import ApprovalRequest
from driftwarden.service.workflow.health import ProcessHealth
from driftwarden.service.workflow.incident import Incident

CALIBRATION_BINS = 10


def figures(
    incidents: Sequence[Incident],
    approvals: Sequence[ApprovalRequest],
    *,
    spend_usd: Decimal,
    harmful_loss: Decimal,
    gone: Tally | None = None,
) -> dict[str, Any]:
    """The document of `driftwarden stats --json` (contract §6); `gone`: requests that were removed with their incidents."""
    decided = [one for one in incidents if one.decision is not None]
    harmful = [one for one in decided if _loss(one) is not None and (_loss(one) or Decimal(0)) >= harmful_loss]
    outcomes = Counter(_outcome(one) for one in decided)
    seconds = sorted(_response_s(one) for one in decided if one.decided_at)
    acted = [one for one in incidents if one.result is not None]
    judged = [one for one in acted if one.helped is not None]
    return {
        "events": sum(len(one.events) for one in incidents),
        "incidents": len(incidents),
        "outcomes": {name: outcomes.get(name, 0) for name in ("execute", "escalate", "monitor")},
        "autonomy_rate": _share(sum(_outcome(one) != "escalate" for one in decided), len(decided)),
        "autonomy_rate_harmful": _share(sum(_outcome(one) != "escalate" for one in harmful), len(harmful)),
        "response_seconds": {
            "p50": _percentile(seconds, 50),
            "p95": _percentile(seconds, 95),
            "max": seconds[-1] if seconds else None,
        },
        "actions": dict(Counter(one.result.action.value for one in acted if one.result)),
        "success_rate": _share(sum(bool(one.helped) for one in judged), len(judged)),
        "undone": sum(one.state.value == "undone" for one in incidents),
        "spend_usd": f"{spend_usd.normalize():f}",
        "calibration": _calibration(judged),
        "approvals": _approvals(approvals, {one.id: one for one in incidents}, gone or Tally()),
    }


def running(waiting: dict[str, Any], processes: Sequence[ProcessHealth]) -> dict[str, Any]:
    """`backpressure`, `workers` and `processes` of `driftwarden stats --json`; `waiting` as `backpressure` looks it up."""
    workers = [line for one in processes for line in one.workers()]
    doing = Counter(line["doing"] for line in workers)
    return {
        "backpressure": {**waiting, "workers": {name: doing.get(name, 0) for name in ("waiting", "working", "late")}},
        "workers": workers,
        "processes": [one.to_json() for one in processes],
    }


def told(found: Mapping[str, Any]) -> list[str]:
    """What waits and who works, in lines for a person."""
    waits, workers = found["backpressure"], found["backpressure"]["workers"]
    intake, activations, timers = waits["intake"], waits["activations"], waits["timers"]
    live = sum(one["ended"] is None for one in found["processes"])
    waiting = (
        f"{intake['length']} events{_oldest(intake)}, {activations['waiting']} turns of incidents{_oldest(activations)}, "
        f"{waits['queued']} behind others of their model; {timers['waiting']} timers, {timers['due']} due; "
        f"{waits['dead_letters']} dead letters"
    )
    doing = ", ".join(f"{workers[name]} {name}" for name in ("working", "waiting", "late"))
    lines = [f"waiting        {waiting}", f"workers        {doing}, in {live} processes"]
    lines += [
        f"late           {one['name']}: {one['incident']} in `{one['state']}` for {one['seconds']:.0f} s"
        for one in found["workers"]
        if one["doing"] == "late"
    ]
    for one in found["processes"]:
        if one["ended"] is not None:
            lines.append(f"ended          {one['name']}: {one['ended']}")
        lines += [
            f"away           {name} ({one['name']}): {breaker['reason']}"
            for name, breaker in sorted(one["breakers"].items())
            if breaker["state"] != "closed"
        ]
    return lines


def _oldest(waits: Mapping[str, Any]) -> str:
    return "" if waits["oldest_seconds"] is None else f" (the oldest for {waits['oldest_seconds']:.0f} s)"


def _outcome(incident: Incident) -> str:
    """An incident that ever asked a person counts as escalated, at once and for good."""
    return "escalate" if incident.approval or incident.outcome == "escalate" else str(incident.outcome)


def _loss(incident: Incident) -> Decimal | None:
    value = (incident.measures.get("performance") or {}).get("relative_loss")
    return None if value is None else Decimal(repr(float(value)))


def _response_s(incident: Incident) -> float:
    assert incident.decided_at is not None
    span = parse_rfc3339(incident.decided_at) - parse_rfc3339(incident.opened_at)
    return round(max(0.0, span.total_seconds()), 3)


def _share(part: int, whole: int) -> str | None:
    return None if whole == 0 else f"{part / whole:.4f}"


def _percentile(ordered: Sequence[float], percent: int) -> float | None:
    if not ordered:
        return None
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)]


def _calibration(judged: Sequence[Incident]) -> dict[str, Any]:
    """Brier score and expected calibration error of the confidence that a decision rested on."""
    pairs = [(one.confidence, bool(one.helped)) for one in judged if one.confidence is not None]
    if not pairs:
        return {"brier": None, "ece": None, "n": 0}
    brier = sum((confidence - helped) ** 2 for confidence, helped in pairs) / len(pairs)
    bins: dict[int, list[tuple[float, bool]]] = {}
    for confidence, helped in pairs:
        bins.setdefault(min(CALIBRATION_BINS - 1, int(confidence * CALIBRATION_BINS)), []).append((confidence, helped))
    ece = sum(
        abs(sum(helped for _, helped in one) - sum(confidence for confidence, _ in one)) for one in bins.values()
    ) / len(pairs)
    return {"brier": f"{brier:.4f}", "ece": f"{ece:.4f}", "n": len(pairs)}


def _approvals(approvals: Sequence[ApprovalRequest], incidents: Mapping[str, Incident], gone: Tally) -> dict[str, Any]:
    waited = [seconds for one in approvals if (seconds := waited_s(one)) is not None] + gone.waits_s()
    states = Counter[str](one.state for one in approvals) + Counter(gone.states)
    done = [incidents[one.incident] for one in approvals if proves(one) and one.incident in incidents]
    judged = [one.helped for one in done if one.helped is not None]
    right, n = sum(judged) + gone.right, len(judged) + gone.judged
    answered = states["approved"] + states["executed"] + states["rejected"]
    return {
        "median_seconds": round(median(waited), 3) if waited else None,
        "approved": states["approved"] + states["executed"],
        "rejected": states["rejected"],
        "expired": states["expired"],
        "pending": states["pending"],
        "approval_rate": _share(states["approved"] + states["executed"], answered),
        # Of the approved effects that later rows judged: how many helped.
        "proved_right": {"share": _share(right, n), "n": n},
    }
