"""The policy document (contract §4) as frozen values."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, Final, Literal

from driftwarden.policies.cron import Cron
from driftwarden.strict import JsonObject

API_VERSION: Final = "driftwarden.io/v1"
MATCH_FIELDS: Final = ("models", "tiers", "actions", "environments", "rootCauses")
OPERATORS: Final = ("atLeast", "atMost", "equals", "in", "notIn")
LIMIT_RULES: Final = (
    "cost-per-action",
    "cost-per-day",
    "cost-per-model-per-day",
    "rate-per-model",
    "rate-global",
    "cooldown",
    "concurrency-per-model",
    "concurrency-global",
    "circuit-breaker",
    "blast-radius-traffic",
    "blast-radius-models",
)
GENERATED_RULES: Final = ("tier", *LIMIT_RULES, "halted", "enforcement")

Else = Literal["escalate", "monitor"]
Enforcement = Literal["enforce", "dryRun", "halt"]


@dataclass(frozen=True, slots=True)
class Match:
    """When a rule applies; None: whatever the fact is. `models` are globs."""

    models: tuple[str, ...] | None = None
    tiers: tuple[str, ...] | None = None
    actions: tuple[str, ...] | None = None
    environments: tuple[str, ...] | None = None
    root_causes: tuple[str, ...] | None = None

    @property
    def always(self) -> bool:
        """True where nothing is asked."""
        return self == Match()


@dataclass(frozen=True, slots=True)
class Terms:
    """Who must approve: so many distinct people of these groups, within `expires_after`."""

    required: int
    groups: tuple[str, ...]
    expires_after: timedelta


@dataclass(frozen=True, slots=True)
class Tier:
    """A class of models and what may be done to them; `approvals` None: nobody can approve."""

    name: str
    match: Match
    allow: tuple[str, ...]
    approvals: Terms | None
    place: str


@dataclass(frozen=True, slots=True)
class Requirement:
    """A fact that must hold. `operand` is typed by the fact; `written` is it as the policy spells it."""

    id: str
    fact: str
    operator: str
    operand: Any
    written: str
    otherwise: Else
    match: Match
    place: str


@dataclass(frozen=True, slots=True)
class CostLimits:
    """Caps in USD; None: no such rule."""

    per_action: Decimal | None
    per_day: Decimal | None
    per_model_per_day: Decimal | None
    match: Match
    place: str


@dataclass(frozen=True, slots=True)
class Rate:
    """Fewer than `max` actions in `window`."""

    max: int
    window: timedelta


@dataclass(frozen=True, slots=True)
class RateLimits:
    """Actions in a sliding window, of one model and of all."""

    per_model: Rate | None
    everywhere: Rate | None
    otherwise: Else
    match: Match
    place: str


@dataclass(frozen=True, slots=True)
class Cooldown:
    """How long a model is left alone after an action; `after_failure` where that one failed (None: the same)."""

    per_model: timedelta
    after_failure: timedelta | None
    otherwise: Else
    match: Match
    place: str


@dataclass(frozen=True, slots=True)
class Concurrency:
    """How many actions may run at once."""

    per_model: int | None
    everywhere: int | None
    otherwise: Else
    match: Match
    place: str


@dataclass(frozen=True, slots=True)
class CircuitBreaker:
    """Open while `failure_percent` of at least `min_runs` runs within `window` failed."""

    failure_percent: Decimal
    min_runs: int
    window: timedelta
    otherwise: Else
    match: Match
    place: str


@dataclass(frozen=True, slots=True)
class BlastRadius:
    """How much traffic and how many models an action may touch."""

    traffic_percent_at_most: Decimal | None
    models_at_most: int | None
    otherwise: Else
    match: Match
    place: str


@dataclass(frozen=True, slots=True)
class Limits:
    """All limits; None: left out, and so no rule."""

    cost_usd: CostLimits | None = None
    rate: RateLimits | None = None
    cooldown: Cooldown | None = None
    concurrency: Concurrency | None = None
    circuit_breaker: CircuitBreaker | None = None
    blast_radius: BlastRadius | None = None


@dataclass(frozen=True, slots=True)
class Schedule:
    """Cron starts, each lasting `duration` (elapsed) or `until` a wall-clock time (minutes of the day)."""

    cron: Cron
    duration: timedelta | None
    until_minute: int | None


@dataclass(frozen=True, slots=True)
class Span:
    """One stretch; a bound without an offset is wall-clock time of the window's zone."""

    start: datetime
    end: datetime


@dataclass(frozen=True, slots=True)
class Holidays:
    """The public holidays of a country, whole local days."""

    country: str
    subdivision: str | None


@dataclass(frozen=True, slots=True)
class Window:
    """A stretch of time in which actions are denied, or outside of which they are (`allow`)."""

    id: str
    kind: Literal["deny", "allow"]
    when: Schedule | Span | Holidays
    zone: str
    match: Match
    place: str

    @property
    def rule_id(self) -> str:
        """`window:<id>`."""
        return f"window:{self.id}"


@dataclass(frozen=True, slots=True)
class Exemption:
    """An exception of the policy: until `expires_at`, a failure of `rules` does not count for `models`."""

    id: str
    rules: tuple[str, ...]
    models: tuple[str, ...] | None
    expires_at: datetime
    reason: str
    place: str


@dataclass(frozen=True, slots=True)
class PolicyDocument:
    """A policy as it was read. `raw` is the document itself, without floats: its canonical form."""

    name: str
    revision: str
    enforcement: Enforcement
    time_zone: str
    tiers: tuple[Tier, ...]
    require: tuple[Requirement, ...]
    limits: Limits
    windows: tuple[Window, ...]
    exceptions: tuple[Exemption, ...]
    raw: JsonObject
    where: str

    def rule_ids(self) -> tuple[str, ...]:
        """Every rule's id in the order of the report."""
        limits = self.limits
        cost, rate, busy, radius = limits.cost_usd, limits.rate, limits.concurrency, limits.blast_radius
        present: dict[str, object] = {
            "cost-per-action": cost and cost.per_action,
            "cost-per-day": cost and cost.per_day,
            "cost-per-model-per-day": cost and cost.per_model_per_day,
            "rate-per-model": rate and rate.per_model,
            "rate-global": rate and rate.everywhere,
            "cooldown": limits.cooldown,
            "concurrency-per-model": busy and busy.per_model,
            "concurrency-global": busy and busy.everywhere,
            "circuit-breaker": limits.circuit_breaker,
            "blast-radius-traffic": radius and radius.traffic_percent_at_most,
            "blast-radius-models": radius and radius.models_at_most,
        }
        generated = [id for id in LIMIT_RULES if present[id] is not None]
        windows = [window.rule_id for window in self.windows]
        return ("tier", *(rule.id for rule in self.require), *generated, *windows, "halted", "enforcement")
