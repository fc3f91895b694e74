"""The reading half of the workflow store: incidents by id, prefix, model and state, and their transitions as they happen.

The keys and their fields stand above `store.py`.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from driftwarden.errors import BadInput, NotFound
from driftwarden.service.workflow.store_types import (
    IncidentRecord,
    Keys,
    Transition,
    record_of,
    texts,
    transition_of,
)
from driftwarden.stream.client import BLOCK_MS_MAX, patiently

if TYPE_CHECKING:
    from redis import Redis


class IncidentReader:
    """Incidents of one Redis, for looking only; thread-safe."""

    def __init__(self, client: "Redis", *, prefix: str, retry_for_s: float) -> None:
        """`client` answers bytes; while the server is away, a question is repeated for `retry_for_s`."""
        self._client: Any = client
        self.keys = Keys(prefix)
        self._retry_for_s = retry_for_s

    def get(self, incident: str) -> IncidentRecord:
        """One incident by its whole id; raises NotFound."""
        found = self._records([incident])
        if not found:
            raise NotFound("no such incident", got=incident, expected="an id of `driftwarden incidents list`")
        return found[0]

    def find(self, prefix: str) -> str:
        """The id of the one incident that begins with `prefix` (`inc-` may be left out); raises NotFound or BadInput."""
        whole = prefix if prefix.startswith("inc-") else f"inc-{prefix}"
        low, high = f"[{whole}".encode(), f"[{whole}".encode() + b"\xff"
        found = texts(self._ask(self._client.zrangebylex, self.keys.ids, low, high, 0, 2))
        if not found or not prefix:
            raise NotFound("no such incident", got=prefix, expected="an id of `driftwarden incidents list`")
        if len(found) > 1 and found[0] != whole:
            raise BadInput("incident", got=prefix, expected=f"a longer prefix: {found[0]} and {found[1]} begin with it")
        return found[0]

    def list(
        self, *, state: str | None = None, model: str | None = None, limit: int = 100
    ) -> tuple[IncidentRecord, ...]:
        """Incidents, the newest first."""
        index = self.keys.index if model is None else self.keys.model(model, "incidents")
        found: tuple[IncidentRecord, ...] = ()
        start, batch = 0, 100
        while len(found) < limit:
            ids = texts(self._ask(self._client.zrevrange, index, start, start + batch - 1))
            found += tuple(record for record in self._records(ids) if state is None or record.state == state)
            start += batch
            if len(ids) < batch:
                break
        return found[:limit]

    def counts(self) -> dict[str, int]:
        """How many incidents are in each state."""
        reply = self._ask(self._client.hgetall, self.keys.counts)
        return {state.decode(): int(count) for state, count in sorted(reply.items()) if int(count)}

    def watch(self, after: str | None = None, *, block_ms: int = 1000) -> Iterator[Transition | None]:
        """Transitions after an id (None: from now on) as they are committed; None each time it waited in vain."""
        wait_ms = max(1, min(block_ms, BLOCK_MS_MAX))
        if after is None:
            newest = self._ask(self._client.xrevrange, self.keys.transitions, count=1)
            after = newest[0][0].decode() if newest else "0"
        while True:
            reply = self._ask(self._client.xread, {self.keys.transitions: after}, count=100, block=wait_ms)
            if not reply:
                yield None
                continue
            for entry_id, fields in reply[0][1]:
                after = entry_id.decode()
                yield transition_of(after, fields)

    # Within

    def _ask(self, call: Callable[..., Any], *args: Any, **options: Any) -> Any:
        return patiently(lambda: call(*args, **options), for_s=self._retry_for_s)

    def _records(self, incidents: Iterable[str]) -> tuple[IncidentRecord, ...]:
        ids = [*incidents]

        def read() -> Any:
            with self._client.pipeline(transaction=False) as pipe:
                for incident in ids:
                    pipe.hgetall(self.keys.wf(incident))
                    pipe.lrange(self.keys.wf(incident, "events"), 0, -1)
                return pipe.execute()

        replies, (seconds, micros) = self._ask(read), self._ask(self._client.time)
        now_ms = seconds * 1000 + micros // 1000
        rows = zip(ids, replies[::2], replies[1::2], strict=True)
        return tuple(record_of(incident, h, events, now_ms) for incident, h, events in rows if h)
