"""Fixtures of tests over a real Redis server that nobody kills: a folder's conftest imports those it needs."""

from collections.abc import Iterator
from typing import Any

import pytest
from redis import Redis

from driftwarden.service.workflow.store import WorkflowStore
from driftwarden.stream.client import connect
from driftwarden.stream.embedded import EmbeddedRedis


@pytest.fixture(scope="session")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of the embedded server."""
    with EmbeddedRedis.acquire(tmp_path_factory.mktemp("redis")) as embedded:
        with connect(embedded.url) as client:
            client.config_set("appendfsync", "no")  # the server itself is not killed here
        yield embedded.url


@pytest.fixture(scope="session")
def redis_server(url: str) -> Iterator[Any]:
    """A client of it for the session."""
    with connect(url) as client:
        yield client


@pytest.fixture
def client(url: str) -> Iterator[Redis]:
    """A client of an empty server."""
    with connect(url) as client:
        client.flushall()
        yield client


@pytest.fixture
def store(client: Redis) -> WorkflowStore:
    """A store on it."""
    return WorkflowStore(client)
