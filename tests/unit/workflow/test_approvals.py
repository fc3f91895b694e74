"""Requests for approval on a real server: bound to what they approve, answered once by distinct people, never late."""

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from driftwarden.contracts.decision import Decision
from driftwarden.errors import BadInput, NotFound
from driftwarden.service.workflow.approvals import ApprovalRequest, Approvals, approval_digest, is_bound
from driftwarden.service.workflow.incident import Incident


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


def other_param(incident: Incident) -> None:
    """Another parameter of the same candidate."""
    assert incident.plan is not None
    first, *rest = incident.plan.candidates
    changed = first.model_copy(update={"params": {"strategy": "recent"}})
    incident.plan = incident.plan.model_copy(update={"candidates": (changed, *rest)})


def other_window(incident: Incident) -> None:
    """More drift, with a later window."""
    incident.event = {"window": {**incident.event["window"], "end": "2026-11-20T08:30:00Z"}}


CHANGES: dict[str, Any] = {
    "action": lambda incident: setattr(incident, "chosen", "c3"),
    "params": other_param,
    "champion": lambda incident: setattr(incident, "champion_before", 4),
    "window": other_window,
    "incident": lambda incident: setattr(incident, "id", "inc-000000000002"),
    "model": lambda incident: setattr(incident, "model", "n"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_any_change_of_the_effect_is_another_digest(
    incident: Incident, decision: Decision, request_: ApprovalRequest, change: str
) -> None:
    """Action, parameters, champion, window, incident, model: an approval of one is none of the other."""
    assert is_bound(incident, request_)
    before = approval_digest(incident, decision)
    CHANGES[change](incident)
    assert approval_digest(incident, decision) != before
    assert not is_bound(incident, request_)


def test_any_change_of_the_terms_or_of_what_is_lifted_is_another_digest(incident: Incident, decision: Decision) -> None:
    """Number of people, groups, and the rules that fail; what passes, and the order of rules, change nothing."""
    assert decision.approvals is not None
    terms, rule = decision.approvals, decision.rules[0]
    others = [
        decision.model_copy(update={"approvals": terms.model_copy(update={"required": 1})}),
        decision.model_copy(update={"approvals": terms.model_copy(update={"from_": ("risk",)})}),
        decision.model_copy(update={"rules": (*decision.rules, rule.model_copy(update={"id": "impact"}))}),
    ]
    digests = {approval_digest(incident, one) for one in (decision, *others)}
    assert len(digests) == 4
    turned = decision.model_copy(update={"rules": decision.rules[::-1]})
    assert approval_digest(incident, turned) == approval_digest(incident, decision)


def test_two_distinct_people_of_the_groups(approvals: Approvals, request_: ApprovalRequest) -> None:
    """One is not enough, the same again is refused, someone of no group is refused, the second one decides."""
    assert approvals.grant(request_.id, by="ada", groups=("risk",), reason="ok").state == "pending"
    with pytest.raises(BadInput, match="a second approval by ada"):
        approvals.grant(request_.id, by="ada", groups=("ml-oncall",), reason="ok")
    with pytest.raises(BadInput, match="groups: sales"):
        approvals.grant(request_.id, by="eve", groups=("sales",), reason="ok")
    with pytest.raises(BadInput, match="groups: none"):
        approvals.refuse(request_.id, by="eve", groups=(), reason="no")
    done = approvals.grant(request_.id, by="bob", groups=("ml-oncall",), reason="ok")
    assert (done.state, [grant.group for grant in done.granted]) == ("approved", ["risk", "ml-oncall"])
    with pytest.raises(BadInput, match="got `approved`"):
        approvals.grant(request_.id, by="cid", groups=("risk",), reason="ok")


def test_many_at_once_are_each_counted_once(approvals: Approvals, request_: ApprovalRequest) -> None:
    """Eight people answer in the same instant: two grants stand, the others hear that it is over."""

    def grant(number: int) -> str:
        try:
            return approvals.grant(request_.id, by=f"p{number}", groups=("risk",), reason="ok").state
        except BadInput:
            return "too late"

    with ThreadPoolExecutor(8) as pool:
        answers = sorted(pool.map(grant, range(8)))
    assert answers == ["approved", "pending", *["too late"] * 6]
    assert len(approvals.get(request_.id).granted) == 2


def test_expired_from_that_moment_on(approvals: Approvals, request_: ApprovalRequest, clock: Clock) -> None:
    """The instant of expiry itself is too late."""
    clock.moment += timedelta(seconds=3599, microseconds=999_999)
    assert not approvals.is_expired(request_)
    clock.moment += timedelta(microseconds=1)
    assert approvals.is_expired(request_)
    with pytest.raises(BadInput, match="expired at"):
        approvals.grant(request_.id, by="ada", groups=("risk",), reason="ok")


def test_rejected_is_final(
    approvals: Approvals, request_: ApprovalRequest, incident: Incident, decision: Decision
) -> None:
    """It cannot be approved any more, and the same plan is not asked again."""
    assert approvals.refuse(request_.id, by="ada", groups=("risk",), reason="no").state == "rejected"
    with pytest.raises(BadInput, match="got `rejected`"):
        approvals.grant(request_.id, by="bob", groups=("risk",), reason="ok")
    again, new = approvals.request(incident, decision, "why")
    assert (again.state, new) == ("rejected", False)


def test_the_same_plan_is_asked_once_and_another_supersedes_it(
    approvals: Approvals, request_: ApprovalRequest, incident: Incident, decision: Decision
) -> None:
    """A crash asks again without a second request; a new window withdraws the old one, approved or not."""
    same, new = approvals.request(incident, decision, "why")
    assert (same, new) == (request_, False)
    for who in ("ada", "bob"):
        approvals.grant(request_.id, by=who, groups=("risk",), reason="ok")
    other_window(incident)
    other, new = approvals.request(incident, decision, "why")
    assert new
    assert approvals.get(request_.id).state == "superseded"
    assert [one.id for one in approvals.list() if one.state == "pending"] == [other.id]


def test_who_asked_may_not_approve(approvals: Approvals, incident: Incident, decision: Decision) -> None:
    """An undo that a person asked for needs another person."""
    incident.undo_of = {"by": "ada"}
    request, _ = approvals.request(incident, decision, "why")
    with pytest.raises(BadInput, match="who asked for it"):
        approvals.grant(request.id, by="ada", groups=("risk",), reason="ok")


def test_ids_by_prefix(approvals: Approvals, request_: ApprovalRequest) -> None:
    """Any unambiguous prefix serves; none or several say so."""
    assert approvals.get(request_.id[:8]).id == request_.id
    with pytest.raises(NotFound, match="no such approval"):
        approvals.get("apr-zzz")


def test_what_a_listing_shows(request_: ApprovalRequest) -> None:
    """The fields of the contract, probabilities and money as decimal strings."""
    view = request_.view()
    wanted = {"id", "incident", "model", "action", "params", "digest", "state", "required", "granted", "requested_at",
              "expires_at", "cost_usd", "confidence", "why"}  # fmt: skip
    assert wanted <= set(view)
    assert (view["confidence"], view["cost_usd"], view["why"]) == ("0.9", "0", ["confidence"])
