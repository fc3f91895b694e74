"""Rehearsals: each candidate is fitted and compared with the champion on newest labelled rows it has not seen.

Rolling origins: the held-out rows are cut into consecutive parts; a recipe is fitted on all rows before a part and
scores that part, so that the later parts show what it makes of fresh rows. Scores are paired by row and compared by a
moving-block bootstrap (`diagnostics.bootstrap`). The win probability is the share of replicates in which the candidate
is better, shrunk towards one half by one block's worth of doubt: (k p + 1/2) / (k + 1) for k blocks. Blocks outlast the
dependence of the rows, so few blocks (few or dependent rows) never make a sure thing.
"""

import itertools
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from driftwarden.contracts.base import ActionName
from driftwarden.contracts.data import RowSelection
from driftwarden.contracts.effects import Comparison
from driftwarden.contracts.findings import Candidate, Rehearsal
from driftwarden.contracts.watch import WatchedModel
from driftwarden.errors import BadInput, Error, GiveUp
from driftwarden.pipelines import estimator, registry
from driftwarden.pipelines.diagnostics.bootstrap import BootstrapResult, compare_predictions
from driftwarden.pipelines.diagnostics.metrics import Predictions, scorer_name
from driftwarden.pipelines.recipes import Recipe
from driftwarden.pipelines.scoring import predictions_of
from driftwarden.tables import read_rows_at, time_key

Array = NDArray[Any]

ROWS_MIN = 20  # fewer held-out or training rows show nothing
ORIGINS = 2


@dataclass(frozen=True)
class LabelledRows:
    """Rows in time order (n), targets (n), positions in the ordered table (n), times (n, or None)."""

    frame: pd.DataFrame
    target: Array
    positions: NDArray[np.int64]
    times: "pd.Series[Any] | None"


@dataclass(frozen=True)
class Trial:
    """What all candidates of one rehearsal share: the rows, where the held-out ones begin, the champion's predictions."""

    model: WatchedModel
    tracking_uri: str
    champion_version: int
    rows: LabelledRows
    cut: int
    champion: Predictions
    note: str
    recent_rows: int | None
    seed: int
    replicates: int
    origins: int

    @property
    def target(self) -> Array:
        """Targets of the held-out rows."""
        held: Array = self.rows.target[self.cut :]
        return held


def labelled_rows(model: WatchedModel, selection: RowSelection) -> LabelledRows:
    """Read the labelled rows of a selection for this model; raises GiveUp where there are none."""
    frame, positions = read_rows_at(
        selection.narrowed(target=model.target, time_column=model.time_column, labelled_only=True)
    )
    if not len(frame):
        raise GiveUp("no labelled rows")
    target = estimator.truth(frame[model.target], model.task)
    if model.task == "regression":
        finite = np.isfinite(target)
        frame, target, positions = frame[finite].reset_index(drop=True), target[finite], positions[finite]
    times = time_key(frame, model.time_column) if model.time_column is not None else None
    return LabelledRows(frame, target, positions, times)


def rehearse(
    model: WatchedModel,
    tracking_uri: str,
    champion_version: int,
    candidates: list[Candidate],
    selection: RowSelection,
    *,
    holdout_rows: int,
    recent_rows: int | None = None,
    seed: int = 0,
    replicates: int = 400,
    origins: int = ORIGINS,
) -> list[Rehearsal]:
    """Rehearse every candidate; what cannot be rehearsed, or fails, says so in its own Rehearsal, and never raises."""
    results: list[Rehearsal] = []
    trial: Trial | None = None
    reason = ""
    if any(candidate.action in {ActionName.RETRAIN, ActionName.ROLLBACK} for candidate in candidates):
        try:
            trial = _trial(
                model, tracking_uri, champion_version, selection, holdout_rows, recent_rows, seed, replicates, origins
            )
        except Error as error:
            reason = error.diagnostics()
    for candidate in candidates:
        started = time.perf_counter()
        result = _rehearsed(candidate, trial, reason, champion_version)
        results.append(result.model_copy(update={"seconds": round(time.perf_counter() - started, 3)}))
    return results


def _trial(
    model: WatchedModel,
    tracking_uri: str,
    champion_version: int,
    selection: RowSelection,
    holdout_rows: int,
    recent_rows: int | None,
    seed: int,
    replicates: int,
    origins: int,
) -> Trial:
    rows = labelled_rows(model, selection)
    window = registry.window_of(registry.version_of(tracking_uri, model.registered_model, champion_version))
    cut, note = choose_holdout(rows, holdout_rows, window)
    if len(rows.target) - cut < ROWS_MIN:
        raise GiveUp(f"too few rows: {len(rows.target) - cut} held out, at least {ROWS_MIN} are needed")
    if model.task == "classification" and len(np.unique(rows.target[cut:])) < 2:
        raise GiveUp(f"the {len(rows.target) - cut} held-out rows hold one class only, {rows.target[cut]}")
    champion = registry.load_model(tracking_uri, model.registered_model, champion_version)
    predictions = predictions_of(champion, rows.frame.iloc[cut:], model.task)
    return Trial(
        model, tracking_uri, champion_version, rows, cut, predictions, note, recent_rows, seed, replicates, origins
    )


def choose_holdout(rows: LabelledRows, holdout_rows: int, window: dict[str, Any]) -> tuple[int, str]:
    """Where the held-out rows begin: the newest `holdout_rows`, fewer where the champion was trained on some of them.

    `window`: the champion's training window. Where less than a third is left beyond it, the newest rows are held out all
    the same, and the note says how many of them the champion has seen (which favours the champion).
    """
    count = len(rows.target)
    wanted = min(holdout_rows, count // 2)
    seen = _seen_by_champion(rows, window)
    if seen is None:
        return count - wanted, "the champion's training window is not known"
    fresh = int((~seen).sum()) if not seen[-1:].any() else 0
    first_fresh = count - fresh
    if fresh and not seen[first_fresh:].any() and fresh >= max(ROWS_MIN, wanted // 3):
        return max(first_fresh, count - wanted), ""
    known = int(seen[count - wanted :].sum())
    return count - wanted, f"the champion was trained on {known} of the {wanted} held-out rows" if known else ""


def _seen_by_champion(rows: LabelledRows, window: dict[str, Any]) -> NDArray[np.bool_] | None:
    end = window.get("end")
    if rows.times is not None and isinstance(end, str):
        bound = float(end) if pd.api.types.is_numeric_dtype(rows.times.dtype) else pd.Timestamp(end)
        return (rows.times <= bound).to_numpy(dtype=bool)
    row_end = window.get("row_end")
    return np.asarray(rows.positions < row_end) if isinstance(row_end, int) else None


def _rehearsed(candidate: Candidate, trial: Trial | None, reason: str, champion_version: int) -> Rehearsal:
    base = Rehearsal(candidate=candidate.id, status="failed", champion_version=champion_version)
    if candidate.action not in {ActionName.RETRAIN, ActionName.ROLLBACK}:
        detail = f"{candidate.action} has nothing to rehearse"
        return base.model_copy(update={"status": "not_rehearsable", "detail": detail})
    if trial is None:
        return base.model_copy(update={"detail": reason})
    try:
        if candidate.action is ActionName.RETRAIN:
            return _retrain(candidate, trial, base)
        return _rollback(candidate, trial, base)
    except Error as error:
        return base.model_copy(update={"detail": error.diagnostics(), "metric": trial.model.metric})


def _retrain(candidate: Candidate, trial: Trial, base: Rehearsal) -> Rehearsal:
    """Fit the recipe at each origin and compare its predictions with the champion's, row by row."""
    recipe = Recipe.of(candidate.params, trial.recent_rows)
    model, rows = trial.model, trial.rows
    columns = estimator.choose_columns(
        rows.frame, target=model.target, time_column=model.time_column, features=model.features
    )
    edges = origin_edges(trial.cut, len(rows.target), trial.origins)
    parts: list[Predictions] = []
    scored: list[NDArray[np.int64]] = []
    problems: list[str] = []
    train_rows = 0
    for begin, end in itertools.pairwise(edges):
        keep = recipe.select(None if rows.times is None else rows.times.iloc[:begin], rows.positions[:begin])
        index = np.flatnonzero(keep)
        try:
            fitted = _fit(trial, recipe, columns, index)
        except GiveUp as error:
            problems.append(error.diagnostics())
            continue
        train_rows = len(index)
        parts.append(predictions_of(fitted, rows.frame.iloc[begin:end], model.task))
        scored.append(np.arange(begin, end))
    if not parts:
        raise GiveUp(problems[-1])
    at = np.concatenate(scored)
    outcome = compare(trial, rows.target[at], trial.champion.take(at - trial.cut), _joined(parts))
    details = [trial.note, f"{len(parts)} of {len(edges) - 1} origins, the others: {problems[-1]}" if problems else ""]
    return _filled(base, trial, outcome, train_rows, details)


def origin_edges(cut: int, rows: int, origins: int = ORIGINS) -> list[int]:
    """Where each part of the held-out rows begins, and where the last one ends."""
    return [round(cut + (rows - cut) * part / max(1, origins)) for part in range(max(1, origins) + 1)]


def _fit(trial: Trial, recipe: Recipe, columns: estimator.Columns, index: NDArray[np.int64]) -> Any:
    if len(index) < ROWS_MIN:
        raise GiveUp(f"too few rows to train on: {len(index)}, at least {ROWS_MIN} are needed")
    model = estimator.build(trial.model.task, columns, params=trial.model.training.params, seed=trial.seed)
    return estimator.fit(
        model, columns, trial.rows.frame.iloc[index], trial.rows.target[index], recipe.weights(len(index))
    )


def _joined(parts: list[Predictions]) -> Predictions:
    scores = [part.score for part in parts if part.score is not None]
    label = np.concatenate([part.label for part in parts])
    return Predictions(label, np.concatenate(scores) if len(scores) == len(parts) else None)


def _rollback(candidate: Candidate, trial: Trial, base: Rehearsal) -> Rehearsal:
    """Score an earlier version (params `version`; default: the one before the champion) on the same rows."""
    version = candidate.params.get("version", candidate.params.get("to_version"))
    if version is None:
        version = _version_before(trial)
    if isinstance(version, bool) or not isinstance(version, int | str) or not str(version).isdigit():
        raise BadInput("version of a rollback", got=version, expected="a whole number")
    if int(version) == trial.champion_version:
        raise BadInput("version of a rollback", got=version, expected="another version than the champion's")
    earlier = registry.load_model(trial.tracking_uri, trial.model.registered_model, int(version))
    predictions = predictions_of(earlier, trial.rows.frame.iloc[trial.cut :], trial.model.task)
    outcome = compare(trial, trial.target, trial.champion, predictions)
    record = registry.version_of(trial.tracking_uri, trial.model.registered_model, int(version))
    rows = registry.window_of(record).get("rows", 0)
    details = [f"version {int(version)}", trial.note]
    return _filled(base, trial, outcome, rows if isinstance(rows, int) else 0, details)


def _version_before(trial: Trial) -> int:
    name = trial.model.registered_model.replace("'", "")
    found = registry.client(trial.tracking_uri).search_model_versions(f"name = '{name}'")
    earlier = [int(item.version) for item in found if int(item.version) < trial.champion_version]
    if not earlier:
        raise GiveUp("there is no earlier version to roll back to")
    return max(earlier)


def compare(trial: Trial, target: Array, champion: Predictions, candidate: Predictions) -> BootstrapResult:
    """The paired block bootstrap of this trial; raises GiveUp where the metric is not defined on these rows."""
    return paired(trial.model, target, champion, candidate, seed=trial.seed, replicates=trial.replicates)


def paired(
    model: WatchedModel, target: Array, champion: Predictions, candidate: Predictions, *, seed: int, replicates: int
) -> BootstrapResult:
    """Compare two sets of predictions under the model's metric.

    Raises BadInput (no such metric, or not for this task) and GiveUp (not defined on these rows).
    """
    try:
        name = scorer_name(model.metric)
    except ValueError:
        raise BadInput("metric", got=model.metric, expected="a scikit-learn scorer, like accuracy or r2") from None
    try:
        outcome = compare_predictions(name, target, champion, candidate, replicates=replicates, seed=seed)
    except (ValueError, TypeError) as error:
        raise BadInput(f"metric of a {model.task}", got=model.metric, expected=f"one that fits ({error})") from None
    if outcome.win_probability is None:
        raise GiveUp(f"{model.metric} is not defined on these {len(target)} rows")
    return outcome


def shrunk(win_probability: float, blocks: int) -> float:
    """The win probability with one block's worth of doubt: (k p + 1/2) / (k + 1)."""
    return (blocks * win_probability + 0.5) / (blocks + 1)


def _filled(base: Rehearsal, trial: Trial, outcome: BootstrapResult, train_rows: int, details: list[str]) -> Rehearsal:
    assert outcome.win_probability is not None
    return base.model_copy(
        update={
            "status": "rehearsed",
            "metric": trial.model.metric,
            "rows": outcome.rows,
            "blocks": outcome.blocks,
            "champion_score": outcome.champion,
            "candidate_score": outcome.challenger,
            "relative_gain": outcome.gain,
            "gain_low": outcome.gain_low,
            "gain_high": outcome.gain_high,
            "win_probability": shrunk(outcome.win_probability, outcome.blocks),
            "train_rows": train_rows,
            "detail": "; ".join(part for part in details if part),
        }
    )


def compare_versions(
    model: WatchedModel,
    tracking_uri: str,
    champion: int,
    challenger: int,
    selection: RowSelection,
    *,
    seed: int = 0,
    replicates: int = 400,
) -> Comparison:
    """Two registered versions on the same labelled rows; where nothing can be said, the figures are None and `detail`
    says why. Raises GiveUp or NotFound where a version cannot be loaded."""
    result = Comparison(metric=model.metric, higher_is_better=True, rows=0, champion=champion, challenger=challenger)
    try:
        rows = labelled_rows(model, selection)
    except GiveUp as error:
        return result.model_copy(update={"detail": error.diagnostics()})
    first, second = (
        predictions_of(registry.load_model(tracking_uri, model.registered_model, version), rows.frame, model.task)
        for version in (champion, challenger)
    )
    try:
        outcome = paired(model, rows.target, first, second, seed=seed, replicates=replicates)
    except GiveUp as error:
        return result.model_copy(update={"rows": len(rows.target), "detail": error.diagnostics()})
    assert outcome.win_probability is not None
    return result.model_copy(
        update={
            "rows": outcome.rows,
            "champion_score": outcome.champion,
            "challenger_score": outcome.challenger,
            "relative_gain": outcome.gain,
            "gain_low": outcome.gain_low,
            "gain_high": outcome.gain_high,
            "win_probability": shrunk(outcome.win_probability, outcome.blocks),
        }
    )
