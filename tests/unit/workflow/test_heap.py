"""The collector of a process that runs for months."""

import gc
import importlib.util
from collections.abc import Iterator

import pytest

from driftwarden.service.heap import YOUNG_MAX, preload, settle


@pytest.fixture(autouse=True)
def collector() -> Iterator[None]:
    """As it was, afterwards."""
    thresholds = gc.get_threshold()
    yield
    gc.unfreeze()
    gc.set_threshold(*thresholds)


def test_what_there_is_is_set_aside_and_what_comes_is_still_collected() -> None:
    """A cycle that is made later goes like any other."""
    kept: list[list[object]] = [[] for _ in range(1000)]
    settle()
    assert gc.get_freeze_count() >= len(kept)
    assert gc.get_threshold()[0] == YOUNG_MAX
    cycle: list[object] = []
    cycle.append(cycle)
    del cycle
    assert gc.collect() >= 1


def test_what_a_database_needs_is_loaded_and_for_a_server_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first incident finds it there."""
    asked: list[str] = []
    monkeypatch.setattr("driftwarden.service.heap.importlib.import_module", asked.append)
    for uri in ("https://mlflow.example", "http://127.0.0.1:5000", "databricks"):
        preload(uri)
    assert asked == []
    preload("sqlite:////srv/driftwarden/mlflow.db")
    monkeypatch.undo()
    assert len(asked) == 2
    assert all(importlib.util.find_spec(name) for name in asked)
