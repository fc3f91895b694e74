"""Which rows a challenger is trained on, which it is compared on without having seen them, and which a refit adds.

The two are told apart by position where the evaluation names `row_start` (both over the same ordered table), by time
where it names `start`, and by file where they read different files. An evaluation that is only "the newest rows" of the
training rows is first given a `row_start` (`actions.tasks.split`).
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from driftwarden.clock import parse_rfc3339
from driftwarden.contracts.data import RowSelection
from driftwarden.errors import Refused

_SAME_TABLE = ("paths", "time_column", "excluded")  # what positions depend on


@dataclass(frozen=True, slots=True)
class TrialRows:
    """Rows of the fit that is compared, of the comparison, and of a refit on everything up to now."""

    fit: RowSelection
    evaluation: RowSelection
    refit: RowSelection


def needs_split(training: RowSelection, evaluation: RowSelection) -> bool:
    """Whether the evaluation is the newest rows of the training rows, their beginning not yet known."""
    return evaluation.last_rows is not None and evaluation.narrowed(last_rows=None) == training.narrowed(last_rows=None)


def trial_rows(training: RowSelection, evaluation: RowSelection, params: dict[str, Any], recent_rows: int) -> TrialRows:
    """The rows of a trial, the recipe of `params` (`strategy`, `rows`, `since`) applied; raises Refused."""
    fit = unseen_training_rows(training, evaluation)
    if fit is None:
        raise Refused("retrain: no training rows come before the rows of the comparison")
    refit = refit_rows(training, evaluation)
    return TrialRows(_recipe(fit, params, recent_rows), evaluation, _recipe(refit, params, recent_rows))


def unseen_training_rows(training: RowSelection, evaluation: RowSelection) -> RowSelection | None:
    """The training rows that come before the evaluation rows; None where the two cannot be told apart or none is left."""
    if evaluation.row_start is not None:
        if any(getattr(training, name) != getattr(evaluation, name) for name in _SAME_TABLE):
            return None
        end = evaluation.row_start if training.row_end is None else min(training.row_end, evaluation.row_start)
        return training.narrowed(row_end=end) if end > (training.row_start or 0) else None
    if evaluation.start is not None and training.time_column == evaluation.time_column is not None:
        stop = evaluation.start if training.end is None else _earlier(training.end, evaluation.start)
        if training.start is not None and parse_rfc3339(training.start) >= parse_rfc3339(stop):
            return None
        return training.narrowed(end=stop)
    return training if _apart(training.paths, evaluation.paths) else None


def refit_rows(training: RowSelection, evaluation: RowSelection) -> RowSelection:
    """The training rows and the evaluation rows: everything up to now, for a recipe that has won on the latter."""
    if evaluation.row_start is not None:
        ends = (training.row_end, evaluation.row_end)
        return training.narrowed(row_end=None if None in ends else max(end for end in ends if end is not None))
    if evaluation.start is not None and training.time_column is not None:
        if training.end is None or evaluation.end is None:
            return training.narrowed(end=None)
        return training.narrowed(end=_later(training.end, evaluation.end))
    return training.narrowed(paths=(*training.paths, *evaluation.paths))


def _recipe(rows: RowSelection, params: dict[str, Any], recent_rows: int) -> RowSelection:
    strategy, since = params.get("strategy", "all"), params.get("since")
    if strategy == "recent":
        wanted = params.get("rows", recent_rows)
        if isinstance(wanted, bool) or not isinstance(wanted, int) or wanted < 1:
            raise Refused(f"retrain: rows `{wanted}` of a recent window is not a whole number of at least 1")
        return rows.narrowed(last_rows=wanted if rows.last_rows is None else min(wanted, rows.last_rows))
    if strategy != "since_drift":
        return rows
    if isinstance(since, int) and not isinstance(since, bool) and since >= 0:
        return rows.narrowed(row_start=max(since, rows.row_start or 0))
    try:
        moment = str(since)
        parse_rfc3339(moment)
    except ValueError:
        raise Refused(f"retrain: since `{since}` is neither a row number nor an RFC 3339 time") from None
    if rows.time_column is None:
        raise Refused("retrain: since a time needs the model's time column")
    return rows.narrowed(start=moment if rows.start is None else _later(moment, rows.start))


def _earlier(one: str, other: str) -> str:
    return one if parse_rfc3339(one) <= parse_rfc3339(other) else other


def _later(one: str, other: str) -> str:
    return other if parse_rfc3339(one) <= parse_rfc3339(other) else one


def _apart(some: tuple[str, ...], others: tuple[str, ...]) -> bool:
    return not any(
        Path(one).is_relative_to(other) or Path(other).is_relative_to(one) for one in some for other in others
    )
