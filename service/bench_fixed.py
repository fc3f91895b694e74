"""The fixed strategies of `bench remediation`: same windows, same estimator, same delay of the labels as the service has.

Runs in the sandbox: JSON in, JSON out. Batch 0 is the training rows of the first model, batch `k + 1` window `k`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from driftwarden.contracts.watch import WatchedModel
from driftwarden.errors import BadInput, GiveUp

if TYPE_CHECKING:
    import pandas as pd

FROZEN, ALL, RECENT, LAST, ALARM = "frozen", "retrain_all", "retrain_recent", "retrain_last", "evidently_alarm"
FIXED = (FROZEN, ALL, RECENT, LAST, ALARM)
SEED = 0  # the shipped pipeline's
REFERENCE_ROWS_MAX = 5_000


@dataclass(frozen=True)
class Timing:
    """When labels arrive: those of window `k` at the end of window `k + delay`."""

    label_delay_windows: int = 0

    def known_batches(self, window: int) -> int:
        """How many batches are labelled when `window` begins: the training rows, and windows up to `window - 1 - delay`."""
        return 1 + max(0, window - self.label_delay_windows)


def training_batches(strategy: str, window: int, timing: Timing) -> range:
    """Batches that the model in force on `window` may be retrained on right before it; empty where nothing new is known.

    `retrain_recent` cuts the newest rows out of them. Nothing here lies after window `window - 1 - delay`.
    """
    known = timing.known_batches(window)
    if strategy == FROZEN or window == 0 or known == timing.known_batches(window - 1):
        return range(0)
    return range(known - 1, known) if strategy == LAST else range(known)


@dataclass
class Side:
    """One strategy as it goes: the models it had, which was in force on each window, and the batches each was fitted on."""

    models: list[Any] = field(default_factory=list)
    in_force: list[int] = field(default_factory=list)
    batches: list[list[int]] = field(default_factory=list)
    reference: "pd.DataFrame | None" = None


class Player:
    """Plays every fixed strategy over the batches (tables with their labels, in time order)."""

    def __init__(
        self, model: WatchedModel, batches: "Sequence[pd.DataFrame]", timing: Timing, recent_rows: int
    ) -> None:
        """`recent_rows`: what `retrain_recent` keeps, as the service means it by `recent`."""
        self._model, self._batches, self._timing, self._recent_rows = model, batches, timing, recent_rows

    def play(self, strategies: Sequence[str] = FIXED) -> dict[str, Side]:
        """Walk through the windows once; labels of a batch are only ever read through `training_batches`."""
        first = self._fit(self._batches[0])
        if first is None:
            raise GiveUp("the training rows hold one class only")
        sides = {name: Side([first], [], [[0]], self._batches[0]) for name in strategies}
        for window in range(len(self._batches) - 1):
            for name, side in sides.items():
                self._maybe_retrain(name, side, window)
                side.in_force.append(len(side.models) - 1)
        return sides

    def score(self, side: Side, model: int, window: int) -> float | None:
        """The metric of one of a strategy's models on one window."""
        from driftwarden.pipelines import estimator
        from driftwarden.pipelines.scoring import metric_of, predictions_of

        rows = _labelled(self._batches[window + 1], self._model)
        truth = estimator.truth(rows[self._model.target], self._model.task)
        return metric_of(
            self._model.metric,
            self._model.task,
            truth,
            predictions_of(side.models[model], rows, self._model.task),
        )

    def _maybe_retrain(self, name: str, side: Side, window: int) -> None:
        import pandas as pd

        batches = list(training_batches(name, window, self._timing))
        if not batches or (name == ALARM and not self._alarm(side, self._batches[window])):
            return
        rows = pd.concat([self._batches[batch] for batch in batches], ignore_index=True)
        if name == RECENT:
            rows = rows.tail(self._recent_rows).reset_index(drop=True)
        fitted = self._fit(rows)
        if fitted is not None:
            side.models.append(fitted)
            side.batches.append(batches)
            side.reference = rows

    def _fit(self, rows: "pd.DataFrame") -> Any:
        """As the shipped pipeline fits; None for rows that teach nothing (one class)."""
        import numpy as np

        from driftwarden.pipelines import estimator

        model, rows = self._model, _labelled(rows, self._model)
        target = estimator.truth(rows[model.target], model.task)
        if model.task == "regression":
            finite = np.isfinite(target)
            rows, target = rows[finite].reset_index(drop=True), target[finite]
        columns = estimator.choose_columns(
            rows, target=model.target, time_column=model.time_column, features=model.features
        )
        try:
            made = estimator.build(model.task, columns, params=model.training.params, seed=SEED)
            return estimator.fit(made, columns, rows, target)
        except GiveUp:
            return None

    def _alarm(self, side: Side, last_window: "pd.DataFrame") -> bool:
        assert side.reference is not None
        return evidently_alarm(side.reference, last_window, list(self._model.features or ()))


def evidently_alarm(reference: "pd.DataFrame", current: "pd.DataFrame", features: Sequence[str]) -> bool:
    """Evidently's dataset drift with every default: methods by type and size, half of the columns.

    Columns without a value on either side are left out, as are texts and times, since Evidently refuses the whole report.
    """
    from evidently import DataDefinition, Dataset, Report
    from evidently.presets import DataDriftPreset

    from driftwarden.pipelines.detection import evenly
    from driftwarden.pipelines.estimator import column_kind

    kinds = {
        name: column_kind(reference[name])
        for name in features
        if name in reference and name in current and reference[name].notna().any() and current[name].notna().any()
    }
    numeric = [name for name, kind in kinds.items() if kind == "numeric"]
    categorical = [name for name, kind in kinds.items() if kind == "categorical"]
    if not numeric and not categorical:
        return False
    definition = DataDefinition(numerical_columns=numeric, categorical_columns=categorical)
    sides = [
        Dataset.from_pandas(_typed(evenly(table, REFERENCE_ROWS_MAX), numeric, categorical), definition)
        for table in (current, reference)
    ]
    snapshot = Report([DataDriftPreset()]).run(*sides)
    counted = next(one for one in snapshot.dict()["metrics"] if isinstance(one["value"], dict))
    return bool(float(counted["value"]["share"]) >= 0.5)


def _typed(table: "pd.DataFrame", numeric: list[str], categorical: list[str]) -> "pd.DataFrame":
    import pandas as pd

    columns = {name: pd.to_numeric(table[name], errors="coerce").astype("float64") for name in numeric}
    columns |= {name: table[name].astype(object).where(table[name].notna()).map(str) for name in categorical}
    return pd.DataFrame(columns).reset_index(drop=True)


def _labelled(rows: "pd.DataFrame", model: WatchedModel) -> "pd.DataFrame":
    return rows[rows[model.target].notna()].reset_index(drop=True)


def play(payload: dict[str, Any]) -> dict[str, Any]:
    """All fixed strategies: `{name: {"performance", "retrains", "successions"}}`.

    `payload`: `model` (WatchedModel), `batches` (paths: the training rows, then each window with its labels),
    `label_delay_windows`, `recent_rows`. `successions`: for each retraining, the scores of the new and of the replaced model
    on the windows until the next one.
    """
    import os

    import pandas as pd

    os.environ.setdefault("DO_NOT_TRACK", "true")
    model = WatchedModel.model_validate(payload["model"])
    batches = [pd.read_parquet(Path(path)) for path in payload["batches"]]
    if len(batches) < 2:
        raise BadInput("batches of a replay", got=len(batches), expected="training rows and at least one window")
    player = Player(model, batches, Timing(int(payload["label_delay_windows"])), int(payload["recent_rows"]))
    return {name: _told(player, side) for name, side in player.play().items()}


def _told(player: Player, side: Side) -> dict[str, Any]:
    performance = [player.score(side, number, window) for window, number in enumerate(side.in_force)]
    successions = []
    for number in range(1, len(side.models)):
        windows = [window for window, one in enumerate(side.in_force) if one == number]
        successions.append(
            {
                "new": [performance[window] for window in windows],
                "old": [player.score(side, number - 1, window) for window in windows],
            }
        )
    return {"performance": performance, "retrains": len(side.models) - 1, "successions": successions}
