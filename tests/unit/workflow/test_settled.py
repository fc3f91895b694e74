"""Settled requests leave the queue with their incident, on a real server; open ones never, and no answer is lost on the way."""

from collections.abc import Collection
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fakes.approvers import People
from redis.crc import key_slot

from driftwarden.clock import SystemClock, parse_rfc3339, rfc3339
from driftwarden.contracts.decision import Decision
from driftwarden.errors import NotFound
from driftwarden.service.signing.grants import Grant
from driftwarden.service.signing.roster import roster_in_force
from driftwarden.service.workflow.answered import Tally, read_book
from driftwarden.service.workflow.approvals import ApprovalRequest, Approvals, refused_by
from driftwarden.service.workflow.incident import Incident
from driftwarden.service.workflow.settled import Settled
from driftwarden.service.workflow.stats import _approvals
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
    """As soon as its incident ended, and once that is gone. Again and again."""
    was = approvals.mark(request_.id, state)
    assert settled.put_away(nothing) == 0
    assert (settled.put_away(everything), settled.put_away(everything)) == (1, 0)
    assert (approvals.recent(), approvals.list()) == ((), [was])
    assert (approvals.find(was.id), approvals.get(was.id), approvals.get(was.id[:8])) == (was, was, was)
    assert settled.forget(nothing) == 0
    assert (settled.forget(everything), settled.forget(everything)) == (1, 0)
    assert (approvals.find(was.id), approvals.list()) == (None, [])
    assert book(approvals)[0].states == {state: 1}


def book(approvals: Approvals, model: str | None = None) -> tuple[Tally, frozenset[str]]:
    """What is kept of those that are gone."""
    return read_book(approvals.redis.hgetall(approvals.book), model)


def test_a_rejected_plan_is_not_asked_for_again(
    approvals: Approvals,
    settled: Settled,
    request_: ApprovalRequest,
    incident: Incident,
    decision: Decision,
    tmp_path: Path,
) -> None:
    """Its event came again after years, and the incident of that name has the same plan: the very word that refused it counts."""
    settings = Settings(home=tmp_path, conf=tmp_path, audit_dir=tmp_path, policy_path=tmp_path / "p.yml")
    people = People(settings, SystemClock())
    was = approvals.refuse(request_.id, people.say(request_, verdict="reject"))
    listed = roster_in_force(settings)
    assert refused_by(was, listed) is not None
    for _ in range(2):  # and again
        assert (settled.put_away(everything), settled.forget(everything)) == (1, 1)
        assert approvals.find(was.id) is None
        assert book(approvals)[0].states == {"rejected": 1}, "it counts once, however often it is asked"
        assert book(approvals)[1] == {was.id}
        found, is_new = approvals.request(incident, decision, was.summary)
        assert (found, is_new) == (was, False)
        assert approvals.find(was.id) == was
        assert refused_by(found, listed) == was.refused
    other = incident.model_copy(update={"champion_before": 9})
    assert approvals.request(other, decision, "why")[0].state == "pending", "another plan is asked for"


@pytest.mark.parametrize(
    "text", [b"", b"[]", b'{"requested_at": 5}', b'{"requested_at": "soon", "refused": null}', b"[" * 9999]
)
def test_a_refusal_that_cannot_be_read_refuses_all_the_same(
    approvals: Approvals, request_: ApprovalRequest, incident: Incident, decision: Decision, client: Any, text: bytes
) -> None:
    """Whoever writes there can have a plan refused, and none allowed."""
    client.delete(KEY)
    client.hset(approvals.book, f"#{request_.id}", text)
    found, is_new = approvals.request(incident, decision, "why")
    assert (found.id, found.state, found.refused, is_new) == (request_.id, "rejected", None, False)


def test_figures_of_those_that_are_gone_stay_right(
    approvals: Approvals, settled: Settled, request_: ApprovalRequest, client: Any
) -> None:
    """Rates and counts exactly, the median to within 3 %, whatever is gone and whatever is still there; in few bytes."""
    client.delete(KEY)
    asked = parse_rfc3339("2026-11-20T09:00:00Z")
    requests = []
    for number in range(400):
        state = ("executed", "rejected", "expired", "executed")[number % 4]
        said = Grant(by="ada", group="ml-oncall", at=rfc3339(asked + timedelta(seconds=10 + 37 * number)), reason="r")
        answer = {"executed": {"granted": (said,)}, "rejected": {"refused": said}}.get(state, {})
        about = {"id": f"apr-{number:012}", "state": state, "requested_at": rfc3339(asked)}
        about |= {"model": "ab"[number % 2], "incident": f"inc-{number}"}
        requests.append(request_.model_copy(update=about | answer))
    for one in requests:
        client.hset(KEY, one.id, one.model_dump_json())
    helped = {one.id: number % 3 == 0 for number, one in enumerate(requests) if number % 8 == 0}
    incidents = [SimpleNamespace(id=one.incident, helped=helped.get(one.id)) for one in requests]

    def shown(left: Collection[str], model: str | None = None) -> dict[str, Any]:
        gone, refused = book(approvals, model)
        live = [one for one in approvals.list() if model in {None, one.model} and one.id not in refused]
        there: Any = {one.id: one for one in incidents if one.id in left}
        return _approvals(live, there, gone)

    every = {one.incident for one in requests}
    before = {model: shown(every, model) for model in (None, "a", "b")}
    assert before[None]["proved_right"] == {"share": "0.3400", "n": 50}
    assert settled.put_away(everything) == 400
    some = {one.incident for one in requests[:250]}
    for gone in (some, every):
        settled.forget(lambda ids, gone=gone: ids & gone, lambda one: helped.get(one.id))  # type: ignore[misc]
        for model, was in before.items():
            now = shown(every - gone, model)
            assert now["median_seconds"] == pytest.approx(was["median_seconds"], rel=0.03)
            assert now | {"median_seconds": 0} == was | {"median_seconds": 0}
    assert client.hlen(PAST) == 0
    assert sum(client.hstrlen(approvals.book, model) for model in "ab") < 3000


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
    assert key_slot(approvals.past.encode()) == key_slot(approvals.book.encode()) == key_slot(KEY.encode())
