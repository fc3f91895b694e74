"""Moving-block bootstrap: how sure a difference is where rows that follow each other resemble each other.

Blocks are drawn in a circle (Politis and Romano, 1992), so that every row is drawn equally often. Blocks should outlast the
dependence: their default length grows as rows^(1/3) and with the integrated autocorrelation time, where that is known.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from driftwarden.pipelines.diagnostics.metrics import Array, Predictions, row_losses, score_replicates, score_rows

REPLICATES = 400
INTERVAL = (5.0, 95.0)
_TINY = 1e-9
_VALID_SHARE_MIN = 0.5


@dataclass(frozen=True)
class BootstrapResult:
    """A challenger against a champion on the same rows; scores in scikit-learn's sign (more is better).

    `gain`: the difference as a share of the champion's absolute score (of its loss, for `neg_*`), positive where the
    challenger is better; `gain_low`/`gain_high`: its 90 % interval; `win_probability`: the share of replicates in which
    the challenger is better, ties half. All four are None where no score is defined (no rows, one class only).
    """

    rows: int
    block_rows: int
    blocks: int
    replicates: int
    champion: float | None = None
    challenger: float | None = None
    gain: float | None = None
    gain_low: float | None = None
    gain_high: float | None = None
    win_probability: float | None = None


def dependence_length(values: Array) -> float:
    """Integrated autocorrelation time: how many rows tell as much as one independent row would (at least 1).

    Geyer's initial positive sequence (1992): autocorrelations are summed in pairs until a pair is no longer positive.
    """
    finite = np.asarray(values, dtype=float)
    finite = finite[np.isfinite(finite)]
    rows = len(finite)
    centred = finite - finite.mean() if rows else finite
    if rows < 8 or float(np.dot(centred, centred)) <= _TINY * max(1.0, float(np.abs(finite).max())) ** 2:
        return 1.0
    size = 1 << (2 * rows - 1).bit_length()
    spectrum = np.fft.rfft(centred, size)
    correlation = np.fft.irfft(spectrum * np.conj(spectrum), size)[: rows // 2]
    correlation = correlation / correlation[0]
    pairs = correlation[1 : len(correlation) - (len(correlation) - 1) % 2].reshape(-1, 2).sum(axis=1)
    ends = np.flatnonzero(pairs <= 0)
    total = 1 + 2 * float(pairs[: ends[0] if len(ends) else len(pairs)].sum())
    return float(min(max(1.0, total), rows / 4))


def effective_rows(values: Array) -> float:
    """How many independent rows a column in time order is worth (at least 1)."""
    return max(1.0, len(values) / dependence_length(values))


def default_block_rows(rows: int, dependence: float = 1.0) -> int:
    """A block length: 2 rows^(1/3), or twice the dependence where that is longer, at most a fifth of the rows."""
    wanted = max(2 * math.cbrt(rows), 2 * dependence)
    return max(1, min(round(wanted), rows // 5))


def block_indices(rows: int, *, block_rows: int | None = None, replicates: int = REPLICATES, seed: int = 0) -> Array:
    """Row indices of every replicate (replicates x rows), drawn in circular blocks."""
    length: int = max(1, min(rows, block_rows or default_block_rows(rows)))
    generator = np.random.default_rng(seed)
    blocks = -(-rows // length)
    starts = generator.integers(0, rows, size=(replicates, blocks))
    drawn = (starts[:, :, None] + np.arange(length)) % rows
    return np.asarray(drawn.reshape(replicates, -1)[:, :rows])


def block_weights(rows: int, *, block_rows: int | None = None, replicates: int = REPLICATES, seed: int = 0) -> Array:
    """How often each replicate draws each row (replicates x rows, float)."""
    indices = block_indices(rows, block_rows=block_rows, replicates=replicates, seed=seed)
    flat = indices + rows * np.arange(replicates)[:, None]
    return np.bincount(flat.ravel(), minlength=replicates * rows).reshape(replicates, rows).astype(float)


def paired_block_bootstrap(
    score: Callable[[Array], tuple[float, float]],
    rows: int,
    *,
    block_rows: int | None = None,
    replicates: int = REPLICATES,
    seed: int = 0,
) -> BootstrapResult:
    """Compare two scores over the same resampled rows: `score(index)` gives (champion, challenger), more is better.

    Any scoring function will do; `compare_predictions` does the same for two sets of predictions, many times faster.
    """
    if rows < 1:
        return _no_result(rows, 1)
    length = block_rows or default_block_rows(rows)
    point = score(np.arange(rows))
    drawn = np.array(
        [score(index) for index in block_indices(rows, block_rows=length, replicates=replicates, seed=seed)]
    )
    return _summarise(rows, length, point, drawn[:, 0], drawn[:, 1])


def compare_predictions(
    metric: str,
    truth: Array,
    champion: Predictions,
    challenger: Predictions,
    *,
    block_rows: int | None = None,
    replicates: int = REPLICATES,
    seed: int = 0,
) -> BootstrapResult:
    """Compare two models' predictions of the same rows (in time order) under a scikit-learn scorer's name.

    The block length follows the dependence of the rows' difference in loss, where it is not given. Raises ValueError for
    an unknown metric, or one that needs probabilities where there are none.
    """
    rows = len(truth)
    if rows < 1:
        return _no_result(rows, 1)
    if block_rows is None:
        difference = row_losses(metric, truth, champion) - row_losses(metric, truth, challenger)
        block_rows = default_block_rows(rows, dependence_length(difference))
    weights = block_weights(rows, block_rows=block_rows, replicates=replicates, seed=seed)
    point = score_rows(metric, truth, champion), score_rows(metric, truth, challenger)
    first = score_replicates(metric, truth, champion, weights)
    second = score_replicates(metric, truth, challenger, weights)
    return _summarise(rows, block_rows, point, first, second)


def _no_result(rows: int, block_rows: int) -> BootstrapResult:
    return BootstrapResult(rows=rows, block_rows=block_rows, blocks=0, replicates=0)


def _summarise(rows: int, length: int, point: tuple[float, float], first: Array, second: Array) -> BootstrapResult:
    valid = np.isfinite(first) & np.isfinite(second)
    champion, challenger = point
    if not (np.isfinite(champion) and np.isfinite(challenger)) or valid.mean() < _VALID_SHARE_MIN:
        return _no_result(rows, length)
    scale = max(abs(champion), _TINY)
    gains = (second[valid] - first[valid]) / scale
    low, high = np.percentile(gains, INTERVAL)
    return BootstrapResult(
        rows=rows,
        block_rows=length,
        blocks=-(-rows // length),
        replicates=int(valid.sum()),
        champion=float(champion),
        challenger=float(challenger),
        gain=float((challenger - champion) / scale),
        gain_low=float(low),
        gain_high=float(high),
        win_probability=float(np.mean(gains > 0) + 0.5 * np.mean(gains == 0)),
    )
