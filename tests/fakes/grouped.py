"""Worlds of several models that are fed from one table: the real workflow and the real quarantine, a scripted plant."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from driftwarden.actions.quarantine import QuarantineData
from driftwarden.contracts.base import ActionName, RootCause
from driftwarden.contracts.findings import Candidate
from driftwarden.policies import load_policy
from driftwarden.service.workflow.parts import HeldLease

from .workflow_world import Crash, World

MODELS = ("a", "b", "c")
COLUMNS = [{"name": "x", "type": "numeric", "role": "feature", "drifted": True}]
CANDIDATES = tuple(
    Candidate(id=f"c{number}", action=action, params=params)
    for number, (action, params) in enumerate(
        [(ActionName.RETRAIN, {}), (ActionName.QUARANTINE_DATA, {}), (ActionName.NOTIFY, {})], start=1
    )
)
NONE = Candidate(id="c1", action=ActionName.NONE)


class Counting:
    """Stands in for the sandbox of the action: how many rows would be kept out."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []

    def call(self, task: str, payload: dict[str, Any], **limits: Any) -> dict[str, Any]:
        """A tenth of the rows, of each."""
        self.asked.append(payload)
        one = {"rows": 100, "kept_out": 10}
        return {"each": [one for _ in payload["each"]]} if "each" in payload else one


def grouped(new_world: Callable[..., World], models: tuple[str, ...] = MODELS, **values: Any) -> World:
    """A world of models fed from one table, with the real quarantine."""
    world = new_world(models=models, **{"upstream": ("sensors",)} | values)
    parts: Any = type("Parts", (), {"state": world.parts.state, "lease": HeldLease(), "sandbox": Counting(),
                                    "settings": world.settings, "on_step": staticmethod(lambda name: None)})  # fmt: skip
    world.actions[ActionName.QUARANTINE_DATA] = QuarantineData(parts)  # type: ignore[assignment]
    world.script.candidates, world.script.root_cause = CANDIDATES, RootCause.MISSING_VALUES
    return world


def drift(world: Any, model: str, **data: Any) -> None:
    """Drift of the column that the broken table feeds, on the model's own window."""
    (world.data / f"{model}.csv").write_text("x,y\n1,0\n2,1\n")
    event = world.event(model, columns=COLUMNS, **data)
    event["data"]["window"].setdefault("uri", "")
    if event["data"]["window"]["uri"].endswith("w.csv"):
        event["data"]["window"]["uri"] = str(world.data / f"{model}.csv")
    world.send(event)


def kept_out(world: Any) -> dict[str, list[str]]:
    """Files in quarantine, by model."""
    found = {model: world.parts.state.quarantined(model).values() for model in world.settings.models}
    return {
        model: [Path(record["uri"] or record["start"]).name for record in records]
        for model, records in found.items()
        if records
    }


def loose(world: Any, extra: str = "", **changes: str) -> None:
    """A policy in force with another tier before the usual one."""
    text = world.policy_text()
    for old, fresh in changes.items():
        text = text.replace(old, fresh)
    world.policy.replace(load_policy(text.replace("  tiers:\n", f"  tiers:\n{extra}"), "policy.yml"))


def die_after(world: Any, steps: int) -> None:
    """The process dies once so many windows are kept out."""
    seen: list[str] = []

    def die(name: str) -> None:
        seen.append(name)
        if len(seen) == steps:
            raise Crash

    world.actions[ActionName.QUARANTINE_DATA]._parts.on_step = staticmethod(die)


def always(world: Any, place: int, error: BaseException) -> None:
    """Whoever does it fails after so many windows, every time."""
    action, seen = world.actions[ActionName.QUARANTINE_DATA], []
    execute, undo = action.execute, action.undo

    def step(name: str) -> None:
        seen.append(name)
        if len(seen) == place:
            raise error

    def anew(call: Any) -> Any:
        def begin(*args: Any) -> Any:
            seen.clear()
            return call(*args)

        return begin

    action.execute, action.undo = anew(execute), anew(undo)
    action._parts.on_step = staticmethod(step)


def halves(world: Any) -> str:
    """What is to be said of an effect that two of three models had."""
    a, b, c = (f"{model} (`{world.data / model}.csv`)" for model in MODELS)
    return f"done: {a}, {b}; not done: {c}"


def well(world: Any) -> None:
    """Nothing fails any more."""
    world.actions[ActionName.QUARANTINE_DATA]._parts.on_step = staticmethod(lambda name: None)
