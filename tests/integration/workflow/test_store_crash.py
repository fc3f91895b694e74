"""A worker process is killed with SIGKILL before and after every script it runs; another one finishes its work."""

import json
import os
import signal
from collections import Counter
from collections.abc import Callable
from typing import Any

from redis import Redis

from driftwarden.clock import SystemClock, rfc3339
from driftwarden.service.workflow.store import WorkflowStore
from driftwarden.stream.client import connect
from driftwarden.stream.intake import Intake
from driftwarden.stream.publisher import build_event

LEASE_MS = 60_000
STEPS = {"received": "triaged", "triaged": "executing", "executing": "verifying"}
POINTS_MAX = 200


def publish(client: Redis) -> set[str]:
    """Three drift events of two models, one of them twice, a report, and two entries that cannot be read."""
    drifts = [build_event({"model": model, "kind": "data_drift"}, source="s", id=f"{number}") for number, model in
              enumerate("aab")]  # fmt: skip
    data = {"model": "a", "environment": "production", "window": {}, "performance": {"current": 0.5}}
    report = build_event(data, source="s", id="report", type="io.driftwarden.performance.v1")
    for document in [*drifts, drifts[0], report]:
        client.xadd("driftwarden:events", {"event": json.dumps(document)})
    client.xadd("driftwarden:events", {"event": b"\xff"})
    client.xadd("driftwarden:events", {"event": b"{}", "more": b"1"})
    return {document["id"] for document in drifts}


def work(url: str, name: str, at: Callable[[str], None]) -> None:
    """Take everything in, walk every incident to its end, until nothing is left to do."""
    client = connect(url)
    store = WorkflowStore(client, crashes_max=10, fail_point=at)
    intake = Intake(
        client, name, reclaim_after_ms=0, before_burial=lambda rejection: at("before:burial"), fail_point=at
    )
    while True:
        deliveries = intake.read(10)
        drifts = [one for one in deliveries if one.event.kind != "performance"]
        store.admit_many(drifts, now=rfc3339(SystemClock().now()))
        for one in deliveries:
            if one not in drifts:
                store.record_performance(one.entry_id, one.event)
        store.pump_timers(ahead_s=100)
        held = store.claim(name, block_ms=0, lease_ms=LEASE_MS)
        if held is None:
            return
        store.heartbeat(held)
        while held.state in STEPS:
            state = STEPS[held.state]
            if state == "verifying":
                store.wake(held.incident, "check", os.getpid())
                store.commit(held, state=state, doc=held.doc, disposition="release", due_s=50, accepting=False)
                break
            held = store.commit(
                held, state=state, doc={"n": held.version}, disposition="go", accepting=state == "triaged"
            )
        else:
            store.commit(
                held, state="resolved", doc=held.doc, disposition="finish", accepting=False, handled=held.signals
            )


def killed_at(url: str, point: int) -> bool:
    """Run a worker in a process of its own that kills itself at its n-th point; False where it ended before."""
    pid = os.fork()
    if pid == 0:
        count = 0

        def at(where: str) -> None:
            nonlocal count
            count += 1
            if count > point:
                os.kill(os.getpid(), signal.SIGKILL)

        try:
            work(url, "killed", at)
        except BaseException:  # noqa: BLE001 - a forked child must not return into the test runner
            os._exit(3)
        os._exit(0)
    _, status = os.waitpid(pid, 0)
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL
        return True
    assert os.WEXITSTATUS(status) == 0
    return False


def expire_all(client: Redis) -> None:
    """As if every lease's time had passed."""
    for key in client.scan_iter("driftwarden:wf:*"):
        if client.type(key) == b"hash" and client.hexists(key, "lease"):
            client.hset(key, "lease", 0)
    stream, group = "driftwarden:activations", "workers"
    if client.exists(stream) and client.xinfo_groups(stream):
        for one in client.xpending_range(stream, group, "-", "+", 100):
            client.execute_command(
                f"XCLAIM {stream}", group, one["consumer"], 0, one["message_id"], "IDLE", 10**9, "JUSTID"
            )


def check(client: Redis, published: set[str]) -> None:
    """Everything ended exactly once, and nothing is left lying about."""
    store = WorkflowStore(client)
    incidents = store.list()
    assert all(one.ended for one in incidents)
    assert Counter(json.loads(raw)["id"] for one in incidents for raw in one.events) == Counter(published)
    assert store.counts() == {"resolved": len(incidents)}
    assert len(store.performance_reports("a")) == 1
    assert client.xlen("driftwarden:dead-letters") == 2
    versions: dict[bytes, list[int]] = {}
    fences: dict[bytes, list[int]] = {}
    for _, fields in client.xrange("driftwarden:transitions"):
        versions.setdefault(fields[b"incident"], []).append(int(fields[b"version"]))
        fences.setdefault(fields[b"incident"], []).append(int(fields[b"fence"]))
    assert all(seen == list(range(len(seen))) for seen in versions.values())
    assert all(seen == sorted(seen) for seen in fences.values())
    with client.pipeline() as pipe:
        for stream in ("driftwarden:events", "driftwarden:activations"):
            pipe.xlen(stream)
            pipe.xpending(stream, "workers")
        pipe.zcard("driftwarden:timers")
        at_rest: Any = pipe.execute()
    assert [at_rest[0], at_rest[2], at_rest[4]] == [0, 0, 0]
    assert [at_rest[1]["pending"], at_rest[3]["pending"]] == [0, 0]
    for model in ("a", "b"):
        assert client.hgetall(f"driftwarden:model:{model}") == {b"active": b""}
        assert client.zcard(f"driftwarden:model:{model}:queue") == 0


def test_a_worker_killed_at_any_point_loses_and_doubles_nothing(url: str) -> None:
    """Every fail point in turn, in order; the work of the killed is finished by another, with the same end."""
    client = connect(url)
    killed = 0
    while killed < POINTS_MAX:
        client.flushall()
        published = publish(client)
        if not killed_at(url, killed):
            check(client, published)
            break
        killed += 1
        expire_all(client)
        work(url, "heir", lambda where: None)
        check(client, published)
    assert 30 < killed < POINTS_MAX


def test_workers_killed_one_after_another(url: str) -> None:
    """Each heir is killed too, a little later than the one before; the last one ends it."""
    client = connect(url)
    client.flushall()
    published = publish(client)
    for point in (2, 5, 3, 8, 4, 7, 6):
        if not killed_at(url, point):
            break
        expire_all(client)
    work(url, "heir", lambda where: None)
    check(client, published)
