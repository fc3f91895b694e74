"""Retention of closed incidents: after `service.closed_ttl` they leave Redis, a few at a time; the audit log keeps their story.

What people or the policy may still need stays: an incident with an open approval, a reservation, a verification, a timer, or
a word that nobody has heard; one whose effect is the last change of a model, or a quarantine that was not released, for
either can still be undone. The script `forget` looks once more at what is on the incident's slot.
"""

import logging
import time
from datetime import timedelta

from driftwarden.service.workflow.approvals import OPEN
from driftwarden.service.workflow.closed import Place
from driftwarden.service.workflow.parts import Parts
from driftwarden.service.workflow.pruning import Pruning
from driftwarden.service.workflow.store import WorkflowStore
from driftwarden.settings import ServiceSettings

log = logging.getLogger(__name__)

PER_TURN = 50
# The floor under Redis (`ends.py`) counts whole days, and the clocks of hosts differ: what it still takes for an incident that
# ended must not be gone here.
SLACK = timedelta(days=1, hours=1)
PAUSE_S = 300.0  # after everything that old was looked at
# What must stay is asked anew so often. It may be that old: who reserves or asks first changes the incident, and whatever
# changed within `closed_ttl`, a day at least, is not removed.
NEEDED_FOR_S = 60.0


def kept_for(service: ServiceSettings) -> timedelta | None:
    """How long a closed incident stays: never less than its events are recognised; None: for good."""
    return None if service.closed_ttl is None else max(service.closed_ttl, service.identity_ttl)


class Forgetting:
    """The sweep of one process; several may do it side by side. Of one thread."""

    def __init__(self, parts: Parts, store: WorkflowStore) -> None:
        """Asks nothing yet."""
        self._parts, self._store = parts, store
        kept = kept_for(parts.settings.service)
        self._kept_ms = None if kept is None else int((kept + SLACK).total_seconds() * 1000)
        self._pruning = Pruning(parts, store)
        self._place = Place()
        self._not_before = 0.0
        self._needed: tuple[float, frozenset[str] | None] | None = None

    def turn(self) -> list[str]:
        """Remove at most `PER_TURN` incidents, and say which; nothing while it pauses. Raises Retry."""
        self._pruning.turn()
        if self._kept_ms is None or time.monotonic() < self._not_before:
            return []
        found, onwards = self._store.closed.look(self._place, self._kept_ms, PER_TURN)
        gone: list[str] = []
        if found:
            needed = self._needed_now()
            free = [] if needed is None else [one for one in found if one.incident not in needed]
            gone = self._store.closed.forget(free, self._kept_ms)
        if gone:
            log.info("%d closed incidents were removed from redis: their time is over", len(gone))
        if onwards is None:
            self._place, self._not_before = Place(), time.monotonic() + PAUSE_S
        else:  # those that are gone have no rank any more
            same = onwards.shard == self._place.shard
            self._place = Place(onwards.shard, onwards.rank - len(gone)) if same else onwards
        return gone

    def _needed_now(self) -> frozenset[str] | None:
        now = time.monotonic()
        if self._needed is None or now - self._needed[0] > NEEDED_FOR_S:
            asked = {one.incident for one in self._parts.approvals.recent() if one.state in OPEN}
            needed = self._parts.ledger.needed()
            if needed is None:
                log.warning("no closed incident is removed: what the ledger put away cannot be read")
            self._needed = now, None if needed is None else needed | asked
        return self._needed[1]
