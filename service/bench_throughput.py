"""`bench throughput`: events a second from XADD on, beside the least that a consumer group can do on the same server.

- triaged: read, validated, and opened, joined, recognised as known, or buried, as `serve` does it
- no-op (`bench_noop`): the real store and workers, every state and commit, and steps that do nothing, not even a record; the
  workers in one process, and in as many as there are cores
- decided: the real intake, store, workers, policy, ledger and audit log (each record on disk before what follows from it),
  but agents, measurements and registry that answer at once
- the whole path (`bench_path`), and memory over a long run of decided workflows (`bench_memory`)

Rounds are interleaved, so that whatever else the machine does falls on all alike; figures are medians, ratios are medians
of each round's ratio.
"""

import json
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from driftwarden.clock import SystemClock, rfc3339
from driftwarden.contracts.base import ActionName
from driftwarden.contracts.watch import WatchedModel
from driftwarden.errors import GiveUp
from driftwarden.service.bench_memory import MODELS
from driftwarden.service.bench_rates import Meter, Rate, rates_document
from driftwarden.service.bench_scripted import POLICY, AtOnce, Forgetful
from driftwarden.settings import Settings
from driftwarden.telemetry import quiet_libraries

if TYPE_CHECKING:
    from redis import Redis

    from driftwarden.audit import AuditWriter
    from driftwarden.service.workflow.parts import Parts

BATCH = 50
STALLED_AFTER_S = 120.0
GROUP = "workers"
PARTS = ("rates", "path", "memory")
EVENTS_PER_ROUND_MAX = 1000
PATH_WORKERS_MAX = 2  # it computes, in one interpreter
GOALS = {"triaged": 2.0, "no_op": 0.3, "per_second_and_core": 30.0, "p50_ms": 250.0}
Say = Callable[[str], None]


class Bench:
    """One Redis server, one folder, one set of events."""

    def __init__(self, client: "Redis", folder: Path, events: int, workers: int, url: str = "") -> None:
        """Each event is of a model of its own, so that each becomes an incident and a decision. `url` of the server, for
        the processes that work on it."""
        self._client: Any = client
        self._url = url
        self._folder, self._events, self._workers = folder, events, workers
        self._rows = folder / "window.csv"
        self._rows.write_text("a,y\n1,0\n", encoding="utf-8")
        self._settings = self._watching()
        self._documents = [self._event(number) for number in range(events)]
        self.triage: dict[str, int] = {}

    def _watching(self) -> Settings:
        document = {
            "task": "classification",
            "target": "y",
            "metric": "accuracy",
            "data": {"roots": [str(self._folder)]},
        }
        models = {
            name: WatchedModel.model_validate(document | {"name": name})
            for name in (f"model-{number}" for number in range(max(self._events, MODELS)))
        }
        from driftwarden.settings import PACKAGED_CONF, load_settings

        environ = {"DRIFTWARDEN_HOME": str(self._folder / "home"), "DRIFTWARDEN_CONF": str(PACKAGED_CONF)}
        return load_settings(environ, cwd=self._folder).model_copy(update={"models": models})

    def _event(self, number: int, identity: str | None = None) -> bytes:
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
        return json.dumps(build_event(data, source="driftwarden/bench", id=f"event-{identity or number}")).encode()

    def bare(self, batch: int) -> Rate:
        """Events a second through XADD, XREADGROUP and XACK, and nothing else."""
        client, stream = self._fresh(), "driftwarden:bare"
        client.xgroup_create(stream, GROUP, id="0", mkstream=True)
        meter, done = Meter(client), 0
        for first in range(0, self._events, batch):
            self._add(stream, first, batch)
            while done < min(first + batch, self._events):
                answer = client.xreadgroup(GROUP, "bare", {stream: ">"}, count=batch)
                ids = [entry for entry, _ in answer[0][1]]
                client.xack(stream, GROUP, *ids)
                done += len(ids)
        return meter.rate(self._events)

    def triaged(self, batch: int) -> Rate:
        """Events a second from XADD until they are opened, joined, recognised or buried, and settled."""
        from driftwarden.service.workflow.store import WorkflowStore
        from driftwarden.stream.intake import Intake

        client, clock, storm = self._fresh(), SystemClock(), self._storm()
        store, intake = WorkflowStore(client), Intake(client, "bench")
        became: Counter[str] = Counter()
        meter = Meter(client)
        for first in range(0, len(storm), batch):
            self._add(store.keys.intake, first, batch, storm)
            while client.xlen(store.keys.intake):
                if deliveries := intake.read(batch):
                    became.update(one.kind for one in store.admit_many(deliveries, now=rfc3339(clock.now())))
        rate = meter.rate(len(storm))
        self.triage = {**became, "dead_letters": client.xlen("driftwarden:dead-letters")}
        return rate

    def _storm(self) -> list[bytes]:
        """Of ten events: two that open an incident, three that join one, four that came before, one that cannot be read."""
        found: list[bytes] = []
        for number in range(0, self._events, 10):
            fresh = [
                self._event(model, f"{number}-{which}")
                for which, model in enumerate([number, number + 1, *[number] * 3])
            ]
            found += [*fresh, *fresh[:4], b'{"specversion": "1.0", "type": "unknown"}']
        return found[: self._events]

    def no_op(self, processes: int) -> Rate:
        """Events a second from XADD to the end of a workflow whose steps do nothing, the workers in so many processes."""
        from driftwarden.service.bench_noop import crew
        from driftwarden.service.workflow.store import WorkflowStore

        client = self._fresh()
        store = WorkflowStore(client, seal=self.seal())
        with crew(self._url, self._folder, events=self._events, workers=self._workers, processes=processes) as hands:
            meter = Meter(client)
            for first in range(0, self._events, BATCH):
                self._add(store.keys.intake, first, BATCH)
            self._wait(store)
            rate = meter.rate(self._events)
            return rate._replace(own_us=rate.own_us + hands.stop() * 1e6 / self._events)

    def decided(self) -> Rate:
        """Events a second from XADD to the end of a workflow with its decision and records, by one process as it serves."""
        with self._serving() as store:
            meter = Meter(self._client)
            for first in range(0, self._events, BATCH):
                self._add(store.keys.intake, first, BATCH)
            self._wait(store)
            return meter.rate(self._events)

    def memory(self, events: int, say: Say) -> dict[str, Any]:
        """As `bench_memory` measures it, over workflows like those of `decided`."""
        from driftwarden.service.bench_memory import measure
        from driftwarden.service.bench_path import event

        with self._serving() as store:
            return measure(self._client, store, event, events, say)

    @contextmanager
    def _serving(self) -> Iterator[Any]:
        """The store that a process of the service works on, with agents, measurements and registry that answer at once."""
        from driftwarden.service.auditing import open_audit
        from driftwarden.service.workflow.process import ServiceProcess
        from driftwarden.service.workflow.store import WorkflowStore
        from driftwarden.stream.intake import Intake

        client = self._fresh()
        store, intake = WorkflowStore(client, seal=self.seal()), Intake(client, "bench")
        with open_audit(self._settings, SystemClock(), role="bench") as audit:
            process = ServiceProcess(self.parts(audit), store, intake, name="bench", workers=self._workers)
            process.start()
            try:
                yield store
            finally:
                process.stop()

    def seal(self) -> Any:
        """Of the state that the service keeps in Redis."""
        from driftwarden.service.state_key import open_seal

        return open_seal(self._settings)

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
            time.sleep(0.01)

    def parts(self, audit: "AuditWriter") -> "Parts":
        """The service around the workers, with agents, measurements and registry that answer at once."""
        from driftwarden.actions.messages import Nothing
        from driftwarden.actions.state import RedisStateStore
        from driftwarden.policies import load_policy
        from driftwarden.service.workflow.approvals import Approvals
        from driftwarden.service.workflow.floor import AuditFloor, LogTail
        from driftwarden.service.workflow.halts import Halts
        from driftwarden.service.workflow.ledger import Ledger
        from driftwarden.service.workflow.metrics import MetricHistory
        from driftwarden.service.workflow.parts import Parts, RealTime
        from driftwarden.testing import CollectedNotifier

        client, clock, prefix, scripted = self._client, SystemClock(), self._settings.redis.prefix, AtOnce()
        policy: Any = load_policy(POLICY, "bench")
        seal = self.seal()
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
            knowledge=Forgetful(),
            sandbox=scripted,
            comparer=answers,
            notifier=CollectedNotifier(),
        )

    def _fresh(self) -> Any:
        self._client.flushdb()  # the bench's own server
        return self._client

    def _add(self, stream: str, first: int, batch: int, storm: list[bytes] | None = None) -> None:
        documents = (self._documents if storm is None else storm)[first : first + batch]
        if batch == 1:
            self._client.xadd(stream, {"event": documents[0]})
            return
        with self._client.pipeline(transaction=False) as pipe:
            for document in documents:
                pipe.xadd(stream, {"event": document})
            pipe.execute()


def run(
    folder: Path,
    *,
    events: int = 300,
    rounds: int = 3,
    workers: int = 8,
    incidents: int = 60,
    one_by_one: int = 21,
    processes: int = 2,
    parts: tuple[str, ...] = PARTS,
    say: Say = lambda text: None,
) -> dict[str, Any]:
    """Measure on embedded servers below `folder`, which is the bench's own; the document of `--json`.

    `events` of a round (at most 1,000) and of the run that memory is measured over, `incidents` and then `one_by_one`
    events through the whole path. `processes`: that the workers of no-op steps are spread over.
    """
    from driftwarden.service.bench_path import ServedPath
    from driftwarden.stream.client import connect
    from driftwarden.stream.embedded import EmbeddedRedis

    quiet_libraries()
    folder.mkdir(parents=True, exist_ok=True)
    document: dict[str, Any] = {"events": events, "rounds": rounds, "batch": BATCH}
    if {"rates", "memory"} & {*parts}:
        with EmbeddedRedis.acquire(folder / "home") as server:
            client = connect(server.url)
            try:
                bench = Bench(client, folder.resolve(), min(events, EVENTS_PER_ROUND_MAX), workers, server.url)
                if "rates" in parts:
                    document |= _rates(bench, rounds, workers, processes, say)
                if "memory" in parts:
                    document["memory"] = bench.memory(events, say)
            finally:
                client.close()
    if "path" in parts:
        home = folder.resolve() / "served"
        with EmbeddedRedis.acquire(home) as server:
            client = connect(server.url)
            try:
                path = ServedPath(client, home, models=incidents, workers=min(workers, PATH_WORKERS_MAX))
                document["path"] = path.measure(incidents=incidents, one_by_one=one_by_one, say=say)
            finally:
                client.close()
    return document | {"goals": goals(document), "load": [round(one, 1) for one in os.getloadavg()]}


def _rates(bench: Bench, rounds: int, workers: int, processes: int, say: Say) -> dict[str, Any]:
    measured: dict[str, Callable[[], Rate]] = {
        "bare_one": lambda: bench.bare(1),
        "triaged_one": lambda: bench.triaged(1),
        "bare_batch": lambda: bench.bare(BATCH),
        "triaged_batch": lambda: bench.triaged(BATCH),
        "no_op_one_process": lambda: bench.no_op(1),
        "no_op": lambda: bench.no_op(processes),
        "decided": bench.decided,
    }
    rates: dict[str, list[Rate]] = {name: [] for name in measured}
    for number in range(rounds):
        say(f"round {number + 1} of {rounds}")
        for name, measure in measured.items():
            rates[name].append(measure())
    return rates_document(rates, bench.triage, workers, min(processes, workers))


def goals(document: dict[str, Any]) -> list[dict[str, Any]]:
    """Each goal beside what was measured, and whether it is reached; None where it was not measured."""

    def goal(name: str, wanted: str, got: Any, reached: bool | None) -> dict[str, Any]:
        return {"name": name, "goal": wanted, "got": got, "reached": reached if got is not None else None}

    def found(part: str, name: str) -> Any:
        return document.get(part, {}).get(name)

    triaged = found("triaged", "batches_share_of_bare_one_at_a_time")
    no_op, path = found("no_op", "share_of_bare_one_at_a_time"), found("path", "per_second_and_core")
    p50, flat = (found("path", "ms_to_decision") or {}).get("p50"), found("memory", "flat")
    return [
        goal("triage", f"at least {GOALS['triaged']:g} of bare", triaged, (triaged or 0) >= GOALS["triaged"]),
        goal("workflow, no-op steps", f"at least {GOALS['no_op']:g} of bare", no_op, (no_op or 0) >= GOALS["no_op"]),
        goal(
            "whole path, incidents a second and core",
            f"at least {GOALS['per_second_and_core']:g}",
            path,
            (path or 0) >= GOALS["per_second_and_core"],
        ),
        goal("p50 to a decision, ms", f"under {GOALS['p50_ms']:g}", p50, (p50 or 0) < GOALS["p50_ms"]),
        goal("memory over the run", "flat", flat, bool(flat)),
    ]
