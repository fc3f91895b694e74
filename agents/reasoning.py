"""The offline reasoner's thinking, as pure functions: from what the tools have returned so far to the next calls, or to
the answer.

It sees nothing but tool results, like any language model: measurements are read back from their JSON.
"""

import json
from collections.abc import Iterable
from typing import Any, NamedTuple

from pydantic import ValidationError

from driftwarden.agents import remedies
from driftwarden.agents.causes import CauseScore
from driftwarden.agents.diagnosis import rank
from driftwarden.contracts.base import ActionName, RootCause
from driftwarden.contracts.measurements import (
    MEASURE_TYPES,
    MEASUREMENT_NAMES,
    Measured,
    MeasurementName,
    PerformanceMeasure,
    QualityMeasure,
    SchemaMeasure,
    ShiftMeasure,
)
from driftwarden.contracts.ports import JsonObject

FIRST: tuple[MeasurementName, ...] = ("schema", "quality", "shift", "performance")
_LABEL_KINDS = frozenset({"concept_drift", "performance_drop", "label_drift", "performance"})
_PRIOR_STRENGTH = 4.0
_PRIOR_FIRST, _PRIOR_STEP = 0.7, 0.08
_OTHER_MODEL_WEIGHT = 0.5


class Call(NamedTuple):
    """A tool call."""

    name: str
    arguments: JsonObject


class Done(NamedTuple):
    """A tool call that was answered."""

    name: str
    arguments: JsonObject
    answer: JsonObject


Answer = JsonObject
Thought = list[Call] | Answer


def investigate(done: list[Done]) -> Thought:
    """The investigator's next calls, or its finding (the fields of `FindingDraft`)."""
    # Whatever does not depend on another answer is asked for in one turn, and nothing that would change no answer:
    # a turn costs more than a tool, and either more than the thinking.
    asked = {item.name for item in done}
    first = ["get_event", *(f"measure_{name}" for name in FIRST)]
    if missing := [name for name in first if name not in asked]:
        return [Call(name, {}) for name in missing]
    event, measures = _object(done, "get_event"), _measures(done)
    readable = any(not measure.unavailable for measure in measures.values())
    if readable and (missing := [name for name in _follow_ups(measures, event) if name not in asked]):
        return [Call(name, {}) for name in missing]
    scores = rank(measures, event)
    if readable and scores and "search_knowledge" not in asked:
        best = scores[0]
        query = f"{best.root_cause.value.replace('_', ' ')} {' '.join(best.columns[:3])}".strip()
        arguments = {"query": query, "kind": "runbook", "root_cause": best.root_cause.value, "limit": 3}
        return [Call("search_knowledge", arguments)]
    return _finding(scores, done)


def _follow_ups(measures: dict[str, Measured], event: JsonObject) -> list[str]:
    """What the first look asks for: the whole examination where it is unclear."""
    shift, quality, schema = measures.get("shift"), measures.get("quality"), measures.get("schema")
    shifted = isinstance(shift, ShiftMeasure) and any(column.shifted for column in shift.columns)
    suspect = isinstance(quality, QualityMeasure) and any(
        column.missing_suspect or column.stuck_suspect or column.outlier_suspect for column in quality.columns
    )
    broken = isinstance(schema, SchemaMeasure) and bool(schema.vanished or schema.type_changes or schema.swapped)
    performance = _performance(measures)
    labelled = performance is not None and performance.labelled_rows > 0
    names = ["measure_categories"]
    if shifted or suspect or broken:
        names += ["measure_units", "measure_seasonality", "measure_domain"]
    if labelled or event.get("kind") in _LABEL_KINDS:
        names += ["measure_labels", "measure_concept"]
    return names


def _finding(scores: list[CauseScore], done: list[Done]) -> Answer:
    if not scores:
        return {"root_cause": RootCause.UNKNOWN.value, "summary": "The measurements do not tell why it drifted."}
    best = scores[0]
    claims = [item.claim for item in best.evidence]
    cause = best.root_cause.value.replace("_", " ")
    where = f" in {', '.join(best.columns[:4])}" if best.columns else ""
    summary = f"The measurements point to {cause}{where}."
    if claims:
        summary += f" {'; '.join(claims[:3])}."
    if len(scores) > 1 and scores[1].confidence >= 0.1:
        summary += (
            f" Next best explanation: {scores[1].root_cause.value.replace('_', ' ')} ({scores[1].confidence:.2f})."
        )
    return {
        "root_cause": best.root_cause.value,
        "columns": list(best.columns),
        "summary": summary,
        "evidence": [
            {
                "claim": item.claim,
                "measure": item.measure,
                "value": item.value,
                "columns": list(item.columns),
                "source": item.source,
            }
            for item in best.evidence[:8]
        ],
        "citations": [hit["id"] for hit in _hits(done, "runbook")][:3],
    }


def strategise(finding: JsonObject, done: list[Done]) -> Thought:
    """The strategist's next calls, or its plan (the fields of `PlanDraft`), for a grounded finding."""
    asked = {item.name for item in done}
    calls = [Call(name, {}) for name in ("registry_history", "metric_history") if name not in asked]
    cause = RootCause(finding["root_cause"])
    if "search_knowledge" not in asked:
        words = cause.value.replace("_", " ")
        base = {"root_cause": cause.value, "limit": 5}
        if not finding.get("citations"):  # else the investigator has read the runbook of this cause
            calls.append(Call("search_knowledge", {"query": f"remedy for {words}", "kind": "runbook", **base}))
        calls.append(Call("search_knowledge", {"query": f"what helped against {words}", "kind": "incident", **base}))
    if calls:
        return calls
    return _plan(cause, finding, done)


def _plan(cause: RootCause, finding: JsonObject, done: list[Done]) -> Answer:
    performance = _brief_performance(finding)
    harm = remedies.harm_of(performance)
    stale = remedies.reference_is_stale(_list(done, "metric_history"))
    usual = remedies.remedies(cause, harm, stale_reference=stale)
    record = _track_record(_hits(done, "incident"), cause, str(finding.get("model", "")))
    earlier = remedies.earlier_versions(_list(done, "registry_history"))
    runbooks = [*finding.get("citations", ()), *(hit["id"] for hit in _hits(done, "runbook"))][:2]
    impact = _impact(performance)
    window: JsonObject = finding.get("window") or {}
    candidates = []
    for remedy in _preferred(usual, record):
        if remedy.action is ActionName.ROLLBACK and not earlier:
            continue
        if remedy.action is ActionName.QUARANTINE_DATA and not any(window.get(key) for key in ("uri", "start", "end")):
            continue
        if remedy.action is ActionName.REFRESH_REFERENCE and not window.get("uri"):
            continue
        helped, tried, cited = record.get(remedy.action, (0.0, 0.0, []))
        candidate: JsonObject = {
            "action": remedy.action.value,
            "rationale": _rationale(remedy, finding, impact, helped, tried),
            "citations": [*runbooks, *cited[:2]],
        }
        if remedy.strategy:
            candidate["strategy"] = remedy.strategy
        if remedy.action is ActionName.ROLLBACK:
            candidate["to_version"] = earlier[0]
        candidates.append(candidate)
    candidates = candidates or [{"action": "notify", "rationale": f"No remedy can be applied here. {impact}"}]
    return {
        "candidates": candidates[:6],
        "summary": f"{cause.value.replace('_', ' ')}: {candidates[0]['action'].replace('_', ' ')} first. {impact}",
    }


def _preferred(usual: tuple[remedies.Remedy, ...], record: dict[ActionName, Any]) -> list[remedies.Remedy]:
    """The usual order, moved by the track record.

    Each remedy that mends has a prior chance of helping that falls with its place (0.7, 0.62, ... worth four past
    cases); past outcomes update it (Beta-Bernoulli). Remedies that change nothing keep their places.
    """
    mending = [remedy for remedy in usual if remedy.action in remedies.MENDING]

    def chance(place: int, remedy: remedies.Remedy) -> float:
        helped, tried, _ = record.get(remedy.action, (0.0, 0.0, []))
        prior = max(_PRIOR_FIRST - _PRIOR_STEP * place, 0.1)
        return float((prior * _PRIOR_STRENGTH + helped) / (_PRIOR_STRENGTH + tried))

    order = sorted(range(len(mending)), key=lambda place: (-chance(place, mending[place]), place))
    ranked = iter([mending[place] for place in order])
    return [next(ranked) if remedy.action in remedies.MENDING else remedy for remedy in usual]


def _track_record(hits: list[JsonObject], cause: RootCause, model: str) -> dict[ActionName, Any]:
    """Per action: cases in which it helped, cases in which it is known, ids; other models' incidents count half."""
    record: dict[ActionName, Any] = {}
    for hit in hits:
        metadata = hit.get("metadata")
        if not isinstance(metadata, dict) or metadata.get("root_cause") != cause.value:
            continue
        helped = _truth(metadata.get("helped"))
        if helped is None or metadata.get("action") not in set(ActionName):
            continue
        weight = 1.0 if metadata.get("model") == model else _OTHER_MODEL_WEIGHT
        action = ActionName(metadata["action"])
        good, tried, ids = record.get(action, (0.0, 0.0, []))
        record[action] = (good + weight * helped, tried + weight, [*ids, str(hit.get("id"))])
    return record


def _truth(value: Any) -> bool | None:
    """A truth value; stores without null or booleans may write it as text."""
    return value if isinstance(value, bool) else {"true": True, "false": False}.get(str(value).lower())


def _rationale(remedy: remedies.Remedy, finding: JsonObject, impact: str, helped: float, tried: float) -> str:
    columns = ", ".join(finding.get("columns", [])[:3])
    cause = str(finding["root_cause"]).replace("_", " ")
    about = f"{cause}{f' in {columns}' if columns else ''} (measured confidence {finding.get('confidence', 0):.2f})"
    words = {
        ActionName.RETRAIN: f"train on {'all' if remedy.strategy == 'all' else (remedy.strategy or '').replace('_', ' ')}"
        " rows so that the model learns what changed",
        ActionName.ROLLBACK: "an earlier version may fit the present better",
        ActionName.QUARANTINE_DATA: "keep the broken batch out of training and scoring",
        ActionName.REFRESH_REFERENCE: f"the last {remedies.STALE_WINDOWS} windows drifted without harm: the reference is"
        " stale",
        ActionName.RECALIBRATE: "correct for the target's new frequencies",
        ActionName.NOTIFY: "people should know",
        ActionName.NONE: "nothing was harmed that would need repair",
    }.get(remedy.action, remedy.action.value)
    record = f" In similar past cases it helped {helped:g} of {tried:g}." if tried else ""
    return f"{about}: {words}. {impact}{record}"


def _impact(performance: PerformanceMeasure | None) -> str:
    if performance is None or performance.basis == "none" or performance.relative_loss is None:
        return "Impact on the metric is not known."
    worse = "" if performance.p_worse is None else f", worse with probability {performance.p_worse:.2f}"
    return f"{performance.metric or 'metric'} lost {performance.relative_loss:.1%} ({performance.basis}{worse})."


def _measures(done: Iterable[Done]) -> dict[str, Measured]:
    """The measurements, read back from the tools' JSON; what does not read is as good as not measured."""
    measures: dict[str, Measured] = {}
    for item in done:
        for name in MEASUREMENT_NAMES:
            if item.name == f"measure_{name}" and item.answer.get("status") == "ok":
                try:
                    measures[name] = MEASURE_TYPES[name].model_validate_json(json.dumps(item.answer["data"]))
                except (ValidationError, KeyError):
                    continue
    return measures


def _performance(measures: dict[str, Measured]) -> PerformanceMeasure | None:
    performance = measures.get("performance")
    return performance if isinstance(performance, PerformanceMeasure) else None


def _brief_performance(finding: JsonObject) -> PerformanceMeasure | None:
    """The performance as the coordinator measured it and told it with the finding."""
    told = finding.get("performance")
    try:
        return PerformanceMeasure.model_validate_json(json.dumps(told)) if told else None
    except ValidationError:
        return None


def _object(done: list[Done], name: str) -> JsonObject:
    for item in done:
        if item.name == name and isinstance(item.answer.get("data"), dict):
            return dict(item.answer["data"])
    return {}


def _list(done: list[Done], name: str) -> list[JsonObject]:
    for item in done:
        if item.name == name and isinstance(item.answer.get("data"), list):
            return [entry for entry in item.answer["data"] if isinstance(entry, dict)]
    return []


def _hits(done: list[Done], kind: str) -> list[JsonObject]:
    hits = []
    for item in done:
        if item.name == "search_knowledge" and isinstance(item.answer.get("data"), list):
            hits += [hit for hit in item.answer["data"] if isinstance(hit, dict) and hit.get("kind") == kind]
    return hits
