"""The end of an incident: its last record, and what is remembered of it."""

import logging

from driftwarden.contracts.ports import PastIncident
from driftwarden.errors import Error
from driftwarden.service.workflow.incident import Incident
from driftwarden.service.workflow.parts import SERVICE, HeldLease, Parts

log = logging.getLogger(__name__)


def close(parts: Parts, incident: Incident, version: int) -> None:
    """Write the last record of an incident and hand what was learned to the knowledge base.

    `version` of the stored state that is closed: where the store has gone past it, a slow worker's word is no end.
    """
    finding, candidate = incident.finding, incident.candidate
    HeldLease().require_now()
    incident.audit["close"] = parts.audit.append(
        "close",
        {
            "state": incident.state.value,
            "outcome": incident.outcome,
            "problem": incident.problem,
            "version": version,
        },
        actor=SERVICE,
        incident=incident.id,
        correlation_id=incident.correlation_id,
        causation=incident.audit.get("result") or incident.audit.get("decision"),
    )
    if finding is None or candidate is None:
        return
    comparison = incident.verification.comparison if incident.verification else None
    try:
        parts.knowledge.record_incident(
            PastIncident(
                id=incident.id,
                correlation_id=incident.correlation_id,
                model=incident.model,
                root_cause=finding.root_cause.value,
                columns=finding.columns,
                action=candidate.action.value,
                outcome=incident.outcome or "",
                state=incident.state.value,
                helped=incident.helped,
                relative_gain=comparison.relative_gain if comparison else None,
                summary=finding.summary,
                at=incident.updated_at,
            )
        )
    except Error as error:  # an index can be rebuilt from its records; an incident must not hang on it
        log.warning("knowledge base: %s", error.diagnostics(), extra={"incident": incident.id})
