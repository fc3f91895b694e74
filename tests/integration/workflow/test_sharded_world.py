"""The whole workflow over eight shards: runner, approvals, timers, reports and people, as with one."""

from pathlib import Path
from typing import Any

import pytest
from fakes.redis_servers import cluster
from fakes.workflow_world import PREFIX, World
from simulation.test_workflow import MODELS, Simulation

from driftwarden.service.workflow.backpressure import backpressure
from driftwarden.service.workflow.pruning import Pruning
from driftwarden.stream.client import connect

SHARDS = 8


@pytest.fixture
def world(tmp_path: Path, redis_server: Any) -> World:
    """A world of several models over several shards."""
    redis_server.flushall()
    world = World(tmp_path, redis_server, models=tuple(f"m{number}" for number in range(6)), shards=SHARDS)
    world.store.shards.pin()
    return world


def test_incidents_of_every_shard_walk_to_their_end(world: World, redis_server: Any) -> None:
    """Executed unattended, verified on later labels, learned from; a crash in between is taken up where it was."""
    for number in range(6):
        world.send(world.event(f"m{number}"))
    world.take_in()
    assert len({one.id[-3:] for one in world.store.list()}) > 2
    waits = backpressure(redis_server, PREFIX, SHARDS)
    assert (waits["intake"]["length"], waits["activations"]["waiting"]) == (0, 6)
    assert waits["activations"]["oldest_seconds"] is not None
    world.run()
    assert {one.state for one in world.incidents()} <= {"verifying", "monitoring", "awaiting_approval"}
    done = [one for one in world.incidents() if one.state == "verifying"]
    assert done
    world.script.gain, world.script.gain_win = 0.1, 0.99
    world.restart()
    world.later(seconds=301)
    assert {world.store.get(one.id).state for one in done} == {"resolved"}
    assert not redis_server.keys("driftwarden:wf:*")


def test_an_approval_finds_the_incident_on_its_shard(world: World) -> None:
    """What people answer wakes the incident wherever it lives; a report finds its model's."""
    world.script.win = 0.5
    world.send(world.event("m1"))
    world.run()
    (waiting,) = world.incidents()
    assert waiting.state == "awaiting_approval"
    assert world.store.find(waiting.id[:12]) == waiting.id
    world.approve()
    world.run()
    assert world.store.get(waiting.id).state == "verifying"
    world.report(uri=None, value=0.83, model="m1")
    world.run()
    assert len(world.store.performance_reports("m1")) == 1
    assert world.store.performance_reports("m2") == ()


@pytest.mark.parametrize("seed", [3])
def test_whatever_happens_on_several_shards(tmp_path: Path, redis_server: Any, seed: int) -> None:
    """The seeded simulation of the whole workflow, over shards: crashes, repeats, people and time in any order."""
    redis_server.flushall()
    simulation = Simulation(World(tmp_path, redis_server, models=MODELS, memory_log=True, shards=SHARDS), seed)
    simulation.run()
    simulation.judge()
    assert len({one.id[-3:] for one in simulation.world.store.list(limit=1000)}) > 1


def test_the_whole_workflow_on_a_cluster(tmp_path: Path) -> None:
    """Three nodes: ledger, approvals, measurements and halts, which no shard holds, work there as the incidents do."""
    servers, home = tmp_path / "servers", tmp_path / "home"
    servers.mkdir()
    home.mkdir()
    with cluster(servers, 3) as (url, nodes):
        client = connect(url)
        world = World(home, client, models=("m0", "m1", "m2"), shards=SHARDS)
        world.store.shards.pin()
        for model in ("m0", "m1"):
            world.send(world.event(model))
        world.run()
        world.script.gain, world.script.gain_win = 0.1, 0.99
        world.restart()
        world.later(seconds=301)
        assert {one.model: one.state for one in world.incidents()} == {"m0": "resolved", "m1": "resolved"}
        world.script.win = 0.5
        world.send(world.event("m2"))
        world.run()
        world.approve()
        world.run()
        world.report(uri=None, value=0.83, model="m2")
        world.run()
        (last,) = world.store.list(model="m2")
        assert last.state in {"verifying", "resolved"}
        assert len(world.store.performance_reports("m2")) == 1
        assert world.parts.metrics.last("m2", 5)[-1]["basis"] == "reported"
        assert all(int(node.dbsize()) > 0 for node in nodes)
        world.clock.advance(days=30)
        world.script.win = 0.99
        world.send(world.event("m2"))  # far behind it, by every window of the policy, are the others' actions
        world.run()
        before = world.parts.ledger.spend_usd()
        Pruning(world.parts, world.store).put_away()
        assert {one["model"] for one in world.parts.ledger._standing().values()} == {"m2"}
        assert world.parts.ledger.spend_usd() == before
        assert world.parts.ledger.books.fold(0, 100, lambda ids: ids) == 0
        assert world.parts.ledger.spend_usd() == before
