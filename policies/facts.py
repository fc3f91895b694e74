"""The facts that a policy may name (contract §4), and how each is read: a value of its kind, or unknown.

Whatever is missing, null, of another type, not finite or outside what it can be is unknown; nothing here raises for a
value that came from outside.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from enum import Enum
from typing import Any, Final

from driftwarden.contracts.base import ActionName, RootCause

Facts = Mapping[str, Any]

WEEKDAYS: Final = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
EVENT_KINDS: Final = (
    "data_drift",
    "prediction_drift",
    "label_drift",
    "concept_drift",
    "performance_drop",
    "data_quality",
    "schema_change",
    "pipeline_failure",
)
ACTIONS: Final = tuple(action.value for action in ActionName)
ROOT_CAUSES: Final = tuple(cause.value for cause in RootCause)

MODEL_NAME: Final = re.compile(r"[A-Za-z0-9._-]{1,128}")
_MOMENT = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ][0-9]{2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]{1,9})?(?:[Zz]|[+-][0-9]{2}:[0-9]{2})"
)
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
TEXT_MAX: Final = 256


class Missing(Enum):
    """The mark of a fact that is not there (null is another thing)."""

    MISSING = "missing"


MISSING: Final = Missing.MISSING
Getter = Callable[[Facts], Any]


class Shape(Enum):
    """How a fact is compared."""

    NUMBER = "number"
    TEXT = "text"
    FLAG = "flag"
    DATE = "date"
    MOMENT = "moment"
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class Kind:
    """What a fact can be: its shape, the bounds of a number (`whole`: no fraction), the words of a text."""

    shape: Shape
    noun: str
    low: Decimal | None = None
    high: Decimal | None = None
    whole: bool = False
    words: tuple[str, ...] = ()


_ZERO, _ONE = Decimal(0), Decimal(1)
_PROBABILITY = Kind(Shape.NUMBER, "a probability", _ZERO, _ONE)
_SHARE = Kind(Shape.NUMBER, "a share from 0 to 1", _ZERO, _ONE)
_PERCENT = Kind(Shape.NUMBER, "a percentage from 0 to 100", _ZERO, Decimal(100))
_COST = Kind(Shape.NUMBER, "an amount of money, not negative", _ZERO)
_MONEY = Kind(Shape.NUMBER, "an amount of money")
_COUNT = Kind(Shape.NUMBER, "a count", _ZERO, None, True)
_SECONDS = Kind(Shape.NUMBER, "seconds, not negative", _ZERO)
_NUMBER = Kind(Shape.NUMBER, "a number")
_FLAG = Kind(Shape.FLAG, "true or false")

FACTS: Final[Mapping[str, Kind]] = {
    "now": Kind(Shape.MOMENT, "an RFC 3339 time with a zone"),
    "now.weekday": Kind(Shape.TEXT, "a day of the week", words=WEEKDAYS),
    "now.date": Kind(Shape.DATE, "a date"),
    "model.name": Kind(Shape.TEXT, "a model's name"),
    "model.environment": Kind(Shape.TEXT, "an environment's name"),
    "model.traffic_percent": _PERCENT,
    "event.kind": Kind(Shape.TEXT, "a kind of event", words=EVENT_KINDS),
    "event.age_seconds": _SECONDS,
    "finding.root_cause": Kind(Shape.TEXT, "a root cause", words=ROOT_CAUSES),
    "finding.confidence": _PROBABILITY,
    "plan.action": Kind(Shape.TEXT, "an action", words=ACTIONS),
    "plan.params": Kind(Shape.OTHER, "an object"),
    "plan.confidence": _PROBABILITY,
    "plan.cost_usd": _COST,
    "plan.benefit_usd": _MONEY,
    "plan.models_affected": _COUNT,
    "plan.reversible": _FLAG,
    "impact.relative_loss": _SHARE,
    "impact.usd_per_day": _COST,
    "evidence.rows": _COUNT,
    "evidence.labelled_rows": _COUNT,
    "evidence.age_seconds": _SECONDS,
    "rehearsal.win_probability": _PROBABILITY,
    "rehearsal.relative_gain": _NUMBER,
    "track_record.successes": _COUNT,
    "track_record.failures": _COUNT,
    "track_record.lower_bound": _PROBABILITY,
    "approval": Kind(Shape.OTHER, "an approval or null"),
    "state.halted": _FLAG,
    "state.spent_usd_today": _COST,
    "state.spent_usd_today_model": _COST,
    "state.actions_in_window_model": _COUNT,
    "state.actions_in_window_global": _COUNT,
    "state.seconds_since_last_action_model": _SECONDS,
    "state.last_action_failed": _FLAG,
    "state.running_model": _COUNT,
    "state.running_global": _COUNT,
    "state.recent_runs": _COUNT,
    "state.recent_failures": _COUNT,
}


def getter(path: str) -> Getter:
    """Compile a dotted path into a function that finds the fact, or MISSING."""
    head, _, tail = path.partition(".")
    if not tail:
        return lambda facts: facts.get(head, MISSING)

    def nested(facts: Facts) -> Any:
        group = facts.get(head, MISSING)
        return group.get(tail, MISSING) if type(group) is dict else MISSING

    return nested


def text_of(kind: Kind, value: object) -> str | None:
    """The text if it is one that this kind of fact can be (one of its words, where it has words), else None."""
    if type(value) is not str or not value or len(value) > TEXT_MAX:
        return None
    return value if not kind.words or value in kind.words else None


def model_name(value: object) -> str | None:
    """A model's name as events may carry it (contract §2), else None."""
    return value if type(value) is str and MODEL_NAME.fullmatch(value) is not None else None


def moment(value: object) -> datetime | None:
    """An RFC 3339 time with a zone as UTC, else None; years 1970 to 2199."""
    if type(value) is not str or _MOMENT.fullmatch(value) is None:
        return None
    try:
        found = datetime.fromisoformat(value.upper()).astimezone(UTC)
    except (ValueError, OverflowError):
        return None
    return found if 1970 <= found.year < 2200 else None


def calendar_date(value: object) -> date | None:
    """A date as `YYYY-MM-DD`, else None."""
    if type(value) is not str or _DATE.fullmatch(value) is None:
        return None
    try:
        return date.fromisoformat(value)
    except ValueError:
        return None
