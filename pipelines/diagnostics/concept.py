"""Did the relation of features and target change, or did only the inputs move to where the champion is weak?

Both tables are weighted to the same inputs with overlap weights (Li, Morgan and Zaslavsky, 2018: a reference row by its
propensity p of being the window's, a window's row by 1 - p), which look where both tables have rows and never explode. A
champion that is worse there is worse on the same inputs: the relation changed.
"""

from dataclasses import dataclass

import numpy as np
from scipy import stats

from driftwarden.contracts.measurements import ConceptMeasure
from driftwarden.pipelines.diagnostics.bootstrap import block_weights, default_block_rows, dependence_length
from driftwarden.pipelines.diagnostics.case import Array, DiagnosticInput, words
from driftwarden.pipelines.diagnostics.domain import propensities
from driftwarden.pipelines.diagnostics.metrics import Predictions, row_losses, score_replicates, score_rows
from driftwarden.pipelines.diagnostics.performance import judged

ALPHA = 0.01
LOSS_FLOOR = 0.02
EFFECTIVE_ROWS_MIN = 60
OVERLAP_MIN = 0.2
GAPS_KNOWN_MIN = 0.01
REPLICATES = 300
RATIO_MAX = 20.0
_TINY = 1e-9


@dataclass(frozen=True)
class _Side:
    """One table's judged rows with their propensities."""

    truth: Array
    said: Predictions
    chance: Array
    rows: Array

    def score(self, metric: str, weights: Array) -> Array:
        return score_replicates(metric, self.truth, self.said, np.atleast_2d(weights))

    def dependence(self, metric: str) -> float:
        return dependence_length(row_losses(metric, self.truth, self.said))

    def draws(self, dependence: float, seed: int) -> Array:
        length = default_block_rows(len(self.truth), dependence)
        return block_weights(len(self.truth), block_rows=length, replicates=REPLICATES, seed=seed)


def measure_concept(case: DiagnosticInput) -> ConceptMeasure:
    """Expected loss (reference weighted to the window's inputs), measured loss, and the loss on inputs both tables share.

    `p_value`: one-sided, normal, from the block-bootstrap deviation of the difference on shared inputs; `changed` where it is
    below 0.01 and the loss there at least 0.02. `onset_row`: the window's row at which the champion's mean loss changes
    most, 0 where it was so throughout. `trend`: `abrupt`, `gradual` or `throughout`.
    """
    try:
        reference, current = judged(case, "reference"), judged(case, "current")
    except ValueError as error:
        return ConceptMeasure(**case.facts, unavailable=str(error))
    if reference is None or current is None:
        return ConceptMeasure(
            **case.facts, unavailable="labels and the champion's predictions are needed in both tables"
        )
    found = propensities(case)
    if found is None:
        return ConceptMeasure(**case.facts, unavailable="too few rows, or no feature in both tables")
    try:
        first = _side(reference, found.reference, found.reference_rows)
        chance = np.where(known_inputs(case)[found.current_rows], found.current, 1.0)
        second = _side(current, chance, found.current_rows)
        if min(len(first.truth), len(second.truth)) < EFFECTIVE_ROWS_MIN:
            return ConceptMeasure(**case.facts, unavailable=f"too few labelled rows: {len(second.truth)}")
        return _measured(case, first, second)
    except ValueError as error:
        return ConceptMeasure(**case.facts, unavailable=str(error))


def known_inputs(case: DiagnosticInput) -> Array:
    """The window's rows whose inputs the reference can know: no category it never held, no gap where it has none."""
    known = np.ones(len(case.current), dtype=bool)
    for name in case.shared:
        if case.type_of(name) == "categorical":
            known &= np.isin(words(case.current[name]).astype(str), words(case.reference[name]).astype(str))
        elif np.isfinite(case.values("reference", name)).mean() > 1 - GAPS_KNOWN_MIN:
            known &= np.isfinite(case.values("current", name))
    return known


def _side(judged_rows: tuple[Array, Predictions, Array], chance: Array, used: Array) -> _Side:
    truth, said, index = judged_rows
    known, left, right = np.intersect1d(index, used, assume_unique=True, return_indices=True)
    return _Side(truth[left], said.take(left), chance[right], known)


def _measured(case: DiagnosticInput, first: _Side, second: _Side) -> ConceptMeasure:
    metric = case.metric
    before = score_rows(metric, first.truth, first.said)
    now = score_rows(metric, second.truth, second.said)
    if not (np.isfinite(before) and np.isfinite(now)):
        return ConceptMeasure(**case.facts, unavailable=f"`{metric}` is not defined on these rows")
    scale = max(abs(before), _TINY)
    ratio = np.minimum(first.chance / np.maximum(1 - first.chance, _TINY), RATIO_MAX)
    expected = float(first.score(metric, ratio)[0])
    shared = first.chance, 1 - second.chance
    result = ConceptMeasure(
        **case.facts,
        loss_expected=(before - expected) / scale
        if _effective(ratio) >= EFFECTIVE_ROWS_MIN and np.isfinite(expected)
        else None,
        loss_measured=(before - now) / scale,
    )
    if min(_effective(weights) for weights in shared) < EFFECTIVE_ROWS_MIN or _overlap(*shared) < OVERLAP_MIN:
        return result
    loss, p_value = _shared_loss(case, first, second, shared, scale)
    if loss is None or p_value is None:
        return result
    changed = p_value < ALPHA and loss >= LOSS_FLOOR
    onset, trend = change_in_window(row_losses(metric, second.truth, second.said)) if changed else (None, "")
    return result.model_copy(
        update={
            "loss_in_domain": loss,
            "p_value": p_value,
            "changed": changed,
            "onset_row": None if onset is None else int(second.rows[onset]),
            "trend": trend,
        }
    )


def _overlap(reference: Array, current: Array) -> float:
    """How much of both tables lies where the other has rows: 1 for the same inputs, 0 for disjoint ones."""
    return float(min(np.minimum(1, 2 * reference).mean(), np.minimum(1, 2 * current).mean()))


def _effective(weights: Array) -> float:
    """Kish's effective number of rows."""
    total = float(np.square(weights).sum())
    return float(weights.sum()) ** 2 / total if total > 0 else 0.0


def _shared_loss(
    case: DiagnosticInput, first: _Side, second: _Side, shared: tuple[Array, Array], scale: float
) -> tuple[float | None, float | None]:
    metric = case.metric
    point = float(first.score(metric, shared[0])[0] - second.score(metric, shared[1])[0])
    usual = first.dependence(metric)  # the window's own would take a change inside it for dependence
    before = first.score(metric, first.draws(usual, case.seed + 21) * shared[0])
    drawn = before - second.score(metric, second.draws(usual, case.seed + 22) * shared[1])
    drawn = drawn[np.isfinite(drawn)]
    if not np.isfinite(point) or len(drawn) < REPLICATES / 2:
        return None, None
    deviation = float(drawn.std())
    if deviation <= _TINY:
        return point / scale, 0.5
    return point / scale, float(stats.norm.sf(point / deviation))


def change_in_window(losses: Array) -> tuple[int, str]:
    """The row where the mean loss changes most, and how: `abrupt`, `gradual`, or `throughout` (no change inside).

    A step and a ramp are fitted by least squares; a step counts where its F-like statistic, corrected for dependence,
    exceeds 10 (the maximum over all split points of independent rows rarely does).
    """
    rows = len(losses)
    margin = max(10, rows // 20)
    if rows < 4 * margin:
        return 0, "throughout"
    total, centred = losses.sum(), losses - losses.mean()
    split = np.arange(margin, rows - margin)
    sums = np.cumsum(losses)[split - 1]
    means = sums / split, (total - sums) / (rows - split)
    gained = split * (rows - split) / rows * np.square(means[1] - means[0])
    best = int(np.argmax(gained))
    noise = (float(np.square(centred).sum()) - float(gained[best])) / rows
    jump = float(means[1][best] - means[0][best])
    after = losses.copy()
    after[: split[best]] -= means[0][best]
    after[split[best] :] -= means[1][best]
    if jump <= 0 or gained[best] / max(noise, _TINY) / dependence_length(after) < 10:
        return 0, "throughout"
    place = np.linspace(-1, 1, rows)
    ramp = float(np.dot(centred, place)) ** 2 / float(np.square(place).sum())
    if ramp >= gained[best]:
        return int(split[best]), "gradual"
    return int(split[best]), "abrupt"
