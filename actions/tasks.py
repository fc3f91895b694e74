"""Tasks for a sandboxed process: JSON object in, JSON object out."""

from typing import Any

from driftwarden.contracts.data import ExcludedRows, RowSelection
from driftwarden.errors import GiveUp
from driftwarden.tables import read_rows, read_rows_at, time_key

JsonObject = dict[str, Any]
ROWS_MIN = 20  # fewer show nothing


def split(payload: JsonObject) -> JsonObject:
    """Where the newest labelled rows begin that a challenger is compared on: `{cut, labelled, training, evaluation}`.

    Payload: `rows` (RowSelection of all that is known), `share`, `rows_min`, `rows_max` of the evaluation, and `window`, the
    champion's training window (`end`, `row_end`; may be empty): rows that the champion has not seen are preferred, as in
    a rehearsal. `cut` is a position in the ordered table. Raises GiveUp where too few rows are left on either side.
    """
    selection = RowSelection.model_validate(payload["rows"]).narrowed(labelled_only=True, last_rows=None)
    frame, positions = read_rows_at(selection)
    labelled = len(frame)
    wanted = min(
        max(int(payload["rows_min"]), int(float(payload["share"]) * labelled)), int(payload["rows_max"]), labelled // 2
    )
    fresh = _fresh(frame, positions, selection.time_column, dict(payload["window"]))
    evaluation = min(fresh, wanted) if fresh >= max(ROWS_MIN, wanted // 3) else wanted
    if min(evaluation, labelled - evaluation) < ROWS_MIN:
        raise GiveUp(f"too few labelled rows to train and compare on: {labelled}, at least {2 * ROWS_MIN} are needed")
    return {
        "cut": int(positions[labelled - evaluation]),
        "labelled": labelled,
        "training": labelled - evaluation,
        "evaluation": evaluation,
    }


def count_kept_out(payload: JsonObject) -> JsonObject:
    """How many of the rows known are kept out once a batch is too, with those that are already: `{rows, kept_out}`.

    Payload: `rows` (RowSelection, its `excluded` what is kept out already), `batches` (ExcludedRows of the new batch); or
    `each`, a list of these: then the answer is `{each}`, in the same order.
    """
    if "each" in payload:
        return {"each": [count_kept_out(one) for one in payload["each"]]}
    selection = RowSelection.model_validate(payload["rows"]).narrowed(labelled_only=False, last_rows=None)
    batches = tuple(ExcludedRows.model_validate(batch) for batch in payload["batches"])
    every = len(read_rows(selection.narrowed(excluded=())))
    left = len(read_rows(selection.narrowed(excluded=(*selection.excluded, *batches))))
    return {"rows": every, "kept_out": every - left}


def _fresh(frame: Any, positions: Any, time_column: str | None, window: JsonObject) -> int:
    """How many of the newest rows in a row the champion has not been trained on."""
    end, row_end = window.get("end"), window.get("row_end")
    if time_column is not None and isinstance(end, str):
        import pandas as pd

        times = time_key(frame, time_column)
        bound = float(end) if pd.api.types.is_numeric_dtype(times.dtype) else pd.Timestamp(end)
        seen = (times <= bound).to_numpy(dtype=bool)
    elif isinstance(row_end, int):
        seen = positions < row_end
    else:
        return 0
    return int((~seen)[::-1].cumprod().sum())
