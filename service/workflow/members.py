"""The models that one incident concerns: who they are, how much each is harmed, and what the harm of all comes to.

One cause upstream is investigated once, on the lead's window. No member is dropped for that: whether its event can be
handled, how much it loses on its own window, and what the policy says of it, is asked for each.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from functools import partial
from typing import Any

from driftwarden.contracts.base import ActionName
from driftwarden.contracts.event import DriftEvent
from driftwarden.contracts.findings import Candidate
from driftwarden.contracts.watch import WatchedModel
from driftwarden.errors import BadInput, NotFound
from driftwarden.service.workflow.facts import proven_loss, usd_per_day
from driftwarden.service.workflow.grouping import upstream_of
from driftwarden.service.workflow.incident import Incident, Member
from driftwarden.service.workflow.parts import Parts
from driftwarden.service.workflow.weighing import by_model, let_speak, problem_of, told_unknown, weigh
from driftwarden.service.workflow.windows import LOSS_MIN, Told, key_of

log = logging.getLogger(__name__)

# One cause upstream is mended upstream: what is learned from, or chosen on, spoilt rows mends nothing.
GROUP_ACTIONS = frozenset({ActionName.QUARANTINE_DATA, ActionName.NOTIFY, ActionName.NONE})
CANDIDATES_MAX = 6
UNKNOWN_IMPACT: dict[str, Any] = {"relative_loss": None, "usd_per_day": None}

Look = Callable[[Parts, str, DriftEvent], tuple[int | None, str | None]]


def take_members(parts: Parts, incident: Incident, events: Sequence[DriftEvent], look: Look) -> list[DriftEvent]:
    """Set the incident's members from its events; returns the events that it is about.

    `look` gives a model's champion, and why its event cannot be handled; it may raise Retry. Where none of the lead's own can be,
    the incident ends with that: it is then about the lead's first events alone, and the rest opens the next incident.
    """
    told = by_model(events)
    own = told.get(incident.model) or [events[-1]]
    lead = _member(parts, incident, incident.model, own, look)
    if lead.problem:
        incident.members = [lead]
        return [*events[: own_first(incident, events)]]
    look_here = partial(_looked_at, look, str(lead.event.get("environment")))
    others = [
        _known(incident, model, found) or _member(parts, incident, model, found, look_here)
        for model, found in told.items()
        if model != incident.model
    ]
    incident.members = [lead, *others]
    return [*events]


def own_first(incident: Incident, events: Sequence[DriftEvent]) -> int:
    """How many events an incident is about whose lead cannot be handled: the lead's first ones, at least one."""
    return max(1, next((place for place, event in enumerate(events) if event.model != incident.model), len(events)))


def _looked_at(
    look: Look, environment: str, parts: Parts, name: str, event: DriftEvent
) -> tuple[int | None, str | None]:
    """As `look`; an incident is about one environment, whatever joined it."""
    if event.data.environment == environment:
        return look(parts, name, event)
    wrong = BadInput(f"event of `{name}`", got=event.data.environment, expected=f"`{environment}`, as its incident")
    return None, wrong.diagnostics()


def _known(incident: Incident, model: str, events: Sequence[DriftEvent]) -> Member | None:
    """The member as it stands, where nothing new came of its model and nothing was wrong with what came."""
    if not incident.events:  # taken in for the first time, or all anew
        return None
    known = next((member for member in incident.members if member.model == model), None)
    return known if known is not None and known.key == key_of(events[-1]) and known.problem is None else None


def _member(parts: Parts, incident: Incident, model: str, events: Sequence[DriftEvent], look: Look) -> Member:
    """A member with its newest event that can be handled, until its windows are weighed."""
    event, champion, problem = _handled(parts, model, events, look)
    known = next((one for one in incident.members if one.model == model), None) if incident.events else None
    same = known if known is not None and known.champion == champion else None
    member = Member(
        model=model,
        key=key_of(events[-1]),
        champion=champion,
        problem=problem,
        seen=same.seen if same else [],
    )
    let_speak(member, event)
    if same is not None and (member.key, member.told) == (same.key, same.told):
        member.fault, member.performance = same.fault, same.performance
    return member


def _handled(
    parts: Parts, model: str, events: Sequence[DriftEvent], look: Look
) -> tuple[DriftEvent, int | None, str | None]:
    """The newest event that can be handled, with what `look` says of it; the newest of all where none can be."""
    champion, problem = look(parts, model, events[-1])
    seen = watched(parts, model)
    if problem is None or seen is None:
        return events[-1], champion, problem
    for event in reversed(events[:-1]):
        if problem_of(parts, seen, event) is None:
            earlier = look(parts, model, event)
            return (event, *earlier) if earlier[1] is None else (events[-1], champion, problem)
    return events[-1], champion, problem


def measure_members(parts: Parts, incident: Incident, told: Mapping[str, Sequence[Told]]) -> bool:
    """How much other models lose on their own windows, the dearest first; True where some are left for a further step.

    At most `service.group_measured_max` windows in one step, so that each has an end. The order is the operators' (what a point
    costs, the share of traffic), so that no producer chooses who comes last. `told`: the windows of each model.
    """
    bound = parts.settings.service.group_measured_max
    if bound == 0:
        return False
    left, timeout_s = bound, parts.settings.rehearsal.timeout_s / bound
    waiting = [one for one in incident.others if not (one.problem or one.fault or one.performance)]
    for member in sorted(waiting, key=lambda one: _worth(parts, one.model)):
        own = told[member.model]
        rest = weigh(parts, incident, member, own, budget=left, timeout_s=timeout_s, alone_too=True)
        if rest is None:
            return True
        left = rest
    return False


def _worth(parts: Parts, name: str) -> tuple[Decimal, int, str]:
    model = parts.settings.watched(name)
    return -model.value.usd_per_point, -model.traffic_percent, name


def group_impact(parts: Parts, incident: Incident) -> dict[str, dict[str, Any]]:
    """The facts `impact` of each member of a group: the worst loss of all, and what all that were measured lose a day.

    One whose own loss is not known (it could not be measured, or nobody measured it) is unknown, as it would be in an incident
    of its own: what others lose allows nothing to be done to it.
    """
    losses = {one.model: proven_loss(one.performance) for one in incident.concerned}
    worst = max((loss for loss in losses.values() if loss is not None), default=None)
    costs = [usd_per_day(one.performance, watched(parts, one.model)) for one in incident.concerned]
    total = sum((cost for cost in costs if cost is not None), Decimal(0)) if any(c is not None for c in costs) else None
    known = {"relative_loss": worst, "usd_per_day": total}
    return {model: UNKNOWN_IMPACT if loss is None else known for model, loss in losses.items()}


def harmed(incident: Incident) -> list[str]:
    """Models that measurably lose, the worst first."""
    losses = {one.model: proven_loss(one.performance) or 0.0 for one in incident.concerned}
    return sorted((name for name, loss in losses.items() if loss > LOSS_MIN), key=lambda name: (-losses[name], name))


def refused_over_many(incident: Incident, candidate: Candidate) -> str | None:
    """Why a candidate is out of the question where one cause upstream moved several models; None: it is not."""
    if not incident.others or "undo" in candidate.params:
        return None
    if candidate.action not in GROUP_ACTIONS:
        return f"one upstream cause over {len(incident.models)} models: no model is changed for it"
    if candidate.action is not ActionName.NONE or incident.over:
        return None
    losing = [name for name in harmed(incident) if name != incident.model]
    unknown = [one.model for one in incident.others if proven_loss(one.performance) is None]
    told = [f"{named(losing)} measurably lose"] if losing else []
    told += [f"what {named(unknown)} lose is not known"] if unknown else []
    return f"{'; '.join(told)}: somebody must know" if told else None


def tell_at_least(
    incident: Incident, candidates: Sequence[Candidate], refused: Mapping[str, str]
) -> tuple[Candidate, ...]:
    """The candidates, with `notify` added over several models, or unknown windows, where none is left that can be done."""
    unknown = next((told_unknown(one) for one in incident.concerned if one.unknown), None)
    if any(one.id not in refused for one in candidates) or not (incident.others or unknown):
        return tuple(candidates)
    number = max(int(one.id[1:]) for one in candidates) + 1
    upstream = "One cause upstream of several models: it is mended upstream, by people."
    tell = Candidate(
        id=f"c{number}",
        action=ActionName.NOTIFY,
        models_affected=0,
        rationale=upstream if incident.others else str(unknown),
    )
    return (*candidates[: CANDIDATES_MAX - 1], tell)


def shared_upstream(parts: Parts, incident: Incident) -> tuple[str, ...]:
    """Data sets that every model concerned is fed from."""
    found: list[tuple[str, ...]] = []
    for member in incident.concerned:
        model = watched(parts, member.model)
        found.append(upstream_of(member.event, model)[1] if model is not None else ())
    return tuple(name for name in found[0] if all(name in names for names in found))


def watched(parts: Parts, name: str) -> WatchedModel | None:
    """The watched model, or None where it is not one any more."""
    try:
        return parts.settings.watched(name)
    except NotFound:
        return None


def named(models: Sequence[str], shown: int = 5) -> str:
    """A few names, and how many more there are."""
    more = f" and {len(models) - shown} more" if len(models) > shown else ""
    return ", ".join(models[:shown]) + more
