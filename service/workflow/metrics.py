"""What each window of a model measured, newest last: the agents' metric history and `models list`'s last windows.

Sorted set `<prefix>metrics:<model>`: sealed JSON of one window, scored by its end (s); a window measured again replaces its entry.
"""

import json
from typing import Any

from driftwarden.clock import parse_rfc3339
from driftwarden.sealing import Seal
from driftwarden.strict import plain

WINDOWS_KEPT = 500


class MetricHistory:
    """Windows by model."""

    def __init__(self, client: Any, prefix: str, seal: Seal) -> None:
        """Use this Redis; windows that `seal` does not open are left out."""
        self._redis, self._prefix, self._seal = client, f"{prefix}metrics:", seal

    def record(self, model: str, window: dict[str, Any]) -> None:
        """Keep `{start, end, rows, metric, value, reference, drift_share, incident, outcome}`; `end` is RFC 3339."""
        key = self._prefix + model
        score = parse_rfc3339(window["end"]).timestamp()
        with self._redis.pipeline(transaction=True) as pipe:
            pipe.zremrangebyscore(key, score, score)
            pipe.zadd(key, {self._seal.close("metrics", model, json.dumps(plain(window), sort_keys=True)): score})
            pipe.zremrangebyrank(key, 0, -WINDOWS_KEPT - 1)
            pipe.execute()

    def last(self, model: str, limit: int = 20) -> list[dict[str, Any]]:
        """The newest windows, newest last."""
        found = self._redis.zrange(self._prefix + model, -limit, -1)
        opened = (self._seal.open("metrics", model, raw) for raw in found)
        return [json.loads(text) for text in opened if text is not None]
