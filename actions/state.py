"""Shared small state in Redis: quarantined batches and the monitors' references, by model.

Keys (`<prefix>` ends in a colon):
  <prefix>quarantine:<model>   hash: batch -> JSON record; a batch is set once (HSETNX) until it is released
  <prefix>reference:<model>    string: JSON record with sorted keys; replaced only by compare-and-set
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from driftwarden.errors import AskHuman, Retry

JsonObject = dict[str, Any]

# KEYS[1] the reference; ARGV[1] the text expected there, ARGV[2] the new text; empty text: no reference.
_COMPARE_AND_SET = """
local present = redis.call('GET', KEYS[1]) or ''
if present ~= ARGV[1] then return 0 end
if ARGV[2] == '' then redis.call('DEL', KEYS[1]) else redis.call('SET', KEYS[1], ARGV[2]) end
return 1
"""


class RedisStateStore:
    """The port `StateStore`; raises Retry where Redis is away, AskHuman where a record there cannot be read."""

    def __init__(self, client: Any, prefix: str) -> None:
        """`client`: a redis client; `prefix` ends in a colon."""
        self._redis, self._prefix = client, prefix

    def quarantine(self, model: str, batch: str, record: JsonObject) -> bool:
        """Quarantine a batch unless it is already; True where this call did it."""
        with _reaching_redis():
            return bool(self._redis.hsetnx(self._key("quarantine", model), batch, _text(record)))

    def release(self, model: str, batch: str) -> bool:
        """Release a batch; True where it was quarantined."""
        with _reaching_redis():
            return bool(self._redis.hdel(self._key("quarantine", model), batch))

    def quarantined(self, model: str) -> dict[str, JsonObject]:
        """Batches in quarantine, by name."""
        key = self._key("quarantine", model)
        with _reaching_redis():
            found = self._redis.hgetall(key)
        return {_decoded(batch): _record(text, key) for batch, text in found.items()}

    def reference(self, model: str) -> JsonObject | None:
        """The monitors' reference that was set by an action, or None."""
        key = self._key("reference", model)
        with _reaching_redis():
            text = self._redis.get(key)
        return None if text is None else _record(text, key)

    def set_reference(self, model: str, record: JsonObject | None, *, expected: JsonObject | None) -> bool:
        """Compare-and-set the reference; True where it was set."""
        before, after = ("" if value is None else _text(value) for value in (expected, record))
        with _reaching_redis():
            return bool(self._redis.eval(_COMPARE_AND_SET, 1, self._key("reference", model), before, after))

    def _key(self, what: str, model: str) -> str:
        return f"{self._prefix}{what}:{model}"


@contextmanager
def _reaching_redis() -> Iterator[None]:
    import redis

    try:
        yield
    except (redis.exceptions.ConnectionError, redis.exceptions.TimeoutError) as error:
        raise Retry(f"redis: {type(error).__name__}") from error


def _text(record: JsonObject) -> str:
    return json.dumps(record, sort_keys=True, separators=(",", ":"), allow_nan=False)


def _decoded(value: Any) -> str:
    return value.decode("utf-8") if isinstance(value, bytes) else str(value)


def _record(text: Any, key: str) -> JsonObject:
    try:
        record = json.loads(text)
    except ValueError:
        record = None
    if not isinstance(record, dict):
        raise AskHuman(f"redis key `{key}` does not hold a record of ours")
    return record
