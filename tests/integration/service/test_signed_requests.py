"""What people ask by hand is signed: a word that nobody spoke, or spoke before, or about something else, changes nothing."""

import json
import shutil
import subprocess
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from fakes.approvers import key_of
from fakes.workflow_world import World

from driftwarden.contracts.base import ActionName
from driftwarden.contracts.findings import Candidate
from driftwarden.service.cli.main import run
from driftwarden.service.signing.roster import revoke
from driftwarden.service.workflow.approvals import asked_as

MALLORY = key_of("mallory")
TWO = (
    Candidate(id="c1", action=ActionName.RETRAIN, cost_usd="5.00", params={"strategy": "recent"}),
    Candidate(id="c2", action=ActionName.QUARANTINE_DATA),
)


@pytest.fixture
def waiting(world: Any) -> Any:
    """A world in which a plan waits for people; ada and bob are enrolled."""
    world.people.enrol("ada")
    world.people.enrol("bob")
    wait(world)
    return world


def wait(world: Any) -> None:
    """One incident that waits, with a second candidate."""
    world.script.win, world.script.candidates = 0.5, TWO
    world.send()
    world.run()
    assert world.only().state == "awaiting_approval"


def leave(world: Any, what: str, payload: Any) -> None:
    """An attacker's signal."""
    world.store.wake(world.only().id, what, payload)
    world.run()


def said_by_people(world: Any) -> list[Any]:
    """Everything that the log and the story call a person's word."""
    log = [one for one in world.records() if (one.get("actor") or {}).get("kind") == "human"]
    return [*log, *(line for line in world.only().timeline if line["actor"].startswith("human"))]


def test_each_signed_request_is_taken_up(waiting: Any) -> None:
    """Close, then retry, then an undo of what was done: each once, with the person, the reason and the proof on record."""
    waiting.ask("close", by="bob", reason="known maintenance")
    waiting.run()
    assert waiting.only().state == "closed"
    waiting.script.win, waiting.script.gain, waiting.script.gain_win = 0.97, 0.1, 0.99
    waiting.ask("retry")
    waiting.run()
    assert waiting.only().state == "resolved"
    waiting.ask("undo", by="bob")
    waiting.run()
    assert (waiting.only().state, waiting.pending().requested_by) == ("awaiting_approval", "bob")
    asked = [one for one in waiting.records("approval") if one["body"]["verdict"].endswith("_requested")]
    assert [one["body"]["verdict"] for one in asked] == ["close_requested", "retry_requested", "undo_requested"]
    assert [one["actor"]["id"] for one in asked] == ["bob", "ada", "bob"]
    assert json.loads(asked[0]["body"]["statement"])["reason"] == "known maintenance"
    assert len(waiting.only().heard) == 3


@pytest.mark.skipif(shutil.which("ssh-keygen") is None, reason="ssh-keygen is not on the PATH")
def test_an_auditor_verifies_a_request_from_the_log_alone(waiting: Any, tmp_path: Path) -> None:
    """The record, a list of signers, and OpenSSH."""
    waiting.ask("close")
    waiting.run()
    (body,) = [one["body"] for one in waiting.records("approval") if one["body"]["verdict"] == "close_requested"]
    (tmp_path / "signers").write_text(f"{body['by']} {body['public_key']}\n")
    (tmp_path / "sig").write_text(body["signature"])
    done = subprocess.run(
        ["ssh-keygen", "-Y", "verify", "-f", tmp_path / "signers", "-I", "ada", "-n", "request@driftwarden.io",
         "-s", tmp_path / "sig"],
        input=body["statement"].encode(), capture_output=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def by_ada(world: Any, **more: Any) -> dict[str, Any]:
    """What ada really signed, as it lies in the store."""
    payload: dict[str, Any] = world.people.request(world.only().id, more.pop("what", "close"), **more).model_dump()
    return payload


def a_bare_name(world: Any) -> Any:
    """As before there were signatures."""
    return {"by": "ada", "reason": "because"}


def nothing(world: Any) -> Any:
    """No payload at all."""
    return None


def without_a_signature(world: Any) -> Any:
    """Every field but that one."""
    return by_ada(world) | {"signature": ""}


def by_an_unlisted_key(world: Any) -> Any:
    """Somebody else's key under ada's name."""
    return by_ada(world, key=MALLORY)


def by_nobody_who_is_listed(world: Any) -> Any:
    """An attacker under a name of their own."""
    return by_ada(world, by="mallory", key=MALLORY)


def by_a_colleague(world: Any) -> Any:
    """Bob's signature, and ada's name."""
    return by_ada(world, by="bob") | {"by": "ada"}


def by_a_revoked_key(world: Any) -> Any:
    """Signed while it counted."""
    payload = by_ada(world)
    revoke(world.settings, "ada", "left", world.clock.now())
    return payload


def of_another_incident(world: Any) -> Any:
    """Ada said that of another one; also with this one's name written over it."""
    other = world.people.request("inc-000000000000", "close").model_dump()
    leave(world, "close", other)
    return other | {"incident": world.only().id}


def of_another_kind(world: Any) -> Any:
    """Ada asked for a retry."""
    return by_ada(world, what="retry")


def with_other_words(world: Any) -> Any:
    """A reason that ada never gave."""
    return by_ada(world) | {"reason": "mallory was right"}


def of_the_day_before_yesterday(world: Any) -> Any:
    """It lay too long."""
    return by_ada(world, at=world.clock.now() - timedelta(hours=24, seconds=1))


def of_tomorrow(world: Any) -> Any:
    """Signed ahead, to be used later."""
    return by_ada(world, at=world.clock.now() + timedelta(minutes=6))


def with_a_candidate(world: Any) -> Any:
    """Words that belong to a choice."""
    return by_ada(world, candidate="c2", approval=asked_as(world.pending()))


FORGERIES: list[Callable[[Any], Any]] = [
    a_bare_name, nothing, without_a_signature, by_an_unlisted_key, by_nobody_who_is_listed, by_a_colleague,
    by_a_revoked_key, of_another_incident, of_another_kind, with_other_words, of_the_day_before_yesterday, of_tomorrow,
    with_a_candidate,
]  # fmt: skip


@pytest.mark.parametrize("forge", FORGERIES, ids=lambda forge: forge.__name__)
def test_what_nobody_said_is_not_heard(waiting: Any, forge: Callable[[Any], Any]) -> None:
    """It is noted as the service's own remark; the incident, the request and the log's people stay as they were."""
    before = waiting.only()
    leave(waiting, "close", forge(waiting))
    after = waiting.only()
    assert (after.state, after.heard, after.asked) == (before.state, {}, before.asked)
    assert (after.timeline[-1]["actor"], after.timeline[-1]["summary"][:16]) == (
        "service:driftwarden",
        "not heard: close",
    )
    assert said_by_people(waiting) == []
    assert waiting.pending().id == after.approval


def test_a_list_that_does_not_load_hears_nobody_yet(waiting: Any) -> None:
    """Nobody is believed while the settings are broken; the word is not lost, and is heard once they load again."""
    payload = by_ada(waiting)
    file = waiting.settings.conf / "local" / "driftwarden" / "approvers.yml"
    good = file.read_text()
    file.write_text("approvers: [")
    leave(waiting, "close", payload)
    assert (waiting.only().state, waiting.only().heard, said_by_people(waiting)) == ("awaiting_approval", {}, [])
    file.write_text(good)
    waiting.later(seconds=301)
    assert waiting.only().state == "closed"
    assert [one["body"]["verdict"] for one in waiting.records("approval")].count("close_requested") == 1


@pytest.mark.parametrize("again", ["as it was", "in another armor"])
def test_a_request_is_heard_once(waiting: Any, again: str) -> None:
    """Closed by ada, taken up again by her: her old word, put back, does not close it a second time."""
    payload = by_ada(waiting)
    leave(waiting, "close", payload)
    assert waiting.only().state == "closed"
    waiting.clock.advance(minutes=1)
    waiting.ask("retry")
    waiting.run()
    people = said_by_people(waiting)
    if again == "in another armor":
        payload |= {"signature": payload["signature"].replace("\n", "", 2).replace("-----U1", "-----\nU1")}
    leave(waiting, "close", payload)
    assert waiting.only().state == "awaiting_approval"
    assert "again" in waiting.only().timeline[-1]["summary"]
    assert said_by_people(waiting) == people
    waiting.clock.advance(hours=1)
    waiting.ask("close")
    waiting.run()
    assert waiting.only().state == "closed", "a new one is heard"


def test_a_request_that_waits_for_a_failing_step_is_not_said_twice(waiting: Any) -> None:
    """The step after it fails for a while and is tried again; the request was heard, and is not called a repetition."""
    away = [1, 1]

    def advise() -> None:
        if away:
            away.pop()
            raise TimeoutError

    waiting.script.on_advise = advise
    waiting.ask("retry")
    waiting.run()
    waiting.later(seconds=200)
    waiting.later(seconds=200)
    assert waiting.only().state == "awaiting_approval"
    assert not [line for line in waiting.only().timeline if "not heard" in line["summary"]]
    assert [one["body"]["verdict"] for one in waiting.records("approval")].count("retry_requested") == 1


def test_a_forged_undo_takes_nobody_s_right_to_approve(world: Any) -> None:
    """Who asked may not approve: an attacker cannot make anyone that person."""
    world.people.enrol("ada")
    world.script.gain, world.script.gain_win = 0.1, 0.99
    world.send()
    world.run()
    leave(world, "undo", {"by": "ada", "reason": "x"})
    assert world.only().state == "resolved"
    world.ask("undo", by="bob")
    world.run()
    assert world.pending().requested_by == "bob"
    world.approve("ada")
    world.run()
    assert world.only().state == "undone"


def test_an_undo_of_a_closed_incident_that_is_refused_leaves_it_closed(world: Any) -> None:
    """Closed while its effect was verified; whoever asks to undo it then, and is refused, finds it closed again."""
    world.send()
    world.run()
    world.ask("close")
    world.run()
    assert world.only().state == "closed"
    world.clock.advance(minutes=1)
    world.ask("undo")
    world.run()
    world.reject("bob")
    world.run()
    assert (world.only().state, world.plant.champions["m"]) == ("closed", 2)
    world.govern(enforcement="dryRun")
    world.clock.advance(minutes=1)
    world.ask("undo")
    world.run()
    assert (world.only().state, world.plant.champions["m"]) == ("closed", 2)


# Another candidate


def choose(world: Any, candidate: str = "c2", **more: Any) -> None:
    """A person chooses another candidate."""
    world.ask("choose", candidate=candidate, approval=more.pop("approval", world.only().asked), **more)
    world.run()


def test_another_candidate_is_decided_afresh_and_asked_for(waiting: Any) -> None:
    """Its own request takes the old one's place, and only a signature of that one does it."""
    first = waiting.pending()
    choose(waiting)
    second = waiting.pending()
    assert (second.action, second.id != first.id) == ("quarantine_data", True)
    assert waiting.parts.approvals.get(first.id).state == "superseded"
    incident = waiting.only()
    assert (incident.chosen, incident.confidence) == ("c2", None), "it was not rehearsed: nothing is known"
    assert waiting.records("decision")[-1]["body"]["facts"]["plan"]["confidence"] is None
    assert waiting.plant.done == {}
    waiting.approve("bob")
    waiting.run()
    assert [one.action for one in waiting.plant.done.values()] == [ActionName.QUARANTINE_DATA]
    (asked,) = [one for one in waiting.records("approval") if one["body"]["verdict"] == "choose_requested"]
    assert (asked["actor"], asked["body"]["candidate"]) == ({"kind": "human", "id": "ada"}, "c2")


def test_its_own_rehearsal_says_how_sure_it_is_and_a_claim_only_less(world: Any) -> None:
    """Two were rehearsed; the one that is chosen by hand brings its own win probability."""
    world.script.win, world.script.claimed = 0.6, 0.55
    world.script.candidates = (
        Candidate(id="c1", action=ActionName.RETRAIN, params={"strategy": "recent"}),
        Candidate(id="c2", action=ActionName.RETRAIN, params={"strategy": "since_drift"}),
    )
    world.send()
    world.run()
    other = "c2" if world.only().chosen == "c1" else "c1"
    choose(world, other)
    assert (world.only().chosen, world.only().confidence) == (other, 0.55)


def test_a_choice_the_policy_lets_through_needs_no_approval(waiting: Any) -> None:
    """Decided like anything else: the rule that held the first one back is met by now."""
    waiting.script.candidates = (*TWO[:1], TWO[0].model_copy(update={"id": "c2", "params": {"strategy": "all"}}))
    waiting.ask("retry")
    waiting.run()
    waiting.govern(enforcement="dryRun")
    choose(waiting, "c1" if waiting.only().chosen == "c2" else "c2")
    assert waiting.only().state == "closed"
    assert waiting.plant.done == {}


@pytest.mark.parametrize("candidate", ["c1", "c9"])
def test_a_choice_that_cannot_be_is_said_and_changes_nothing(waiting: Any, candidate: str) -> None:
    """The one that is asked for already, and one that is none."""
    choose(waiting, candidate)
    assert (waiting.only().state, waiting.only().chosen) == ("awaiting_approval", "c1")
    assert "not chosen" in waiting.only().timeline[-1]["summary"]
    assert waiting.pending().action == "retrain"


def test_a_refused_candidate_is_not_chosen(world: Any) -> None:
    """Its action said that it cannot be done."""
    world.actions[ActionName.QUARANTINE_DATA].refuse = "no batch is named"
    world.people.enrol("ada")
    wait(world)
    choose(world)
    assert (world.only().chosen, world.only().state) == ("c1", "awaiting_approval")
    assert "no batch is named" in world.only().timeline[-1]["summary"]


def test_a_choice_is_about_the_request_that_the_person_saw(waiting: Any) -> None:
    """Chosen in the place of an asking that is no more: c2 may be something else by now."""
    older = waiting.only().asked
    waiting.clock.advance(minutes=1)
    waiting.ask("retry")
    waiting.run()
    choose(waiting, approval=older)
    assert waiting.only().chosen == "c1"
    assert "not chosen" in waiting.only().timeline[-1]["summary"]


# The command line, on the embedded Redis


@pytest.fixture
def served(terminal: World, monkeypatch: pytest.MonkeyPatch) -> World:
    """While the command waits, the service works."""

    def work(_: float) -> None:
        terminal.clock.moment = datetime.now(UTC)
        terminal.run()

    monkeypatch.setattr("driftwarden.service.cli.choosing.sleep", work)
    terminal.script.candidates = TWO
    terminal.ask("close")
    terminal.run()
    (terminal.folder / "local" / "driftwarden" / "approvers.yml").unlink()
    terminal.clock.moment = datetime.now(UTC)
    terminal.send()
    terminal.run()
    return terminal


def asks(world: World, *arguments: str) -> int:
    """A command, and then the service."""
    code = run([*arguments])
    world.clock.moment = datetime.now(UTC)
    world.run()
    return code


def test_a_command_signs_and_the_first_use_enrols(terminal: World, capsys: pytest.CaptureFixture[str]) -> None:
    """For the groups of the policy, so that whoever asks by hand first can approve too."""
    id = terminal.only().id
    assert asks(terminal, "incidents", "close", id, "--reason", "known maintenance", "--json") == 0
    out, err = capsys.readouterr()
    assert (json.loads(out)["by"], json.loads(out)["asked"]) == ("ada", "close")
    assert "first use: ada is enrolled for ml-oncall, risk" in err
    assert terminal.only().state == "closed"
    assert asks(terminal, "incidents", "retry", id, "--reason", "it is back") == 0
    assert terminal.only().state == "awaiting_approval"


def test_a_command_of_somebody_who_is_not_listed_is_one_line(
    terminal: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Once somebody is listed, and where a Redis is configured; nothing is left in the store."""
    close = ("incidents", "close", terminal.only().id, "--reason", "me too")
    terminal.people.enrol("bob")
    assert asks(terminal, *close) == 2
    said = capsys.readouterr().err
    assert "someone listed in approvers.yml: bob" in said
    assert said.count("\n") == 1
    (terminal.folder / "local" / "driftwarden" / "approvers.yml").unlink()
    monkeypatch.setenv("DRIFTWARDEN_REDIS_URL", (terminal.folder / "redis.url").read_text().strip())
    assert asks(terminal, *close) == 2
    assert "driftwarden approvers enroll ada" in capsys.readouterr().err
    assert terminal.only().state == "awaiting_approval"
    assert terminal.only().timeline[-1]["actor"] == "service:driftwarden"


def test_another_candidate_by_one_command(served: World, capsys: pytest.CaptureFixture[str]) -> None:
    """Shown, chosen, decided, and signed with the same key while the service runs."""
    request = served.pending()
    assert run(["approvals", "show", request.id]) == 0
    command = f"driftwarden approvals approve {request.id} --candidate c2 --reason '...'"
    assert f"{command}     (quarantine_data, $0.00 instead)" in capsys.readouterr().out
    assert (
        asks(served, "approvals", "approve", request.id, "--candidate", "c2", "--reason", "keep the batch out first")
        == 0
    )
    said = capsys.readouterr().err
    assert "waiting for the service to decide" in said
    assert "is approved; follow it" in said
    assert [one.action for one in served.plant.done.values()] == [ActionName.QUARANTINE_DATA]


def test_what_differs_from_what_was_seen_is_not_signed(served: World, capsys: pytest.CaptureFixture[str]) -> None:
    """The quarantine needs a second person by now: the command that looks at it is named, and the answer is no."""
    request = served.pending()
    served.govern(required=2)
    assert (
        asks(served, "approvals", "approve", request.id, "--candidate", "c2", "--reason", "keep the batch out first")
        == 1
    )
    said = capsys.readouterr().err
    assert "not signed, for it is not what you saw: approvals" in said
    assert f"driftwarden approvals approve {served.pending().id} --reason '...'" in said
    assert served.plant.done == {}
    assert served.pending().granted == ()


def test_where_no_service_runs_the_choice_waits(
    served: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing is signed but the choice; the next commands are named."""
    clock = iter(range(0, 10_000, 3))
    monkeypatch.setattr("driftwarden.service.cli.choosing.sleep", lambda _: None)
    monkeypatch.setattr("driftwarden.service.cli.choosing.monotonic", lambda: float(next(clock)))
    request = served.pending()
    command = ["approvals", "approve", request.id, "--candidate", "c2", "--reason", "cheaper", "--json"]
    assert run(command) == 1
    out, err = capsys.readouterr()
    assert (json.loads(out)["signed"], json.loads(out)["approval"]) == (False, None)
    assert "driftwarden approvals list" in err
    served.run()
    assert (served.pending().action, served.pending().granted) == ("quarantine_data", ())


@pytest.mark.parametrize(("candidate", "said"), [("c1", "the one that is asked for"), ("c7", "no such candidate")])
def test_a_candidate_that_is_none_is_one_line(
    served: World, candidate: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before anything is signed or anybody enrolled."""
    request = served.pending()
    assert run(["approvals", "approve", request.id, "--candidate", candidate, "--reason", "x"]) == 2
    line = capsys.readouterr().err
    assert said in line
    assert line.count("\n") == 1
    assert served.pending() == request
    assert not (served.folder / "keys" / "approver-ada").exists()
