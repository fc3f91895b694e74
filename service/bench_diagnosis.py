"""`bench diagnosis`: faults of known cause in real windows, and what the offline agents' ranking makes of them.

Each case is laid out as the service would meet it: a champion fitted on earlier rows, hold-out rows that it has not seen as
the reference, then the window. The real measurements are made; the event says no more than that something drifted.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from driftwarden.contracts.base import ActionName, RootCause
from driftwarden.errors import BadInput
from driftwarden.service.bench_faults import FAULTS, Bed, Injected

if TYPE_CHECKING:
    import pandas as pd

    from driftwarden.pipelines.diagnostics.metrics import Predictions
    from driftwarden.service.streams import ReplayStream

WINDOW_ROWS = 600
TRAIN_ROWS_MAX = 6_000
HARMED = 0.02  # relative loss against the reference, as the demo's policy takes harm
DATA_FAULTS = frozenset(
    {"unit_change", "missing_values", "stuck_values", "swapped_columns", "outlier_burst"}
)  # what must be kept out, whatever it does to the model
NOTHING = frozenset({ActionName.NONE, ActionName.REFRESH_REFERENCE, ActionName.NOTIFY})


@dataclass(frozen=True)
class Case:
    """One answer: what was done to the window, and what was said of it."""

    stream: str
    fault: str
    truth: RootCause
    columns: tuple[str, ...]
    said: RootCause
    said_columns: tuple[str, ...]
    action: ActionName
    right_actions: frozenset[ActionName]

    @property
    def columns_right(self) -> bool | None:
        """Whether the columns that speak most for the cause are the fault's; None where the fault has none."""
        return set(self.said_columns[: len(self.columns)]) == set(self.columns) if self.columns else None


@dataclass(frozen=True)
class Place:
    """A window of a stream with its champion: all that the cases of this window share."""

    bed: Bed
    champion: Any
    history: "list[tuple[str, pd.DataFrame]]"
    reference_said: "Predictions"


def run(
    streams: "Sequence[ReplayStream]",
    *,
    faults: Sequence[str] = tuple(FAULTS),
    windows: int = 3,
    seed: int = 7,
    say: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Lay every fault into `windows` windows of every stream; faults that a stream has no column for are left out."""
    for fault in faults:
        if fault not in FAULTS:
            raise BadInput("fault", got=fault, expected=f"one of: {', '.join(FAULTS)}")
    cases: list[Case] = []
    left_out: Counter[str] = Counter()
    for stream in streams:
        for number, place in enumerate(_places(stream, windows)):
            say(f"{stream.name}: window {number + 1} of {windows}")
            for fault in faults:
                rng = np.random.default_rng([seed, number, list(FAULTS).index(fault)])
                injected = FAULTS[fault][1](place.bed, rng)
                if injected is None:
                    left_out[fault] += 1
                else:
                    cases.append(_diagnose(stream, place, fault, injected))
    return _document([stream.name for stream in streams], cases, left_out, seed)


def _places(stream: "ReplayStream", windows: int) -> Iterator[Place]:
    import pandas as pd

    from driftwarden.pipelines import estimator
    from driftwarden.pipelines.scoring import predictions_of

    rows = pd.concat([stream.train, *(window.rows for window in stream.windows)], ignore_index=True)
    size = min(WINDOW_ROWS, len(rows) // (windows + 6))
    if size < 100:
        raise BadInput("table too short", got=f"{len(rows)} rows", expected=f"{100 * (windows + 6)}", where=stream.name)
    features = [name for name in rows.columns if name not in {stream.target, stream.time_column}]
    for end in np.linspace(len(rows) // 2, len(rows), windows, endpoint=True).astype(int):
        cut = end - 3 * size  # two windows of hold-out rows, then the window itself
        train = rows.iloc[max(0, cut - TRAIN_ROWS_MAX) : cut].reset_index(drop=True)
        columns = estimator.choose_columns(
            train, target=stream.target, time_column=stream.time_column, features=features
        )
        target = estimator.truth(train[stream.target], stream.task)
        champion = estimator.fit(estimator.build(stream.task, columns), columns, train, target)
        reference = rows.iloc[cut : end - size].reset_index(drop=True)
        kinds = {name: estimator.column_kind(train[name]) for name in features}
        bed = Bed(
            window=rows.iloc[end - size : end].reset_index(drop=True),
            reference=reference,
            target=stream.target,
            task=stream.task,
            numeric=tuple(name for name, kind in kinds.items() if kind == "numeric"),
            categorical=tuple(name for name, kind in kinds.items() if kind == "categorical"),
        )
        earlier = [(f"w{at}", train.iloc[at : at + size]) for at in range(0, len(train) - size + 1, size)]
        yield Place(bed, champion, earlier, predictions_of(champion, reference, stream.task))


def _diagnose(stream: "ReplayStream", place: Place, fault: str, injected: Injected) -> Case:
    from driftwarden.agents import remedies
    from driftwarden.agents.diagnosis import rank
    from driftwarden.contracts.measurements import MEASUREMENT_NAMES, Measured, PerformanceMeasure
    from driftwarden.pipelines.diagnostics import DiagnosticInput, measure
    from driftwarden.pipelines.scoring import predictions_of

    said = predictions_of(place.champion, injected.rows, stream.task)
    case = DiagnosticInput(
        reference=place.bed.reference,
        current=injected.rows,
        history=place.history,
        features=[*place.bed.numeric, *place.bed.categorical],
        target=stream.target,
        time_column=stream.time_column,
        task=stream.task,
        metric=stream.metric,
        reference_prediction=place.reference_said.label,
        current_prediction=said.label,
        reference_score=place.reference_said.score,
        current_score=said.score,
    )
    measures: dict[str, Measured] = {name: measure(name, case) for name in MEASUREMENT_NAMES}
    first = rank(measures, {"kind": "data_drift"})[0]
    performance = measures["performance"]
    assert isinstance(performance, PerformanceMeasure)
    remedy = remedies.remedies(first.root_cause, remedies.harm_of(performance))[0]
    return Case(
        stream=stream.name,
        fault=fault,
        truth=FAULTS[fault][0],
        columns=injected.columns,
        said=first.root_cause,
        said_columns=first.columns,
        action=remedy.action,
        right_actions=right_actions(fault, _loss(stream, place, injected, said)),
    )


def _loss(stream: "ReplayStream", place: Place, injected: Injected, said: "Predictions") -> float | None:
    """The share of the reference's performance that the champion really lost on this window; None: undefined."""
    from driftwarden.pipelines import estimator
    from driftwarden.pipelines.scoring import metric_of

    before, now = (
        metric_of(stream.metric, stream.task, estimator.truth(rows[stream.target], stream.task), answers)
        for rows, answers in ((place.bed.reference, place.reference_said), (injected.rows, said))
    )
    if before is None or now is None or before == 0:
        return None
    return (before - now) / abs(before)


def right_actions(fault: str, loss: float | None) -> frozenset[ActionName]:
    """What may rightly be planned: spoiled data are kept out; what harms is mended, and what does not is left alone."""
    if fault in DATA_FAULTS:
        return frozenset({ActionName.QUARANTINE_DATA})
    if loss is None:
        return NOTHING | {ActionName.RETRAIN}
    if loss < HARMED:
        return NOTHING
    mend = {ActionName.RETRAIN, ActionName.RECALIBRATE} if fault == "label_shift" else {ActionName.RETRAIN}
    return frozenset(mend)


def _document(streams: list[str], cases: list[Case], left_out: Counter[str], seed: int) -> dict[str, Any]:
    by_fault = {}
    for fault in dict.fromkeys([*(one.fault for one in cases), *left_out]):
        these = [one for one in cases if one.fault == fault]
        by_fault[fault] = {"cases": len(these), "left_out": left_out[fault], **_accuracy(these)}
    confusion: dict[str, dict[str, int]] = {}
    for one in cases:
        row = confusion.setdefault(one.truth.value, {})
        row[one.said.value] = row.get(one.said.value, 0) + 1
    return {
        "streams": streams,
        "seed": seed,
        "cases": len(cases),
        "accuracy": _accuracy(cases),
        "by_fault": by_fault,
        "by_stream": {name: _accuracy([one for one in cases if one.stream == name]) for name in streams},
        "confusion": confusion,
    }


def _accuracy(cases: list[Case]) -> dict[str, float | None]:
    return {
        "root_cause": _share([one.said is one.truth for one in cases]),
        "columns": _share([right for one in cases if (right := one.columns_right) is not None]),
        "action": _share([one.action in one.right_actions for one in cases]),
    }


def _share(verdicts: list[bool]) -> float | None:
    return round(sum(verdicts) / len(verdicts), 4) if verdicts else None
