"""Which of the models that came together belong together: that is measured, and not for whoever named them first to say.

Over several models no model is changed, and the lead's window speaks for the cause. So a lead that loses nothing would silence
those that do, and a harmless model beside one that loses would keep it from being mended. They part: who does not measurably
lose goes apart from those that do, and a model that is the only one to lose goes on alone.
"""

from collections.abc import Sequence

from driftwarden.contracts.event import parse_event
from driftwarden.service.workflow.case import LiveCase
from driftwarden.service.workflow.incident import Incident
from driftwarden.service.workflow.members import harmed, named
from driftwarden.service.workflow.parts import SERVICE, Parts
from driftwarden.service.workflow.windows import OWN_BASIS


def part(parts: Parts, incident: Incident, raws: Sequence[str]) -> int | None:
    """How many of its first events the incident is about, where the rest belongs into the next one; None: it is about all.

    `raws` are all of its events; what the other models lose was measured, as far as it is going to be. Measures the lead, where
    nobody has; raises Away.
    """
    if not incident.others:
        return None
    lead = incident.members[0]
    if not lead.performance:
        timeout_s = parts.settings.rehearsal.timeout_s
        lead.performance = LiveCase(parts, incident, parts.settings.watched(lead.model)).performance(
            timeout_s=timeout_s
        )
    losing = _losing(incident)
    beside = losing - {lead.model}
    if not losing or (lead.model in losing and beside):
        return None
    models = [parse_event(raw).model for raw in raws]
    if beside:
        first, why = next(place for place, model in enumerate(models) if model in beside), f"{lead.model} does not"
    else:
        first, why = next(place for place, model in enumerate(models) if model != lead.model), f"only {lead.model} does"
    rest = [*dict.fromkeys(models[first:])]
    told = f"as far as is known, {named(sorted(losing))} lose, {why}: {named(rest)} go on in another incident"
    incident.note(parts.clock, "event", told, SERVICE)
    return first


def _losing(incident: Incident) -> set[str]:
    """Names of those that measurably lose; where that was measured of none, of those that are reported to."""
    told = set(harmed(incident))
    own = {one.model for one in incident.members if one.performance.get("basis") in OWN_BASIS}
    return told & own or told
