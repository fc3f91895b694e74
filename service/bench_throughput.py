"""`bench throughput`: events a second from XADD on, beside the least that a consumer group can do on the same server.

The workflows are no-ops: the real intake, store, workers, policy, ledger and audit log (each record on disk before what
follows from it), but agents, measurements and registry that answer at once. Rounds are interleaved, so that whatever else
the machine does falls on all alike; figures are medians, ratios are medians of each round's ratio.
"""

import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from driftwarden.clock import SystemClock, rfc3339
from driftwarden.contracts.base import ActionName, RootCause
from driftwarden.contracts.findings import Advice, Candidate, Finding, Plan
from driftwarden.contracts.measurements import MEASURE_TYPES
from driftwarden.contracts.watch import WatchedModel
from driftwarden.errors import GiveUp
from driftwarden.settings import Settings

if TYPE_CHECKING:
    from redis import Redis

    from driftwarden.audit import AuditWriter
    from driftwarden.service.workflow.parts import Parts

BATCH = 50
STALLED_AFTER_S = 120.0
GROUP = "workers"
Say = Callable[[str], None]

POLICY = """\
apiVersion: driftwarden.io/v1
kind: RemediationPolicy
metadata: {name: bench, revision: "1"}
spec:
  enforcement: enforce
  timeZone: UTC
  tiers:
    - name: standard
      models: ["*"]
      allow: [retrain, notify]
      approvals: {required: 1, from: [ml-oncall], expiresAfter: 24h}
  require:
    - {id: impact, fact: impact.relative_loss, atLeast: "0.02", else: monitor}
    - {id: confidence, fact: plan.confidence, atLeast: "0.80", else: escalate}
"""


class _AtOnce:
    """Agents, measurements and registry that answer at once: no harm, nothing to do."""

    def advise(self, case: Any, knowledge: Any, *, correlation_id: str, incident: str, offline: bool = False) -> Advice:
        """A false alarm."""
        del case, knowledge, correlation_id, incident, offline
        return Advice(
            finding=Finding(root_cause=RootCause.FALSE_ALARM, confidence=0.9, summary="scripted"),
            plan=Plan(candidates=(Candidate(id="c1", action=ActionName.NONE),)),
            model="scripted",
        )

    def call(
        self, task: str, payload: dict[str, Any], *, timeout_s: float, memory_bytes: int | None = None
    ) -> dict[str, Any]:
        """Every measurement made, no loss."""
        del payload, timeout_s, memory_bytes
        if not task.endswith(":measure"):
            raise GiveUp(f"a no-op workflow asks for no {task}")
        measures = {name: kind(rows_current=500) for name, kind in MEASURE_TYPES.items()}
        loss = {"labelled_rows": 500, "reference": 0.9, "current": 0.9, "relative_loss": 0.0, "p_worse": 0.5}
        measures["performance"] = measures["performance"].model_copy(update=loss)
        return {name: measure.model_dump(mode="json") for name, measure in measures.items()}

    def champion(self, model: WatchedModel) -> int:
        """Always the first."""
        del model
        return 1


class Bench:
    """One Redis server, one folder, one set of events."""

    def __init__(self, client: "Redis", folder: Path, events: int, workers: int) -> None:
        """Each event is of a model of its own, so that each becomes an incident and a decision."""
        self._client: Any = client
        self._folder, self._events, self._workers = folder, events, workers
        self._rows = folder / "window.csv"
        self._rows.write_text("a,y\n1,0\n", encoding="utf-8")
        self._settings = self._watching()
        self._documents = [self._event(number) for number in range(events)]

    def _watching(self) -> Settings:
        document = {
            "task": "classification",
            "target": "y",
            "metric": "accuracy",
            "data": {"roots": [str(self._folder)]},
        }
        models = {
            name: WatchedModel.model_validate(document | {"name": name})
            for name in (f"model-{number}" for number in range(self._events))
        }
        from driftwarden.settings import PACKAGED_CONF, load_settings

        environ = {"DRIFTWARDEN_HOME": str(self._folder / "home"), "DRIFTWARDEN_CONF": str(PACKAGED_CONF)}
        return load_settings(environ, cwd=self._folder).model_copy(update={"models": models})

    def _event(self, number: int) -> bytes:
        from driftwarden.stream.publisher import build_event

        window = {
            "start": "2026-01-05T00:00:00Z",
            "end": "2026-01-06T00:00:00Z",
            "rows": 500,
            "uri": str(self._rows),
        }
        columns = [{"name": "a", "type": "numeric", "role": "feature", "method": "ks", "score": 0.001, "drifted": True}]
        data = {
            "model": f"model-{number}",
            "kind": "data_drift",
            "window": window,
            "drift_share": 0.4,
            "columns": columns,
        }
        return json.dumps(build_event(data, source="driftwarden/bench", id=f"event-{number}")).encode()

    def bare(self, batch: int) -> float:
        """Events a second through XADD, XREADGROUP and XACK, and nothing else."""
        client, stream = self._fresh(), "driftwarden:bare"
        client.xgroup_create(stream, GROUP, id="0", mkstream=True)
        begun, done = time.perf_counter(), 0
        for first in range(0, self._events, batch):
            self._add(stream, first, batch)
            while done < min(first + batch, self._events):
                answer = client.xreadgroup(GROUP, "bare", {stream: ">"}, count=batch)
                ids = [entry for entry, _ in answer[0][1]]
                client.xack(stream, GROUP, *ids)
                done += len(ids)
        return self._events / (time.perf_counter() - begun)

    def triaged(self, batch: int) -> float:
        """Events a second from XADD to an incident of the workflow: parsed, recognised, opened, settled."""
        from driftwarden.service.workflow.store import WorkflowStore
        from driftwarden.stream.intake import Intake

        client, clock = self._fresh(), SystemClock()
        store, intake = WorkflowStore(client), Intake(client, "bench")
        begun, done = time.perf_counter(), 0
        for first in range(0, self._events, batch):
            self._add(store.keys.intake, first, batch)
            while done < min(first + batch, self._events):
                done += len(store.admit_many(intake.read(batch), now=rfc3339(clock.now())))
        return self._events / (time.perf_counter() - begun)

    def decided(self) -> float:
        """Events a second from XADD to the end of a no-op workflow, decision included, by one process as it serves."""
        from driftwarden.service.auditing import open_audit
        from driftwarden.service.state_key import open_seal
        from driftwarden.service.workflow.process import ServiceProcess
        from driftwarden.service.workflow.store import WorkflowStore
        from driftwarden.stream.intake import Intake

        client = self._fresh()
        store, intake = WorkflowStore(client, seal=open_seal(self._settings)), Intake(client, "bench")
        with open_audit(self._settings, SystemClock(), role="bench") as audit:
            process = ServiceProcess(self._parts(audit), store, intake, name="bench", workers=self._workers)
            process.start()
            try:
                begun = time.perf_counter()
                for first in range(0, self._events, BATCH):
                    self._add(store.keys.intake, first, BATCH)
                self._wait(store)
                return self._events / (time.perf_counter() - begun)
            finally:
                process.stop()

    def _wait(self, store: Any) -> None:
        deadline, closed = time.monotonic() + STALLED_AFTER_S, -1
        while True:
            counts = store.counts()
            if counts.get("closed", 0) == self._events:
                return
            if counts.get("closed", 0) != closed:
                deadline, closed = time.monotonic() + STALLED_AFTER_S, counts.get("closed", 0)
            if time.monotonic() > deadline:
                raise GiveUp(f"the no-op workflows stand still: {counts}")
            time.sleep(0.002)

    def _parts(self, audit: "AuditWriter") -> "Parts":
        from driftwarden.actions.messages import Nothing
        from driftwarden.actions.state import RedisStateStore
        from driftwarden.policies import load_policy
        from driftwarden.service.state_key import open_seal
        from driftwarden.service.workflow.approvals import Approvals
        from driftwarden.service.workflow.floor import AuditFloor, LogTail
        from driftwarden.service.workflow.halts import Halts
        from driftwarden.service.workflow.ledger import Ledger
        from driftwarden.service.workflow.metrics import MetricHistory
        from driftwarden.service.workflow.parts import Parts, RealTime
        from driftwarden.testing import CollectedNotifier, MemoryKnowledge

        client, clock, prefix, scripted = self._client, SystemClock(), self._settings.redis.prefix, _AtOnce()
        policy: Any = load_policy(POLICY, "bench")
        seal = open_seal(self._settings)
        answers: Any = scripted
        return Parts(
            settings=self._settings,
            clock=clock,
            decision_clock=RealTime(clock),
            audit=audit,
            policy=lambda: policy,
            registry=answers,
            state=RedisStateStore(client, prefix, seal),
            actions={ActionName.NONE: Nothing()},
            ledger=Ledger(client, prefix, seal),
            floor=AuditFloor(LogTail(self._settings.audit_dir)),
            halts=Halts(client, prefix, self._settings.home, clock),
            approvals=Approvals(client, prefix, clock),
            metrics=MetricHistory(client, prefix, seal),
            advisor=scripted,
            knowledge=MemoryKnowledge(),
            sandbox=scripted,
            comparer=answers,
            notifier=CollectedNotifier(),
        )

    def _fresh(self) -> Any:
        self._client.flushdb()  # the bench's own server
        return self._client

    def _add(self, stream: str, first: int, batch: int) -> None:
        documents = self._documents[first : first + batch]
        if batch == 1:
            self._client.xadd(stream, {"event": documents[0]})
            return
        with self._client.pipeline(transaction=False) as pipe:
            for document in documents:
                pipe.xadd(stream, {"event": document})
            pipe.execute()


def run(
    folder: Path, *, events: int = 300, rounds: int = 3, workers: int = 2, say: Say = lambda text: None
) -> dict[str, Any]:
    """Measure on an embedded server below `folder`, which is the bench's own; the document of `--json`."""
    from driftwarden.stream.client import connect
    from driftwarden.stream.embedded import EmbeddedRedis

    folder.mkdir(parents=True, exist_ok=True)
    rates: dict[str, list[float]] = {
        name: [] for name in ("bare_one", "bare_batch", "triaged_one", "triaged_batch", "decided")
    }
    with EmbeddedRedis.acquire(folder / "home") as server:
        client = connect(server.url)
        try:
            bench = Bench(client, folder.resolve(), events, workers)
            for number in range(rounds):
                say(f"round {number + 1} of {rounds}")
                rates["bare_one"].append(bench.bare(1))
                rates["triaged_one"].append(bench.triaged(1))
                rates["bare_batch"].append(bench.bare(BATCH))
                rates["triaged_batch"].append(bench.triaged(BATCH))
                rates["decided"].append(bench.decided())
        finally:
            client.close()
    return _document(rates, events, rounds, workers)


def _document(rates: dict[str, list[float]], events: int, rounds: int, workers: int) -> dict[str, Any]:
    def middle(name: str) -> int:
        return round(statistics.median(rates[name]))

    def ratio(name: str, yardstick: str) -> float:
        return round(statistics.median(a / b for a, b in zip(rates[name], rates[yardstick], strict=True)), 4)

    return {
        "events": events,
        "rounds": rounds,
        "batch": BATCH,
        "bare": {
            "one_at_a_time_per_second": middle("bare_one"),
            "batches_per_second": middle("bare_batch"),
        },
        "triaged": {
            "one_at_a_time_per_second": middle("triaged_one"),
            "batches_per_second": middle("triaged_batch"),
            "share_of_bare_one_at_a_time": ratio("triaged_one", "bare_one"),
            "share_of_bare_batches": ratio("triaged_batch", "bare_batch"),
        },
        "decided": {
            "workers": workers,
            "per_second": middle("decided"),
            "share_of_bare_one_at_a_time": ratio("decided", "bare_one"),
            "share_of_bare_batches": ratio("decided", "bare_batch"),
        },
    }
