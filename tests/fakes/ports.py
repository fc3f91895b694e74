"""Ports for servers of a test's own, which no other test of this machine is given while this process lives.

They lie below those that systems give to outgoing connections: whoever asks for a server that is down would otherwise now and
then be connected to himself, and a server that starts again would find its port taken.
"""

import fcntl
import os
import socket
import tempfile
from pathlib import Path

FIRST, SPAN = 10_100, 10_000
BUS = 10_000  # a cluster's nodes talk to each other on a port so much above their own

_held: list[int] = []  # a lock for each port that was given; they end with this process


def free_port() -> int:
    """A port of the loopback that nobody has, and neither the one 10,000 above it."""
    folder = Path(tempfile.gettempdir()) / f"driftwarden-test-ports-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    for number in range(SPAN):
        port = FIRST + (os.getpid() * 37 + number) % SPAN
        if _is_ours(folder / str(port)) and _is_free(port) and _is_free(port + BUS):
            return port
    raise AssertionError("no free port")


def _is_ours(file: Path) -> bool:
    lock = os.open(file, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        return False
    _held.append(lock)
    return True


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
