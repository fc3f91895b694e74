"""As test_guards.py: what effects are booked on, and the policy that processes agree on."""

from decimal import Decimal
from typing import Any

import pytest
from fakes.store_steps import NOW
from redis import Redis

from driftwarden.sealing import Seal
from driftwarden.service.workflow.ledger import Caps, Ledger
from driftwarden.stream.scripts import Scripts


def reserve(
    ledger: Ledger, incident: str, *, model: str = "m", cost: int = 5, now: str = NOW, **more: Any
) -> str | None:
    """Reserve an action; the cap that it would break."""
    about = {"model": model, "action": "retrain", "cost_usd": Decimal(cost), "now": now, "caps": Caps()}
    return ledger.reserve(incident, **(about | more))


@pytest.fixture
def ledger(client: Redis) -> Ledger:
    """An empty ledger."""
    return Ledger(client, "driftwarden:", Seal(b"k" * 32))


def test_ledger_a_reservation_that_runs_stays(ledger: Ledger) -> None:
    """Asked for again, it is the one that is there."""
    assert reserve(ledger, "inc-1", cost=5) is None
    assert reserve(ledger, "inc-1", cost=9) is None
    assert ledger.entries()["inc-1"]["cost"] == 5_000_000


def test_ledger_what_an_incident_did_before_does_not_count(ledger: Ledger) -> None:
    """A cap that its own earlier effects would break; another incident's effects do count."""
    caps = Caps(per_model_day=Decimal(9))
    for _ in range(3):
        assert reserve(ledger, "inc-1", caps=caps) is None
        ledger.settle("inc-1")
    assert reserve(ledger, "inc-2", caps=caps) == "cost-per-model-per-day"


def test_ledger_every_effect_of_an_incident_is_kept(ledger: Ledger) -> None:
    """Under names of their own."""
    for _ in range(3):
        reserve(ledger, "inc-1")
        ledger.settle("inc-1")
    assert set(ledger.entries()) == {"inc-1", "inc-1#1", "inc-1#2"}


@pytest.mark.parametrize("name", ["inc-1", "inc-2"])
def test_ledger_what_cannot_be_read_stops(client: Redis, ledger: Ledger, name: str) -> None:
    """Nobody knows what stood there."""
    client.hset("driftwarden:ledger", name, "0" * 64 + " nonsense")
    assert reserve(ledger, "inc-1") == "unreadable"
    assert client.hlen("driftwarden:ledger") == 1


CONCURRENCY = (Caps(concurrency_model=1), Caps(concurrency_global=1))


RATES = (Caps(rate_model=(1, 3_600_000)), Caps(rate_global=(1, 3_600_000)))


DAYS = (Caps(per_model_day=Decimal(9)), Caps(per_day=Decimal(9)))


def test_ledger_what_is_over_counts_no_more(ledger: Ledger) -> None:
    """Settled: it runs no more. Released: it had no effect at all."""
    reserve(ledger, "inc-1")
    ledger.settle("inc-1")
    for number, caps in enumerate(CONCURRENCY, 20):
        assert reserve(ledger, f"inc-{number}", caps=caps) is None
        ledger.release(f"inc-{number}")
    ledger.release("inc-1")
    for number, caps in enumerate((*RATES, *DAYS), 3):
        assert reserve(ledger, f"inc-{number}", caps=caps) is None
        ledger.release(f"inc-{number}")


def test_ledger_what_is_long_ago_counts_no_more(ledger: Ledger) -> None:
    """The day before, and outside the window of a rate."""
    reserve(ledger, "inc-1", now="2026-11-19T09:00:00Z")
    ledger.settle("inc-1")
    for number, caps in enumerate((*RATES, *DAYS), 2):
        assert reserve(ledger, f"inc-{number}", caps=caps) is None
        ledger.release(f"inc-{number}")


@pytest.mark.parametrize("caps", [CONCURRENCY[0], RATES[0], DAYS[0]])
def test_ledger_every_model_that_it_concerns(ledger: Ledger, caps: Caps) -> None:
    """An action on several models counts for each of them."""
    assert reserve(ledger, "inc-1", model="a", models=("a", "b")) is None
    assert reserve(ledger, "inc-2", model="b", caps=caps) is not None
    assert reserve(ledger, "inc-3", model="c", caps=caps) is None


def test_ledger_actions_of_one_model_wait_for_each_other(ledger: Ledger) -> None:
    """Where the policy sets no cap, and whoever holds the model's slot."""
    assert reserve(ledger, "inc-1", model="a") is None
    assert reserve(ledger, "inc-2", model="a") == "concurrency-per-model"
    assert reserve(ledger, "inc-3", model="b") is None


def test_ledger_an_action_on_several_models_waits_for_each(ledger: Ledger) -> None:
    """It has the slot of its lead alone: no cap is set, and still it runs beside no action on any of its models."""
    assert reserve(ledger, "inc-1", model="a", models=("a", "b")) is None
    assert reserve(ledger, "inc-2", model="b") == "concurrency-per-model"
    assert reserve(ledger, "inc-3", model="c", models=("c", "b")) == "concurrency-per-model"
    assert reserve(ledger, "inc-4", model="c") is None


def test_a_policy_from_the_future_is_nobodys(client: Redis) -> None:
    """A word that is dated later than any clock could be: told without what it says, and removed."""
    seconds, _ = client.time()
    client.hset("driftwarden:policies", "forged", f"{(seconds + 9_000) * 1000} agreed")
    scripts = Scripts(client, "driftwarden.service.workflow")
    assert scripts.run("policy_agreement", ["driftwarden:policies"], ["", "", 15_000, 0]) == [b"forged", b""]
    told = scripts.run("policy_agreement", ["driftwarden:policies"], ["me", "agreed", 15_000, 0])
    assert dict(zip(told[::2], told[1::2], strict=True)) == {b"forged": b"", b"me": b"agreed"}
    assert client.hkeys("driftwarden:policies") == [b"me"]
