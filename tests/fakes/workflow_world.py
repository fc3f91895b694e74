"""The real workflow (store, ledger, approvals, policy, audit log, worker) around a scripted plant, agents and sandbox."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

from driftwarden.audit import AuditWriter
from driftwarden.clock import rfc3339
from driftwarden.contracts.base import ActionName, RootCause
from driftwarden.contracts.effects import ActionRequest, Comparison, EffectResult, Estimate
from driftwarden.contracts.findings import Advice, Candidate, Finding, Plan
from driftwarden.contracts.measurements import MEASURE_TYPES, Measured, MeasurementName
from driftwarden.contracts.watch import WatchedModel
from driftwarden.errors import Refused
from driftwarden.policies import load_policy
from driftwarden.sealing import Seal
from driftwarden.service.bootstrap import PolicyHolder
from driftwarden.service.workflow.approvals import Approvals
from driftwarden.service.workflow.floor import AuditFloor, LogTail
from driftwarden.service.workflow.forgetting import kept_for
from driftwarden.service.workflow.halts import Halts
from driftwarden.service.workflow.incident import Incident
from driftwarden.service.workflow.ledger import Ledger
from driftwarden.service.workflow.metrics import MetricHistory
from driftwarden.service.workflow.parts import HeldLease, Parts, RealTime
from driftwarden.service.workflow.process import ServiceProcess, bury
from driftwarden.service.workflow.runner import Worker
from driftwarden.service.workflow.store import WorkflowStore
from driftwarden.settings import Settings
from driftwarden.stream.intake import Intake
from driftwarden.stream.publisher import build_event

from .approvers import People

PREFIX = "driftwarden:"
SEAL = Seal(b"s" * 32)
START = datetime(2026, 11, 20, 9, 0, tzinfo=UTC)

POLICY = """
apiVersion: driftwarden.io/v1
kind: RemediationPolicy
metadata: {name: tests, revision: "1"}
spec:
  enforcement: ENFORCEMENT
  timeZone: UTC
  tiers:
    - name: standard
      models: [MODELS]
      allow: [retrain, rollback, refresh_reference, quarantine_data, notify]
      approvals: {required: REQUIRED, from: [ml-oncall, risk], expiresAfter: 4h}
  require:
    - {id: impact, fact: impact.relative_loss, atLeast: "0.02", else: monitor}
    - {id: confidence, fact: plan.confidence, atLeast: "0.80", else: escalate}
  limits:
    costUSD: {perDay: "20.00", perModelPerDay: "20.00"}
    concurrency: {perModel: 1, global: 3, else: monitor}
"""


class Crash(BaseException):
    """The process dies here."""


class TestClock:
    """Time that a test moves."""

    __test__ = False

    def __init__(self) -> None:
        self.moment = START

    def now(self) -> datetime:
        """The moment that was set."""
        return self.moment

    def advance(self, **span: float) -> None:
        """Let time pass."""
        self.moment += timedelta(**span)


@dataclass
class Plant:
    """The outside world with its effects: it outlives every crash of the service."""

    champions: dict[str, int] = field(default_factory=dict)
    versions: dict[str, list[str]] = field(default_factory=dict)
    moves: list[tuple[str, int, int, str]] = field(default_factory=list)
    done: dict[str, EffectResult] = field(default_factory=dict)
    die_at: Callable[[str], None] = lambda where: None

    def champion(self, model: WatchedModel, *, informs: bool = False) -> int | None:
        """Version in force."""
        del informs
        return self.champions.get(model.name)

    def challenger(self, model: WatchedModel) -> int | None:
        """Nobody asks."""
        return None

    def versions_of(self, model: str) -> list[str]:
        """Keys of the versions trained, in order."""
        return self.versions.setdefault(model, [])

    def find_by_key(self, model: WatchedModel, idempotency_key: str) -> int | None:
        """As the registry answers."""
        keys = self.versions_of(model.name)
        return keys.index(idempotency_key) + 2 if idempotency_key in keys else None


class PlantReader:
    """The port `RegistryReader` over the plant."""

    def __init__(self, plant: Plant) -> None:
        self._plant = plant
        self.champion, self.challenger, self.find_by_key = plant.champion, plant.challenger, plant.find_by_key

    def versions(self, model: WatchedModel, limit: int = 10) -> list[dict[str, Any]]:
        """Only numbers."""
        return [{"version": number + 2} for number in range(len(self._plant.versions_of(model.name)))][-limit:]


class ScriptedAction:
    """Trains (retrain only) and moves the champion, in steps between which the process may die."""

    def __init__(self, name: ActionName, plant: Plant, cost: str) -> None:
        self.name, self.plant, self.cost = name, plant, Decimal(cost)
        self.refuse: str | None = None
        self.data: dict[str, Any] = {}

    def estimate(self, request: ActionRequest) -> Estimate:
        """The scripted cost."""
        return Estimate(cost_usd=self.cost)

    def precheck(self, request: ActionRequest) -> None:
        """Refused where the test says so."""
        if self.refuse:
            raise Refused(self.refuse)

    def lookup(self, request: ActionRequest) -> EffectResult | None:
        """What stands in the sink under this key."""
        return self.plant.done.get(request.idempotency_key)

    def execute(self, request: ActionRequest) -> EffectResult:
        """Once for each key."""
        key, name, plant = request.idempotency_key, request.model.name, self.plant
        HeldLease().check()
        plant.die_at("effect:begin")
        if key in plant.done:
            return plant.done[key].model_copy(update={"replayed": True})
        before = after = None
        if self.name in {ActionName.RETRAIN, ActionName.ROLLBACK}:
            before = plant.champions[name]
            if self.name is ActionName.ROLLBACK:
                after = int(request.candidate.params["to_version"])
            elif key not in plant.versions_of(name):
                plant.versions_of(name).append(key)
            after = after or plant.versions_of(name).index(key) + 2
            plant.die_at("effect:trained")
            HeldLease().check()
            plant.champions[name] = after
            plant.moves.append((name, before, after, key))
        result = EffectResult(action=self.name, idempotency_key=key, changed=True, before=before, after=after,
                              cost_usd=self.cost, detail=f"{self.name} done", data=self.data)  # fmt: skip
        plant.done[key] = result
        plant.die_at("effect:moved")
        return result

    def undo(self, request: ActionRequest, result: EffectResult) -> EffectResult:
        """Back to the champion before."""
        HeldLease().check()
        key, name = f"{request.idempotency_key}:undo", request.model.name
        if key in self.plant.done:
            return self.plant.done[key]
        if result.after is not None and self.plant.champions[name] != result.after:
            raise Refused("the champion is another one by now")
        if result.before is not None and result.after is not None:
            self.plant.champions[name] = result.before
            self.plant.moves.append((name, result.after, result.before, key))
        undone = EffectResult(action=self.name, idempotency_key=key, changed=True, before=result.after,
                              after=result.before, detail="taken back")  # fmt: skip
        self.plant.done[key] = undone
        return undone


@dataclass
class Script:
    """What the agents, the sandbox and the labels say."""

    candidates: tuple[Candidate, ...] = (Candidate(id="c1", action=ActionName.RETRAIN, cost_usd=Decimal("5.00")),)
    root_cause: RootCause = RootCause.CONCEPT_DRIFT
    confidence: float = 0.9
    claimed: float | None = None
    loss: float | None = 0.2
    win: float | None = 0.97
    score: float | None = 0.9
    gain: float | None = None
    gain_win: float | None = None
    advised: int = 0
    model_calls: int = 0
    losses: dict[str, float | None] = field(default_factory=dict)
    rows: dict[str, int] = field(default_factory=dict)
    bases: dict[str, str] = field(default_factory=dict)
    measured_models: list[str] = field(default_factory=list)
    measured: dict[MeasurementName, Measured] = field(default_factory=dict)
    on_advise: Callable[[], object] = lambda: None
    labels_in: str = ""

    def advise(self, case: Any, knowledge: Any, *, correlation_id: str, incident: str, offline: bool = False) -> Advice:
        """The scripted finding and plan; `model_calls` are those that a language model would have cost."""
        self.advised += 1
        self.model_calls += not offline
        self.on_advise()
        return Advice(
            finding=Finding(root_cause=self.root_cause, confidence=self.confidence, summary="scripted"),
            plan=Plan(candidates=self.candidates, claimed_confidence=self.claimed),
            model="scripted",
        )

    def call(
        self, task: str, payload: dict[str, Any], *, timeout_s: float, memory_bytes: int | None = None
    ) -> dict[str, Any]:
        """Measurements, rehearsals and scores, as scripted."""
        if task.endswith(":measure"):
            name = payload["model"]["name"]
            self.measured_models.append(name)
            loss, rows = self.losses.get(name, self.loss), self.rows.get(name, 500)
            measures = {name: kind(rows_current=rows) for name, kind in MEASURE_TYPES.items()}
            performance = {"labelled_rows": rows, "reference": 0.9, "current": 0.7, "relative_loss": loss,
                           "basis": self.bases.get(name, "none")}  # fmt: skip
            measures["performance"] = measures["performance"].model_copy(update=performance)
            measures |= self.measured
            return {name: measure.model_dump(mode="json") for name, measure in measures.items()}
        if task.endswith(":rehearse"):
            told = [
                {"candidate": one["id"], "status": "rehearsed" if self.win is not None else "failed", "rows": 200,
                 "metric": "accuracy", "win_probability": self.win, "relative_gain": 0.1, "champion_score": 0.7,
                 "candidate_score": 0.8, "detail": "scripted"}
                for one in payload["candidates"]
            ]  # fmt: skip
            return {"rehearsals": told, "holdout": {"row_start": 100, "row_end": 200}}
        assert task.endswith(":score"), task
        return {"scores": [{"value": self.score, "rows": 200} for _ in payload["windows"]]}

    def compare(self, model: WatchedModel, *, champion: int, challenger: int, rows: Any) -> Comparison:
        """How the version that an effect left does on later rows; none yet where `gain` is None."""
        return Comparison(
            metric="accuracy",
            higher_is_better=True,
            rows=500 if self.gain is not None and any(self.labels_in in path for path in rows.paths) else 0,
            champion=champion,
            challenger=challenger,
            relative_gain=self.gain,
            win_probability=self.gain_win,
        )


class Silent:
    """Knowledge base and notifier that remember what they were told."""

    def __init__(self) -> None:
        self.incidents: list[Any] = []
        self.messages: dict[str, str] = {}

    def search(self, text: str, **about: Any) -> tuple[Any, ...]:
        """Nothing."""
        return ()

    def record_incident(self, incident: Any) -> None:
        """Kept."""
        self.incidents.append(incident)

    def notify(self, subject: str, body: str, *, key: str, fields: dict[str, Any]) -> None:
        """Kept, once a key."""
        self.messages.setdefault(key, f"{subject}\n{body}")


class Chain:
    """An audit log in memory, for simulations in which every record's fsync would cost too much."""

    def __init__(self, clock: TestClock) -> None:
        self._clock = clock
        self.records: list[dict[str, Any]] = []

    def append(self, type: str, body: dict[str, Any], *, actor: Any, incident: str | None = None,
               correlation_id: str | None = None, causation: str | None = None) -> str:  # fmt: skip
        """Keep one record; its hash is its number."""
        self.records.append({"@hash": f"{len(self.records):064x}", "type": type, "body": json.loads(json.dumps(body)),
                             "incident": incident, "causation": causation})  # fmt: skip
        return str(self.records[-1]["@hash"])

    def tail(self) -> Callable[[], list[dict[str, Any]]]:
        """What was appended since the last look, from the beginning on."""
        seen = [0]

        def new() -> list[dict[str, Any]]:
            found = self.records[seen[0] :]
            seen[0] = len(self.records)
            return found

        return new


class World:
    """One service and its surroundings; `restart` is a new process over what the old one left."""

    def __init__(
        self,
        folder: Path,
        client: Any,
        *,
        models: tuple[str, ...] = ("m",),
        memory_log: bool = False,
        upstream: tuple[str, ...] = (),
        shards: int = 1,
    ) -> None:
        self.folder, self.client, self.clock = folder, client, TestClock()
        self.plant, self.script, self.silent = Plant(), Script(), Silent()
        self.data = folder / "data"
        self.data.mkdir()
        for name in ("w.csv", "history.csv"):
            (self.data / name).write_text("x,y\n1,0\n2,1\n")
        watched = {
            name: WatchedModel(name=name, task="classification", target="y", metric="accuracy", time_column="ts", upstream=upstream,
                               data={"history": str(self.data / "history.csv"), "roots": (str(self.data),)})  # type: ignore[arg-type]
            for name in models
        }  # fmt: skip
        self.plant.champions.update(dict.fromkeys(models, 1))
        self.settings = Settings(home=folder, conf=folder, audit_dir=folder / "audit", policy_path=folder / "p.yml",
                                 models=watched)  # fmt: skip
        self.policy = PolicyHolder(load_policy(self.policy_text(), "policy.yml"))
        self.log: Any = Chain(self.clock) if memory_log else self._writer()
        self.store = WorkflowStore(client, prefix=PREFIX, shards=shards, seal=SEAL)
        self.actions = {
            name: ScriptedAction(name, self.plant, "5.00" if name is ActionName.RETRAIN else "0.00")
            for name in (ActionName.RETRAIN, ActionName.ROLLBACK, ActionName.QUARANTINE_DATA,
                         ActionName.REFRESH_REFERENCE, ActionName.NOTIFY, ActionName.NONE)
        }  # fmt: skip
        self.parts = self._parts()
        self.people = People(self.settings, self.clock)
        self._sent = 0

    @staticmethod
    def policy_text(*, enforcement: str = "enforce", required: int = 1, models: str = '"*"') -> str:
        """The policy of these tests."""
        text = POLICY.replace("ENFORCEMENT", enforcement).replace("REQUIRED", str(required))
        return text.replace("[MODELS]", f"[{models}]")

    def govern(self, **terms: Any) -> None:
        """Put another policy in force."""
        self.policy.replace(load_policy(self.policy_text(**terms), "policy.yml"))

    def _writer(self) -> AuditWriter:
        return AuditWriter(self.settings.audit_dir, stream="test", clock=self.clock)

    def _parts(self) -> Parts:
        from driftwarden.actions.state import RedisStateStore

        return Parts(
            settings=self.settings, clock=self.clock, decision_clock=RealTime(self.clock), audit=self.log,
            policy=self.policy, registry=PlantReader(self.plant), state=RedisStateStore(self.client, PREFIX, SEAL),
            actions=self.actions, ledger=Ledger(self.client, PREFIX, SEAL),  # type: ignore[arg-type]
            floor=self._floor(),
            halts=Halts(self.client, PREFIX, self.folder, self.clock),
            approvals=Approvals(self.client, PREFIX, self.clock), metrics=MetricHistory(self.client, PREFIX, SEAL),
            advisor=self.script, knowledge=self.silent, sandbox=self.script, comparer=self.script, notifier=self.silent,
        )  # fmt: skip

    def _floor(self) -> AuditFloor:
        kept, tail = kept_for(self.settings.service), LogTail(self.settings.audit_dir)
        if isinstance(self.log, Chain):
            return AuditFloor(self.log.tail(), kept=kept, clock=self.clock)
        return AuditFloor(tail, kept=kept, look_back=tail.closings, clock=self.clock)

    # What happens

    def event(self, model: str = "m", *, id: str | None = None, **data: Any) -> dict[str, Any]:
        """A drift event of a window that has just begun: after every change until now."""
        self._sent += 1
        end = self.clock.moment + timedelta(seconds=1 + self._sent % 60)
        window = {"start": rfc3339(self.clock.moment), "end": rfc3339(end), "rows": 2, "uri": str(self.data / "w.csv")}
        body = {"model": model, "kind": "data_drift", "window": window} | data
        return build_event(body, source="test", id=id or f"e{self._sent}", time="2026-11-20T08:30:00Z")

    def send(self, event: dict[str, Any] | bytes | None = None) -> None:
        """A bare XADD."""
        raw = event if isinstance(event, bytes) else json.dumps(event or self.event())
        self.client.xadd(f"{PREFIX}events", {"event": raw})

    def report(
        self, *, uri: str | None, value: float = 0.8, end: str | None = None, model: str = "m", source: str = "test"
    ) -> None:
        """A performance report, by default of a window that ends after every change until now."""
        self._sent += 1
        end = end or rfc3339(self.clock.moment + timedelta(minutes=4))
        window = {"end": end, "rows": 200} | ({"uri": uri} if uri else {})
        data = {"model": model, "environment": "production", "window": window,
                "performance": {"metric": "accuracy", "current": value}}  # fmt: skip
        self.send(build_event(data, source=source, id=f"r{self._sent}", type="io.driftwarden.performance.v1", time=end))

    def worker(self, name: str = "w0", fail_point: Callable[[str], None] | None = None) -> Worker:
        """A worker of this world."""
        return Worker(self.parts, self.store, name, fail_point=fail_point)

    def take_in(self) -> None:
        """Admit everything that waits."""
        intake = Intake(self.client, "i0", prefix=PREFIX, before_burial=bury(self.parts), reclaim_after_ms=0)
        process = ServiceProcess(self.parts, self.store, intake, name="p", workers=0)
        while deliveries := intake.read(10):
            for delivery in deliveries:
                process.admit(delivery.entry_id, delivery.event)
        while process.measure_reported():
            pass

    def run(self, worker: Worker | None = None) -> None:
        """Take in and work until nothing is left to do now."""
        worker = worker or self.worker()
        self.take_in()
        while worker.work_once():
            self.take_in()

    def restart_with(self, fail_point: Callable[[str], None]) -> None:
        """A new process that is told where its walk stands."""
        self.free_leases()
        self.run(self.worker(fail_point=fail_point))

    def restart(self) -> None:
        """Every lease has run out, and a new process begins."""
        self.free_leases()
        self.run()

    def free_leases(self) -> None:
        """Every lease has run out."""
        for keys in self.store.shards.all:
            for key in self.client.scan_iter(keys.wf("*")):
                if self.client.type(key) == b"hash" and key.count(b":") == keys.prefix.count(":") + 1:
                    self.client.hset(key, "lease", 0)
        self.store.sweep_soon()

    def later(self, **span: float) -> None:
        """Time passes, and timers with it."""
        self.clock.advance(**span)
        self.store.pump_timers(ahead_s=timedelta(**span).total_seconds())
        self.run()

    # What is there

    def incidents(self) -> list[Incident]:
        """Every incident, oldest first."""
        from driftwarden.service.cli.render import incident_of

        return [incident_of(record) for record in reversed(self.store.list(limit=1000))]

    def only(self) -> Incident:
        """The one incident."""
        (one,) = self.incidents()
        return one

    def approve(self, by: str = "ada", **more: Any) -> None:
        """Sign the incident's pending request, and wake it."""
        request = self.pending()
        self.parts.approvals.grant(request.id, self.people.say(request, by, **more))
        self.store.wake(request.incident, "approval")

    def reject(self, by: str = "bob", **more: Any) -> None:
        """Refuse it, signed, and wake the incident."""
        request = self.pending()
        self.parts.approvals.refuse(request.id, self.people.say(request, by, verdict="reject", **more))
        self.store.wake(request.incident, "approval")

    def pending(self) -> Any:
        """The one request that waits."""
        (one,) = [request for request in self.parts.approvals.list() if request.state == "pending"]
        return one

    def ask(self, what: Any, by: str = "ada", **more: Any) -> None:
        """A person asks something, signed, of the only incident."""
        request = self.people.request(self.only().id, what, by, **more)
        self.store.wake(request.incident, what, request.model_dump())

    def records(self, type: str | None = None) -> list[dict[str, Any]]:
        """Records of the audit log, in order."""
        if isinstance(self.log, Chain):
            found = self.log.records
        else:
            files = sorted(self.settings.audit_dir.glob("*.jsonl"))
            found = [json.loads(line) for file in files for line in file.read_bytes().splitlines()]
        return [one for one in found if type is None or one["type"] == type]
