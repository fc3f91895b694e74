"""The judgement on a comparison after the fact."""

import pytest

from driftwarden.actions.verify import judge
from driftwarden.contracts.effects import Comparison, Verification


def _judge(gain: float | None, win: float | None, rows: int = 500) -> Verification:
    comparison = Comparison(
        metric="accuracy",
        higher_is_better=True,
        rows=rows,
        champion=1,
        challenger=2,
        relative_gain=gain,
        win_probability=win,
    )
    return judge(comparison, rows_min=100, tolerance=0.01, p_harm=0.8)


@pytest.mark.parametrize(
    ("gain", "win", "verdict"),
    [
        (0.05, 0.95, "helped"),
        (0.05, 0.8, "helped"),
        (0.05, 0.79, "no_difference"),
        (-0.05, 0.1, "harmed"),
        (-0.05, 0.25, "no_difference"),
        (-0.005, 0.01, "no_difference"),
        (0.0, 0.99, "no_difference"),
        (None, 0.9, "pending"),
        (-0.5, None, "pending"),
    ],
)
def test_verdicts(gain: float | None, win: float | None, verdict: str) -> None:
    """Harm needs size and certainty, help needs certainty, and a missing figure decides nothing."""
    assert _judge(gain, win).verdict == verdict


def test_too_few_rows_decide_nothing() -> None:
    """However bad it looks, 99 rows of 100 are not enough, and the detail says so."""
    verification = _judge(-0.9, 0.0, rows=99)

    assert verification.verdict == "pending"
    assert verification.detail == "99 labelled rows so far, 100 are needed"
