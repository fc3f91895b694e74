"""The caps of a policy's `limits`, by which actions are reserved and counted. Pure."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any

from driftwarden.contracts.watch import parse_duration


@dataclass(frozen=True)
class Caps:
    """The caps of a policy's `limits`, in USD, counts and milliseconds; None: not limited."""

    zone: str = "UTC"
    per_day: Decimal | None = None
    per_model_day: Decimal | None = None
    rate_model: tuple[int, int] | None = None
    rate_global: tuple[int, int] | None = None
    concurrency_model: int | None = None
    concurrency_global: int | None = None
    breaker_window_ms: int = 7 * 86_400_000

    def without(self, rules: Collection[str]) -> "Caps":
        """The caps that are left where these rules bind no more: lifted by people, or excused by an exception of the policy.

        People lift no `concurrency-*` (the policy's engine sees to that); that of a model the ledger keeps whatever anybody says.
        """
        names = {
            "cost-per-day": "per_day",
            "cost-per-model-per-day": "per_model_day",
            "rate-per-model": "rate_model",
            "rate-global": "rate_global",
            "concurrency-global": "concurrency_global",
        }
        lifted: dict[str, Any] = {names[rule]: None for rule in rules if rule in names}
        return replace(self, **lifted)

    @classmethod
    def of(cls, policy: Mapping[str, Any]) -> "Caps":
        """Read them from a canonical policy document."""
        spec = policy["spec"]
        limits = spec.get("limits") or {}
        cost, rate, running = (limits.get(name) or {} for name in ("costUSD", "rate", "concurrency"))

        def money(name: str) -> Decimal | None:
            return Decimal(str(cost[name])) if cost.get(name) is not None else None

        def per_window(name: str) -> tuple[int, int] | None:
            rule = rate.get(name)
            return (int(rule["max"]), _duration_ms(rule["window"])) if rule else None

        def count(name: str) -> int | None:
            return int(running[name]) if running.get(name) is not None else None

        breaker = limits.get("circuitBreaker") or {}
        return cls(
            zone=spec.get("timeZone") or "UTC",
            per_day=money("perDay"),
            per_model_day=money("perModelPerDay"),
            rate_model=per_window("perModel"),
            rate_global=per_window("global"),
            concurrency_model=count("perModel"),
            concurrency_global=count("global"),
            breaker_window_ms=_duration_ms(breaker.get("window", "7d")),
        )


def _duration_ms(value: Any) -> int:
    if isinstance(value, int):
        return value * 1000
    return int(parse_duration(value).total_seconds() * 1000)
