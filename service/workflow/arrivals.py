"""What came: the events of an incident, the models that they are about, and the windows that speak for these."""

from collections.abc import Sequence

from driftwarden.clock import rfc3339
from driftwarden.contracts.event import DriftEvent, parse_event
from driftwarden.errors import BadInput, NotFound
from driftwarden.service.workflow.incident import Incident
from driftwarden.service.workflow.members import own_first, take_members
from driftwarden.service.workflow.parts import SERVICE, Parts
from driftwarden.service.workflow.transitions import State
from driftwarden.service.workflow.weighing import problem_of, weigh, windows_by_model
from driftwarden.service.workflow.windows import Told, key_of, moment_of


def take_in(parts: Parts, incident: Incident, raws: list[str]) -> State:
    """received -> triaged: the events that came, the models they are about, and whether their windows can be read."""
    came = [parse_event(raw) for raw in raws]
    # Everything that may have to be tried again comes first: what is noted below was looked at, whatever dies when.
    events = take_members(parts, incident, came, _look)
    lead = incident.members[0]
    for event in events[len(incident.events) :]:
        incident.audit["event"] = parts.audit.append(
            "event",
            {"event": event.raw},
            actor=SERVICE,
            incident=incident.id,
            correlation_id=incident.correlation_id,
        )
        whose = "" if event.model == incident.model else f" of {event.model}"
        incident.note(parts.clock, "event", f"{event.kind}{whose} from {event.source}", SERVICE)
    _let_lead_speak(incident, came)
    incident.champion_before = lead.champion
    for member in incident.members:
        if member.problem:
            whose = "" if member is lead else f" for {member.model}"
            incident.note(parts.clock, "event", f"cannot be handled{whose}: {member.problem}", SERVICE)
    incident.events = [{"source": event.source, "id": event.id, "type": event.type} for event in events]
    return State.TRIAGED


def _let_lead_speak(incident: Incident, events: Sequence[DriftEvent]) -> None:
    """The incident is about the window that speaks for its lead; its time is that of all that the lead's events tell of."""
    lead = incident.members[0]
    own = [event for event in events if event.model == lead.model] or [events[-1]]
    spoken = next((event for event in reversed(own) if key_of(event) == lead.told), own[-1])
    incident.event = spoken.data.model_dump(mode="json")
    incident.environment = spoken.data.environment
    incident.event_time, incident.latest = lead.event_time, max(rfc3339(moment_of(event)) for event in own)
    incident.problem = lead.problem


def _look(parts: Parts, name: str, event: DriftEvent) -> tuple[int | None, str | None]:
    """The champion that the event is about, and why the event cannot be handled (None: it can). Raises Retry."""
    champion = None
    try:
        model = parts.settings.watched(name)
        if model.environment != event.data.environment:
            raise BadInput(
                f"environment of model `{model.name}`", got=event.data.environment, expected=f"`{model.environment}`"
            )
        champion = parts.registry.champion(model, informs=True)
        if champion is None:
            raise NotFound(
                f"model `{model.name}` has no champion",
                got=f"no alias `champion` on `{model.registered_model}`",
                expected="a registered version behind it (driftwarden models register)",
            )
    except BadInput as error:
        return champion, error.diagnostics()
    return champion, problem_of(parts, model, event)


def weigh_lead(parts: Parts, incident: Incident, raws: list[str]) -> dict[str, list[Told]]:
    """Find the window that speaks for the lead (`weighing`), and let it; sets `problem` where none of them can be handled.

    Returns the windows of every model concerned.
    """
    events = [parse_event(raw) for raw in raws[: len(incident.events)]]
    incident.members = incident.concerned
    told = windows_by_model(parts, incident, events)
    lead, bound = incident.members[0], parts.settings.service.windows_measured_max
    timeout_s = parts.settings.rehearsal.timeout_s / bound
    weigh(parts, incident, lead, told[lead.model], budget=bound, timeout_s=timeout_s)
    _let_lead_speak(incident, events)
    if lead.problem:
        # It ends with that, and no other model's events end with it: they open the next incident.
        incident.members, incident.events = [lead], incident.events[: own_first(incident, events)]
        incident.note(parts.clock, "event", f"cannot be handled: {lead.problem}", SERVICE)
    return told
