"""Each measurement finds what it is for, in autocorrelated and in real data, and leaves the rest alone."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.signal import lfilter
from sklearn.linear_model import LogisticRegression

from driftwarden.contracts.measurements import (
    CategoriesMeasure,
    ConceptMeasure,
    DomainMeasure,
    LabelsMeasure,
    PerformanceMeasure,
    QualityMeasure,
    SchemaMeasure,
    SeasonalityMeasure,
    ShiftMeasure,
    UnitMeasure,
)
from driftwarden.pipelines.diagnostics import DiagnosticInput, measure
from driftwarden.pipelines.diagnostics.case import holm, ks_distance
from driftwarden.pipelines.diagnostics.concept import change_in_window
from driftwarden.pipelines.diagnostics.units import CONVERSIONS

NAMES = ["a", "b", "c", "d"]


def walks(rows: int, seed: int, memory: float = 0.9) -> pd.DataFrame:
    """Four autoregressions around 50 with deviation 5, and a word that depends on nothing."""
    rng = np.random.default_rng(seed)
    values = {}
    for position, name in enumerate(NAMES):
        shocks = rng.normal(scale=5 * np.sqrt(1 - memory**2), size=rows + 100)
        values[name] = 50 + 10 * position + lfilter([1.0], [1.0, -memory], shocks)[100:]
    return pd.DataFrame({**values, "word": rng.choice(["x", "y"], size=rows)})


def split(rows: int = 3600, window: int = 600, seed: int = 0, memory: float = 0.5) -> tuple[pd.DataFrame, pd.DataFrame]:
    """A reference and the window that follows it."""
    table = walks(rows, seed, memory)
    return table.iloc[:-window].reset_index(drop=True), table.iloc[-window:].reset_index(drop=True)


def shifted(reference: pd.DataFrame, current: pd.DataFrame, **more: Any) -> list[str]:
    """Names of the columns that moved."""
    found = measure("shift", DiagnosticInput(reference=reference, current=current, **more))
    assert isinstance(found, ShiftMeasure)
    return [column.name for column in found.columns if column.shifted]


def test_dependent_rows_raise_no_more_alarms_than_stated() -> None:
    """Windows of a slow autoregression without drift: any corrected p below 0.01 in at most 4 % of 50 windows."""
    alarms = 0
    for seed in range(50):
        reference, current = split(seed=seed, memory=0.9, window=300, rows=3300)
        found = measure("shift", DiagnosticInput(reference=reference, current=current))
        assert isinstance(found, ShiftMeasure)
        alarms += any(column.p_adjusted < 0.01 for column in found.columns)
    assert alarms <= 2


def test_a_naive_test_would_have_raised_them() -> None:
    """The same windows under independence: the reason for effective sample sizes."""
    from scipy import stats

    naive = 0
    for seed in range(20):
        reference, current = split(seed=seed, memory=0.9, window=300, rows=3300)
        naive += any(stats.ks_2samp(reference[name], current[name]).pvalue < 0.01 / 4 for name in NAMES)
    assert naive >= 10


def test_a_real_shift_is_found_and_named() -> None:
    """A column that moved by one spread, and a word whose mix changed."""
    reference, current = split()
    current = current.assign(b=current["b"] + 5, word=np.where(np.arange(600) % 5 == 0, "y", "x"))
    assert set(shifted(reference, current)) == {"b", "word"}


def test_a_small_move_is_no_practical_shift() -> None:
    """Certain and immaterial: independent rows moved by a tenth of a spread."""
    reference, current = walks(20_000, 1, memory=0.0), walks(10_000, 2, memory=0.0)
    assert shifted(reference, current.assign(a=current["a"] + 0.5)) == []


@pytest.mark.parametrize("conversion", [c for c in CONVERSIONS if c.factor != 10], ids=lambda c: c.name)
def test_every_known_conversion_is_recognised(conversion: Any) -> None:
    """The values of one column in another unit; factor and offset are found, and no other column is blamed."""
    reference, current = split()
    current["c"] = current["c"] * conversion.factor + conversion.offset
    found = measure("units", DiagnosticInput(reference=reference, current=current))
    assert isinstance(found, UnitMeasure)
    assert [change.name for change in found.columns] == ["c"]
    best = found.columns[0]
    assert best.factor * 70 + best.offset == pytest.approx(conversion.factor * 70 + conversion.offset, rel=0.05)
    assert best.confidence > 0.8


def test_a_unit_change_in_part_of_the_window_is_recognised() -> None:
    """From row 450 of 600 on, and for 60 rows in the middle."""
    reference, current = split()
    for rows in (slice(450, 600), slice(300, 360)):
        window = current.copy()
        window.loc[window.index[rows], "a"] = window["a"].iloc[rows] * 1.8 + 32
        found = measure("units", DiagnosticInput(reference=reference, current=window))
        assert isinstance(found, UnitMeasure)
        assert [change.name_of_change for change in found.columns] == ["celsius to fahrenheit"]


def test_a_plain_shift_is_no_unit_change() -> None:
    """Hotter by three spreads is not another unit."""
    reference, current = split()
    found = measure("units", DiagnosticInput(reference=reference, current=current.assign(a=current["a"] + 15)))
    assert isinstance(found, UnitMeasure)
    assert found.columns == ()


def quality(reference: pd.DataFrame, current: pd.DataFrame) -> dict[str, Any]:
    """Quality by column."""
    found = measure("quality", DiagnosticInput(reference=reference, current=current))
    assert isinstance(found, QualityMeasure)
    return {column.name: column for column in found.columns}


def test_gaps_stuck_values_infinities_and_outliers_are_told_apart() -> None:
    """Each in its own column, each named as what it is."""
    reference, current = split()
    current.loc[current.index[::9], "a"] = np.nan
    current.loc[200:260, "b"] = 61.0
    current.loc[current.index[::20], "c"] = 300.0
    current.loc[[5, 6], "d"] = np.inf
    found = quality(reference, current)
    assert [found[n].missing_suspect for n in NAMES] == [True, False, False, False]
    assert [found[n].stuck_suspect for n in NAMES] == [False, True, False, False]
    assert [found[n].outlier_suspect for n in NAMES] == [False, False, True, False]
    assert found["d"].infinite_rows == 2
    assert found["b"].stuck_rows == 61


def test_a_column_that_often_repeats_is_not_stuck() -> None:
    """Rain is zero for days: the reference's own runs are the yardstick."""
    reference, current = split()
    rain = (np.arange(3000) % 200 > 150).astype(float)
    found = quality(reference.assign(a=rain), current.assign(a=rain[:600]))
    assert not found["a"].stuck_suspect


def test_gaps_as_before_are_no_news() -> None:
    """A column that always had 10 % gaps may have them."""
    reference, current = split()
    rng = np.random.default_rng(0)
    for rows in (reference, current):
        rows.loc[rng.random(len(rows)) < 0.1, "a"] = np.nan
    assert not quality(reference, current)["a"].missing_suspect


def test_the_schema_is_compared() -> None:
    """Gone, new, of another type, exchanged; target and time are not features."""
    reference, current = split()
    current = current.rename(columns={"a": "alpha"}).assign(b=current["c"], c=current["b"], word=1.5)
    case = DiagnosticInput(reference=reference, current=current, features=[*NAMES, "word"])
    found = measure("schema", case)
    assert isinstance(found, SchemaMeasure)
    assert (found.vanished, found.added, found.swapped) == (("a",), ("alpha",), (("b", "c"),))
    assert found.type_changes == ({"name": "word", "reference": "categorical", "current": "numeric"},)


def test_new_categories_are_listed_but_for_identifiers() -> None:
    """A new word is new; a column whose values are always new has none."""
    reference, current = split()
    reference["id"], current["id"] = [f"r{i}" for i in range(3000)], [f"c{i}" for i in range(600)]
    current.loc[current.index[::10], "word"] = "z"
    found = measure("categories", DiagnosticInput(reference=reference, current=current))
    assert isinstance(found, CategoriesMeasure)
    assert [(column.name, column.values, column.rows) for column in found.columns] == [("word", ("z",), 60)]


def test_a_season_is_one_that_came_back_and_not_one_that_goes_on() -> None:
    """The same warm window is a season after a cool one, and no season while the warmth simply lasts."""
    reference, current = split()
    warm, before = current.assign(a=current["a"] + 15), reference.iloc[:600]
    earlier = before.assign(a=before["a"] + 15)
    back = DiagnosticInput(reference=reference, current=warm, history=[("june", earlier), ("july", before)])
    lasting = DiagnosticInput(reference=reference, current=warm, history=[("june", before), ("july", earlier)])
    found, other = measure("seasonality", back), measure("seasonality", lasting)
    assert isinstance(found, SeasonalityMeasure)
    assert isinstance(other, SeasonalityMeasure)
    assert (found.explained_share, found.columns[0].nearest) == (1.0, "june")
    assert other.explained_share == 0.0


def labelled(seed: int = 0, flip: float = 0.0, warm: float = 0.0, onset: int = 0) -> DiagnosticInput:
    """A logistic champion; from `onset` on the relation is turned with weight `flip`, inputs moved by `warm`."""
    reference, current = split(seed=seed)
    rng = np.random.default_rng(seed)
    current["a"] += warm
    turned = np.where(np.arange(600) >= onset, flip, 0.0)

    def truth(rows: pd.DataFrame, weight: Any) -> Any:
        log_odds = (rows["a"] - 50) / 2 * (1 - 2 * weight) + (rows["b"] - 60) / 3
        return (rng.random(len(rows)) < 1 / (1 + np.exp(-log_odds))).astype(int)

    reference["y"], current["y"] = truth(reference, 0.0), truth(current, turned)
    model = LogisticRegression(max_iter=500).fit(reference[NAMES].iloc[:1500], reference["y"].iloc[:1500])
    scores = [model.predict_proba(rows[NAMES])[:, 1] for rows in (reference.iloc[1500:], current)]
    return DiagnosticInput(
        reference=reference.iloc[1500:],
        current=current,
        features=NAMES,
        target="y",
        metric="accuracy",
        reference_prediction=(scores[0] > 0.5).astype(int),
        current_prediction=(scores[1] > 0.5).astype(int),
        reference_score=scores[0],
        current_score=scores[1],
    )


def test_a_turned_relation_is_a_changed_concept_and_moved_inputs_are_not() -> None:
    """Loss on shared inputs, with its onset; moved inputs alone change nothing there."""
    turned, moved = measure("concept", labelled(flip=1.0, onset=300)), measure("concept", labelled(warm=3))
    assert isinstance(turned, ConceptMeasure)
    assert isinstance(moved, ConceptMeasure)
    assert turned.changed
    assert turned.p_value is not None
    assert turned.p_value < 1e-3
    assert turned.onset_row == pytest.approx(300, abs=40)
    assert turned.trend == "abrupt"
    assert not moved.changed


def test_unchanged_relations_are_rarely_called_changed() -> None:
    """At 0.01, at most one of 12 windows without any change."""
    results = [measure("concept", labelled(seed=seed)) for seed in range(12)]
    assert sum(result.changed for result in results if isinstance(result, ConceptMeasure)) <= 1


def test_performance_has_an_interval_that_holds_the_figure() -> None:
    """Measured loss lies in its interval; without labels it is estimated, with a report alone it is reported."""
    found = measure("performance", labelled(flip=1.0))
    assert isinstance(found, PerformanceMeasure)
    assert found.basis == "measured"
    assert found.p_worse == 1.0
    assert found.relative_loss is not None
    assert found.relative_loss_low is not None
    assert found.relative_loss_high is not None
    assert found.relative_loss_low <= found.relative_loss <= found.relative_loss_high
    unlabelled = labelled(warm=8)
    unlabelled.current = unlabelled.current.drop(columns="y")
    estimate = measure("performance", unlabelled)
    assert isinstance(estimate, PerformanceMeasure)
    assert estimate.basis == "estimated"
    truth = measure("performance", labelled(warm=8))
    assert isinstance(truth, PerformanceMeasure)
    assert estimate.current == pytest.approx(truth.current, abs=0.05)


def test_a_reported_loss_is_taken_on_its_own_sign() -> None:
    """An error that grew from 2 to 3 is a loss of one half."""
    reference, current = split()
    told = {"metric": "rmse", "reference": 2.0, "current": 3, "higher_is_better": False, "labelled_rows": 90}
    found = measure("performance", DiagnosticInput(reference=reference, current=current, reported_performance=told))
    assert isinstance(found, PerformanceMeasure)
    assert (found.basis, found.relative_loss, found.labelled_rows) == ("reported", 0.5, 90)


def test_labels_and_domain() -> None:
    """A target that became rare is a label shift; a moved window can be told from the reference, a quiet one hardly."""
    case = labelled()
    case.current["y"] = (np.arange(600) % 10 == 0).astype(int)
    labels, quiet = measure("labels", case), measure("domain", labelled())
    moved = measure("domain", labelled(warm=8))
    assert isinstance(labels, LabelsMeasure)
    assert isinstance(quiet, DomainMeasure)
    assert isinstance(moved, DomainMeasure)
    assert labels.shifted
    assert quiet.auc == pytest.approx(0.5, abs=0.12)
    assert moved.auc is not None
    assert moved.auc > 0.8
    assert moved.columns[0]["name"] == "a"


def test_the_change_inside_a_window_is_placed() -> None:
    """A step is abrupt, a ramp gradual, noise throughout."""
    rng = np.random.default_rng(0)
    noise = rng.random(600) * 0.2
    assert change_in_window(noise) == (0, "throughout")
    step, trend = change_in_window(noise + (np.arange(600) >= 400))
    assert (step, trend) == (400, "abrupt")
    assert change_in_window(noise + np.linspace(0, 1, 600))[1] == "gradual"


def test_helpers() -> None:
    """Holm's correction is monotone and capped; the distance of disjoint samples is 1."""
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert ks_distance(np.array([1.0, 2.0]), np.array([3.0])) == 1.0
    assert ks_distance(np.array([1.0, 2.0]), np.array([2.0, 1.0])) == 0.0


def real(name: str) -> pd.DataFrame:
    """A real stream, from DRIFTWARDEN_DATA or beside the repository."""
    folder = Path(os.environ.get("DRIFTWARDEN_DATA") or Path(__file__).resolve().parents[4] / "shared" / "data")
    if not (folder / name).is_file():
        pytest.skip(f"{name} is neither in DRIFTWARDEN_DATA nor in ../shared/data")
    return pd.read_parquet(folder / name)


def test_a_wrong_unit_in_a_real_turbine_is_named() -> None:
    """Ambient pressure of a real gas turbine in bar instead of millibar for one window, and nothing in the window as it was."""
    table = real("gas_turbine_emissions.parquet").drop(columns="year")
    reference, current = table.iloc[:7000], table.iloc[7000:7600]
    spoilt = current.assign(AP=current["AP"] / 1000)
    sound = measure("units", DiagnosticInput(reference=reference, current=current, target="NOX"))
    found = measure("units", DiagnosticInput(reference=reference, current=spoilt, target="NOX"))
    assert isinstance(sound, UnitMeasure)
    assert isinstance(found, UnitMeasure)
    assert sound.columns == ()
    assert [change.name for change in found.columns] == ["AP"]


def test_a_real_winter_month_is_a_season_of_the_year_before() -> None:
    """Bike sharing, January 2012 against the summer of 2011: its temperatures were seen the January before."""
    table = real("bike_sharing_hour.parquet")
    months = [(f"{year}-{month:02d}", part) for (year, month), part in table.groupby(["yr", "mnth"])][:13]
    reference = pd.concat([part for _, part in months[5:8]])
    features = ["temp", "hum", "windspeed"]
    case = DiagnosticInput(reference=reference, current=months[12][1], history=months[:12], features=features)
    found = measure("seasonality", case)
    assert isinstance(found, SeasonalityMeasure)
    seen = {column.name: (column.seen_before, column.nearest) for column in found.columns}
    assert seen["temp"] in {(True, "0-01"), (True, "0-02")}
