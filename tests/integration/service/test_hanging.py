"""Steps that do not end, and stops that do not wait for them: what comes of them late changes nothing."""

import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest
from fakes.running import PATIENCE_S, start
from fakes.workflow_world import PREFIX, World

from driftwarden.contracts.base import ActionName
from driftwarden.errors import Refused, Retry
from driftwarden.service.workflow.health import Health, processes
from driftwarden.service.workflow.parts import current_lease
from driftwarden.service.workflow.process import REPLACED_MAX, ServiceProcess


@pytest.fixture
def hang(world: World) -> Iterator[threading.Event]:
    """The first investigation hangs until this is set."""
    released, first = threading.Event(), threading.Lock()

    def wait() -> None:
        if first.acquire(blocking=False):
            assert released.wait(PATIENCE_S)

    world.script.on_advise = wait
    yield released
    released.set()


def time_is_up() -> None:
    """For the step that this thread is in; the next one has all of its time again, on a slow machine too."""
    heart: Any = current_lease.get()
    with heart._turn:
        heart._deadline = time.monotonic()
        heart._turn.notify()


def serving(world: World, **changes: Any) -> None:
    """Settings of the service that are other ones from now on."""
    service = world.settings.service.model_copy(update=changes)
    world.settings = world.parts.settings = world.settings.model_copy(update={"service": service})


def triaged_within(world: World, seconds: float) -> None:
    """An investigation may take so long."""
    deadlines = world.settings.service.step_deadlines.model_copy(update={"triaged": timedelta(seconds=seconds)})
    serving(world, step_deadlines=deadlines)


def in_hand(world: World) -> ServiceProcess:
    """A process whose investigation hangs, and has all the time there is."""
    begun, hold = threading.Event(), world.script.on_advise
    world.script.on_advise = lambda: (begun.set(), hold())
    triaged_within(world, 3600)
    process = start(world)
    world.send()
    assert begun.wait(PATIENCE_S)
    return process


def until(world: World, *states: str) -> None:
    """Wait for the incident to come to one of these states."""
    for transition in world.store.watch("0", block_ms=500):
        if transition is not None and transition.state in states:
            return


def test_a_step_that_hangs_is_tried_again_and_its_late_result_is_not_taken(world: World, hang: threading.Event) -> None:
    """The worker that hangs is replaced; when its step ends at last it changes nothing."""
    triaged_within(world, 3600)
    hold = world.script.on_advise
    world.script.on_advise = lambda: (time_is_up() if world.script.advised == 1 else None, hold())
    process = start(world, health_every_s=0.05)
    world.send()
    until(world, "verifying")
    Health(world.client, PREFIX, "p-health").tell(process.said())  # as its own thread does, sooner or later
    live = [line for one in processes(world.client, PREFIX) for line in one.workers()]
    assert [line["doing"] for line in live].count("late") == 1
    (late,) = [line for line in live if line["doing"] == "late"]
    assert (late["incident"], late["state"]) == (world.only().id, "triaged")
    hang.set()
    assert process.stop().threads == ()
    assert world.only().state == "verifying"
    assert world.script.advised == 2
    types = [record["type"] for record in world.records()]
    assert [types.count(one) for one in ("finding", "plan", "rehearsal", "intent", "result")] == [1] * 5
    assert len(world.plant.moves) == 1
    notes = [line["summary"] for line in world.only().timeline if line["summary"].startswith("try 1 of triaged")]
    assert len(notes) == 1
    assert "no end within 3600 s" in notes[0]


def test_a_step_that_always_hangs_fails_its_incident_with_the_reason(world: World, hang: threading.Event) -> None:
    """As often as any other fault is tried; each hanging thread is somebody's whom another replaced."""
    serving(world, tries_max=2)
    triaged_within(world, 0.2)
    world.script.on_advise = lambda: hang.wait(PATIENCE_S)
    process = start(world, health_every_s=0.05)
    world.send()
    until(world, "failed")
    hang.set()
    assert process.stop().threads == ()
    assert "gave up after 2 tries: no end within 0.2 s" in (world.only().problem or "")
    assert world.records("finding") == []
    assert world.plant.moves == []


def test_workers_that_hang_are_not_replaced_without_end(new_world: Callable[..., World]) -> None:
    """Each leaves a thread behind: from some number on nobody new begins, and health shows them all."""
    world = new_world(models=("a", "b", "c", "d"))
    triaged_within(world, 0.2)
    released = threading.Event()
    world.script.on_advise = lambda: released.wait(PATIENCE_S)
    process = start(world, health_every_s=0.05)
    for model in ("a", "b", "c", "d"):
        world.send(world.event(model))
    tried: list[str] = []
    for transition in world.store.watch("0", block_ms=500):
        if transition is not None and transition.before == transition.state == "triaged":
            tried.append(transition.incident)
        if len(tried) == 1 + REPLACED_MAX:
            break
    process.replace_late()
    doing = [worker.doing for worker in process.said().workers]
    assert doing == ["late"] * (1 + REPLACED_MAX)
    released.set()
    assert process.stop().threads == ()
    assert world.records("finding") == []


@pytest.mark.parametrize("how", ["late", "paused"])
def test_what_comes_of_a_step_that_lost_its_hold_is_in_no_book(world: World, how: str) -> None:
    """It fails at its effect after another worker took over: that one's reservation, and the approval, stand; nobody is told.

    `late`: outlived its deadline; `paused`: beyond its lease, and woken before its own heart noticed.
    """
    world.script.win = 0.5
    world.send()
    world.run()
    world.approve("bob")

    def refuse(request: Any) -> None:
        if not world.records("intent"):
            return
        heart: Any = current_lease.get()
        if how == "late":
            assert heart.lose()
        else:
            world.client.hincrby(f"{PREFIX}wf:{request.incident}", "fence", 1)
            heart.beat_at -= 3600
        raise Refused("too late")

    action: Any = world.actions[ActionName.RETRAIN]
    action.precheck = refuse
    told = dict(world.silent.messages)
    world.run()
    assert world.only().state == "executing"
    (entry,) = world.parts.ledger.entries().values()
    (request,) = world.parts.approvals.list()
    assert (entry["state"], request.state, world.silent.messages) == ("running", "approved", told)


def test_what_is_in_hand_at_the_end_of_a_stop_is_handed_back(world: World, hang: threading.Event) -> None:
    """Another worker takes it up at once, no crash is counted, and the one that hung changes nothing."""
    process = in_hand(world)
    stopped = process.stop(0.0)
    (record,) = world.store.list()
    assert stopped.handed == (record.id,)
    assert (record.state, record.leased, record.crashes) == ("triaged", False, 0)
    assert "driftwarden worker 0" in stopped.threads
    world.run(world.worker("other"))
    assert world.only().state == "verifying"
    count = len(world.records())
    hang.set()
    assert process.stop().threads == ()
    assert len(world.records()) == count
    assert len(world.plant.moves) == 1


def test_with_redis_away_what_is_in_hand_is_left_to_its_lease(
    world: World, hang: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The stop ends all the same, and says so."""
    process = in_hand(world)

    def away(claim: Any) -> None:
        raise Retry("redis is away")

    monkeypatch.setattr(world.store, "hand_back", away)
    stopped = process.stop(0.0)
    assert (stopped.handed, stopped.left) == ((), (world.store.list()[0].id,))
    hang.set()
    process.stop()
    assert world.records("finding") == []


def test_a_worker_that_is_stopped_while_it_claims_begins_nothing(world: World) -> None:
    """What it was given in that very moment goes back."""
    world.send()
    world.take_in()
    worker, stop = world.worker(), threading.Event()
    claim = world.store.claim

    def then_stop(*args: Any, **about: Any) -> Any:
        found = claim(*args, **about)
        stop.set()
        return found

    world.store.claim = then_stop  # type: ignore[method-assign]
    worker.run(stop, block_ms=0)
    (record,) = world.store.list()
    assert (record.state, record.leased, record.crashes) == ("received", False, 0)
    assert world.records("event") == []


def test_who_slept_beyond_its_lease_gives_nothing_up(world: World) -> None:
    """Its process was paused in the middle of an effect, and another did it meanwhile; it wakes up to an error, in its last try."""
    serving(world, tries_max=1)

    def sleep(where: str) -> None:
        world.plant.die_at = lambda where: None
        heart: Any = current_lease.get()
        heart.beat_at -= 3600
        world.free_leases()
        assert world.worker().work_once()
        raise OSError(where)

    world.plant.die_at = sleep
    world.send()
    world.run()
    entry = world.parts.ledger.entries()[world.only().id]
    assert (entry["state"], entry["failed"], len(world.plant.moves)) == ("done", False, 1)
    assert (world.only().state, world.silent.messages) == ("verifying", {})
    causes = sorted(one["causation"] for one in world.records("result"))
    assert causes == sorted(one["@hash"] for one in world.records("intent"))
