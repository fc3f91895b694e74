"""Did it help? A pure judgement on a comparison of the version an action left with the one it replaced."""

from driftwarden.contracts.effects import Comparison, Verification


def judge(comparison: Comparison, *, rows_min: int, tolerance: float, p_harm: float) -> Verification:
    """Judge `challenger` (what the action left) against `champion` (what it replaced) on labelled rows that came after.

    `harmed`: worse by more than `tolerance` (relative), with probability `p_harm` or more; `helped`: better with that
    probability; between them `no_difference`. Fewer than `rows_min` rows, or a figure that is missing: `pending`.
    """
    if comparison.rows < rows_min:
        detail = f"{comparison.rows} labelled rows so far, {rows_min} are needed"
        return Verification(verdict="pending", rows=comparison.rows, comparison=comparison, detail=detail)
    gain, win = comparison.relative_gain, comparison.win_probability
    if gain is None or win is None:
        detail = comparison.detail or "the versions could not be compared"
        return Verification(verdict="pending", rows=comparison.rows, comparison=comparison, detail=detail)
    detail = f"relative gain {gain:+.4f} on {comparison.rows} rows, better with probability {win:.3f}"
    if gain < -tolerance and 1.0 - win >= p_harm:
        return Verification(verdict="harmed", rows=comparison.rows, comparison=comparison, detail=detail)
    if gain > 0 and win >= p_harm:
        return Verification(verdict="helped", rows=comparison.rows, comparison=comparison, detail=detail)
    return Verification(verdict="no_difference", rows=comparison.rows, comparison=comparison, detail=detail)
