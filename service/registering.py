"""Putting a model under watch: its entry in `models.yml`, its first champion, and the records that account for both."""

import getpass
import hashlib
import os
import re
import warnings
from collections.abc import Container
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from driftwarden.clock import Clock
from driftwarden.contracts.data import RowSelection
from driftwarden.contracts.effects import TrainingRequest, TrainingResult
from driftwarden.contracts.ports import Actor, AuditLog, Trainer
from driftwarden.contracts.watch import WatchedModel
from driftwarden.errors import BadInput, Error
from driftwarden.settings import Settings
from driftwarden.strict import load_yaml
from driftwarden.tables import read_rows

if TYPE_CHECKING:
    from driftwarden.actions.registry import MlflowRegistry


# The scorers of scikit-learn that compare numbers; every other one compares classes.
NUMBER_SCORERS = re.compile(r"r2|explained_variance|d2_absolute_error_score|neg_(max|mean|median|root)_\w+")


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


def check_metric(metric: str, task: str) -> None:
    """Raise BadInput where there is no such scorer, or it is not one of this task."""
    from driftwarden.pipelines.diagnostics.metrics import scorer_name

    try:
        of_numbers = NUMBER_SCORERS.fullmatch(scorer_name(metric)) is not None
    except ValueError:
        raise BadInput("metric", got=metric, expected="a scikit-learn scorer, like accuracy or r2") from None
    if of_numbers != (task == "regression"):
        fitting = "r2 or neg_mean_absolute_error" if task == "regression" else "accuracy or roc_auc"
        raise BadInput(f"metric of a {task}", got=metric, expected=f"one that fits, like {fitting}")


def check_rows(model: WatchedModel, rows: RowSelection, *, where: str) -> None:
    """Raise BadInput where no first champion of this task and metric can be trained on these rows; `where` names the file."""
    import numpy as np

    from driftwarden.pipelines.diagnostics.metrics import Predictions
    from driftwarden.pipelines.estimator import truth
    from driftwarden.pipelines.scoring import metric_of

    check_metric(model.metric, model.task)
    target = truth(read_rows(rows)[model.target], model.task)
    if model.task == "regression":
        target = target[np.isfinite(target)]
    classes = np.unique(target)
    if not len(target):
        raise BadInput("rows to train on", got="no labelled row", expected=f"values of `{model.target}`", where=where)
    if model.task == "classification" and len(classes) < 2:
        got = f"{len(target)} labelled rows of one class, {classes[0]}"
        raise BadInput("rows to train on", got=got, expected="two classes (--train-rows N)", where=where)
    chances = np.full(len(target), 0.5) if model.task == "classification" and len(classes) == 2 else None
    with warnings.catch_warnings():  # of scores that are not defined on so few rows
        warnings.simplefilter("ignore")
        metric_of(model.metric, model.task, target, Predictions(target, chances))


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
    # What allows it is the word of whoever registers the model: it has no champion yet that anything could happen to.
    allowed = audit.append(
        "approval",
        {"verdict": "registration_requested", "by": actor.id, "model": model.name},
        actor=actor,
        correlation_id=correlation_id,
    )
    intent = audit.append(
        "intent",
        {"action": "register", "model": model.name, "idempotency_key": key, "before": None},
        actor=actor,
        correlation_id=correlation_id,
        causation=allowed,
    )

    def tell(after: int | None, detail: str) -> None:
        audit.append(
            "result",
            {
                "action": "register",
                "model": model.name,
                "idempotency_key": key,
                "changed": after is not None,
                "before": None,
                "after": after,
                "detail": detail,
            },
            actor=actor,
            correlation_id=correlation_id,
            causation=intent,
        )

    try:
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
    except Error as error:
        tell(None, error.diagnostics())
        raise
    if there is None:
        registry.set_champion(model, result.version, expected=None, lock=Alone())
    tell(result.version, f"version {result.version} is the first champion, trained on {result.rows} rows")
    return result
