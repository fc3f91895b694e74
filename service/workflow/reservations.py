"""What incidents reserved in the ledger that ended before a worker could say what came of it."""

from driftwarden.contracts.ports import Actor
from driftwarden.errors import NotFound
from driftwarden.service.workflow.intents import not_done_body
from driftwarden.service.workflow.parts import Parts
from driftwarden.service.workflow.store import WorkflowStore

TIMERS = Actor(kind="timer", id="driftwarden")


def free_reservations(parts: Parts, store: WorkflowStore) -> list[str]:
    """Settle, as failed, what incidents reserved that ended without a worker's word (a crash loop); returns them."""
    freed = []
    for incident in parts.ledger.running():
        try:
            record = store.get(incident)
        except NotFound:
            continue
        if not record.ended:
            continue
        for intent in parts.floor.open_intents(incident):
            parts.audit.append(
                "result",
                not_done_body(None, str(record.reason), undo=False, failed=True),
                actor=TIMERS,
                incident=incident,
                correlation_id=record.correlation_id,
                causation=intent,
            )
        parts.ledger.abandon(incident)
        parts.audit.append(
            "close",
            {"state": record.state, "outcome": record.doc.get("outcome"), "problem": record.reason},
            actor=TIMERS,
            incident=incident,
            correlation_id=record.correlation_id,
        )
        freed.append(incident)
    return freed
