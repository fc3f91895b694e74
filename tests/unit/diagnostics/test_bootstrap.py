"""The block bootstrap and the metrics it resamples."""

import numpy as np
import pytest
from sklearn import metrics as sk

from driftwarden.pipelines.diagnostics.bootstrap import (
    block_indices,
    block_weights,
    compare_predictions,
    default_block_rows,
    dependence_length,
    effective_rows,
    paired_block_bootstrap,
)
from driftwarden.pipelines.diagnostics.metrics import (
    Predictions,
    row_losses,
    score_replicates,
    score_rows,
    scorer_name,
)


def binary(rows: int = 400, seed: int = 0) -> tuple[np.ndarray, Predictions]:
    """Labels and a model that knows something of them, with ties among its scores."""
    rng = np.random.default_rng(seed)
    truth = (rng.random(rows) < 0.3).astype(int)
    score = np.round(np.clip(0.3 * truth + 0.7 * rng.random(rows), 0.01, 0.99), 2)
    return truth, Predictions((score > 0.5).astype(int), score)


CLASSIFICATION = {
    "accuracy": lambda y, p: sk.accuracy_score(y, p.label),
    "balanced_accuracy": lambda y, p: sk.balanced_accuracy_score(y, p.label),
    "f1": lambda y, p: sk.f1_score(y, p.label),
    "precision": lambda y, p: sk.precision_score(y, p.label),
    "recall": lambda y, p: sk.recall_score(y, p.label),
    "roc_auc": lambda y, p: sk.roc_auc_score(y, p.score),
    "neg_log_loss": lambda y, p: -sk.log_loss(y, p.score),
    "neg_brier_score": lambda y, p: -sk.brier_score_loss(y, p.score),
    "average_precision": lambda y, p: sk.average_precision_score(y, p.score),
    "f1_macro": lambda y, p: sk.f1_score(y, p.label, average="macro"),
    "matthews_corrcoef": lambda y, p: sk.matthews_corrcoef(y, p.label),
}
REGRESSION = {
    "r2": sk.r2_score,
    "neg_mean_absolute_error": lambda y, p: -sk.mean_absolute_error(y, p),
    "neg_mean_squared_error": lambda y, p: -sk.mean_squared_error(y, p),
    "rmse": lambda y, p: -sk.root_mean_squared_error(y, p),
    "neg_mean_absolute_percentage_error": lambda y, p: -sk.mean_absolute_percentage_error(y, p),
    "neg_median_absolute_error": lambda y, p: -sk.median_absolute_error(y, p),
}


@pytest.mark.parametrize("metric", CLASSIFICATION)
def test_classification_scores_are_scikit_learns(metric: str) -> None:
    """Every replicate's score is what scikit-learn gives for the rows that were drawn."""
    truth, said = binary()
    indices = block_indices(len(truth), replicates=5, seed=3)
    weights = block_weights(len(truth), replicates=5, seed=3)
    expected = [CLASSIFICATION[metric](truth[index], said.take(index)) for index in indices]
    assert score_replicates(metric, truth, said, weights) == pytest.approx(expected)
    assert score_rows(metric, truth, said) == pytest.approx(CLASSIFICATION[metric](truth, said))


@pytest.mark.parametrize("metric", REGRESSION)
def test_regression_scores_are_scikit_learns(metric: str) -> None:
    """The same for numbers."""
    rng = np.random.default_rng(1)
    truth = 1000 + rng.normal(size=300)
    said = truth + rng.normal(size=300)
    indices = block_indices(300, replicates=4, seed=9)
    weights = block_weights(300, replicates=4, seed=9)
    expected = [REGRESSION[metric](truth[index], said[index]) for index in indices]
    assert score_replicates(metric, truth, Predictions(said), weights) == pytest.approx(expected)


def test_labels_that_are_words_score_too() -> None:
    """String classes have the greatest as the positive one."""
    truth = np.array(["no", "yes", "no", "yes", "yes"], dtype=object)
    said = Predictions(np.array(["no", "yes", "yes", "yes", "no"], dtype=object), np.array([0.1, 0.9, 0.6, 0.8, 0.4]))
    assert score_rows("accuracy", truth, said) == pytest.approx(0.6)
    assert score_rows("f1", truth, said) == pytest.approx(2 / 3)
    assert score_rows("roc_auc", truth, said) == pytest.approx(5 / 6)


def test_what_cannot_be_scored_says_so() -> None:
    """An unknown metric and missing probabilities are errors; one class is no score."""
    truth, said = binary()
    with pytest.raises(ValueError, match="not a scikit-learn scorer"):
        scorer_name("wisdom")
    with pytest.raises(ValueError, match="probability"):
        score_rows("roc_auc", truth, Predictions(said.label))
    assert np.isnan(score_rows("roc_auc", np.zeros(50, dtype=int), said.take(np.arange(50))))
    assert compare_predictions("accuracy", truth[:0], said.take(np.arange(0)), said.take(np.arange(0))).gain is None


def test_a_better_challenger_wins_and_equal_ones_tie() -> None:
    """The win probability says which is better; the same predictions give exactly one half and no gain."""
    truth, champion = binary(seed=4)
    knows = np.clip(np.asarray(champion.score) + 0.3 * (truth - 0.5), 0, 1)
    better = compare_predictions("roc_auc", truth, champion, Predictions(champion.label, knows), seed=1)
    assert better.win_probability is not None
    assert better.gain_low is not None
    assert better.win_probability > 0.99
    assert better.gain_low > 0
    same = compare_predictions("roc_auc", truth, champion, champion, seed=1)
    assert (same.win_probability, same.gain, same.gain_low, same.gain_high) == (0.5, 0.0, 0.0, 0.0)


def test_gain_is_a_share_of_the_loss() -> None:
    """Half the absolute error is a gain of one half."""
    truth = np.linspace(0.0, 1.0, 200)
    result = compare_predictions("mae", truth, Predictions(truth + 2), Predictions(truth + 1))
    assert result.gain == pytest.approx(0.5)
    assert result.win_probability == 1.0


def test_the_general_form_agrees_with_the_fast_one() -> None:
    """Any callable gives what the vectorised comparison gives, replicate for replicate."""
    truth, champion = binary(seed=5)
    _, challenger = binary(seed=6)

    def score(index: np.ndarray) -> tuple[float, float]:
        return (
            sk.accuracy_score(truth[index], champion.label[index]),
            sk.accuracy_score(truth[index], challenger.label[index]),
        )

    slow = paired_block_bootstrap(score, len(truth), block_rows=20, replicates=50, seed=2)
    fast = compare_predictions("accuracy", truth, champion, challenger, block_rows=20, replicates=50, seed=2)
    assert slow.gain == pytest.approx(fast.gain)
    assert slow.win_probability == fast.win_probability
    assert slow.gain_low == pytest.approx(fast.gain_low)


def test_one_class_is_no_comparison() -> None:
    """Where the score is not defined the result says nothing instead of something."""
    _, said = binary()
    result = compare_predictions("roc_auc", np.zeros(400, dtype=int), said, said)
    assert (result.win_probability, result.gain, result.champion) == (None, None, None)


def test_dependence_is_measured() -> None:
    """White noise is worth its rows; an autoregression of 0.9 about a nineteenth of them."""
    rng = np.random.default_rng(0)
    noise = rng.normal(size=5000)
    walk = np.zeros(5000)
    for row in range(1, 5000):
        walk[row] = 0.9 * walk[row - 1] + noise[row]
    assert dependence_length(noise) < 1.6
    assert 12 < dependence_length(walk) < 28
    assert effective_rows(walk) < 500
    assert dependence_length(np.ones(100)) == 1.0
    assert dependence_length(np.array([np.nan, 1.0])) == 1.0


def test_blocks_stay_together_and_every_row_is_drawn_alike() -> None:
    """Indices run on within a block; over many replicates no row is favoured."""
    indices = block_indices(100, block_rows=10, replicates=2000, seed=0)
    inside = np.diff(indices.reshape(2000, 10, 10), axis=2) % 100
    assert (inside == 1).all()
    counts = np.bincount(indices.ravel(), minlength=100) / 2000
    assert np.abs(counts - 1).max() < 0.15
    assert default_block_rows(3) == 1
    assert block_weights(7, replicates=3).sum(axis=1).tolist() == [7, 7, 7]


def test_row_losses_follow_the_metric() -> None:
    """Squared error for r2, absolute for mae, wrong labels for accuracy, squared probability error for AUC."""
    truth, said = binary(10)
    assert set(row_losses("accuracy", truth, said).tolist()) <= {0.0, 1.0}
    assert row_losses("roc_auc", truth, said).max() <= 1
    assert row_losses("r2", np.array([3.0]), Predictions(np.array([1.0]))).tolist() == [4.0]
    assert row_losses("mae", np.array([3.0]), Predictions(np.array([1.0]))).tolist() == [2.0]
