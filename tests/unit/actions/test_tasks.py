"""Where the rows of a comparison begin."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from driftwarden.actions.tasks import split
from driftwarden.contracts.data import RowSelection
from driftwarden.errors import GiveUp


def _split(folder: Path, rows: int, window: dict[str, Any], labels: int | None = None) -> dict[str, Any]:
    file = folder / "rows.parquet"
    target = [float(row % 2) if labels is None or row < labels else None for row in range(rows)]
    times = pd.date_range("2026-01-01", periods=rows, freq="h", tz="UTC")
    pd.DataFrame({"ts": times, "y": target}).to_parquet(file)
    selection = RowSelection(paths=(str(file),), time_column="ts", target="y")
    return split(
        {"rows": selection.model_dump(mode="json"), "share": 0.2, "rows_min": 100, "rows_max": 300, "window": window}
    )


def test_the_newest_share_is_split_off(tmp_path: Path) -> None:
    """A fifth of 1000 rows, and where labels are late, of the labelled ones."""
    assert _split(tmp_path, 1000, {}) == {"cut": 800, "labelled": 1000, "training": 800, "evaluation": 200}
    assert _split(tmp_path, 1000, {}, labels=600)["cut"] == 480


def test_bounds_hold(tmp_path: Path) -> None:
    """At most `rows_max`, never more than half."""
    assert _split(tmp_path, 5000, {})["evaluation"] == 300
    assert _split(tmp_path, 120, {})["evaluation"] == 60


def test_rows_that_the_champion_has_not_seen_are_preferred(tmp_path: Path) -> None:
    """By position or by time; where hardly any are left, the share counts again."""
    assert _split(tmp_path, 1000, {"row_end": 900})["cut"] == 800 + 100
    assert _split(tmp_path, 1000, {"end": "2026-02-07T11:00:00Z"})["cut"] == 900
    assert _split(tmp_path, 1000, {"row_end": 990})["cut"] == 800
    assert _split(tmp_path, 1000, {"row_end": 100})["cut"] == 800


def test_too_few_rows_are_given_up(tmp_path: Path) -> None:
    """Both sides need rows."""
    with pytest.raises(GiveUp, match="too few labelled rows"):
        _split(tmp_path, 30, {})
