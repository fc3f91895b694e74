"""The simulated factory: the same seed gives the same rows, faults do what they say and nothing else."""

from datetime import timedelta

import numpy as np
import pandas as pd
import pytest

from driftwarden.pipelines.simulator import (
    FAULTS,
    FEATURES,
    LASTING,
    TARGET,
    TIME_COLUMN,
    UNITS,
    Fault,
    default_schedule,
    simulate,
)


def test_the_same_seed_gives_the_same_stream_and_another_seed_another() -> None:
    """Nothing but the arguments decides."""
    one, again, other = simulate(1, windows=2), simulate(1, windows=2), simulate(2, windows=2)
    pd.testing.assert_frame_equal(one.train, again.train)
    pd.testing.assert_frame_equal(one.windows[1].rows, again.windows[1].rows)
    assert not one.train["temperature"].equals(other.train["temperature"])


@pytest.mark.parametrize("seed", range(5))
def test_windows_follow_the_training_history_without_gap(seed: int) -> None:
    """Rows are hourly from the first to the last, labels are 0 or 1 and not rare, columns are as announced."""
    stream = simulate(seed, windows=4, rows_per_window=100, train_rows=1000, faults=())
    table = pd.concat([stream.train, *(window.rows for window in stream.windows)])
    assert list(table.columns) == [TIME_COLUMN, *FEATURES, TARGET]
    assert table[TIME_COLUMN].diff().dropna().eq(timedelta(hours=1)).all()
    assert all(len(window.rows) == 100 for window in stream.windows)
    assert all((w.rows[TIME_COLUMN] >= w.start).all() and (w.rows[TIME_COLUMN] < w.end).all() for w in stream.windows)
    assert set(table[TARGET]) == {0, 1}
    assert 0.12 < table[TARGET].mean() < 0.38
    assert not table.isna().any().any()
    assert stream.truth == ()


def test_sensors_remember_and_know_the_hour() -> None:
    """Neighbouring rows resemble each other, and the ambient temperature has a daily cycle."""
    train = simulate(3, windows=1, faults=()).train
    for name in ("temperature", "vibration", "pressure", "load", "ambient"):
        assert train[name].autocorr(1) > 0.4, name
    assert train["ambient"].autocorr(24) > train["ambient"].autocorr(12)


def test_the_default_story_holds_every_fault_for_every_seed() -> None:
    """Seeds change details, never kinds; data faults pass, changes of the world stay."""
    schedule = default_schedule()
    assert {fault.kind for fault in schedule} == set(FAULTS)
    assert all((fault.windows is None) == (fault.kind in LASTING) for fault in schedule)
    assert min(fault.window for fault in schedule) >= 2
    kinds = [[(r.window, r.kind) for r in simulate(s, rows_per_window=40, train_rows=400).truth] for s in range(4)]
    assert all(found == kinds[0] for found in kinds)
    details = {
        tuple((*r.columns, r.detail) for r in simulate(s, rows_per_window=40, train_rows=400).truth) for s in range(8)
    }
    assert len(details) > 1


def with_and_without(fault: Fault) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The window with the fault, and the same window of the same world without it."""
    return tuple(simulate(5, windows=2, faults=faults).windows[1].rows for faults in ((fault,), ()))  # type: ignore[return-value]


@pytest.mark.parametrize("unit", range(len(UNITS)))
def test_a_unit_change_converts_one_column_from_its_onset_on(unit: int) -> None:
    """The values are the same in another unit; labels and other columns stay."""
    column, _, factor, offset = UNITS[unit]
    spoilt, sound = with_and_without(Fault("unit_change", 1, onset=0.5, unit=unit))
    assert np.allclose(spoilt[column][300:], sound[column][300:] * factor + offset, atol=0.01)
    pd.testing.assert_frame_equal(spoilt[:300], sound[:300])
    pd.testing.assert_frame_equal(spoilt.drop(columns=column), sound.drop(columns=column))


def test_a_stuck_sensor_repeats_one_value() -> None:
    """From its onset on the column holds one value; the labels go on."""
    spoilt, sound = with_and_without(Fault("stuck_sensor", 1, onset=0.25, column="vibration"))
    assert spoilt["vibration"][150:].nunique() == 1
    pd.testing.assert_frame_equal(spoilt.drop(columns="vibration"), sound.drop(columns="vibration"))


def test_missing_values_are_gaps_in_one_column() -> None:
    """Most of one column is gone, what is left is as it was."""
    spoilt, sound = with_and_without(Fault("missing_values", 1, column="temperature"))
    gaps = spoilt["temperature"].isna()
    assert 0.6 < gaps.mean() < 0.95
    assert spoilt["temperature"][~gaps].equals(sound["temperature"][~gaps])


@pytest.mark.parametrize("kind", ["gradual_concept", "abrupt_concept"])
def test_a_changed_relation_changes_labels_and_no_input(kind: str) -> None:
    """Inputs are the same rows, some labels are not."""
    changed, sound = with_and_without(Fault(kind, 1))  # type: ignore[arg-type]
    pd.testing.assert_frame_equal(changed[list(FEATURES)], sound[list(FEATURES)])
    assert (changed[TARGET] != sound[TARGET]).mean() > 0.02


def test_a_season_was_in_the_history() -> None:
    """A hot spell is as warm as those that the training rows held."""
    stream = simulate(6, windows=2, faults=(Fault("seasonal_pattern", 1),))
    hot = stream.train["ambient"].iloc[int(0.22 * 6000) : int(0.29 * 6000)].mean()
    assert stream.windows[1].rows["ambient"].mean() == pytest.approx(hot, abs=3)
    assert stream.windows[1].rows["ambient"].mean() > stream.windows[0].rows["ambient"].mean() + 5


def test_a_new_machine_comes_and_is_recorded_in_the_truth_alone() -> None:
    """A third of the rows are of a new type; nothing in the rows names the fault."""
    stream = simulate(7, windows=2, faults=(Fault("new_machine_type", 1, windows=None),))
    assert "D" not in set(stream.windows[0].rows["machine_type"])
    assert (stream.windows[1].rows["machine_type"] == "D").mean() == pytest.approx(0.35, abs=0.08)
    assert [(record.window, record.kind, record.columns) for record in stream.truth] == [
        (1, "new_machine_type", ("machine_type",))
    ]


@pytest.mark.parametrize("fault", [Fault("unit_change", 2), Fault("wear", 0), Fault("unit_change", 0, onset=1.0)])  # type: ignore[arg-type]
def test_a_fault_that_cannot_be_placed_is_refused(fault: Fault) -> None:
    """Outside the windows, of no known kind, or with an onset beyond its window."""
    with pytest.raises(ValueError, match="cannot be placed"):
        simulate(0, windows=2, faults=(fault,))
