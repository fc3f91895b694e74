"""Which remedies suit which cause, and what each costs and brings: fixed knowledge, and arithmetic on the model card.

A benefit is the recoverable loss: points of the metric lost (0.01 each) x value of a point a day x 7 days. It is what
full repair would bring within a week, an upper bound; how likely a candidate is to bring it, the rehearsal measures.
"""

from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal, InvalidOperation
from typing import Any, Literal

from driftwarden.contracts.base import ActionName, RootCause
from driftwarden.contracts.measurements import PerformanceMeasure
from driftwarden.contracts.ports import JsonObject
from driftwarden.contracts.watch import Costs

HORIZON_DAYS = 7
POINT = Decimal("0.01")
LOSS_MIN = 0.005  # a relative loss below half a percent is not harm
P_WORSE_MIN = 0.9
STALE_WINDOWS = 3  # so many windows in a row, drifted and harmless, make a reference stale
STALE_SHARE = 0.3

Harm = Literal["yes", "no", "unknown"]

MENDING = frozenset(
    {
        ActionName.RETRAIN,
        ActionName.ROLLBACK,
        ActionName.RECALIBRATE,
        ActionName.FALLBACK_MODEL,
        ActionName.QUARANTINE_DATA,
    }
)
DATA_FAULTS = frozenset(
    {
        RootCause.UNIT_CHANGE,
        RootCause.MISSING_VALUES,
        RootCause.STUCK_VALUES,
        RootCause.SWAPPED_COLUMNS,
        RootCause.OUTLIER_BURST,
        RootCause.SCHEMA_CHANGE,
    }
)


@dataclass(frozen=True)
class Remedy:
    """An action and how it would be done, before anything is known of this case's versions and files."""

    action: ActionName
    strategy: str | None = None


_RETRAIN_ALL = Remedy(ActionName.RETRAIN, "all")
_RETRAIN_RECENT = Remedy(ActionName.RETRAIN, "recent")
_RETRAIN_SINCE = Remedy(ActionName.RETRAIN, "since_drift")
_ROLLBACK = Remedy(ActionName.ROLLBACK)
_QUARANTINE = Remedy(ActionName.QUARANTINE_DATA)
_RECALIBRATE = Remedy(ActionName.RECALIBRATE)
_REFRESH = Remedy(ActionName.REFRESH_REFERENCE)
_NOTIFY = Remedy(ActionName.NOTIFY)
_NONE = Remedy(ActionName.NONE)

_MEND: dict[RootCause, tuple[Remedy, ...]] = {
    RootCause.CONCEPT_DRIFT: (_RETRAIN_SINCE, _RETRAIN_RECENT, _RETRAIN_ALL, _ROLLBACK, _NOTIFY),
    RootCause.COVARIATE_SHIFT: (_RETRAIN_ALL, _RETRAIN_RECENT, _NOTIFY),
    RootCause.NEW_CATEGORY: (_RETRAIN_ALL, _RETRAIN_RECENT, _NOTIFY),
    RootCause.LABEL_SHIFT: (_RETRAIN_RECENT, _RETRAIN_ALL, _NOTIFY, _RECALIBRATE),
    # The champion has seen this season: it passes by itself, and what is trained on it forgets the rest of the year.
    RootCause.SEASONAL_PATTERN: (_NONE, _NOTIFY, _RETRAIN_ALL),
    RootCause.SAMPLING_BIAS: (_QUARANTINE, _NOTIFY),
    RootCause.UNKNOWN: (_RETRAIN_ALL, _RETRAIN_RECENT, _RETRAIN_SINCE, _ROLLBACK, _NOTIFY),
    RootCause.FALSE_ALARM: (_NONE, _NOTIFY),
}


def remedies(cause: RootCause, harm: Harm, *, stale_reference: bool = False) -> tuple[Remedy, ...]:
    """Remedies for a cause in the usual order of preference; no harm asks for no repair, broken data never for training."""
    if cause in DATA_FAULTS or cause is RootCause.UPSTREAM_FAILURE:
        return (_QUARANTINE, _NOTIFY)
    if harm == "no":
        return (_REFRESH, _NONE) if stale_reference else (_NONE, _NOTIFY)
    if harm == "unknown" and cause in {RootCause.SEASONAL_PATTERN, RootCause.FALSE_ALARM}:
        return (_NONE, _NOTIFY)
    if harm == "unknown" and cause in {RootCause.UNKNOWN, RootCause.SAMPLING_BIAS}:
        return (_NOTIFY, _NONE)
    return _MEND[cause]


def harm_of(performance: PerformanceMeasure | None) -> Harm:
    """Whether the champion is measurably worse; `unknown` where nothing was measured, reported or estimated."""
    if performance is None or performance.basis == "none" or performance.relative_loss is None:
        return "unknown"
    worse = performance.p_worse is None or performance.p_worse >= P_WORSE_MIN
    return "yes" if performance.relative_loss > LOSS_MIN and worse else "no"


def reference_is_stale(history: list[JsonObject]) -> bool:
    """Whether the last windows all drifted without harm, so that the monitors cry at what has become normal."""
    last = history[-STALE_WINDOWS:]
    return len(last) == STALE_WINDOWS and all(_drifted_unharmed(window) for window in last)


def _drifted_unharmed(window: JsonObject) -> bool:
    numbers = [window.get(name) for name in ("drift_share", "value", "reference")]
    if not all(isinstance(number, int | float) for number in numbers):
        return False
    share, value, reference = (float(number) for number in numbers if number is not None)
    return bool(share >= STALE_SHARE and value >= reference - abs(reference) * 2 * LOSS_MIN)


def cost_usd(action: ActionName, card: JsonObject) -> Decimal:
    """What the model card says that the action costs; only training costs."""
    if action is not ActionName.RETRAIN:
        return Decimal(0)
    stated = _money(_path(card, "costs", "retrain_usd"))
    return Costs().retrain_usd if stated is None else stated


def benefit_usd(action: ActionName, card: JsonObject, performance: PerformanceMeasure | None) -> Decimal | None:
    """What full repair would bring within the horizon; None where a point's value or the loss is not known."""
    if action not in MENDING:
        return Decimal("0.00")
    value, points = _money(_path(card, "value", "usd_per_point")), lost_points(performance)
    if not value or points is None:
        return None
    return (points * value * HORIZON_DAYS).quantize(Decimal("0.01"), ROUND_HALF_UP)


def lost_points(performance: PerformanceMeasure | None) -> Decimal | None:
    """Points of the metric (0.01 each) lost against the reference, not below zero."""
    if performance is None or performance.reference is None or performance.current is None:
        return None
    lost = Decimal(repr(performance.reference)) - Decimal(repr(performance.current))
    if not performance.higher_is_better:
        lost = -lost
    return max(lost, Decimal(0)) / POINT


def earlier_versions(versions: list[JsonObject]) -> tuple[int, ...]:
    """Versions older than the champion that were in force themselves, newest first; none where there is no champion.

    Where the registry does not tell which were (`was_champion`), every older version counts.
    """
    champion = champion_version(versions)
    if champion is None:
        return ()
    numbers = {
        number
        for entry in versions
        if (number := version_number(entry)) is not None and entry.get("was_champion") is not False
    }
    return tuple(sorted((number for number in numbers if number < champion), reverse=True))


def champion_version(versions: list[JsonObject]) -> int | None:
    """The version that carries the alias `champion`."""
    for entry in versions:
        if "champion" in (entry.get("aliases") or ()):
            return version_number(entry)
    return None


def version_number(entry: JsonObject) -> int | None:
    """A registry entry's version as a positive number."""
    number = entry.get("version")
    if isinstance(number, str) and number.isascii() and number.isdigit() and len(number) < 10:
        number = int(number)
    return number if isinstance(number, int) and not isinstance(number, bool) and number > 0 else None


def _path(document: JsonObject, *names: str) -> Any:
    value: Any = document
    for name in names:
        value = value.get(name) if isinstance(value, dict) else None
    return value


def _money(value: Any) -> Decimal | None:
    if isinstance(value, bool) or not isinstance(value, str | int | float | Decimal):
        return None
    try:
        amount = Decimal(repr(value) if isinstance(value, float) else value)
    except InvalidOperation:
        return None
    return amount if amount.is_finite() and amount >= 0 else None
