"""What a step that failed is done again from: the incident as it was before the step."""

from collections.abc import Callable
from functools import partial

from driftwarden.service.workflow.incident import Incident
from driftwarden.service.workflow.store import Claim
from driftwarden.service.workflow.stored import load_incident

Kept = Callable[[], Incident]


def kept_of(claim: Claim, incident: Incident) -> Kept:
    """The incident as it is now, for whoever must go back to it: read from the last commit, or where anything came since from
    what a commit would store, which costs a fraction of a deep copy."""
    if claim.doc and claim.genuine and not claim.signals and claim.state == incident.state:
        return partial(load_incident, claim.doc)
    return partial(load_incident, incident.to_store())


def rewind(incident: Incident, kept: Incident) -> None:
    """Undo what half a step changed: it is done again from its beginning, or told from there."""
    for name in Incident.model_fields:
        setattr(incident, name, getattr(kept, name))


def last_try(incident: Incident) -> str:
    """Why its last try failed, as it was noted then."""
    tries = [line["summary"] for line in incident.timeline if line["summary"].startswith("try ")]
    return tries[-1].partition(": ")[2] if tries else "no reason was noted"
