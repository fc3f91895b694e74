"""An incident's steps in the store, one line each: what stories about the store are told in."""

import json
from itertools import count
from typing import Any

from redis import Redis

from driftwarden.contracts.event import DriftEvent, parse_event
from driftwarden.service.workflow.store import Admission, Claim, WorkflowStore
from driftwarden.stream.publisher import build_event

GROUP = "workers"
LEASE_MS = 60_000
NOW = "2026-11-20T09:00:00.000000Z"
SOURCE = "test"

_entries = count(1)


def drift(number: int | str, model: str = "m", environment: str = "production") -> DriftEvent:
    """A drift event."""
    data = {"model": model, "kind": "data_drift", "environment": environment}
    return parse_event(json.dumps(build_event(data, source=SOURCE, id=str(number), time=NOW)))


def report(number: int, model: str = "m") -> DriftEvent:
    """A performance report."""
    data = {"model": model, "environment": "production", "window": {}, "performance": {"current": 0.9}}
    kind = "io.driftwarden.performance.v1"
    return parse_event(json.dumps(build_event(data, source=SOURCE, id=f"p{number}", type=kind, time=NOW)))


def admit(store: WorkflowStore, event: DriftEvent) -> Admission:
    """Admit an event as the next entry of the intake."""
    return store.admit(f"1-{next(_entries)}", event, now=NOW)


def admitted(store: WorkflowStore, number: int, model: str = "m", environment: str = "production") -> str:
    """Admit a drift event; the incident that it opened or joined."""
    return admit(store, drift(number, model, environment)).incident


def claim(store: WorkflowStore, consumer: str = "w") -> Claim:
    """Claim what must be there."""
    found = store.claim(consumer, block_ms=0, lease_ms=LEASE_MS)
    assert found is not None
    return found


def nothing(store: WorkflowStore, consumer: str = "w") -> bool:
    """True where no incident waits."""
    return store.claim(consumer, block_ms=0, lease_ms=LEASE_MS) is None


def step(store: WorkflowStore, held: Claim, state: str = "triaged", disposition: Any = "go", **more: Any) -> Claim:
    """Commit a step."""
    options = {"accepting": True, "doc": held.doc} | more
    return store.commit(held, state=state, disposition=disposition, **options)


def expire(client: Redis, held: Claim) -> None:
    """As if the lease's time had passed without a heartbeat."""
    client.hset(f"driftwarden:wf:{held.incident}", "lease", 0)
    arguments = (GROUP, held.consumer, 0, held.entry, "IDLE", 10**9, "JUSTID")
    client.execute_command("XCLAIM driftwarden:activations", *arguments)


def fields(client: Redis, store: WorkflowStore, incident: str) -> dict[str, str]:
    """An incident's hash."""
    return {name.decode(): value.decode() for name, value in client.hgetall(store.keys.wf(incident)).items()}
