"""The shipped estimator: any table in, no crash on what it has not seen."""

import numpy as np
import pandas as pd
import pytest

from driftwarden.errors import BadInput, GiveUp
from driftwarden.pipelines import estimator
from driftwarden.pipelines.scoring import metric_of, predictions_of

ROWS = 400


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    machine = rng.choice(["A", "B", "C"], ROWS)
    heat = rng.normal(size=ROWS)
    return pd.DataFrame(
        {
            "heat": heat,
            "as_text": [f"{value:.3f}" for value in rng.normal(size=ROWS)],
            "machine": machine,
            "guard": rng.random(ROWS) > 0.5,
            "made": pd.date_range("2026-01-01", periods=ROWS, freq="h"),
            "note": [f"free words number {index} {rng.random()}" for index in range(ROWS)],
            "holes": np.where(rng.random(ROWS) < 0.3, np.nan, heat),
            "fails": np.where((heat > 0) ^ (machine == "B"), "yes", "no"),
        }
    )


def trained(table: pd.DataFrame, task: str = "classification") -> tuple[object, estimator.Columns]:
    target = "fails" if task == "classification" else "heat"
    columns = estimator.choose_columns(table, target=target, time_column=None)
    truth = estimator.truth(table[target], task)
    return estimator.fit(estimator.build(task, columns), columns, table, truth), columns


def test_each_kind_of_column_is_read_in_its_way(table: pd.DataFrame) -> None:
    """Numbers in text are numbers, moments become clock features, free text is left out."""
    columns = estimator.choose_columns(table, target="fails", time_column=None)
    assert columns.categorical == ("machine",)
    assert set(columns.numeric) == {"heat", "as_text", "guard", "holes", "made.hour", "made.weekday", "made.month"}


def test_it_learns_what_depends_on_a_category(table: pd.DataFrame) -> None:
    """An interaction with a category is found, and the score is the positive class's probability."""
    model, _ = trained(table)
    said = predictions_of(model, table, "classification")
    truth = estimator.truth(table["fails"], "classification")
    accuracy = metric_of("accuracy", "classification", truth, said)
    assert accuracy is not None
    assert accuracy > 0.95
    assert said.score is not None
    assert ((said.score > 0.5) == (said.label == "yes")).all()


@pytest.mark.parametrize(
    "spoil",
    [
        {"machine": "Z"},
        {"machine": None},
        {"machine": 3.5},
        {"heat": np.inf},
        {"heat": "unreadable"},
        {"made": None},
        {"guard": None},
    ],
)
def test_what_was_never_seen_does_not_crash(table: pd.DataFrame, spoil: dict[str, object]) -> None:
    """Unseen categories, infinite, unreadable and missing values are scored as missing."""
    model, _ = trained(table)
    window = table.head(10).astype(object).assign(**spoil)
    assert len(predictions_of(model, window, "classification").label) == 10


def test_a_vanished_column_and_an_empty_window_are_scored(table: pd.DataFrame) -> None:
    """A column that is gone counts as missing; no rows give no predictions."""
    model, columns = trained(table, "regression")
    assert np.isfinite(predictions_of(model, table.drop(columns=["machine", "made"]), "regression").label).all()
    assert len(predictions_of(model, table.head(0), "regression").label) == 0
    assert estimator.expected_columns(model) == columns  # type: ignore[arg-type]


def test_a_fitted_model_needs_no_code_of_ours(table: pd.DataFrame) -> None:
    """Whoever serves a version needs scikit-learn only."""
    model, _ = trained(table)
    modules = {type(step).__module__ for step in [model, *model.named_steps.values()]}  # type: ignore[attr-defined]
    assert {module.partition(".")[0] for module in modules} == {"sklearn"}


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (pd.Series([1.0, 0.0]), [1, 0]),
        (pd.Series([True, False]), [1, 0]),
        (pd.Series(["1", "0"]), [1, 0]),
        (pd.Series(["a", "b"]), ["a", "b"]),
        (pd.Series([0.5, 1.0]), ["0.5", "1.0"]),
    ],
)
def test_the_same_class_is_the_same_whatever_table_it_came_from(
    values: "pd.Series[object]", expected: list[object]
) -> None:
    """csv, parquet and joins hold one class in several types."""
    assert estimator.truth(values, "classification").tolist() == expected


def test_rows_that_teach_nothing_are_refused(table: pd.DataFrame) -> None:
    """One class only, no rows, no features, unknown parameters: each says so."""
    columns = estimator.choose_columns(table, target="fails", time_column=None)
    model = estimator.build("classification", columns)
    with pytest.raises(GiveUp, match="one class only"):
        estimator.fit(model, columns, table, np.zeros(ROWS))
    with pytest.raises(GiveUp, match="no labelled rows"):
        estimator.fit(model, columns, table.head(0), np.zeros(0))
    with pytest.raises(BadInput, match="no feature is left"):
        estimator.choose_columns(table[["fails"]], target="fails", time_column=None)
    with pytest.raises(BadInput, match="feature is not there"):
        estimator.choose_columns(table, target="fails", time_column=None, features=["gone"])
    with pytest.raises(BadInput, match="parameter of the training"):
        estimator.build("classification", columns, params={"random_state": 3})


def test_more_categories_than_the_trees_take_are_folded() -> None:
    """The rare ones share a code, so that any cardinality trains."""
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"place": rng.choice([f"p{index}" for index in range(600)], 3000), "y": rng.normal(size=3000)})
    columns = estimator.choose_columns(table, target="y", time_column=None)
    model = estimator.fit(estimator.build("regression", columns, params={"max_iter": 5}), columns, table, table["y"])
    assert columns.categorical == ("place",)
    assert len(predictions_of(model, table, "regression").label) == 3000


@pytest.mark.parametrize(("metric", "task"), [("nonsense", "classification"), ("neg_log_loss", "regression")])
def test_a_metric_that_does_not_exist_or_fit_is_bad_input(metric: str, task: str) -> None:
    """The metric is a setting, so a wrong one is the user's to mend."""
    said = predictions_of(_Constant(), pd.DataFrame({"a": [1.0, 2.0]}), "regression")
    with pytest.raises(BadInput, match="metric"):
        metric_of(metric, task, np.array([1.0, 2.0]), said)


class _Constant:
    def predict(self, frame: pd.DataFrame) -> np.ndarray:
        return np.zeros(len(frame))
