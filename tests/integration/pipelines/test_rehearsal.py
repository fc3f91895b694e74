"""Rehearsals, comparisons and scores against a real registry."""

import math
from typing import Any

import pandas as pd
import pytest

from driftwarden.contracts.effects import Comparison, TrainingResult
from driftwarden.contracts.findings import Rehearsal
from driftwarden.errors import BadInput
from driftwarden.pipelines.rehearsal import choose_holdout, labelled_rows, shrunk
from driftwarden.pipelines.tasks import compare, rehearse, score

Versions = tuple[TrainingResult, TrainingResult]
pytestmark = pytest.mark.usefixtures("versions")

CANDIDATES = [
    {"id": "c1", "action": "retrain", "params": {"strategy": "all"}},
    {"id": "c2", "action": "retrain", "params": {"strategy": "recent"}},
    {"id": "c3", "action": "retrain", "params": {"strategy": "since_drift", "since": 2_400}},
    {"id": "c4", "action": "rollback", "params": {}},
    {"id": "c5", "action": "quarantine_data", "params": {}},
    {"id": "c6", "action": "retrain", "params": {"strategy": "guess"}},
]


def rehearsed(factory: Any, **parts: Any) -> dict[str, Rehearsal]:
    payload = {"champion_version": 2, "candidates": CANDIDATES, "rows": factory.rows(), "holdout_rows": 300}
    payload |= {"recent_rows": 300, "seed": 1, "replicates": 200}
    answer = rehearse(factory.payload(**(payload | parts)))
    results = [Rehearsal.model_validate(result) for result in answer["rehearsals"]]
    return {result.candidate: result for result in results}


def test_after_a_turn_the_newest_rows_teach_and_old_versions_do_not(factory: Any) -> None:
    """The relation is reversed: a challenger of new rows wins, going back does not help; the rest says why not."""
    results = rehearsed(factory)
    since, back = results["c3"], results["c4"]
    assert since.status == back.status == "rehearsed"
    assert since.champion_score is not None
    assert since.candidate_score is not None
    assert since.champion_score < 0.35
    assert since.candidate_score > 0.75
    assert since.win_probability is not None
    assert since.win_probability > 0.95
    assert since.gain_low is not None
    assert since.gain_low > 0.5
    assert (since.rows, since.train_rows, since.detail) == (300, 450, "")
    assert results["c2"].train_rows == 300
    assert back.detail == "version 1"
    assert back.relative_gain is not None
    assert abs(back.relative_gain) < 0.5
    assert results["c5"].status == "not_rehearsable"
    assert results["c6"].status == "failed"
    assert "strategy" in results["c6"].detail


def test_the_same_seed_rehearses_the_same(factory: Any) -> None:
    """A decision can be made again from the same rows."""
    first, second = (rehearsed(factory, candidates=CANDIDATES[2:4]) for _ in range(2))
    same = {"seconds": 0.0}
    assert [r.model_copy(update=same) for r in first.values()] == [r.model_copy(update=same) for r in second.values()]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"row_start": 2_990}, "too few rows"),
        ({"start": "2030-01-01T00:00:00Z"}, "no labelled rows"),
        ({"target": "fails", "paths": ()}, "no file"),
    ],
)
def test_rows_that_show_nothing_fail_with_the_reason(factory: Any, changes: dict[str, Any], reason: str) -> None:
    """A rehearsal never raises for bad rows, and actions without rehearsal are not touched by them."""
    results = rehearsed(factory, rows=factory.rows(**changes))
    assert {results[name].status for name in ("c1", "c2", "c3", "c4")} == {"failed"}
    assert reason in results["c1"].detail
    assert results["c5"].status == "not_rehearsable"


def test_one_class_among_the_newest_rows_fails_with_the_reason(factory: Any, tmp_path: Any) -> None:
    """The area under the curve of one class is not guessed."""
    frame = pd.read_parquet(factory.history)
    frame.loc[frame.index >= 2_500, "fails"] = 1
    frame.to_parquet(tmp_path / "one.parquet")
    results = rehearsed(factory, rows=factory.rows(paths=(str(tmp_path / "one.parquet"),)))
    assert "one class only" in results["c1"].detail


def test_an_unknown_version_fails_and_a_wrong_payload_is_refused(factory: Any) -> None:
    """Neither is a crash."""
    assert "unknown model version" in rehearsed(factory, champion_version=99)["c1"].detail
    gone = [{"id": "c1", "action": "rollback", "params": {"version": 77}}]
    assert rehearsed(factory, candidates=gone)["c1"].status == "failed"
    with pytest.raises(BadInput, match="task payload `holdout_rows`"):
        rehearse(factory.payload(champion_version=2, candidates=[], rows=factory.rows()))


def test_held_out_rows_are_new_to_the_champion_where_there_are_enough(factory: Any) -> None:
    """Fewer rows are held out rather than rows it was trained on; where that leaves too few, the detail says so."""
    rows = labelled_rows(factory.model, factory.rows())
    window = {"end": "2026-04-10T23:00:00.000000Z"}
    assert choose_holdout(rows, 1_000, window) == (2_400, "")
    assert choose_holdout(rows, 300, window) == (2_700, "")
    cut, note = choose_holdout(rows, 300, {"end": "2026-05-05T20:00:00.000000Z"})
    assert cut == 2_700
    assert "trained on 297 of the 300" in note
    assert (
        choose_holdout(rows, 300, {"row_end": 2_990})[1] == "the champion was trained on 290 of the 300 held-out rows"
    )
    assert choose_holdout(rows, 300, {})[1] == "the champion's training window is not known"


def test_a_version_is_no_better_than_itself(factory: Any) -> None:
    """The comparison of a version with itself is even."""
    rows = factory.rows(last_rows=400)
    result = Comparison.model_validate(compare(factory.payload(champion=1, challenger=1, rows=rows)))
    assert (result.relative_gain, result.win_probability) == (0.0, 0.5)
    assert result.rows == 400


def test_a_comparison_without_labels_says_so(factory: Any) -> None:
    """No rows: no figures, and why."""
    rows = factory.rows(start="2030-01-01T00:00:00Z")
    result = Comparison.model_validate(compare(factory.payload(champion=1, challenger=2, rows=rows)))
    assert (result.win_probability, result.detail) == (None, "no labelled rows")


def test_scores_follow_the_windows(factory: Any) -> None:
    """The champion is good before the turn and bad after it; an empty window has no value."""
    windows = [factory.rows(row_end=2_400), factory.rows(row_start=2_400), factory.rows(row_start=5_000)]
    before, after, none = score(factory.payload(version=2, windows=windows))["scores"]
    assert before["value"] > 0.8 > 0.35 > after["value"]
    assert (before["rows"], after["rows"]) == (2_400, 600)
    assert (none["value"], none["detail"]) == (None, "no labelled rows")


def test_few_blocks_never_make_a_sure_thing() -> None:
    """All replicates won: still one block's worth of doubt."""
    assert shrunk(1.0, 3) == 0.875
    assert math.isclose(shrunk(1.0, 49), 0.99)
    assert shrunk(0.5, 7) == 0.5
