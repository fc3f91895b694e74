"""The steps of the walk, by the state that each begins in."""

import logging
from collections.abc import Callable

from driftwarden.errors import Away, GiveUp
from driftwarden.service.workflow import acting, arrivals, deciding, understand
from driftwarden.service.workflow.apart import part
from driftwarden.service.workflow.incident import Incident
from driftwarden.service.workflow.members import measure_members
from driftwarden.service.workflow.parts import Parts
from driftwarden.service.workflow.retries import verdict
from driftwarden.service.workflow.store import Claim
from driftwarden.service.workflow.transitions import State

log = logging.getLogger(__name__)

Step = Callable[[Parts, Incident, list[str]], State]


def _triaged(parts: Parts, incident: Incident, raws: list[str]) -> State:
    if len(raws) > len(incident.events):
        arrivals.take_in(parts, incident, raws)
    told = {} if incident.problem else arrivals.weigh_lead(parts, incident, raws)
    if incident.problem:
        return deciding.decide_problem(parts, incident)
    if measure_members(parts, incident, told):
        return State.TRIAGED
    if (about := part(parts, incident, raws)) is not None:
        # Committed as it is now, and the rest with it as the next incident (`runner`): only then is it looked into.
        incident.events = incident.events[:about]
        return arrivals.take_in(parts, incident, raws[:about])
    return understand.investigate(parts, incident, told)


STEPS: dict[State, Step] = {
    State.RECEIVED: arrivals.take_in,
    State.TRIAGED: _triaged,
    State.INVESTIGATED: lambda parts, incident, raws: understand.write_plan(parts, incident),
    State.PLANNED: lambda parts, incident, raws: understand.rehearse(parts, incident),
    State.REHEARSED: lambda parts, incident, raws: deciding.decide_first(parts, incident),
    State.DECIDED: deciding.follow,
    State.AWAITING_APPROVAL: deciding.answer,
    State.APPROVED: lambda parts, incident, raws: deciding.decide_approved(parts, incident),
    State.VERIFYING: lambda parts, incident, raws: acting.verify(parts, incident),
    State.MONITORING: lambda parts, incident, raws: State.CLOSED,
}


def advance(parts: Parts, incident: Incident, claim: Claim, *, resumed: bool) -> State:
    """One step of the walk: the state that follows, after everything that had to be written was written."""
    raws = list(claim.events)
    if incident.state is State.EXECUTING:
        return acting.execute(parts, incident, raws, resumed=resumed)
    step = STEPS.get(incident.state)
    if step is None:
        raise GiveUp(f"incident {incident.id} has ended as `{incident.state}`")
    return step(parts, incident, raws)


def advance_or_tell(parts: Parts, incident: Incident, claim: Claim, *, resumed: bool) -> State:
    """`advance`; where a fault may be the registry's absence, that is what is raised (Away): then it is waited for."""
    try:
        return advance(parts, incident, claim, resumed=resumed)
    except Exception as error:
        if verdict(error) == "retry" and incident.model in parts.settings.models:
            try:
                parts.registry.champion(parts.settings.watched(incident.model))
            except Away as away:
                raise away from error
            except Exception:
                log.debug("the registry answers, and refuses", exc_info=True)
        raise
