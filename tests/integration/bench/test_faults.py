"""Injected faults are what they say, and the diagnosis benchmark counts answers as it should."""

from typing import Any

import numpy as np
import pandas as pd
import pytest

from driftwarden.contracts.base import ActionName
from driftwarden.errors import BadInput
from driftwarden.service.bench_diagnosis import right_actions, run
from driftwarden.service.bench_faults import FAULTS, Bed, Injected
from driftwarden.service.streams import ReplayStream, StreamWindow


def bed(rows: int = 400) -> Bed:
    """A clean window: three readings, a category, a truth that follows the first reading."""
    rng = np.random.default_rng(11)

    def table(count: int) -> pd.DataFrame:
        heat = rng.normal(70, 5, count)
        return pd.DataFrame(
            {
                "heat": heat,
                "flow": rng.normal(300, 40, count),
                "noise": rng.exponential(2, count),
                "line": rng.choice(["a", "b", "c"], count),
                "bad": (heat + rng.normal(0, 2, count) > 72).astype(int),
            }
        )

    return Bed(table(rows), table(2 * rows), "bad", "classification", ("heat", "flow", "noise"), ("line",))


def laid(fault: str, seed: int = 0) -> tuple[Bed, Injected]:
    """A fault in a fresh bed."""
    ground = bed()
    injected = FAULTS[fault][1](ground, np.random.default_rng(seed))
    assert injected is not None
    return ground, injected


@pytest.mark.parametrize("fault", [name for name in FAULTS if name not in {"covariate_shift", "label_shift"}])
def test_only_the_named_columns_change(fault: str) -> None:
    """Rows stay in their order; columns that the fault does not name stay as they are."""
    ground, injected = laid(fault)
    changed = {
        name
        for name in ground.window.columns
        if not ground.window[name].astype(str).equals(injected.rows[name].astype(str))
    }
    truth_too = {"bad"} if fault in {"concept_drift", "new_category"} else set()
    assert changed - truth_too == set(injected.columns)
    assert len(injected.rows) == len(ground.window)


def test_the_window_itself_is_left_alone() -> None:
    """The same bed serves one fault after another."""
    ground = bed()
    before = ground.window.copy()
    for fault in FAULTS:
        FAULTS[fault][1](ground, np.random.default_rng(1))
    pd.testing.assert_frame_equal(ground.window, before)


def test_a_turned_concept_turns_the_truth_of_one_side() -> None:
    """About half of the rows have the other class."""
    ground, injected = laid("concept_drift")
    share = float((ground.window["bad"] != injected.rows["bad"]).mean())
    assert 0.4 < share < 0.6


def test_a_covariate_shift_moves_inputs_and_keeps_their_meaning() -> None:
    """Every row is a row of the window."""
    ground, injected = laid("covariate_shift")
    moved = injected.columns[0]
    gap = abs(injected.rows[moved].mean() - ground.window[moved].mean())
    assert gap > 0.5 * float(ground.window[moved].std())
    there = set(map(tuple, ground.window.astype(str).to_numpy()))
    assert set(map(tuple, injected.rows.astype(str).to_numpy())) <= there


def test_a_label_shift_changes_the_mix() -> None:
    """The rarer class becomes the common one."""
    ground, injected = laid("label_shift")
    assert ground.window["bad"].mean() < 0.5 < injected.rows["bad"].mean()


def test_faults_that_a_table_has_no_column_for_are_left_out() -> None:
    """No category, no new one; no second reading, nothing to exchange."""
    ground = bed()
    bare = Bed(
        ground.window[["heat", "bad"]], ground.reference[["heat", "bad"]], "bad", "classification", ("heat",), ()
    )
    assert FAULTS["new_category"][1](bare, np.random.default_rng(0)) is None
    assert FAULTS["swapped_columns"][1](bare, np.random.default_rng(0)) is None


@pytest.mark.parametrize(
    ("fault", "loss", "right"),
    [
        ("unit_change", 0.0, {ActionName.QUARANTINE_DATA}),
        ("concept_drift", 0.3, {ActionName.RETRAIN}),
        ("label_shift", 0.3, {ActionName.RETRAIN, ActionName.RECALIBRATE}),
        ("covariate_shift", 0.01, {ActionName.NONE, ActionName.REFRESH_REFERENCE, ActionName.NOTIFY}),
    ],
)
def test_the_right_action_follows_from_the_true_harm(fault: str, loss: float, right: Any) -> None:
    """Spoiled data are kept out, harm is mended, what does no harm is left alone."""
    assert right_actions(fault, loss) == right


def stream() -> ReplayStream:
    """Steady rows, long enough for one window of cases."""
    ground = bed(1000)
    return ReplayStream(
        name="steady",
        task="classification",
        target="bad",
        metric="accuracy",
        time_column=None,
        train=ground.reference,
        windows=(StreamWindow(0, "", "", ground.window),),
    )


def test_plain_faults_are_named_and_counted() -> None:
    """Unit, stuck sensor, turned concept: cause, columns and action, and a confusion table that adds up."""
    faults = ("unit_change", "stuck_values", "concept_drift", "none")
    document = run([stream()], faults=faults, windows=1, seed=3)
    assert document["cases"] == len(faults)
    for fault in faults[:3]:
        assert document["by_fault"][fault]["root_cause"] == 1.0, document["confusion"]
        assert document["by_fault"][fault]["action"] == 1.0
    assert document["by_fault"]["unit_change"]["columns"] == 1.0
    assert document["by_fault"]["concept_drift"]["columns"] is None
    assert sum(n for row in document["confusion"].values() for n in row.values()) == document["cases"]
    right = sum(document["confusion"][truth].get(truth, 0) for truth in document["confusion"])
    assert document["accuracy"]["root_cause"] == right / document["cases"]
    assert run([stream()], faults=faults, windows=1, seed=3) == document


def test_an_unknown_fault_is_refused() -> None:
    """One line that lists what there is."""
    with pytest.raises(BadInput, match="gremlins"):
        run([stream()], faults=["gremlins"])
