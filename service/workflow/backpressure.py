"""What waits, where, and for how long: one look at the streams, timers and queues of a Redis."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from driftwarden.service.workflow.sharding import keys_of_each
from driftwarden.service.workflow.store_types import Keys
from driftwarden.stream.client import patiently
from driftwarden.stream.dead_letters import DeadLetters

if TYPE_CHECKING:
    from redis import Redis

GROUP = b"workers"


def backpressure(client: "Redis", prefix: str, shards: int = 1) -> dict[str, Any]:
    """Counts of what waits, ages in seconds by the server's clock (None: nothing waits). Raises Retry.

    `intake`: events that are not incidents yet, `pending` of them in a process's hands. `activations`: turns of incidents
    that a worker could take now (each event that joined one at rest is one), and those that one has in hand. `queued`:
    incidents behind another one of their model. `timers`: incidents that wait for a moment, and those whose moment has
    come. `dead_letters`: those nobody put back.
    """
    shared, each = Keys(prefix), keys_of_each(prefix, shards)
    return patiently(lambda: _look(client, prefix, shared, each), for_s=0)


def _look(client: Any, prefix: str, shared: Keys, each: Sequence[Keys]) -> dict[str, Any]:
    seconds, micros = client.time()
    now_ms = seconds * 1000 + micros // 1000
    length, pending, oldest_ms, _ = _stream(client, shared.intake)
    streams = [_stream(client, keys.activations) for keys in each]
    activations, in_hand = sum(one[0] for one in streams), sum(one[1] for one in streams)
    undelivered_ms = min((one[3] for one in streams if one[3] is not None), default=None)
    return {
        "intake": {"length": length, "pending": pending, "oldest_seconds": _age(now_ms, oldest_ms)},
        "activations": {
            "waiting": max(0, activations - in_hand),
            "in_hand": in_hand,
            "oldest_seconds": _age(now_ms, undelivered_ms),
        },
        "queued": sum(_queued(client, keys) for keys in each),
        "timers": {
            "waiting": sum(int(client.zcard(keys.timers)) for keys in each),
            "due": sum(int(client.zcount(keys.timers, "-inf", now_ms)) for keys in each),
        },
        "dead_letters": DeadLetters(client, prefix).left(),
    }


def _queued(client: Any, keys: Keys) -> int:
    """How many incidents are in the queues of one shard; one that has emptied meanwhile counts nothing."""
    models = [model.decode() for model in client.smembers(keys.queues)]
    if not models:
        return 0
    with client.pipeline(transaction=False) as pipe:
        for model in models:
            pipe.zcard(keys.model(model, "queue"))
        return sum(pipe.execute())


def _stream(client: Any, stream: str) -> tuple[int, int, int | None, int | None]:
    """Entries, those in hand, and when the oldest of all and the oldest undelivered one came (ms)."""
    from redis.exceptions import ResponseError

    try:
        groups = client.xinfo_groups(stream)
    except ResponseError:  # nothing was ever sent
        groups = []
    nobody: dict[str, Any] = {"pending": 0, "last-delivered-id": b"0-0"}
    group = next((one for one in groups if one["name"] == GROUP), nobody)
    after = b"(" + group["last-delivered-id"]
    oldest, fresh = (client.xrange(stream, first, "+", count=1) for first in ("-", after))
    times = [int(found[0][0].partition(b"-")[0]) if found else None for found in (oldest, fresh)]
    return int(client.xlen(stream)), int(group["pending"]), times[0], times[1]


def _age(now_ms: int, then_ms: int | None) -> float | None:
    return None if then_ms is None else round(max(0, now_ms - then_ms) / 1000, 3)
