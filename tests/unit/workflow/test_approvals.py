"""Requests for approval on a real server: bound to what they approve, answered once by distinct people, never late."""

import json
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from fakes.approvers import People, key_of

from driftwarden.contracts.decision import Decision
from driftwarden.errors import BadInput, NotFound
from driftwarden.service.signing.grants import Grant
from driftwarden.service.signing.roster import read_roster
from driftwarden.service.workflow.approvals import (
    ApprovalRequest,
    Approvals,
    approval_digest,
    approved_by,
    asked_as,
    is_bound,
    standing,
)
from driftwarden.service.workflow.incident import Incident
from driftwarden.settings import Settings


class Clock:
    """Time that a test moves."""

    moment = datetime(2026, 11, 20, 9, 0, tzinfo=UTC)

    def now(self) -> datetime:
        """The moment that was set."""
        return self.moment


@pytest.fixture
def clock() -> Clock:
    """Nine o'clock."""
    return Clock()


@pytest.fixture
def approvals(client: Any, clock: Clock) -> Approvals:
    """An empty queue."""
    return Approvals(client, "driftwarden:", clock)


@pytest.fixture
def request_(approvals: Approvals, incident: Incident, decision: Decision) -> ApprovalRequest:
    """One that needs two of two groups within an hour."""
    return approvals.request(incident, decision, "why")[0]


@pytest.fixture
def people(tmp_path: Path, clock: Clock) -> People:
    """Whoever speaks is enrolled for both groups."""
    settings = Settings(home=tmp_path, conf=tmp_path, audit_dir=tmp_path, policy_path=tmp_path / "p.yml")
    return People(settings, clock)


def other_param(incident: Incident) -> None:
    """Another parameter of the same candidate."""
    assert incident.plan is not None
    first, *rest = incident.plan.candidates
    changed = first.model_copy(update={"params": {"strategy": "recent"}})
    incident.plan = incident.plan.model_copy(update={"candidates": (changed, *rest)})


def other_window(incident: Incident) -> None:
    """More drift, with a later window."""
    incident.event = {"window": {**incident.event["window"], "end": "2026-11-20T08:30:00Z"}}


def other_cost(incident: Incident) -> None:
    """The same, at another price."""
    assert incident.plan is not None
    first, *rest = incident.plan.candidates
    changed = first.model_copy(update={"cost_usd": first.cost_usd + 1})
    incident.plan = incident.plan.model_copy(update={"candidates": (changed, *rest)})


CHANGES: dict[str, Any] = {
    "action": lambda incident: setattr(incident, "chosen", "c3"),
    "params": other_param,
    "champion": lambda incident: setattr(incident, "champion_before", 4),
    "window": other_window,
    "incident": lambda incident: setattr(incident, "id", "inc-000000000002"),
    "model": lambda incident: setattr(incident, "model", "n"),
    "environment": lambda incident: setattr(incident, "environment", "staging"),
    "cost": other_cost,
    "undo": lambda incident: setattr(incident, "undo_of", {"by": "eve", "request": {"a": 1}, "result": {}}),
}


@pytest.mark.parametrize("change", CHANGES)
def test_any_change_of_the_effect_is_another_digest(
    incident: Incident, decision: Decision, request_: ApprovalRequest, change: str
) -> None:
    """Action, parameters, champion, window, incident, model: an approval of one is none of the other."""
    assert is_bound(incident, request_, decision.approvals)
    assert not is_bound(incident, request_, None)
    before = approval_digest(incident, decision)
    CHANGES[change](incident)
    assert approval_digest(incident, decision) != before
    assert not is_bound(incident, request_, decision.approvals)


def test_any_change_of_the_terms_or_of_what_is_lifted_is_another_digest(incident: Incident, decision: Decision) -> None:
    """Number of people, groups, and the rules that fail; what passes, and the order of rules, change nothing."""
    assert decision.approvals is not None
    terms, rule = decision.approvals, decision.rules[0]
    others = [
        decision.model_copy(update={"approvals": terms.model_copy(update={"required": 1})}),
        decision.model_copy(update={"approvals": terms.model_copy(update={"from_": ("risk",)})}),
        decision.model_copy(update={"approvals": terms.model_copy(update={"expires_after_seconds": 3601})}),
        decision.model_copy(update={"rules": (*decision.rules, rule._replace(id="impact"))}),
    ]
    digests = {approval_digest(incident, one) for one in (decision, *others)}
    assert len(digests) == 5
    turned = decision.model_copy(update={"rules": decision.rules[::-1]})
    assert approval_digest(incident, turned) == approval_digest(incident, decision)


def test_what_is_shown_follows_from_what_is_bound(request_: ApprovalRequest) -> None:
    """Whichever field is changed, the request says that it is not what was asked."""
    assert request_.altered() is None
    later = "2026-11-20T18:00:00.000000Z"
    changed: dict[str, Any] = {
        "id": "apr-000000000000", "incident": "inc-2", "model": "n", "action": "rollback", "params": {"strategy": "x"},
        "required": 1, "groups": ("sales",), "expires_at": later, "requested_at": later, "cost_usd": 1, "why": (),
        "requested_by": "eve", "digest": "sha256:0",
    }  # fmt: skip
    for name, value in changed.items():
        assert request_.model_copy(update={name: value}).altered(), name
    for name in request_.bound:
        without = {key: value for key, value in request_.bound.items() if key != name}
        assert request_.model_copy(update={"bound": without}).altered(), name


def test_two_distinct_people_of_the_groups(approvals: Approvals, request_: ApprovalRequest, people: People) -> None:
    """One is not enough, the same again is refused, so is another group, and the same key; the second one decides."""
    assert approvals.grant(request_.id, people.say(request_, "ada", group="risk")).state == "pending"
    with pytest.raises(BadInput, match="a second approval by ada"):
        approvals.grant(request_.id, people.say(request_, "ada", key=key_of("ada's other key")))
    with pytest.raises(BadInput, match="the key of ada"):
        approvals.grant(request_.id, people.say(request_, "eve", key=key_of("ada")))
    with pytest.raises(BadInput, match="group: sales"):
        approvals.grant(request_.id, people.say(request_, "eve", group="sales"))
    with pytest.raises(BadInput, match="group: none"):
        approvals.refuse(request_.id, people.say(request_, "eve", verdict="reject", group=""))
    done = approvals.grant(request_.id, people.say(request_, "bob"))
    assert (done.state, [grant.group for grant in done.granted]) == ("approved", ["risk", "ml-oncall"])
    with pytest.raises(BadInput, match="got `approved`"):
        approvals.grant(request_.id, people.say(request_, "cid"))


def test_what_is_not_signed_for_this_request_is_not_taken(
    approvals: Approvals, request_: ApprovalRequest, people: People, incident: Incident, decision: Decision
) -> None:
    """No signature, a no for a yes, another request's, another time's, words that were changed afterwards."""
    good = people.say(request_)
    incident.champion_before = 4
    other = approvals.request(incident, decision, "why")[0].model_copy(update={"state": "pending"})
    incident.champion_before = 3
    again = approvals.request(incident, decision, "why")[0]
    wrong: dict[str, Grant] = {
        "no signature": Grant(by="ada", group="risk", at=good.at, reason="seen"),
        "a no": people.say(request_, verdict="reject"),
        "another request": people.say(other),
        "another time": people.say(request_.model_copy(update={"requested_at": "2026-11-20T08:59:00.000000Z"})),
        "other words": good.model_copy(update={"reason": "unseen"}),
        "another name": good.model_copy(update={"by": "bob"}),
        "another key": good.model_copy(update={"public_key": people.say(request_, "bob").public_key}),
    }
    for what, grant in wrong.items():
        with pytest.raises(BadInput, match=r"signed answer|signature|public key"):
            approvals.grant(again.id, grant)
        stored = again.model_copy(update={"granted": (grant,), "state": "approved"})
        assert standing(stored, read_roster(people.settings)) == (), what
    assert approvals.grant(again.id, good).granted == (good,)


def test_who_counts_is_asked_when_it_counts(
    approvals: Approvals, request_: ApprovalRequest, people: People, clock: Clock
) -> None:
    """Nobody who is not listed, of another group, or out of time; neither half a pair nor the same one twice."""
    ada, bob = people.say(request_, "ada"), people.say(request_, "bob", group="risk")
    for grant in (ada, bob):
        approvals.grant(request_.id, grant)
    request = approvals.get(request_.id)
    roster = read_roster(people.settings)
    assert approved_by(request, roster) == (ada, bob)
    assert approved_by(request, {}) is None
    assert approved_by(request, {"ada": roster["ada"]}) is None
    no_group = roster | {"bob": roster["bob"].model_copy(update={"groups": ("ml-oncall",)})}
    assert standing(request, no_group) == (ada,)
    assert approved_by(request.model_copy(update={"granted": (ada, ada)}), roster) is None
    assert approved_by(request.model_copy(update={"granted": (ada,), "required": 1}), roster) is None
    late = people.say(request_, "bob", at=clock.moment + timedelta(seconds=3601))
    early = people.say(request_, "bob", at=clock.moment - timedelta(seconds=1))
    for grant in (late, early):
        assert approved_by(request.model_copy(update={"granted": (ada, grant)}), roster) is None


def test_many_at_once_are_each_counted_once(approvals: Approvals, request_: ApprovalRequest, people: People) -> None:
    """Eight people answer in the same instant: two grants stand, the others hear that it is over."""
    words = [people.say(request_, f"p{number}", group="risk") for number in range(8)]

    def grant(word: Grant) -> str:
        try:
            return approvals.grant(request_.id, word).state
        except BadInput:
            return "too late"

    with ThreadPoolExecutor(8) as pool:
        answers = sorted(pool.map(grant, words))
    assert answers == ["approved", "pending", *["too late"] * 6]
    assert len(approvals.get(request_.id).granted) == 2


def test_expired_from_that_moment_on(
    approvals: Approvals, request_: ApprovalRequest, clock: Clock, people: People
) -> None:
    """The instant of expiry itself is too late."""
    clock.moment += timedelta(seconds=3599, microseconds=999_999)
    assert not approvals.is_expired(request_)
    clock.moment += timedelta(microseconds=1)
    assert approvals.is_expired(request_)
    with pytest.raises(BadInput, match="expired at"):
        approvals.grant(request_.id, people.say(request_))


def test_rejected_is_final(
    approvals: Approvals, request_: ApprovalRequest, incident: Incident, decision: Decision, people: People
) -> None:
    """It cannot be approved any more, and the same plan is not asked again."""
    assert approvals.refuse(request_.id, people.say(request_, verdict="reject")).state == "rejected"
    with pytest.raises(BadInput, match="got `rejected`"):
        approvals.grant(request_.id, people.say(request_, "bob"))
    again, new = approvals.request(incident, decision, "why")
    assert (again.state, new) == ("rejected", False)


def test_the_same_plan_is_asked_once_and_another_supersedes_it(
    approvals: Approvals, request_: ApprovalRequest, incident: Incident, decision: Decision, people: People
) -> None:
    """What the incident remembers is not asked twice; a new window withdraws the old one, approved or not."""
    incident.asked = asked_as(request_)
    same, new = approvals.request(incident, decision, "why")
    assert (same, new) == (request_, False)
    for who in ("ada", "bob"):
        approvals.grant(request_.id, people.say(request_, who))
    other_window(incident)
    other, new = approvals.request(incident, decision, "why")
    assert new
    assert approvals.get(request_.id).state == "superseded"
    assert [one.id for one in approvals.list() if one.state == "pending"] == [other.id]


def test_who_asked_may_not_approve(
    approvals: Approvals, incident: Incident, decision: Decision, people: People
) -> None:
    """An undo that a person asked for needs another person."""
    incident.undo_of = {"by": "ada"}
    request, _ = approvals.request(incident, decision, "why")
    with pytest.raises(BadInput, match="who asked for it"):
        approvals.grant(request.id, people.say(request, "ada"))
    stored = request.model_copy(update={"granted": (people.say(request, "ada"), people.say(request, "bob"))})
    assert [grant.by for grant in standing(stored, read_roster(people.settings))] == ["bob"]


def test_ids_by_prefix(approvals: Approvals, request_: ApprovalRequest) -> None:
    """Any unambiguous prefix serves; none or several say so."""
    assert approvals.get(request_.id[:8]).id == request_.id
    with pytest.raises(NotFound, match="no such approval"):
        approvals.get("apr-zzz")


def test_what_cannot_be_read_is_passed_over(approvals: Approvals, request_: ApprovalRequest, client: Any) -> None:
    """Garbage in the store, or a request under another's id, hides no other request and stops no listing."""
    document = json.loads(request_.model_dump_json())
    for name, raw in {"apr-1": b"\xff", "apr-2": b"{}", "apr-3": json.dumps(document),
                      "apr-4": json.dumps(document | {"id": "apr-4", "expires_at": "soon"})}.items():  # fmt: skip
        client.hset("driftwarden:approvals", name, raw)
    assert approvals.list() == [request_]
    assert approvals.find("apr-3") is None


def test_what_a_listing_shows(request_: ApprovalRequest) -> None:
    """The fields of the contract, probabilities and money as decimal strings."""
    view = request_.view()
    wanted = {"id", "incident", "model", "action", "params", "digest", "state", "required", "granted", "requested_at",
              "expires_at", "cost_usd", "confidence", "why"}  # fmt: skip
    assert wanted <= set(view)
    assert (view["confidence"], view["cost_usd"], view["why"]) == ("0.9", "0", ["confidence"])
