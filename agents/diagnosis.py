"""From measurements to causes: a deterministic ranking, in which every figure can be traced to a measurement.

How the confidence of a cause comes about
-----------------------------------------
1. **Support** of a cause, 0..1, from its own measurement: certainty x size. Certainty is 1 - p (corrected), or the
   measurement's own confidence where there is no test; size runs from 0.6 at the practical floor (significant, barely
   material) to 1 at what practitioners would call plain, linearly (`size`). The floors are those of the diagnostics; the
   plain sizes stand in `PLAIN`. Facts (a column is gone) have support 0.99.
2. **Harm** h: P(worse) from 0.80 to 0.99 x loss from 1 % to 5 %, each 0..1: 1 where the champion surely lost 5 % or more,
   0 in nearly every window without drift. Where nothing was measured it is unknown, and whatever rests on its absence is
   multiplied by 0.8.
3. **Explaining away.** A broken input makes everything behind it look drifted. With d the largest support of a data fault
   (schema, swap, unit, stuck, missing, outliers, upstream): changed relation, new categories and moved labels count
   (1 - d); columns that a fault or a new category names are no evidence of a covariate shift. A new category and a changed
   relation share the measured loss: with s the share of it seen on inputs that the reference knows, new category x (1 - s),
   concept x (0.5 + 0.5 s).
4. **Season or shift**: with e the share of shifted columns that were seen before, season = shift x e x (1 - h),
   covariate shift = shift x (1 - e (1 - h)) x (1 - concept).
5. **Nothing left**: with r the product of (1 - support) over all causes, false alarm = r (1 - h), unknown = r h.
6. What an event says (its kind, its drifted columns, a loss that somebody else measured) is shown as evidence and leads
   the ranking, as 1 - (1 - support)(1 - hint). It adds nothing to a confidence: that is measured here, or it is not.

Confidences are not normalised: two causes can hold at once.
"""

from collections.abc import Mapping
from typing import Any

from driftwarden.agents.causes import Cause, CauseScore, Reader, evidence, ramp, size
from driftwarden.contracts.base import RootCause
from driftwarden.contracts.measurements import (
    CategoriesMeasure,
    ColumnQuality,
    ColumnShift,
    ConceptMeasure,
    DomainMeasure,
    LabelsMeasure,
    Measured,
    PerformanceMeasure,
    QualityMeasure,
    SchemaMeasure,
    SeasonalityMeasure,
    ShiftMeasure,
    UnitMeasure,
)

__all__ = ["CauseScore", "rank"]

PLAIN = {
    "missing": 0.15,
    "stuck": 0.10,
    "outliers": 0.03,
    "category": 0.10,
    "shift": 0.50,
    "labels": 0.30,
    "concept": 0.08,
}
FACT = 0.99
HARM_LOSS = (0.01, 0.05)
HARM_CERTAINTY = (0.80, 0.99)
HARM_UNKNOWN_FACTOR = 0.8
EVENT_HINTS = {"schema_change": 0.6, "pipeline_failure": 0.75}
UPSTREAM_COLUMNS_MIN = 3
UPSTREAM_SHARE_MIN = 0.5
OUTLIER_SHARE_MAX = 0.3
_LISTED_MIN = 0.02


_DATA_FAULTS = (
    RootCause.SCHEMA_CHANGE,
    RootCause.UPSTREAM_FAILURE,
    RootCause.SWAPPED_COLUMNS,
    RootCause.UNIT_CHANGE,
    RootCause.STUCK_VALUES,
    RootCause.MISSING_VALUES,
    RootCause.OUTLIER_BURST,
)
_WORLD = (
    RootCause.NEW_CATEGORY,
    RootCause.CONCEPT_DRIFT,
    RootCause.SEASONAL_PATTERN,
    RootCause.LABEL_SHIFT,
    RootCause.COVARIATE_SHIFT,
    RootCause.SAMPLING_BIAS,
)
_ORDER = (*_DATA_FAULTS, *_WORLD, RootCause.FALSE_ALARM, RootCause.UNKNOWN)
Causes = dict[RootCause, Cause]


def rank(measures: Mapping[str, Measured], event: Mapping[str, Any]) -> list[CauseScore]:
    """Causes by confidence, best first; `unknown` and `false_alarm` are always among them.

    `measures` by name (contracts/measurements.py), any of them absent or unavailable; `event` as `CaseFile.event()` gives
    it. Ties go to the more specific cause.
    """
    read = Reader(measures)
    causes = {name: Cause(name) for name in _ORDER}
    harm = _harm(read)
    _schema(causes, read)
    _units(causes, read)
    _quality(causes, read)
    _categories(causes, read)
    _event(causes, event)
    data = max(causes[name].weight for name in _DATA_FAULTS)
    _concept(causes, read, data, harm)
    _labels(causes, read, data)
    _shift(causes, read, event, harm)
    _nothing_else(causes, read, harm)
    place = {name: position for position, name in enumerate(_ORDER)}
    always = {RootCause.FALSE_ALARM, RootCause.UNKNOWN}
    listed = [cause for cause in causes.values() if cause.weight >= _LISTED_MIN or cause.name in always]
    listed.sort(key=lambda cause: (-round(cause.weight, 4), place[cause.name]))
    return [cause.score() for cause in listed]


def _harm(read: Reader) -> float | None:
    """How surely and how much the champion lost, 0..1; None where that is not known."""
    found = read.get("performance", PerformanceMeasure)
    if found is None or found.relative_loss is None:
        return None
    certainty = 0.9 if found.p_worse is None else ramp(found.p_worse, *HARM_CERTAINTY)
    return certainty * ramp(found.relative_loss, *HARM_LOSS)


def _schema(causes: Causes, read: Reader) -> None:
    found = read.get("schema", SchemaMeasure)
    if read.empty_window:
        claim = "the window holds no rows"
        causes[RootCause.UPSTREAM_FAILURE].add(FACT, evidence(claim, "rows_current", 0, "schema", threshold=1))
    if found is None:
        return
    cause = causes[RootCause.SCHEMA_CHANGE]
    for column in found.vanished:
        cause.add(FACT, evidence(f"column {column} vanished", "vanished", column, "schema", columns=[column]))
    for change in found.type_changes:
        name, words = change["name"], f"{change['reference']} to {change['current']}"
        cause.add(FACT, evidence(f"column {name} changed from {words}", "type", words, "schema", columns=[name]))
    if found.vanished or found.type_changes:
        for column in found.added:
            cause.add(0.3, evidence(f"column {column} is new", "added", column, "schema", columns=[column]))
    moved = {shift.name: shift for shift in _shifts(read)}
    for pair in found.swapped:
        least = min((_strength(moved[name]) for name in pair if name in moved), default=0.0)
        claim = f"{pair[0]} holds what {pair[1]} held, and the other way round"
        proof = evidence(claim, "smaller distance to its own reference", least, "schema", columns=pair, threshold=0.3)
        causes[RootCause.SWAPPED_COLUMNS].add(0.75 + 0.24 * ramp(least, 0.3, 0.6), proof)


def _units(causes: Causes, read: Reader) -> None:
    found = read.get("units", UnitMeasure)
    swapped = causes[RootCause.SWAPPED_COLUMNS].columns
    for change in found.columns if found else ():
        if change.name in swapped:
            continue
        claim = f"{change.name} went from {change.name_of_change}; undone, the distance falls from {change.before:.2f}"
        proof = evidence(claim, "residual distance", change.residual, "units", columns=[change.name], threshold=0.25)
        causes[RootCause.UNIT_CHANGE].add(min(FACT, change.confidence), proof)


def _quality(causes: Causes, read: Reader) -> None:
    found = read.get("quality", QualityMeasure)
    if found is None:
        return
    spoilt = [column for column in found.columns if column.missing_suspect or column.stuck_suspect]
    for column in found.columns:
        _missing_or_stuck(causes, column, found.rows_current)
        _outliers(causes, column)
    if len(spoilt) >= UPSTREAM_COLUMNS_MIN and len(spoilt) >= UPSTREAM_SHARE_MIN * len(found.columns):
        names = [column.name for column in spoilt]
        claim = f"{len(names)} of {len(found.columns)} columns are missing or stuck at once"
        support = max(causes[name].support for name in (RootCause.MISSING_VALUES, RootCause.STUCK_VALUES))
        proof = evidence(claim, "columns spoilt", len(names), "quality", columns=names, threshold=UPSTREAM_COLUMNS_MIN)
        causes[RootCause.UPSTREAM_FAILURE].add(support, proof)
        for name in (RootCause.MISSING_VALUES, RootCause.STUCK_VALUES):
            causes[name].weaken(0.7, "so many columns at once point upstream")


def _missing_or_stuck(causes: Causes, column: ColumnQuality, rows: int) -> None:
    name = column.name
    if column.missing_suspect:
        more = column.missing_current - column.missing_reference
        support = (1 - column.missing_p_adjusted) * size(more, 0.02, PLAIN["missing"])
        claim = f"{name} misses {column.missing_current:.1%} of rows, {column.missing_reference:.1%} before"
        proof = evidence(claim, "missing share", column.missing_current, "quality", columns=[name], threshold=0.02)
        causes[RootCause.MISSING_VALUES].add(min(FACT, support), proof)
    if column.infinite_rows and column.infinite_rows >= 0.02 * rows:
        claim = f"{name} holds {column.infinite_rows} infinite values, which no model can use"
        proof = evidence(claim, "infinite rows", column.infinite_rows, "quality", columns=[name])
        support = size(column.infinite_rows / rows, 0.02, PLAIN["missing"])
        causes[RootCause.MISSING_VALUES].add(min(FACT, support), proof)
    if column.stuck_suspect:
        claim = f"{name} shows one value for {column.stuck_rows} rows in a row"
        proof = evidence(claim, "longest run", column.stuck_rows, "quality", columns=[name])
        causes[RootCause.STUCK_VALUES].add(min(FACT, size(column.stuck_share, 0.02, PLAIN["stuck"])), proof)


def _outliers(causes: Causes, column: ColumnQuality) -> None:
    explained = {**causes[RootCause.UNIT_CHANGE].columns, **causes[RootCause.SWAPPED_COLUMNS].columns}
    if column.outlier_suspect and column.outlier_share <= OUTLIER_SHARE_MAX and column.name not in explained:
        more = column.outlier_share - column.outlier_reference
        claim = f"{column.outlier_share:.1%} of {column.name} lie far out, {column.outlier_reference:.1%} before"
        proof = evidence(claim, "outlier share", column.outlier_share, "quality", columns=[column.name])
        causes[RootCause.OUTLIER_BURST].add(0.9 * size(more, 0.005, PLAIN["outliers"]), proof)


def _categories(causes: Causes, read: Reader) -> None:
    found = read.get("categories", CategoriesMeasure)
    for column in found.columns if found else ():
        shown = ", ".join(column.values[:3])
        claim = f"{column.name} holds values never seen before: {shown} ({column.share:.1%} of rows)"
        proof = evidence(claim, "new share", column.share, "categories", columns=[column.name], threshold=0.01)
        causes[RootCause.NEW_CATEGORY].add(min(FACT, size(column.share, 0.01, PLAIN["category"])), proof)
    data = max(causes[name].support for name in _DATA_FAULTS)
    causes[RootCause.NEW_CATEGORY].weaken(1 - 0.5 * data, "a data fault in the same window comes first")


def _event(causes: Causes, event: Mapping[str, Any]) -> None:
    """What the producer says happened: where to look, never how sure we are."""
    kind = event.get("kind")
    name = {"schema_change": RootCause.SCHEMA_CHANGE, "pipeline_failure": RootCause.UPSTREAM_FAILURE}.get(str(kind))
    if name is None:
        return
    proof = evidence(f"the producer reports {kind}", "event.kind", str(kind), "event")
    causes[name].hint(EVENT_HINTS[str(kind)], proof)


def _concept(causes: Causes, read: Reader, data: float, harm: float | None) -> None:
    found, cause, fresh = (
        read.get("concept", ConceptMeasure),
        causes[RootCause.CONCEPT_DRIFT],
        causes[RootCause.NEW_CATEGORY],
    )
    if found is not None and found.p_value is not None and found.loss_in_domain is not None:
        loss, p_value = found.loss_in_domain, found.p_value
        if found.changed:
            support = (1 - p_value) * size(loss, 0.02, PLAIN["concept"])
        else:
            support = 0.5 * max(0.0, 1 - p_value / 0.1) * ramp(loss, 0.0, PLAIN["concept"])
        claim = f"on inputs that the reference knows, the champion lost {loss:.1%} (p = {p_value:.2g}; {found.trend or 'weak'})"
        if support > 0:
            cause.add(min(FACT, support), evidence(claim, "loss in domain", loss, "concept", threshold=0.02))
        if found.changed and fresh.support > 0 and found.loss_measured:
            known = min(1.0, max(0.0, loss / max(found.loss_measured, loss)))
            cause.weaken(0.5 + 0.5 * known, "new categories carry part of the loss")
            fresh.weaken(1 - known, f"{known:.0%} of the loss is on rows without new categories")
    elif harm:
        measured = read.get("performance", PerformanceMeasure)
        if measured is not None and measured.basis == "reported" and not any(s.shifted for s in _shifts(read)):
            claim = "the reported loss comes without any shift of the inputs"
            cause.hint(0.7 * harm, evidence(claim, "relative loss", measured.relative_loss, "performance"))
    cause.weaken(1 - data, "a data fault explains the loss")


def _labels(causes: Causes, read: Reader, data: float) -> None:
    found, cause = read.get("labels", LabelsMeasure), causes[RootCause.LABEL_SHIFT]
    if found is None or not found.shifted or found.p_value is None or found.effect is None:
        return
    support = (1 - found.p_value) * size(abs(found.effect), 0.1, PLAIN["labels"])
    claim = f"the target's distribution moved by {found.effect:.2f}"
    cause.add(0.9 * support, evidence(claim, "effect", found.effect, "labels", threshold=0.1))
    cause.weaken(1 - data, "a data fault comes first")
    cause.weaken(1 - causes[RootCause.CONCEPT_DRIFT].support, "a changed relation explains it")
    cause.weaken(1 - 0.5 * causes[RootCause.NEW_CATEGORY].support, "new categories may explain it")
    if any(shift.shifted for shift in _shifts(read)):
        cause.weaken(0.6, "inputs moved as well, and may have moved it")


def _shifts(read: Reader) -> tuple[ColumnShift, ...]:
    found = read.get("shift", ShiftMeasure)
    return found.columns if found else ()


def _strength(shift: ColumnShift) -> float:
    return shift.statistic if shift.type == "numeric" else shift.effect


def _shift(causes: Causes, read: Reader, event: Mapping[str, Any], harm: float | None) -> None:
    explained = {column for name in (*_DATA_FAULTS, RootCause.NEW_CATEGORY) for column in causes[name].columns}
    left = [shift for shift in _shifts(read) if shift.shifted and shift.name not in explained]
    covariate, season = causes[RootCause.COVARIATE_SHIFT], causes[RootCause.SEASONAL_PATTERN]
    past = read.get("seasonality", SeasonalityMeasure)
    seen = {column.name: column for column in past.columns if column.seen_before} if past else {}
    for shift in left:
        support = (1 - shift.p_adjusted) * size(
            _strength(shift), 0.2 if shift.type == "numeric" else 0.1, PLAIN["shift"]
        )
        claim = f"{shift.name} moved ({shift.method} {_strength(shift):.2f}, corrected p = {shift.p_adjusted:.2g})"
        covariate.add(
            support, evidence(claim, shift.method, _strength(shift), "shift", columns=[shift.name], threshold=0.2)
        )
        if shift.name in seen:
            like = seen[shift.name]
            claim = f"{shift.name} was like this in {like.nearest} (distance {like.distance_nearest:.2f})"
            proof = evidence(claim, "distance to the nearest earlier window", like.distance_nearest, "seasonality",
                                 columns=[shift.name], threshold=like.distance_reference)  # fmt: skip
            season.add(support, proof)
    if not left and not explained:
        _unseen_shift(covariate, read, event)
    elif left and all(shift.type == "categorical" for shift in left):
        claim = "only the mix of known categories moved"
        proof = evidence(claim, "total variation", _strength(left[0]), "shift", columns=[s.name for s in left])
        causes[RootCause.SAMPLING_BIAS].add(0.7 * covariate.support, proof)
    share = len([shift for shift in left if shift.name in seen]) / len(left) if left else 0.0
    known_harm = harm or 0.0
    season.weaken(share, "not every shifted column was seen before")
    season.weaken(1 - known_harm, "the champion loses, as it did not in such a season before")
    covariate.weaken(1 - share * (1 - known_harm), "earlier windows looked the same")
    for cause in (covariate, season):
        cause.weaken(1 - causes[RootCause.CONCEPT_DRIFT].support, "the relation itself changed")
        data = max(causes[name].support for name in _DATA_FAULTS)
        cause.weaken(1 - 0.5 * data, "a data fault in the same window comes first")
    if harm is None:
        season.weaken(HARM_UNKNOWN_FACTOR, "harm could not be measured")


def _unseen_shift(covariate: Cause, read: Reader, event: Mapping[str, Any]) -> None:
    """A shift that no single column shows, or that only the event tells of."""
    domain = read.get("domain", DomainMeasure)
    if domain is not None and domain.auc_low is not None:
        support = 0.8 * ramp(domain.auc_low, 0.62, 0.85)
        if support > 0:
            claim = "all columns together tell the window from the reference"
            moved = [str(c.get("name")) for c in domain.columns[:3] if float(c.get("separation") or 0) >= 0.2]
            proof = evidence(claim, "domain auc, lower bound", domain.auc_low, "domain", columns=moved, threshold=0.62)
            covariate.add(support, proof)
    elif read.get("shift", ShiftMeasure) is None:
        columns = [c for c in event.get("columns") or () if isinstance(c, Mapping) and c.get("drifted") is True]
        names = [str(column.get("name")) for column in columns]
        if names:
            share = event.get("drift_share")
            drifted = float(share) if isinstance(share, int | float) else 0.0
            claim = f"the detector names {len(names)} drifted columns; nothing could be measured here"
            covariate.hint(
                0.3 + 0.3 * min(1.0, drifted), evidence(claim, "drift share", drifted, "event", columns=names)
            )


def _nothing_else(causes: Causes, read: Reader, harm: float | None) -> None:
    rest = 1.0
    for name in (*_DATA_FAULTS, *_WORLD):
        rest *= 1 - causes[name].weight
    alarm, unknown = causes[RootCause.FALSE_ALARM], causes[RootCause.UNKNOWN]
    measured = read.get("performance", PerformanceMeasure)
    if harm is None:
        unmade = not any(not measure.unavailable for measure in read.measures.values())
        proof = evidence("nothing stands out, but harm could not be measured", "relative loss", None, "performance")
        (unknown if unmade else alarm).add(rest * HARM_UNKNOWN_FACTOR, proof)
        return
    loss = measured.relative_loss if measured else None
    claim = "nothing stands out, and the champion does as well as on the reference"
    alarm.add(rest * (1 - harm), evidence(claim, "relative loss", loss, "performance", threshold=0.02))
    if harm > 0:
        claim = "the champion loses, and no measurement says why"
        unknown.add(rest * harm, evidence(claim, "relative loss", loss, "performance", threshold=0.02))
