"""The reading half of the workflow store: incidents by id, prefix, model and state, and their transitions as they happen.

The keys and their fields stand above `store.py`.
"""

import heapq
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from itertools import islice
from typing import TYPE_CHECKING, Any

from driftwarden.errors import BadInput, NotFound
from driftwarden.service.workflow.sharding import Shards
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


REPORTS_PER_MODEL_MAX = 1000
_SLICE_MS = 50  # a read waits on one shard only
_BATCH = 100

Replies = list[Any]
Places = list[str]
Entries = list[tuple[int, bytes, Any]]  # shard, id, fields


class IncidentReader:
    """Incidents of one Redis, for looking only; thread-safe."""

    def __init__(self, client: "Redis", shards: Shards, *, retry_for_s: float) -> None:
        """`client` answers bytes; while the server is away, a question is repeated for `retry_for_s`."""
        self._client: Any = client
        self.shards, self.keys = shards, shards.shared
        self._retry_for_s = retry_for_s

    def get(self, incident: str) -> IncidentRecord:
        """One incident by its whole id; raises NotFound."""
        found = self._records([incident])
        if not found:
            raise self._absent(incident)
        return found[0]

    def words(self, incident: str) -> int:
        """How many words (signals) an incident is still to hear; raises NotFound."""
        return int(self._ask(self._client.hlen, self.shards.of_incident(incident).wf(incident, "signals")))

    def find(self, prefix: str) -> str:
        """The id of the one incident that begins with `prefix` (`inc-` may be left out); raises NotFound or BadInput."""
        whole = prefix if prefix.startswith("inc-") else f"inc-{prefix}"
        low, high = f"[{whole}".encode(), f"[{whole}".encode() + b"\xff"
        replies = self._of_each(lambda pipe, keys: pipe.zrangebylex(keys.ids, low, high, 0, 2))
        found = sorted(one for reply in replies for one in texts(reply))
        if not found or not prefix:
            raise self._absent(prefix)
        if len(found) > 1 and found[0] != whole:
            raise BadInput("incident", got=prefix, expected=f"a longer prefix: {found[0]} and {found[1]} begin with it")
        return found[0]

    def list(
        self, *, state: str | None = None, model: str | None = None, limit: int = 100
    ) -> tuple[IncidentRecord, ...]:
        """Incidents, the newest first."""
        found: tuple[IncidentRecord, ...] = ()
        newest = self._newest(model)
        while len(found) < limit:
            ids = [*islice(newest, _BATCH)]
            found += tuple(record for record in self._records(ids) if state is None or record.state == state)
            if len(ids) < _BATCH:
                break
        return found[:limit]

    def counts(self) -> dict[str, int]:
        """How many incidents are in each state."""
        found: dict[str, int] = {}
        for reply in self._of_each(lambda pipe, keys: pipe.hgetall(keys.counts)):
            for state, count in reply.items():
                found[state.decode()] = found.get(state.decode(), 0) + int(count)
        return {state: count for state, count in sorted(found.items()) if count}

    def removed(self) -> int:
        """How many closed incidents were removed after their time: no other count has them."""
        return sum(int(reply or 0) for reply in self._of_each(lambda pipe, keys: pipe.get(keys.removed)))

    def performance_reports(self, model: str, limit: int = REPORTS_PER_MODEL_MAX) -> tuple[str, ...]:
        """Raw performance events of a model, the newest last."""
        keys = self.shards.known(model)
        return texts(self._ask(self._client.lrange, keys.model(model, "performance"), -limit, -1)) if keys else ()

    def verifying(self, model: str) -> frozenset[str]:
        """Incidents whose effect on a model is being judged."""
        keys = self.shards.known(model)
        if keys is None:
            return frozenset()
        return frozenset(texts(self._ask(self._client.smembers, keys.model(model, "verifying"))))

    def backlog(self) -> tuple[int, int]:
        """How many entries are in the intake, and how many activations wait or are being worked on."""
        intake = int(self._ask(self._client.xlen, self.keys.intake))  # first: what left it is activated
        return intake, sum(int(one) for one in self._of_each(lambda pipe, keys: pipe.xlen(keys.activations)))

    def watch(self, after: str | None = None, *, block_ms: int = 1000) -> Iterator[Transition | None]:
        """Transitions after an id (None: from now on; "0": all) as they are committed; None each time it waited in vain.

        An id names a place in the stream of each shard, separated by commas.
        """
        wait_ms = max(1, min(block_ms, BLOCK_MS_MAX))
        if after is None:
            newest = self._of_each(lambda pipe, keys: pipe.xrevrange(keys.transitions, count=1))
            places = [reply[0][0].decode() if reply else "0" for reply in newest]
        else:
            places = ["0"] * len(self.shards.all) if after == "0" else after.split(",")
            if len(places) != len(self.shards.all):
                raise BadInput("place in the transitions", got=after, expected=f"{len(self.shards.all)} ids")
        turn = 0
        while True:
            found, turn = self._transitions(places, wait_ms, turn)
            for number, entry_id, fields in found:
                places[number] = entry_id.decode()
                yield transition_of(entry_id.decode(), ",".join(places), fields)
            if not found:
                yield None

    # Within

    def _absent(self, incident: str) -> NotFound:
        expected = "an id of `driftwarden incidents list`"
        if incident and (removed := self.removed()):
            told = f"{removed} closed ones were removed from redis after their time (service.closed_ttl)"
            expected += f"; {told}: `driftwarden audit show {incident}`"
        return NotFound("no such incident", got=incident, expected=expected)

    def _ask(self, call: Callable[..., Any], *args: Any, **options: Any) -> Any:
        return patiently(lambda: call(*args, **options), for_s=self._retry_for_s)

    def _of_each(self, ask: Callable[[Any, Keys], Any]) -> Replies:
        """One question to every shard, in one round trip (a node)."""

        def once() -> Any:
            with self._client.pipeline(transaction=False) as pipe:
                for keys in self.shards.all:
                    ask(pipe, keys)
                return pipe.execute()

        replies: Replies = self._ask(once)
        return replies

    def _newest(self, model: str | None) -> Iterator[str]:
        """Ids of incidents, of one model or all, the newest first."""
        if model is not None:
            keys = self.shards.known(model)
            return (one for _, one in self._pages(keys.model(model, "incidents"))) if keys else iter(())
        first = self._of_each(lambda pipe, keys: pipe.zrevrange(keys.index, 0, _BATCH - 1, withscores=True))
        pages = [self._pages(keys.index, page) for keys, page in zip(self.shards.all, first, strict=True)]
        return (one for _, one in heapq.merge(*pages, reverse=True))

    def _pages(self, index: str, page: Any = None) -> Iterator[tuple[float, str]]:
        start = 0
        while True:
            if page is None:
                page = self._ask(self._client.zrevrange, index, start, start + _BATCH - 1, withscores=True)
            yield from ((score, one.decode()) for one, score in page)
            start += _BATCH
            if len(page) < _BATCH:
                return
            page = None

    def _transitions(self, places: Places, wait_ms: int, turn: int) -> tuple[Entries, int]:
        """What is new on any shard, waiting for it; with several, on each of them in turn for a moment."""
        streams = [keys.transitions for keys in self.shards.all]
        if len(streams) == 1:
            reply = self._ask(self._client.xread, {streams[0]: places[0]}, count=100, block=wait_ms)
            return [(0, entry_id, fields) for entry_id, fields in (reply[0][1] if reply else [])], 0
        after = dict(zip(streams, places, strict=True))
        deadline = time.monotonic() + wait_ms / 1000
        while True:
            replies = self._of_each(
                lambda pipe, keys: pipe.xrange(keys.transitions, f"({after[keys.transitions]}", "+", 100)
            )
            found = [(number, *entry) for number, reply in enumerate(replies) for entry in reply]
            left_ms = int((deadline - time.monotonic()) * 1000)
            if found or left_ms < 1:
                return sorted(found, key=lambda one: _order(one[1])), turn
            turn = (turn + 1) % len(streams)
            self._ask(self._client.xread, {streams[turn]: places[turn]}, count=1, block=max(1, min(left_ms, _SLICE_MS)))

    def _records(self, incidents: Iterable[str]) -> tuple[IncidentRecord, ...]:
        ids: Places = []
        places: Replies = []
        for incident in incidents:
            with suppress(NotFound):
                places.append(self.shards.of_incident(incident))
                ids.append(incident)

        def read() -> Any:
            with self._client.pipeline(transaction=False) as pipe:
                for incident, keys in zip(ids, places, strict=True):
                    pipe.hgetall(keys.wf(incident))
                    pipe.lrange(keys.wf(incident, "events"), 0, -1)
                return pipe.execute()

        replies, (seconds, micros) = self._ask(read), self._ask(self._client.time)
        now_ms = seconds * 1000 + micros // 1000
        rows = zip(ids, replies[::2], replies[1::2], strict=True)
        return tuple(record_of(incident, h, events, now_ms) for incident, h, events in rows if h)


def _order(entry_id: bytes) -> tuple[int, int]:
    ms, _, number = entry_id.decode().partition("-")
    return int(ms), int(number)
