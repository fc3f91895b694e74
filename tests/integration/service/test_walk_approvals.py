"""Where people are asked: what an answer lifts and what it does not, and what happens meanwhile."""

from decimal import Decimal
from typing import Any

import pytest

from driftwarden.contracts.base import ActionName
from driftwarden.contracts.findings import Candidate
from driftwarden.errors import BadInput


def asked(world: Any) -> Any:
    """A plan that is not sure enough to be done unattended: the request that people are asked with."""
    world.script.win = 0.5
    world.send()
    world.run()
    return world.pending()


def rejections(world: Any) -> list[Any]:
    """Every refusal on record."""
    return [one for one in world.records("approval") if one["body"]["verdict"] == "rejected"]


def test_approved_is_decided_again_and_done(world: Any) -> None:
    """An approval lifts what its signers saw failing; the intent names the approval as its cause."""
    request = asked(world)
    world.approve()
    world.run()
    incident = world.only()
    assert incident.state == "verifying"
    assert incident.decision["outcome"] == "execute"
    assert {rule["id"] for rule in incident.decision["rules"] if rule["effect"] == "lifted"} == {"confidence"}
    granted = [one for one in world.records("approval") if one["body"]["verdict"] == "approved"]
    assert world.records("intent")[-1]["causation"] == granted[-1]["@hash"]
    assert world.parts.approvals.get(request.id).state == "executed"


def test_approval_lifts_a_cap_that_was_seen_to_break(world: Any) -> None:
    """People may spend more than the day's cap where they saw that rule fail; the reservation honours it."""
    candidate = Candidate(id="c1", action=ActionName.RETRAIN, cost_usd=Decimal("25.00"))
    world.script.candidates = (candidate,)
    world.send()
    world.run()
    assert {"cost-per-day", "cost-per-model-per-day"} <= set(world.pending().why)
    world.approve()
    world.run()
    assert world.only().state == "verifying"
    assert len(world.plant.moves) == 1


def test_two_of_two_people(world: Any) -> None:
    """One grant of two is not enough, nor the same person twice."""
    world.govern(required=2)
    asked(world)
    world.approve("ada")
    world.run()
    assert world.plant.done == {}
    with pytest.raises(BadInput, match="another person"):
        world.approve("ada")
    world.approve("bob")
    world.run()
    assert world.only().state == "verifying"


def test_rejected_is_final_for_that_plan(world: Any) -> None:
    """After a rejection a retry that comes to the same plan is not asked again."""
    asked(world)
    world.reject("bob", group="risk", reason="no")
    world.run()
    assert world.only().state == "rejected"
    world.ask("retry")
    world.run()
    world.later(seconds=1)
    assert world.only().state == "rejected"
    assert world.plant.done == {}
    assert [one.state for one in world.parts.approvals.list()] == ["rejected"]


def test_nobody_answers_and_nothing_is_done(world: Any) -> None:
    """A request expires, and the default is no; afterwards nobody can approve it."""
    request = asked(world)
    world.later(hours=4)
    assert world.only().state == "expired"
    assert world.plant.done == {}
    with pytest.raises(BadInput, match="expired"):
        world.parts.approvals.grant(request.id, world.people.say(request, reason="late"))


def test_more_drift_while_it_waits_makes_another_request(world: Any) -> None:
    """A new window is another plan: the old request is superseded, and approving it does nothing."""
    old = asked(world)
    world.send()
    world.run()
    assert world.pending().id != old.id
    assert world.parts.approvals.get(old.id).state == "superseded"
    with pytest.raises(BadInput, match="superseded"):
        world.parts.approvals.grant(old.id, world.people.say(old, reason="late"))
    assert len(world.only().events) == 2


def test_a_refusal_that_comes_while_more_drift_is_weighed_is_on_record(world: Any) -> None:
    """The plan that it refused is no more, and another is asked for: the log says who refused the first, and that once."""
    first = asked(world)

    def refuse() -> None:
        world.script.on_advise = lambda: None
        said = world.people.say(world.parts.approvals.get(first.id), "bob", verdict="reject", reason="not now")
        world.parts.approvals.refuse(first.id, said)

    world.script.on_advise = refuse
    world.send()
    world.later(hours=1)
    second = world.pending()
    assert second.id != first.id
    refusals = rejections(world)
    assert [one["body"]["approval"] for one in refusals] == [first.id]
    assert (refusals[0]["actor"]["id"], refusals[0]["body"]["refused"]["reason"]) == ("bob", "not now")
    world.reject("bob")
    world.run()
    assert world.only().state == "rejected"
    assert len(rejections(world)) == 2


def test_an_approval_of_one_plan_lifts_nothing_for_another(world: Any) -> None:
    """A request approved while the incident was looked at again does not reach the plan that followed."""
    old = asked(world)
    world.script.candidates = (Candidate(id="c1", action=ActionName.RETRAIN, params={"strategy": "recent"}),)
    word = world.people.say(old, reason="the old one")
    world.script.on_advise = lambda: world.parts.approvals.grant(old.id, word)
    world.send()
    world.run()
    assert world.plant.done == {}
    assert world.only().state == "awaiting_approval"
    assert world.parts.approvals.get(old.id).state == "superseded"


def test_where_no_tier_matches_nobody_can_approve(world: Any) -> None:
    """It fails, says so, and leaves no request."""
    world.govern(models='"other"')
    world.send()
    world.run()
    assert world.only().state == "failed"
    assert "nobody who could approve" in world.only().problem
    assert world.parts.approvals.list() == []


def test_a_champion_that_changed_meanwhile_stops_it(world: Any) -> None:
    """What was approved was approved against one champion."""
    asked(world)
    world.actions[ActionName.RETRAIN].refuse = "champion is version 7, the decision was made for 1"
    world.approve()
    world.run()
    assert (world.only().state, world.plant.done) == ("failed", {})
    assert "champion is version 7" in world.only().problem
