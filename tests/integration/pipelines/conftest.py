"""A registry with two versions of one model, trained by real Kedro runs, and rows whose relation turns at row 2,400."""

import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from driftwarden.contracts.data import RowSelection
from driftwarden.contracts.effects import TrainingRequest, TrainingResult
from driftwarden.contracts.watch import WatchedModel
from driftwarden.pipelines.quiet import quiet
from driftwarden.pipelines.runner import KedroTrainer

sys.path.insert(0, str(Path(__file__).parents[2]))  # tests/fakes

TURN = 2_400
ROWS = 3_000


def factory_rows() -> pd.DataFrame:
    rng = np.random.default_rng(7)
    heat, load = rng.normal(size=(2, ROWS))
    machine = rng.choice(["A", "B", "C"], ROWS)
    odds = np.where(np.arange(ROWS) < TURN, 2 * heat, -2 * heat) + (machine == "A")
    fails = (rng.random(ROWS) < 1 / (1 + np.exp(-odds))).astype(int)
    moments = pd.date_range("2026-01-01", periods=ROWS, freq="h", tz="UTC")
    return pd.DataFrame({"ts": moments, "heat": heat, "load": load, "machine": machine, "fails": fails})


class Factory:
    """The model, its rows, its registry, and how to train it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.history = folder / "history.parquet"
        factory_rows().to_parquet(self.history, index=False)
        self.model = WatchedModel(
            name="factory", task="classification", target="fails", time_column="ts", metric="roc_auc"
        )
        self.tracking_uri = f"sqlite:///{folder / 'mlflow.db'}"
        self.trainer = KedroTrainer(folder / "work", environ=os.environ)

    def rows(self, **changes: Any) -> RowSelection:
        return RowSelection(paths=(str(self.history),), time_column="ts", target="fails").narrowed(**changes)

    def request(self, key: str, **changes: Any) -> TrainingRequest:
        request = TrainingRequest(
            model=self.model,
            rows=self.rows(row_end=TURN),
            idempotency_key=key,
            correlation_id="0af7651916cd43dd8448eb211c80319c",
            incident="inc-1",
            tracking_uri=self.tracking_uri,
            artifact_root=str(self.folder / "artifacts"),
            timeout_s=800,
        )
        return request.model_copy(update=changes)

    def payload(self, **parts: Any) -> dict[str, Any]:
        base = {"model": self.model.model_dump(mode="json"), "tracking_uri": self.tracking_uri}
        return json.loads(json.dumps(base | parts, default=lambda value: value.model_dump(mode="json")))


@pytest.fixture(scope="session")
def factory(tmp_path_factory: pytest.TempPathFactory) -> Factory:
    quiet()
    return Factory(tmp_path_factory.mktemp("factory"))


@pytest.fixture(scope="session")
def versions(factory: Factory) -> tuple[TrainingResult, TrainingResult]:
    """Version 1 learned from the first half of the old rows, version 2 (the champion) from all of them."""
    earlier = factory.trainer.train(factory.request("key-1", rows=factory.rows(row_end=TURN // 2)))
    return earlier, factory.trainer.train(factory.request("key-2", strategy="reweighted"))
