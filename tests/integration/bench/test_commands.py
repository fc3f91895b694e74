"""The benchmarks as commands: bad requests are one line, and what they print is what was measured."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from driftwarden.service.cli.bench import BENCHMARKS
from driftwarden.service.cli.bench_remediation import verdict
from driftwarden.service.cli.main import run


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """Rows enough for a few windows."""
    rng = np.random.default_rng(2)
    a = rng.normal(size=600)
    file = tmp_path / "rows.csv"
    pd.DataFrame({"a": a, "y": (a > 0).astype(int), "size": a * 3 + 50}).to_csv(file, index=False)
    return file


def remediation(file: Path, **options: str) -> list[str]:
    """Arguments of `bench remediation`."""
    chosen = {"target": "y", "task": "classification", "metric": "accuracy", "windows": "4", **options}
    return ["bench", "remediation", "--data", str(file), *(part for k, v in chosen.items() for part in (f"--{k}", v))]


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"metric": "brilliance"}, "brilliance"),
        ({"metric": "r2", "target": "a", "task": "classification"}, "r2"),
        ({"metric": "accuracy", "target": "size", "task": "regression"}, "accuracy"),
        ({"metric": "roc_auc", "target": "size", "task": "regression"}, "roc_auc"),
        ({"target": "z"}, "z"),
        ({"time": "when"}, "when"),
        ({"windows": "0"}, "0"),
        ({"train-share": "1.5"}, "1.5"),
        ({"label-delay-windows": "-1"}, "-1"),
        ({"windows": "500"}, "600 rows"),
        ({"task": "prophecy"}, "prophecy"),
        ({"policy": "nowhere.yml"}, "nowhere.yml"),
    ],
)
def test_a_bad_request_is_one_line(
    table: Path, options: dict[str, str], named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """What was got and what was expected; exit code 2; nothing on standard output."""
    if options.get("metric") == "r2":
        options = options | {"target": "y"}
        table.write_text("\n".join(["a,y", *(f"{n},{'xy'[n % 2]}" for n in range(600))]) + "\n")
    assert run(remediation(table, **options)) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert named in err.splitlines()[-1]
    assert len(err.splitlines()) == 1


def test_a_file_that_is_absent_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """No traceback."""
    assert run(remediation(tmp_path / "gone.parquet")) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_a_kept_folder_must_be_empty(table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nobody's service is overwritten."""
    assert run(remediation(table, keep=str(tmp_path))) == 2
    assert "not empty" in capsys.readouterr().err


def test_diagnosis_prints_one_document(table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Over a file of one's own, with the faults one names."""
    big = pd.concat([pd.read_csv(table)] * 3)
    big.to_csv(table, index=False)
    arguments = ["bench", "diagnosis", "--data", str(table), "--target", "y", "--windows", "1", "--json"]
    assert run([*arguments, "--faults", "missing_values,unit_change"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert set(document["by_fault"]) == {"missing_values", "unit_change"}
    assert set(document["accuracy"]) == {"root_cause", "columns", "action"}


def test_diagnosis_refuses_faults_that_it_does_not_know(capsys: pytest.CaptureFixture[str]) -> None:
    """And lists those that it does."""
    assert run(["bench", "diagnosis", "--faults", "gremlins"]) == 2
    err = capsys.readouterr().err
    assert "gremlins" in err
    assert "unit_change" in err


def test_throughput_measures_all_that_it_names(capsys: pytest.CaptureFixture[str]) -> None:
    """Every event ends in a decision; the ratios are of the same run."""
    assert run(["bench", "throughput", "--events", "10", "--rounds", "1", "--workers", "1", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["events"] == 10
    assert document["bare"]["batches_per_second"] > document["decided"]["per_second"] > 0
    for name in ("share_of_bare_one_at_a_time", "share_of_bare_batches"):
        assert document["triaged"][name] > 0
        assert document["decided"][name] > 0


@pytest.mark.parametrize("name", BENCHMARKS)
def test_every_benchmark_explains_itself(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Its help ends with an example."""
    assert run(["bench", name, "--help"]) == 0
    assert f"driftwarden bench {name}" in capsys.readouterr().out


def summary(ours: float | None, **fixed: float | None) -> dict[str, Any]:
    """A summary with these means."""
    means = {**fixed, "driftwarden": ours}
    return {"performance": means, "retrains": dict.fromkeys(means, 4)}


def test_the_verdict_says_what_is_true() -> None:
    """Worse is called worse."""
    wasted = {"frozen": 0, "retrain_all": 3, "driftwarden": 1}
    worse = verdict(summary(0.70, frozen=0.72, retrain_all=0.75), wasted)
    assert "0.0200 worse than never retraining" in worse
    assert "0.0500 worse than the best fixed strategy, retrain_all, with 4 retrainings (1 wasted)" in worse
    assert "0.0300 better than never" in verdict(summary(0.75, frozen=0.72), wasted)
    assert "level with never" in verdict(summary(0.72, frozen=0.72), wasted)
    assert "no verdict" in verdict(summary(None, frozen=0.7), wasted)
