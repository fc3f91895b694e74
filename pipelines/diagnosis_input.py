"""One case to diagnose, gathered from files: window, reference, earlier windows, and what the champion said of them.

The reference of the performance must be rows that the champion was not fitted on: its training run leaves its hold-out
rows with the predictions it made of them before the last fit; the earlier windows that came after its training serve
where a version has none.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from driftwarden.contracts.data import RowSelection
from driftwarden.contracts.watch import WatchedModel
from driftwarden.errors import BadInput, Error, GiveUp
from driftwarden.pipelines import registry
from driftwarden.pipelines.diagnostics import DiagnosticInput
from driftwarden.pipelines.diagnostics.metrics import Predictions
from driftwarden.pipelines.publication import PREDICTION_COLUMN, SCORE_COLUMN
from driftwarden.pipelines.scoring import predictions_of
from driftwarden.tables import read_rows, read_table

HISTORY_ROWS_MAX = 60_000
WINDOW_ROWS_MIN = 50


def build_input(
    *,
    model: WatchedModel,
    tracking_uri: str,
    champion_version: int,
    current: RowSelection,
    reference: Path | None,
    history: list[Path],
    reported_performance: dict[str, Any] | None,
    rows_max: int,
) -> DiagnosticInput:
    """The input of every measurement of one window; raises BadInput or GiveUp where the window itself cannot be read.

    `reference` None: the champion's own hold-out rows.
    """
    window = read_rows(current).tail(rows_max).reset_index(drop=True)
    champion = registry.load_model(tracking_uri, model.registered_model, champion_version)
    version = registry.version_of(tracking_uri, model.registered_model, champion_version)
    earlier = _earlier(history, len(window))
    held, held_said = _held_out(tracking_uri, version)
    if reference is not None:
        table, said = read_table(reference).tail(rows_max).reset_index(drop=True), None
    elif held is not None:
        table, said = held, held_said
    elif earlier:
        table, said = earlier[-1][1], None
    else:
        raise GiveUp("there is nothing to compare the window with: no reference, no hold-out rows, no earlier window")
    if said is None:
        said = _said(champion, table, model.task)
    now = _said(champion, window, model.task)
    return DiagnosticInput(
        reference=table,
        current=window,
        history=earlier,
        features=list(model.features or _features(table, model)),
        target=model.target,
        time_column=model.time_column,
        task=model.task,
        metric=model.metric,
        reference_prediction=said.label if said else None,
        reference_score=said.score if said else None,
        current_prediction=now.label if now else None,
        current_score=now.score if now else None,
        reported_performance=reported_performance,
        seed=champion_version,
    )


def _features(table: pd.DataFrame, model: WatchedModel) -> list[str]:
    aside = {model.target, model.time_column, model.labels.key, PREDICTION_COLUMN, SCORE_COLUMN}
    return [str(name) for name in table.columns if name not in aside]


def _earlier(history: list[Path], window_rows: int) -> list[tuple[str, pd.DataFrame]]:
    """Earlier windows, newest kept first within a bound on rows; files that cannot be read are left out.

    A long file (the training history) is cut into windows of this one's size: a season shows only window by window.
    """
    kept: list[tuple[str, pd.DataFrame]] = []
    rows = 0
    for file in reversed(history):
        try:
            table = read_table(file)
        except BadInput:
            continue
        kept += reversed(_cut(file.stem, table, window_rows))
        rows += len(table)
        if rows >= HISTORY_ROWS_MAX:
            break
    return kept[::-1]


def _cut(label: str, table: pd.DataFrame, window_rows: int) -> list[tuple[str, pd.DataFrame]]:
    if window_rows < WINDOW_ROWS_MIN or len(table) < 2 * window_rows:
        return [(label, table)]
    starts = range(len(table) % window_rows, len(table), window_rows)
    return [
        (f"{label}, rows {start} to {start + window_rows}", table.iloc[start : start + window_rows]) for start in starts
    ]


def _held_out(tracking_uri: str, version: Any) -> tuple[pd.DataFrame | None, Predictions | None]:
    file = registry.artifact(tracking_uri, version, registry.HOLDOUT_FILE)
    if file is None:
        return None, None
    table = read_table(file)
    said = table.pop(PREDICTION_COLUMN).to_numpy()
    score = table.pop(SCORE_COLUMN).to_numpy() if SCORE_COLUMN in table.columns else None
    return table, Predictions(np.asarray(said), score)


def _said(champion: Any, rows: pd.DataFrame, task: str) -> Predictions | None:
    try:
        return predictions_of(champion, rows, task)
    except Error:
        # A window that the model cannot score (a column is gone) is a finding of `schema`, not an end of the diagnosis.
        return None
