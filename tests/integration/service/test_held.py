"""An approval that comes while something holds every effect back: it is kept, waits, and is used once, or expires unused."""

import json
from collections.abc import Callable
from decimal import Decimal

import pytest
from fakes.workflow_world import Crash, World

from driftwarden.clock import rfc3339
from driftwarden.policies import load_policy
from driftwarden.service.cli.main import run
from driftwarden.service.signing.roster import revoke
from driftwarden.service.workflow.holding import HELD_AGAIN_S, stopped_by
from driftwarden.service.workflow.ledger import Caps

FREEZE = '  windows: [{id: freeze, kind: deny, from: "2026-11-20T08:00:00", to: "2026-11-20T10:00:00"}]\n'


@pytest.fixture
def asked(world: World) -> World:
    """A retraining waits for one person."""
    world.script.win = 0.5
    world.send()
    world.run()
    return world


def halt(world: World) -> None:
    """Nothing may happen."""
    world.parts.halts.halt(None, reason="deploy", by="ops")


def freeze(world: World) -> None:
    """A blackout that nobody saw when they were asked, until ten o'clock."""
    world.policy.replace(load_policy(world.policy_text() + FREEZE, "policy.yml"))


def verdicts(world: World) -> list[str]:
    """What the log says of requests and answers."""
    return [one["body"]["verdict"] for one in world.records("approval")]


def looks(world: World, times: int = 5) -> None:
    """Time passes while it is held."""
    for _ in range(times):
        world.later(seconds=HELD_AGAIN_S)


@pytest.mark.parametrize(("stop", "rule"), [(halt, "halted"), (freeze, "window:freeze")])
def test_it_waits_with_its_approval_and_is_done_afterwards(
    asked: World, stop: Callable[[World], None], rule: str
) -> None:
    """One request, one answer, one effect: what stopped it is said, and costs no record while it lasts."""
    request = asked.pending()
    stop(asked)
    asked.approve()
    asked.run()
    decided = len(asked.records("decision"))
    looks(asked)
    incident = asked.only()
    assert (incident.state, incident.held_back_by, asked.plant.done) == ("awaiting_approval", [rule], {})
    assert f"held back by {rule}" in incident.timeline[-1]["summary"]
    assert [message for key, message in asked.silent.messages.items() if ":held:" in key and rule in message]
    assert len(asked.records("decision")) == decided
    asked.parts.halts.resume(None)
    asked.later(hours=1)  # past ten o'clock
    asked.later(seconds=HELD_AGAIN_S)
    assert (asked.only().state, asked.only().held_back_by, asked.only().attempts) == ("verifying", [], 0)
    assert [(one.id, one.state) for one in asked.parts.approvals.list()] == [(request.id, "executed")]
    assert verdicts(asked) == ["requested", "approved"]
    (intent,) = asked.records("intent")
    (approved,) = [one for one in asked.records("approval") if one["body"]["verdict"] == "approved"]
    assert intent["causation"] == approved["@hash"]


@pytest.mark.parametrize("limit", ["", "perModel: 2, "])
def test_an_action_that_no_rule_counts_is_waited_out(asked: World, limit: str) -> None:
    """Only the ledger keeps a second action from the model: that is decided and said once, and gone on with at the next look."""
    text = asked.policy_text().replace("perModel: 1, ", limit)
    asked.policy.replace(load_policy(text, "policy.yml"))
    now = rfc3339(asked.clock.now())
    one = {"model": "m", "action": "rollback", "cost_usd": Decimal(0), "now": now, "caps": Caps()}
    assert asked.parts.ledger.reserve("inc-other", **one) is None
    decided = len(asked.records("decision"))
    asked.approve()
    asked.run()
    lines = len(asked.only().timeline)
    looks(asked)
    assert (asked.only().state, asked.only().held_back_by) == ("awaiting_approval", ["concurrency-per-model"])
    assert (len(asked.records("decision")), len(asked.only().timeline)) == (decided + 1, lines)

    halt(asked)  # another reason: on record, once, and once more when it is the first again
    looks(asked)
    assert (asked.only().held_back_by, len(asked.records("decision"))) == (["halted"], decided + 2)
    asked.parts.halts.resume(None)
    looks(asked)
    assert (asked.only().held_back_by, len(asked.records("decision"))) == (["concurrency-per-model"], decided + 3)

    asked.parts.ledger.settle("inc-other")
    looks(asked, 1)
    assert (asked.only().state, len(asked.plant.moves)) == ("verifying", 1)
    assert verdicts(asked) == ["requested", "approved"]


def unlimited(world: World) -> None:
    """No rule of the policy counts what runs on a model, nor how lately it was changed."""
    limits = world.policy_text().partition("  limits:")
    world.policy.replace(load_policy(limits[0], "policy.yml"))


def begin_another(world: World) -> None:
    """Another incident's action runs on the model, as one over several models that is led by another does."""
    now = rfc3339(world.clock.now())
    one = {"model": "a", "action": "quarantine_data", "cost_usd": Decimal(0), "now": now, "caps": Caps()}
    assert world.parts.ledger.reserve("inc-other", models=["m"], **one) is None


def sealed(world: World, incident: str, **changes: object) -> str:
    """The ledger's entry of an incident, changed and sealed."""
    ledger = world.parts.ledger
    return ledger._sealed(incident, ledger.entries()[incident] | changes)


@pytest.mark.parametrize("then", ["done", "mended", "halted"])
def test_what_may_be_done_waits_for_its_turn_and_asks_nobody(world: World, then: str) -> None:
    """The policy says execute, and the ledger lets one action at a time change a model: that is no question to people."""
    unlimited(world)
    begin_another(world)
    world.send()
    world.run()
    looks(world)
    incident = world.only()
    assert (incident.state, incident.outcome, incident.tries, world.plant.done) == ("decided", "execute", 0, {})
    assert world.parts.approvals.list() == []
    told = [line["summary"] for line in incident.timeline if line["summary"].startswith("waits: ")]
    assert told == ["waits: an action of inc-other runs on m, and a model is changed by one at a time"]
    assert len(world.records("decision")) == 1
    if then == "halted":  # that is another matter, which people are asked
        halt(world)
        looks(world, 1)
        assert (world.only().state, world.pending().why) == ("awaiting_approval", ("halted",))
        return
    if then == "mended":  # by what the other did, before the window was measured
        world.parts.ledger.settle("inc-other", changed_at="2026-11-20T23:00:00Z", models=["m"])
        world.client.hset("driftwarden:ledger", "inc-other", sealed(world, "inc-other", action="retrain"))
    else:
        world.parts.ledger.settle("inc-other")
    world.plant.champions["m"] = 7
    looks(world, 1)
    incident = world.only()
    if then == "mended":
        assert (incident.state, incident.outcome, world.plant.moves) == ("closed", "monitor", [])
        assert "when the model was changed" in str(incident.triaged)
    else:
        assert (incident.state, incident.outcome) == ("verifying", "execute")
        assert [move[1] for move in world.plant.moves] == [7], "what is in force is looked up again"
        assert incident.champion_before == 7
    assert (world.parts.approvals.list(), world.only().held) == ([], [])


def test_a_ledger_that_cannot_be_read_is_told_to_people(world: World) -> None:
    """No rule of the policy asks for it, and nothing is reserved beside what nobody can read: they hear why."""
    unlimited(world)
    world.client.hset("driftwarden:ledger", "inc-forged", "0" * 64 + " {}")
    world.send()
    world.run()
    assert (world.only().state, world.plant.done, world.pending().why) == ("awaiting_approval", {}, ())
    told = "no rule: an entry of the ledger cannot be read"
    assert told in world.pending().summary
    assert any(f"why: {told}" in message for message in world.silent.messages.values())


def test_a_cap_that_is_free_again_is_no_question_to_people(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another worker took the last of it, and gave it back before the facts were looked up again."""
    reserve, refused = world.parts.ledger.reserve, ["rate-global"]

    def taken(*args: object, **more: object) -> str | None:
        return refused.pop() if refused else reserve(*args, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(world.parts.ledger, "reserve", taken)
    world.send()
    world.run()
    assert (world.only().state, world.only().tries, world.parts.approvals.list()) == ("decided", 0, [])
    looks(world, 1)
    assert (world.only().state, len(world.plant.moves)) == ("verifying", 1)


@pytest.mark.parametrize("by", ["the service", "a person"])
def test_an_undo_waits_for_its_turn_too(world: World, by: str) -> None:
    """What harmed, or what a person wants back, is taken back once the other action is over."""
    unlimited(world)
    world.send()
    world.run()
    begin_another(world)
    if by == "a person":
        world.script.measured = {}
        world.ask("undo")
        world.run()
        assert "confidence" in world.pending().why
        world.approve("bob")
        world.run()
        assert world.only().held_back_by == ["concurrency-per-model"]
    else:
        world.script.gain, world.script.gain_win = -0.2, 0.01
    for _ in range(4):
        world.later(seconds=301)
    decided = len(world.records("decision"))
    looks(world)
    assert (len(world.records("decision")), len(world.plant.moves)) == (decided, 1)
    assert by == "a person" or (world.only().state, world.parts.approvals.list()) == ("verifying", [])
    world.parts.ledger.settle("inc-other")
    for _ in range(2):
        world.later(seconds=301)
    assert (world.only().state, [move[1:3] for move in world.plant.moves]) == ("undone", [(1, 2), (2, 1)])
    assert len(world.records("settlement")) == (by == "the service")


def test_what_is_asked_in_vain_meanwhile_is_not_what_allowed_it(asked: World) -> None:
    """Somebody asks for a candidate that there is not: the effect's intent still names the answer that was signed."""
    halt(asked)
    asked.approve()
    asked.run()
    asked.ask("choose", "bob", candidate="c9", approval=asked.only().asked)
    asked.run()
    asked.parts.halts.resume(None)
    looks(asked, 1)
    assert (asked.only().state, verdicts(asked)) == ("verifying", ["requested", "approved", "choose_requested"])
    (intent,) = asked.records("intent")
    assert intent["causation"] == asked.records("approval")[1]["@hash"]


def test_a_halt_that_was_there_from_the_beginning_is_waited_out_too(world: World) -> None:
    """Asked under a halt, signed under it: no signature lifts it, and one signature is enough."""
    halt(world)
    world.send()
    world.run()
    assert world.pending().why == ("halted",)
    world.approve()
    looks(world)
    assert (world.only().held_back_by, world.plant.done) == (["halted"], {})
    world.parts.halts.resume(None)
    world.later(seconds=HELD_AGAIN_S)
    assert world.only().state == "verifying"
    assert verdicts(world) == ["requested", "approved"]


def test_a_halt_at_the_last_moment_keeps_the_approval(asked: World) -> None:
    """Between the decision and the intent: what was reserved is released, and the approval stands."""

    def stop(where: str) -> None:
        if where == "committed:executing" and not asked.records("intent"):
            halt(asked)

    asked.approve()
    asked.run(asked.worker(fail_point=stop))
    assert (asked.only().held_back_by, asked.parts.ledger.entries()) == (["halted"], {})
    assert [one.state for one in asked.parts.approvals.list()] == ["approved"]
    asked.parts.halts.resume(None)
    asked.later(seconds=HELD_AGAIN_S)
    assert asked.only().state == "verifying"
    assert len(asked.plant.moves) == 1


def test_what_expires_while_it_is_held_is_not_done(asked: World) -> None:
    """The default is no, also after it; nobody is asked again by itself."""
    halt(asked)
    asked.approve()
    asked.run()
    asked.later(hours=4)
    assert (asked.only().state, asked.plant.done) == ("expired", {})
    assert "still held back by halted" in asked.only().timeline[-1]["summary"]
    asked.parts.halts.resume(None)
    asked.later(seconds=HELD_AGAIN_S)
    assert (asked.plant.done, verdicts(asked)) == ({}, ["requested", "approved", "expired"])


def test_what_else_fails_by_then_is_asked_once(asked: World) -> None:
    """The day's budget has gone meanwhile: nobody saw that, so it is asked anew, with the reason."""
    halt(asked)
    asked.approve()
    asked.run()
    first = asked.parts.approvals.list()[0]
    asked.policy.replace(load_policy(asked.policy_text().replace('perDay: "20.00"', 'perDay: "1.00"'), "policy.yml"))
    looks(asked)
    assert verdicts(asked) == ["requested", "approved"], "while the halt lasts, nothing is asked"
    asked.parts.halts.resume(None)
    looks(asked)
    second = asked.pending()
    assert (asked.parts.approvals.get(first.id).state, asked.plant.done) == ("superseded", {})
    assert set(second.why) == {"confidence", "cost-per-day"}
    assert verdicts(asked) == ["requested", "approved", "requested"]
    asked.approve()
    asked.run()
    assert asked.only().state == "verifying"


def test_more_drift_while_it_is_held_is_looked_at(asked: World) -> None:
    """A new window is another plan: the approval of the old one has no effect any more."""
    halt(asked)
    asked.approve()
    asked.run()
    (old,) = asked.parts.approvals.list()
    asked.send()
    asked.run()
    assert len(asked.only().events) == 2
    assert asked.pending().id != old.id
    assert asked.parts.approvals.get(old.id).state == "superseded"
    asked.parts.halts.resume(None)
    looks(asked)
    assert (asked.only().state, asked.plant.done) == ("awaiting_approval", {})


def test_a_key_that_is_revoked_meanwhile_approves_nothing(asked: World) -> None:
    """The list is read anew when the halt is over."""
    asked.people.enrol("ada")
    halt(asked)
    asked.approve("ada")
    asked.run()
    assert asked.only().held_back_by == ["halted"]
    revoke(asked.settings, "ada", "laptop was stolen", asked.clock.now())
    asked.parts.halts.resume(None)
    looks(asked)
    assert (asked.only().state, asked.plant.done) == ("awaiting_approval", {})
    assert asked.pending().granted == ()


def test_a_crash_while_it_is_held_loses_nothing(asked: World) -> None:
    """Whoever takes over holds it as well, and the answer is on record once or more, never used twice."""
    halt(asked)
    asked.approve()

    def die(where: str) -> None:
        if where == "stepped:approved":
            raise Crash(where)

    with pytest.raises(Crash):
        asked.run(asked.worker(fail_point=die))
    asked.restart()
    assert asked.only().held_back_by == ["halted"]
    asked.parts.halts.resume(None)
    asked.later(seconds=HELD_AGAIN_S)
    assert (asked.only().state, len(asked.plant.moves)) == ("verifying", 1)


def test_people_can_call_it_off_while_it_is_held(asked: World) -> None:
    """`incidents close` withdraws what was approved."""
    halt(asked)
    asked.approve()
    asked.run()
    asked.ask("close")
    asked.run()
    asked.parts.halts.resume(None)
    looks(asked)
    assert (asked.only().state, asked.plant.done) == ("closed", {})
    assert [one.state for one in asked.parts.approvals.list()] == ["superseded"]


def test_a_plan_that_is_only_watched_by_then_leaves_no_approval_behind(asked: World) -> None:
    """Approved, held, then `dryRun`: nothing is done, and nothing stays approved that nobody asks for."""
    halt(asked)
    asked.approve()
    asked.run()
    asked.govern(enforcement="dryRun")
    asked.parts.halts.resume(None)
    looks(asked)
    assert (asked.only().state, asked.plant.done) == ("closed", {})
    assert [one.state for one in asked.parts.approvals.list()] == ["superseded"]


def test_it_says_so_on_the_terminal(terminal: World, capsys: pytest.CaptureFixture[str]) -> None:
    """`approvals show` and `incidents show` name what it waits for, and what can be done."""
    request = terminal.pending()
    halt(terminal)
    terminal.approve()
    terminal.run()
    for command in (["approvals", "show", request.id], ["incidents", "show", request.incident]):
        assert run(command) == 0
        assert "halted" in next(line for line in capsys.readouterr().out.splitlines() if line.startswith("held back"))
    assert run(["approvals", "show", request.id, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["held"] == ["halted"]


@pytest.mark.parametrize(
    ("outcome", "decisive", "held"),
    [
        ("escalate", ["confidence", "halted"], ["halted"]),
        ("escalate", ["window:a", "concurrency-per-model", "enforcement"], ["concurrency-per-model", "enforcement", "window:a"]),
        ("escalate", ["cost-per-day", "rate-global", "cooldown", "tier"], []),
        ("monitor", ["concurrency-global"], []),
        ("execute", [], []),
    ],
)  # fmt: skip
def test_what_waiting_helps_against(outcome: str, decisive: list[str], held: list[str]) -> None:
    """Only what no signature lifts, or what ends by itself."""
    assert stopped_by({"outcome": outcome, "decisive": decisive}) == held
