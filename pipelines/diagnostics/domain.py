"""Can a classifier tell the window from the reference: how far the inputs moved, all columns together."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.ensemble import HistGradientBoostingClassifier
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from driftwarden.contracts.measurements import DomainMeasure
from driftwarden.pipelines.diagnostics.bootstrap import block_weights
from driftwarden.pipelines.diagnostics.case import Array, DiagnosticInput, words
from driftwarden.pipelines.diagnostics.metrics import Predictions, score_replicates, score_rows
from driftwarden.pipelines.diagnostics.shift import measure_shift, strength

REFERENCE_ROWS_MAX = 2500
CURRENT_ROWS_MAX = 1500
FOLDS = 3
ROWS_MIN = 60
REPLICATES = 200
_CODES_MAX = 60


@dataclass(frozen=True)
class Propensities:
    """Out of fold, each row's probability of being the window's, both tables given the same weight; and the row numbers
    that were used."""

    reference: Array
    current: Array
    reference_rows: Array
    current_rows: Array


def propensities(case: DiagnosticInput) -> Propensities | None:
    """Gradient-boosted trees, cross-validated in blocks of rows that follow each other; None where rows are too few.

    Blocks, because a row's neighbours in time would give it away: shuffled folds find "drift" in any slow series.
    """
    return case.keep("propensities", lambda: _propensities(case))


def _propensities(case: DiagnosticInput) -> Propensities | None:
    names = case.shared
    if not names or min(len(case.reference), len(case.current)) < ROWS_MIN:
        return None
    first = _spread_rows(len(case.reference), REFERENCE_ROWS_MAX)
    second = _spread_rows(len(case.current), CURRENT_ROWS_MAX)
    table = np.column_stack([_codes(case, name, first, second) for name in names])
    window = np.r_[np.zeros(len(first), dtype=int), np.ones(len(second), dtype=int)]
    fold = np.r_[_blocks(len(first)), _blocks(len(second))]
    weight = np.where(window == 1, 0.5 / len(second), 0.5 / len(first)) * len(window)
    chance = np.full(len(window), 0.5)
    categorical = [case.type_of(name) == "categorical" for name in names]
    for held in range(FOLDS):
        fit = fold != held
        model = HistGradientBoostingClassifier(
            max_iter=30,
            max_depth=4,
            learning_rate=0.15,
            min_samples_leaf=30,
            l2_regularization=1.0,
            max_bins=64,
            early_stopping=False,
            categorical_features=categorical,
            random_state=case.seed,
        )
        # Threads that wait for each other on a busy machine cost far more than these small fits.
        with threadpool_limits(limits=1, user_api="openmp"):
            model.fit(table[fit], window[fit], sample_weight=weight[fit])
            chance[~fit] = model.predict_proba(table[~fit])[:, 1]
    return Propensities(chance[: len(first)], chance[len(first) :], first, second)


def _spread_rows(rows: int, limit: int) -> Array:
    return np.arange(rows) if rows <= limit else np.linspace(0, rows - 1, limit).astype(int)


def _blocks(rows: int) -> Array:
    """Fold numbers: twelve stretches, dealt out in turn."""
    return np.asarray((np.arange(rows) * 4 * FOLDS // max(1, rows)) % FOLDS)


def _codes(case: DiagnosticInput, name: str, first: Array, second: Array) -> Array:
    if case.type_of(name) == "numeric":
        return np.concatenate([case.values("reference", name)[first], case.values("current", name)[second]])
    known = np.r_[words(case.reference[name])[first], words(case.current[name])[second]]
    values, codes, counts = np.unique(known.astype(str), return_inverse=True, return_counts=True)
    if len(values) > _CODES_MAX:
        rank = np.empty(len(values), dtype=int)
        rank[np.argsort(-counts, kind="stable")] = np.arange(len(values))
        codes = np.minimum(rank[codes], _CODES_MAX - 1)
    return np.asarray(codes, dtype=float)


def measure_domain(case: DiagnosticInput) -> DomainMeasure:
    """AUC of the out-of-fold propensities with a 90 % block-bootstrap interval, and the columns that moved most."""
    found = propensities(case)
    if found is None:
        return DomainMeasure(**case.facts, unavailable=f"needs {ROWS_MIN} rows and a feature in both tables")
    truth = np.r_[np.zeros(len(found.reference), dtype=int), np.ones(len(found.current), dtype=int)]
    chance = np.r_[found.reference, found.current]
    said = Predictions(chance, chance)
    weights = np.hstack(
        [
            block_weights(len(found.reference), replicates=REPLICATES, seed=case.seed + 11),
            block_weights(len(found.current), replicates=REPLICATES, seed=case.seed + 12),
        ]
    )
    drawn = score_replicates("roc_auc", truth, said, weights)
    columns: list[dict[str, Any]] = [
        {"name": column.name, "separation": round(strength(column), 6)}
        for column in sorted(measure_shift(case).columns, key=lambda column: (-strength(column), column.name))
    ]
    return DomainMeasure(
        **case.facts,
        auc=score_rows("roc_auc", truth, said),
        auc_low=float(np.percentile(drawn, 5)),
        auc_high=float(np.percentile(drawn, 95)),
        columns=tuple(columns[:10]),
    )
