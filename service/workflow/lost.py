"""Reservations of incidents that Redis has lost: their key was deleted, or what was put back of their shard is older than they are.

Nobody will take such an incident up, and what it reserved would count as running for good. What the log says of it decides:

    no intent can stand in any log (the ledger marks a reservation before one is written)    it is released
    its last intent has a result that says what was done                                     it is settled as that
    anything else: an intent without a result, or one in another host's log                  it counts as a failure, with
                                                                                             all that it was to cost

Each ends with a `close` on record, and where an intent may stand people are told. A key that is gone may be gone for a moment,
and its worker may still be at work: nothing happens before it was gone for longer than any effect can take. A host whose log
knows of no intent leaves it to the others for longer than that.
"""

import logging
import time
from datetime import UTC, datetime, timedelta

from driftwarden.clock import rfc3339
from driftwarden.contracts.base import ActionName
from driftwarden.service.workflow.floor import Effect
from driftwarden.service.workflow.intents import not_done_body
from driftwarden.service.workflow.parts import Parts
from driftwarden.service.workflow.reservations import PATIENCE_S, TIMERS
from driftwarden.service.workflow.store import WorkflowStore

log = logging.getLogger(__name__)

OTHERS_FIRST = 3  # so many times as long a host waits whose log does not know of it

_LOST = "redis has lost it"


class LostReservations:
    """The sweep of one process; of one thread. What it saw missing it remembers from turn to turn."""

    def __init__(self, parts: Parts, store: WorkflowStore, *, patience_s: float | None = None) -> None:
        """`patience_s` default: an hour, or as long as an effect and its lease can last. Asks nothing yet."""
        service = parts.settings.service
        longest_s = service.step_deadlines.executing / timedelta(seconds=1) + 2 * service.lease_s
        self._parts, self._closed = parts, store.closed
        self._patience_s = max(PATIENCE_S, longest_s) if patience_s is None else patience_s
        self._since: dict[str, float] = {}

    def turn(self) -> list[str]:
        """Settle or release what has been lost for long enough, and say whose it was. Raises Retry."""
        now = time.monotonic()
        gone = self._closed.gone(self._parts.ledger.running())
        self._since = {incident: self._since.get(incident, now) for incident in gone}
        freed = []
        for incident, since in self._since.items():
            effect = self._parts.floor.last_effect(incident)
            patience_s = self._patience_s * (1 if effect is not None else OTHERS_FIRST)
            if now - since >= patience_s and self._settle(incident, effect):
                freed.append(incident)
        return freed

    def _settle(self, incident: str, effect: Effect | None) -> bool:
        """False where it was settled, or came back, while it was looked at."""
        parts = self._parts
        if incident not in parts.ledger.running() or not self._closed.gone([incident]):
            return False
        open_intents = parts.floor.open_intents(incident)
        if not open_intents and parts.ledger.release_unbegun(incident):
            self._close(
                incident, effect, f"{_LOST} before anything was intended: what it had reserved is free", tell=False
            )
            return True
        if effect is None or open_intents or effect.cost_usd is None:
            why = f"{_LOST}: whether its effect happened is not known here; it counts as a failure"
            for intent in open_intents:
                parts.audit.append(
                    "result",
                    not_done_body(
                        effect.action if effect else None, why, undo=bool(effect and effect.undo), failed=True
                    ),
                    actor=TIMERS,
                    incident=incident,
                    correlation_id=effect.correlation_id if effect else None,
                    causation=intent,
                )
            parts.ledger.abandon(incident)
        else:
            why = f"{_LOST} after its effect, which nobody verifies any more"
            # Of the rows that a quarantine was about the log tells nothing that could be held against another window.
            changed = effect.changed and effect.action != ActionName.QUARANTINE_DATA
            at = rfc3339(datetime.fromtimestamp(effect.at_ms / 1000, UTC))
            parts.ledger.settle(
                incident, cost_usd=effect.cost_usd, failed=effect.failed, changed_at=at if changed else None
            )
        self._close(incident, effect, why, tell=True)
        return True

    def _close(self, incident: str, effect: Effect | None, why: str, *, tell: bool) -> None:
        correlation_id = effect.correlation_id if effect else None
        self._parts.audit.append(
            "close",
            {"state": "failed", "outcome": None, "problem": why},
            actor=TIMERS,
            incident=incident,
            correlation_id=correlation_id,
        )
        log.error("a reservation is settled: %s", why, extra={"incident": incident})
        if tell:
            self._parts.notifier.notify(
                f"redis has lost incident {incident}",
                f"{why}\ndriftwarden audit show {incident}",
                key=f"{incident}:lost",
                fields={"incident": incident, "correlation_id": correlation_id or ""},
            )
