"""What incidents left behind that ended: reserved in the ledger before a worker could say what came of it, or asked in vain.

A crash loop ends an incident in the store, and leaves it a word by which a worker takes it up once more and books what was done
of its effect (`acting.give_up`). While any word waits that worker has the say: nothing is written here, or the log would have
said already that nobody knows. Where the last word killed its workers too, none is left, and nobody will take it up: then it is
settled here. What was done is not looked up, which may be the very thing that they died of: it is not known, and counts as a
failure with all that it was to cost.
"""

from datetime import timedelta

from driftwarden.clock import SystemClock, parse_rfc3339
from driftwarden.contracts.ports import Actor
from driftwarden.errors import NotFound
from driftwarden.service.workflow.approvals import OPEN
from driftwarden.service.workflow.intents import not_done_body
from driftwarden.service.workflow.parts import Parts
from driftwarden.service.workflow.store import IncidentRecord, WorkflowStore

TIMERS = Actor(kind="timer", id="driftwarden")
PATIENCE_S = 3600.0
WORDS_MAX = 10  # what a worker of this version cannot read waits for one that can, and is not woken for ever


def free_reservations(parts: Parts, store: WorkflowStore, *, patience_s: float = PATIENCE_S) -> list[str]:
    """Settle, as failed, what incidents reserved that ended and that no worker will take up again; returns them.

    One whose word nobody took up within `patience_s` of its end is woken again: its activation may be lost.
    """
    freed = []
    for incident in parts.ledger.running():
        try:
            record = store.get(incident)
            if not record.ended:
                continue
            words = store.words(incident)  # after the record: a crash loop leaves its word in the step that ends it
        except NotFound:
            continue
        if words:
            if words < WORDS_MAX and _waits_s(record) >= patience_s:
                store.wake(incident, "reserved")
            continue
        if incident not in parts.ledger.running():  # it was settled, and ended, while it was looked at
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


def withdraw_unasked(parts: Parts, store: WorkflowStore, *, patience_s: float = PATIENCE_S) -> list[str]:
    """Supersede what is open in the queue though its incident has ended, and was asked longer than `patience_s` ago; returns it.

    Whoever asked died before the commit, and by then nobody needed to be asked: the incident does not know of the request.
    """
    asked_by = parts.clock.now() - timedelta(seconds=patience_s)
    found = [one for one in parts.approvals.recent() if one.state in OPEN]
    found = [one for one in found if parse_rfc3339(one.requested_at) <= asked_by]
    over = frozenset(store.closed.over({one.incident for one in found}))
    return [parts.approvals.mark(one.id, "superseded").id for one in found if one.incident in over]


def _waits_s(record: IncidentRecord) -> float:
    return (SystemClock().now() - parse_rfc3339(record.updated_at)) / timedelta(seconds=1)
