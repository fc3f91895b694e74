"""Does it hurt: the champion's metric on the window against the reference, with an interval, or an estimate of it."""

from typing import Any

import numpy as np
from sklearn.isotonic import IsotonicRegression

from driftwarden.contracts.measurements import PerformanceMeasure
from driftwarden.pipelines.diagnostics.bootstrap import block_weights, default_block_rows, dependence_length
from driftwarden.pipelines.diagnostics.case import Array, DiagnosticInput, numbers
from driftwarden.pipelines.diagnostics.metrics import Predictions, row_losses, score_replicates, score_rows, scorer_name

ROWS_MIN = 20
REPLICATES = 300
ESTIMATE_DRAWS = 60
_TINY = 1e-9


def judged(case: DiagnosticInput, table: str) -> tuple[Array, Predictions, Array] | None:
    """Truth, predictions and row numbers of a table's rows that have both; None where there are none."""
    said, score = getattr(case, f"{table}_prediction"), getattr(case, f"{table}_score")
    rows = getattr(case, table)
    if said is None or case.target is None or case.target not in rows.columns:
        return None
    if case.task == "regression":
        truth = numbers(rows[case.target])
        predicted = np.asarray(said, dtype=float)
        known = np.isfinite(truth) & np.isfinite(predicted)
        score = None
    else:
        truth, predicted = _classes(rows[case.target], said)
        known = rows[case.target].notna().to_numpy()
        if score is not None:
            score = np.asarray(score, dtype=float)
            known &= np.isfinite(score)
    index = np.flatnonzero(known)
    if len(index) == 0:
        return None
    return truth[index], Predictions(predicted, score).take(index), index


def _classes(target: Any, said: Array) -> tuple[Array, Array]:
    """Labels and predictions of one kind: numbers where both are, words otherwise (1 and 1.0 and True are one class)."""
    truth, predicted = numbers(target), numbers(type(target)(said))
    if np.isfinite(truth[target.notna().to_numpy()]).all() and np.isfinite(predicted).all():
        return np.nan_to_num(truth), predicted
    return target.map(str).to_numpy(dtype=object), np.array([str(value) for value in said], dtype=object)


def measure_performance(case: DiagnosticInput) -> PerformanceMeasure:
    """Measured where the window has labels, else as reported, else estimated from the champion's own probabilities.

    Scores follow scikit-learn's sign (losses negative). Intervals: 90 %, moving blocks, reference and window resampled each.
    """
    try:
        scorer_name(case.metric)
    except ValueError as error:
        return PerformanceMeasure(**case.facts, metric=case.metric, unavailable=str(error))
    common = {**case.facts, "metric": case.metric, "higher_is_better": True}
    reference, current = judged(case, "reference"), judged(case, "current")
    try:
        if reference is not None and current is not None and len(current[0]) >= ROWS_MIN:
            measured = _measured(case, reference, current, common)
            if measured is not None:
                return measured
        if (reported := _reported(case)) is not None:
            return reported
        if reference is not None and case.task == "classification" and len(case.current) >= ROWS_MIN:
            estimated = _estimated(case, reference, common)
            if estimated is not None:
                return estimated
    except ValueError as error:
        return PerformanceMeasure(**common, unavailable=str(error))
    return PerformanceMeasure(**common, unavailable=_why(case, reference, current))


def _why(case: DiagnosticInput, reference: Any, current: Any) -> str:
    if case.current_prediction is None or case.reference_prediction is None:
        return "the champion's predictions are not known"
    if reference is None:
        return "the reference has no labelled rows"
    if current is None or len(current[0]) < ROWS_MIN:
        return f"too few labelled rows in the window: {0 if current is None else len(current[0])}"
    return f"`{case.metric}` is not defined on these rows (one class only?)"


def _draws(case: DiagnosticInput, truth: Array, said: Predictions, salt: int) -> Array:
    length = default_block_rows(len(truth), dependence_length(row_losses(case.metric, truth, said)))
    weights = block_weights(len(truth), block_rows=length, replicates=REPLICATES, seed=case.seed * 1009 + salt)
    return score_replicates(case.metric, truth, said, weights)


def _measured(
    case: DiagnosticInput,
    reference: tuple[Array, Predictions, Array],
    current: tuple[Array, Predictions, Array],
    common: dict[str, Any],
) -> PerformanceMeasure | None:
    before, now = score_rows(case.metric, *reference[:2]), score_rows(case.metric, *current[:2])
    first, second = _draws(case, *reference[:2], salt=1), _draws(case, *current[:2], salt=2)
    valid = np.isfinite(first) & np.isfinite(second)
    if not (np.isfinite(before) and np.isfinite(now)) or valid.mean() < 0.5:
        return None
    return _result(before, now, first[valid], second[valid], common, basis="measured", labelled_rows=len(current[0]))


def _result(
    before: float, now: float, first: Array, second: Array, common: dict[str, Any], **more: Any
) -> PerformanceMeasure:
    scale = max(abs(before), _TINY)
    losses = np.clip((first - second) / scale, 0, 1)
    return PerformanceMeasure(
        **common,
        reference=before,
        current=now,
        current_low=float(np.percentile(second, 5)),
        current_high=float(np.percentile(second, 95)),
        relative_loss=float(np.clip((before - now) / scale, 0, 1)),
        relative_loss_low=float(np.percentile(losses, 5)),
        relative_loss_high=float(np.percentile(losses, 95)),
        p_worse=float(np.mean(second < first)),
        **more,
    )


def _reported(case: DiagnosticInput) -> PerformanceMeasure | None:
    """What the event says of the metric, taken as it is, on the event's own sign."""
    said = case.reported_performance or {}
    before, now = said.get("reference"), said.get("current")
    if not isinstance(before, int | float) or not isinstance(now, int | float) or not np.isfinite([before, now]).all():
        return None
    higher = said.get("higher_is_better")
    higher = case.higher_is_better if not isinstance(higher, bool) else higher
    worse = (before - now) * (1 if higher else -1)
    rows = said.get("labelled_rows")
    return PerformanceMeasure(
        **case.facts,
        metric=str(said.get("metric") or case.metric),
        higher_is_better=higher,
        basis="reported",
        reference=float(before),
        current=float(now),
        relative_loss=float(np.clip(worse / max(abs(before), _TINY), 0, 1)),
        labelled_rows=rows if isinstance(rows, int) and rows >= 0 else 0,
    )


def _estimated(
    case: DiagnosticInput, reference: tuple[Array, Predictions, Array], common: dict[str, Any]
) -> PerformanceMeasure | None:
    """Without labels: labels are drawn from the champion's calibrated probabilities and the metric scored on them.

    It sees the harm that moved inputs do, and none that a changed relation does (as every estimate without labels).
    """
    truth, said, _ = reference
    score, label = case.current_score, case.current_prediction
    if said.score is None or score is None or label is None or not np.isfinite(truth.astype(float)).all():
        return None
    score = np.nan_to_num(np.asarray(score, dtype=float), nan=0.5)
    positive = max(1.0, float(truth.max()))
    calibration = IsotonicRegression(y_min=0.001, y_max=0.999, out_of_bounds="clip").fit(said.score, truth == positive)
    chance = calibration.predict(score)
    window = Predictions(np.asarray(numbers(type(case.current.index.to_series())(label))), score)
    generator = np.random.default_rng(case.seed + 3)
    drawn = []
    for weights in block_weights(len(score), replicates=ESTIMATE_DRAWS, seed=case.seed + 4):
        labels = np.where(generator.random(len(score)) < chance, positive, 0.0)
        drawn.append(score_replicates(case.metric, labels, window, weights[None, :])[0])
    second = np.array(drawn)
    first = _draws(case, truth, said, salt=1)[: len(second)]
    valid = np.isfinite(first) & np.isfinite(second)
    before = score_rows(case.metric, truth, said)
    if valid.mean() < 0.5 or not np.isfinite(before):
        return None
    return _result(before, float(np.mean(second[valid])), first[valid], second[valid], common, basis="estimated")
