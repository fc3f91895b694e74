"""A real Redis, and worlds of the real workflow around scripted surroundings."""

import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from driftwarden.stream.client import connect
from driftwarden.stream.embedded import EmbeddedRedis

sys.path.insert(0, str(Path(__file__).parents[2]))

from fakes.workflow_world import World


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The embedded server."""
    with EmbeddedRedis.acquire(tmp_path_factory.mktemp("redis")) as server:
        client = connect(server.url)
        client.config_set("appendfsync", "no")  # the server itself is not killed here
        yield client
        client.close()


@pytest.fixture
def new_world(tmp_path: Path, redis_server: Any) -> Iterator[Callable[..., World]]:
    """Makes a world on an empty server."""
    redis_server.flushall()
    worlds: list[World] = []

    def make(**values: Any) -> World:
        worlds.append(World(tmp_path, redis_server, **values))
        return worlds[-1]

    yield make
    for world in worlds:
        if hasattr(world.log, "close"):
            world.log.close()


@pytest.fixture
def world(new_world: Callable[..., World]) -> World:
    """One world."""
    return new_world()


@pytest.fixture
def terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    """A world whose state folder is the command line's, with one request that waits; this account is called `ada`."""
    with EmbeddedRedis.acquire(tmp_path) as server:
        client = connect(server.url)
        world = World(tmp_path, client)
        world.clock.moment = datetime.now(UTC)
        own = tmp_path / "local" / "driftwarden"
        own.mkdir(parents=True)
        (own / "policy.yml").write_text(world.policy_text())
        for name, value in {"DRIFTWARDEN_HOME": tmp_path, "DRIFTWARDEN_CONF": tmp_path, "LOGNAME": "ada", "HOME": tmp_path,
                            "XDG_CONFIG_HOME": tmp_path / "config"}.items():  # fmt: skip
            monkeypatch.setenv(name, str(value))
        monkeypatch.delenv("DRIFTWARDEN_REDIS_URL", raising=False)
        world.script.win = 0.5
        world.send()
        world.run()
        yield world
        world.log.close()
        client.close()
