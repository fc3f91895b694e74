"""The first half of the walk: what came, why it happened, what would help, and how that fares in rehearsal."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from driftwarden.agents.remedies import Harm, remedies
from driftwarden.contracts.base import ActionName, RootCause
from driftwarden.contracts.effects import ActionRequest
from driftwarden.contracts.findings import Candidate, Rehearsal
from driftwarden.contracts.ports import Actor
from driftwarden.contracts.watch import WatchedModel
from driftwarden.errors import BadInput, Error, GiveUp
from driftwarden.service.workflow.breakers import Consulted, degrade
from driftwarden.service.workflow.case import LiveCase
from driftwarden.service.workflow.incident import Incident
from driftwarden.service.workflow.members import (
    harmed,
    named,
    refused_over_many,
    shared_upstream,
    tell_at_least,
)
from driftwarden.service.workflow.parts import SERVICE, Parts
from driftwarden.service.workflow.requests import build_request
from driftwarden.service.workflow.rows import ModelRows
from driftwarden.service.workflow.transitions import State
from driftwarden.service.workflow.triage import nothing_to_do, triage
from driftwarden.service.workflow.weighing import (
    keep_seen,
    refused_unknown,
    remember_window,
    tell_windows,
    told_unknown,
)
from driftwarden.service.workflow.windows import Told

log = logging.getLogger(__name__)

UNMEASURED = "nothing could be measured"
REHEARSED_ACTIONS = frozenset({ActionName.RETRAIN, ActionName.ROLLBACK})


def investigate(parts: Parts, incident: Incident, told: Mapping[str, Sequence[Told]]) -> State:
    """triaged -> investigated: the agents read the case and say what they think; measurements are kept.

    One investigation, of the lead, on the window that speaks for it; how much the other models are harmed was measured for each
    before. `told`: the windows of each model.
    """
    lead = incident.concerned[0]
    if incident.finding is None or not incident.looked_at or incident.looked_at != lead.mark:
        seen = _ask_agents(parts, incident)
    else:  # only others joined: the cause is the lead's, and has been looked into
        seen, incident.problem = {}, lead.fault
    assert incident.finding is not None
    shared = {"models": tuple(incident.models), "upstream": shared_upstream(parts, incident)} if incident.others else {}
    incident.finding = incident.finding.model_copy(update=shared or {"models": (), "upstream": ()})
    _tell_finding(parts, incident, seen | tell_windows(lead, told[lead.model]))
    return State.INVESTIGATED


def _ask_agents(parts: Parts, incident: Incident) -> dict[str, Any]:
    """Measure, ask, and keep finding and plan; returns what the record of the finding tells beside it."""
    case = LiveCase(parts, incident, parts.settings.watched(incident.model))
    sorted_out = triage(parts, incident, case)
    consulted, factor = Consulted(parts.knowledge), parts.settings.service.degraded.knowledge_factor
    advice = parts.advisor.advise(
        case,
        consulted,
        correlation_id=incident.correlation_id,
        incident=incident.id,
        offline=sorted_out is not None,
    )
    case.measure("performance")  # the impact is a fact of the decision, whether the agents asked for it or not
    incident.measures = case.measured()
    finding = degrade(advice, consulted, parts.breakers.chroma, knowledge_factor=factor)
    plan, lead = advice.plan, incident.concerned[0]
    if sorted_out is not None:
        told = f"triaged: {sorted_out.reason}, no model was asked. {finding.summary}"
        finding = finding.model_copy(update={"summary": told})
        plan = nothing_to_do(sorted_out.reason) if sorted_out.over else plan
    incident.finding, incident.plan, incident.agents_model = finding, plan, advice.model
    incident.triaged = sorted_out.reason if sorted_out is not None else None
    incident.over = sorted_out is not None and sorted_out.over
    incident.asked_model = incident.asked_model or sorted_out is None
    # What was sorted out is looked at anew whenever something joins: it may not be so any more.
    anew = sorted_out is not None and (incident.over or not incident.asked_model)
    incident.looked_at = "" if anew else lead.mark
    lead.performance = incident.measures["performance"]
    keep_seen(lead, case, lead.performance)
    if case.faults:
        incident.problem = f"the window's table: {'; '.join(case.faults)}"
    if case.unreadable:
        incident.problem = f"{UNMEASURED}: {case.unreadable}"
    lead.fault = incident.problem
    remember_window(parts, incident, incident.measures["performance"])
    return {
        "window_faults": case.faults,
        "steps": [step.model_dump(mode="json") for step in advice.steps],
        "tokens": {"input": advice.input_tokens, "output": advice.output_tokens},
    }


def _tell_finding(parts: Parts, incident: Incident, seen: dict[str, Any]) -> None:
    finding = incident.finding
    assert finding is not None
    investigator = Actor(kind="agent", id=f"investigator/{incident.agents_model}")
    incident.audit["finding"] = parts.audit.append(
        "finding",
        {**finding.model_dump(mode="json"), **seen},
        actor=investigator,
        incident=incident.id,
        correlation_id=incident.correlation_id,
        causation=incident.audit.get("event"),
    )
    columns = f" in {', '.join(finding.columns)}" if finding.columns else ""
    incident.note(
        parts.clock,
        "finding",
        f"{finding.root_cause}{columns} (confidence {finding.confidence:.2f}): {finding.summary}",
        investigator,
    )
    for missing in finding.degraded:
        incident.note(parts.clock, "finding", f"degraded: {missing}", SERVICE)
    if incident.others:
        fed = f", all fed from {', '.join(finding.upstream)}" if finding.upstream else ""
        incident.note(
            parts.clock,
            "finding",
            f"one upstream cause over {len(incident.models)} models{fed}: {named(incident.models)}; "
            f"harmed as measured: {named(harmed(incident)) or 'none'}",
            SERVICE,
        )
    if "windows" in seen:
        speaks = next((one for one in seen["windows"] if one["speaks"]), None)
        whose = f"that of event {speaks['id']} from {speaks['source']}" if speaks else "an earlier one"
        incident.note(parts.clock, "finding", f"of {seen['windows_told']} windows, {whose} speaks", SERVICE)
    for member in incident.concerned:
        if member.unknown:
            incident.note(parts.clock, "finding", told_unknown(member), SERVICE)
    for fault in seen.get("window_faults", ()):
        incident.note(parts.clock, "finding", f"the window's table: {fault}", SERVICE)
    if incident.problem and incident.problem.startswith(UNMEASURED):
        incident.note(parts.clock, "finding", incident.problem, SERVICE)


def write_plan(parts: Parts, incident: Incident) -> State:
    """investigated -> planned: candidates that cannot be done at all are said so, and left out of the running."""
    assert incident.plan is not None
    strategist = Actor(kind="agent", id=f"strategist/{incident.agents_model}")
    model = parts.settings.watched(incident.model)
    refused: dict[str, str] = {}
    priced = []
    for candidate in incident.plan.candidates:
        request = build_request(parts, incident, model, candidate)
        reason = refused_over_many(incident, candidate) or refused_unknown(incident, candidate)
        reason = reason or _refusal(parts, request)
        if reason:
            refused[candidate.id] = reason
        priced.append(candidate if reason else _priced(parts, request))
    incident.plan = incident.plan.model_copy(update={"candidates": tell_at_least(incident, priced, refused)})
    incident.rehearsal_notes = {"refused": refused}
    incident.audit["plan"] = parts.audit.append(
        "plan",
        {**incident.plan.model_dump(mode="json"), "refused": refused},
        actor=strategist,
        incident=incident.id,
        correlation_id=incident.correlation_id,
        causation=incident.audit.get("finding"),
    )
    names = ", ".join(_label(candidate) for candidate in incident.plan.candidates)
    incident.note(parts.clock, "plan", f"candidates: {names}", strategist)
    return State.PLANNED


def _priced(parts: Parts, request: ActionRequest) -> Candidate:
    """The candidate with what its action itself says of costs and reach, wherever that is more than the agents said."""
    candidate = request.candidate
    estimate = parts.actions[candidate.action].estimate(request)
    return candidate.model_copy(
        update={
            "cost_usd": max(candidate.cost_usd, estimate.cost_usd),
            "models_affected": max(candidate.models_affected, estimate.models_affected),
            "reversible": candidate.reversible and estimate.reversible,
        }
    )


def _refusal(parts: Parts, request: ActionRequest) -> str | None:
    candidate = request.candidate
    action = parts.actions.get(candidate.action)
    if action is None:
        return f"action `{candidate.action}` is not available"
    if "undo" in candidate.params:
        return "only a person may ask for an undo"
    try:
        action.precheck(request)
    except Error as error:
        return error.diagnostics()
    return None


def _label(candidate: Candidate) -> str:
    strategy = candidate.params.get("strategy") or candidate.params.get("to_version")
    return f"{candidate.action.value}({strategy})" if strategy else candidate.action.value


def rehearse(parts: Parts, incident: Incident) -> State:
    """planned -> rehearsed: challengers are tried against the champion in the sandbox; the best is chosen."""
    assert incident.plan is not None
    assert incident.finding is not None
    model = parts.settings.watched(incident.model)
    refused = incident.rehearsal_notes.get("refused", {})
    running = [candidate for candidate in incident.plan.candidates if candidate.id not in refused]
    to_try = [one for one in running if one.action in REHEARSED_ACTIONS][: parts.settings.rehearsal.candidates_max]
    incident.rehearsals = _rehearsals(parts, incident, model, to_try) if _wanted(running) else []
    incident.chosen, incident.confidence = choose(incident, running, parts.settings.actions.win_probability_min)
    incident.audit["rehearsal"] = parts.audit.append(
        "rehearsal",
        {
            "rehearsals": [one.model_dump(mode="json") for one in incident.rehearsals],
            "chosen": incident.chosen,
            "confidence": incident.confidence,
        },
        actor=SERVICE,
        incident=incident.id,
        correlation_id=incident.correlation_id,
        causation=incident.audit.get("plan"),
    )
    incident.note(parts.clock, "rehearsal", _told(incident), SERVICE)
    return State.REHEARSED


def _wanted(running: list[Candidate]) -> bool:
    # The agents' first choice decides: where nothing needs repair, or data must be kept out, no challenger is trained.
    return bool(running) and running[0].action in REHEARSED_ACTIONS


def _rehearsals(parts: Parts, incident: Incident, model: WatchedModel, to_try: list[Candidate]) -> list[Rehearsal]:
    bounds = parts.settings.rehearsal
    now = parts.decision_clock.now_for(incident)
    window = incident.event.get("window") or {}
    try:
        rows = ModelRows(parts.settings, model, parts.quarantined(model.name)).known(now, window.get("uri"))
        answer = parts.sandbox.call(
            "driftwarden.service.tasks:rehearse",
            {
                "model": model.model_dump(mode="json"),
                "tracking_uri": parts.settings.tracking_uri,
                "champion_version": incident.champion_before,
                "candidates": [candidate.model_dump(mode="json") for candidate in to_try],
                "rows": rows.model_dump(mode="json"),
                "window_rows": int(window.get("rows") or 0),
                "holdout_windows": bounds.holdout_windows,
                "holdout_share": bounds.holdout_share,
                "holdout_rows_min": bounds.holdout_rows_min,
                "holdout_rows_max": bounds.holdout_rows_max,
                "recent_share": bounds.recent_share,
                "recent_rows_min": bounds.recent_rows_min,
                "replicates": bounds.replicates,
                "seed": int(incident.correlation_id[:8], 16),
            },
            timeout_s=bounds.timeout_s,
            memory_bytes=bounds.memory_mib * 1024 * 1024,
        )
    except (BadInput, GiveUp) as error:
        parts.registry.champion(model)  # raises Away where it is the registry that was missing: that is no verdict
        return [Rehearsal(candidate=one.id, status="failed", detail=error.diagnostics()) for one in to_try]
    incident.rehearsal_notes = incident.rehearsal_notes | {"holdout": answer["holdout"]}
    return [Rehearsal.model_validate(one) for one in answer["rehearsals"]]


def choose(incident: Incident, running: list[Candidate], win_min: float) -> tuple[str | None, float | None]:
    """The candidate to decide about, and its confidence (0..1); (None, None) where none can be done.

    The agents' order decides between kinds of remedy; among those that were rehearsed, the measured gain does. The
    confidence of a rehearsed candidate is its win probability, of any other the diagnosis's; a model's own claim only
    lowers it.
    """
    assert incident.finding is not None
    if not running:
        return None, None
    rehearsed = {one.candidate: one for one in incident.rehearsals if one.status == "rehearsed"}
    first = running[0]
    chosen = first
    if first.action in REHEARSED_ACTIONS:
        tried = [one for one in running if one.id in rehearsed]
        winners = [one for one in tried if (rehearsed[one.id].win_probability or 0.0) >= win_min]
        if winners:
            chosen = max(winners, key=lambda one: (rehearsed[one.id].relative_gain or 0.0, one.id))
        elif tried:
            chosen = max(tried, key=lambda one: (rehearsed[one.id].win_probability or 0.0, one.id))
    claims = [incident.plan.claimed_confidence if incident.plan else None, incident.finding.claimed_confidence]
    if chosen.action in REHEARSED_ACTIONS:
        # Tried and failed, or never tried: nothing was measured, so nothing is known.
        rehearsal = rehearsed.get(chosen.id)
        measured = rehearsal.win_probability if rehearsal else None
        if measured is not None:  # what was chosen among was found with less knowledge than usual
            measured *= incident.finding.confidence_factor
    elif _is_remedy(incident.finding.root_cause, chosen.action):
        measured = incident.finding.confidence
    else:
        # How sure a cause is says nothing for an action that does not follow from it, and an unknown cause asks for none.
        measured = None
    if measured is None:
        return chosen.id, None
    return chosen.id, min([measured, *(claim for claim in claims if claim is not None)])


def _is_remedy(cause: RootCause, action: ActionName) -> bool:
    if action in {ActionName.NOTIFY, ActionName.NONE}:
        return True
    harms: tuple[Harm, ...] = ("yes", "no", "unknown")
    return cause is not RootCause.UNKNOWN and any(
        remedy.action is action
        for harm in harms
        for stale in (False, True)
        for remedy in remedies(cause, harm, stale_reference=stale)
    )


def _told(incident: Incident) -> str:
    chosen = incident.candidate
    if chosen is None:
        return "no candidate can be done"
    rehearsal = incident.rehearsal
    if rehearsal is None:
        return f"{_label(chosen)} is not rehearsed; confidence is the diagnosis's"
    if rehearsal.status != "rehearsed":
        return f"{_label(chosen)}: rehearsal {rehearsal.status}: {rehearsal.detail}"
    gain = (rehearsal.relative_gain or 0.0) * 100
    return (
        f"{_label(chosen)} beats the champion with probability {rehearsal.win_probability or 0.0:.2f} "
        f"({rehearsal.champion_score:.4f} -> {rehearsal.candidate_score:.4f} {rehearsal.metric}, {gain:+.1f} %, "
        f"{rehearsal.rows} unseen rows)"
    )
