"""Recipes of a retraining: which rows a strategy uses, and with which weights; the same for rehearsal and training."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from driftwarden.clock import parse_rfc3339
from driftwarden.errors import BadInput

STRATEGIES = ("all", "recent", "since_drift", "reweighted")
HALF_LIFE_SHARE = 0.25  # a `reweighted` row loses half its weight every quarter of the rows


@dataclass(frozen=True)
class Recipe:
    """A strategy with what it needs: rows that `recent` keeps, where `since_drift` begins (a time, or a row's position)."""

    strategy: str
    recent_rows: int | None = None
    since: str | int | None = None

    @classmethod
    def of(cls, params: dict[str, Any], recent_rows: int | None) -> "Recipe":
        """From a candidate's params (`strategy`, `rows`, `since`); raises BadInput for what is not known."""
        strategy = params.get("strategy", "all")
        if strategy not in STRATEGIES:
            raise BadInput("strategy of a retraining", got=strategy, expected=f"one of {', '.join(STRATEGIES)}")
        rows, since = params.get("rows", recent_rows), params.get("since")
        if rows is not None and (isinstance(rows, bool) or not isinstance(rows, int) or rows < 1):
            raise BadInput("rows of a recent retraining", got=rows, expected="a whole number of at least 1")
        if strategy == "since_drift" and (isinstance(since, bool) or not isinstance(since, str | int)):
            raise BadInput("start of a retraining since the drift", got=since, expected="a time or a row number")
        return cls(strategy, rows, since)

    def select(self, times: "pd.Series[Any] | None", positions: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which of the rows seen so far (in time order, n) this recipe trains on (n, bool)."""
        keep = np.ones(len(positions), dtype=bool)
        if self.strategy == "recent" and self.recent_rows is not None:
            keep[: max(0, len(keep) - self.recent_rows)] = False
        if self.strategy == "since_drift" and self.since is not None:
            keep &= _since(self.since, times, positions)
        return keep

    def weights(self, rows: int) -> NDArray[np.float64] | None:
        """Weights of the training rows (oldest first), or None where all count the same."""
        return recency_weights(rows) if self.strategy == "reweighted" else None


def recency_weights(rows: int) -> NDArray[np.float64]:
    """Exponential weights, oldest first, newest 1: half after every quarter of the rows."""
    age = np.arange(rows, dtype="float64")[::-1]
    return np.asarray(0.5 ** (age / max(1.0, HALF_LIFE_SHARE * rows)))


def _since(since: str | int, times: "pd.Series[Any] | None", positions: NDArray[np.int64]) -> NDArray[np.bool_]:
    if isinstance(since, int):
        return np.asarray(positions >= since)
    if times is None:
        raise BadInput("start of a retraining since the drift", got=since, expected="a row number: there are no times")
    try:
        if pd.api.types.is_numeric_dtype(times.dtype):
            return (times >= float(since)).to_numpy(dtype=bool)
        return (times >= pd.Timestamp(parse_rfc3339(since))).to_numpy(dtype=bool)
    except ValueError:
        raise BadInput("start of a retraining since the drift", got=since, expected="an RFC 3339 time") from None
