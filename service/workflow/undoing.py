"""Taking an effect back: planned, decided, reserved and written down like any other effect, then given to its `undo`.

Whoever wants it (a person, or the service where later labels show harm), the policy decides it with fresh facts: under a
halt or in a deny window nothing moves, and people are asked. What comes of it never loses the incident: where it is not
done, the incident stands again where it stood before.
"""

from collections.abc import Collection
from typing import Any

from driftwarden.contracts.base import ActionName
from driftwarden.contracts.effects import EffectResult, Verification
from driftwarden.contracts.findings import Candidate
from driftwarden.errors import Refused
from driftwarden.service.workflow.incident import Incident
from driftwarden.service.workflow.parts import SERVICE, Parts
from driftwarden.service.workflow.stored import load_incident
from driftwarden.service.workflow.transitions import State

VERSION_ACTIONS = frozenset(
    {ActionName.RETRAIN, ActionName.ROLLBACK, ActionName.FALLBACK_MODEL, ActionName.RECALIBRATE}
)
CANDIDATES_MAX = 6

# What an undo puts its own in place of, and what stands again where it is not done.
_REPLACED = (
    "plan",
    "chosen",
    "confidence",
    "facts",
    "decision",
    "outcome",
    "approval",
    "asked",
    "intent",
    "champion_before",
)


def propose(
    parts: Parts, incident: Incident, *, by: str | None, rationale: str, harm: Verification | None = None
) -> None:
    """Make taking the effect back the incident's plan; raises Refused where nothing of it is left to take back.

    `by`: the person who asks, None for the service itself. Confidence is the measured probability that it harmed
    (`harm`); nothing measures a person's wish, so then it is unknown, the policy escalates, and others sign.
    """
    result, plan, intent = incident.result, incident.plan, incident.intent
    if result is None or plan is None or intent is None or not result.changed:
        raise Refused("there is nothing to undo: the incident changed nothing")
    if incident.undone is not None:
        raise Refused("there is nothing to undo: its effect was taken back")
    champion = parts.registry.champion(parts.settings.watched(incident.model))
    action, params = result.action, dict[str, Any](undo=incident.id)
    if action in VERSION_ACTIONS:
        if champion != result.after:
            raise Refused(f"version {result.after} is no longer the champion: version {champion} is")
        action, params = ActionName.ROLLBACK, params | {"to_version": result.before}
    number = (max(int(one.id[1:]) for one in plan.candidates) + 1) % 100  # two digits: after `c99` the first free one
    while any(int(one.id[1:]) == number for one in plan.candidates):
        number += 1
    reach = len(result.undo.get("batches") or ()) or 1
    candidate = Candidate(id=f"c{number}", action=action, params=params, models_affected=reach, rationale=rationale)
    returns = incident.model_dump(mode="json", include={*_REPLACED, "state"})
    incident.undo_of = {
        "request": intent.request,
        "result": result.model_dump(mode="json"),
        "by": by,
        "performance": _loss(harm),
        "returns": returns,
    }
    for name in _REPLACED:
        setattr(incident, name, None)
    incident.plan = plan.model_copy(update={"candidates": (*plan.candidates[: CANDIDATES_MAX - 1], candidate)})
    incident.chosen, incident.champion_before = candidate.id, champion
    win = harm.comparison.win_probability if harm and harm.comparison else None
    incident.confidence = None if win is None else round(1.0 - win, 6)
    incident.attempts = 0


def _loss(harm: Verification | None) -> dict[str, Any]:
    """What the effect cost, as the measurement `performance` has it; empty (unknown) where nothing was measured."""
    found = harm.comparison if harm else None
    if found is None or found.relative_gain is None:
        return {}
    return {
        "relative_loss": min(1.0, max(0.0, -found.relative_gain)),
        "reference": found.champion_score,
        "current": found.challenger_score,
        "higher_is_better": found.higher_is_better,
        "labelled_rows": found.rows,
        "rows_current": found.rows,
    }


def give_back(parts: Parts, incident: Incident, why: str) -> State:
    """It is not taken back: the incident stands again where it stood."""
    assert incident.undo_of is not None
    state = State(incident.undo_of["returns"]["state"])
    _restore(incident)
    incident.note(parts.clock, "result", f"not undone: {why}", SERVICE)
    return state


def settle(incident: Incident, undone: EffectResult) -> State:
    """It is taken back: the incident is again about what it did, and says that it is undone."""
    approval, asked = incident.approval, incident.asked
    _restore(incident)
    incident.undone, incident.attempts = undone, 0
    if approval is not None:  # whom it needed for that stays visible
        incident.approval, incident.asked = approval, asked
    return State.UNDONE


def drop(incident: Incident) -> None:
    """The incident fails while it was to be taken back: it is about what it did, so that people can ask again."""
    if incident.undo_of is not None:
        _restore(incident)


def _restore(incident: Incident) -> None:
    assert incident.undo_of is not None
    earlier = load_incident(incident.to_store() | incident.undo_of["returns"])
    for name in _REPLACED:
        setattr(incident, name, getattr(earlier, name))
    incident.undo_of = None


def narrow(incident: Incident, left: Collection[str]) -> None:
    """A part of an undo stands in the log, and is no longer there to be taken back: the batches of the models `left` are.

    Where none is, it stays as it is: that it is taken back is for the undo itself to say.
    """
    if incident.undo_of is None or incident.result is None:
        return
    batches = incident.result.undo.get("batches") or {}
    rest = {model: batch for model, batch in batches.items() if model in left}
    if rest:
        incident.result = incident.result.model_copy(update={"undo": incident.result.undo | {"batches": rest}})


def left_to_undo(incident: Incident) -> EffectResult:
    """The effect that is to be taken back, as it was proposed and approved, without the part of which a result tells already."""
    assert incident.undo_of is not None
    before = EffectResult.model_validate(incident.undo_of["result"])
    left = incident.result.undo.get("batches") if incident.result is not None else None
    if not left or "batches" not in before.undo:
        return before
    batches = {model: batch for model, batch in before.undo["batches"].items() if model in left}
    return before.model_copy(update={"undo": before.undo | {"batches": batches}})


def leave(parts: Parts, incident: Incident, why: str) -> State:
    """It will not be taken back: where the service wanted it, for harm, people are told, and the incident ends."""
    assert incident.undo_of is not None
    by_hand = incident.undo_of["by"] is not None
    state = give_back(parts, incident, why)
    if by_hand:
        return state
    tell_harm_stands(parts, incident, why)
    return State.RESOLVED


def tell_harm_stands(parts: Parts, incident: Incident, why: str) -> None:
    """An effect harmed and stands: somebody must know."""
    parts.notifier.notify(
        f"harm stands on {incident.model}",
        f"the effect of {incident.id} harmed and was not undone: {why}\n"
        f'driftwarden incidents undo {incident.id} --reason "..."',
        key=f"{incident.id}:harm",
        fields={"incident": incident.id, "correlation_id": incident.correlation_id},
    )
