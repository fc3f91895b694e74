"""A Redis on a TCP port of this machine that is killed and comes back on its append-only file."""

import ctypes
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

from fakes.ports import free_port

from driftwarden.errors import Retry
from driftwarden.stream.client import connect
from driftwarden.stream.embedded import server_binary

PR_SET_PDEATHSIG = 1  # of prctl(2)
START_S = 180.0
POLL_S = 0.02


class ServerDownError(Exception):
    """It did not come up."""


class Server:
    """One server over one folder; `appendfsync always`: what it answered survives it."""

    def __init__(self, folder: Path) -> None:
        """Choose a port and start it."""
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    @property
    def runs(self) -> bool:
        """Whether there is a process."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start it over what its forerunner left; raises ServerDownError."""
        options = {
            "port": str(self.port), "bind": "127.0.0.1", "dir": str(self.folder), "save": "", "appendonly": "yes",
            "appendfsync": "always", "maxmemory-policy": "noeviction", "logfile": str(self.folder / "redis.log"),
        }  # fmt: skip
        words = [word for name, value in options.items() for word in (f"--{name}", value)]
        self._process = subprocess.Popen([server_binary(), *words], preexec_fn=_die_with_parent)

    def wait(self) -> Any:
        """A client, once it answers; raises ServerDownError."""
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline and self.runs:
            try:
                return connect(self.url)
            except Retry:  # away, or loading
                time.sleep(POLL_S)
        raise ServerDownError(f"redis did not come up: {self.folder / 'redis.log'}")

    def kill(self) -> None:
        """SIGKILL: as a machine's memory that ran out."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL))
