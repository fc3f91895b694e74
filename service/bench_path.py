"""`bench throughput`, the whole path: `driftwarden serve` in a process of its own, as people run it, with the offline reasoner.

Events have no window, so that neither diagnostics on data nor rehearsal are measured; all else is real: agents, tools,
MLflow (SQLite), knowledge base, the packaged policy, audit records and spans on disk, Redis with `appendfsync always`.
"""

import json
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from driftwarden.errors import GiveUp, shorten

if TYPE_CHECKING:
    pass

STALLED_AFTER_S = 120.0
WARM_UP = 2
ENDED = frozenset({"closed", "failed", "resolved"})
REGISTERED = "bench"
Say = Callable[[str], None]


class ServedPath:
    """A service of its own below `home`, and the events that it is given; `models` of them may have an incident at once."""

    def __init__(self, client: Any, home: Path, *, models: int, workers: int) -> None:
        """`client` of the server that the service below `home` uses, too."""
        from driftwarden.service.workflow.store import WorkflowStore

        self._client, self._home, self._workers = client, home, workers
        self._names = [f"model-{number}" for number in range(models)]
        self._store: WorkflowStore = WorkflowStore(client)
        self._sent = 0

    def prepare(self) -> None:
        """The models' entries, and the one version that all of them have for their champion."""
        from mlflow.tracking import MlflowClient

        from driftwarden.actions.registry import first_open

        entry = {"registered_model": REGISTERED, "task": "classification", "target": "y", "metric": "accuracy"}
        watched = {name: entry | {"data": {"roots": [str(self._home)]}} for name in self._names}
        folder = self._home / "conf" / "local" / "driftwarden"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "models.yml").write_text(yaml.safe_dump({"models": watched}), encoding="utf-8")
        uri = f"sqlite:///{self._home / 'mlflow.db'}"
        with first_open(uri):
            mlflow = MlflowClient(tracking_uri=uri, registry_uri=uri)
            mlflow.create_registered_model(REGISTERED)
            mlflow.create_model_version(REGISTERED, source=str(self._home))
            mlflow.set_registered_model_alias(REGISTERED, "champion", "1")

    @contextmanager
    def serving(self) -> Iterator[subprocess.Popen[bytes]]:
        """`driftwarden serve` for as long as this block lasts."""
        environ = os.environ | {
            "DRIFTWARDEN_HOME": str(self._home),
            "DRIFTWARDEN_CONF": str(self._home / "conf"),
            "MLFLOW_TRACKING_URI": f"sqlite:///{self._home / 'mlflow.db'}",
        }
        command = ["serve", "--workers", str(self._workers), "--log-file", str(self._home / "serve.log")]
        with (self._home / "serve.out").open("wb") as out:
            child = subprocess.Popen(
                [sys.executable, "-m", "driftwarden.service.cli.main", *command], env=environ, stdout=out, stderr=out
            )
            try:
                yield child
            finally:
                child.send_signal(signal.SIGTERM)
                try:
                    child.wait(60)
                except subprocess.TimeoutExpired:
                    child.kill()
                    child.wait()

    def measure(self, *, incidents: int, one_by_one: int, say: Say) -> dict[str, Any]:
        """The figures of one service: incidents for each second of its CPU, and how long a single one takes."""
        self.prepare()
        with self.serving() as child:
            say("the whole path: the service starts")
            moves = self._store.watch("0", block_ms=200)
            self._send(WARM_UP)
            self._await(moves, WARM_UP, ENDED, child)
            rate = self._rate(moves, incidents, child, say)
            say(f"the whole path: {one_by_one} events, one at a time")
            waits = [self._wait_of_one(moves, child) for _ in range(one_by_one)]
            sizes = self._sizes()
        return {"workers": self._workers, **rate, **_spread(waits), "sizes": sizes | self._recorded()}

    def _rate(self, moves: Iterator[Any], incidents: int, child: "subprocess.Popen[bytes]", say: Say) -> dict[str, Any]:
        cpu, redis, begun, done = cpu_s(child.pid), self._redis_cpu_s(), time.perf_counter(), 0
        while done < incidents:
            some = min(len(self._names), incidents - done)
            self._send(some)
            self._await(moves, some, ENDED, child)
            done += some
            say(f"the whole path: {done} of {incidents} incidents")
        wall, spent = time.perf_counter() - begun, None
        if cpu is not None and (now := cpu_s(child.pid)) is not None:
            spent = now - cpu
        return {
            "incidents": incidents,
            "per_second": round(incidents / wall, 2),
            "cpu_ms_per_incident": round(1000 * spent / incidents, 2) if spent else None,
            "per_second_and_core": round(incidents / spent, 2) if spent else None,
            "redis_cpu_ms_per_incident": round(1000 * (self._redis_cpu_s() - redis) / incidents, 2),
        }

    def _wait_of_one(self, moves: Iterator[Any], child: "subprocess.Popen[bytes]") -> float:
        """Seconds from XADD to the commit of the decision, seen from here; the incident's end is waited for, too."""
        begun = time.perf_counter()
        self._send(1)
        self._await(moves, 1, frozenset({"decided"}), child)
        waited = time.perf_counter() - begun
        self._await(moves, 1, ENDED, child)
        return waited

    def _send(self, count: int) -> None:
        with self._client.pipeline(transaction=False) as pipe:
            for _ in range(count):
                name = self._names[self._sent % len(self._names)]
                pipe.xadd(self._store.keys.intake, {"event": event(f"path-{self._sent}", name)})
                self._sent += 1
            pipe.execute()

    def _await(
        self, moves: Iterator[Any], count: int, states: frozenset[str], child: "subprocess.Popen[bytes]"
    ) -> None:
        seen: set[str] = set()
        deadline = time.monotonic() + STALLED_AFTER_S
        while len(seen) < count:
            move = next(moves)
            if move is not None and move.state in states:
                seen.add(move.incident)
                deadline = time.monotonic() + STALLED_AFTER_S
            if child.poll() is not None:
                said = (self._home / "serve.out").read_text(encoding="utf-8", errors="replace").strip().splitlines()
                raise GiveUp(
                    f"`driftwarden serve` ended with {child.returncode}: {shorten(said[-1] if said else '', 300)}"
                )
            if time.monotonic() > deadline:
                raise GiveUp(f"the service stands still: {len(seen)} of {count} incidents got to {sorted(states)}")

    def _redis_cpu_s(self) -> float:
        told = self._client.info("cpu")
        return float(told["used_cpu_sys"]) + float(told["used_cpu_user"])

    def _sizes(self) -> dict[str, Any]:
        """Bytes in Redis of one closed incident, its parts one by one, and of the memory of one event's identity."""
        from driftwarden.service.workflow.store_types import identity_of

        keys, newest = self._store.keys, self._store.list(limit=1)[0].id
        parts = {name or "state": self._bytes(keys.wf(newest, name)) for name in ("", "events", "keys", "signals")}
        return {
            "redis_incident_bytes": sum(parts.values()),
            "redis_incident_parts": parts,
            "redis_identity_bytes": self._bytes(keys.seen(identity_of("driftwarden/bench", f"path-{self._sent - 1}"))),
        }

    def _bytes(self, key: str) -> int:
        return int(self._client.memory_usage(key, samples=0) or 0)

    def _recorded(self) -> dict[str, Any]:
        """What an incident leaves on disk, and what it asks of a language model, over all incidents of this service."""
        audit = list((self._home / "audit").glob("*.jsonl"))
        records = [json.loads(line) for file in audit for line in file.read_text(encoding="utf-8").splitlines()]
        of_incidents = [record for record in records if record["incident"]]
        tokens = [record["body"]["tokens"] for record in records if record["type"] == "finding"]
        traces = list((self._home / "traces").glob("*.jsonl"))
        calls = sum(file.read_text(encoding="utf-8").count('"name":"generate_content') for file in traces)
        return {
            "audit_bytes_per_incident": round(sum(file.stat().st_size for file in audit) / self._sent),
            "audit_records_per_incident": round(len(of_incidents) / self._sent, 2),
            "trace_bytes_per_incident": round(sum(file.stat().st_size for file in traces) / self._sent),
            "model_calls_per_incident": round(calls / self._sent, 2),
            "tokens_read_per_incident": round(statistics.fmean(one["input"] for one in tokens)),
            "tokens_written_per_incident": round(statistics.fmean(one["output"] for one in tokens)),
        }


def event(identity: str, model: str) -> bytes:
    """A drift event without a window."""
    from driftwarden.stream.publisher import build_event

    columns = [{"name": "a", "type": "numeric", "role": "feature", "method": "ks", "score": 0.001, "drifted": True}]
    data = {"model": model, "kind": "data_drift", "drift_share": 0.4, "columns": columns}
    return json.dumps(build_event(data, source="driftwarden/bench", id=identity)).encode()


def cpu_s(pid: int) -> float | None:
    """CPU seconds of a process, all its threads together; None where the system does not say."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    except OSError:
        return None
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _spread(waits: list[float]) -> dict[str, Any]:
    ordered = sorted(waits)
    return {
        "one_at_a_time": len(waits),
        "ms_to_decision": {
            "min": round(1000 * ordered[0], 1),
            "p50": round(1000 * statistics.median(ordered), 1),
            "max": round(1000 * ordered[-1], 1),
        },
    }
