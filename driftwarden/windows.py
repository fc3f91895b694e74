"""What is wrong with a window of rows, in words for an incident: the checks that come before any measurement."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Literal

from driftwarden.contracts.base import Value
from driftwarden.contracts.watch import WatchedModel

if TYPE_CHECKING:
    import pandas as pd

WindowFault = Literal["empty", "no_target", "no_labels", "one_class", "vanished", "missing_values", "infinite_values"]


class WindowReason(Value):
    """One thing that is wrong with a window: `fault`, the columns concerned, and the line for people."""

    fault: WindowFault
    columns: tuple[str, ...] = ()
    text: str


def check_window(
    frame: "pd.DataFrame", model: WatchedModel, reference_columns: Iterable[str] | None = None
) -> tuple[WindowReason, ...]:
    """What is wrong with a window of rows, worst first; empty where nothing is.

    `reference_columns`: columns that must be there (default: the model's features). Missing values name the share.
    """
    import numpy as np
    import pandas as pd

    reasons: list[WindowReason] = []
    if len(frame) == 0:
        reasons.append(WindowReason(fault="empty", text="the window is empty, expected at least one row"))
    wanted = list(reference_columns) if reference_columns is not None else list(model.features or ())
    gone = tuple(name for name in wanted if name not in frame.columns and name != model.target)
    if gone:
        text = f"columns vanished: {', '.join(gone)}"
        reasons.append(WindowReason(fault="vanished", columns=gone, text=text))
    reasons.extend(_label_reasons(frame, model))
    for name in frame.columns:
        if name == model.target or not len(frame):
            continue
        column = frame[name]
        missing = float(column.isna().mean())
        if pd.api.types.is_float_dtype(column.dtype):
            infinite = int(np.isinf(column.to_numpy(dtype="float64", na_value=np.nan)).sum())
            if infinite:
                text = f"column {name} holds {infinite} infinite values of {len(frame)}"
                reasons.append(WindowReason(fault="infinite_values", columns=(str(name),), text=text))
        if missing > 0:
            text = f"column {name} has {missing:.1%} of its values missing"
            reasons.append(WindowReason(fault="missing_values", columns=(str(name),), text=text))
    return tuple(reasons)


def _label_reasons(frame: "pd.DataFrame", model: WatchedModel) -> list[WindowReason]:
    if model.target not in frame.columns:
        text = f"the table has no target column `{model.target}`"
        return [WindowReason(fault="no_target", columns=(model.target,), text=text)]
    known = frame[model.target].dropna()
    if not len(known):
        if not len(frame):
            return []
        return [WindowReason(fault="no_labels", columns=(model.target,), text="no row of the window has a label yet")]
    if model.task == "classification" and known.nunique() == 1:
        text = f"the window holds one class only, {known.iloc[0]}"
        return [WindowReason(fault="one_class", columns=(model.target,), text=text)]
    return []
