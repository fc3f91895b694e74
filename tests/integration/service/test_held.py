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
