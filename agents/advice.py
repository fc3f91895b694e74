"""From drafts to the contract's finding and plan: the same fixed rules whichever model wrote them.

The cause is the agent's choice; its confidence is not: it is the score that the measurements give that cause. Costs,
benefits and parameters are derived here from the case. A model chooses among remedies and words its reasons.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from driftwarden.agents import remedies
from driftwarden.agents.causes import CauseScore
from driftwarden.agents.diagnosis import rank
from driftwarden.agents.drafts import RETRAINING, CandidateDraft, FindingDraft, PlanDraft
from driftwarden.agents.tools import VERSIONS_MAX, plain
from driftwarden.contracts.base import ActionName
from driftwarden.contracts.findings import AgentStep, Alternative, Candidate, Evidence, Finding, Plan
from driftwarden.contracts.measurements import (
    MEASUREMENT_NAMES,
    CategoriesMeasure,
    Measured,
    PerformanceMeasure,
    QualityMeasure,
    SchemaMeasure,
    ShiftMeasure,
    UnitMeasure,
)
from driftwarden.contracts.ports import CaseFile, JsonObject
from driftwarden.errors import shorten

CANDIDATES_MAX = 6
SUMMARY_CHARS_MAX = 800
RATIONALE_CHARS_MAX = 600
_ITEMS_MAX = 12
_COORDINATOR = "coordinator"


@dataclass(frozen=True)
class CaseFacts:
    """What the case itself says, read once and by us: what the agents' words are held against."""

    event: JsonObject
    card: JsonObject
    versions: list[JsonObject]
    measures: dict[str, Measured]
    scores: tuple[CauseScore, ...]

    @property
    def performance(self) -> PerformanceMeasure | None:
        """The champion's performance, where it is known."""
        performance = self.measures.get("performance")
        return performance if isinstance(performance, PerformanceMeasure) else None

    @property
    def window(self) -> JsonObject:
        """The event's window, or nothing."""
        window = self.event.get("window")
        return window if isinstance(window, dict) else {}

    def columns(self) -> frozenset[str]:
        """Every column that the case knows: of the event, the measurements and the model card."""
        names = {str(entry.get("name")) for entry in self.event.get("columns") or () if isinstance(entry, dict)}
        names |= {str(self.card["target"])} if self.card.get("target") else set()
        names |= {str(name) for name in self.card.get("features") or ()}
        for measure in self.measures.values():
            if isinstance(measure, ShiftMeasure | UnitMeasure | QualityMeasure | CategoriesMeasure):
                names |= {column.name for column in measure.columns}
            if isinstance(measure, SchemaMeasure):
                names |= {*measure.vanished, *measure.added, *(name for pair in measure.swapped for name in pair)}
                names |= {change["name"] for change in measure.type_changes if "name" in change}
        return frozenset(names | {name for score in self.scores for name in score.columns})


def read_facts(case: CaseFile, versions: list[JsonObject] | None = None) -> CaseFacts:
    """Take every measurement (those already taken come from the case's cache) and rank the causes by them all.

    A model that skips a measurement cannot so avoid what it says. `versions`: the registry's, where they are known.
    """
    event = case.event()
    measures: dict[str, Measured] = {name: case.measure(name) for name in MEASUREMENT_NAMES}
    scores = tuple(rank(measures, event))
    versions = case.registry_history(VERSIONS_MAX) if versions is None else versions
    return CaseFacts(event, case.model(), versions, measures, scores)


@dataclass
class Notes:
    """Steps of the coordinator: what was corrected or dropped, and why."""

    steps: list[AgentStep] = field(default_factory=list)

    def add(self, name: str, summary: str, **arguments: Any) -> None:
        """Note one correction."""
        self.steps.append(
            AgentStep(agent=_COORDINATOR, kind="check", name=name, arguments=arguments, summary=shorten(summary, 300))
        )


def ground_finding(draft: FindingDraft, facts: CaseFacts, found: set[str], notes: Notes) -> Finding:
    """The finding that the measurements bear: the agent's cause, the measurements' confidence and evidence."""
    by_cause = {score.root_cause: score for score in facts.scores}
    chosen = by_cause.get(draft.root_cause)
    measured = chosen.confidence if chosen else 0.0
    claimed = draft.claimed_confidence
    confidence = measured if claimed is None else min(measured, claimed)
    known = facts.columns()
    columns = tuple(dict.fromkeys(name for name in draft.columns if name in known))[:_ITEMS_MAX]
    unknown = [name for name in draft.columns if name not in known]
    if unknown:
        notes.add("columns", f"{len(unknown)} columns that the case does not have were left out", columns=unknown[:3])
    best = facts.scores[0] if facts.scores else None
    if best is not None and best.root_cause is not draft.root_cause:
        notes.add(
            "cause",
            f"the measurements speak for {best.root_cause.value} ({best.confidence:.2f}), the agent chose "
            f"{draft.root_cause.value} ({measured:.2f})",
        )
    evidence = tuple(chosen.evidence[:_ITEMS_MAX]) if chosen else ()
    return Finding(
        root_cause=draft.root_cause,
        columns=columns or (tuple(chosen.columns[:_ITEMS_MAX]) if chosen else ()),
        confidence=round(confidence, 6),
        claimed_confidence=claimed,
        summary=_line(draft.summary, SUMMARY_CHARS_MAX),
        evidence=evidence + _claims(draft, evidence, known),
        alternatives=tuple(
            Alternative(root_cause=score.root_cause, score=score.confidence, against=score.against)
            for score in facts.scores
            if score.root_cause is not draft.root_cause
        )[:4],
        citations=_citations(draft.citations, found, notes),
    )


def _claims(draft: FindingDraft, measured: tuple[Evidence, ...], known: frozenset[str]) -> tuple[Evidence, ...]:
    """What the agent claims beyond the measured evidence, marked as its own claim."""
    said = {item.claim for item in measured}
    claims: list[Evidence] = []
    for item in draft.evidence:
        if item.claim in said or len(claims) >= 4:
            continue
        value = _line(item.value, 120) if isinstance(item.value, str) else item.value
        claims.append(
            Evidence(
                claim=_line(item.claim, 300),
                measure=_line(item.measure, 60) or "claim",
                value=value,
                columns=tuple(name for name in item.columns if name in known)[:_ITEMS_MAX],
                source=f"claimed by the agent: {_line(item.source, 60) or 'no source'}",
            )
        )
    return tuple(claims)


def build_plan(draft: PlanDraft, facts: CaseFacts, found: set[str], notes: Notes) -> Plan:
    """At most six candidates that the case allows, with derived parameters, costs and benefits; `notify` where none is left."""
    kept: list[Candidate] = []
    for item in draft.candidates:
        if len(kept) == CANDIDATES_MAX:
            notes.add("candidates", f"only the first {CANDIDATES_MAX} candidates were kept")
            break
        candidate = _candidate(item, facts, found, notes, number=len(kept) + 1)
        if candidate is None:
            continue
        if any(other.action is candidate.action and other.params == candidate.params for other in kept):
            notes.add("candidate", f"`{candidate.action.value}` with the same parameters came twice")
            continue
        kept.append(candidate)
    if not kept:
        notes.add("candidates", "no candidate could be used: people are told")
        kept = [
            Candidate(id="c1", action=ActionName.NOTIFY, rationale="No remedy that was proposed can be applied here.")
        ]
    return Plan(
        candidates=tuple(kept),
        summary=_line(draft.summary, SUMMARY_CHARS_MAX),
        claimed_confidence=draft.claimed_confidence,
    )


def _candidate(
    draft: CandidateDraft, facts: CaseFacts, found: set[str], notes: Notes, *, number: int
) -> Candidate | None:
    if draft.action not in set(ActionName):
        notes.add("candidate", f"unknown action `{shorten(draft.action, 40)}` was dropped")
        return None
    action = ActionName(draft.action)
    if draft.model_extra:
        names = ", ".join(sorted(shorten(name, 30) for name in draft.model_extra)[:6])
        notes.add("candidate", f"`{action.value}`: parameters that a model may not set were dropped: {names}")
    try:
        params = _PARAMS[action](draft, facts)
    except ValueError as error:
        notes.add("candidate", f"`{action.value}` was dropped: {error}")
        return None
    return Candidate(
        id=f"c{number}",
        action=action,
        params=params,
        cost_usd=remedies.cost_usd(action, facts.card),
        benefit_usd=remedies.benefit_usd(action, facts.card, facts.performance),
        models_affected=0 if action in {ActionName.NOTIFY, ActionName.NONE} else 1,
        reversible=True,
        rationale=_line(draft.rationale, RATIONALE_CHARS_MAX),
        citations=_citations(draft.citations, found, notes),
    )


def _no_params(draft: CandidateDraft, facts: CaseFacts) -> JsonObject:
    return {}


def _retrain_params(draft: CandidateDraft, facts: CaseFacts) -> JsonObject:
    strategy = draft.strategy or "all"
    if strategy not in RETRAINING:
        raise ValueError(f"strategy `{shorten(strategy, 30)}` is none of {', '.join(RETRAINING)}")
    hints = facts.card.get("retraining") or {}
    if strategy == "recent" and isinstance(hints.get("recent_rows"), int):
        return {"strategy": strategy, "rows": hints["recent_rows"]}
    if strategy == "since_drift":
        since = hints.get("since")
        if not isinstance(since, str | int) or isinstance(since, bool):
            raise ValueError("it is not known since when the model has been worse")
        return {"strategy": strategy, "since": since}
    return {"strategy": strategy}


def _rollback_params(draft: CandidateDraft, facts: CaseFacts) -> JsonObject:
    earlier = remedies.earlier_versions(facts.versions)
    if not earlier:
        raise ValueError("there is no version before the champion")
    version = earlier[0] if draft.to_version is None else draft.to_version
    if version not in earlier:
        raise ValueError(f"version {version} is none of the versions before the champion")
    return {"to_version": version}


def _quarantine_params(draft: CandidateDraft, facts: CaseFacts) -> JsonObject:
    window = {name: facts.window[name] for name in ("uri", "start", "end") if isinstance(facts.window.get(name), str)}
    if "uri" not in window and not {"start", "end"} <= set(window):
        raise ValueError("the event names no window")
    return window


def _reference_params(draft: CandidateDraft, facts: CaseFacts) -> JsonObject:
    uri = facts.window.get("uri")
    if not isinstance(uri, str):
        raise ValueError("the event names no file of its window")
    return {"uri": uri}


def _fallback_params(draft: CandidateDraft, facts: CaseFacts) -> JsonObject:
    if facts.card.get("fallback_version") is None:
        raise ValueError("the model has no fallback version")
    return {}


_PARAMS: dict[ActionName, Callable[[CandidateDraft, CaseFacts], JsonObject]] = {
    ActionName.RETRAIN: _retrain_params,
    ActionName.ROLLBACK: _rollback_params,
    ActionName.RECALIBRATE: _no_params,
    ActionName.REFRESH_REFERENCE: _reference_params,
    ActionName.QUARANTINE_DATA: _quarantine_params,
    ActionName.FALLBACK_MODEL: _fallback_params,
    ActionName.NOTIFY: _no_params,
    ActionName.NONE: _no_params,
}


def _citations(ids: list[str], found: set[str], notes: Notes) -> tuple[str, ...]:
    """Only what the knowledge search really returned in this run."""
    if any(item not in found for item in ids):
        notes.add("citations", "citations that no search returned were left out")
    return tuple(dict.fromkeys(item for item in ids if item in found))[:_ITEMS_MAX]


def _line(text: Any, chars_max: int) -> str:
    return " ".join(plain(str(text), chars_max).split())
