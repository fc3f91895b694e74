"""What later rows or reports said of an effect, settled: for the track record of its action, and in the log once."""

from driftwarden.service.workflow.incident import Incident
from driftwarden.service.workflow.parts import SERVICE, Parts


def settle_measured(parts: Parts, incident: Incident) -> None:
    """Labels have spoken: the track record of this action learns from it."""
    if incident.result is None or incident.helped is None:
        return
    parts.ledger.record_outcome(
        incident.id, model=incident.model, action=incident.result.action.value, helped=incident.helped
    )
    write_settlement(parts, incident, "measured")


def write_settlement(parts: Parts, incident: Incident, basis: str) -> None:
    """Once for each result, basis and answer: whoever takes over after a crash finds it in the log."""
    assert incident.result is not None
    result = incident.audit.get("result")
    if parts.floor.is_settled(incident.id, str(result), basis, incident.helped):
        return
    parts.audit.append(
        "settlement",
        {
            "model": incident.model,
            "action": incident.result.action.value,
            "helped": incident.helped,
            "basis": basis,
            "result": result,
        },
        actor=SERVICE,
        incident=incident.id,
        correlation_id=incident.correlation_id,
        causation=incident.audit.get("verification"),
    )
