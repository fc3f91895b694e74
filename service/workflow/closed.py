"""Incidents that ended long ago: found in the order they were opened, a page at a time, and removed, each in one step."""

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from driftwarden.errors import NotFound
from driftwarden.service.workflow.sharding import Shards
from driftwarden.service.workflow.store_types import Keys, texts
from driftwarden.stream.client import patiently
from driftwarden.stream.scripts import Call, Scripts

if TYPE_CHECKING:
    from redis import Redis

_DONE_SINCE = ("done", "updated", "model")


class Place(NamedTuple):
    """Where a look goes on: which shard, and after how many of its incidents, the first opened first."""

    shard: int = 0
    rank: int = 0


class Remains(NamedTuple):
    """An incident whose time seems to be over, and the models that it has events of, its own first."""

    incident: str
    models: tuple[str, ...]


class Closed:
    """The closed incidents of one Redis; thread-safe."""

    def __init__(self, client: "Redis", scripts: Scripts, shards: Shards, *, retry_for_s: float) -> None:
        """`scripts` of the workflow."""
        self._client: Any = client
        self._scripts, self._shards, self._retry_for_s = scripts, shards, retry_for_s

    def look(self, place: Place, kept_ms: int, limit: int) -> tuple[list[Remains], Place | None]:
        """Of the next `limit` incidents those that closed more than `kept_ms` ago by the server's clock; where to go on.

        None: everything that was opened so long ago was looked at. Of those found, all that are not removed are to be passed.
        """
        keys = self._shards.all[place.shard]
        (seconds, micros), page = patiently(lambda: self._page(keys, place.rank, limit), for_s=self._retry_for_s)
        before_ms = seconds * 1000 + micros // 1000 - kept_ms
        ids = [one.decode() for one, opened_ms in page if opened_ms <= before_ms]
        found = patiently(lambda: self._over(keys, ids, before_ms), for_s=self._retry_for_s)
        if len(ids) == limit:
            return found, Place(place.shard, place.rank + limit)
        return found, Place(place.shard + 1) if place.shard + 1 < len(self._shards.all) else None

    def forget(self, remains: Sequence[Remains], kept_ms: int) -> list[str]:
        """Remove these where nothing has changed and nothing still needs them; returns those that are gone now."""
        calls: list[Call] = []
        for one in remains:
            k = self._shards.of_incident(one.incident)
            own = [k.wf(one.incident), *(k.wf(one.incident, part) for part in ("events", "keys", "signals"))]
            shared = [k.index, k.ids, k.counts, k.removed, k.timers, k.model(one.models[0], "verifying")]
            indexes = [k.model(model, "incidents") for model in one.models]
            calls.append(([*own, *shared, *indexes], [one.incident, one.models[0], kept_ms, *one.models]))
        replies = self._scripts.run_many("forget", calls)
        return [one.incident for one, reply in zip(remains, replies, strict=True) if reply in {b"OK", b"GONE"}]

    def over(self, incidents: Collection[str]) -> list[str]:
        """Of these those that ended or have left this Redis."""
        return [one for one, (state, done) in self._stand(incidents) if state is None or done == b"1"]

    def gone(self, incidents: Collection[str]) -> list[str]:
        """Of these those that have left this Redis."""
        return [one for one, (state, _) in self._stand(incidents) if state is None]

    def _stand(self, incidents: Collection[str]) -> list[tuple[str, Any]]:
        def ask() -> Any:
            with self._client.pipeline(transaction=False) as pipe:
                for keys, one in placed:
                    pipe.hmget(keys.wf(one), "state", "done")
                return pipe.execute()

        placed = []
        for one in incidents:
            try:
                placed.append((self._shards.of_incident(one), one))
            except NotFound:  # no name of an incident: nobody knows whose it is
                continue
        replies = patiently(ask, for_s=self._retry_for_s) if placed else []
        return [(one, reply) for (_, one), reply in zip(placed, replies, strict=True)]

    def _page(self, keys: Keys, rank: int, limit: int) -> Any:
        with self._client.pipeline(transaction=False) as pipe:
            pipe.time()
            pipe.zrange(keys.index, rank, rank + limit - 1, withscores=True)
            return pipe.execute()

    def _over(self, keys: Keys, ids: Collection[str], before_ms: int) -> list[Remains]:
        if not ids:
            return []
        with self._client.pipeline(transaction=False) as pipe:
            for incident in ids:
                pipe.hmget(keys.wf(incident), *_DONE_SINCE)
                pipe.lrange(keys.wf(incident, "keys"), 0, -1)
            replies = pipe.execute()
        found = []
        for incident, (done, updated, model), identities in zip(ids, replies[::2], replies[1::2], strict=True):
            if done == b"1" and model and updated and updated.isdigit() and int(updated) <= before_ms:
                owners = [owner for one in texts(identities) if (owner := one.partition("|")[2])]
                found.append(Remains(incident, tuple(dict.fromkeys([model.decode(), *owners]))))
        return found
