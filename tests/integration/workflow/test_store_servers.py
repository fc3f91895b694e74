"""The store on servers that die, on a cluster, and behind a sentinel."""

import json
import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from redis import Redis

from driftwarden.errors import BadInput
from driftwarden.service.workflow.store import WorkflowStore
from driftwarden.stream.client import connect, patiently
from driftwarden.stream.dead_letters import DeadLetters
from driftwarden.stream.embedded import EmbeddedRedis, server_binary
from driftwarden.stream.intake import Intake
from driftwarden.stream.publisher import Publisher, build_event

LEASE_MS = 60_000
NOW = "2026-11-20T09:00:00.000000Z"


def drift(number: int, model: str = "m") -> str:
    """A drift event."""
    return json.dumps(build_event({"model": model, "kind": "data_drift"}, source="s", id=str(number)))


_ports = iter(range(21_000 + os.getpid() % 10_000, 50_000))


def free_port() -> int:
    """A port of the loopback that nobody has, and neither the one 10,000 above it (a cluster's bus)."""
    for port in _ports:
        with socket.socket() as probe, socket.socket() as bus:
            try:
                probe.bind(("127.0.0.1", port))
                bus.bind(("127.0.0.1", port + 10_000))
            except OSError:
                continue
            return port
    raise AssertionError("no free port")


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


def walk(client: Redis, url: str, prefix: str) -> None:
    """One event the whole way, and one that cannot be read."""
    store = WorkflowStore(client, prefix=prefix)
    with Publisher(url, prefix) as publisher:
        publisher.publish(drift(1))
    client.xadd(f"{prefix}events", {"event": b"\xff"})
    for delivery in Intake(client, "w", prefix=prefix).read(10):
        store.admit(delivery.entry_id, delivery.event, now=NOW)
    held = store.claim("w", block_ms=5, lease_ms=LEASE_MS)
    assert held is not None
    store.heartbeat(held)
    store.wake(held.incident, "operator")
    held = store.commit(held, state="triaged", doc={}, disposition="park", due_s=0, accepting=True)
    assert len(held.signals) == 1
    assert store.pump_timers() == 1
    again = store.claim("w", block_ms=5, lease_ms=LEASE_MS)
    assert again is not None
    store.commit(again, state="closed", doc={}, disposition="finish", accepting=False, handled=again.signals)
    assert store.counts() == {"closed": 1}
    assert store.find(held.incident[:8]) == store.list()[0].id
    (letter,) = DeadLetters(client, prefix).list()
    DeadLetters(client, prefix).redrive(letter.id)


def test_a_killed_server_loses_nothing_that_was_said(tmp_path: Path) -> None:
    """SIGKILL of the server between steps: it comes back with every answered write, and the worker goes on."""
    with EmbeddedRedis.acquire(tmp_path) as embedded:
        client = connect(embedded.url)
        store = WorkflowStore(client)

        def kill() -> None:
            pid = int((tmp_path / "redis" / "redis.pid").read_text())
            os.kill(pid, signal.SIGKILL)
            embedded.ensure()

        client.xadd("driftwarden:events", {"event": drift(1)})
        kill()
        (delivery,) = Intake(client, "w").read(1)
        kill()
        opened = store.admit(delivery.entry_id, delivery.event, now=NOW)
        kill()
        held = store.claim("w", block_ms=0, lease_ms=LEASE_MS)
        assert held is not None
        for version, state in enumerate(("triaged", "investigated", "planned"), start=1):
            kill()
            store.heartbeat(held)
            held = store.commit(held, state=state, doc={"n": version}, disposition="go", accepting=True)
        kill()
        record = store.get(opened.incident)
        assert (record.state, record.version, record.doc) == ("planned", 3, {"n": 3})
        assert client.xpending("driftwarden:activations", "workers")["pending"] == 1


def test_a_cluster_with_a_hash_tag_in_the_prefix(tmp_path: Path) -> None:
    """All keys in one slot: everything works; without a tag one line says what is needed."""
    port = free_port()
    with server(tmp_path, "--port", str(port), "--cluster-enabled", "yes"):
        node = patiently(lambda: connect(f"redis://127.0.0.1:{port}"))
        node.execute_command("CLUSTER ADDSLOTS", *range(16384))
        url = f"redis+cluster://127.0.0.1:{port}"
        client = connect(url)
        patiently(lambda: client.set("{driftwarden}:up", 1))  # the cluster takes a moment to call itself whole
        walk(client, url, "{driftwarden}:")
        with pytest.raises(BadInput, match="hash tag"):
            walk(client, url, "driftwarden:")


def test_a_server_behind_a_sentinel(tmp_path: Path) -> None:
    """The sentinel names the master; the store works on it."""
    port, sentinel = free_port(), free_port()
    conf = tmp_path / "sentinel.conf"
    conf.write_text(f"port {sentinel}\nsentinel monitor main 127.0.0.1 {port} 1\n")
    url = f"redis+sentinel://127.0.0.1:{sentinel}/main"
    with ExitStack() as stack:
        stack.enter_context(server(tmp_path, "--port", str(port)))
        patiently(lambda: connect(f"redis://127.0.0.1:{port}"))
        stack.enter_context(server(tmp_path, str(conf), "--sentinel"))
        client = patiently(lambda: connect(url))
        walk(client, url, "driftwarden:")
