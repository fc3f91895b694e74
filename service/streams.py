"""Streams that demo and benchmark replay: the simulated factory, or a table cut into windows. Labels come after a window."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from driftwarden.clock import rfc3339
from driftwarden.contracts.watch import WatchedModel
from driftwarden.errors import BadInput

if TYPE_CHECKING:
    import pandas as pd

STREAM_START = datetime(2026, 1, 5, tzinfo=UTC)  # a stream without times advances one day a window from here
HISTORY = "history"
LABELS = "labels"
KEY = "row_id"


@dataclass(frozen=True)
class StreamWindow:
    """One batch: rows with their labels, in time order, and the time it covers (end excluded, RFC 3339)."""

    index: int
    start: str
    end: str
    rows: "pd.DataFrame"


@dataclass(frozen=True)
class ReplayStream:
    """What is replayed: rows to train the first champion on, then windows; `label_delay_windows` 0: labels at its end."""

    name: str
    task: Literal["classification", "regression"]
    target: str
    metric: str
    time_column: str | None
    train: "pd.DataFrame"
    windows: tuple[StreamWindow, ...]
    label_delay_windows: int = 0
    usd_per_point: str = "100.00"
    retrain_usd: str = "5.00"
    time_is_feature: bool = False

    def model(self, folder: Path) -> WatchedModel:
        """The model's entry, its files below `folder`."""
        delayed = self.label_delay_windows > 0
        aside = {self.target} if self.time_is_feature else {self.target, self.time_column}
        return WatchedModel.model_validate(
            {
                "name": self.name,
                "task": self.task,
                "target": self.target,
                "metric": self.metric,
                "time_column": self.time_column,
                "data": {"history": str(folder / HISTORY), "roots": [str(folder)]},
                "labels": {"uri": str(folder / LABELS), "key": KEY} if delayed else {},
                "value": {"usd_per_point": self.usd_per_point},
                "costs": {"retrain_usd": self.retrain_usd},
                "features": [str(name) for name in self.train.columns if name not in aside],
            }
        )


@dataclass(frozen=True)
class KnownStream:
    """A real stream by its name: file, columns, metric, columns that must not be features."""

    file: str
    target: str
    task: Literal["classification", "regression"]
    metric: str
    time_column: str | None = None
    leave_out: tuple[str, ...] = ()
    time_is_feature: bool = False


KNOWN_STREAMS = {
    # `date` is a time index that steps back at a few rows: the file's own order is the order.
    "elec2": KnownStream("elec2.parquet", "target", "classification", "accuracy", None, ("date",)),
    # `casual` + `registered` is the target itself; `instant` counts rows.
    "bike": KnownStream(
        "bike_sharing_hour.parquet", "cnt", "regression", "r2", None, ("casual", "registered", "instant", "dteday")
    ),
    "gas_turbine": KnownStream("gas_turbine_emissions.parquet", "NOX", "regression", "r2", None, ("CO", "year")),
    # Traffic follows the clock: the hour and the weekday are read from the time column.
    "metro": KnownStream(
        "metro_traffic.parquet", "traffic_volume", "regression", "r2", "date_time", time_is_feature=True
    ),
}


def data_folder(configured: str | None, here: Path) -> Path:
    """Where the real streams are: `DRIFTWARDEN_DATA`, else `../shared/data` beside the working directory."""
    folder = Path(configured) if configured else here.parent / "shared" / "data"
    if not folder.is_dir():
        raise BadInput("no data folder", got=str(folder), expected="the folder of the real streams in DRIFTWARDEN_DATA")
    return folder


def known_stream(
    name: str, folder: Path, *, windows: int = 20, train_share: float = 0.2, label_delay_windows: int = 0
) -> ReplayStream:
    """A real stream by name."""
    if name not in KNOWN_STREAMS:
        raise BadInput("unknown stream", got=name, expected=f"one of: factory, {', '.join(KNOWN_STREAMS)}")
    known = KNOWN_STREAMS[name]
    return table_stream(
        folder / known.file,
        name=name,
        target=known.target,
        task=known.task,
        metric=known.metric,
        time_column=known.time_column,
        leave_out=known.leave_out,
        time_is_feature=known.time_is_feature,
        windows=windows,
        train_share=train_share,
        label_delay_windows=label_delay_windows,
    )


def table_stream(
    file: Path,
    *,
    name: str,
    target: str,
    task: Literal["classification", "regression"],
    metric: str,
    time_column: str | None = None,
    leave_out: Sequence[str] = (),
    time_is_feature: bool = False,
    windows: int = 20,
    train_share: float = 0.2,
    label_delay_windows: int = 0,
) -> ReplayStream:
    """Cut a table in time order: the first `train_share` of its rows to train on, the rest into equal windows."""
    from driftwarden.tables import read_table, resolve, time_key

    path = resolve(str(file), [file.expanduser().resolve().parent])
    frame = read_table(path)
    for column in (target, time_column):
        if column is not None and column not in frame.columns:
            shown = ", ".join(map(str, list(frame.columns)[:12]))
            raise BadInput("column", got=column, expected=f"one of: {shown}", where=str(path))
    frame = frame.drop(columns=[column for column in leave_out if column in frame.columns])
    frame = frame[frame[target].notna()].reset_index(drop=True)
    if time_column is not None:
        order = time_key(frame, time_column).argsort(kind="stable")
        frame = frame.iloc[order.to_numpy()].reset_index(drop=True)
    cut = int(len(frame) * train_share)
    if cut < 100 or (len(frame) - cut) // windows < 20:
        raise BadInput(
            "table too short",
            got=f"{len(frame)} rows",
            expected=f"100 to train on and {windows} windows of 20",
            where=str(path),
        )
    edges = [cut + (len(frame) - cut) * index // windows for index in range(windows + 1)]
    return ReplayStream(
        name=name,
        task=task,
        target=target,
        metric=metric,
        time_column=time_column,
        train=frame.iloc[:cut].reset_index(drop=True),
        windows=tuple(
            _window(index, frame.iloc[edges[index] : edges[index + 1]].reset_index(drop=True), time_column)
            for index in range(windows)
        ),
        label_delay_windows=label_delay_windows,
        time_is_feature=time_is_feature,
    )


def _window(index: int, rows: "pd.DataFrame", time_column: str | None) -> StreamWindow:
    start, end = STREAM_START + timedelta(days=index), STREAM_START + timedelta(days=index + 1)
    if time_column is not None:
        times = _times(rows[time_column])
        if times is not None:
            start, end = times
    return StreamWindow(index, rfc3339(start), rfc3339(end), rows)


def _times(column: Any) -> tuple[datetime, datetime] | None:
    import pandas as pd

    times = pd.to_datetime(column, errors="coerce", utc=True).dropna()
    if times.empty or times.iloc[0].year < 1971:  # a number, not a time
        return None
    return times.iloc[0].to_pydatetime(), (times.iloc[-1] + pd.Timedelta(seconds=1)).to_pydatetime()


def factory_stream(seed: int, windows: int) -> tuple[ReplayStream, Any]:
    """The simulated factory, and what really happened in it (which only the summary may see)."""
    from driftwarden.pipelines.simulator import TARGET, TIME_COLUMN, simulate

    stream = simulate(seed=seed, windows=windows)
    return (
        ReplayStream(
            name="factory-failure",
            task="classification",
            target=TARGET,
            metric="accuracy",
            time_column=TIME_COLUMN,
            train=stream.train,
            windows=tuple(
                StreamWindow(one.index, rfc3339(one.start), rfc3339(one.end), one.rows) for one in stream.windows
            ),
        ),
        stream.truth,
    )
