"""Real Redis servers of a test's own: started, killed and restarted on the same data."""

import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from fakes.ports import free_port
from redis import Redis

from driftwarden.stream.client import connect, patiently
from driftwarden.stream.embedded import server_binary


def until(holds: Callable[[], Any], *, within_s: float = 120.0, what: str = "it") -> None:
    """Ask until it holds; fails after `within_s`."""
    deadline = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < deadline, f"{what} did not come about within {within_s:g} s"
        threading.Event().wait(0.02)


class RedisServer:
    """One server on a port, its data in a folder; a context manager."""

    def __init__(self, folder: Path, *arguments: str, port: int | None = None, conf: Path | None = None) -> None:
        """Nothing runs yet; `conf`: a file of the server's, which it may rewrite (a sentinel's)."""
        folder.mkdir(exist_ok=True)
        self.folder, self.port = folder, port or free_port()
        first = [str(conf)] if conf else []
        self._command = [str(server_binary()), *first, *arguments, "--port", str(self.port), "--bind", "127.0.0.1",
                         "--dir", str(folder), "--logfile", str(folder / "redis.log")]  # fmt: skip
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Its address."""
        return f"redis://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Run, and answer."""
        self._process = subprocess.Popen(self._command, cwd=self.folder)
        patiently(lambda: connect(self.url)).close()

    def kill(self) -> None:
        """SIGKILL."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def restart(self) -> None:
        """SIGKILL, and up again on the same data."""
        self.kill()
        self.start()

    def client(self) -> Redis:
        """A client straight to it."""
        return connect(self.url)

    def __enter__(self) -> Self:
        """Started."""
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Killed."""
        self.kill()


def replica_of(master: RedisServer, folder: Path, *arguments: str) -> RedisServer:
    """A replica, not yet started."""
    return RedisServer(
        folder, "--replicaof", "127.0.0.1", str(master.port), "--repl-diskless-sync-delay", "0", *arguments
    )


def in_step(replica: Redis) -> bool:
    """Whether a replica has what its master has."""
    about: Any = replica.info("replication")
    return about.get("master_link_status") == "up"
