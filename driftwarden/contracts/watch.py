"""Models under watch: the entries of `models.yml` (contract §7)."""

import re
from datetime import timedelta
from decimal import Decimal
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, PlainSerializer, model_validator

from driftwarden.contracts.base import Value
from driftwarden.contracts.event import MODEL_NAME_PATTERN

_DURATION = re.compile(r"([0-9]{1,9})(s|m|h|d|w)")
_UNIT_S = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}


def parse_duration(value: Any) -> timedelta:
    """Read `90s`, `15m`, `4h`, `7d`, `2w`; anything else raises ValueError."""
    if isinstance(value, timedelta):
        return value
    match = _DURATION.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise ValueError("a duration like `90s`, `15m`, `4h`, `7d`")
    return timedelta(seconds=int(match.group(1)) * _UNIT_S[match.group(2)])


def duration_text(value: timedelta) -> str:
    """The form that `parse_duration` reads, in the largest whole unit."""
    seconds = int(value.total_seconds())
    unit = next((unit for unit in ("w", "d", "h", "m") if seconds and seconds % _UNIT_S[unit] == 0), "s")
    return f"{seconds // _UNIT_S[unit]}{unit}"


def _money(value: Any) -> Any:
    if isinstance(value, float):
        raise ValueError('an amount as a quoted decimal, like "100.00"')
    return value


Duration = Annotated[
    timedelta,
    BeforeValidator(parse_duration),
    PlainSerializer(duration_text, return_type=str, when_used="json"),
]
Money = Annotated[Decimal, BeforeValidator(_money), Field(ge=0, allow_inf_nan=False)]


class Training(Value):
    """How a challenger is trained; `kedro_project` None means the shipped pipeline."""

    kedro_project: str | None = None
    pipeline: str = "train"
    params: dict[str, Any] = Field(default_factory=dict)
    python: str | None = None


class DataSource(Value):
    """Where rows are: `history` is a parquet or csv file, or a folder of them read in name order; files are read below
    `roots` only."""

    history: str | None = None
    roots: tuple[str, ...] = ()


class Labels(Value):
    """How late the truth arrives, and where, if not in the window's own file: a table with the columns `key` and target."""

    delay: Duration = timedelta(0)
    uri: str | None = None
    key: str | None = None


class BusinessValue(Value):
    """What one lost point of the metric (0.01) costs a day, in USD."""

    usd_per_point: Money = Decimal(0)


class Costs(Value):
    """What an action costs, in USD."""

    retrain_usd: Money = Decimal("1.00")


class WatchedModel(Value):
    """One model under watch."""

    name: Annotated[str, Field(pattern=f"^{MODEL_NAME_PATTERN}$")]
    registered_model: str = ""
    task: Literal["classification", "regression"]
    target: str
    time_column: str | None = None
    features: tuple[str, ...] | None = None
    metric: str
    environment: str = "production"
    traffic_percent: Annotated[int, Field(ge=0, le=100)] = 100
    training: Training = Training()
    data: DataSource = DataSource()
    labels: Labels = Labels()
    value: BusinessValue = BusinessValue()
    costs: Costs = Costs()
    fallback_version: int | None = None
    upstream: tuple[str, ...] = ()

    @model_validator(mode="before")
    @classmethod
    def _registered_by_default(cls, data: Any) -> Any:
        if isinstance(data, dict) and not data.get("registered_model"):
            return {**data, "registered_model": data.get("name", "")}
        return data
