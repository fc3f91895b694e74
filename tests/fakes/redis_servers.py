"""Redis servers of a test's own, on ports of the loopback: one, or a cluster of several nodes."""

import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from fakes.ports import free_port
from redis import Redis

from driftwarden.errors import Retry
from driftwarden.stream.client import connect, patiently
from driftwarden.stream.embedded import server_binary


@contextmanager
def server(folder: Path, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """A Redis server of its own for as long as the block lasts."""
    log = str(folder / f"{len(list(folder.iterdir()))}.log")
    base = [str(server_binary()), *arguments, "--bind", "127.0.0.1", "--dir", str(folder), "--logfile", log]
    process = subprocess.Popen(base)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


@contextmanager
def cluster(folder: Path, nodes: int) -> Iterator[tuple[str, list[Redis]]]:
    """A cluster of its own: its address, and a client of each node."""
    ports = [free_port() for _ in range(nodes)]
    with ExitStack() as stack:
        clients = []
        for number, port in enumerate(ports):
            place = folder / f"node-{number}"
            place.mkdir()
            stack.enter_context(server(place, "--port", str(port), "--cluster-enabled", "yes"))
            clients.append(patiently(lambda port=port: connect(f"redis://127.0.0.1:{port}")))  # type: ignore[misc]
        for number, client in enumerate(clients):
            slots = range(16384 * number // nodes, 16384 * (number + 1) // nodes)
            node: Any = client
            node.execute_command("CLUSTER SET-CONFIG-EPOCH", number + 1)
            node.execute_command("CLUSTER ADDSLOTS", *slots)
            node.execute_command("CLUSTER MEET", "127.0.0.1", ports[0])

        def is_whole() -> None:
            for client in clients:
                state: Any = client.cluster("INFO")
                if (state["cluster_state"], state["cluster_slots_ok"]) != ("ok", "16384"):
                    raise Retry("the nodes do not all know each other yet")

        patiently(is_whole, for_s=60)
        yield "redis+cluster://" + ",".join(f"127.0.0.1:{port}" for port in ports), clients
