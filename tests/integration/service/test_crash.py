"""A worker that dies at any point of the walk leaves an incident that another finishes with exactly one effect."""

from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest
from fakes.workflow_world import Crash, World

from driftwarden.audit import verify
from driftwarden.clock import rfc3339
from driftwarden.contracts.base import ActionName, RootCause
from driftwarden.contracts.findings import Candidate
from driftwarden.errors import Retry
from driftwarden.policies import load_policy
from driftwarden.service.workflow.ledger import Caps
from driftwarden.service.workflow.reservations import withdraw_unasked

WALK = [
    *[f"stepped:{state}" for state in ("received", "triaged", "investigated", "planned", "rehearsed", "decided")],
    *[f"committed:{state}" for state in ("triaged", "investigated", "planned", "rehearsed", "decided", "executing")],
    "stepped:executing", "stepped:executing#2", "committed:executing#2", "effect:begin", "effect:trained",
    "effect:moved", "committed:verifying", "stepped:verifying", "committed:resolved",
]  # fmt: skip


def dying_at(point: str) -> Callable[[str], None]:
    """A fail point that kills the process at the nth time it is told of that place, once."""
    place, _, nth = point.partition("#")
    left = [int(nth or 1)]

    def tell(where: str) -> None:
        if where == place and left[0]:
            left[0] -= 1
            if not left[0]:
                raise Crash(point)

    return tell


def one_effect(world: Any) -> None:
    """The registry, the ledger and the log agree on exactly one effect."""
    incident = world.only()
    assert incident.state == "resolved", incident.problem
    assert [move[:3] for move in world.plant.moves] == [("m", 1, 2)]
    assert len(world.plant.versions_of("m")) == 1
    entry = world.parts.ledger.entries()[incident.id]
    assert (entry["state"], entry["cost"]) == ("done", 5_000_000)
    result = world.records("result")[-1]
    intents = {one["@hash"]: one for one in world.records("intent")}
    assert result["body"]["idempotency_key"] == world.plant.moves[0][3]
    assert intents[result["causation"]]["body"]["idempotency_key"] == world.plant.moves[0][3]
    assert world.parts.ledger.track_record(model="m", action="retrain")["successes"] == 1
    assert verify(world.settings.audit_dir).ok


@pytest.mark.parametrize("point", WALK)
def test_killed_anywhere_one_effect_remains(world: Any, point: str) -> None:
    """Whatever the worker was about to do, a restart finishes it once."""
    world.script.gain, world.script.gain_win = 0.1, 0.99
    die = dying_at(point)
    world.plant.die_at = die
    world.send()
    with pytest.raises(Crash):
        world.run(world.worker(fail_point=die))
    if point.startswith(("stepped", "effect:begin")) and "executing" in point:
        assert world.records("intent"), "the intent stands before anything is done"
    world.restart()
    one_effect(world)


def test_killed_before_the_intent_and_halted_nothing_is_done(world: Any) -> None:
    """After a crash it is decided anew: what does not hold any more stops it."""
    world.send()
    with pytest.raises(Crash):
        world.run(world.worker(fail_point=dying_at("committed:executing#2")))
    world.parts.halts.halt(None, reason="while it was down", by="ops")
    world.restart()
    assert world.plant.done == {}
    assert world.only().state == "awaiting_approval"


@pytest.mark.parametrize("taken", [False, True])
def test_called_off_before_a_crash_it_is_reserved_anew(world: Any, taken: bool) -> None:
    """What was reserved is given up under a halt, its process dies before the commit, and the halt is lifted: nothing is done
    that no cap counts, nor beside what another reserved meanwhile."""
    text = world.policy_text().replace("perModel: 1, ", "")  # only the ledger knows of the other
    world.policy.replace(load_policy(text, "policy.yml"))

    def halt_and_die(where: str) -> None:
        if where == "committed:executing":
            world.parts.halts.halt(None, reason="deploy", by="ops")
        if where == "stepped:executing":
            raise Crash(where)

    world.send()
    with pytest.raises(Crash):
        world.run(world.worker(fail_point=halt_and_die))
    if taken:
        now = rfc3339(world.clock.now())
        one = {"model": "m", "action": "rollback", "cost_usd": Decimal(0), "now": now, "caps": Caps()}
        assert world.parts.ledger.reserve("inc-other", **one) is None
    running: list[list[str]] = []
    world.plant.die_at = lambda where: running.append(world.parts.ledger.running())
    world.parts.halts.resume(None)
    world.restart()
    if taken:
        decided = len(world.records("decision"))
        world.later(seconds=60)
        assert (world.only().state, world.plant.done, world.records("intent")) == ("executing", {}, [])
        assert world.parts.ledger.running() == ["inc-other"]
        assert (len(world.records("decision")), world.only().approval) == (decided, None), "nobody is asked"
        world.parts.ledger.settle("inc-other")
        world.later(seconds=60)
        assert (world.only().state, len(world.plant.moves)) == ("verifying", 1)
    else:
        assert (world.only().state, len(world.plant.moves)) == ("verifying", 1)
        assert running
        assert all(each == [world.only().id] for each in running)
        assert world.parts.ledger.running() == []


def test_killed_after_the_alias_moved_a_halt_does_not_hide_it(world: Any) -> None:
    """What happened is recorded as having happened, also where it would not be allowed any more."""
    world.script.gain, world.script.gain_win = 0.1, 0.99
    world.plant.die_at = dying_at("effect:moved")
    world.send()
    with pytest.raises(Crash):
        world.run()
    world.parts.halts.halt(None, reason="while it was down", by="ops")
    world.restart()
    one_effect(world)


def test_an_approved_effect_survives_a_crash(world: Any) -> None:
    """The approval is used up once, by the effect it allowed."""
    world.script.win, world.script.gain, world.script.gain_win = 0.5, 0.1, 0.99
    world.send()
    world.run()
    world.approve()
    world.plant.die_at = dying_at("effect:moved")
    with pytest.raises(Crash):
        world.run()
    world.restart()
    one_effect(world)
    assert [one.state for one in world.parts.approvals.list()] == ["executed"]


def test_an_undo_survives_a_crash(world: Any) -> None:
    """Harm was found, the process died before it could say that it was taken back: it is taken back once."""
    world.script.gain, world.script.gain_win = -0.2, 0.01
    world.send()
    with pytest.raises(Crash):
        world.run(world.worker(fail_point=dying_at("stepped:verifying")))
    world.restart()
    assert world.only().state == "undone"
    assert [move[1:3] for move in world.plant.moves] == [(1, 2), (2, 1)]


def test_a_worker_that_was_taken_over_moves_nothing(world: Any) -> None:
    """A slow worker whose lease went to another asks its lease right before the effect, and drops the work."""
    other = world.worker("w1")

    def freeze(where: str) -> None:
        if where == "effect:trained":
            world.plant.die_at = lambda where: None
            for key in world.client.scan_iter("driftwarden:wf:inc-????????????"):
                world.client.hset(key, "lease", 0)
            world.store.wake(world.only().id, "test")
            assert other.work_once()

    world.script.gain, world.script.gain_win = 0.1, 0.99
    world.plant.die_at = freeze
    world.send()
    world.run()
    one_effect(world)


def die(where: str) -> None:
    """Always."""
    raise Crash(where)


def crash_again_and_again(world: Any) -> None:
    """Every restart ends in a crash, until nothing is left to restart."""
    for _ in range(8):
        try:
            world.restart()
        except Crash:
            continue


def test_an_effect_that_kills_its_workers_fails_with_a_reason(world: Any) -> None:
    """It is begun a few times, then given up; the reservation counts as a failed run, and a retry by hand is possible."""
    world.plant.die_at = die
    world.send()
    crash_again_and_again(world)
    assert world.only().state == "failed"
    assert "its worker died" in world.only().problem
    assert world.parts.ledger.entries()[world.only().id]["failed"] is True
    assert world.parts.ledger.running() == []
    world.plant.die_at = lambda where: None
    world.ask("retry")
    world.run()
    assert world.only().state == "verifying"


def test_an_effect_that_never_answers_is_given_up(world: Any) -> None:
    """A sink that stays away is asked a few times, ever later, and the incident fails with the reason."""

    def away(where: str) -> None:
        raise Retry("the registry is away")

    world.plant.die_at = away
    world.send()
    world.run()
    for _ in range(6):
        world.later(seconds=200)
    assert world.only().state == "failed"
    assert "gave up after 4 tries: the registry is away" in world.only().problem
    assert world.parts.ledger.running() == []


@pytest.mark.parametrize("last_word_dies", [False, True])
def test_a_crash_loop_frees_what_it_reserved_and_is_told(world: Any, last_word_dies: bool) -> None:
    """Where workers die before any commit, the store ends the incident, and the next worker closes its books.

    Where that kills it too, the backstop settles the reservation and writes the record.
    """
    from driftwarden.service.workflow.reservations import free_reservations

    def die_settling(incident: str) -> None:
        raise Crash(f"settling {incident}")

    settle = world.parts.ledger.abandon
    if last_word_dies:
        world.parts.ledger.abandon = die_settling
    world.send()
    with pytest.raises(Crash):
        world.run(world.worker(fail_point=dying_at("committed:executing")))
    for _ in range(8):
        try:
            world.restart_with(die)
        except Crash:
            continue
    failed = world.incidents()[-1]
    assert failed.state == "failed"
    assert "workers died" in failed.problem
    world.parts.ledger.abandon = settle
    assert free_reservations(world.parts, world.store) == ([failed.id] if last_word_dies else [])
    assert world.parts.ledger.running() == []
    assert [one["incident"] for one in world.records("close")] == [failed.id]
    assert last_word_dies or f"{failed.id}:failed" in world.silent.messages


def test_what_was_asked_by_who_died_before_the_commit_waits_for_nobody(world: World) -> None:
    """By then nothing holds it back any more, and it is done: the request that its incident knows nothing of is withdrawn."""
    ask = world.parts.approvals.request

    def die_asking(*args: Any) -> None:
        ask(*args)
        raise Crash("asked")

    def halt(where: str) -> None:
        if where == "committed:executing":
            world.parts.halts.halt(None, reason="deploy", by="ops")

    world.parts.approvals.request = die_asking  # type: ignore[assignment, method-assign]
    world.send()
    with pytest.raises(Crash):
        world.run(world.worker(fail_point=halt))
    assert withdraw_unasked(world.parts, world.store, patience_s=0) == [], "its incident goes on"
    world.parts.approvals.request = ask  # type: ignore[method-assign]
    world.parts.halts.resume(None)
    world.script.gain, world.script.gain_win = 0.1, 0.99
    world.restart()
    world.later(seconds=301)
    assert (world.only().state, world.only().approval) == ("resolved", None)
    asked = world.pending().id
    assert withdraw_unasked(world.parts, world.store) == []
    assert withdraw_unasked(world.parts, world.store, patience_s=0) == [asked]
    assert world.parts.approvals.get(asked).state == "superseded"


def test_a_store_s_crash_loop_can_be_retried(world: Any) -> None:
    """A person may revive it; it begins again from the start."""
    world.send()
    world.take_in()
    for _ in range(8):
        try:
            world.restart_with(die)
        except Crash:
            continue
    assert world.only().state == "failed"
    world.ask("retry")
    world.run()
    assert world.only().state == "verifying"


def test_a_fault_that_passes_is_tried_again_and_one_that_stays_is_told(world: Any) -> None:
    """A step that fails is parked and tried again; after some tries the incident fails with the reason."""
    tries = []

    def fail() -> None:
        tries.append(1)
        if len(tries) < 3:
            raise OSError("away")

    world.script.on_advise = fail
    world.send()
    world.run()
    for _ in range(3):
        world.later(seconds=200)
    assert world.only().state == "verifying"
    world.script.on_advise = lambda: (_ for _ in ()).throw(ValueError("secret inside"))
    world.send()
    world.run()
    for _ in range(4):
        world.later(seconds=200)
    failed = world.incidents()[-1]
    assert failed.state == "failed"
    assert "gave up after 4 tries: ValueError in step triaged" in failed.problem
    assert "secret" not in failed.problem


def test_an_unwritable_log_stops_everything_before_the_effect(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the intent cannot be written, nothing is done, and the process stops and says so."""
    import threading

    from driftwarden.errors import LogUnwritable

    append = world.log.append

    def broken(type: str, *args: Any, **about: Any) -> str:
        if type == "intent":
            raise LogUnwritable("the disk is gone")
        return str(append(type, *args, **about))

    monkeypatch.setattr(world.log, "append", broken)
    world.send()
    world.take_in()
    stop = threading.Event()
    world.worker().run(stop, block_ms=0)
    assert stop.is_set()
    assert world.plant.done == {}
    assert world.only().state == "executing"
    assert world.only().intent is None


def test_quarantine_and_notify_are_confirmed_by_reading_back(world: Any) -> None:
    """Actions that move no version end as resolved, verified as standing."""
    world.script.root_cause = RootCause.STUCK_VALUES
    for action in (ActionName.QUARANTINE_DATA, ActionName.NOTIFY):
        world.script.candidates = (Candidate(id="c1", action=action),)
        world.send()
        world.run()
        assert world.incidents()[-1].verification.verdict == "confirmed"
