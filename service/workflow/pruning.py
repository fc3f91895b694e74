"""What decisions look through stays as small as what is open or inside a window: the rest is put away, and summed up at last.

From the ledger and the track record to the books of their models (`books.py`): what is over, of incidents that ended, and
further back than every window of the policy in force. In the books, what incidents left that have left Redis themselves
(`forgetting.py`) becomes one sum a model. Requests for approval that are settled leave in the same two stages (`settled.py`).
Each move is one step that does nothing where something has changed meanwhile, so several processes may do it side by side, and
one that dies leaves nothing half done. As long as a process of an earlier version lives nothing is moved: it would not know of
the last action of a model, and would remove incidents whose effects may still be undone.
"""

import logging
import math
import time
from datetime import timedelta

from driftwarden.service.workflow.approvals import ApprovalRequest
from driftwarden.service.workflow.caps import Caps
from driftwarden.service.workflow.health import processes
from driftwarden.service.workflow.parts import Parts
from driftwarden.service.workflow.settled import Settled
from driftwarden.service.workflow.store import WorkflowStore
from driftwarden.stream.client import redis_errors

log = logging.getLogger(__name__)

PAUSE_S = 300.0
SUM_EVERY_S = 6 * 3600.0
BOOKS_PER_TURN = 100
INCIDENTS_PER_TURN = 200
# A day of the policy's zone has up to 25 hours, and the clocks of hosts differ.
WINDOW_MIN = timedelta(days=2)
SLACK = timedelta(days=1, hours=1)


def window_ms(caps: Caps) -> int:
    """How far back the policy looks at most, and a day more."""
    windows = [rate[1] for rate in (caps.rate_model, caps.rate_global) if rate is not None]
    return max(*windows, caps.breaker_window_ms, _ms(WINDOW_MIN)) + _ms(SLACK)


def _ms(span: timedelta) -> int:
    return int(span.total_seconds() * 1000)


class Pruning:
    """The sweep of one process. Of one thread."""

    def __init__(self, parts: Parts, store: WorkflowStore) -> None:
        """Asks nothing yet."""
        self._parts, self._closed = parts, store.closed
        self._settled = Settled(parts.approvals)
        self._put_at = self._sum_at = -math.inf
        self._cursor = 0

    def turn(self) -> None:
        """Put away what is due, or sum up some books; nothing while it pauses. Raises Retry."""
        now = time.monotonic()
        if now < min(self._put_at, self._sum_at):
            return
        with redis_errors("redis"):
            if older := self._older():
                log.info("nothing is put away beside %s: a process of an earlier version", older)
                self._put_at, self._sum_at = now + PAUSE_S, max(self._sum_at, now + PAUSE_S)
            elif now >= self._put_at:
                rests = self.put_away() < INCIDENTS_PER_TURN
                self._put_at = now + PAUSE_S if rests else now
            elif now >= self._sum_at:
                self._cursor = self._parts.ledger.books.fold(self._cursor, BOOKS_PER_TURN, self._closed.gone)
                if self._cursor == 0:
                    self._settled.forget(self._closed.gone, self._helped)
                    self._sum_at = now + SUM_EVERY_S

    def _older(self) -> str | None:
        """The name of a live process that does not read what is put away."""
        told = processes(self._parts.approvals.redis, self._parts.settings.redis.prefix)
        return next((one.name for one in told if one.is_live and not (one.said.books and one.said.refusals)), None)

    def _helped(self, request: ApprovalRequest) -> bool | None:
        return self._parts.ledger.outcome(request.incident, model=request.model, action=request.action)

    def put_away(self) -> int:
        """What is neither open nor inside a window, a few hundred incidents at a time; returns how many entries of the ledger."""
        books, now_ms = self._parts.ledger.books, int(self._parts.clock.now().timestamp() * 1000)
        books.put_outcomes_away(self._closed.over)
        self._settled.put_away(self._closed.over)
        return books.put_away(now_ms, window_ms(self._parts.caps()), self._closed.over, limit=INCIDENTS_PER_TURN)
