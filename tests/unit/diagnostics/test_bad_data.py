"""Whatever a window holds, every measurement answers: with figures, or with the reason why there are none."""

import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from driftwarden.agents.diagnosis import rank
from driftwarden.contracts.measurements import MEASURE_TYPES, MEASUREMENT_NAMES, Measured
from driftwarden.pipelines.diagnostics import DiagnosticInput, measure


def table(rows: int = 300, seed: int = 0) -> pd.DataFrame:
    """A small mixed table with a binary target."""
    rng = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "ts": pd.date_range("2026-01-01", periods=rows, freq="h", tz="UTC"),
            "a": rng.normal(size=rows),
            "b": rng.normal(10, 2, size=rows),
            "kind": rng.choice(["x", "y", "z"], size=rows),
            "flag": rng.random(rows) < 0.5,
            "y": (rng.random(rows) < 0.4).astype(int),
        }
    )


def case(current: pd.DataFrame, reference: pd.DataFrame | None = None, **changes: Any) -> DiagnosticInput:
    """A case with predictions for every row."""
    reference = table(600, seed=9) if reference is None else reference
    half = np.full(len(current), 0.5)
    given = {
        "features": ["a", "b", "kind", "flag"],
        "target": "y",
        "time_column": "ts",
        "metric": "roc_auc",
        "reference_prediction": np.arange(len(reference)) % 2,
        "reference_score": np.linspace(0, 1, len(reference)),
        "current_prediction": np.arange(len(current)) % 2,
        "current_score": half,
    } | changes
    return DiagnosticInput(reference=reference, current=current, **given)


def measure_all(subject: DiagnosticInput) -> dict[str, Measured]:
    """All ten measurements, checked for type and for finite, serialisable contents."""
    found = {}
    for name in MEASUREMENT_NAMES:
        result = measure(name, subject)
        assert isinstance(result, MEASURE_TYPES[name])
        assert result.model_dump_json()
        assert all_finite(result.model_dump())
        found[name] = result
    assert rank(found, {"kind": "data_drift"})
    return found


def all_finite(value: Any) -> bool:
    """No NaN and no infinity anywhere."""
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, dict):
        return all(all_finite(item) for item in value.values())
    if isinstance(value, list | tuple):
        return all(all_finite(item) for item in value)
    return True


def spoilt(**columns: Any) -> pd.DataFrame:
    """The table with some columns replaced."""
    return table().assign(**columns)


BAD = {
    "empty": table().iloc[:0],
    "one row": table().iloc[:1],
    "five rows": table().iloc[:5],
    "no columns": pd.DataFrame(index=range(50)),
    "one class": spoilt(y=0),
    "other class only": spoilt(y=1),
    "no target": table().drop(columns="y"),
    "target all missing": spoilt(y=np.nan),
    "target unknown words": spoilt(y="maybe"),
    "all nan": spoilt(a=np.nan, b=np.nan),
    "all none": spoilt(a=None, kind=None),
    "infinite": spoilt(a=np.inf, b=-np.inf),
    "some infinite": spoilt(a=lambda t: t["a"].where(t.index % 7 > 0, np.inf)),
    "constant": spoilt(a=3.0, b=3.0, kind="x"),
    "huge": spoilt(a=1e308, b=lambda t: t["b"] * 1e300),
    "words in numbers": spoilt(a="n/a"),
    "numbers as words": spoilt(a=lambda t: t["a"].astype(str)),
    "lists in cells": spoilt(kind=[[1, 2]] * 300),
    "mixed types": spoilt(kind=[1, "x", None, 2.5, True, b"raw"] * 50),
    "vanished": table().drop(columns=["a", "kind"]),
    "every feature vanished": table()[["ts", "y"]],
    "dates as feature": spoilt(a=pd.Timestamp("2026-01-01")),
    "categories": spoilt(kind=lambda t: t["kind"].astype("category")),
    "nullable": spoilt(a=lambda t: t["a"].astype("Float64"), flag=lambda t: t["flag"].astype("boolean")),
    "complex": spoilt(a=1j),
    "repeated name": pd.concat([table(), table()[["a"]]], axis=1),
    "odd names": table().rename(columns={"a": 7, "b": ("b", 1)}),
    "times out of order": table().sample(frac=1, random_state=0).set_index("ts", drop=False),
    "every word new": spoilt(kind=[f"w{i}" for i in range(300)]),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_window_is_measured_or_said_to_be_unmeasurable(name: str) -> None:
    """No bad window raises, and none puts NaN or infinity into a result."""
    measure_all(case(BAD[name]))


@pytest.mark.parametrize(
    "name", ["empty", "one row", "no columns", "constant", "all nan", "lists in cells", "one class"]
)
def test_a_bad_reference_too(name: str) -> None:
    """The reference may be as bad as the window."""
    measure_all(case(table(), reference=BAD[name]))


@pytest.mark.parametrize(
    "changes",
    [
        {"metric": "wisdom"},
        {"metric": "roc_auc", "reference_score": None, "current_score": None},
        {"reference_prediction": None, "current_prediction": None, "reference_score": None, "current_score": None},
        {"reference_prediction": np.zeros(3), "current_prediction": np.zeros(2)},
        {"current_score": np.full(300, np.nan)},
        {"features": ["nothing", "here"]},
        {"features": []},
        {"target": None},
        {"task": "regression", "metric": "r2"},
        {"history": [("empty", table().iloc[:0]), ("bare", pd.DataFrame()), ("odd", BAD["vanished"])]},
        {"reported_performance": {"reference": "high", "current": None}},
    ],
)
def test_a_badly_set_up_case(changes: dict[str, Any]) -> None:
    """What the case lacks is said, not raised."""
    measure_all(case(table(), **changes))


def test_why_nothing_was_measured_is_said() -> None:
    """The reasons are readable."""
    found = measure_all(case(table().iloc[:0]))
    assert "too few rows" in found["shift"].unavailable
    assert "labelled" in found["performance"].unavailable
    assert "too few" in measure_all(case(table().iloc[:5]))["concept"].unavailable
    assert "not a scikit-learn scorer" in measure("performance", case(table(), metric="wisdom")).unavailable


def test_an_unknown_measurement_is_the_callers_mistake() -> None:
    """Names come from the contract."""
    with pytest.raises(KeyError):
        measure("astrology", case(table()))  # type: ignore[arg-type]


def test_the_same_case_gives_the_same_result() -> None:
    """Nothing depends on a clock or an unseeded draw."""
    first, second = measure_all(case(table())), measure_all(case(table()))
    assert first == second


cells = st.one_of(st.none(), st.floats(), st.integers(-5, 5), st.text(max_size=2), st.booleans())


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(values=st.lists(cells, min_size=0, max_size=60))
def test_any_cells_at_all(values: list[Any]) -> None:
    """Any mixture of cells in a feature and in the target is survived."""
    window = pd.DataFrame({"a": pd.Series(values, dtype=object), "y": pd.Series(values[::-1], dtype=object)})
    measure_all(case(window, features=["a"], current_score=np.full(len(values), 0.5)))
