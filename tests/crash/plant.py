"""One service process of the crash matrix: the product's real parts, around scripted agents, measurements and training.

Real: Redis and every script, the audit log, the ledger, approvals and their signatures, the policy, the registry (MLflow
on SQLite), the actions with their moves of the alias, the messages. Everything lies below one folder and in one Redis; a
process that follows another finds what that one left, and nothing else.
"""

import ctypes
import json
import os
import select
import shutil
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

from crash.points import Points, redis_label
from crash.records import Acknowledged
from crash.sink import keep_journal
from fakes.approvers import People
from fakes.workflow_world import POLICY, SEAL, Silent
from mlflow.tracking import MlflowClient

from driftwarden.actions.catalogue import build_actions
from driftwarden.actions.notify import FileNotifier
from driftwarden.actions.registry import KEY_TAG, MlflowRegistry
from driftwarden.actions.state import RedisStateStore
from driftwarden.audit import AuditWriter, Limits
from driftwarden.clock import SystemClock, rfc3339
from driftwarden.contracts.base import ActionName, RootCause
from driftwarden.contracts.effects import Comparison, TrainingRequest, TrainingResult
from driftwarden.contracts.findings import Advice, Candidate, Finding, Plan
from driftwarden.contracts.measurements import MEASURE_TYPES
from driftwarden.contracts.watch import WatchedModel
from driftwarden.policies import load_policy
from driftwarden.service.bootstrap import PolicyHolder
from driftwarden.service.workflow.approvals import Approvals
from driftwarden.service.workflow.floor import AuditFloor, LogTail
from driftwarden.service.workflow.halts import Halts
from driftwarden.service.workflow.ledger import Ledger
from driftwarden.service.workflow.metrics import MetricHistory
from driftwarden.service.workflow.parts import HeldLease, Parts, RealTime
from driftwarden.service.workflow.process import ServiceProcess, bury
from driftwarden.service.workflow.runner import Worker
from driftwarden.service.workflow.store import WorkflowStore
from driftwarden.settings import ServiceSettings, Settings
from driftwarden.stream.client import connect
from driftwarden.stream.intake import Intake
from driftwarden.stream.publisher import build_event

PREFIX = "driftwarden:"
MODELS = ("m", "n")
# So long that no heart beats by itself on a slow machine: a run passes the same points each time. The dead's is ended.
LEASE_S = 3600.0
LATER_S = 10 * 24 * 3600.0  # every timer is due by then
ROUNDS_MAX = 60
LOOK_EVERY_S = 0.02
PR_SET_PDEATHSIG = 1  # of prctl(2)
WAITING = frozenset({"awaiting_approval"})


class StuckError(Exception):
    """Nothing moves any more, and not everything has ended."""


@dataclass(frozen=True)
class Script:
    """What the agents, the sandbox and the labels say, in every process of a run.

    `labels`: a file without which later rows have none yet; `during`: events that come while a version is trained.
    """

    action: ActionName = ActionName.RETRAIN
    params: dict[str, Any] = field(default_factory=dict)
    cause: RootCause = RootCause.CONCEPT_DRIFT
    loss: float = 0.2
    win: float = 0.97
    beats: float = 0.1
    later: float = 0.1
    labels: str | None = None
    during: tuple[str, ...] = ()

    def advise(self, case: Any, knowledge: Any, *, correlation_id: str, incident: str, offline: bool = False) -> Advice:
        """The scripted finding and plan."""
        candidate = Candidate(id="c1", action=self.action, params=self.params, cost_usd=Decimal("1.00"))
        finding = Finding(root_cause=self.cause, confidence=0.9, summary="scripted")
        return Advice(finding=finding, plan=Plan(candidates=(candidate,)), model="scripted")

    def call(
        self, task: str, payload: dict[str, Any], *, timeout_s: float, memory_bytes: int | None = None
    ) -> dict[str, Any]:
        """Measurements, rehearsals, scores and counts, as scripted."""
        if task.endswith(":measure"):
            measures = {name: kind(rows_current=500) for name, kind in MEASURE_TYPES.items()}
            performance = {"labelled_rows": 500, "reference": 0.9, "current": 0.7, "relative_loss": self.loss}
            measures["performance"] = measures["performance"].model_copy(update=performance)
            return {name: measure.model_dump(mode="json") for name, measure in measures.items()}
        if task.endswith(":rehearse"):
            figures = {"status": "rehearsed", "rows": 200, "metric": "accuracy", "win_probability": self.win,
                       "relative_gain": 0.1, "champion_score": 0.7, "candidate_score": 0.8, "detail": "scripted"}  # fmt: skip
            told = [{"candidate": one["id"], **figures} for one in payload["candidates"]]
            return {"rehearsals": told, "holdout": {"row_start": 100, "row_end": 200}}
        if task.endswith(":count_kept_out"):
            return {"rows": 100, "kept_out": 2}
        assert task.endswith(":score"), task
        return {"scores": [{"value": 0.9, "rows": 200} for _ in payload["windows"]]}

    def compare(self, model: WatchedModel, *, champion: int, challenger: int, rows: Any) -> Comparison:
        """Before the effect by the rows held out, after it by those that came since."""
        gain = self.later if rows.start is not None else self.beats
        if rows.start is not None and self.labels and not (Path(rows.paths[0]).parent / self.labels).exists():
            return Comparison(
                metric="accuracy", higher_is_better=True, rows=0, champion=champion, challenger=challenger
            )
        return Comparison(metric="accuracy", higher_is_better=True, rows=500, champion=champion, challenger=challenger,
                          relative_gain=gain, win_probability=0.99 if gain > 0 else 0.01)  # fmt: skip


class RegisteringTrainer:
    """The port `Trainer`: a marked run and a version of its own in the real registry, and no Kedro in between."""

    def __init__(self, uri: str, source: Path, meanwhile: Callable[[], None]) -> None:
        self._uri, self._source, self._meanwhile = uri, str(source), meanwhile

    def train(self, request: TrainingRequest) -> TrainingResult:
        """As the shipped pipeline registers: the version has its key from the call that makes it."""
        client = MlflowClient(tracking_uri=self._uri, registry_uri=self._uri)
        name, tags = request.model.registered_model, {KEY_TAG: request.idempotency_key}
        run = client.create_run("0", tags=tags)
        version = client.create_model_version(name, self._source, run_id=run.info.run_id, tags=tags)
        client.set_terminated(run.info.run_id)
        self._meanwhile()
        return TrainingResult(version=int(version.version), run_id=run.info.run_id, rows=10)


def make_template(folder: Path, models: Sequence[str] = MODELS) -> None:
    """A state folder with the registry of every model, two versions each, the second one champion; the database journals."""
    database = folder / "mlflow" / "mlflow.db"
    database.parent.mkdir(parents=True)
    uri = f"sqlite:///{database}"
    MlflowRegistry(uri, folder / "mlflow" / "artifacts").versions(_watched(folder, models[0]))  # makes the tables
    keep_journal(database)
    client = MlflowClient(tracking_uri=uri, registry_uri=uri)
    for name in models:
        client.create_registered_model(name)
        for _ in range(2):
            client.create_model_version(name, str(folder / "nowhere"))
        client.set_registered_model_alias(name, "champion", "2")
    data = folder / "data"
    data.mkdir()
    for file in ("w.csv", "history.csv"):
        (data / file).write_text("ts,x,y\n2026-01-01T00:00:00Z,1,0\n")


def _watched(folder: Path, name: str) -> WatchedModel:
    data = folder / "data"
    return WatchedModel(name=name, task="classification", target="y", metric="accuracy", time_column="ts",
                        upstream=("table",), data={"history": str(data / "history.csv"), "roots": (str(data),)})  # fmt: skip


class Process:
    """One process over the folder and the Redis that its forerunners left; it ends with its life, or with `close`."""

    def __init__(
        self,
        folder: Path,
        url: str,
        name: str,
        script: Script,
        points: Points,
        *,
        answer: str | None = None,
        shards: int = 1,
        models: Sequence[str] = MODELS,
    ) -> None:
        """`answer`: what people say to whatever they are asked (`approve`, `reject`), None while nobody answers."""
        self.folder, self.name, self.script, self.points, self.answer = folder, name, script, points, answer
        self.data, self._acks = folder / "data", folder / "acknowledged.jsonl"
        watched = {model: _watched(folder, model) for model in models}
        self.settings = Settings(home=folder, conf=folder, audit_dir=folder / "audit", policy_path=folder / "p.yml",
                                 models=watched, service=ServiceSettings(lease_s=LEASE_S))  # fmt: skip
        clock = self._clock = SystemClock()
        self._watch_everything()
        self.client = connect(url)
        self.log = AuditWriter(self.settings.audit_dir, stream=name, clock=clock, limits=Limits(idle_s=None))
        policy = PolicyHolder(load_policy(_policy(), "policy.yml"))
        self.parts = self._parts(clock, policy)
        self.people = People(self.settings, clock)
        self.store = WorkflowStore(
            self.client, prefix=PREFIX, seal=SEAL, fail_point=points.tell, shards=shards,
            upstream_of=self.settings.first_upstream,
        )  # fmt: skip
        self.store.shards.pin()
        self.worker = Worker(self.parts, self.store, f"{name}-w0", fail_point=points.tell)
        self.intake = Intake(self.client, name, prefix=PREFIX, before_burial=bury(self.parts))
        self.service = ServiceProcess(self.parts, self.store, self.intake, name=name, workers=0)

    def _watch_everything(self) -> None:
        from redis import Redis
        from redis.client import Pipeline

        self.points.watch_syncs()
        self.points.around(Redis, "execute_command", redis_label(PREFIX))
        self.points.around(Pipeline, "execute", lambda pipe, *args, **named: _pipeline_label(pipe))
        self.points.around_all(MlflowClient, "mlflow")

    def _parts(self, clock: SystemClock, policy: PolicyHolder) -> Parts:
        settings, client, script = self.settings, self.client, self.script
        registry = MlflowRegistry(settings.tracking_uri, settings.artifact_root)
        state, notifier = RedisStateStore(client, PREFIX, SEAL), FileNotifier(self.folder / "messages.jsonl")
        books = {
            "ledger": Ledger(client, PREFIX, SEAL),
            "approvals": Approvals(client, PREFIX, clock),
            "metrics": MetricHistory(client, PREFIX, SEAL),
        }
        trainer = RegisteringTrainer(settings.tracking_uri, self.folder / "nowhere", self._meanwhile)
        for label, part in {**books, "state": state, "messages": notifier, "training": trainer}.items():
            self.points.around_all(part, label)
        self.points.around(self.log, "append", lambda kind, *args, **named: f"audit.append {kind}")
        actions = build_actions(
            registry=registry, trainer=trainer, comparer=script, sandbox=script, state=state, notifier=notifier,
            lease=HeldLease(), settings=settings, on_step=lambda name: self.points.tell(f"action {name}"),
        )  # fmt: skip
        return Parts(
            settings=settings, clock=clock, decision_clock=RealTime(clock), audit=self.log, policy=policy,
            registry=registry, state=state, actions=actions, floor=AuditFloor(LogTail(settings.audit_dir)),
            halts=Halts(client, PREFIX, self.folder, clock), advisor=script, knowledge=Silent(), sandbox=script,
            comparer=script, notifier=notifier, **books,  # type: ignore[arg-type]
        )  # fmt: skip

    def close(self) -> None:
        """An orderly end."""
        self.log.close()
        self.client.close()

    # What happens: each step may be asked again, by whoever goes on

    def publish(self, id: str, model: str = "m", *, file: str = "w.csv", raw: bytes | None = None, **data: Any) -> None:
        """A drift event, or these bytes, as a producer sends it."""
        self._send(id, self.content(id, model, file=file, **data) if raw is None else raw)

    def content(self, id: str, model: str, *, file: str = "w.csv", **data: Any) -> bytes:
        """The bytes of a drift event."""
        window = {  # after every change that is made here: drift from before one asks for no further action
            "start": "2100-11-20T07:00:00Z",
            "end": "2100-11-20T08:00:00Z",
            "rows": 2,
            "uri": str(self.data / file),
        }
        event = build_event({"model": model, "kind": "data_drift", "window": window} | data, source="crash", id=id)
        return json.dumps(event).encode()

    def report(self, id: str, model: str = "m") -> None:
        """A performance report of rows that came after everything until now."""
        window = {"start": self._moment(), "end": self._moment(1), "rows": 200, "uri": str(self.data / "w.csv")}
        data = {"model": model, "environment": "production", "window": window,
                "performance": {"metric": "accuracy", "current": 0.8}}  # fmt: skip
        event = build_event(data, source="crash", id=id, type="io.driftwarden.performance.v1")
        self._send(id, json.dumps(event).encode())

    def _moment(self, later_s: float = 0.0) -> str:
        return rfc3339(self._clock.now() + timedelta(seconds=later_s))

    def _meanwhile(self) -> None:
        for id in self.script.during:
            self.publish(id)

    def _send(self, id: str, content: bytes) -> None:
        """A producer's XADD, remembered once it is acknowledged."""
        if id in {one["id"] for one in self._told()}:
            return
        entry: Any = self.client.xadd(f"{PREFIX}events", {"event": content})
        line = json.dumps({"id": id, "entry": entry.decode(), "raw": content.decode("latin-1")}).encode() + b"\n"
        with self._acks.open("ab", buffering=0) as file_:
            file_.write(line)
        self.points.tell("producer acknowledged")

    def _told(self) -> list[dict[str, str]]:
        return [json.loads(line) for line in self._acks.read_bytes().splitlines()] if self._acks.exists() else []

    def mend(self, file: str) -> None:
        """A file that was absent is there now."""
        if not (self.data / file).exists():
            shutil.copy(self.data / "w.csv", self.data / file)

    def ask(self, what: Any, by: str = "ada") -> None:
        """A person asks something by hand of the only incident, once."""
        (incident,) = self.store.list()
        heard = any(
            f'"verdict":"{what}_requested"'.encode() in file.read_bytes()
            for file in self.settings.audit_dir.glob("*.jsonl")
        )
        words = self.store.shards.of_incident(incident.id).wf(incident.id, "signals")
        waits = any(b'"why"' in word for word in self.client.hvals(words))
        if not heard and not waits:
            request = self.people.request(incident.id, what, by)
            self.store.wake(incident.id, what, request.model_dump())

    def interrupted(self, place: str) -> None:
        """A worker that is asked to stop when it comes to this place: it hands back what it holds."""
        stop = threading.Event()

        def tell(where: str) -> None:
            self.points.tell(where)
            if where == place:
                stop.set()

        self._take_in()
        worker = Worker(self.parts, self.store, f"{self.name}-w1", fail_point=tell)
        worker._stop = stop
        worker.work_once()

    def rest(self, *, waiting: Iterable[str] = ()) -> None:
        """Work until everything has ended, or stands in one of these states; then no timer is pumped."""
        waiting = frozenset(waiting)
        for _ in range(ROUNDS_MAX):
            busy = self._take_in()
            while self.worker.work_once():
                busy = True
                self._take_in()
            states = {one.state for one in self.store.list() if not one.ended}
            if not busy and states <= waiting and not self._left():
                return
            if not waiting:
                busy = self._say() or busy
                self.store.pump_timers(ahead_s=LATER_S)
        raise StuckError(f"not at rest after {ROUNDS_MAX} rounds: {sorted(states)}, {self._left()} entries are left")

    def _take_in(self) -> bool:
        busy = False
        while deliveries := self.intake.read(10):
            busy = True
            self.service.take(deliveries)
        while self.service.measure_reported():
            busy = True
        return busy

    def _left(self) -> int:
        streams = (self.store.keys.intake, *(keys.activations for keys in self.store.shards.all))
        return sum(int(self.client.xlen(stream)) for stream in streams)

    def _say(self) -> bool:
        """Somebody who was asked answers, and the answer is brought to the incident."""
        waits = [one for one in self.parts.approvals.list() if one.state == "pending"] if self.answer else []
        for one in waits:
            said = self.people.say(one, "bob", verdict=self.answer)  # type: ignore[arg-type]
            if self.answer == "reject":
                self.parts.approvals.refuse(one.id, said)
            else:
                self.parts.approvals.grant(one.id, said)
            self.store.wake(one.incident, "approval")
        return bool(waits)


def _policy() -> str:
    return POLICY.replace("ENFORCEMENT", "enforce").replace("REQUIRED", "1").replace("MODELS", '"*"')


def _pipeline_label(pipe: Any) -> str:
    words = sorted({str(command[0][0]) for command in pipe.command_stack}) or ["nothing"]
    return f"redis MULTI {' '.join(words)}"


def acknowledged(folder: Path) -> tuple[Acknowledged, ...]:
    """What XADD acknowledged in all processes of a run."""
    file = folder / "acknowledged.jsonl"
    lines = file.read_bytes().splitlines() if file.exists() else []
    told = [json.loads(line) for line in lines]
    return tuple(Acknowledged(one["entry"], one["raw"].encode("latin-1")) for one in told)


def run_process(folder: Path, name: str, make: Callable[[], Process], steps: Callable[[Process], None]) -> int:
    """In a process of its own, forked here: the steps from the first one; returns its id."""
    pid = os.fork()
    if pid == 0:
        code = 3
        try:
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL))  # it does not outlive whoever waits for it
            process = make()
            steps(process)
            process.close()
            code = 0
        except BaseException as error:  # noqa: BLE001 - a forked child must not return into its parent's work
            (folder / f"{name}.error").write_text("".join(traceback.format_exception(error)))
        finally:
            os._exit(code)
    return pid


def wait_for(pid: int, meanwhile: Callable[[], None], *, timeout_s: float) -> int | None:
    """The wait status of a child, `meanwhile` called every now and then; None for one that had to be killed."""
    handle, deadline = os.pidfd_open(pid), time.monotonic() + timeout_s
    try:
        while not select.select([handle], [], [], LOOK_EVERY_S)[0]:
            if time.monotonic() > deadline:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
                return None
            meanwhile()
    finally:
        os.close(handle)
    return os.waitpid(pid, 0)[1]
