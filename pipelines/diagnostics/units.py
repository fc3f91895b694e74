"""Was a unit changed: is the window's distribution a known conversion of the reference's, and equal after undoing it?"""

from typing import NamedTuple

import numpy as np

from driftwarden.contracts.measurements import UnitChange, UnitMeasure
from driftwarden.pipelines.diagnostics.case import (
    Array,
    DiagnosticInput,
    finite,
    ks_distance,
    robust_spread,
    stretch_distances,
)

BEFORE_MIN = 0.45
BEYOND_USUAL = 0.1
DISJOINT = 0.95
OUTSIDE_SHARE_MIN = 0.8
SPREAD_RATIO_MIN = 8.0
RESIDUAL_MAX = 0.25
ROWS_MIN = 20
SEGMENT_SHARE_MIN = 0.05
SEGMENT_PURITY_MIN = 0.8


class Conversion(NamedTuple):
    """`window = factor * reference + offset`."""

    name: str
    factor: float
    offset: float = 0.0


def _both_ways(forward: str, back: str, factor: float, offset: float = 0.0) -> list[Conversion]:
    return [Conversion(forward, factor, offset), Conversion(back, 1 / factor, -offset / factor)]


CONVERSIONS: tuple[Conversion, ...] = (
    *_both_ways("celsius to fahrenheit", "fahrenheit to celsius", 1.8, 32.0),
    *_both_ways("celsius to kelvin", "kelvin to celsius", 1.0, 273.15),
    *_both_ways("fahrenheit to kelvin", "kelvin to fahrenheit", 1 / 1.8, 273.15 - 32 / 1.8),
    *_both_ways("bar to psi", "psi to bar", 14.503774),
    *_both_ways("psi to kilopascal", "kilopascal to psi", 6.894757),
    *_both_ways("times 100 (bar to kilopascal, share to percent)", "divided by 100", 100.0),
    *_both_ways("times 1000 (kilo)", "divided by 1000 (kilo)", 1000.0),
    *_both_ways("times 100000 (bar to pascal)", "divided by 100000", 1e5),
    *_both_ways("times 1000000 (mega)", "divided by 1000000 (mega)", 1e6),
    *_both_ways("times 10", "divided by 10", 10.0),
    *_both_ways("mph to km/h", "km/h to mph", 1.609344),
    *_both_ways("m/s to km/h", "km/h to m/s", 3.6),
    *_both_ways("inch to millimetre", "millimetre to inch", 25.4),
    *_both_ways("inch to centimetre", "centimetre to inch", 2.54),
    *_both_ways("metre to foot", "foot to metre", 3.28084),
    *_both_ways("kilogram to pound", "pound to kilogram", 2.204623),
    *_both_ways("hours to minutes (times 60)", "minutes to hours (divided by 60)", 60.0),
    *_both_ways("hours to seconds", "seconds to hours", 3600.0),
    Conversion("sign reversed", -1.0),
)


def measure_units(case: DiagnosticInput) -> UnitMeasure:
    """Numeric features whose values are a known conversion of the reference's, in the whole window or from some row on.

    Accepted where the distance of the distributions was at least 0.45 as it stood, and beyond what any stretch of the
    reference lies from the rest of it; is at most 0.25, or twice what such stretches typically show, after undoing it; and
    the values are implausible in the old unit: four fifths of them beyond the reference's range, or their spread another by
    a factor of eight (a column that wanders with the year fits some conversion by chance).
    `confidence` = 1 - (residual beyond that typical distance) / (distance before).
    """
    names = [name for name in case.shared if case.type_of(name) == "numeric"]
    if not names:
        return UnitMeasure(**case.facts, unavailable="no numeric feature in both tables")
    found = []
    for name in names:
        change = unit_change(name, case.values("reference", name), case.values("current", name))
        if change is not None:
            found.append(change)
    found.sort(key=lambda change: (-change.confidence, change.name))
    return UnitMeasure(**case.facts, columns=tuple(found))


def unit_change(name: str, reference: Array, current: Array) -> UnitChange | None:
    """The conversion that explains a column best, or None; rows outside the reference's range are tried by themselves."""
    base = finite(reference)
    if len(base) < ROWS_MIN or robust_spread(base) == 0:
        return None
    for part in (current, foreign_segment(base, current)):
        window = finite(part)
        if len(window) < ROWS_MIN or robust_spread(window) == 0:
            continue
        before = ks_distance(base, window)
        usual = stretch_distances(base, len(window)) or [0.0]
        typical = float(np.median(usual))
        if before < max(BEFORE_MIN, min(DISJOINT, max(usual) + BEYOND_USUAL)) or not _implausible(base, window):
            continue
        residual, best = min((ks_distance(base, (window - c.offset) / c.factor), c) for c in CONVERSIONS)
        if residual <= max(RESIDUAL_MAX, min(2 * typical, 0.35)) and residual <= before / 2:
            return UnitChange(
                name=name,
                factor=best.factor,
                offset=best.offset,
                before=before,
                residual=residual,
                name_of_change=best.name,
                confidence=float(np.clip(1 - max(0.0, residual - typical) / before, 0, 1)),
            )
    return None


def _implausible(base: Array, window: Array) -> bool:
    """Nearly all values lie where the reference never was, or the spread is another by a factor of eight."""
    low, high = np.percentile(base, [0.1, 99.9])
    margin = 0.5 * robust_spread(base)
    ratio = robust_spread(window) / robust_spread(base)
    outside = float(((window < low - margin) | (window > high + margin)).mean())
    return outside >= OUTSIDE_SHARE_MIN or max(ratio, 1 / ratio) >= SPREAD_RATIO_MIN


def foreign_segment(base: Array, current: Array) -> Array:
    """The stretch of the window that lies outside the reference's range, where nearly all of that stretch does."""
    low, high = np.percentile(base, [0.1, 99.9])
    margin = robust_spread(base)
    outside = np.isfinite(current) & ((current < low - margin) | (current > high + margin))
    rows = np.flatnonzero(outside)
    if len(rows) < max(ROWS_MIN, SEGMENT_SHARE_MIN * len(current)):
        return current[:0]
    segment = slice(int(rows[0]), int(rows[-1]) + 1)
    known = np.isfinite(current[segment]).sum()
    return current[segment] if outside[segment].sum() >= SEGMENT_PURITY_MIN * known else current[:0]
