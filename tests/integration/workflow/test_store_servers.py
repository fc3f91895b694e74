"""The store on servers that die, on a cluster, and behind a sentinel."""

import json
import os
import signal
from collections import Counter
from contextlib import ExitStack
from itertools import takewhile
from pathlib import Path

import pytest
from fakes.ports import free_port
from fakes.redis_servers import cluster, server
from redis import Redis

from driftwarden.errors import BadInput
from driftwarden.service.workflow.store import WorkflowStore
from driftwarden.stream.client import connect, patiently
from driftwarden.stream.dead_letters import DeadLetters
from driftwarden.stream.embedded import EmbeddedRedis
from driftwarden.stream.intake import Intake
from driftwarden.stream.publisher import Publisher, build_event

LEASE_MS = 60_000
NOW = "2026-11-20T09:00:00.000000Z"


def drift(number: int, model: str = "m") -> str:
    """A drift event."""
    return json.dumps(build_event({"model": model, "kind": "data_drift"}, source="s", id=str(number)))


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
    """All keys in one slot: everything works; without a tag, and without shards, one line says what is needed."""
    with cluster(tmp_path, 1) as (url, _):
        client = connect(url)
        walk(client, url, "{driftwarden}:")
        with pytest.raises(BadInput, match=r"redis.shards.*above 1.*hash tag"):
            walk(client, url, "driftwarden:")


def test_shards_over_the_nodes_of_a_cluster(tmp_path: Path) -> None:
    """Three nodes, eight shards: from the intake over claims, steps and timers to the dead letters, nothing is missed."""
    with cluster(tmp_path, 3) as (url, nodes):
        client = connect(url)
        store = WorkflowStore(client, shards=8, crashes_max=0)
        store.shards.pin()
        with Publisher(url) as publisher:
            for number in range(40):
                publisher.publish(drift(number % 30, f"m{number % 20}"))  # ten come again, for another model
        client.xadd("driftwarden:events", {"event": b"\xff"})
        kinds: Counter[str] = Counter()
        intake = Intake(client, "w")
        while deliveries := intake.read(15):
            kinds.update(one.kind for one in store.admit_many(deliveries, now=NOW))
        assert kinds == {"opened": 20, "joined": 10, "duplicate": 10}
        assert store.counts() == {"received": 20}
        assert store.backlog() == (0, 30)
        assert len(store.list()) == 20
        assert all(sum(b"wf:" in key for key in node.scan_iter()) > 0 for node in nodes)
        assert sum(len([*node.scan_iter("driftwarden:*")]) for node in nodes) == sum(
            int(node.dbsize()) for node in nodes
        )

        told = store.watch("0", block_ms=1)
        assert {one.incident for one in takewhile(bool, told) if one} == {one.id for one in store.list()}
        while store.counts().get("received"):
            held = store.claim("w", block_ms=100, lease_ms=LEASE_MS)
            assert held is not None
            store.heartbeat(held)
            if held.state == "received":
                store.wake(held.incident, "operator")
            store.commit(held, state="triaged", doc={}, disposition="park", due_s=0, accepting=True)
        assert store.counts() == {"triaged": 20}
        while store.pump_timers():
            pass
        ended: set[str] = set()
        while held := store.claim("w", block_ms=0, lease_ms=LEASE_MS):
            assert [one.why for one in held.signals] == ["operator"]
            if len(ended) == 19:
                store.hand_back(held)
                break
            ended.add(held.incident)
            store.commit(held, state="closed", doc={}, disposition="finish", accepting=False, handled=held.signals)

        crashing = store.claim("w", block_ms=0, lease_ms=LEASE_MS)
        assert crashing is not None
        client.hset(f"{store.shards.of_model(crashing.model).prefix}wf:{crashing.incident}", "lease", 0)
        failed = store.claim("heir", block_ms=0, lease_ms=0)
        assert failed is not None
        assert (failed.incident, failed.state) == (crashing.incident, "failed")
        store.commit(failed, state="failed", doc={}, disposition="finish", accepting=False, handled=failed.signals)
        assert store.counts() == {"closed": 19, "failed": 1}
        assert store.claim("w", block_ms=0, lease_ms=LEASE_MS) is None
        assert store.find(crashing.incident[:14]) == crashing.incident
        assert store.trim() == 0
        assert store.backlog() == (0, 0)

        letters = DeadLetters(client)
        unreadable, loop = sorted(letters.list(), key=lambda one: one.kind)
        assert (unreadable.kind, unreadable.raw, loop.incident) == ("event", b"\xff", crashing.incident)
        _, entry, again = letters.redrive(unreadable.id)
        assert not again
        assert letters.redrive(unreadable.id)[1:] == (entry, True)
        assert letters.show(unreadable.id).redriven_as == entry
        assert intake.read(5) == []
        assert Counter(one.kind for one in letters.list()) == {"event": 2, "incident": 1}


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
