"""Which rows a challenger may be trained on so that the evaluation rows stay unseen, and which a refit adds.

Selections are cut by position where the evaluation names `row_start` (both over the same ordered rows), by time where it
names `start`, and are left alone where they read different files.
"""

from pathlib import Path

from driftwarden.clock import parse_rfc3339
from driftwarden.contracts.data import RowSelection

_SAME_ORDER = ("paths", "time_column", "excluded", "start", "end", "last_rows", "labelled_only", "labels_path")


def unseen_training_rows(training: RowSelection, evaluation: RowSelection) -> RowSelection | None:
    """The training rows that come before the evaluation rows; None where the two cannot be told apart or none is left."""
    if evaluation.row_start is not None:
        if not _same_order(training, evaluation):
            return None
        end = evaluation.row_start if training.row_end is None else min(training.row_end, evaluation.row_start)
        return training.narrowed(row_end=end) if end > (training.row_start or 0) else None
    if evaluation.start is not None and training.time_column == evaluation.time_column is not None:
        if training.row_start is not None or training.row_end is not None:
            return None  # positions count within a time range: moving the range would move the positions
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
    if evaluation.start is not None:
        if training.end is None or evaluation.end is None:
            return training.narrowed(end=None)
        latest = training.end if _earlier(training.end, evaluation.end) == evaluation.end else evaluation.end
        return training.narrowed(end=latest)
    return training.narrowed(paths=(*training.paths, *evaluation.paths))


def _same_order(training: RowSelection, evaluation: RowSelection) -> bool:
    return training.last_rows is None and all(
        getattr(training, name) == getattr(evaluation, name) for name in _SAME_ORDER
    )


def _earlier(one: str, other: str) -> str:
    return one if parse_rfc3339(one) <= parse_rfc3339(other) else other


def _apart(some: tuple[str, ...], others: tuple[str, ...]) -> bool:
    return not any(
        Path(one).is_relative_to(other) or Path(other).is_relative_to(one) for one in some for other in others
    )
