"""What runs under chaos: service processes as the crash matrix has them, and the world outside that sends, answers and asks.

What the scripted agents, measurements and labels say follows from the seed and what they are asked, in every process alike.
"""

import hashlib
import json
import logging
import signal
import threading
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

from crash.plant import PREFIX, Process, Script
from crash.points import Points
from fakes.workflow_world import POLICY

from driftwarden.clock import SystemClock
from driftwarden.contracts.base import ActionName, RootCause
from driftwarden.contracts.effects import Comparison
from driftwarden.contracts.findings import Advice, Candidate, Finding, Plan
from driftwarden.contracts.measurements import MEASURE_TYPES
from driftwarden.contracts.watch import WatchedModel
from driftwarden.errors import Retry
from driftwarden.policies import load_policy
from driftwarden.service.bootstrap import PolicyHolder
from driftwarden.service.workflow.parts import Parts
from driftwarden.service.workflow.process import ServiceProcess, bury
from driftwarden.settings import ServiceSettings
from driftwarden.stream.intake import Intake

# The first three are fed from one table, the others each from its own.
TOGETHER, ALONE = ("ann", "bea", "cay"), ("dan", "eve", "fay")
MODELS = (*TOGETHER, *ALONE)
SHARDS = 4
LEASE_S = 3.0
CRASHES_MAX = 6
STOP_WITHIN_S = 120.0
REDIS_WAS_AWAY = 75  # exit code of a process that could not begin: whoever watches over it starts another


def share(*words: object) -> float:
    """A number in 0..1 that looks random, the same in every process."""
    text = "\n".join(map(str, words)).encode()
    return int.from_bytes(hashlib.sha256(text).digest()[:8], "big") / 2**64


@dataclass(frozen=True)
class Play(Script):
    """A script that differs from incident to incident."""

    seed: str = "0"

    def advise(self, case: Any, knowledge: Any, *, correlation_id: str, incident: str, offline: bool = False) -> Advice:
        """One remedy; its number says how sure its rehearsal will be."""
        kind = share(self.seed, "action", incident)
        action, cause, params = ActionName.RETRAIN, RootCause.CONCEPT_DRIFT, dict[str, Any]()
        if kind < 0.12:
            action, cause = ActionName.QUARANTINE_DATA, RootCause.STUCK_VALUES
        elif kind < 0.22:
            action, cause = ActionName.REFRESH_REFERENCE, RootCause.COVARIATE_SHIFT
        elif kind < 0.34:
            action, params = ActionName.ROLLBACK, {"to_version": 1}
        sure = int(100 * share(self.seed, "sure", incident))
        candidate = Candidate(id=f"c{sure}", action=action, params=params, cost_usd=Decimal("1.00"))
        finding = Finding(root_cause=cause, confidence=0.9, summary="scripted")
        return Advice(finding=finding, plan=Plan(candidates=(candidate,)), model="scripted")

    def call(
        self, task: str, payload: dict[str, Any], *, timeout_s: float, memory_bytes: int | None = None
    ) -> dict[str, Any]:
        """As the crash matrix's script; some measurements find no harm, and some rehearsals are unsure."""
        told = super().call(task, payload, timeout_s=timeout_s, memory_bytes=memory_bytes)
        if task.endswith(":measure"):
            loss = 0.001 if share(self.seed, "loss", json.dumps(payload, sort_keys=True)) < 0.15 else 0.2
            kind = MEASURE_TYPES["performance"]
            figures = {"labelled_rows": 500, "reference": 0.9, "current": 0.7, "relative_loss": loss}
            told["performance"] = kind(rows_current=500).model_copy(update=figures).model_dump(mode="json")
        if task.endswith(":rehearse"):
            for one in told["rehearsals"]:
                one["win_probability"] = 0.97 if int(one["candidate"][1:]) < 60 else 0.5
        return told

    def compare(self, model: WatchedModel, *, champion: int, challenger: int, rows: Any) -> Comparison:
        """Some challengers lose at once, some do harm on later rows."""
        later = rows.start is not None
        bad = share(self.seed, "later" if later else "now", model.name, challenger) < (0.25 if later else 0.1)
        return Comparison(metric="accuracy", higher_is_better=True, rows=500, champion=champion, challenger=challenger,
                          relative_gain=-0.2 if bad else 0.1, win_probability=0.01 if bad else 0.99)  # fmt: skip


class Plant(Process):
    """A process of the crash matrix with six models over four shards, short leases, and a policy with room for a long run."""

    def __init__(self, folder: Path, url: str, name: str, seed: str, *, lease_s: float = LEASE_S) -> None:
        """Raises Retry where Redis is away."""
        self._lease_s = lease_s
        super().__init__(folder, url, name, Play(seed=seed), Points(wrapping=False), shards=SHARDS, models=MODELS)

    def _parts(self, clock: SystemClock, policy: PolicyHolder) -> Parts:
        del policy
        text = POLICY.replace("ENFORCEMENT", "enforce").replace("REQUIRED", "1").replace("MODELS", '"*"')
        models = {
            name: model if name in TOGETHER else model.model_copy(update={"upstream": (f"table of {name}",)})
            for name, model in self.settings.models.items()
        }
        service = ServiceSettings(lease_s=self._lease_s, crashes_max=CRASHES_MAX)
        self.settings = self.settings.model_copy(update={"models": models, "service": service})
        return super()._parts(clock, PolicyHolder(load_policy(text.replace('"20.00"', '"1000000.00"'), "policy.yml")))

    def _send(self, id: str, content: bytes) -> None:
        """A producer's XADD, remembered once it is acknowledged; not more than once, for nobody knows what became of it."""
        entry = self.client.xadd(f"{PREFIX}events", {"event": content})
        line = json.dumps({"id": id, "entry": entry.decode(), "raw": content.decode("latin-1")}).encode() + b"\n"
        with self._acks.open("ab", buffering=0) as file:
            file.write(line)


def log_to(file: Path) -> None:
    """Everything that this process has to say goes there."""
    logging.disable(logging.NOTSET)
    handler = logging.FileHandler(file)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(threadName)s %(name)s: %(message)s"))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.INFO)


def work(folder: Path, url: str, name: str, seed: str, *, threads: int, lease_s: float) -> int:
    """One service process until it is asked to stop; its exit code."""
    asked = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: asked.set())
    log_to(folder / "logs" / f"{name}.log")
    try:
        plant = Plant(folder, url, name, seed, lease_s=lease_s)
    except Retry:
        return REDIS_WAS_AWAY
    intake = Intake(
        plant.client, name, prefix=PREFIX, before_burial=bury(plant.parts), reclaim_after_ms=int(2000 * lease_s)
    )
    service = ServiceProcess(plant.parts, plant.store, intake, name=name, workers=threads)
    service.start()
    while not asked.wait(0.1) and not service.stopping:
        pass
    stopped = service.stop(STOP_WITHIN_S)
    plant.close()
    if service.fault is not None:
        raise RuntimeError(f"the audit log could not be written: {service.fault}")
    if stopped.threads:
        raise RuntimeError(f"these threads did not end within {STOP_WITHIN_S:g} s: {', '.join(stopped.threads)}")
    return 0
