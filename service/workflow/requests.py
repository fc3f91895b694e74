"""Requests for effects: which rows, which window, under which idempotency key."""

import hashlib
from typing import Any

from driftwarden.contracts.base import ActionName
from driftwarden.contracts.data import RowSelection
from driftwarden.contracts.effects import ActionRequest
from driftwarden.contracts.findings import Candidate
from driftwarden.contracts.watch import WatchedModel
from driftwarden.errors import BadInput
from driftwarden.service.workflow.incident import Incident, Member
from driftwarden.service.workflow.parts import Parts
from driftwarden.service.workflow.rows import ModelRows
from driftwarden.strict import canonical_json, plain


def idempotency_key(incident: Incident, candidate: Candidate) -> str:
    """64 hex digits from what the effect is, never from a counter: the same effect has the same key after any crash.

    The champion is part of it: against another champion, the same action is another effect. So are the models concerned and
    their windows, where they are several.
    """
    effect: dict[str, Any] = {
        "incident": incident.id,
        "champion": incident.champion_before,
        "action": candidate.action.value,
        "params": plain(candidate.params),
    }
    if incident.others:
        effect |= {
            "model": incident.model,
            "members": plain([[one.model, one.champion, one.event.get("window")] for one in incident.members]),
        }
    return hashlib.sha256(canonical_json(effect)).hexdigest()


def build_request(parts: Parts, incident: Incident, model: WatchedModel, candidate: Candidate) -> ActionRequest:
    """The request of one candidate's effect; training rows only where rows are learned from, or kept from it.

    Over several models, data are kept out of each: the others' requests are `members` of the lead's. One whose event cannot be
    handled, or names no window, is left out, and one that is spared (`judging`).
    """
    request = _build(parts, incident, model, candidate)
    if not incident.others:
        return request
    members: tuple[ActionRequest, ...] = ()
    if candidate.action is ActionName.QUARANTINE_DATA:
        members = tuple(
            _build(parts, incident.of(one), parts.settings.watched(one.model), _of_member(candidate, one))
            for one in incident.others
            if one.problem is None and not one.spared and _is_window(one, parts.settings.watched(one.model))
        )
    return request.model_copy(update={"models": tuple(incident.models), "members": members})


def _is_window(member: Member, model: WatchedModel) -> bool:
    window = member.event.get("window") or {}
    timed = window.get("start") and window.get("end") and model.time_column is not None
    return bool(window.get("uri") or timed)


def _of_member(candidate: Candidate, member: Member) -> Candidate:
    """The candidate on the member's own window."""
    window = member.event.get("window") or {}
    own = {name: window[name] for name in ("uri", "start", "end") if window.get(name) is not None}
    kept = {name: value for name, value in candidate.params.items() if name not in {"uri", "start", "end"}}
    return candidate.model_copy(update={"params": kept | own})


def _build(parts: Parts, incident: Incident, model: WatchedModel, candidate: Candidate) -> ActionRequest:
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
