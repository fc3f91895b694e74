"""Shared small state in Redis: quarantined batches and the monitors' references, by model.

Keys (`<prefix>` ends in a colon):
  <prefix>quarantine:<model>   hash: batch -> sealed JSON record; a batch is set once (HSETNX) until it is released
  <prefix>reference:<model>    string: sealed JSON record with sorted keys; replaced only by compare-and-set
"""

import json
from typing import Any

from driftwarden.errors import AskHuman
from driftwarden.sealing import Seal
from driftwarden.stream.client import redis_errors

JsonObject = dict[str, Any]

# KEYS[1] the reference; ARGV[1] the text expected there, ARGV[2] the new text; empty text: no reference.
_COMPARE_AND_SET = """
local present = redis.call('GET', KEYS[1]) or ''
if present ~= ARGV[1] then return 0 end
if ARGV[2] == '' then redis.call('DEL', KEYS[1]) else redis.call('SET', KEYS[1], ARGV[2]) end
return 1
"""


class RedisStateStore:
    """The port `StateStore`; raises RedisAway where it is, AskHuman where a record there cannot be read."""

    def __init__(self, client: Any, prefix: str, seal: Seal) -> None:
        """`client`: a redis client; `prefix` ends in a colon; what `seal` does not open is no record of ours."""
        self._redis, self._prefix, self._seal = client, prefix, seal

    def quarantine(self, model: str, batch: str, record: JsonObject) -> bool:
        """Quarantine a batch unless it is already; True where this call did it."""
        with redis_errors():
            sealed = self._seal.close("quarantine", f"{model}\n{batch}", _text(record))
            return bool(self._redis.hsetnx(self._key("quarantine", model), batch, sealed))

    def release(self, model: str, batch: str) -> bool:
        """Release a batch; True where it was quarantined."""
        with redis_errors():
            return bool(self._redis.hdel(self._key("quarantine", model), batch))

    def quarantined(self, model: str) -> dict[str, JsonObject]:
        """Batches in quarantine, by name."""
        key = self._key("quarantine", model)
        with redis_errors():
            found = self._redis.hgetall(key)
        names = {_decoded(batch): text for batch, text in found.items()}
        return {
            batch: _record(self._seal.open("quarantine", f"{model}\n{batch}", text), key)
            for batch, text in names.items()
        }

    def reference(self, model: str) -> JsonObject | None:
        """The monitors' reference that was set by an action, or None."""
        key = self._key("reference", model)
        with redis_errors():
            text = self._redis.get(key)
        return None if text is None else _record(self._seal.open("reference", model, text), key)

    def set_reference(self, model: str, record: JsonObject | None, *, expected: JsonObject | None) -> bool:
        """Compare-and-set the reference; True where it was set."""
        before, after = (
            "" if value is None else self._seal.close("reference", model, _text(value)) for value in (expected, record)
        )
        with redis_errors():
            return bool(self._redis.eval(_COMPARE_AND_SET, 1, self._key("reference", model), before, after))

    def _key(self, what: str, model: str) -> str:
        return f"{self._prefix}{what}:{model}"


def _text(record: JsonObject) -> str:
    return json.dumps(record, sort_keys=True, separators=(",", ":"), allow_nan=False)


def _decoded(value: Any) -> str:
    return value.decode("utf-8") if isinstance(value, bytes) else str(value)


def _record(text: str | None, key: str) -> JsonObject:
    if text is None:
        raise AskHuman(f"redis key `{key}` does not hold a record of ours")
    record: JsonObject = json.loads(text)
    return record
