"""A real Redis server of its own for the tests of the stream."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from redis import Redis

from driftwarden.stream.client import connect
from driftwarden.stream.embedded import EmbeddedRedis


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a server that lives for the session."""
    folder: Path = tmp_path_factory.mktemp("stream-redis")
    with EmbeddedRedis.acquire(folder) as embedded:
        yield embedded.url


@pytest.fixture
def client(redis_url: str) -> Iterator[Redis]:
    """A client of an empty server."""
    client = connect(redis_url)
    client.flushall()
    yield client
    client.close()
