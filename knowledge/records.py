"""Durable records by id: the truth from which the index is rebuilt.

Redis schema: one hash (`key`), field = record id (`incident:<id>`, `runbook:<id>`), value = the record as ASCII JSON.
"""

import json
import logging
from collections.abc import Iterable
from typing import Any

from driftwarden.contracts.ports import JsonObject
from driftwarden.errors import BadInput, Retry
from driftwarden.strict import loads_json

log = logging.getLogger(__name__)


class MemoryRecordStore:
    """Records in this process's memory: for tests and for commands that need no past."""

    def __init__(self) -> None:
        """Start empty."""
        self._records: dict[str, str] = {}

    def put(self, id: str, record: JsonObject) -> None:
        """Store or replace one record."""
        self._records[id] = json.dumps(record)

    def all(self) -> Iterable[tuple[str, JsonObject]]:
        """Every record, ordered by id."""
        return [(id, json.loads(text)) for id, text in sorted(self._records.items())]


class RedisRecordStore:
    """Records in one Redis hash; a value that cannot be read is passed over with a warning, never an error."""

    def __init__(self, client: Any, key: str) -> None:
        """Use a synchronous redis-py `client` (decoding or not) and the hash `key`."""
        self._client, self._key = client, key

    def put(self, id: str, record: JsonObject) -> None:
        """Store or replace one record; raises Retry where Redis does not answer."""
        import redis

        try:
            self._client.hset(self._key, id, json.dumps(record, allow_nan=False))
        except redis.RedisError as error:
            raise Retry(f"knowledge record not stored, Redis says: {error}") from error

    def all(self) -> Iterable[tuple[str, JsonObject]]:
        """Every record, ordered by id; raises Retry where Redis does not answer."""
        import redis

        try:
            found = {_text(id): value for id, value in self._client.hscan_iter(self._key, count=1000)}
        except redis.RedisError as error:
            raise Retry(f"knowledge records not read, Redis says: {error}") from error
        for id in sorted(found):
            record = _record(id, found[id])
            if record is not None:
                yield id, record


def _text(value: Any) -> str:
    return value.decode("utf-8", errors="replace") if isinstance(value, bytes) else str(value)


def _record(id: str, value: Any) -> JsonObject | None:
    try:
        record = loads_json(value, where=f"knowledge record {id}")
    except BadInput as error:
        log.warning("knowledge record passed over: %s", error.diagnostics())
        return None
    if not isinstance(record, dict):
        log.warning("knowledge record `%s` passed over: not an object", id)
        return None
    return record
