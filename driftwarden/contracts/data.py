"""Which rows: a selection that every reader of tables understands, and that a sandboxed process can be handed as JSON."""

from typing import Any

from driftwarden.contracts.base import Value


class ExcludedRows(Value):
    """A quarantined batch: a file (absolute path), or a time range of the model's time column (start included, end excluded)."""

    path: str | None = None
    start: str | None = None
    end: str | None = None


class RowSelection(Value):
    """Rows of a model's tables in time order.

    `paths`: absolute files or folders (a folder's parquet and csv files in name order), already resolved below allowed
    roots. `labels_path`/`labels_key`: a table (or folder) with the truth, joined on the key; a label is seen only where
    its row's time <= `labels_until` (RFC 3339; None: every label that is there). `start`/`end` cut by time,
    `row_start`/`row_end` by position after ordering and exclusion, `last_rows` keeps the newest. `labelled_only` drops
    rows without target.
    """

    paths: tuple[str, ...]
    time_column: str | None = None
    target: str | None = None
    labels_path: str | None = None
    labels_key: str | None = None
    labels_until: str | None = None
    start: str | None = None
    end: str | None = None
    row_start: int | None = None
    row_end: int | None = None
    last_rows: int | None = None
    labelled_only: bool = False
    excluded: tuple[ExcludedRows, ...] = ()

    def narrowed(self, **changes: Any) -> "RowSelection":
        """The same selection with some fields changed."""
        return self.model_copy(update=changes)
