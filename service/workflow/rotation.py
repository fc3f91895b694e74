"""Claims over several shards: each consumer goes round, so that none starves, and asks only where something can have come."""

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from driftwarden.service.workflow.shard import Shard
from driftwarden.service.workflow.store_types import Claim
from driftwarden.stream.client import patiently

if TYPE_CHECKING:
    from redis import Redis

SLICE_MS = 50  # one read can wait on one shard only: so long at most does an activation on another go unseen


class Rotation:
    """Thread-safe as long as each consumer has one thread, which holds for workers."""

    def __init__(self, client: "Redis", shards: Sequence[Shard], *, retry_for_s: float) -> None:
        """Asks nothing yet."""
        self._client: Any = client
        self._shards, self._retry_for_s = shards, retry_for_s
        self._turns: dict[str, int] = {}
        self._in_vain: dict[str, dict[int, bytes]] = {}

    def claim(self, consumer: str, *, block_ms: int, lease_ms: int) -> Claim | None:
        """As `WorkflowStore.claim`."""
        deadline = time.monotonic() + block_ms / 1000
        while True:
            newest = self._newest()
            for place in self._round(consumer):
                if not self._may_have_some(consumer, place, newest[place]):
                    continue
                claim = self._shards[place].claim(consumer, block_ms=0, lease_ms=lease_ms)
                if claim is not None:
                    return self._taken(consumer, place, claim)
                self._in_vain.setdefault(consumer, {})[place] = newest[place]
            left_ms = int((deadline - time.monotonic()) * 1000)
            if left_ms < 1:
                return None
            place = self._round(consumer)[0]
            claim = self._shards[place].claim(consumer, block_ms=min(left_ms, SLICE_MS), lease_ms=lease_ms)
            if claim is not None:
                return self._taken(consumer, place, claim)
            self._turns[consumer] = place + 1

    def _taken(self, consumer: str, place: int, claim: Claim) -> Claim:
        self._in_vain.get(consumer, {}).pop(place, None)
        self._turns[consumer] = place + 1
        return claim

    def _round(self, consumer: str) -> list[int]:
        count = len(self._shards)
        first = self._turns.get(consumer, 0) % count
        return [*range(first, count), *range(first)]

    def _may_have_some(self, consumer: str, place: int, newest: bytes) -> bool:
        """False where nothing was there and nothing came since; entries of the dead turn up at each shard's own sweep."""
        before = self._in_vain.get(consumer, {}).get(place)
        return newest != before or self._shards[place].sweep_due(consumer)

    def _newest(self) -> list[bytes]:
        """Id of the newest activation of each shard."""
        replies = self._pipelined(lambda pipe, shard: pipe.xrevrange(shard.keys.activations, count=1))
        return [reply[0][0] if reply else b"" for reply in replies]

    def _pipelined(self, ask: Callable[[Any, Shard], Any]) -> list[Any]:
        def once() -> list[Any]:
            with self._client.pipeline(transaction=False) as pipe:
                for shard in self._shards:
                    ask(pipe, shard)
                replies: list[Any] = pipe.execute()
            return replies

        return patiently(once, for_s=self._retry_for_s)
