"""The models that one incident concerns: who they are, how much each is harmed, and what the harm of all comes to.

One cause upstream is investigated once, on the lead's window. No member is dropped for that: whether its event can be
handled, how much it loses on its own window, and what the policy says of it, is asked for each.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any

from driftwarden.clock import rfc3339
from driftwarden.contracts.base import ActionName
from driftwarden.contracts.event import DriftData, DriftEvent
from driftwarden.contracts.findings import Candidate
from driftwarden.contracts.watch import WatchedModel
from driftwarden.errors import BadInput, NotFound
from driftwarden.service.workflow.case import LiveCase
from driftwarden.service.workflow.facts import proven_loss, usd_per_day
from driftwarden.service.workflow.grouping import upstream_of
from driftwarden.service.workflow.incident import Incident, Member
from driftwarden.service.workflow.parts import Parts

log = logging.getLogger(__name__)

# One cause upstream is mended upstream: what is learned from, or chosen on, spoilt rows mends nothing.
GROUP_ACTIONS = frozenset({ActionName.QUARANTINE_DATA, ActionName.NOTIFY, ActionName.NONE})
# Less than this is no harm (agents/remedies.py draws the same line).
LOSS_MIN = 0.005
CANDIDATES_MAX = 6
# What is kept of a member's event; the event itself stands in the audit log.
_KEPT = ("model", "kind", "environment", "window", "reference", "performance", "drift_share", "upstream")

Look = Callable[[Parts, str, DriftEvent], tuple[int | None, str | None]]


def moment_of(event: DriftEvent) -> datetime:
    """What the event is about: the end of its window, else its own time."""
    window = getattr(event.data, "window", None)
    return window.end if window is not None and window.end is not None else event.time


def take_members(parts: Parts, incident: Incident, events: Sequence[DriftEvent], look: Look) -> list[DriftEvent]:
    """Set the incident's members from its events; returns the events that it is about.

    `look` gives a model's champion, and why its event cannot be handled; it may raise Retry. Where the lead's own cannot be,
    the incident ends with that: it is then about the lead's first events alone, and the rest opens the next incident.
    """
    by_model: dict[str, list[DriftEvent]] = {incident.model: []}
    for event in events:
        by_model.setdefault(event.model, []).append(event)
    own = by_model[incident.model] or [events[-1]]
    lead = _member(incident, incident.model, own, *look(parts, incident.model, own[-1]))
    if lead.problem:
        incident.members = [lead]
        first = next((place for place, event in enumerate(events) if event.model != incident.model), len(events))
        return [*events[: max(1, first)]]
    environment = own[-1].data.environment
    others = [
        _known(incident, model, found)
        or _member(incident, model, found, *_looked_at(parts, found[-1], look, environment))
        for model, found in by_model.items()
        if model != incident.model
    ]
    incident.members = [lead, *others]
    return [*events]


def _looked_at(parts: Parts, event: DriftEvent, look: Look, environment: str) -> tuple[int | None, str | None]:
    """As `look`; an incident is about one environment, whatever joined it."""
    if event.data.environment == environment:
        return look(parts, event.model, event)
    wrong = BadInput(
        f"event of `{event.model}`", got=event.data.environment, expected=f"`{environment}`, as its incident"
    )
    return None, wrong.diagnostics()


def _key(event: DriftEvent) -> str:
    return f"{event.source}\n{event.id}"


def _known(incident: Incident, model: str, events: Sequence[DriftEvent]) -> Member | None:
    """The member as it stands, where nothing new came of its model and nothing was wrong with what came."""
    if not incident.events:  # taken in for the first time, or all anew
        return None
    known = next((member for member in incident.members if member.model == model), None)
    return known if known is not None and known.key == _key(events[-1]) and known.problem is None else None


def _member(
    incident: Incident, model: str, events: Sequence[DriftEvent], champion: int | None, problem: str | None
) -> Member:
    newest = events[-1]
    known = _known(incident, model, events)
    data = newest.data.model_dump(mode="json")
    return Member(
        model=model,
        key=_key(newest),
        event={name: data[name] for name in _KEPT if data.get(name) is not None},
        event_time=rfc3339(moment_of(newest)),
        rows_until=max(rfc3339(_middle(event)) for event in events),
        champion=champion,
        problem=problem,
        fault=known.fault if known else None,
        performance=known.performance if known and known.champion == champion else {},
    )


def _middle(event: DriftEvent) -> datetime:
    """The moment by which half of the window's time is over; its end, or the event's time, where no more is told."""
    window = event.data.window if isinstance(event.data, DriftData) else None
    if window is None or window.end is None:
        return event.time
    if window.start is None or window.start > window.end:
        return window.end
    return window.start + (window.end - window.start) / 2


def measure_members(parts: Parts, incident: Incident) -> bool:
    """How much other models lose on their own windows, the dearest first; True where some are left for a further step.

    At most `service.group_measured_max` in one step, so that each has an end. The order is the operators' (what a point costs,
    the share of traffic), so that no producer chooses who comes last.
    """
    bound = parts.settings.service.group_measured_max
    if bound == 0:
        return False
    waiting = [one for one in incident.others if not (one.problem or one.fault or one.performance)]
    for member in sorted(waiting, key=lambda one: _worth(parts, one.model))[:bound]:
        model = parts.settings.watched(member.model)
        case = LiveCase(parts, incident.of(member), model)
        member.performance = case.performance(timeout_s=parts.settings.rehearsal.timeout_s / bound)
        member.fault = case.unreadable
        remember_window(parts, incident.of(member), member.performance)
    return len(waiting) > bound


def _worth(parts: Parts, name: str) -> tuple[Decimal, int, str]:
    model = parts.settings.watched(name)
    return -model.value.usd_per_point, -model.traffic_percent, name


def remember_window(parts: Parts, incident: Incident, performance: dict[str, Any]) -> None:
    """Add the window to its model's history."""
    window = incident.event.get("window") or {}
    parts.metrics.record(
        incident.model,
        {
            "start": window.get("start"),
            "end": incident.event_time,
            "rows": performance.get("rows_current") or window.get("rows"),
            "metric": performance.get("metric") or parts.settings.watched(incident.model).metric,
            "value": performance.get("current"),
            "reference": performance.get("reference"),
            "drift_share": incident.event.get("drift_share"),
            "incident": incident.id,
        },
    )


def group_impact(parts: Parts, incident: Incident) -> dict[str, dict[str, Any]]:
    """The facts `impact` of each member of a group: the worst loss of all, and what all that were measured lose a day.

    One whose own loss is not known (it could not be measured, or nobody measured it) is unknown, as it would be in an incident
    of its own: what others lose allows nothing to be done to it.
    """
    losses = {one.model: proven_loss(one.performance) for one in incident.concerned}
    worst = max((loss for loss in losses.values() if loss is not None), default=None)
    costs = [usd_per_day(one.performance, watched(parts, one.model)) for one in incident.concerned]
    total = sum((cost for cost in costs if cost is not None), Decimal(0)) if any(c is not None for c in costs) else None
    unknown = {"relative_loss": None, "usd_per_day": None}
    known = {"relative_loss": worst, "usd_per_day": total}
    return {model: unknown if loss is None else known for model, loss in losses.items()}


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
    """The candidates; over several models, with `notify` added where none is left that can be done."""
    if not incident.others or any(one.id not in refused for one in candidates):
        return tuple(candidates)
    number = max(int(one.id[1:]) for one in candidates) + 1
    tell = Candidate(
        id=f"c{number}",
        action=ActionName.NOTIFY,
        models_affected=0,
        rationale="One cause upstream of several models: it is mended upstream, by people.",
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
