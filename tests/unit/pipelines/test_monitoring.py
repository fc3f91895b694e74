"""The monitoring pipeline with real Evidently: what it finds, what it leaves alone, what it refuses."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from driftwarden.contracts.event import DriftData, parse_event
from driftwarden.errors import BadInput
from driftwarden.pipelines.detection import Roles, detect
from driftwarden.pipelines.tasks import monitor

ROWS = 600


def rows(seed: int, count: int = ROWS) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    heat = rng.normal(20, 3, count)
    fails = (rng.random(count) < 1 / (1 + np.exp(-(heat - 20)))).astype(int)
    return pd.DataFrame(
        {
            "ts": pd.date_range("2026-01-01", periods=count, freq="min").astype(str),
            "row": np.arange(count),
            "heat": heat,
            "load": rng.gamma(2, 1, count),
            "machine": rng.choice(["A", "B", "C"], count),
            "fails": fails,
            "said": (heat > 20).astype(int),
        }
    )


def run(tmp_path: Path, current: pd.DataFrame, reference: pd.DataFrame | None = None, **options: Any) -> dict[str, Any]:
    (rows(0) if reference is None else reference).to_parquet(tmp_path / "reference.parquet", index=False)
    current.to_csv(tmp_path / "current.csv", index=False)
    files = {"reference": str(tmp_path / "reference.parquet"), "current": str(tmp_path / "current.csv")}
    return monitor({"model": "factory", **files, **options})


def drifted(result: dict[str, Any]) -> list[str]:
    return [column["name"] for column in result["columns"] if column["drifted"]]


def test_no_event_where_nothing_drifted(tmp_path: Path) -> None:
    """Row numbers and moments differ in every window and are no drift."""
    result = run(tmp_path, rows(1), target="fails", prediction="said")
    assert (result["event"], drifted(result)) == (None, [])
    assert result["left_out"]["row"] == "a row number"


def test_false_alarms_are_rare() -> None:
    """In 20 stationary windows of four columns, no column alarms (Evidently's own choice: most windows)."""
    names = ["heat", "load", "machine", "fails"]
    reference = rows(999, 1000)[names]
    alarms = sum(
        bool(detect(reference, rows(seed, 1000)[names], Roles(target="fails")).drifted()) for seed in range(20)
    )
    assert alarms == 0


def test_the_event_is_what_the_contract_says(tmp_path: Path) -> None:
    """Every field of the event can be read strictly, and names what was seen."""
    result = run(tmp_path, rows(1).assign(heat=lambda frame: frame["heat"] * 1.8 + 32), target="fails")
    event = parse_event(json.dumps(result["event"]))
    assert isinstance(event.data, DriftData)
    assert event.data.window is not None
    assert event.data.window.start is not None
    assert (event.kind, event.model, event.data.window.rows) == ("data_drift", "factory", ROWS)
    assert event.data.window.start.isoformat() == "2026-01-01T00:00:00+00:00"
    column = next(column for column in event.data.columns if column.name == "heat")
    assert (column.type, column.role, column.method, column.drifted) == ("numeric", "feature", "ks", True)
    assert event.data.drift_share == pytest.approx(1 / 5)
    assert event.data.detector is not None
    assert event.data.detector.name == "evidently"


@pytest.mark.parametrize(
    ("change", "kind", "column"),
    [
        ({"machine": "D"}, "data_drift", "machine"),
        ({"load": np.nan}, "data_quality", "load"),
        ({"heat": "hot"}, "schema_change", None),
        ({"fails": 1}, "label_drift", "fails"),
        ({"said": 1}, "prediction_drift", "said"),
    ],
)
def test_each_change_has_its_kind(tmp_path: Path, change: dict[str, Any], kind: str, column: str | None) -> None:
    """What Evidently would raise for is named; the rest of the table is still tested."""
    result = run(tmp_path, rows(1).assign(**change), **({} if kind == "prediction_drift" else {"target": "fails"}),
                 **({"prediction": "said"} if kind == "prediction_drift" else {}))  # fmt: skip
    assert result["kind"] == kind
    assert drifted(result) == ([column] if column else [])


def test_a_vanished_column_is_a_schema_change_and_late_labels_are_not(tmp_path: Path) -> None:
    """The truth comes later by nature; a feature does not."""
    late = run(tmp_path, rows(1).drop(columns=["fails", "said"]), target="fails", prediction="said")
    assert late["event"] is None
    gone = run(tmp_path, rows(1).drop(columns="load"), target="fails")
    assert gone["kind"] == "schema_change"
    assert gone["event"]["data"]["schema"]["vanished"] == ["load"]


def test_a_drop_of_the_metric_without_drift_is_concept_drift(tmp_path: Path) -> None:
    """The features are as they were, and the predictions no longer fit."""
    result = run(tmp_path, rows(1).assign(fails=lambda frame: 1 - frame["fails"]), target="fails", prediction="said")
    assert result["kind"] == "concept_drift"
    performance = result["event"]["data"]["performance"]
    assert performance["metric"] == "accuracy"
    assert performance["current"] < 0.4 < performance["reference"]
    assert performance["labelled_rows"] == ROWS


def test_infinite_values_and_odd_names_do_not_stop_it(tmp_path: Path) -> None:
    """Evidently's own counts fail on one infinite value; names never reach its report."""
    odd = rows(1).rename(columns={"heat": "he.at (°C)", "load": "column_0"})
    odd.loc[:5, "he.at (°C)"] = np.inf
    reference = rows(0).rename(columns={"heat": "he.at (°C)", "load": "column_0"})
    assert run(tmp_path, odd, reference, target="fails")["event"] is None


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"target": "gone"}, "column is not there, got `gone`"),
        ({"target": "fails", "prediction": "fails"}, "one column under two names, got `fails`"),
        ({"metric": "nonsense", "target": "fails", "prediction": "said"}, "metric, got `nonsense`"),
        ({"alpha": 2}, "monitor `alpha`"),
        ({"other": 1}, "monitor `other`"),
    ],
)
def test_a_wrong_request_is_one_line(tmp_path: Path, options: dict[str, Any], match: str) -> None:
    """What was got and what was expected."""
    with pytest.raises(BadInput, match=match) as caught:
        run(tmp_path, rows(1), **options)
    assert "\n" not in caught.value.diagnostics()


def test_an_empty_window_is_refused(tmp_path: Path) -> None:
    """Nothing can be said of no rows."""
    with pytest.raises(BadInput, match="empty table"):
        run(tmp_path, rows(1).head(0))
