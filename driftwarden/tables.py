"""Tables of rows: which files may be opened, how they are read, and which of their rows a selection means.

pandas is imported when a table is read, not before. Nothing outside the allowed roots is ever opened, and whatever is
wrong with a file is one BadInput line.
"""

import gzip
import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal, cast
from urllib.parse import unquote, urlsplit

from driftwarden.contracts.data import ExcludedRows, RowSelection
from driftwarden.errors import BadInput, NotFound, shorten, unreadable

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

ROWS_MAX = 5_000_000
BYTES_MAX = 2_000_000_000
SUFFIXES = (".parquet", ".csv", ".csv.gz")


def resolve(uri: str, roots: Iterable[str | Path], *, kind: Literal["file", "folder", "any"] = "file") -> Path:
    """The absolute path of a plain path or `file://` URI, symlinks followed, below one of `roots`.

    Raises BadInput (another scheme, outside the roots, a folder where a file is expected) or NotFound (absent). What
    is outside is not told apart from what is absent outside.
    """
    path = _local_path(uri)
    allowed = [Path(root).expanduser().resolve() for root in roots]
    try:
        real = path.expanduser().resolve()
    except (OSError, RuntimeError, ValueError) as error:
        raise BadInput(
            "cannot read the path", got=uri, expected=f"a path that can be followed ({unreadable(error)})"
        ) from None
    if not any(real.is_relative_to(root) for root in allowed):
        below = ", ".join(str(root) for root in allowed) or "nothing: no root is allowed"
        raise BadInput("file outside the allowed roots", got=uri, expected=f"a path below {shorten(below, 200)}")
    if not real.exists():
        raise NotFound("no such file", got=uri, expected="a file that exists")
    if kind == "file" and not real.is_file():
        raise BadInput("not a file", got=uri, expected="a parquet or csv file")
    if kind == "folder" and not real.is_dir():
        raise BadInput("not a folder", got=uri, expected="a folder of parquet or csv files")
    if kind == "any" and not (real.is_file() or real.is_dir()):
        raise BadInput("neither file nor folder", got=uri, expected="a parquet or csv file, or a folder of them")
    return real


def _local_path(uri: str) -> Path:
    if not uri or "\0" in uri:
        raise BadInput("cannot read the path", got=repr(uri), expected="a path or a file:// URI")
    if "://" not in uri:
        return Path(uri.removeprefix("file:"))
    try:
        parts = urlsplit(uri)
    except ValueError as error:  # brackets that name no host
        raise BadInput("cannot read the path", got=uri, expected=f"a path or a file:// URI ({error})") from None
    if parts.scheme.lower() != "file" or parts.netloc not in {"", "localhost"}:
        raise BadInput("not a local file", got=uri, expected="a path or a file:// URI")
    decoded = unquote(parts.path)
    if "\0" in decoded:
        raise BadInput("cannot read the path", got=uri, expected="a path or a file:// URI")
    return Path(decoded)


def read_table(
    path: str | Path,
    columns: Sequence[str] | None = None,
    rows_max: int = ROWS_MAX,
    bytes_max: int = BYTES_MAX,
) -> "pd.DataFrame":
    """Read a parquet, csv or csv.gz file; raises BadInput where it is unreadable, too large, or lacks a column.

    `rows_max` and `bytes_max` bound what is in memory: parquet by its metadata before anything is decoded, csv by the
    bytes after decompression.
    """
    file = Path(path)
    name = file.name.lower()
    if not file.is_file():
        raise NotFound("no such file", got=str(file), expected="a parquet or csv file")
    if not name.endswith(SUFFIXES):
        raise BadInput("unknown kind of table", got=file.name, expected="a name that ends in " + ", ".join(SUFFIXES))
    reader = _read_parquet if name.endswith(".parquet") else _read_csv
    frame = reader(file, columns, rows_max, bytes_max)
    if len(frame) > rows_max:
        raise BadInput("table too long", got=f"over {rows_max} rows", expected=f"at most {rows_max}", where=str(file))
    if not frame.columns.is_unique:
        twice = frame.columns[frame.columns.duplicated()][0]
        raise BadInput("column name twice", got=twice, expected="each column once", where=str(file))
    return frame


def count_rows(path: str | Path) -> int:
    """Rows of a table: a parquet file's own count, a csv read whole; raises BadInput as `read_table`."""
    file = Path(path)
    if not file.name.lower().endswith(".parquet"):
        return len(read_table(file))
    import pyarrow.parquet as pq

    try:
        return int(pq.ParquetFile(file).metadata.num_rows)
    except (OSError, ValueError) as error:
        raise BadInput(
            "cannot read the table", got=unreadable(error), expected="a parquet file", where=str(file)
        ) from None


def _read_parquet(file: Path, columns: Sequence[str] | None, rows_max: int, bytes_max: int) -> "pd.DataFrame":
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(file) as parquet:
            metadata = parquet.metadata
            size = sum(metadata.row_group(index).total_byte_size for index in range(metadata.num_row_groups))
            if metadata.num_rows > rows_max or size > bytes_max:
                raise BadInput(
                    "table too large",
                    got=f"{metadata.num_rows} rows, {size} bytes",
                    expected=f"at most {rows_max} rows, {bytes_max} bytes",
                    where=str(file),
                )
            _require(columns, parquet.schema_arrow.names, file)
            frame = parquet.read(columns=list(columns) if columns is not None else None).to_pandas()
    except (pa.ArrowException, OSError, ValueError, TypeError) as error:
        raise BadInput("not a parquet file", got=error, expected="a readable parquet file", where=str(file)) from None
    frame.columns = frame.columns.map(str)
    return cast("pd.DataFrame", frame.reset_index(drop=True))


def _read_csv(file: Path, columns: Sequence[str] | None, rows_max: int, bytes_max: int) -> "pd.DataFrame":
    import pandas as pd

    try:
        with file.open("rb") as raw:
            plain = cast(BinaryIO, gzip.GzipFile(fileobj=raw)) if file.name.lower().endswith(".gz") else raw
            bounded = io.BufferedReader(_Bounded(plain, bytes_max, file))
            frame = pd.read_csv(bounded, nrows=rows_max + 1, low_memory=False, encoding="utf-8")
    except (
        OSError,
        EOFError,
        UnicodeDecodeError,
        pd.errors.ParserError,
        pd.errors.EmptyDataError,
        ValueError,
    ) as error:
        raise BadInput("not a csv file", got=error, expected="a readable csv file in UTF-8", where=str(file)) from None
    frame.columns = frame.columns.map(str)
    _require(columns, list(frame.columns), file)
    return frame if columns is None else frame[list(columns)]


def _require(columns: Sequence[str] | None, there: Sequence[str], file: Path) -> None:
    for column in columns or ():
        if column not in there:
            raise BadInput(
                "column is not there", got=column, expected=f"one of {shorten(', '.join(there), 200)}", where=str(file)
            )


class _Bounded(io.RawIOBase):
    """A stream that refuses to give more than `limit` bytes (a small archive can hold a huge table)."""

    def __init__(self, inner: BinaryIO, limit: int, file: Path) -> None:
        self._inner, self._left, self._limit, self._file = inner, limit, limit, file

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._inner.read(len(buffer))
        self._left -= len(data)
        if self._left < 0:
            got = f"over {self._limit} bytes"
            raise BadInput("table too large", got=got, expected=f"at most {self._limit}", where=str(self._file))
        buffer[: len(data)] = data
        return len(data)


def read_rows(selection: RowSelection, *, rows_max: int = ROWS_MAX, bytes_max: int = BYTES_MAX) -> "pd.DataFrame":
    """The rows that a selection means, in time order, index 0..n-1; see `RowSelection` for every field.

    In this order: files, truth joined, truth masked, excluded rows dropped, ordered (stable; rows without a time
    first), cut by position, by time, `labelled_only`, `last_rows`. Raises BadInput where it cannot be done.
    """
    return read_rows_at(selection, rows_max=rows_max, bytes_max=bytes_max)[0]


def read_rows_at(
    selection: RowSelection, *, rows_max: int = ROWS_MAX, bytes_max: int = BYTES_MAX
) -> "tuple[pd.DataFrame, np.ndarray[Any, np.dtype[np.int64]]]":
    """As `read_rows`, and each row's position in the whole ordered table (what `row_start`/`row_end` count)."""
    import numpy as np

    frame = _concatenate(selection, rows_max, bytes_max)
    frame = _with_labels(frame, selection, rows_max, bytes_max)
    times = time_key(frame, selection.time_column) if selection.time_column is not None else None
    frame = _masked(frame, selection, times)
    keep = _not_excluded(len(frame), selection.excluded, times)
    order = np.arange(len(frame)) if times is None else np.argsort(_sortable(times), kind="stable")
    order = order[keep[order]]
    positions = np.arange(len(order))
    order, positions = (
        order[selection.row_start : selection.row_end],
        positions[selection.row_start : selection.row_end],
    )
    if selection.start is not None or selection.end is not None:
        inside = _between(times, selection.start, selection.end)[order]
        order, positions = order[inside], positions[inside]
    if selection.labelled_only:
        labelled = _target(frame, selection).notna().to_numpy()[order]
        order, positions = order[labelled], positions[labelled]
    if selection.last_rows is not None:
        first = max(0, len(order) - selection.last_rows)
        order, positions = order[first:], positions[first:]
    return frame.iloc[order].reset_index(drop=True), positions


def _concatenate(selection: RowSelection, rows_max: int, bytes_max: int) -> "pd.DataFrame":
    import pandas as pd

    files = list(dict.fromkeys(file for path in selection.paths for file in _files_of(Path(path))))
    if not files:
        raise BadInput("no rows are selected", got="no file", expected="at least one parquet or csv file")
    dropped = [Path(batch.path).resolve() for batch in selection.excluded if batch.path is not None]
    kept = [file for file in files if not any(file.is_relative_to(batch) for batch in dropped)]
    if not kept:
        return read_table(files[0], rows_max=rows_max, bytes_max=bytes_max).iloc[:0]
    frames = []
    for file in kept:
        frames.append(read_table(file, rows_max=rows_max, bytes_max=bytes_max))
        rows_max -= len(frames[-1])
    if len(frames) == 1:
        return frames[0]
    filled = [frame for frame in frames if len(frame)]
    return pd.concat(filled, ignore_index=True) if filled else frames[0]


def _files_of(path: Path) -> list[Path]:
    real = path.resolve()
    if not real.is_dir():
        return [real]
    files = sorted(file for file in real.iterdir() if file.name.lower().endswith(SUFFIXES))
    if not files:
        raise BadInput("folder without tables", got=str(path), expected="parquet or csv files in it")
    inside = [file.resolve() for file in files]
    for file, target in zip(files, inside, strict=True):
        if not target.is_relative_to(real):
            raise BadInput("link out of the folder", got=str(file), expected="files of the folder itself")
    return inside


def _target(frame: "pd.DataFrame", selection: RowSelection) -> "pd.Series[Any]":
    if selection.target is None:
        raise BadInput("labelled rows of a table without target", got="no target", expected="the target's name")
    if selection.target not in frame.columns:
        names = shorten(", ".join(map(str, frame.columns)), 200)
        raise BadInput("table without the target", got=f"columns {names}", expected=f"a column `{selection.target}`")
    return frame[selection.target]


def _with_labels(frame: "pd.DataFrame", selection: RowSelection, rows_max: int, bytes_max: int) -> "pd.DataFrame":
    if selection.labels_path is None:
        return frame
    import pandas as pd

    key, target = selection.labels_key, selection.target
    if key is None or target is None:
        raise BadInput("labels in a table of their own", got="no key or target", expected="both names")
    if key not in frame.columns:
        raise BadInput("rows cannot be joined with their labels", got="no such column", expected=f"a column `{key}`")
    tables = [
        read_table(file, [key, target], rows_max=rows_max, bytes_max=bytes_max)
        for file in _files_of(Path(selection.labels_path))
    ]
    labels = pd.concat(tables, ignore_index=True).dropna(subset=[key, target]).drop_duplicates(key, keep="last")
    left, right = frame[key], labels[key]
    if left.dtype != right.dtype and not (
        pd.api.types.is_numeric_dtype(left.dtype) and pd.api.types.is_numeric_dtype(right.dtype)
    ):
        left, right = left.astype(str), right.astype(str)
    truth = left.map(pd.Series(labels[target].to_numpy(), index=pd.Index(right.to_numpy())))
    if target in frame.columns:
        truth = truth.where(truth.notna(), frame[target])
    return frame.assign(**{target: truth})


def _masked(frame: "pd.DataFrame", selection: RowSelection, times: "pd.Series[Any] | None") -> "pd.DataFrame":
    target, until = selection.target, selection.labels_until
    if until is None or target is None or target not in frame.columns:
        return frame
    if times is None:
        raise BadInput("labels that are known until a time", got="no time column", expected="a model with time_column")
    known = (times <= _bound(times, until)).to_numpy()
    return frame.assign(**{target: frame[target].where(known)})


def _not_excluded(
    rows: int, excluded: tuple[ExcludedRows, ...], times: "pd.Series[Any] | None"
) -> "np.ndarray[Any, np.dtype[np.bool_]]":
    import numpy as np

    keep = np.ones(rows, dtype=bool)
    for batch in excluded:
        if batch.start is None and batch.end is None:
            if batch.path is None:
                raise BadInput("excluded rows", got="neither path nor time", expected="a path or a time range")
            continue
        keep &= ~_between(times, batch.start, batch.end)
    return keep


def time_key(frame: "pd.DataFrame", column: str) -> "pd.Series[Any]":
    """The time column as something that orders: UTC moments (a missing zone is UTC), or the numbers that are there.

    Raises BadInput where the column is absent or none of its values can be read as a time.
    """
    import pandas as pd

    if column not in frame.columns:
        names = shorten(", ".join(map(str, frame.columns)), 200)
        raise BadInput("table without the time column", got=f"columns {names}", expected=f"a column `{column}`")
    values = frame[column]
    if pd.api.types.is_numeric_dtype(values.dtype):
        return values.astype("float64")
    try:
        moments = pd.to_datetime(values, utc=True, errors="coerce", format=None if _is_time(values) else "ISO8601")
        if len(values) and moments.isna().all():
            moments = pd.to_datetime(values, utc=True, errors="coerce")
    except (ValueError, TypeError, OverflowError):
        moments = pd.Series(pd.NaT, index=values.index)
    if len(values) and values.notna().any() and moments.isna().all():
        raise BadInput("time column", got=values.dropna().iloc[0], expected=f"times or numbers in `{column}`")
    return moments


def _is_time(values: "pd.Series[Any]") -> bool:
    import pandas as pd

    return bool(pd.api.types.is_datetime64_any_dtype(values.dtype))


def _sortable(times: "pd.Series[Any]") -> "np.ndarray[Any, Any]":
    import numpy as np

    if _is_time(times):  # NaT is the smallest integer, so rows without a time come first
        return np.asarray(times.dt.tz_convert(None).to_numpy().astype("int64"))
    return np.asarray(np.nan_to_num(times.to_numpy(dtype="float64"), nan=-np.inf))


def _bound(times: "pd.Series[Any]", text: str) -> Any:
    import pandas as pd

    try:
        if not _is_time(times):
            return float(text)
        moment = pd.Timestamp(text)
    except (ValueError, TypeError):
        expected = "an RFC 3339 time" if _is_time(times) else "a number, as the time column holds"
        raise BadInput("bound in time", got=text, expected=expected) from None
    return moment.tz_localize("UTC") if moment.tzinfo is None else moment.tz_convert("UTC")


def _between(
    times: "pd.Series[Any] | None", start: str | None, end: str | None
) -> "np.ndarray[Any, np.dtype[np.bool_]]":
    import numpy as np

    if times is None:
        raise BadInput("rows by time", got="no time column", expected="a model with time_column")
    inside = times.notna().to_numpy()
    if start is not None:
        inside &= (times >= _bound(times, start)).to_numpy()
    if end is not None:
        inside &= (times < _bound(times, end)).to_numpy()
    return np.asarray(inside, dtype=bool)
