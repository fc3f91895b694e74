"""Settled requests leave the queue with their incident, on a real server; open ones never, and no answer is lost on the way."""

from collections.abc import Collection
from pathlib import Path
from typing import Any

import pytest
from fakes.approvers import People
from redis.crc import key_slot

from driftwarden.clock import SystemClock
from driftwarden.contracts.decision import Decision
from driftwarden.errors import NotFound
from driftwarden.service.workflow.approvals import ApprovalRequest, Approvals
from driftwarden.service.workflow.incident import Incident
from driftwarden.service.workflow.settled import Settled
from driftwarden.settings import Settings

KEY, PAST = "driftwarden:approvals", "driftwarden:approvals:past{driftwarden:approvals}"


@pytest.fixture
def approvals(client: Any) -> Approvals:
    """An empty queue."""
    return Approvals(client, "driftwarden:", SystemClock())


@pytest.fixture
def settled(approvals: Approvals) -> Settled:
    """Its past."""
    return Settled(approvals)


@pytest.fixture
def request_(approvals: Approvals, incident: Incident, decision: Decision) -> ApprovalRequest:
    """One that is pending."""
    return approvals.request(incident, decision, "why")[0]


def everything(ids: Collection[str]) -> Collection[str]:
    """All of them have ended, or are gone."""
    return ids


def nothing(ids: Collection[str]) -> Collection[str]:
    """None of them has."""
    del ids
    return ()


@pytest.mark.parametrize("state", ["pending", "approved"])
def test_an_open_one_is_never_moved(
    approvals: Approvals, settled: Settled, request_: ApprovalRequest, state: Any
) -> None:
    """Whatever became of its incident: its expiry was not settled."""
    approvals.mark(request_.id, state)
    assert (settled.put_away(everything), settled.forget(everything)) == (0, 0)
    assert [one.id for one in approvals.recent()] == [request_.id]


@pytest.mark.parametrize("state", ["executed", "expired", "superseded", "rejected"])
def test_a_settled_one_is_put_away_and_then_removed(
    approvals: Approvals, settled: Settled, request_: ApprovalRequest, state: Any
) -> None:
    """As soon as its incident ended, and once that is gone; a rejected one stays, and is found. Again and again."""
    was = approvals.mark(request_.id, state)
    assert settled.put_away(nothing) == 0
    assert (settled.put_away(everything), settled.put_away(everything)) == (1, 0)
    assert (approvals.recent(), approvals.list()) == ((), [was])
    assert (approvals.find(was.id), approvals.get(was.id), approvals.get(was.id[:8])) == (was, was, was)
    assert settled.forget(nothing) == 0
    stays = state == "rejected"
    assert (settled.forget(everything), settled.forget(everything)) == (0 if stays else 1, 0)
    assert approvals.find(was.id) == (was if stays else None)


def test_a_rejected_plan_is_not_asked_for_again(
    approvals: Approvals, settled: Settled, request_: ApprovalRequest, incident: Incident, decision: Decision
) -> None:
    """Its event came again after years, and the incident of that name has the same plan."""
    approvals.mark(request_.id, "rejected")
    settled.put_away(everything)
    settled.forget(everything)
    found, is_new = approvals.request(incident, decision, "why")
    assert (found.state, is_new) == ("rejected", False)


def test_an_incident_that_goes_on_asks_anew(
    approvals: Approvals,
    settled: Settled,
    request_: ApprovalRequest,
    incident: Incident,
    decision: Decision,
    client: Any,
) -> None:
    """It was tried again by hand: one request of that id, the new one, which takes the old one's place when it is settled."""
    approvals.mark(request_.id, "expired")
    settled.put_away(everything)
    again, is_new = approvals.request(incident, decision, "why")
    assert (again.id, again.state, is_new) == (request_.id, "pending", True)
    assert approvals.list() == [again]
    executed = approvals.mark(again.id, "executed")
    assert client.hlen(PAST) == 0
    assert settled.put_away(everything) == 1
    assert approvals.list() == [executed]


def test_one_that_was_put_away_can_be_marked(
    approvals: Approvals, settled: Settled, request_: ApprovalRequest, client: Any
) -> None:
    """Who was about to settle it otherwise finds it; it is back among the recent ones."""
    approvals.mark(request_.id, "superseded")
    settled.put_away(everything)
    approvals.mark(request_.id, "expired")
    assert ([one.state for one in approvals.recent()], client.hlen(PAST)) == (["expired"], 0)
    with pytest.raises(NotFound):
        approvals.mark("apr-000000000000", "expired")


def test_what_is_answered_meanwhile_is_not_moved(
    approvals: Approvals, settled: Settled, request_: ApprovalRequest, tmp_path: Path
) -> None:
    """The request was asked anew, and signed, between the look and the move."""
    settings = Settings(home=tmp_path, conf=tmp_path, audit_dir=tmp_path, policy_path=tmp_path / "p.yml")
    people = People(settings, SystemClock())
    approvals.mark(request_.id, "expired")

    def answered(ids: Collection[str]) -> Collection[str]:
        approvals.mark(request_.id, "pending")
        approvals.grant(request_.id, people.say(request_))
        return ids

    assert settled.put_away(answered) == 0
    (kept,) = approvals.recent()
    assert [grant.by for grant in kept.granted] == ["ada"]


def test_a_backlog_moves_in_few_steps(
    approvals: Approvals, settled: Settled, request_: ApprovalRequest, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who answers one meanwhile is not kept from it by hundreds of steps, each of which changes the queue."""
    was = approvals.mark(request_.id, "expired")
    for number in range(250):
        copy = was.model_copy(update={"id": f"apr-{number:012}"})
        client.hset(KEY, copy.id, copy.model_dump_json())
    steps, written = list[str](), settled._written

    def counted(leave: str, *about: Any) -> bool:
        steps.append(leave)
        return written(leave, *about)

    monkeypatch.setattr(settled, "_written", counted)
    assert (settled.put_away(everything), client.hlen(KEY), client.hlen(PAST)) == (251, 0, 251)
    assert (settled.forget(everything), client.hlen(PAST)) == (251, 0)
    assert steps == [KEY] * 3 + [PAST] * 3


def test_the_past_is_on_the_queue_s_slot(approvals: Approvals) -> None:
    """Of a cluster: what moves between them moves in one step."""
    assert key_slot(approvals.past.encode()) == key_slot(KEY.encode())
