"""The benchmarks as commands: bad requests are one line, and what they print is what was measured."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from driftwarden.service.bench_memory import growth
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


def throughput(capsys: pytest.CaptureFixture[str], *parts: str, events: int = 20) -> dict[str, Any]:
    """The document of a short run of `bench throughput`."""
    chosen = [word for part in parts for word in ("--part", part)]
    short = ["--events", str(events), "--rounds", "1", "--workers", "3", "--processes", "2", "--incidents", "3"]
    assert run(["bench", "throughput", *short, *chosen, "--json"]) == 0
    document: dict[str, Any] = json.loads(capsys.readouterr().out)
    return document


def test_throughput_measures_all_that_it_names(capsys: pytest.CaptureFixture[str]) -> None:
    """Every event is triaged, ends its workflow and is decided; the ratios are of the same run; goals without a figure say so."""
    document = throughput(capsys, "rates")
    assert document["events"] == 20
    assert document["triaged"]["became"] == {"opened": 4, "joined": 6, "duplicate": 8, "dead_letters": 2}
    assert min(document["bare"]["batches_per_second"], document["decided"]["per_second"]) > 0
    for part in ("triaged", "no_op_one_process", "no_op", "decided"):
        for name in ("share_of_bare_one_at_a_time", "share_of_bare_batches"):
            assert document[part][name] > 0
    cpu = document["cpu_us_per_event"]
    assert set(cpu) == {"bare_batches", "triaged_batches", "no_op_one_process", "no_op", "decided"}
    assert (document["no_op_one_process"]["processes"], document["no_op"]["processes"]) == (1, 2)
    assert document["no_op"]["workers"] == 3
    assert all(one["own"] > 0 and one["redis"] > 0 for one in cpu.values())
    assert cpu["decided"]["own"] > cpu["bare_batches"]["own"], (
        "a workflow with its records costs more than nothing at all"
    )
    told = {goal["name"]: goal for goal in document["goals"]}
    share = document["triaged"]["batches_share_of_bare_one_at_a_time"]
    assert told["triage"] == {
        "name": "triage", "goal": "at least 2 of bare", "got": share, "reached": share >= 2
    }  # fmt: skip
    assert [goal["reached"] for goal in document["goals"][2:]] == [None, None, None]


def test_throughput_samples_memory_over_a_run_of_repeats_joins_and_new_events(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A tenth of the events opens an incident, all of them closed at the end; the first sample is from before the first event."""
    memory = throughput(capsys, "memory", events=40)["memory"]
    samples = memory["samples"]
    assert samples[0]["events"] == 0
    assert samples[-1]["events"] == memory["events"] >= 40
    assert memory["incidents"] == memory["events"] / 10
    assert all(sample["redis_bytes"] > 0 for sample in samples)


def test_throughput_serves_the_whole_path_in_a_process_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    """Given events without a window, I expect real records, model calls and a decision for each."""
    path = throughput(capsys, "path")["path"]
    assert path["incidents"] == path["one_at_a_time"] == 3
    assert 0 < path["ms_to_decision"]["min"] <= path["ms_to_decision"]["p50"] <= path["ms_to_decision"]["max"]
    assert path["sizes"]["audit_records_per_incident"] == 6  # event, finding, plan, rehearsal, decision, close
    assert path["sizes"]["model_calls_per_incident"] == 4
    assert path["sizes"]["tokens_read_per_incident"] > path["sizes"]["tokens_written_per_incident"] > 0
    assert path["sizes"]["redis_incident_bytes"] > path["sizes"]["redis_identity_bytes"] > 0


def test_growth_is_the_slope_of_the_second_half() -> None:
    """Given a process that grows at first and then stands still beside a Redis that grows on, I expect the first called flat."""
    samples = [{"events": n, "rss_bytes": 1000 + 100 * min(n, 4), "redis_bytes": 500 + 7 * n} for n in range(11)]
    found = growth(samples)
    assert found == {
        "rss_bytes_per_event": 0.0, "rss_grown_in_second_half": 0.0, "redis_bytes_per_event": 7.0, "flat": True
    }  # fmt: skip
    leaking = [sample | {"rss_bytes": 1000 + 100 * sample["events"]} for sample in samples]
    assert growth(leaking)["flat"] is False
    assert growth(leaking)["rss_bytes_per_event"] == 100.0


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
