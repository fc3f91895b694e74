"""Faults of known cause, injected into windows of real rows: what `bench diagnosis` asks the diagnosis to name. Pure."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from driftwarden.contracts.base import RootCause

UNITS = ((1.8, 32.0), (1000.0, 0.0), (0.001, 0.0), (25.4, 0.0), (0.45359237, 0.0))
DISTANCE_MIN = 0.35  # columns that look alike cannot be seen to be exchanged


@dataclass(frozen=True)
class Bed:
    """Where a fault is laid: a clean window and the reference before it, and the columns by kind."""

    window: pd.DataFrame
    reference: pd.DataFrame
    target: str
    task: str
    numeric: tuple[str, ...]
    categorical: tuple[str, ...]


@dataclass(frozen=True)
class Injected:
    """The spoiled window, and the columns that the fault concerns (none for faults of no column)."""

    rows: pd.DataFrame
    columns: tuple[str, ...] = ()


Inject = Callable[[Bed, np.random.Generator], Injected | None]


def _unit_change(bed: Bed, rng: np.random.Generator) -> Injected | None:
    """Every value in another unit, whichever known conversion moves the column plainly."""
    for name in _drawn(_varied(bed), rng):
        factor, offset = UNITS[int(rng.integers(len(UNITS)))]
        values = bed.window[name].astype("float64") * factor + offset
        if _distance(bed.reference[name], values) > 2 * DISTANCE_MIN:
            return Injected(bed.window.assign(**{name: values}), (name,))
    return None


def _missing(bed: Bed, rng: np.random.Generator) -> Injected | None:
    """Three to eight of ten values lost, anywhere in the window."""
    name = next(iter(_drawn((*bed.numeric, *bed.categorical), rng)), None)
    if name is None:
        return None
    lost = rng.random(len(bed.window)) < rng.uniform(0.3, 0.8)
    return Injected(bed.window.assign(**{name: bed.window[name].astype(object).where(~lost).infer_objects()}), (name,))


def _stuck(bed: Bed, rng: np.random.Generator) -> Injected | None:
    """A sensor that repeats itself from somewhere in the first half to the end."""
    for name in _drawn(_varied(bed, 50), rng):
        first = int(rng.integers(len(bed.window) // 2))
        values = bed.window[name].astype("float64").to_numpy(copy=True)
        values[first:] = values[first]
        return Injected(bed.window.assign(**{name: values}), (name,))
    return None


def _swapped(bed: Bed, rng: np.random.Generator) -> Injected | None:
    """Two columns exchanged that do not look alike."""
    names = list(_drawn(_varied(bed), rng))
    for place, one in enumerate(names):
        for other in names[place + 1 :]:
            if _distance(bed.reference[one], bed.reference[other]) > DISTANCE_MIN:
                swapped: dict[str, Any] = {one: bed.window[other].to_numpy(), other: bed.window[one].to_numpy()}
                return Injected(bed.window.assign(**swapped), (one, other))
    return None


def _new_category(bed: Bed, rng: np.random.Generator) -> Injected | None:
    """A value never seen takes two to five of ten rows; their truth is drawn anew, since nothing is known of them."""
    name = next(iter(_drawn(bed.categorical, rng)), None)
    if name is None:
        return None
    fresh = rng.random(len(bed.window)) < rng.uniform(0.2, 0.5)
    values = bed.window[name].astype(object).where(~fresh, "never-seen")
    truth = bed.window[bed.target].to_numpy(copy=True)
    truth[fresh] = rng.permutation(truth[fresh])
    spoiled: dict[str, Any] = {name: values, bed.target: truth}
    return Injected(bed.window.assign(**spoiled), (name,))


def _outliers(bed: Bed, rng: np.random.Generator) -> Injected | None:
    """A burst of readings far beyond anything before, in one of twenty to one of seven rows."""
    for name in _drawn(_varied(bed), rng):
        known = bed.reference[name].astype("float64")
        spread = float(known.max() - known.min())
        hit = rng.random(len(bed.window)) < rng.uniform(0.05, 0.15)
        wild = float(known.median()) + spread * rng.uniform(10, 40, len(bed.window)) * rng.choice([-1, 1])
        return Injected(bed.window.assign(**{name: np.where(hit, wild, bed.window[name].astype("float64"))}), (name,))
    return None


def _concept(bed: Bed, rng: np.random.Generator) -> Injected | None:
    """The relation turns over: the truth mirrored for the rows on one side of the column that says most about it."""
    name = _telling(bed)
    if name is None:
        return None
    values = bed.window[name].astype("float64")
    side = (values > values.median()).to_numpy() if rng.random() < 0.5 else (values <= values.median()).to_numpy()
    truth = bed.window[bed.target].to_numpy(copy=True)
    if bed.task == "regression":
        mirrored = float(np.nanmin(truth)) + float(np.nanmax(truth)) - truth
    else:
        classes = np.array(sorted(set(truth.tolist()), key=str))
        mirrored = classes[(np.searchsorted(classes.astype(str), truth.astype(str)) + 1) % len(classes)]
    return Injected(bed.window.assign(**{bed.target: np.where(side, mirrored, truth)}))


def _covariate(bed: Bed, rng: np.random.Generator) -> Injected | None:
    """Half of the window's rows, drawn by an exponential tilt of one column: inputs move, what they mean does not."""
    name = next(iter(_drawn(_varied(bed), rng)), None)
    if name is None:
        return None
    rank = bed.window[name].astype("float64").rank(pct=True).fillna(0.5).to_numpy()
    tilted = np.exp(8 * rank * rng.choice([-1, 1]))
    return Injected(_resampled(bed.window, tilted, rng), (name,))


def _label_shift(bed: Bed, rng: np.random.Generator) -> Injected | None:
    """Half of the window's rows, drawn by their truth alone: another mix of outcomes, each looking as before."""
    truth = bed.window[bed.target]
    if bed.task == "regression":
        rank = truth.astype("float64").rank(pct=True).fillna(0.5).to_numpy()
        return Injected(_resampled(bed.window, np.exp(8 * rank * rng.choice([-1, 1])), rng))
    counts = truth.value_counts()
    if len(counts) < 2:
        return None
    rare = (truth == counts.index[-1]).to_numpy()
    wanted = min(0.95, max(0.4, 1 - float(rare.mean()) if rare.mean() > 0.3 else 0.5) + 0.2)
    return Injected(_resampled(bed.window, np.where(rare, wanted / rare.mean(), (1 - wanted) / (1 - rare.mean())), rng))


def _none(bed: Bed, rng: np.random.Generator) -> Injected | None:
    """Nothing is done to the window: what the diagnosis says here is what the stream itself holds."""
    del rng
    return Injected(bed.window)


FAULTS: dict[str, tuple[RootCause, Inject]] = {
    "unit_change": (RootCause.UNIT_CHANGE, _unit_change),
    "missing_values": (RootCause.MISSING_VALUES, _missing),
    "stuck_values": (RootCause.STUCK_VALUES, _stuck),
    "swapped_columns": (RootCause.SWAPPED_COLUMNS, _swapped),
    "new_category": (RootCause.NEW_CATEGORY, _new_category),
    "outlier_burst": (RootCause.OUTLIER_BURST, _outliers),
    "concept_drift": (RootCause.CONCEPT_DRIFT, _concept),
    "covariate_shift": (RootCause.COVARIATE_SHIFT, _covariate),
    "label_shift": (RootCause.LABEL_SHIFT, _label_shift),
    "none": (RootCause.FALSE_ALARM, _none),
}


def _drawn(names: Sequence[str], rng: np.random.Generator) -> list[str]:
    return [names[place] for place in rng.permutation(len(names))]


def _varied(bed: Bed, distinct_min: int = 20) -> tuple[str, ...]:
    """Numeric columns that hold many different values, on both sides: a reading, and no flag or code."""
    return tuple(
        name
        for name in bed.numeric
        if min(bed.reference[name].nunique(), bed.window[name].nunique()) >= distinct_min
        and bed.window[name].notna().mean() > 0.9
    )


def _distance(one: "pd.Series[Any]", other: "pd.Series[Any]") -> float:
    from scipy.stats import ks_2samp

    return float(ks_2samp(one.dropna().astype("float64"), other.dropna().astype("float64"), method="asymp").statistic)


def _telling(bed: Bed) -> str | None:
    """The numeric column whose ranks go most with the truth's, in the reference."""
    truth = pd.Series(pd.factorize(bed.reference[bed.target], sort=True)[0]).rank()
    best, most = None, 0.0
    for name in _varied(bed):
        strength = abs(float(bed.reference[name].astype("float64").reset_index(drop=True).rank().corr(truth)))
        if strength > most:
            best, most = name, strength
    return best


def _resampled(rows: pd.DataFrame, weights: NDArray[Any], rng: np.random.Generator) -> pd.DataFrame:
    """Half of the rows, each once (a row that comes twice in a row would look like a sensor that is stuck)."""
    chosen = rng.choice(len(rows), size=len(rows) // 2, replace=False, p=weights / weights.sum())
    return rows.iloc[np.sort(chosen)].reset_index(drop=True)
