"""Putting a model under watch: its entry in `models.yml`, its first champion, and the records that account for both."""

import getpass
import hashlib
import os
from collections.abc import Container
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from driftwarden.clock import Clock
from driftwarden.contracts.data import RowSelection
from driftwarden.contracts.effects import TrainingRequest, TrainingResult
from driftwarden.contracts.ports import Actor, AuditLog, Trainer
from driftwarden.contracts.watch import WatchedModel
from driftwarden.errors import BadInput
from driftwarden.settings import Settings
from driftwarden.strict import load_yaml

if TYPE_CHECKING:
    from driftwarden.actions.registry import MlflowRegistry


class Alone:
    """The lease of someone who sets a model up: no incident can be under way on a model without a champion."""

    def check(self) -> None:
        """Nothing to ask."""


def write_entry(settings: Settings, model: WatchedModel) -> Path:
    """Write the entry to `conf/local/driftwarden/models.yml`, leaving the others as they are; returns the file."""
    folder = settings.conf / "local" / "driftwarden"
    file = folder / "models.yml"
    document: dict[str, Any] = {"models": {}}
    if file.exists():
        found, _ = load_yaml(file.read_text(encoding="utf-8"), where=str(file))
        if isinstance(found, dict) and isinstance(found.get("models"), dict):
            document = found
    document["models"][model.name] = entry_of(model)
    folder.mkdir(parents=True, exist_ok=True)
    made = file.with_suffix(f".{os.getpid()}.tmp")
    made.write_text(
        "# Models under watch (contract: models.yml). Written by `driftwarden models register`; edit as you like.\n"
        + yaml.safe_dump(document, sort_keys=False, allow_unicode=True),
        encoding="utf-8",
    )
    made.replace(file)
    return file


def entry_of(model: WatchedModel) -> dict[str, Any]:
    """The entry as people write it: durations as text, money as quoted decimals, defaults left out."""
    entry: dict[str, Any] = model.model_dump(mode="json", exclude={"name"}, exclude_defaults=True)
    if model.labels.delay.total_seconds():
        entry["labels"]["delay"] = f"{int(model.labels.delay.total_seconds())}s"
    elif "labels" in entry:
        entry["labels"].pop("delay", None)
    return entry


def first_champion(
    model: WatchedModel,
    rows: RowSelection,
    *,
    registry: "MlflowRegistry",
    trainer: Trainer,
    audit: AuditLog,
    clock: Clock,
    watched: Container[str] = (),
) -> TrainingResult:
    """Train the first champion and set the alias; the intent stands in the audit log before, the result after.

    Raises BadInput where the model has a champion already: replacing it is an action, and goes through the policy. Only a
    registration that died before its entry was written (not among `watched`) is finished.
    """
    key = hashlib.sha256(f"register\n{model.name}\n{model.registered_model}".encode()).hexdigest()
    there = registry.champion(model)
    if there is not None and (there != registry.find_by_key(model, key) or model.name in watched):
        raise BadInput(
            f"model `{model.name}` has a champion already",
            got=f"version {there} of `{model.registered_model}`",
            expected="a model without one (an incident's actions replace champions)",
        )
    correlation_id = key[:32]
    actor = Actor(kind="human", id=getpass.getuser())
    intent = audit.append(
        "intent",
        {"action": "register", "model": model.name, "idempotency_key": key, "before": None},
        actor=actor,
        correlation_id=correlation_id,
    )
    result = trainer.train(
        TrainingRequest(
            model=model,
            strategy="all",
            rows=rows,
            idempotency_key=key,
            correlation_id=correlation_id,
            tracking_uri=registry.tracking_uri,
            artifact_root=registry.artifact_root,
        )
    )
    if there is None:
        registry.set_champion(model, result.version, expected=None, lock=Alone())
    audit.append(
        "result",
        {
            "action": "register",
            "model": model.name,
            "idempotency_key": key,
            "changed": True,
            "before": None,
            "after": result.version,
            "detail": f"version {result.version} is the first champion, trained on {result.rows} rows",
        },
        actor=actor,
        correlation_id=correlation_id,
        causation=intent,
    )
    return result
