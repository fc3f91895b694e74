"""Requests for effects: which rows, which window, under which idempotency key."""

import hashlib
from typing import Any

from driftwarden.contracts.base import ActionName
from driftwarden.contracts.data import RowSelection
from driftwarden.contracts.effects import ActionRequest
from driftwarden.contracts.findings import Candidate
from driftwarden.contracts.watch import WatchedModel
from driftwarden.errors import BadInput
from driftwarden.service.workflow.incident import Incident
from driftwarden.service.workflow.parts import Parts
from driftwarden.service.workflow.rows import ModelRows
from driftwarden.strict import canonical_json, plain


def idempotency_key(incident: Incident, candidate: Candidate) -> str:
    """64 hex digits from what the effect is, never from a counter: the same effect has the same key after any crash.

    The champion is part of it: against another champion, the same action is another effect.
    """
    effect = {
        "incident": incident.id,
        "champion": incident.champion_before,
        "action": candidate.action.value,
        "params": plain(candidate.params),
    }
    return hashlib.sha256(canonical_json(effect)).hexdigest()


def build_request(parts: Parts, incident: Incident, model: WatchedModel, candidate: Candidate) -> ActionRequest:
    """The request of one candidate's effect; training rows only where rows are learned from, or kept from it."""
    now = parts.now_for(incident)
    window: dict[str, Any] = incident.event.get("window") or {}
    training = evaluation = None
    if candidate.action in {ActionName.RETRAIN, ActionName.QUARANTINE_DATA}:
        rows = ModelRows(parts.settings, model, parts.quarantined(model.name))
        try:
            training = rows.known(now, window.get("uri"))
        except BadInput:
            training = None  # the action's own precheck says what is missing
        if training is not None and candidate.action is ActionName.RETRAIN:
            training, evaluation = _split(training, incident)
    return ActionRequest(
        incident=incident.id,
        correlation_id=incident.correlation_id,
        idempotency_key=idempotency_key(incident, candidate),
        model=model,
        candidate=candidate,
        champion_version=incident.champion_before,
        now=now,
        window_uri=window.get("uri"),
        window_start=window.get("start"),
        window_end=window.get("end"),
        training_rows=training,
        evaluation_rows=evaluation,
    )


def _split(known: RowSelection, incident: Incident) -> tuple[RowSelection, RowSelection]:
    """Rows to train on and rows to compare on: those the rehearsal held out, by position, as of the rehearsal.

    Before the rehearsal only that there are both is asked; any position serves for that.
    """
    holdout = incident.rehearsal_notes.get("holdout") or {"row_start": 1, "row_end": None}
    as_of = known.narrowed(row_end=holdout["row_end"])
    return as_of, as_of.narrowed(row_start=holdout["row_start"])
