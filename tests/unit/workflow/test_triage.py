"""Triage: what was measured to be nothing is nothing; everything that was not measured, or only said, is not."""

import math
from typing import Any

import pytest
from fakes.cases import ROWS, ScriptedCase, concept, new_category, performance, quality, shift
from hypothesis import given
from hypothesis import strategies as st

from driftwarden.contracts.measurements import (
    LabelsMeasure,
    PerformanceMeasure,
    QualityMeasure,
    SchemaMeasure,
    ShiftMeasure,
)
from driftwarden.service.workflow.triage import discoveries, is_immaterial

FDR = 0.05


def test_nothing_moved_and_nothing_lost_is_immaterial() -> None:
    """Whatever the producer says drifted: the event names a drifted column, and no measurement finds one."""
    assert is_immaterial(ScriptedCase("quiet"), fdr=FDR)


@pytest.mark.parametrize(
    "changes",
    [
        {"shift": shift("temperature")},
        {"shift": ShiftMeasure(**ROWS)},
        {"shift": ShiftMeasure(unavailable="too few rows")},
        {"performance": performance(current=0.80, p_worse=1.0)},
        {"performance": PerformanceMeasure(unavailable="no labels")},
        {"performance": PerformanceMeasure(**ROWS)},
        {"performance": performance().model_copy(update={"basis": "reported"})},
        {"labels": LabelsMeasure(**ROWS, p_value=1e-9, effect=0.4, shifted=True)},
        {"schema": SchemaMeasure(**ROWS, vanished=("load",))},
        {"schema": SchemaMeasure(unavailable="no reference")},
        {"quality": quality(load={"missing_suspect": True})},
        {"quality": quality(load={"infinite_rows": 1})},
        {"quality": QualityMeasure(unavailable="no rows")},
        {"categories": new_category()},
        {"concept": concept(True)},
    ],
)
def test_what_moved_is_lost_broken_or_unknown_is_not(changes: dict[str, Any]) -> None:
    """One of these is enough to ask."""
    assert not is_immaterial(ScriptedCase("quiet", **changes), fdr=FDR)


def test_a_loss_within_the_noise_is_none() -> None:
    """A window of a few hundred rows is worse than the reference every other time."""
    assert is_immaterial(ScriptedCase("quiet", performance=performance(current=0.92, p_worse=0.6)), fdr=FDR)


def test_many_columns_are_corrected_for() -> None:
    """Of a hundred quiet columns one lies below 5 % by chance, and counts for nothing; alone it would."""
    one = shift().columns[0].model_copy(update={"p_value": 0.02})
    rest = tuple(one.model_copy(update={"name": f"c{number}", "p_value": 0.5}) for number in range(99))
    assert is_immaterial(ScriptedCase("quiet", shift=ShiftMeasure(**ROWS, columns=(one, *rest))), fdr=FDR)
    labels = LabelsMeasure(unavailable="no labels yet")
    alone = ScriptedCase("quiet", shift=ShiftMeasure(**ROWS, columns=(one,)), labels=labels)
    assert not is_immaterial(alone, fdr=FDR)


def test_the_textbook_s_example() -> None:
    """Benjamini and Hochberg (1995), table of fifteen p-values: four are rejected at 5 %."""
    p_values = [0.0001, 0.0004, 0.0019, 0.0095, 0.0201, 0.0278, 0.0298, 0.0344, 0.0459, 0.3240, 0.4262, 0.5719, 0.6528,
                0.7590, 1.0]  # fmt: skip
    assert discoveries(p_values, 0.05) == [True] * 4 + [False] * 11


@given(st.lists(st.floats(0, 1), max_size=40), st.floats(0.001, 0.5))
def test_never_less_than_bonferroni_nor_more_than_uncorrected(p_values: list[float], fdr: float) -> None:
    """And the smallest p-values are the ones that are rejected."""
    found = discoveries(p_values, fdr)
    count = max(1, len(p_values))
    for p, rejected in zip(p_values, found, strict=True):
        assert not rejected or p <= fdr or math.isclose(p, fdr)
        assert rejected or p > fdr / count or math.isclose(p, fdr / count)
    kept = [p for p, rejected in zip(p_values, found, strict=True) if not rejected]
    taken = [p for p, rejected in zip(p_values, found, strict=True) if rejected]
    assert not kept or not taken or max(taken) < min(kept)
