"""Taking an effect back: decided like any other effect, done once, and nothing is lost where it is not done."""

from collections.abc import Callable
from typing import Any

import pytest
from fakes.workflow_world import Crash

from driftwarden.contracts.base import ActionName, RootCause
from driftwarden.contracts.findings import Candidate


def harm(world: Any) -> None:
    """A retraining was executed, and later labels say that it did harm."""
    world.send()
    world.run()
    assert world.only().state == "verifying"
    world.script.gain, world.script.gain_win = -0.2, 0.01


def dying_once_at(point: str) -> Callable[[str], None]:
    """A process that dies there the first time."""
    left = [1]

    def die(where: str) -> None:
        if where == point and left:
            left.clear()
            raise Crash(where)

    return die


def test_an_undo_has_its_own_decision_intent_and_result(world: Any) -> None:
    """Written before it is done, by a decision of its own, from the harm that was measured."""
    harm(world)
    world.later(seconds=301)
    assert world.only().state == "undone"
    told = {one["@hash"]: one for one in world.records()}
    intent, result = world.records("intent")[-1], world.records("result")[-1]
    assert (intent["body"]["undo"], result["body"]["undo"]) == (True, True)
    assert result["causation"] == intent["@hash"]
    decision = told[intent["causation"]]
    assert decision["type"] == "decision"
    assert decision["body"]["decision"]["outcome"] == "execute"
    facts = decision["body"]["facts"]
    assert facts["plan"]["action"] == "rollback"
    assert (facts["plan"]["confidence"], facts["impact"]["relative_loss"]) == ("0.99", "0.2")
    assert [one["type"] for one in world.records()].index("verification") < world.records().index(intent)
    incident = world.only()
    assert (incident.candidate.action, incident.confidence, incident.undone.after) == (ActionName.RETRAIN, 0.97, 1)
    assert incident.decision["outcome"] == "execute"
    assert incident.facts["plan"]["action"] == "retrain"


def test_a_halt_holds_the_undo_too(world: Any) -> None:
    """The kill switch stops every effect; people are asked, and may undo once it is lifted."""
    harm(world)
    world.parts.halts.halt(None, reason="look first", by="ada")
    world.later(seconds=301)
    assert world.only().state == "awaiting_approval"
    assert world.plant.champions["m"] == 2
    world.approve()
    world.run()
    assert world.plant.champions["m"] == 2, "not even approved: a halt cannot be lifted by signing"
    world.parts.halts.resume(None)
    world.approve()
    world.run()
    assert (world.only().state, world.plant.champions["m"]) == ("undone", 1)


def test_where_the_policy_only_watches_it_is_tried_again_and_then_told(world: Any) -> None:
    """Under `dryRun` nothing is undone; when the verification's time is over, people know that the harm stands."""
    harm(world)
    world.govern(enforcement="dryRun")
    world.later(seconds=301)
    assert (world.only().state, world.only().outcome, world.plant.champions["m"]) == ("verifying", "execute", 2)
    world.govern()
    world.later(seconds=301)
    assert (world.only().state, world.plant.champions["m"]) == ("undone", 1)

    world.clock.advance(days=2)
    world.script.gain = None
    world.send()
    world.run()
    world.script.gain = -0.2
    world.govern(enforcement="dryRun")
    world.later(days=31)
    world.later(seconds=301)
    incident = world.incidents()[-1]
    assert (incident.state, incident.helped) == ("resolved", False)
    assert f"{incident.id}:harm" in world.silent.messages


def test_people_refuse_to_undo_harm(world: Any) -> None:
    """Their word ends it: it is not asked again, and the harm is told."""
    harm(world)
    world.parts.halts.halt(None, reason="look first", by="ada")
    world.later(seconds=301)
    world.reject()
    world.parts.halts.resume(None)
    world.run()
    world.later(seconds=301)
    incident = world.only()
    assert (incident.state, incident.helped, incident.candidate.id) == ("resolved", False, "c1")
    assert world.plant.champions["m"] == 2
    assert f"{incident.id}:harm" in world.silent.messages


@pytest.mark.parametrize("where", ["stepped:verifying", "committed:executing", "stepped:executing"])
def test_a_crash_anywhere_in_an_undo_leaves_one(world: Any, where: str) -> None:
    """The verdict stands once it is committed: whoever takes over does not judge afresh."""
    harm(world)
    world.clock.advance(seconds=301)
    world.store.pump_timers(ahead_s=301)
    with pytest.raises(Crash):
        world.run(world.worker(fail_point=dying_once_at(where)))
    if where != "stepped:verifying":
        world.script.gain, world.script.gain_win = 0.3, 0.99  # new labels that would say otherwise
    world.restart()
    assert world.only().state == "undone"
    assert [move[1:3] for move in world.plant.moves] == [(1, 2), (2, 1)]


def test_an_undo_that_comes_too_late_changes_nothing(world: Any) -> None:
    """Another champion is in force by now: nothing of this incident's is left to take back, and it still failed."""
    harm(world)
    world.plant.champions["m"] = 7
    world.later(seconds=301)
    incident = world.only()
    assert (incident.state, incident.helped, world.plant.champions["m"]) == ("resolved", False, 7)
    assert world.parts.ledger.entries()[incident.id]["failed"] is True
    assert len(world.records("intent")) == 1


def test_the_undo_of_a_rollback_points_forward(world: Any) -> None:
    """Undo restores what was in force, also where that is the later version."""
    world.plant.champions["m"] = 5
    world.script.candidates = (Candidate(id="c1", action=ActionName.ROLLBACK, params={"to_version": 3}),)
    world.script.gain, world.script.gain_win = 0.1, 0.99
    world.send()
    world.run()
    assert (world.only().state, world.plant.champions["m"]) == ("resolved", 3)
    world.ask("undo", by="ada")
    world.run()
    world.approve("bob")
    world.run()
    assert (world.only().state, world.plant.champions["m"]) == ("undone", 5)


def test_an_undo_that_is_refused_leaves_the_verification_running(world: Any) -> None:
    """Asked while it was verified, and rejected: the service still looks whether it harmed."""
    world.send()
    world.run()
    world.ask("undo", by="ada")
    world.run()
    assert world.only().state == "awaiting_approval"
    world.reject("bob")
    world.run()
    incident = world.only()
    assert (incident.state, incident.candidate.id, incident.outcome) == ("verifying", "c1", "execute")
    assert incident.decision["outcome"] == "execute"
    world.script.gain, world.script.gain_win = -0.2, 0.01
    world.later(seconds=301)
    assert (world.only().state, world.plant.champions["m"]) == ("undone", 1)


def test_an_undo_nobody_answers_leaves_it_resolved(world: Any) -> None:
    """Expired: the incident stands again where it stood."""
    world.script.gain, world.script.gain_win = 0.1, 0.99
    world.send()
    world.run()
    world.ask("undo", by="ada")
    world.run()
    world.later(hours=5)
    assert (world.only().state, world.only().helped, world.plant.champions["m"]) == ("resolved", True, 2)
    assert world.parts.ledger.track_record(model="m", action="retrain")["successes"] == 1


def test_an_undo_by_hand_teaches_nothing_of_the_action(world: Any) -> None:
    """A person's wish is no measurement: the track record stays as it was."""
    world.send()
    world.run()
    world.ask("undo", by="ada")
    world.run()
    world.approve("bob")
    world.run()
    assert (world.only().state, world.only().helped) == ("undone", None)
    assert world.parts.ledger.track_record(model="m", action="retrain") == {
        "successes": 0,
        "failures": 0,
        "lower_bound": None,
    }
    assert [one["body"]["basis"] for one in world.records("settlement")] == []


def test_a_quarantined_batch_is_released_by_hand(world: Any) -> None:
    """What moved no version is undone by its own action."""
    world.script.root_cause = RootCause.STUCK_VALUES
    world.script.candidates = (Candidate(id="c1", action=ActionName.QUARANTINE_DATA),)
    world.send()
    world.run()
    assert world.only().state == "resolved"
    world.ask("undo", by="ada")
    world.run()
    assert world.pending().action == "quarantine_data"
    world.approve("bob")
    world.run()
    assert world.only().state == "undone"
    assert world.only().undone.detail == "taken back"


def test_whoever_died_while_asking_left_nobody_untold(world: Any) -> None:
    """A crash between the request and its notification: the next worker records it and tells people, once."""
    world.script.win = 0.5
    asked, notify = [1], world.silent.notify

    def die(*args: Any, **more: Any) -> None:
        if asked:
            asked.clear()
            raise Crash("notifying")
        notify(*args, **more)

    world.silent.notify = die
    world.send()
    with pytest.raises(Crash):
        world.run()
    world.restart()
    request = world.pending()
    assert [key for key in world.silent.messages if key.startswith("apr-")] == [f"{request.id}@{request.requested_at}"]
    assert "requested" in {one["body"]["verdict"] for one in world.records("approval")}


def test_a_request_that_is_asked_anew_is_told_anew(world: Any) -> None:
    """The same plan, asked again after its request was withdrawn, does not stay silent."""
    world.script.win = 0.5
    world.send()
    world.run()
    first = world.pending()
    world.ask("retry")
    world.clock.advance(minutes=1)
    world.run()
    second = world.pending()
    assert (second.id, second.requested_at != first.requested_at) == (first.id, True)
    assert len([key for key in world.silent.messages if key.startswith(first.id)]) == 2
