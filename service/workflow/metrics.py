"""What each window of a model measured, newest last: the agents' metric history and `models list`'s last windows.

Sorted set `<prefix>metrics:<model>`: sealed JSON of one window, scored by its end (s); a window measured again replaces its entry.
Set `<prefix>unmeasured`: models of which somebody reported a window that is to be measured here, and may have been by now. Key
`<prefix>measuring:<model>`: who measures them, for as long as that may take.

At most `WINDOWS_KEPT` windows are kept of a model, and at most half of these from what one source reported: whoever reports
much pushes out their own.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from uuid import uuid4

import redis

from driftwarden.clock import parse_rfc3339
from driftwarden.errors import Retry
from driftwarden.sealing import Seal
from driftwarden.strict import plain

WINDOWS_KEPT = 500
KEPT_OF_A_SOURCE = WINDOWS_KEPT // 2
REPORTS_KNOWN = 8
_INTERNAL = ("by", "reports", "told")
_UNMEASURED = b'"unmeasured": true'

Window = dict[str, Any]


class MetricHistory:
    """Windows by model."""

    def __init__(self, client: Any, prefix: str, seal: Seal) -> None:
        """Use this Redis; windows that `seal` does not open are left out."""
        self._redis, self._prefix, self._seal = client, f"{prefix}metrics:", seal
        self._unmeasured, self._measuring = f"{prefix}unmeasured", f"{prefix}measuring:"

    def record(self, model: str, window: Window) -> None:
        """Keep `{start, end, rows, metric, value, reference, drift_share, incident, outcome}`; `end` is RFC 3339."""
        self._put(model, window["end"], lambda known: window | {k: known[k] for k in ("reports",) if k in known})
        self._trim(model)

    def report(self, model: str, window: Window, *, report: str, source: str) -> bool:
        """Keep what was reported of a window, and what else is known of it; False where this very `report` was kept before.

        `window` as for `record`, and `told` (RFC 3339), the moment that the report tells of. Where it has a `uri` it is to be
        measured here.
        """
        by = hashlib.sha256(source.encode("utf-8", "surrogatepass")).hexdigest()[:12]

        def kept(known: Window) -> Window | None:
            before = known.get("reports", [])
            if report in before:
                return None
            later = {"by": by, "reports": [*before[1 - REPORTS_KNOWN :], report], "unmeasured": bool(window.get("uri"))}
            return known | window | later

        if window.get("uri"):  # first, so that nothing waits unseen
            self._redis.sadd(self._unmeasured, model)
        if not self._put(model, window["end"], kept):
            return False
        self._trim(model, by)
        return True

    def knows(self, model: str, end: str, report: str) -> bool:
        """Whether this report of the window that ends then was kept."""
        score = parse_rfc3339(end).timestamp()
        return report in self._first(model, self._redis.zrangebyscore(self._prefix + model, score, score)).get(
            "reports", []
        )

    def last(self, model: str, limit: int = 20) -> list[Window]:
        """The newest windows, newest last; `unmeasured` where one is still to be measured."""
        found = self._redis.zrange(self._prefix + model, -limit, -1)
        windows = [window for raw in found if (window := self._opened(model, raw)) is not None]
        return [_shown(window) for window in windows]

    # What was reported and is to be measured

    def with_unmeasured(self) -> list[str]:
        """Models of which something may be left to be measured."""
        return sorted(name.decode() for name in self._redis.smembers(self._unmeasured))

    def unmeasured(self, model: str, limit: int) -> list[tuple[bytes, Window]]:
        """Windows to be measured, the newest first, each with what stands there (for `measured`)."""
        raws = [raw for raw in self._redis.zrange(self._prefix + model, 0, -1) if _UNMEASURED in raw]
        found = ((raw, self._opened(model, raw)) for raw in reversed(raws))
        return [(raw, window) for raw, window in found if window is not None][:limit]

    def measured(self, model: str, raw: bytes, window: Window) -> bool:
        """Put what was measured in the place of `raw`; False where something else stands there by now."""

        def kept(known: Window) -> Window | None:
            return window if known == json.loads(self._seal.open("metrics", model, raw) or "{}") else None

        return self._put(model, window["end"], kept)

    def all_measured(self, model: str) -> None:
        """Nothing is left of this model; what came in this very moment is seen again."""
        self._redis.srem(self._unmeasured, model)
        if self.unmeasured(model, 1):
            self._redis.sadd(self._unmeasured, model)

    @contextmanager
    def measuring(self, model: str, for_s: float) -> Iterator[bool]:
        """Whether this process is the one that measures the model's windows, for at most so long."""
        key, token = self._measuring + model, uuid4().hex
        if not self._redis.set(key, token, nx=True, px=int(for_s * 1000)):
            yield False
            return
        try:
            yield True
        finally:
            if self._redis.get(key) == token.encode():
                self._redis.delete(key)

    def _opened(self, model: str, raw: bytes) -> Window | None:
        text = self._seal.open("metrics", model, raw)
        return None if text is None else dict(json.loads(text))

    def _put(self, model: str, end: str, change: Callable[[Window], Window | None]) -> bool:
        """Change the window that ends then; False where `change` says that nothing is to change."""
        key, score = self._prefix + model, parse_rfc3339(end).timestamp()
        for _ in range(20):
            with self._redis.pipeline(transaction=True) as pipe:
                try:
                    pipe.watch(key)
                    changed = change(self._first(model, pipe.zrangebyscore(key, score, score)))
                    if changed is None:
                        return False
                    pipe.multi()
                    pipe.zremrangebyscore(key, score, score)
                    sealed = self._seal.close("metrics", model, json.dumps(plain(changed), sort_keys=True))
                    pipe.zadd(key, {sealed: score})
                    pipe.execute()
                except redis.WatchError:
                    continue
            return True
        raise Retry(f"the windows of `{model}` kept changing under this one; try again")

    def _first(self, model: str, raws: Sequence[bytes]) -> Window:
        return next((window for raw in raws if (window := self._opened(model, raw)) is not None), {})

    def _trim(self, model: str, by: str | None = None) -> None:
        """Drop the oldest of a source that reported more than its share, and then the oldest of all."""
        key = self._prefix + model
        if by is not None and int(self._redis.zcard(key)) > KEPT_OF_A_SOURCE:
            mark = f'"by": "{by}"'.encode()
            own = [raw for raw in self._redis.zrange(key, 0, -1) if mark in raw]
            if over := own[:-KEPT_OF_A_SOURCE]:
                self._redis.zrem(key, *over)
        self._redis.zremrangebyrank(key, 0, -WINDOWS_KEPT - 1)


def _shown(window: Window) -> Window:
    hidden = _INTERNAL if window.get("unmeasured") else (*_INTERNAL, "unmeasured")
    return {name: value for name, value in window.items() if name not in hidden}
