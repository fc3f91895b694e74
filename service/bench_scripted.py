"""What the workflows of `bench throughput` are given in place of agents, measurements, registry and steps."""

from typing import Any

from driftwarden.contracts.base import ActionName, RootCause
from driftwarden.contracts.findings import Advice, Candidate, Finding, Plan
from driftwarden.contracts.measurements import MEASURE_TYPES
from driftwarden.contracts.ports import KnowledgeHit, PastIncident
from driftwarden.contracts.watch import WatchedModel
from driftwarden.errors import GiveUp
from driftwarden.service.workflow.transitions import State

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


class AtOnce:
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

    def champion(self, model: WatchedModel, *, informs: bool = False) -> int:
        """Always the first."""
        del model, informs
        return 1


class Forgetful:
    """A knowledge base that finds nothing and keeps nothing: the memory that is measured is the service's."""

    def search(self, text: str, **about: Any) -> tuple[KnowledgeHit, ...]:
        """Nothing."""
        del text, about
        return ()

    def record_incident(self, incident: PastIncident) -> None:
        """Forgotten at once."""
        del incident


class Unwritten:
    """No audit log at all: what a record costs is not the workflow's."""

    def append(self, *about: Any, **more: Any) -> str:
        """The hash of nothing."""
        del about, more
        return "0" * 64


_NEXT = ("received", "triaged", "investigated", "planned", "rehearsed", "decided", "monitoring", "closed")


def does_nothing(parts: Any, incident: Any, claim: Any, *, resumed: bool) -> Any:
    """The state after this one, and that its events were taken in."""
    del parts, resumed
    incident.events = [{} for _ in claim.events]
    return State(_NEXT[_NEXT.index(incident.state.value) + 1])
