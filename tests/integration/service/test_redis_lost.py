"""Redis dies, forgets its groups or forgets everything under a service that works: it goes on, and does nothing twice."""

import json
import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import pytest
from fakes.redis_server import RedisServer, until
from fakes.workflow_world import PREFIX, Silent, World

from driftwarden.errors import Error, Retry
from driftwarden.policies import load_policy
from driftwarden.service.redis_watch import TOLD_EVERY_TICKS, RedisWatch, _keep_watch
from driftwarden.service.workflow.process import ServiceProcess, bury
from driftwarden.stream.client import connect, patiently
from driftwarden.stream.embedded import EmbeddedRedis, stop
from driftwarden.stream.intake import Intake
from driftwarden.stream.publisher import build_event, checked
from driftwarden.stream.spool import Spool

MODELS = tuple(f"m{number}" for number in range(12))
ALWAYS = ("--appendonly", "yes", "--appendfsync", "always", "--save", "")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    """A server that has every write it answered on disk."""
    with RedisServer(tmp_path / "redis", *ALWAYS) as server:
        yield server


@pytest.fixture
def world(tmp_path: Path, server: RedisServer) -> Iterator[World]:
    """Twelve models."""
    world = World(tmp_path, server.client(), models=MODELS)
    world.policy.replace(load_policy(World.policy_text().partition("  limits:")[0], "policy.yml"))
    yield world
    world.log.close()


@contextmanager
def serving(world: World, url: str, workers: int = 3) -> Iterator[ServiceProcess]:
    """A service process that works, in threads of this one."""
    intake = Intake(connect(url), "i0", prefix=PREFIX, before_burial=bury(world.parts))
    process = ServiceProcess(world.parts, world.store, intake, name="p", workers=workers)
    process.start()
    try:
        yield process
    finally:
        process.stop()


def event(model: str, file: Path) -> str:
    """The drift event of a model, the same each time it is sent."""
    window = {"start": "2026-11-20T08:00:00Z", "end": "2026-11-20T09:00:01Z", "rows": 2, "uri": str(file)}
    data = {"model": model, "kind": "data_drift", "window": window}
    return json.dumps(build_event(data, source="test", id=model, time="2026-11-20T09:00:01Z"))


def send(world: World, *models: str) -> None:
    """As a producer with patience."""
    for model in models:
        patiently(
            lambda model=model: world.client.xadd(f"{PREFIX}events", {"event": event(model, world.data / "w.csv")}),
            for_s=30,
        )  # type: ignore[misc]


def at_rest(world: World, models: tuple[str, ...] = MODELS) -> Callable[[], bool]:
    """Whether every model's incident was decided, done, and waits for its verification."""

    def ask() -> bool:
        try:
            records = world.store.list(limit=100)
        except Error:
            return False
        return {one.model for one in records if one.state == "verifying"} >= set(models)

    return ask


def done_once(world: World, models: tuple[str, ...] = MODELS) -> None:
    """Each model's champion moved once; each intent has one key, and the log one result of it that changed something."""
    moved = [name for name, _, _, _ in world.plant.moves]
    assert sorted(moved) == sorted(models)
    by_key: dict[str, int] = {}
    for result in world.records("result"):
        key = result["body"]["idempotency_key"]
        by_key[key] = by_key.get(key, 0) + (not result["body"].get("replayed"))
    assert set(by_key.values()) <= {0, 1}


def test_redis_is_killed_again_and_again_under_a_working_service(
    world: World, server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGKILL and restart on the same file at three points of the work: nothing is lost, nothing is done twice."""
    monkeypatch.setattr("driftwarden.service.workflow.retries.AGREE_AGAIN_S", 0.5)
    with serving(world, server.url):
        for number in range(3):
            send(world, *MODELS[number * 2 : number * 2 + 2])
            until(lambda seen=number: len(world.records("decision")) > seen * 2, what="work")  # type: ignore[misc]
            server.restart()
        send(world, *MODELS[6:])
        until(at_rest(world), what="rest")
    done_once(world)
    assert len(world.store.list(limit=100)) == len(MODELS)
    assert {incident.tries for incident in world.incidents()} == {0}, "what Redis did counts as no failed try of theirs"


def test_groups_that_vanish_are_made_again_from_the_beginning(world: World, server: RedisServer) -> None:
    """Every consumer group is destroyed while it is in use: the streams are read again, what is known is recognised."""

    def destroy() -> int:
        destroyed = 0
        for key in world.client.scan_iter(_type="stream"):
            for group in world.client.xinfo_groups(key):  # type: ignore[union-attr]
                destroyed += int(world.client.xgroup_destroy(key, group["name"]))  # type: ignore[arg-type,call-overload]
        return destroyed

    with serving(world, server.url):
        for number in range(4):
            send(world, *MODELS[number * 3 : number * 3 + 3])
            until(lambda seen=number: len(world.records("decision")) > seen * 3, what="work")  # type: ignore[misc]
            assert destroy() >= 1
        until(at_rest(world), what="rest")
    done_once(world)


def test_a_flush_is_said_loudly_and_nothing_done_is_done_again(
    world: World, server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    """FLUSHALL under a working service: what is sent again is recognised by the audit log; what is new is done."""
    told = Silent()
    watch = RedisWatch(server.client(), PREFIX, "p", notifier=told)
    first, later = MODELS[:6], MODELS[6:]
    assert watch.look()
    with serving(world, server.url) as process:
        send(world, *first)
        until(at_rest(world, first), what="rest")
        assert watch.look()
        world.client.flushall()
        assert not watch.look()
        assert watch.look(), "one loss is said once"
        assert not process.stopping
        send(world, *first, *later)
        until(at_rest(world, later), what="rest of what is new")
        until(lambda: len(world.store.list(limit=100)) == len(MODELS), what="the incidents of what came again")
        moving = {"received", "triaged", "investigated", "planned", "rehearsed", "decided", "approved", "executing"}
        until(lambda: not moving & {one.state for one in world.store.list(limit=100)}, what="their end")
    done_once(world)
    assert "redis has lost writes" in caplog.text
    assert any("redis has lost writes" in message for message in told.messages.values())
    assert [record.levelno for record in caplog.records if "has lost writes" in record.message] == [logging.CRITICAL]


def test_a_restart_without_every_write_on_disk_is_noticed(tmp_path: Path) -> None:
    """A server that comes back from an older state, and one that comes back with all of it: only the first is a loss."""
    with RedisServer(tmp_path / "r", *ALWAYS) as server:
        client = server.client()
        watch = RedisWatch(client, PREFIX, "p", notifier=Silent())
        assert [watch.look() for _ in range(3)] == [True] * 3
        server.restart()
        assert patiently(watch.look)
        watch.leave()
        assert client.keys("*") == []
        client.close()
    with RedisServer(tmp_path / "s", "--save", "") as server:
        client = server.client()
        watch = RedisWatch(client, PREFIX, "p", notifier=Silent())
        watch.look()
        client.save()
        watch.look()
        server.restart()
        assert not patiently(watch.look)
        client.close()


def test_halts_and_marks_are_planted_again_after_a_loss(world: World, server: RedisServer) -> None:
    """A halt is a file too: after a flush, the host that has the file halts the others again."""
    world.parts.halts.halt("m1", reason="stop", by="ada")
    world.parts.halts.halt(None, reason="stop all", by="ada")
    watch = RedisWatch(server.client(), PREFIX, "p", notifier=Silent(), plant=[world.parts.halts.plant])
    watch.look()
    before: Any = world.client.hgetall(f"{PREFIX}halts")
    world.client.flushall()
    watch.look()
    assert world.client.hgetall(f"{PREFIX}halts") == before
    assert set(before) == {b"m1", b"*"}


def test_the_embedded_server_is_started_again_where_it_died_and_not_where_it_was_stopped(tmp_path: Path) -> None:
    """SIGKILL: its user starts it again, with every write; `driftwarden down`: it stays down."""
    with EmbeddedRedis.acquire(tmp_path) as embedded:
        client = connect(embedded.url)
        watch = RedisWatch(client, PREFIX, "p", notifier=Silent(), revive=embedded.revive)
        watch.tick()
        client.set("kept", "1")
        assert embedded.revive() is False
        os.kill(int((tmp_path / "redis" / "redis.pid").read_text()), signal.SIGKILL)
        until(embedded.revive, what="the server's death, and its start")
        assert patiently(lambda: client.get("kept")) == b"1"
        assert watch.look()
        assert stop(tmp_path)
        assert embedded.revive() is False
        client.close()


def test_a_service_sends_what_waits_in_its_state_folder(tmp_path: Path, server: RedisServer) -> None:
    """Producers of this machine left events while Redis was away; the service publishes them in order."""
    spool = Spool(tmp_path)
    for model in MODELS[:3]:
        spool.put(checked(event(model, tmp_path)))
    client: Any = server.client()
    RedisWatch(client, PREFIX, "p", notifier=Silent(), spool=spool).tick()
    entries = client.xrange(f"{PREFIX}events")
    assert [json.loads(fields[b"event"])["id"] for _, fields in entries] == list(MODELS[:3])
    assert spool.waiting().events == 0
    client.close()


def test_two_halves_of_a_service_lose_nothing_when_redis_dies_between_them(world: World, server: RedisServer) -> None:
    """Events come while Redis dies: whoever got an answer finds the event handled."""
    answered: list[str] = []

    def produce() -> None:
        for model in MODELS:
            send(world, model)
            answered.append(model)

    with serving(world, server.url):
        producer = threading.Thread(target=produce)
        producer.start()
        for count in (2, 6, 10):
            until(lambda count=count: len(answered) >= count, what="events")  # type: ignore[misc]
            server.restart()
        producer.join()
        until(at_rest(world), what="rest")
    done_once(world)


def test_a_redis_that_stays_away_is_told_of_once_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    """Not once a second for hours; that it answers again is told as well."""
    fails = iter([True] * (TOLD_EVERY_TICKS + 1) + [False, False])

    class Watch:
        def tick(self) -> None:
            if next(fails):
                raise Retry("redis is away")

    class Ended:
        """No time passes; it has ended where nothing is left to happen."""

        left = TOLD_EVERY_TICKS + 3

        def is_set(self) -> bool:
            return self.left == 0

        def wait(self, _: float) -> None:
            self.left -= 1

    with caplog.at_level(logging.WARNING):
        _keep_watch(cast(RedisWatch, Watch()), cast(threading.Event, Ended()))
    assert [record.getMessage() for record in caplog.records] == [
        "redis: redis is away",
        "redis: redis is away",
        "redis answers again",
    ]
