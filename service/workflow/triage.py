"""What is said before the agents are asked: cases that cost no call of a language model.

The same walk goes on, with the offline reasoner in the model's place, and the finding says so. Nothing here rests on a
producer's word but the times of its window, which can only keep its own drift from causing an action.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from driftwarden.contracts.base import ActionName
from driftwarden.contracts.findings import Candidate, Plan
from driftwarden.contracts.measurements import (
    CategoriesMeasure,
    ConceptMeasure,
    LabelsMeasure,
    Measured,
    PerformanceMeasure,
    QualityMeasure,
    SchemaMeasure,
    ShiftMeasure,
    UnitMeasure,
)
from driftwarden.contracts.ports import CaseFile
from driftwarden.service.workflow.facts import proven_loss
from driftwarden.service.workflow.incident import Incident
from driftwarden.service.workflow.parts import Parts
from driftwarden.service.workflow.windows import LOSS_MIN

Kind = TypeVar("Kind", bound=Measured)


@dataclass(frozen=True)
class Triage:
    """Why no language model is asked; `over`: there is nothing left to do about it."""

    reason: str
    over: bool = False


def triage(parts: Parts, incident: Incident, case: CaseFile) -> Triage | None:
    """Why this incident needs no language model, or None; the drift itself is measured only where nothing else says so."""
    if (moment := over_since(incident)) is not None:
        return Triage(f"measured on rows from before {moment}, when the model was changed", over=True)
    if incident.asked_model and incident.finding is not None:
        return Triage("more drift joined what a model has looked at")
    if all(parts.halts.is_halted(model) for model in incident.models):
        return Triage("halted")
    if (others := _remediating(parts, incident)) is not None:
        return Triage(f"being remediated by {others}")
    if (
        not incident.others
        and not incident.concerned[0].unknown
        and is_immaterial(case, fdr=parts.settings.service.triage_fdr)
    ):
        return Triage("the drift is immaterial: no column moved beyond chance, and the model loses nothing")
    return None


def over_since(incident: Incident) -> str | None:
    """The moment of a change of champion, reference or quarantine that ended all of the drift, or None (RFC 3339).

    Over several models it must hold for each (`weighing.mark_over`); then it is the first of them.
    """
    found = [member.over_since for member in incident.concerned]
    return min(found) if all(found) else None


def nothing_to_do(reason: str) -> Plan:
    """The plan where triage found that nothing is left to do."""
    return Plan(candidates=(Candidate(id="c1", action=ActionName.NONE, rationale=reason),), summary=reason)


def _remediating(parts: Parts, incident: Incident) -> str | None:
    """An incident that is changing, or judging a change of, the model; over several models, of each of them."""
    running = parts.ledger.running_by_model(besides=incident.id)
    found = [
        sorted({*running.get(model, ()), *(set(parts.verifying(model)) - {incident.id})}) for model in incident.models
    ]
    return found[0][0] if all(found) else None


def is_immaterial(case: CaseFile, *, fdr: float) -> bool:
    """True where it was measured that nothing moved beyond chance, nothing is broken, and nothing is lost.

    `fdr`: the false discovery rate at which columns count as moved. What could not be measured is not immaterial.
    """
    shift, performance = (
        _made(case.measure("shift"), ShiftMeasure),
        _made(case.measure("performance"), PerformanceMeasure),
    )
    if shift is None or not shift.columns or performance is None:
        return False
    labels = _made(case.measure("labels"), LabelsMeasure)
    p_values = [column.p_value for column in shift.columns]
    p_values += [labels.p_value] if labels is not None and labels.p_value is not None else []
    return not (_is_lossy(performance) or any(discoveries(p_values, fdr)) or _is_broken(case))


def discoveries(p_values: Sequence[float], fdr: float) -> list[bool]:
    """Which hypotheses are rejected at this false discovery rate (Benjamini and Hochberg, 1995)."""
    count = len(p_values)
    ordered = sorted(p_values)
    passed = [p for rank, p in enumerate(ordered, start=1) if p <= rank * fdr / count]
    bound = max(passed, default=-1.0)
    return [p <= bound for p in p_values]


def _is_lossy(performance: PerformanceMeasure) -> bool:
    """Also where it was only reported, or is not known: what others say proves no innocence."""
    if performance.basis not in {"measured", "estimated"} or performance.relative_loss is None:
        return True
    return (proven_loss(performance.model_dump()) or 0.0) > LOSS_MIN


def _is_broken(case: CaseFile) -> bool:
    schema, quality = _made(case.measure("schema"), SchemaMeasure), _made(case.measure("quality"), QualityMeasure)
    if schema is None or quality is None:
        return True
    categories, concept = (
        _made(case.measure("categories"), CategoriesMeasure),
        _made(case.measure("concept"), ConceptMeasure),
    )
    units = _made(case.measure("units"), UnitMeasure)
    suspects: Iterable[bool] = (
        column.missing_suspect or column.stuck_suspect or column.outlier_suspect or column.infinite_rows > 0
        for column in quality.columns
    )
    return bool(
        schema.vanished
        or schema.type_changes
        or schema.swapped
        or any(suspects)
        or (categories is not None and categories.columns)
        or (units is not None and units.columns)
        or (concept is not None and concept.changed)
    )


def _made(found: Measured, kind: type[Kind]) -> Kind | None:
    return found if isinstance(found, kind) and not found.unavailable else None
