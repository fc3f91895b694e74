"""What a run of the matrix goes through: small stories, each with the ends that it may have, whoever is killed."""

from collections.abc import Callable
from dataclasses import dataclass, field

from crash.plant import WAITING, Process, Script

from driftwarden.contracts.base import ActionName, RootCause

Steps = Callable[[Process], None]


@dataclass(frozen=True)
class Scenario:
    """`steps` are asked again from the first one by whoever goes on; `ends`: how the incidents end, `champion` of `m` then."""

    name: str
    steps: Steps
    ends: tuple[str, ...]
    champion: int = 2
    script: Script = field(default_factory=Script)
    answer: str | None = None
    shards: int = 1


def _one_event(process: Process) -> None:
    process.publish("e1")
    process.rest()


def _joined(process: Process) -> None:
    """Two events before anybody works; one more while people are asked: it is weighed too."""
    process.publish("e1")
    process.publish("e2")
    process.rest(waiting=WAITING)
    process.publish("e3")
    process.rest()


def _buried(process: Process) -> None:
    process.publish("bad", raw=b"\xff{")
    process.publish("e1")
    process.rest()


def _retried(process: Process) -> None:
    process.publish("e1", file="late.csv")
    process.rest()
    process.mend("late.csv")
    process.ask("retry")
    process.rest()


def _taken_back(process: Process) -> None:
    process.publish("e1")
    process.rest()
    process.ask("undo")
    process.rest()


def _two_models(process: Process) -> None:
    process.publish("e1", "m")
    process.publish("e2", "n")
    process.publish("e1", "m")
    process.rest()


def _one_upstream(process: Process) -> None:
    """Two models over one broken table: one incident."""
    columns = [{"name": "x", "role": "feature", "drifted": True, "score": 0.9, "threshold": 0.1}]
    process.publish("e1", "m", columns=columns)
    process.publish("e2", "n", columns=columns)
    process.rest()


def _measured_later(process: Process) -> None:
    """No labels yet after the effect; a performance report brings them, twice."""
    process.publish("e1")
    process.rest(waiting=("verifying",))
    process.mend("labels.csv")
    process.report("r1")
    process.rest(waiting=("verifying",))
    process.rest()


def _handed_back(process: Process) -> None:
    process.publish("e1")
    process.interrupted("committed:rehearsed")
    process.rest()


QUARANTINE, REFRESH = ActionName.QUARANTINE_DATA, ActionName.REFRESH_REFERENCE
UNSURE = Script(win=0.5)

SCENARIOS = (
    Scenario("verified", _one_event, ("resolved",), champion=4),
    Scenario("undone", _one_event, ("undone",), script=Script(later=-0.2)),
    Scenario("lost", _one_event, ("resolved",), script=Script(beats=-0.1)),
    Scenario("approved", _one_event, ("resolved",), champion=4, script=UNSURE, answer="approve"),
    Scenario("rejected", _one_event, ("rejected",), script=UNSURE, answer="reject"),
    Scenario("monitored", _one_event, ("closed",), script=Script(loss=0.001)),
    Scenario("joined", _joined, ("resolved",), champion=4, script=UNSURE, answer="approve"),
    Scenario("dead-letter", _buried, ("closed",), script=Script(loss=0.001)),
    Scenario("retried", _retried, ("resolved",), champion=4),
    Scenario("taken-back", _taken_back, ("undone",), answer="approve"),
    Scenario("rolled-back", _one_event, ("resolved",), champion=1, script=Script(action=ActionName.ROLLBACK,
                                                                                params={"to_version": 1})),
    Scenario("quarantined", _one_event, ("resolved",), script=Script(action=QUARANTINE, cause=RootCause.STUCK_VALUES)),
    Scenario("refreshed", _one_event, ("resolved",), script=Script(action=REFRESH, cause=RootCause.COVARIATE_SHIFT)),
    Scenario("two-models", _two_models, ("resolved", "resolved"), champion=4, shards=8),
    Scenario("one-upstream", _one_upstream, ("resolved",), shards=8),
    Scenario("followed", _one_event, ("resolved", "resolved"), champion=6, script=Script(during=("e2",))),
    Scenario("measured-later", _measured_later, ("resolved",), champion=4, script=Script(labels="labels.csv")),
    Scenario("handed-back", _handed_back, ("resolved",), champion=4),
)  # fmt: skip

BY_NAME = {one.name: one for one in SCENARIOS}
