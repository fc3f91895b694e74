"""Taking an effect back: decided like any other effect, done once, and nothing is lost where it is not done."""

from collections.abc import Callable
from typing import Any

import pytest
from fakes.workflow_world import Crash

from driftwarden.contracts.base import ActionName, RootCause
from driftwarden.contracts.findings import Candidate
from driftwarden.errors import GiveUp, Retry
from driftwarden.service.workflow.parts import SERVICE


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
    """The kill switch stops every effect; what people approve meanwhile is undone once it is lifted."""
    harm(world)
    world.parts.halts.halt(None, reason="look first", by="ada")
    world.later(seconds=301)
    assert world.only().state == "awaiting_approval"
    assert world.plant.champions["m"] == 2
    world.approve()
    world.run()
    assert world.plant.champions["m"] == 2, "not even approved: a halt cannot be lifted by signing"
    assert world.only().held_back_by == ["halted"]
    world.parts.halts.resume(None)
    world.later(seconds=30)
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


def test_an_undo_that_was_interrupted_is_decided_again(world: Any) -> None:
    """Its worker died after the intent; meanwhile everything was halted: nothing moves, and the log says it was not begun."""
    harm(world)
    world.clock.advance(seconds=301)
    world.store.pump_timers(ahead_s=301)
    with pytest.raises(Crash):
        world.run(world.worker(fail_point=dying_at_second("committed:executing")))
    assert world.records("intent")[-1]["body"]["undo"] is True
    world.parts.halts.halt(None, reason="look first", by="ada")
    world.restart()
    assert (world.only().state, world.plant.champions["m"]) == ("awaiting_approval", 2)
    assert world.records("result")[-1]["body"]["cancelled"] is True
    assert world.records("result")[-1]["causation"] == world.records("intent")[-1]["@hash"]


def dying_at_second(point: str) -> Callable[[str], None]:
    """A process that dies there the second time it comes by."""
    seen = [0]

    def die(where: str) -> None:
        seen[0] += where == point
        if seen[0] == 2:
            raise Crash(where)

    return die


def test_half_a_step_is_taken_back_before_it_is_tried_again(world: Any) -> None:
    """The server goes away while the undo is decided: the proposal was never made, and the next try makes it."""
    harm(world)
    facts, away = world.parts.ledger.facts_of, [1]

    def gone(*args: Any, **more: Any) -> Any:
        if away:
            away.clear()
            raise ConnectionError("redis is away")
        return facts(*args, **more)

    world.parts.ledger.facts_of = gone
    world.later(seconds=301)
    assert (world.only().state, world.only().undo_of, world.only().tries) == ("verifying", None, 1)
    world.later(seconds=10)
    assert (world.only().state, world.plant.champions["m"]) == ("undone", 1)


def test_an_undo_that_has_to_wait_waits_as_long_as_it_takes(world: Any) -> None:
    """A hundred and more tries under a policy that only watches; then it is done, and the plan is as it was."""
    harm(world)
    plan = world.only().plan
    world.govern(enforcement="dryRun")
    for _ in range(110):
        world.later(seconds=301)
    assert (world.only().state, world.only().plan) == ("verifying", plan)
    world.govern()
    world.later(seconds=301)
    assert (world.only().state, world.plant.champions["m"], world.only().plan) == ("undone", 1, plan)


def test_what_stands_is_not_begun_again(world: Any) -> None:
    """Closed while it was verified, then retried: its effect would count against no cap of its own incident."""
    world.send()
    world.run()
    world.ask("close")
    world.run()
    assert world.only().state == "closed"
    world.ask("retry")
    world.run()
    assert world.only().state == "closed"
    assert "not retried: its effect stands" in world.only().timeline[-1]["summary"]
    assert len(world.plant.moves) == 1
    world.ask("undo", by="ada")
    world.run()
    world.approve("bob")
    world.run()
    assert (world.only().state, world.plant.champions["m"]) == ("undone", 1)


def test_people_who_close_the_question_leave_the_incident_as_it_was(world: Any) -> None:
    """Close, while an undo waits for an answer: not undone, and nothing else about the incident changes."""
    world.script.gain, world.script.gain_win = 0.1, 0.99
    world.send()
    world.run()
    world.ask("undo", by="ada")
    world.run()
    world.ask("close", by="bob")
    world.run()
    incident = world.only()
    assert (incident.state, incident.candidate.id, incident.undo_of) == ("resolved", "c1", None)
    assert [one.state for one in world.parts.approvals.list()] == ["superseded"]


def test_a_word_that_cannot_be_followed_now_is_heard_later(world: Any) -> None:
    """The registry is away when somebody asks to undo: the request is not lost."""
    world.script.gain, world.script.gain_win = 0.1, 0.99
    world.send()
    world.run()
    champion, away = world.parts.registry.champion, [1]

    def gone(model: Any) -> Any:
        if away:
            away.clear()
            raise Retry("the registry is away")
        return champion(model)

    world.parts.registry.champion = gone
    world.ask("undo", by="ada")
    world.run()
    assert world.only().undo_of is None
    world.later(seconds=10)
    assert world.only().state == "awaiting_approval"
    assert [one["body"]["verdict"] for one in world.records("approval")] == ["undo_requested", "requested"]


def test_a_slow_workers_end_is_none(world: Any) -> None:
    """It judged, was taken over, and writes its `close` late: the incident that lives on is not ended by that."""
    world.send()
    world.run()
    incident, version = world.only(), world.store.get(world.only().id).version
    world.parts.audit.append(
        "close",
        {"state": "resolved", "outcome": "execute", "problem": None, "version": version - 1},
        actor=SERVICE,
        incident=incident.id,
        correlation_id=incident.correlation_id,
    )
    world.script.gain, world.script.gain_win = -0.2, 0.01
    world.later(seconds=301)
    assert (world.only().state, world.plant.champions["m"]) == ("undone", 1)


def test_drift_that_joined_too_late_does_not_wait_for_the_verification(world: Any) -> None:
    """It was not weighed before the effect, and has an incident of its own as soon as that begins."""
    left = [6]

    def more() -> None:
        if left[0]:
            left[0] -= 1
            world.send()
            world.take_in()

    world.script.on_advise = more
    world.send()
    world.run()
    weighed = [len(one.events) for one in world.incidents()]
    assert sum(weighed) == 7, "every event was weighed, and none waits for labels"
    assert len(weighed) > 1


def test_a_release_that_happened_is_not_asked_for_again(world: Any) -> None:
    """The batch was released and written down, its approval used up; then the worker died before it could commit."""
    world.script.root_cause = RootCause.STUCK_VALUES
    world.script.candidates = (Candidate(id="c1", action=ActionName.QUARANTINE_DATA),)
    world.send()
    world.run()
    world.ask("undo", by="ada")
    world.run()
    world.approve("bob")
    with pytest.raises(Crash):
        world.run(world.worker(fail_point=dying_at_second("stepped:executing")))
    world.restart()
    assert world.only().state == "undone"
    assert [one["body"]["undo"] for one in world.records("result")] == [False, True]
    assert [one.state for one in world.parts.approvals.list()] == ["executed"]


def test_the_undo_of_the_last_number_has_a_number_too(world: Any) -> None:
    """A candidate's number has two digits: the undo of `c99` takes one that is free."""
    world.script.candidates = (
        Candidate(id="c99", action=ActionName.RETRAIN),
        Candidate(id="c0", action=ActionName.NOTIFY),
    )
    harm(world)
    world.later(seconds=301)
    assert (world.only().state, world.plant.champions["m"]) == ("undone", 1)


def test_a_release_that_no_result_tells_of_is_looked_up(world: Any) -> None:
    """The batch was released, and its worker died at once: whoever goes on sees that it is out, and says so."""
    world.script.root_cause = RootCause.STUCK_VALUES
    world.script.candidates = (Candidate(id="c1", action=ActionName.QUARANTINE_DATA),)
    action, state = world.actions[ActionName.QUARANTINE_DATA], world.parts.state
    action.data, execute, undo = {"batch": "batch-1"}, action.execute, action.undo

    def keep_out(request: Any) -> Any:
        state.quarantine("m", "batch-1", {"key": request.idempotency_key})
        return execute(request).model_copy(update={"undo": {"batch": "batch-1"}})

    action.execute = keep_out
    world.send()
    world.run()
    assert [*world.parts.quarantined("m")] == ["batch-1"]
    world.ask("undo", by="ada")
    world.run()
    world.approve("bob")

    def dying(*about: Any) -> Any:
        action.undo = undo
        state.release("m", "batch-1")
        raise Crash("released")

    action.undo = dying
    with pytest.raises(Crash):
        world.run()
    assert world.parts.quarantined("m") == {}, "other incidents of the model go on as well"
    world.restart()
    assert (world.only().state, world.only().problem) == ("undone", None)
    assert [one["body"]["undo"] for one in world.records("intent")] == [False, True]
    assert [one["body"]["undo"] for one in world.records("result")] == [False, True]


def test_an_undo_that_failed_can_be_asked_again(world: Any) -> None:
    """The registry gave up on it: the incident says so, is still about its effect, and people may try once more."""
    harm(world)
    undo = world.actions[ActionName.RETRAIN].undo

    def give_up(*args: Any) -> Any:
        raise GiveUp("the registry refuses to move the alias")

    world.actions[ActionName.RETRAIN].undo = give_up
    world.later(seconds=301)
    failed = world.only()
    assert (failed.state, failed.candidate.id, failed.undo_of) == ("failed", "c1", None)
    assert f"{failed.id}:failed" in world.silent.messages
    world.actions[ActionName.RETRAIN].undo = undo
    world.ask("undo", by="ada")
    world.run()
    world.approve("bob")
    world.run()
    assert (world.only().state, world.plant.champions["m"]) == ("undone", 1)


def test_what_is_called_off_is_called_off_once(world: Any) -> None:
    """However often it comes to the brink again, and is held back there: one intent, one result."""

    def halt(where: str = "committed:executing") -> None:
        if where == "committed:executing":
            world.parts.halts.halt(None, reason="look first", by="ada")

    world.send()
    with pytest.raises(Crash):
        world.run(world.worker(fail_point=dying_at_second("committed:executing")))
    halt()
    world.restart()
    assert world.only().state == "awaiting_approval"
    world.parts.halts.resume(None)
    world.approve()
    world.run(world.worker(fail_point=halt))
    assert world.only().state == "awaiting_approval"
    told = [one["causation"] for one in world.records("result") if one["body"].get("cancelled")]
    assert told == [one["@hash"] for one in world.records("intent")]
    assert (len(told), world.plant.moves) == (1, [])
