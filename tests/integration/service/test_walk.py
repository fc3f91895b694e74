"""The walk of incidents through the real workflow, store, ledger, policy and audit log; the surroundings are scripted."""

import json
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest

from driftwarden.audit import verify
from driftwarden.clock import rfc3339
from driftwarden.contracts.base import ActionName
from driftwarden.contracts.findings import Candidate
from driftwarden.errors import BadInput
from driftwarden.policies import load_policy
from driftwarden.service.workflow.ledger import Caps


def test_executed_verified_and_learned_from(world: Any) -> None:
    """Confidence, impact and caps are right: it is done unattended, and once labels are in, the track record learns."""
    world.send()
    world.run()
    incident = world.only()
    assert (incident.state, incident.outcome) == ("verifying", "execute")
    assert world.plant.moves == [("m", 1, 2, incident.intent.idempotency_key)]
    world.script.gain, world.script.gain_win = 0.1, 0.99
    world.later(seconds=301)
    assert (world.only().state, world.only().helped) == ("resolved", True)
    assert world.parts.ledger.track_record(model="m", action="retrain")["successes"] == 1
    assert [one["body"]["basis"] for one in world.records("settlement")] == ["measured"]


def test_records_tell_the_story_in_order_and_by_cause(world: Any) -> None:
    """Each record names the one that led to it, the intent stands before the result, and the log verifies."""
    world.send()
    world.run()
    told = [one for one in world.records() if one["incident"] == world.only().id]
    assert [one["type"] for one in told] == [
        "event",
        "finding",
        "plan",
        "rehearsal",
        "decision",
        "decision",
        "intent",
        "result",
    ]
    by_type = {one["type"]: one for one in told}
    assert by_type["intent"]["causation"] == by_type["decision"]["@hash"]
    assert by_type["result"]["causation"] == by_type["intent"]["@hash"]
    assert by_type["decision"]["causation"] == by_type["plan"]["@hash"]
    assert {one["correlation_id"] for one in told} == {world.only().correlation_id}
    assert verify(world.settings.audit_dir).ok


def test_harm_is_undone_once(world: Any) -> None:
    """Later labels say the challenger is worse: the champion is put back, and the run counts as a failure."""
    world.send()
    world.run()
    world.script.gain, world.script.gain_win = -0.2, 0.01
    world.later(seconds=301)
    incident = world.only()
    assert (incident.state, incident.helped) == ("undone", False)
    assert world.plant.champions["m"] == 1
    assert len(world.plant.moves) == 2
    harmful, undo = (world.parts.ledger.entries()[key] for key in (f"{incident.id}#1", incident.id))
    assert (harmful["failed"], undo["undo"]) == (True, True)
    seen = world.parts.ledger.facts("inc-other", model="m", now=rfc3339(world.clock.now()), caps=world.parts.caps())
    assert (seen["recent_runs"], seen["recent_failures"], seen["last_action_failed"]) == (1, 1, True)
    assert world.parts.ledger.track_record(model="m", action="retrain")["failures"] == 1


def test_reported_figures_settle_and_teach_nothing(world: Any) -> None:
    """Where the report's window cannot be read here, the outcome is `reported`, and no track record rises."""
    world.send()
    world.run()
    world.report(uri=None, value=0.83)
    world.clock.advance(hours=2)
    world.run()
    assert (world.only().state, world.only().verification.verdict) == ("verifying", "reported")
    assert [one["body"]["basis"] for one in world.records("settlement")] == ["reported"]
    world.later(days=30)
    incident = world.only()
    assert (incident.state, incident.verification.verdict, incident.helped) == ("resolved", "reported", None)
    assert [one["body"]["basis"] for one in world.records("settlement")] == ["reported"]
    assert world.parts.ledger.track_record(model="m", action="retrain")["lower_bound"] is None


def test_a_reported_window_that_can_be_read_is_measured_here(world: Any) -> None:
    """The service compares both versions on the window's own rows, although the history lacks them."""
    world.send()
    world.run()
    later = world.data / "later.csv"
    later.write_text("x,y\n3,0\n4,1\n")
    world.script.gain, world.script.gain_win, world.script.labels_in = 0.1, 0.99, "later.csv"
    world.report(uri=str(later))
    world.clock.advance(hours=2)
    world.run()
    assert (world.only().state, world.only().verification.verdict) == ("resolved", "helped")
    assert world.parts.metrics.last("m", 1)[0]["basis"] == "measured"


def test_dry_run_executes_nothing(world: Any) -> None:
    """Under `dryRun` the outcome is monitor, and `would_be` names the real one."""
    world.govern(enforcement="dryRun")
    world.send()
    world.run()
    incident = world.only()
    assert (incident.state, incident.outcome, incident.decision["would_be"]) == ("closed", "monitor", "execute")
    assert world.plant.done == {}
    assert world.records("intent") == []


def test_small_harm_is_only_watched(world: Any) -> None:
    """A changed distribution is no problem yet: below the impact threshold nothing is done."""
    world.script.loss = 0.001
    world.send()
    world.run()
    assert (world.only().state, world.only().outcome) == ("closed", "monitor")
    assert world.plant.done == {}


@pytest.mark.parametrize("win", [None, 0.5])
def test_unproven_plans_wait_for_people(world: Any, win: float | None) -> None:
    """A rehearsal that failed or did not convince escalates, whatever the agents claim."""
    world.script.win, world.script.claimed = win, 1.0
    world.send()
    world.run()
    assert world.only().state == "awaiting_approval"
    assert "confidence" in world.pending().why
    assert world.plant.done == {}


# Halt, caps, injection


def test_halt_between_decision_and_effect(world: Any) -> None:
    """The policy is asked once more right before the effect: a halt that came in between stops it."""

    def halt(where: str) -> None:
        if where == "committed:executing" and not world.records("intent"):
            world.parts.halts.halt(None, reason="now", by="ops")

    world.send()
    world.run(world.worker(fail_point=halt))
    assert world.plant.done == {}
    assert world.only().state == "awaiting_approval"
    assert "halted" in world.pending().why
    assert world.parts.ledger.entries() == {}


def test_the_day_s_budget_holds(world: Any) -> None:
    """Four retrainings of 5 USD fit into 20 USD a day; the fifth escalates."""
    world.script.gain, world.script.gain_win = 0.1, 0.99
    for _ in range(5):
        world.send()
        world.run()
    assert [one.state for one in world.incidents()] == ["resolved"] * 4 + ["awaiting_approval"]
    assert "cost-per-day" in world.pending().why
    assert world.parts.ledger.spend_usd() == Decimal("20")


def test_what_an_exception_excuses_binds_nowhere(world: Any) -> None:
    """Caps are counted twice, by the policy's facts and where they are reserved: an exception holds for both, no further."""
    text = world.policy_text().replace('{perDay: "20.00"', '{perDay: "1.00"').replace("global: 3", "global: 1")
    rates = "    rate: {perModel: {max: 1, window: 24h}, global: {max: 1, window: 24h}, else: escalate}\n"
    rules = "[cost-per-day, rate-per-model, rate-global, concurrency-global]"
    excuse = f'{{id: EX-1, rules: {rules}, models: [m], expiresAt: "2026-11-21T00:00:00Z", reason: INC-1}}'
    world.policy.replace(load_policy(f"{text}{rates}  exceptions: [{excuse}]", "policy.yml"))
    now, ledger = rfc3339(world.clock.now()), world.parts.ledger
    ledger.reserve("inc-other", model="n", action="retrain", cost_usd=Decimal(1), now=now, caps=Caps())
    ledger.reserve("inc-earlier", model="m", action="retrain", cost_usd=Decimal(1), now=now, caps=Caps())
    ledger.settle("inc-earlier")
    world.send()
    world.run()
    assert (world.only().state, world.only().approval, len(world.plant.moves)) == ("verifying", None, 1)


def test_an_event_cannot_name_an_action_or_a_confidence(world: Any) -> None:
    """Fields that the contract does not name are carried, and decide nothing."""
    evil = {"action": "rollback", "confidence": "1.0", "plan": {"action": "rollback"}, "approval": {"granted": []}}
    world.script.win = 0.5
    world.send(world.event(**evil))
    world.run()
    facts = world.only().facts
    assert (facts["plan"]["action"], facts["plan"]["confidence"], facts["approval"]) == ("retrain", "0.5", None)
    assert world.only().state == "awaiting_approval"
    assert world.plant.done == {}


def test_an_agents_low_price_is_not_believed(world: Any) -> None:
    """What an action costs is what the action itself says, where agents say less."""
    world.script.candidates = (Candidate(id="c1", action=ActionName.RETRAIN, cost_usd=Decimal("0.01")),)
    world.actions[ActionName.RETRAIN].cost = Decimal("21.00")
    world.send()
    world.run()
    assert world.only().facts["plan"]["cost_usd"] == "21"
    assert "cost-per-day" in world.pending().why


@pytest.mark.parametrize(
    "candidate",
    [
        Candidate(id="c1", action=ActionName.FALLBACK_MODEL),
        Candidate(id="c1", action=ActionName.RECALIBRATE, params={"to_version": 1}),
        Candidate(id="c1", action=ActionName.QUARANTINE_DATA, params={"undo": "inc-000000000000"}),
    ],
)
def test_what_the_agents_may_not_ask_has_no_effect(world: Any, candidate: Candidate) -> None:
    """Unknown, unavailable and forged plans end with a reason and without an effect."""
    world.script.candidates = (candidate,)
    world.send()
    world.run()
    for _ in range(6):
        world.later(seconds=200)
    assert world.plant.done == {}
    assert world.only().state in {"failed", "awaiting_approval"}
    assert world.only().problem or world.pending().why


# By hand


def test_undo_by_hand_is_asked_of_someone_else(world: Any) -> None:
    """The policy escalates an undo, who asked for it may not approve it, another may; the champion is back."""
    world.script.gain, world.script.gain_win = 0.1, 0.99
    world.send()
    world.run()
    assert world.only().state == "resolved"
    world.ask("undo", by="ada")
    world.run()
    assert world.pending().action == "rollback"
    with pytest.raises(BadInput, match="who asked for it"):
        world.approve("ada")
    world.approve("bob")
    world.run()
    assert world.plant.champions["m"] == 1
    assert len(world.parts.ledger.entries()) == 2, "both effects count"


def test_undo_of_what_changed_nothing_is_said_and_changes_nothing(world: Any) -> None:
    """A request that makes no sense is noted; the worker lives on, and the incident stays as it was."""
    world.script.candidates = (Candidate(id="c1", action=ActionName.NONE),)
    world.script.loss = 0.3
    world.send()
    world.run()
    assert world.only().state == "closed"
    world.ask("undo")
    world.run()
    assert world.only().state == "closed"
    assert "there is nothing to undo" in world.only().timeline[-1]["summary"]


def test_retry_begins_again_with_what_is_there_now(world: Any) -> None:
    """An incident that failed for a file that was absent is taken up again once the file is there."""
    missing = world.data / "late.csv"
    world.send(world.event(window={"uri": str(missing), "end": "2026-11-20T08:00:00Z"}))
    world.run()
    assert world.only().state == "failed"
    missing.write_text("x,y\n1,0\n")
    world.ask("retry")
    world.run()
    assert world.only().state == "verifying"
    assert world.only().problem is None


def test_close_by_hand_withdraws_the_request(world: Any) -> None:
    """Nothing more is done about it, and the request cannot be approved any more."""
    world.script.win = 0.5
    world.send()
    world.run()
    request = world.pending()
    world.ask("close")
    world.run()
    assert world.only().state == "closed"
    assert world.parts.approvals.get(request.id).state == "superseded"


# More drift, repeats, other models


def test_drift_that_joins_in_mid_walk_is_looked_at(world: Any) -> None:
    """An event that came while the agents read is weighed before anything is done; none is lost."""
    late = [world.event(id="late")]

    def more() -> None:
        if late:
            world.send(late.pop())
            world.take_in()

    world.script.on_advise = more
    world.send()
    world.run()
    assert world.script.advised == 2
    assert [one["id"] for one in world.only().events] == ["e2", "late"]
    assert len(world.records("event")) == 2
    assert len(world.plant.moves) == 1


def test_drift_without_end_does_not_keep_it_from_acting(world: Any) -> None:
    """After some rounds it acts on what it knows; what came too late opens the next incident, and is not lost."""
    world.script.on_advise = lambda: (world.send(), world.take_in()) if world.script.advised < 8 else None
    world.script.gain, world.script.gain_win = 0.1, 0.99
    world.send()
    world.run()
    assert sum(len(one.events) for one in world.incidents()) == 8
    assert len(world.records("event")) == 8
    assert all(one.state == "resolved" for one in world.incidents())


def test_a_second_delivery_has_no_second_effect(world: Any) -> None:
    """The pair of source and id is recognised, also after the incident has ended."""
    world.script.gain, world.script.gain_win = 0.1, 0.99
    event = world.event()
    for _ in range(3):
        world.send(event)
        world.run()
    assert len(world.incidents()) == 1
    assert len(world.plant.moves) == 1


def test_two_workers_of_two_processes_share_without_doing_it_twice(new_world: Callable[..., Any]) -> None:
    """Workers that take turns over many models have each effect once."""
    world = new_world(models=tuple(f"m{number}" for number in range(6)))
    world.script.gain, world.script.gain_win = 0.1, 0.99
    world.actions[ActionName.RETRAIN].cost = Decimal("1.00")
    world.script.candidates = (Candidate(id="c1", action=ActionName.RETRAIN),)
    for number in range(6):
        world.send(world.event(f"m{number}"))
    world.take_in()
    one, other = world.worker("p1-w0"), world.worker("p2-w0")
    while one.work_once() | other.work_once():
        pass
    assert sorted(move[0] for move in world.plant.moves) == [f"m{number}" for number in range(6)]
    assert {incident.state for incident in world.incidents()} == {"resolved"}


def test_a_report_of_a_model_nobody_watches_is_an_incident_that_says_so(world: Any) -> None:
    """It can be read and not handled: as with a drift, nothing is dropped in silence."""
    world.report(uri=None, model="nobody")
    world.run()
    incident = world.only()
    assert (incident.state, incident.events[0]["type"]) == ("failed", "io.driftwarden.performance.v1")
    assert "unknown model, got `nobody`" in incident.problem


def test_a_report_that_is_taken_stands_in_the_log_as_it_came(world: Any) -> None:
    """Under its own correlation id, with no incident."""
    world.send()
    world.run()
    world.report(uri=None)
    world.run()
    told = [one for one in world.records("event") if one["incident"] is None]
    assert [json.loads(one["body"]["event"])["type"] for one in told] == ["io.driftwarden.performance.v1"]
