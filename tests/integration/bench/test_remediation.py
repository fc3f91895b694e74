"""The remediation benchmark end to end: a small stream through the whole service, once, and what must hold of it."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from driftwarden.audit import read_records
from driftwarden.clock import rfc3339
from driftwarden.pipelines import registry
from driftwarden.service.bench_fixed import FIXED
from driftwarden.service.bench_remediation import run
from driftwarden.service.streams import STREAM_START, ReplayStream, table_stream

WINDOWS = 3
TRAIN_ROWS = 600
WINDOW_ROWS = 300


@pytest.fixture(scope="module", params=[0, 1])
def delay(request: pytest.FixtureRequest) -> int:
    """Labels at a window's end, and a window later."""
    return int(request.param)


@pytest.fixture(scope="module")
def stream(delay: int, tmp_path_factory: pytest.TempPathFactory) -> ReplayStream:
    """A relation that turns over in the second window."""
    rng = np.random.default_rng(3)
    rows = TRAIN_ROWS + WINDOWS * WINDOW_ROWS
    a, b, c = rng.normal(size=(3, rows))
    turned = np.arange(rows) >= TRAIN_ROWS + WINDOW_ROWS
    table = pd.DataFrame({"a": a + turned, "b": b, "c": c, "y": (np.where(turned, -a, a) + 0.3 * b > 0).astype(int)})
    file = tmp_path_factory.mktemp("data") / "turning.parquet"
    table.to_parquet(file, index=False)
    return table_stream(
        file,
        name="turning",
        target="y",
        task="classification",
        metric="accuracy",
        windows=WINDOWS,
        train_share=TRAIN_ROWS / rows,
        label_delay_windows=delay,
    )


@pytest.fixture(scope="module")
def home(delay: int, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the service of this run keeps its state."""
    return tmp_path_factory.mktemp(f"home{delay}-") / "stage"


@pytest.fixture(scope="module")
def played(stream: ReplayStream, home: Path) -> tuple[dict[str, Any], dict[str, int]]:
    """The benchmark, run once."""
    return run(stream, home)


def test_the_document_has_the_contracts_fields(played: tuple[dict[str, Any], dict[str, int]]) -> None:
    """Names, no more and no fewer; one entry a window; each strategy's score on each window."""
    document, wasted = played
    strategies = {*FIXED, "driftwarden"}
    assert set(document) == {"stream", "metric", "higher_is_better", "windows", "summary"}
    assert [one["index"] for one in document["windows"]] == list(range(WINDOWS))
    for one in document["windows"]:
        fields = {"index", "rows", "event", "outcome", "action", "executed", "undone", "performance"}
        assert set(one) == fields
        assert one["rows"] == WINDOW_ROWS
        assert set(one["performance"]) == strategies
    summary = document["summary"]
    assert set(summary["performance"]) == set(summary["retrains"]) == set(wasted) == strategies
    for name in strategies:
        mean = sum(one["performance"][name] for one in document["windows"]) / WINDOWS
        assert summary["performance"][name] == pytest.approx(mean, abs=1e-5)
    assert summary["retrains_wasted"] == wasted["driftwarden"] <= summary["retrains"]["driftwarden"]


def test_before_the_first_label_all_strategies_are_one(
    played: tuple[dict[str, Any], dict[str, int]], delay: int
) -> None:
    """Until the labels of window 0 are there, nobody can have learned anything but the training rows."""
    for one in played[0]["windows"][: 1 + delay]:
        assert len(set(one["performance"].values())) == 1, one


def test_the_turn_is_seen_and_decided(played: tuple[dict[str, Any], dict[str, int]]) -> None:
    """The frozen model falls; drift is found, and every event of it got a decision, in some seconds."""
    document = played[0]
    first, last = document["windows"][0], document["windows"][-1]
    assert first["performance"]["frozen"] > 0.8 > 0.5 > last["performance"]["frozen"]
    assert any(one["event"] for one in document["windows"][1:])
    for one in document["windows"]:
        assert (one["outcome"] in {"execute", "escalate", "monitor"}) == one["event"]
        assert not one["executed"] or one["outcome"] == "execute"
    assert document["summary"]["seconds_to_decision"]["p50"] > 0
    outcomes = [one["outcome"] for one in document["windows"]]
    assert document["summary"]["escalations"] == outcomes.count("escalate")


def test_nothing_was_done_without_leave(played: tuple[dict[str, Any], dict[str, int]], home: Path) -> None:
    """The log holds at least the first champion's registration, and no effect that nobody allowed."""
    assert played[0]["summary"]["unauthorised"] == 0
    results = [one for one in read_records(home / "audit") if one.type == "result"]
    assert results[0].body["action"] == "register"


def test_the_service_repairs_what_turned(played: tuple[dict[str, Any], dict[str, int]], delay: int) -> None:
    """Where labels are prompt, it retrains, does better than never retraining, and that is what the figures say."""
    summary = played[0]["summary"]
    executed = [one for one in played[0]["windows"] if one["executed"] and one["action"] == "retrain"]
    assert summary["retrains"]["driftwarden"] == len(executed)
    assert summary["performance"]["driftwarden"] >= summary["performance"]["frozen"]
    if delay == 0:
        assert executed
        assert summary["performance"]["driftwarden"] > summary["performance"]["frozen"]


def test_the_service_saw_no_label_before_its_delay_was_over(
    played: tuple[dict[str, Any], dict[str, int]], home: Path, delay: int
) -> None:
    """Late labels are not on disk before they are due, and no version was trained on rows whose labels were not."""
    data, tracking_uri = home / "data" / "turning", f"sqlite:///{home / 'mlflow' / 'mlflow.db'}"
    if delay:
        keys = pd.concat(pd.read_parquet(file) for file in (data / "labels").iterdir())["row_id"]
        assert keys.max() < TRAIN_ROWS + (WINDOWS - delay) * WINDOW_ROWS
        assert all("y" not in pd.read_parquet(file).columns for file in (data / "history").iterdir())
    records = {one.hash: one for one in read_records(home / "audit")}
    for one in records.values():
        if one.type == "result" and one.body["action"] == "retrain" and one.body["changed"]:
            decision = records[records[one.causation or ""].causation or ""]
            ended = pd.Timestamp(decision.body["facts"]["now"]) - pd.Timestamp(rfc3339(STREAM_START))
            version = registry.version_of(tracking_uri, "turning", one.body["after"])
            known_rows = TRAIN_ROWS + (ended.days - delay) * WINDOW_ROWS
            assert 0 < registry.window_of(version)["row_end"] <= known_rows
