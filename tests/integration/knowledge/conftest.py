"""A real Redis server on a Unix socket, and processes that open the knowledge base on their own."""

import contextlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from redis.backoff import ConstantBackoff
from redis.retry import Retry as RedisRetry

from driftwarden.stream.embedded import server_binary

PATIENCE_S = 120.0  # with a slow machine
HELPER = Path(__file__).with_name("process.py")


@pytest.fixture(scope="session")
def redis_socket() -> Iterator[str]:
    """The path of the server's socket; the server ends with the session."""
    with tempfile.TemporaryDirectory(prefix="dw-") as folder:
        socket = f"{folder}/r.sock"
        command = [str(server_binary()), "--port", "0", "--unixsocket", socket, "--save", "", "--dir", folder]
        server = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        retry = RedisRetry(ConstantBackoff(0.05), 2400)
        client = redis.Redis(
            unix_socket_path=socket, retry=retry, retry_on_error=[redis.ConnectionError, FileNotFoundError]
        )
        client.ping()
        client.close()
        yield socket
        server.terminate()
        server.wait(timeout=PATIENCE_S)


@pytest.fixture
def client(redis_socket: str) -> Iterator[Any]:
    """A client of an empty database."""
    connected = redis.Redis(unix_socket_path=redis_socket)
    connected.flushall()
    yield connected
    connected.close()


class Process:
    """A process that holds the knowledge base and does what it is told, line by line."""

    def __init__(self, state: Path, redis_socket: str) -> None:
        """Start it and wait until it has opened the knowledge base."""
        self._process = subprocess.Popen(
            [sys.executable, str(HELPER), str(state), redis_socket],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.is_owner: bool = self._read()["owner"]

    def _read(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the process ended"
        return json.loads(line)

    def do(self, method: str, *arguments: Any, **named: Any) -> Any:
        """Call one method there; hits come back as dictionaries."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps([method, arguments, named]) + "\n")
        self._process.stdin.flush()
        return self._read()

    def kill(self) -> None:
        """SIGKILL: nothing is tidied up."""
        self._process.kill()
        self._process.wait(timeout=PATIENCE_S)

    def end(self) -> None:
        """Close its input and wait."""
        with contextlib.suppress(BrokenPipeError):
            self._process.communicate(timeout=PATIENCE_S)


@pytest.fixture
def start(tmp_path: Path, redis_socket: str, client: Any) -> Iterator[Any]:
    """Start processes over one state folder and one Redis; they end with the test."""
    started: list[Process] = []

    def begin() -> Process:
        started.append(Process(tmp_path / "state", redis_socket))
        return started[-1]

    yield begin
    for process in started:
        process.end()
