"""On which shard an incident lives: its model's first upstream decides, once and for ever; where none is configured, the first
that the model's first event tells of, so that those whose producers tell of one table can meet; else the model itself.

With one shard all keys stand directly below the prefix. With more, shard `i` is `<prefix>{<i>}:...`: the tag in braces puts
all its keys on one slot of a cluster, and every script touches keys of one shard only. Hash `<prefix>shards`: model -> its
shard, written at its first event, so that no change of `models.yml` moves a model that has incidents; `#` -> how many
shards there are, which never changes either. An incident's id ends with the three hex digits of its shard. A key
`<prefix>identity:<identity>` says on which shard an event was first seen: who sends the same identity again for a model of
another shard has sent a duplicate.
"""

import zlib
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from driftwarden.errors import BadInput, NotFound
from driftwarden.service.workflow.store_types import Keys
from driftwarden.stream.client import patiently
from driftwarden.stream.scripts import Call, Scripts

if TYPE_CHECKING:
    from redis import Redis

SHARDS_MAX = 1024
_DIGITS = 3
_REMEMBERED_MAX = 200_000

Upstream = Callable[[str], str | None]


def _nothing_told(model: str) -> str | None:
    return None


def keys_of_each(prefix: str, count: int) -> tuple[Keys, ...]:
    """The keys of every shard; with one they stand directly below the prefix."""
    return (Keys(prefix),) if count == 1 else tuple(Keys(f"{prefix}{{{shard}}}:", shard) for shard in range(count))


class Shards:
    """The shards of one Redis; thread-safe. `all`: the keys of each; `shared`: those of none (intake, dead letters)."""

    def __init__(
        self,
        client: "Redis",
        prefix: str,
        count: int,
        *,
        upstream_of: Upstream,
        scripts: Scripts,
        retry_for_s: float,
    ) -> None:
        """`upstream_of`: the first data set that a model is fed from, None where it is not known. Asks nothing yet."""
        if not 1 <= count <= SHARDS_MAX:
            raise BadInput("setting `redis.shards`", got=count, expected=f"1 to {SHARDS_MAX}")
        self._client: Any = client
        self._upstream_of, self._scripts, self._retry_for_s = upstream_of, scripts, retry_for_s
        self.all = keys_of_each(prefix, count)
        self.shared = self.all[0] if count == 1 else Keys(prefix)
        self._places: dict[str, int] = {}
        self._pinned = False

    def pin(self) -> None:
        """Say how many shards there are, if nobody has yet; raises BadInput where it is another number."""
        self.check()
        self._agree(self._scripts.run("pin", [self.shared.shards], [len(self.all)])[0])
        self._pinned = True

    def check(self) -> None:
        """Raise BadInput where this Redis has another number of shards; writes nothing."""
        found = self._ask(lambda: self._client.hget(self.shared.shards, "#"))
        if found is not None:
            self._agree(found)
        elif len(self.all) > 1 and self._ask(lambda: self._client.exists(self.shared.index)):
            self._agree(b"1")  # incidents from before there were shards

    def prepare(self, models: Iterable[str], told: Upstream = _nothing_told) -> None:
        """Find, in one round trip, the shards of models that are not known yet; `of_model` then asks nothing.

        `told`: the first data set that a model's event says it is fed from; asked only where none is configured.
        """
        unknown = [] if len(self.all) == 1 else [one for one in dict.fromkeys(models) if one not in self._places]
        if not unknown:
            return
        if not self._pinned:
            self.pin()
        replies = self._scripts.run_many(
            "pin", [([self.shared.shards], [len(self.all), one, self._would_be(one, told)]) for one in unknown]
        )
        if len(self._places) > _REMEMBERED_MAX:
            self._places.clear()
        for model, reply in zip(unknown, replies, strict=True):
            self._agree(reply[0])
            self._places[model] = self._number(model, reply[1])

    def are_at_home(self, events: Sequence[tuple[str, str]], ttl_ms: int, told: Upstream = _nothing_told) -> list[bool]:
        """For each event's identity and model: False where one of the same identity came before, for another shard's model.

        `told` as for `prepare`.
        """
        if len(self.all) == 1:
            return [True] * len(events)
        self.prepare((model for _, model in events), told)
        homes = [self.all.index(self.of_model(model)) for _, model in events]
        calls: list[Call] = [
            ([self.shared.identity(identity)], [home, ttl_ms])
            for (identity, _), home in zip(events, homes, strict=True)
        ]
        replies = self._scripts.run_many("place", calls)
        return [reply == str(home).encode() for reply, home in zip(replies, homes, strict=True)]

    def of_model(self, model: str) -> Keys:
        """The shard of a model, chosen now where this is its first event."""
        if len(self.all) == 1:
            return self.shared
        place = self._places.get(model)
        while place is None:
            self.prepare([model])
            place = self._places.get(model)
        return self.all[place]

    def known(self, model: str) -> Keys | None:
        """The shard of a model that had an event, for looking only."""
        if len(self.all) == 1:
            return self.shared
        if model not in self._places:
            found = self._ask(lambda: self._client.hget(self.shared.shards, model))
            if found is None:
                return None
            self._places[model] = self._number(model, found)
        return self.of_model(model)

    def of_incident(self, incident: str) -> Keys:
        """The shard that an incident's whole id names; raises NotFound where it names none."""
        if len(self.all) == 1:
            return self.shared
        try:
            return self.all[int(incident[-_DIGITS:], 16)]
        except (ValueError, IndexError):
            raise NotFound("no such incident", got=incident, expected="an id of `driftwarden incidents list`") from None

    def _would_be(self, model: str, told: Upstream) -> int:
        return zlib.crc32((self._upstream_of(model) or told(model) or model).encode()) % len(self.all)

    def _agree(self, count: bytes) -> None:
        if count != str(len(self.all)).encode():
            pinned = count.decode("utf-8", "replace")
            expected = f"{pinned}, the number of shards that this Redis was set up with"
            raise BadInput("setting `redis.shards`", got=len(self.all), expected=expected)

    def _number(self, model: str, text: bytes) -> int:
        if text.isdigit() and len(text) <= 4 and int(text) < len(self.all):
            return int(text)
        shown = text.decode("utf-8", "replace")
        raise BadInput(f"shard of model {model}", got=shown, expected=f"0 to {len(self.all) - 1}")

    def _ask(self, call: Callable[[], Any]) -> Any:
        return patiently(call, for_s=self._retry_for_s)
