"""The ledger on a real server: caps hold whoever asks at once, and an incident never counts itself."""

from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from typing import Any

import pytest

from driftwarden.sealing import Seal
from driftwarden.service.workflow.changes import Change, changes_of
from driftwarden.service.workflow.ledger import Caps, Ledger, wilson_lower

NOW = "2026-11-20T09:00:00Z"
FREE = Caps()


@pytest.fixture
def ledger(client: Any) -> Ledger:
    """An empty ledger."""
    return Ledger(client, "driftwarden:", Seal(b"k" * 32))


def reserve(
    ledger: Ledger, incident: str, *, caps: Caps = FREE, model: str = "m", cost: str = "5", now: str = NOW
) -> str | None:
    """One reservation of a retraining."""
    return ledger.reserve(incident, model=model, action="retrain", cost_usd=Decimal(cost), now=now, caps=caps)


def test_a_cap_is_never_exceeded_by_many_at_once(ledger: Ledger) -> None:
    """Of forty threads that want 5 of 23 USD, four get them, and the rest hear which cap it was."""
    caps = Caps(per_day=Decimal("23"))
    with ThreadPoolExecutor(16) as pool:
        answers = list(
            pool.map(lambda number: reserve(ledger, f"inc-{number}", model=f"m-{number}", caps=caps), range(40))
        )
    assert (answers.count(None), answers.count("cost-per-day")) == (4, 36)
    assert ledger.spend_usd() == Decimal("20")


@pytest.mark.parametrize(
    ("caps", "rule"),
    [
        (Caps(per_model_day=Decimal("9")), "cost-per-model-per-day"),
        (Caps(rate_model=(1, 3_600_000)), "rate-per-model"),
        (Caps(rate_global=(1, 3_600_000)), "rate-global"),
        (Caps(concurrency_model=1), "concurrency-per-model"),
        (Caps(concurrency_global=1), "concurrency-global"),
    ],
)
def test_each_cap_names_itself(ledger: Ledger, caps: Caps, rule: str) -> None:
    """The second action breaks it, and again asking for the first changes nothing."""
    assert reserve(ledger, "inc-1", caps=caps) is None
    assert reserve(ledger, "inc-1", caps=caps) is None
    other = "n" if rule == "concurrency-global" else "m"
    assert reserve(ledger, "inc-2", caps=caps, model=other) == rule
    assert len(ledger.entries()) == 1


def test_caps_of_a_model_do_not_bind_another(ledger: Ledger) -> None:
    """Per model means per model."""
    caps = Caps(per_model_day=Decimal("5"), rate_model=(1, 3_600_000), concurrency_model=1)
    assert reserve(ledger, "inc-1", caps=caps) is None
    assert reserve(ledger, "inc-2", caps=caps, model="other") is None


def test_lifted_caps_bind_no_more_but_concurrency_does() -> None:
    """Money and rates may be lifted or excused, never that one action at a time changes a model."""
    caps = Caps(
        per_day=Decimal(1), per_model_day=Decimal(1), rate_model=(1, 1), rate_global=(1, 1), concurrency_model=1
    )
    rules = {"cost-per-day", "cost-per-model-per-day", "rate-per-model", "rate-global", "concurrency-per-model", "tier"}
    assert caps.without(rules) == Caps(concurrency_model=1)


def test_released_counts_nowhere_and_may_be_reserved_again(ledger: Ledger) -> None:
    """What had no effect leaves no trace in any figure."""
    reserve(ledger, "inc-1")
    ledger.release("inc-1")
    state = ledger.facts("inc-2", model="m", now=NOW, caps=FREE)
    assert (state["spent_usd_today"], state["running_global"], state["actions_in_window_global"]) == ("0", 0, 0)
    assert state["seconds_since_last_action_model"] is None
    assert reserve(ledger, "inc-1", caps=Caps(concurrency_model=1)) is None


def test_an_incident_never_counts_itself(ledger: Ledger) -> None:
    """Neither its running reservation nor its earlier effects; another incident sees both."""
    reserve(ledger, "inc-1")
    ledger.settle("inc-1", cost_usd=Decimal("7"))
    reserve(ledger, "inc-1")
    own = ledger.facts("inc-1", model="m", now=NOW, caps=FREE)
    other = ledger.facts("inc-2", model="m", now=NOW, caps=FREE)
    assert (own["spent_usd_today"], own["actions_in_window_model"], own["running_model"]) == ("0", 0, 0)
    assert (other["spent_usd_today"], other["actions_in_window_model"], other["running_model"]) == ("12", 2, 1)


def test_settled_is_what_it_cost_and_failures_stay(ledger: Ledger) -> None:
    """The real price replaces the estimate; a failure that is noted later is not forgotten."""
    reserve(ledger, "inc-1")
    ledger.settle("inc-1", cost_usd=Decimal("1.234567"))
    ledger.settle("inc-1", failed=True)
    ledger.settle("inc-1")
    state = ledger.facts("inc-2", model="m", now="2026-11-20T09:01:40Z", caps=FREE)
    assert state["spent_usd_today_model"] == "1.234567"
    assert state["last_action_failed"] is True
    assert (state["recent_runs"], state["recent_failures"]) == (1, 1)
    assert state["seconds_since_last_action_model"] == 100


def test_days_begin_at_midnight_of_the_policy_s_zone(ledger: Ledger) -> None:
    """22:59 UTC is the evening before in Amsterdam's winter, 23:00 UTC is the next day there."""
    caps = Caps(zone="Europe/Amsterdam", per_day=Decimal("5"))
    assert reserve(ledger, "inc-1", caps=caps, now="2026-11-19T22:59:59Z") is None
    assert reserve(ledger, "inc-2", model="n", caps=caps, now="2026-11-19T22:59:59Z") == "cost-per-day"
    assert reserve(ledger, "inc-2", model="n", caps=caps, now="2026-11-19T23:00:00Z") is None
    state = ledger.facts("inc-9", model="n", now="2026-11-20T01:00:00Z", caps=caps)
    assert state["spent_usd_today"] == "5"


def test_days_begin_at_midnight_also_when_clocks_change(ledger: Ledger) -> None:
    """On the day of 25 hours, midnight is still at 22:00 UTC of the day before."""
    caps = Caps(zone="Europe/Amsterdam", per_day=Decimal("5"))
    assert reserve(ledger, "inc-1", caps=caps, now="2026-10-24T22:00:00Z") is None
    assert reserve(ledger, "inc-2", model="n", caps=caps, now="2026-10-25T22:59:59Z") == "cost-per-day"
    assert reserve(ledger, "inc-2", model="n", caps=caps, now="2026-10-25T23:00:00Z") is None


def test_abandoned_counts_as_a_failure_once(ledger: Ledger) -> None:
    """An incident that fails in the middle settles its reservation; one that had settled is left alone."""
    reserve(ledger, "inc-1")
    assert ledger.running() == ["inc-1"]
    ledger.abandon("inc-1")
    ledger.settle("inc-2")
    ledger.abandon("inc-2")
    assert (ledger.running(), ledger.entries()["inc-1"]["failed"]) == ([], True)


def test_caps_are_read_from_the_policy() -> None:
    """Every limit of the contract, durations in milliseconds."""
    limits = {
        "costUSD": {"perDay": "200.00"},
        "rate": {"perModel": {"max": 2, "window": "24h"}},
        "concurrency": {"global": 3},
        "circuitBreaker": {"window": "2d"},
    }
    caps = Caps.of({"spec": {"timeZone": "Europe/Amsterdam", "limits": limits}})
    assert caps == Caps(
        zone="Europe/Amsterdam", per_day=Decimal("200.00"), rate_model=(2, 86_400_000), concurrency_global=3,
        breaker_window_ms=172_800_000,
    )  # fmt: skip
    assert Caps.of({"spec": {}}) == FREE


def test_track_record_and_its_lower_bound(ledger: Ledger) -> None:
    """Counted by model and action, once an incident; a model's name is no pattern."""
    for number in range(8):
        ledger.record_outcome(f"inc-{number}", model="m", action="retrain", helped=number != 0)
    ledger.record_outcome("inc-1", model="m", action="retrain", helped=True)
    ledger.record_outcome("inc-x", model="m2", action="retrain", helped=False)
    assert ledger.track_record(model="m", action="retrain") == {"successes": 7, "failures": 1, "lower_bound": "0.5888"}
    assert ledger.track_record(model="*", action="retrain")["successes"] == 0


def test_wilson_s_bound() -> None:
    """Nothing known without runs; never below zero, never above the share."""
    assert wilson_lower(0, 0) is None
    assert wilson_lower(0, 10) == "0.0000"
    assert 0.75 < float(wilson_lower(10, 10) or 0) < 0.80


def test_an_action_of_a_clock_that_is_ahead_counts_as_of_now(ledger: Ledger) -> None:
    """Two seconds are between two hosts: what the other one did is no less recent for that."""
    ledger.reserve("inc-1", model="m", action="retrain", cost_usd=Decimal(5), now="2026-11-20T09:00:02Z", caps=FREE)
    ledger.settle("inc-1")
    seen = ledger.facts("inc-2", model="m", now=NOW, caps=FREE)
    assert (seen["seconds_since_last_action_model"], seen["spent_usd_today"], seen["recent_runs"]) == (0, "5", 1)


def test_an_action_over_several_models_counts_for_each_and_once_for_all(ledger: Ledger) -> None:
    """Its cost is spent once; rate, cooldown and concurrency see it on every model that it concerns."""
    ledger.reserve("inc-1", model="a", models=["b"], action="quarantine_data", cost_usd=Decimal(3), now=NOW, caps=FREE)
    seen = ledger.facts_of("inc-9", models=["a", "b", "c"], now=NOW, caps=FREE)
    assert [seen[model]["running_model"] for model in "abc"] == [1, 1, 0]
    assert [seen[model]["spent_usd_today_model"] for model in "abc"] == ["3", "3", "0"]
    assert {seen[model]["spent_usd_today"] for model in "abc"} == {"3"}
    assert ledger.running_by_model(besides="inc-9") == {"a": ["inc-1"], "b": ["inc-1"]}
    ledger.settle("inc-1")
    rated = Caps(rate_model=(1, 86_400_000))
    assert [reserve(ledger, f"inc-{model}", model=model, caps=rated) for model in "bc"] == ["rate-per-model", None]


@pytest.mark.parametrize("caps", [FREE, Caps(concurrency_model=2)])
def test_a_model_is_changed_by_one_action_at_a_time(ledger: Ledger, caps: Caps) -> None:
    """Whatever the policy limits: the slot that keeps them apart is written without a seal, and may be lost."""
    assert reserve(ledger, "inc-1", caps=caps) is None
    assert reserve(ledger, "inc-2", caps=caps) == "concurrency-per-model"
    ledger.settle("inc-1")
    assert reserve(ledger, "inc-2", caps=caps) is None
    assert reserve(ledger, "inc-3", caps=Caps(concurrency_model=0), model="n") == "concurrency-per-model"


def test_where_several_models_are_concerned_each_is_changed_by_one_at_a_time(ledger: Ledger) -> None:
    """Whatever the policy limits: the slot of a model holds one incident, and this one has its lead's alone."""
    assert reserve(ledger, "inc-1", model="b") is None
    asked: dict[str, Any] = {"model": "a", "models": ["b"], "action": "quarantine_data", "cost_usd": Decimal(0)}
    assert ledger.reserve("inc-2", **asked, now=NOW, caps=FREE) == "concurrency-per-model"
    ledger.settle("inc-1")
    assert ledger.reserve("inc-2", **asked, now=NOW, caps=FREE) is None
    assert reserve(ledger, "inc-3", model="b") == "concurrency-per-model"
    assert reserve(ledger, "inc-4", model="c") is None


def test_changes_are_effects_that_changed_something(ledger: Ledger) -> None:
    """Of any incident but the one that asks, on any model that it concerned; failures and messages change nothing."""
    later = "2026-11-20T09:30:00Z"
    reserve(ledger, "inc-1")
    ledger.settle("inc-1", changed_at=NOW)
    reserve(ledger, "inc-2")
    ledger.settle("inc-2", failed=True)
    ledger.reserve("inc-3", model="m", action="notify", cost_usd=Decimal(0), now=later, caps=FREE)
    ledger.settle("inc-3", changed_at=later)
    ledger.reserve(
        "inc-4", model="n", models=["k"], action="quarantine_data", cost_usd=Decimal(0), now=later, caps=FREE
    )
    rows = {"uri": "w.csv", "start": None, "end": None}
    ledger.settle("inc-4", changed_at=later, rows={"k": rows})
    entries = ledger.entries()
    assert changes_of(entries, "m", besides="inc-9") == [Change("2026-11-20T09:00:00.000000Z")]
    assert changes_of(entries, "m", besides="inc-1") == []
    assert changes_of(entries, "k", besides="inc-9") == [Change("2026-11-20T09:30:00.000000Z", rows)]
    assert changes_of(entries, "n", besides="inc-9") == [Change("2026-11-20T09:30:00.000000Z", {})]
