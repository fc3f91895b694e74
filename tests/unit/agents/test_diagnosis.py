"""Causes are ranked from measurements: every fault of the simulated factory is named, and nothing where nothing is."""

from functools import cache
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.ensemble import HistGradientBoostingClassifier
from threadpoolctl import threadpool_limits

from driftwarden.agents.causes import CauseScore
from driftwarden.agents.diagnosis import rank
from driftwarden.contracts.base import RootCause
from driftwarden.contracts.measurements import (
    MEASUREMENT_NAMES,
    CategoriesMeasure,
    ColumnQuality,
    ColumnShift,
    ConceptMeasure,
    DomainMeasure,
    Measured,
    NewCategory,
    PerformanceMeasure,
    QualityMeasure,
    SchemaMeasure,
    SeasonalColumn,
    SeasonalityMeasure,
    ShiftMeasure,
    UnitChange,
    UnitMeasure,
)
from driftwarden.pipelines.diagnostics import DiagnosticInput, measure
from driftwarden.pipelines.simulator import FEATURES, TARGET, TIME_COLUMN, Fault, Stream, simulate

SEEDS = range(5)
EVENT = {"kind": "data_drift"}
SCHEDULE = (
    Fault("seasonal_pattern", 2),
    Fault("unit_change", 3),
    Fault("stuck_sensor", 4),
    Fault("missing_values", 5),
    Fault("new_machine_type", 6),
    Fault("abrupt_concept", 7),
    Fault("unit_change", 8, onset=0.6),
    Fault("stuck_sensor", 9, onset=0.8),
    Fault("gradual_concept", 10, windows=None),
)
WINDOWS = 13
CLEAR = {
    3: RootCause.UNIT_CHANGE,
    4: RootCause.STUCK_VALUES,
    5: RootCause.MISSING_VALUES,
    6: RootCause.NEW_CATEGORY,
    8: RootCause.UNIT_CHANGE,
    9: RootCause.STUCK_VALUES,
}


def encoded(rows: pd.DataFrame) -> pd.DataFrame:
    """Features as the champion takes them; a type it never saw is missing."""
    codes = rows["machine_type"].map({"A": 0.0, "B": 1.0, "C": 2.0}).astype(float)
    return rows[list(FEATURES)].assign(machine_type=codes)


@cache
def stream(seed: int) -> Stream:
    """One factory, each fault by itself."""
    return simulate(seed, windows=WINDOWS, faults=SCHEDULE)


@cache
def champion(seed: int) -> Any:
    """Trained on the first half of the history; the second half is the reference it never saw."""
    train = stream(seed).train.iloc[:3000]
    model = HistGradientBoostingClassifier(max_iter=60, max_leaf_nodes=15, categorical_features=[6], random_state=0)
    with threadpool_limits(limits=1, user_api="openmp"):
        return model.fit(encoded(train), train[TARGET])


def case(seed: int, window: int, *, labelled: bool = True) -> DiagnosticInput:
    """One window against the reference, the windows before it as history."""
    told, reference = stream(seed), stream(seed).train.iloc[3000:]
    current = told.windows[window].rows
    scores = [champion(seed).predict_proba(encoded(rows))[:, 1] for rows in (reference, current)]
    return DiagnosticInput(
        reference=reference,
        current=current if labelled else current.drop(columns=TARGET),
        history=[(f"window {part.index}", part.rows) for part in told.windows[:window]],
        features=list(FEATURES),
        target=TARGET,
        time_column=TIME_COLUMN,
        metric="roc_auc",
        reference_prediction=(scores[0] > 0.5).astype(int),
        current_prediction=(scores[1] > 0.5).astype(int),
        reference_score=scores[0],
        current_score=scores[1],
    )


@cache
def measured(seed: int, window: int) -> dict[str, Measured]:
    """All measurements of one window."""
    subject = case(seed, window)
    return {name: measure(name, subject) for name in MEASUREMENT_NAMES}


def columns_of(seed: int, window: int) -> tuple[str, ...]:
    """What the simulator really touched."""
    return next(record.columns for record in stream(seed).truth if record.window == window)


@pytest.mark.parametrize("seed", SEEDS)
def test_every_clear_fault_is_named_with_its_column(seed: int) -> None:
    """Given a fault in data or a new category, I expect its name and column first, with confidence of at least 0.8."""
    for window, cause in CLEAR.items():
        best = rank(measured(seed, window), EVENT)[0]
        assert (best.root_cause, best.columns[:1]) == (cause, columns_of(seed, window)), window
        assert best.confidence >= 0.8
        assert best.evidence


@pytest.mark.parametrize("seed", SEEDS)
def test_a_changed_relation_is_named(seed: int) -> None:
    """An abrupt change is found in its first window, a gradual one by its third."""
    for window in (7, 12):
        best = rank(measured(seed, window), EVENT)[0]
        assert best.root_cause == RootCause.CONCEPT_DRIFT, window
        assert best.confidence >= 0.8


@pytest.mark.parametrize("seed", SEEDS)
def test_harmless_windows_are_not_blamed(seed: int) -> None:
    """Quiet windows are false alarms, a season seen before is a season."""
    for window in (0, 1):
        assert rank(measured(seed, window), EVENT)[0].root_cause == RootCause.FALSE_ALARM, window
    best = rank(measured(seed, 2), EVENT)[0]
    assert best.root_cause == RootCause.SEASONAL_PATTERN
    assert "ambient" in best.columns
    assert best.confidence >= 0.6


@pytest.mark.parametrize("seed", SEEDS)
def test_the_simulated_faults_hurt_and_the_season_does_not(seed: int) -> None:
    """The factory is worth watching: faults cost the champion at least 2 % of its AUC, the season nothing clear."""
    for window in (3, 4, 5, 6, 7, 12):
        found = measured(seed, window)["performance"]
        assert isinstance(found, PerformanceMeasure)
        assert found.relative_loss is not None
        assert found.relative_loss >= 0.02, (window, found.relative_loss)
    season = measured(seed, 2)["performance"]
    assert isinstance(season, PerformanceMeasure)
    assert season.relative_loss is not None
    assert season.relative_loss < 0.03


def test_without_labels_data_faults_are_still_named() -> None:
    """Labels come later; a unit, a stuck sensor and gaps show without them."""
    for window in (3, 4, 5):
        subject = case(0, window, labelled=False)
        found = {name: measure(name, subject) for name in MEASUREMENT_NAMES}
        best = rank(found, EVENT)[0]
        assert best.root_cause == CLEAR[window]
        assert found["concept"].unavailable


def shift(name: str, size: float = 0.5, p: float = 1e-6) -> ColumnShift:
    """A numeric column that moved."""
    return ColumnShift(
        name=name, type="numeric", method="ks", statistic=size, p_value=p, p_adjusted=p, effect=1, shifted=True
    )


SAFE = PerformanceMeasure(basis="measured", reference=0.9, current=0.9, relative_loss=0.0, p_worse=0.5)
HURT = PerformanceMeasure(basis="measured", reference=0.9, current=0.8, relative_loss=0.11, p_worse=1.0)


def first(measures: dict[str, Measured], **event: Any) -> CauseScore:
    """The best cause."""
    return rank(measures, EVENT | event)[0]


def test_harm_without_a_cause_is_unknown() -> None:
    """A loss that nothing explains is not given a name."""
    best = first({"shift": ShiftMeasure(), "performance": HURT})
    assert best.root_cause == RootCause.UNKNOWN
    assert best.confidence > 0.9


def test_moved_inputs_are_a_shift_or_a_season() -> None:
    """What was seen before without harm is a season, anything else a covariate shift."""
    moved = ShiftMeasure(columns=(shift("t"), shift("u")))
    seen = tuple(
        SeasonalColumn(
            name=n, distance_reference=0.5, distance_nearest=0.1, typical=0.1, nearest="w1", seen_before=True
        )
        for n in "tu"
    )
    season = SeasonalityMeasure(windows=5, columns=seen, explained_share=1.0)
    assert first({"shift": moved, "performance": SAFE}).root_cause == RootCause.COVARIATE_SHIFT
    assert first({"shift": moved, "performance": SAFE, "seasonality": season}).root_cause == RootCause.SEASONAL_PATTERN
    assert first({"shift": moved, "performance": HURT, "seasonality": season}).root_cause == RootCause.COVARIATE_SHIFT


def test_a_data_fault_explains_the_loss_behind_it() -> None:
    """A unit change makes the relation look changed; it is not."""
    unit = UnitChange(
        name="t",
        factor=1.8,
        offset=32,
        before=1,
        residual=0.05,
        name_of_change="celsius to fahrenheit",
        confidence=0.98,
    )
    concept = ConceptMeasure(loss_measured=0.1, loss_in_domain=0.1, p_value=1e-6, changed=True)
    found = rank({"units": UnitMeasure(columns=(unit,)), "concept": concept, "performance": HURT}, EVENT)
    assert found[0].root_cause == RootCause.UNIT_CHANGE
    assert found[0].columns == ("t",)
    assert all(score.confidence < 0.1 for score in found if score.root_cause == RootCause.CONCEPT_DRIFT)


def test_structure_comes_first() -> None:
    """A vanished column is a fact; exchanged columns are no unit change; half the columns gone points upstream."""
    gone = SchemaMeasure(
        vanished=("a",), type_changes=({"name": "b", "reference": "numeric", "current": "categorical"},)
    )
    best = first({"schema": gone, "performance": HURT})
    assert (best.root_cause, best.columns) == (RootCause.SCHEMA_CHANGE, ("a", "b"))
    swap = first(
        {
            "schema": SchemaMeasure(swapped=(("a", "b"),)),
            "shift": ShiftMeasure(columns=(shift("a", 0.9), shift("b", 0.9))),
        }
    )
    assert (swap.root_cause, set(swap.columns)) == (RootCause.SWAPPED_COLUMNS, {"a", "b"})
    lost = tuple(
        ColumnQuality(name=n, missing_reference=0, missing_current=0.5, missing_p_adjusted=1e-9, missing_suspect=True)
        for n in "abc"
    )
    assert first({"quality": QualityMeasure(rows_current=100, columns=lost)}).root_cause == RootCause.UPSTREAM_FAILURE
    assert first({"schema": SchemaMeasure(rows_reference=10, rows_current=0)}).root_cause == RootCause.UPSTREAM_FAILURE


def test_far_out_values_are_a_burst() -> None:
    """A few rows far out, without another explanation."""
    column = ColumnQuality(
        name="t", missing_reference=0, missing_current=0, missing_p_adjusted=1, missing_suspect=False,
        outlier_share=0.05, outlier_suspect=True,
    )  # fmt: skip
    best = first({"quality": QualityMeasure(rows_current=600, columns=(column,)), "performance": SAFE})
    assert (best.root_cause, best.columns) == (RootCause.OUTLIER_BURST, ("t",))


def test_a_new_category_and_a_changed_relation_share_the_loss() -> None:
    """Whichever carries more of the loss comes first, and the other is kept as an alternative."""
    fresh = CategoriesMeasure(columns=(NewCategory(name="k", values=("D",), rows=200, share=0.3, known_values=3),))
    mostly_new = ConceptMeasure(loss_measured=0.2, loss_in_domain=0.03, p_value=1e-3, changed=True)
    mostly_old = ConceptMeasure(loss_measured=0.2, loss_in_domain=0.18, p_value=1e-9, changed=True)
    assert first({"categories": fresh, "concept": mostly_new, "performance": HURT}).root_cause == RootCause.NEW_CATEGORY
    assert (
        first({"categories": fresh, "concept": mostly_old, "performance": HURT}).root_cause == RootCause.CONCEPT_DRIFT
    )


NOTHING: dict[str, Measured] = {name: Measured(unavailable="no file") for name in MEASUREMENT_NAMES}


def test_what_the_event_states_leads_where_nothing_could_be_measured() -> None:
    """A reported schema change or failure names the cause and is shown; how sure we are of it stays zero."""
    for kind, cause in (
        ("schema_change", RootCause.SCHEMA_CHANGE),
        ("pipeline_failure", RootCause.UPSTREAM_FAILURE),
    ):
        told = first(NOTHING, kind=kind)
        assert (told.root_cause, told.confidence) == (cause, 0.0)
        assert told.evidence[0].value == kind
    assert first(NOTHING).root_cause == RootCause.UNKNOWN
    hinted = rank(NOTHING, {**EVENT, "columns": [{"name": "t", "drifted": True}], "drift_share": 0.5})
    shifted = next(score for score in hinted if score.root_cause == RootCause.COVARIATE_SHIFT)
    assert (shifted.confidence, shifted.columns) == (0.0, ("t",))


@given(
    kind=st.sampled_from(["data_drift", "schema_change", "pipeline_failure", "concept_drift", "performance_drop"]),
    drifted=st.lists(st.sampled_from(["t", "v"]), max_size=2),
    share=st.floats(0, 1),
    measured_size=st.none() | st.floats(0, 1),
    loss=st.floats(0, 1),
)
def test_nothing_a_producer_says_raises_a_confidence(
    kind: str, drifted: list[str], share: float, measured_size: float | None, loss: float
) -> None:
    """Whatever was measured: the event may reorder the causes, and only lowers what we are sure of."""
    measures: dict[str, Measured] = dict(NOTHING)
    if measured_size is not None:
        measures["shift"] = ShiftMeasure(columns=(shift("t", measured_size, 1e-4),))
        measures["performance"] = PerformanceMeasure(basis="measured", relative_loss=loss, p_worse=0.95)
    said = {"kind": kind, "columns": [{"name": name, "drifted": True} for name in drifted], "drift_share": share}
    silent = {score.root_cause: score.confidence for score in rank(measures, {"kind": "data_drift"})}
    for score in rank(measures, said):
        assert score.confidence <= silent.get(score.root_cause, 0.0)


def test_a_shift_that_only_all_columns_together_show() -> None:
    """The domain classifier speaks where no single column does."""
    best = first({"shift": ShiftMeasure(), "domain": DomainMeasure(auc=0.9, auc_low=0.86), "performance": SAFE})
    assert best.root_cause == RootCause.COVARIATE_SHIFT


@given(
    loss=st.floats(0, 1),
    p_worse=st.floats(0, 1),
    p=st.floats(0, 1),
    size=st.floats(0, 1),
    in_domain=st.floats(-1, 1),
    share=st.floats(0, 1),
)
def test_confidences_are_probabilities_best_first(
    loss: float, p_worse: float, p: float, size: float, in_domain: float, share: float
) -> None:
    """Whatever is measured: 0..1, sorted, both ways out always listed, each cause once."""
    concept = ConceptMeasure(loss_measured=loss, loss_in_domain=in_domain, p_value=p, changed=p < 0.01)
    fresh = CategoriesMeasure(columns=(NewCategory(name="k", values=("D",), rows=9, share=share, known_values=3),))
    found = rank(
        {
            "performance": PerformanceMeasure(basis="measured", relative_loss=loss, p_worse=p_worse),
            "shift": ShiftMeasure(columns=(shift("t", size, p),)),
            "concept": concept,
            "categories": fresh,
        },
        EVENT,
    )
    confidences = [score.confidence for score in found]
    assert confidences == sorted(confidences, reverse=True)
    assert all(0 <= confidence <= 1 for confidence in confidences)
    names = [score.root_cause for score in found]
    assert {RootCause.UNKNOWN, RootCause.FALSE_ALARM} <= set(names)
    assert len(set(names)) == len(names)


def test_more_loss_never_makes_a_false_alarm_likelier() -> None:
    """The more the champion loses, the less a window is a false alarm."""
    figures = []
    for loss in np.linspace(0, 0.1, 11):
        performance = PerformanceMeasure(basis="measured", relative_loss=float(loss), p_worse=0.97)
        found = rank({"performance": performance, "shift": ShiftMeasure()}, EVENT)
        figures.append(next(s.confidence for s in found if s.root_cause == RootCause.FALSE_ALARM))
    assert figures == sorted(figures, reverse=True)
