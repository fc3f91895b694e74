"""Makes the world of `tests/fakes` and its simulation importable, over a real Redis."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from driftwarden.stream.client import connect
from driftwarden.stream.embedded import EmbeddedRedis

sys.path.insert(0, str(Path(__file__).parents[2]))


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The embedded server."""
    with EmbeddedRedis.acquire(tmp_path_factory.mktemp("redis")) as server:
        client = connect(server.url)
        client.config_set("appendfsync", "no")  # the server itself is not killed here
        yield client
        client.close()
