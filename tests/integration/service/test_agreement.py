"""Workers that hold different policies do not execute until they agree: the incident waits, and is decided again."""

from typing import Any

import pytest

from driftwarden.policies import load_policy
from driftwarden.service.bootstrap import PolicyHolder
from driftwarden.service.workflow.policy_agreement import PolicyAgreement

PREFIX = "driftwarden:"


@pytest.fixture
def other(world: Any) -> PolicyAgreement:
    """Another process beside the world's own: it holds the same policy, and is wired like the real one."""
    mine = PolicyAgreement(world.client, PREFIX, "mine", world.policy)
    world.parts.require_agreement = mine.require
    other = PolicyAgreement(world.client, PREFIX, "other", PolicyHolder(world.policy()))
    other.announce()
    return other


def hold(world: Any, **terms: Any) -> None:
    """Let the other process hold another policy."""
    policy = load_policy(world.policy_text(**terms), "policy.yml")
    PolicyAgreement(world.client, PREFIX, "other", PolicyHolder(policy)).announce()


def test_those_who_agree_execute(world: Any, other: PolicyAgreement) -> None:
    """Two processes, one policy."""
    world.send()
    world.run()
    assert world.only().state == "verifying"


def test_nothing_executes_until_they_agree(world: Any, other: PolicyAgreement) -> None:
    """It waits before anything is reserved, longer than a fault is tried, says so once, and goes on by itself."""
    hold(world, required=2)
    world.send()
    world.run()
    for _ in range(world.settings.service.tries_max * 3):
        world.later(seconds=5)
        incident = world.only()
        assert (incident.state, incident.tries) == ("decided", 0)
    assert world.plant.moves == []
    assert world.records("intent") == []
    assert world.parts.ledger.running() == []
    assert len(world.records("decision")) == 1, "waiting writes nothing"
    waits = [line["summary"] for line in incident.timeline if line["summary"].startswith("waits: ")]
    assert len(waits) == 1
    assert "other holds tests 1" in waits[0]
    other.announce()
    world.later(seconds=5)
    assert world.only().state == "verifying"
    assert len(world.plant.moves) == 1


def test_what_waits_is_decided_again(world: Any, other: PolicyAgreement) -> None:
    """They agree, on a policy that executes nothing: the incident goes to people instead."""
    hold(world, enforcement="halt")
    world.send()
    world.run()
    world.govern(enforcement="halt")
    world.later(seconds=5)
    assert world.only().state == "awaiting_approval"
    assert [one["body"]["decision"]["outcome"] for one in world.records("decision")] == ["execute", "escalate"]
    assert world.plant.moves == []


def test_drift_still_joins_what_waits(world: Any, other: PolicyAgreement) -> None:
    """What came meanwhile is looked at before anything is done."""
    hold(world, required=2)
    world.send()
    world.run()
    world.send()
    world.run()
    other.announce()
    world.later(seconds=5)
    assert len(world.incidents()) == 1
    assert len(world.only().events) == 2
    assert world.only().state == "verifying"


def test_what_was_approved_waits_as_well(world: Any, other: PolicyAgreement) -> None:
    """The answer of people does not stand in for the agreement of workers."""
    world.script.win = 0.5
    world.send()
    world.run()
    assert world.only().state == "awaiting_approval"
    hold(world, required=2)
    world.approve()
    world.run()
    world.later(seconds=5)
    assert world.only().state == "approved"
    assert world.plant.moves == []
    other.announce()
    world.later(seconds=5)
    assert world.only().state == "verifying"


def test_a_policy_reloaded_after_the_decision_stops_the_effect(
    world: Any, other: PolicyAgreement, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the last decision and its intent the policy becomes a stricter one everywhere: the decision counts no more."""
    append, stricter = world.log.append, {"enforcement": "halt"}

    def reload_after(type: str, *values: Any, **named: Any) -> str:
        written: str = append(type, *values, **named)
        if type == "decision" and len(world.records("decision")) == 2:
            world.govern(**stricter)
            hold(world, **stricter)
        return written

    monkeypatch.setattr(world.log, "append", reload_after)
    world.send()
    world.run()
    assert world.only().state == "executing"
    assert world.records("intent") == []
    world.later(seconds=5)
    assert world.only().state == "awaiting_approval"
    assert world.parts.ledger.running() == []
    assert world.plant.moves == []


def test_facts_are_counted_over_the_windows_of_the_policy_that_decides(
    world: Any, other: PolicyAgreement, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reloaded while the facts are gathered: the decision is all of the old policy, and so not carried out."""
    gather, seen = world.parts.ledger.facts_of, []

    def reload_before(*values: Any, caps: Any, **named: Any) -> Any:
        seen.append(caps.zone)
        if len(seen) == 2:
            zoned = world.policy_text().replace("timeZone: UTC", "timeZone: Europe/Amsterdam")
            world.policy.replace(load_policy(zoned, "policy.yml"))
            PolicyAgreement(world.client, PREFIX, "other", world.policy).announce()
        return gather(*values, caps=caps, **named)

    monkeypatch.setattr(world.parts.ledger, "facts_of", reload_before)
    world.send()
    world.run()
    assert world.records("intent") == []
    world.later(seconds=5)
    decided = [one["body"]["policy_digest"] for one in world.records("decision")]
    assert decided[0] == decided[1] != decided[2] == world.policy().digest
    assert seen == ["UTC", "UTC", "Europe/Amsterdam"]
    assert world.only().state == "verifying"


def test_a_forged_word_only_stops(world: Any, other: PolicyAgreement) -> None:
    """While it is written again and again nothing executes; then everything goes on."""
    world.send()
    for _ in range(3):
        world.client.hset(f"{PREFIX}policies", "forged", b"nope")
        world.later(seconds=5)
        assert world.only().state == "decided"
    world.later(seconds=5)
    assert world.only().state == "verifying"
    assert len(world.plant.moves) == 1
