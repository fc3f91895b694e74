"""A factory under watch: a seeded simulation of machine sensors, of failures, and of what goes wrong with both.

One row is one hourly reading of one machine: temperature (degrees Celsius), vibration (mm/s), pressure (bar), load
(% of capacity), ambient (degrees Celsius), tool_wear (minutes), machine_type (`A`, `B`, `C`), and whether the machine
failed within the next shift (`failure`, 0 or 1, about a quarter of the rows). Sensors follow each other (autoregressive),
days, weeks and a mild yearly cycle; some training weeks were hot spells with a slower line, as every summer has them.

Faults, by name (`FAULTS`), are either in the world or in the data. In the world: `seasonal_pattern` (another hot spell:
inputs move, the relation does not), `new_machine_type` (type `D` with habits of its own), `gradual_concept` (a new tool
alloy is phased in: vibration no longer foretells failure, and low pressure does instead of high), `abrupt_concept` (a
coolant is replaced: heat no longer hurts, cold does). In the data, the world being as before: `unit_change`,
`stuck_sensor`, `missing_values`.

The fault's name is in `Stream.truth` and nowhere else: whoever watches sees windows and labels, like anyone.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.signal import lfilter

Array = NDArray[Any]
FaultName = Literal[
    "seasonal_pattern",
    "new_machine_type",
    "gradual_concept",
    "abrupt_concept",
    "unit_change",
    "stuck_sensor",
    "missing_values",
]
FAULTS: tuple[FaultName, ...] = (
    "seasonal_pattern",
    "new_machine_type",
    "gradual_concept",
    "abrupt_concept",
    "unit_change",
    "stuck_sensor",
    "missing_values",
)
LASTING: frozenset[FaultName] = frozenset({"new_machine_type", "gradual_concept", "abrupt_concept"})

TARGET = "failure"
TIME_COLUMN = "ts"
FEATURES = ("temperature", "vibration", "pressure", "load", "ambient", "tool_wear", "machine_type")
ROW_INTERVAL = timedelta(hours=1)
START = datetime(2025, 1, 6, tzinfo=UTC)
HOT_SPELLS = (0.22, 0.70)
HOT_SPELL_SHARE = 0.07
GRADUAL_WINDOWS = 3
SENSORS = ("temperature", "vibration")
UNITS: tuple[tuple[str, str, float, float], ...] = (
    ("temperature", "celsius to fahrenheit", 1.8, 32.0),
    ("pressure", "bar to psi", 14.503774, 0.0),
    ("pressure", "bar to kilopascal", 100.0, 0.0),
)


@dataclass(frozen=True)
class Fault:
    """One fault: its kind, the first window (0-based) and how many windows it lasts (None: to the end).

    `onset`: where in the first window it begins (0..1). `column` and `unit` (an index into `UNITS`) are drawn from the seed
    where they are None.
    """

    kind: FaultName
    window: int
    windows: int | None = 1
    onset: float = 0.0
    column: str | None = None
    unit: int | None = None


@dataclass(frozen=True)
class Truth:
    """What really happened, for the summary alone: the fault in force in a window, and the window's row it began at."""

    window: int
    kind: FaultName
    columns: tuple[str, ...]
    onset_row: int
    detail: str = ""


@dataclass(frozen=True)
class SimulatedWindow:
    """One batch as it arrives: rows with their labels, `start` <= ts < `end`."""

    index: int
    start: datetime
    end: datetime
    rows: pd.DataFrame


@dataclass(frozen=True)
class Stream:
    """Training history, then windows one after another, then what really happened."""

    train: pd.DataFrame
    windows: tuple[SimulatedWindow, ...]
    truth: tuple[Truth, ...]


def default_schedule(windows: int = 22) -> tuple[Fault, ...]:
    """The demo's story: quiet, a season, a wrong unit, gaps, a slow change, a stuck sensor, a sudden change, a new machine.

    Data faults pass after one batch, changes of the world stay. Faults beyond `windows` are left out.
    """
    story = (
        Fault("seasonal_pattern", 2, windows=1),
        Fault("unit_change", 4),
        Fault("missing_values", 6),
        Fault("gradual_concept", 8, windows=None),
        Fault("stuck_sensor", 13, onset=0.25),
        Fault("abrupt_concept", 15, windows=None),
        Fault("new_machine_type", 21, windows=None),
    )
    return tuple(fault for fault in story if fault.window < windows)


def simulate(
    seed: int = 0,
    windows: int = 22,
    rows_per_window: int = 600,
    train_rows: int = 6000,
    faults: Sequence[Fault] | None = None,
    *,
    start: datetime = START,
) -> Stream:
    """Simulate a training history and the windows that follow it; the same arguments give the same rows.

    `faults` None is the default schedule. The seed decides noise, columns, units and sizes, never which faults there are.
    Raises ValueError for a fault of an unknown kind or outside the windows.
    """
    planned = default_schedule(windows) if faults is None else tuple(faults)
    for fault in planned:
        if fault.kind not in FAULTS or not 0 <= fault.window < windows or not 0 <= fault.onset < 1:
            raise ValueError(f"fault {fault} cannot be placed in {windows} windows")
    detail, world = (np.random.default_rng(part) for part in np.random.SeedSequence(seed).spawn(2))
    planned = tuple(_settled(fault, detail) for fault in planned)
    rows = train_rows + windows * rows_per_window
    spans = [_span(fault, train_rows, rows_per_window, rows) for fault in planned]
    table = _world(world, rows, train_rows, planned, spans, rows_per_window, start)
    for fault, span in zip(planned, spans, strict=True):
        _spoil(table, fault, span, detail)
    arrived = []
    for index in range(windows):
        first = train_rows + index * rows_per_window
        part = table.iloc[first : first + rows_per_window].reset_index(drop=True)
        begin = start + first * ROW_INTERVAL
        arrived.append(SimulatedWindow(index, begin, begin + rows_per_window * ROW_INTERVAL, part))
    truth = tuple(
        record
        for fault, span in zip(planned, spans, strict=True)
        for record in _truth(fault, span, train_rows, rows_per_window)
    )
    return Stream(
        train=table.iloc[:train_rows].reset_index(drop=True),
        windows=tuple(arrived),
        truth=tuple(sorted(truth, key=lambda record: (record.window, record.kind))),
    )


def _settled(fault: Fault, rng: np.random.Generator) -> Fault:
    """The fault with what the seed decides: always the same number of draws, so that one fault never moves another."""
    sensor, unit = SENSORS[int(rng.integers(len(SENSORS)))], int(rng.integers(len(UNITS)))
    if fault.kind == "unit_change":
        chosen = unit if fault.unit is None else fault.unit
        return replace(fault, unit=chosen, column=UNITS[chosen][0])
    if fault.kind in {"stuck_sensor", "missing_values"}:
        return replace(fault, column=fault.column or sensor)
    return fault


def _span(fault: Fault, train_rows: int, rows_per_window: int, rows: int) -> slice:
    first = train_rows + fault.window * rows_per_window
    last = rows if fault.windows is None else min(rows, first + fault.windows * rows_per_window)
    return slice(first + int(fault.onset * rows_per_window), last)


def _truth(fault: Fault, span: slice, train_rows: int, rows_per_window: int) -> list[Truth]:
    columns = {"new_machine_type": ("machine_type",), "seasonal_pattern": ("ambient", "temperature", "load")}
    named = (fault.column,) if fault.column else columns.get(fault.kind, ())
    words = UNITS[fault.unit][1] if fault.kind == "unit_change" and fault.unit is not None else ""
    found = []
    for window in range((span.start - train_rows) // rows_per_window, -(-(span.stop - train_rows) // rows_per_window)):
        onset = max(0, span.start - train_rows - window * rows_per_window)
        found.append(Truth(window, fault.kind, named, onset, words))
    return found


def _ar(rng: np.random.Generator, rows: int, persistence: float, deviation: float) -> Array:
    """A first-order autoregression with the given stationary standard deviation."""
    shocks = rng.normal(scale=deviation * np.sqrt(1 - persistence**2), size=rows + 200)
    return np.asarray(lfilter([1.0], [1.0, -persistence], shocks)[200:])


def _world(
    rng: np.random.Generator,
    rows: int,
    train_rows: int,
    faults: Sequence[Fault],
    spans: Sequence[slice],
    rows_per_window: int,
    start: datetime,
) -> pd.DataFrame:
    """The sensors as they are and the failures that follow from them, data faults aside."""
    hour = np.arange(rows)
    day, weekend = np.sin(2 * np.pi * (hour % 24 - 8) / 24), (hour // 24) % 7 >= 5
    hot, newcomers = np.zeros(rows), np.zeros(rows, dtype=bool)
    for place in HOT_SPELLS:
        first = int(place * train_rows)
        hot[first : first + int(HOT_SPELL_SHARE * train_rows)] = 1
    arrivals = rng.random(rows)
    for fault, span in zip(faults, spans, strict=True):
        if fault.kind == "seasonal_pattern":
            hot[span] = 1
        elif fault.kind == "new_machine_type":
            newcomers[span] = arrivals[span] < 0.35
    machine = rng.choice(np.array(["A", "B", "C"], dtype=object), size=rows, p=[0.5, 0.3, 0.2])
    machine[newcomers] = "D"
    yearly = np.sin(2 * np.pi * hour / (24 * 365.25))
    ambient = 20 + 1.0 * yearly + 4 * day + 9 * hot + _ar(rng, rows, 0.9, 1.6)
    load = np.clip(62 + 10 * day - 8 * weekend - 9 * hot + _ar(rng, rows, 0.85, 7), 5, 100)
    wear = _tool_wear(rng, rows)
    warmer = pd.Series(machine).map({"A": 0.0, "B": 2.0, "C": -2.0, "D": 5.0}).to_numpy(dtype=float)
    temperature = 48 + 0.5 * (ambient - 20) + 0.15 * (load - 62) + warmer + _ar(rng, rows, 0.6, 4.5)
    vibration = np.clip(3 + 0.006 * (wear - 110) + 0.01 * (load - 62) + _ar(rng, rows, 0.6, 0.8), 0.1, None)
    pressure = np.clip(6 + 0.01 * (load - 62) + _ar(rng, rows, 0.7, 0.5), 1, None)
    sensors = {
        TIME_COLUMN: pd.date_range(start, periods=rows, freq=ROW_INTERVAL),
        "temperature": temperature.round(2),
        "vibration": vibration.round(3),
        "pressure": pressure.round(3),
        "load": load.round(1),
        "ambient": ambient.round(2),
        "tool_wear": wear.round(0),
        "machine_type": machine,
    }
    table = pd.DataFrame(sensors)
    chance = _failure_chance(table, _phases(faults, spans, rows, rows_per_window))
    table[TARGET] = (rng.random(rows) < chance).astype(int)
    return table


def _tool_wear(rng: np.random.Generator, rows: int) -> Array:
    """Minutes of use since the tool was changed, one tool in the machine's turn of rows: a saw-tooth with uneven teeth."""
    wear, worn, limit = np.empty(rows), float(rng.uniform(0, 200)), 220.0
    steps, limits = rng.uniform(4, 12, size=rows), rng.uniform(180, 260, size=rows)
    for row in range(rows):
        worn += float(steps[row])
        if worn > limit:
            worn, limit = 0.0, float(limits[row])
        wear[row] = worn
    return wear


def _phases(faults: Sequence[Fault], spans: Sequence[slice], rows: int, rows_per_window: int) -> tuple[Array, Array]:
    """How far each change of the relation has come (0..1), row by row: the gradual one and the abrupt one."""
    gradual, abrupt = np.zeros(rows), np.zeros(rows)
    for fault, span in zip(faults, spans, strict=True):
        length = span.stop - span.start
        if fault.kind == "gradual_concept":
            gradual[span] = np.clip(np.arange(length) / (GRADUAL_WINDOWS * rows_per_window), 0, 1)
        elif fault.kind == "abrupt_concept":
            abrupt[span] = 1
    return gradual, abrupt


def _failure_chance(table: pd.DataFrame, phases: tuple[Array, Array]) -> Array:
    """The probability of failure: heat, vibration, wear under load, and pressure far from its set point."""
    gradual, abrupt = phases
    newcomer = (table["machine_type"] == "D").to_numpy()
    heat = (table["temperature"].to_numpy(dtype=float) - 48) / 5
    shake = (table["vibration"].to_numpy(dtype=float) - 3) / 0.9
    press = (table["pressure"].to_numpy(dtype=float) - 6) / 0.5
    worn = (table["tool_wear"].to_numpy(dtype=float) - 110) / 65 * (table["load"].to_numpy(dtype=float) / 62)
    heat_effect = 1.9 * (1 - abrupt) - 0.9 * abrupt
    shake_effect = 2.0 * (1 - gradual) - 0.6 * gradual
    press_effect = 1.7 * (1 - gradual) - 1.7 * gradual
    habits = np.where(newcomer, -0.85, 1.0)  # what harms the others spares type D, and the other way round
    log_odds = -2.7 + habits * (heat_effect * heat + shake_effect * shake + press_effect * press) + 0.8 * worn
    log_odds = log_odds + np.where(newcomer, 2.0, 0.0)
    return np.asarray(1 / (1 + np.exp(-np.clip(1.3 * log_odds, -30, 30))))


def _spoil(table: pd.DataFrame, fault: Fault, span: slice, rng: np.random.Generator) -> None:
    """Spoil the readings, not the world: what a sensor, a gateway or an import makes of good values."""
    share, place = float(rng.uniform(0.7, 0.9)), rng.random(span.stop - span.start)
    rows = table.index[span]
    if fault.kind == "unit_change" and fault.unit is not None:
        column, _, factor, offset = UNITS[fault.unit]
        table.loc[rows, column] = (table.loc[rows, column] * factor + offset).round(2)
    elif fault.kind == "stuck_sensor" and fault.column is not None:
        table.loc[rows, fault.column] = table.loc[rows[0], fault.column]
    elif fault.kind == "missing_values" and fault.column is not None:
        table.loc[rows[place < share], fault.column] = np.nan
