"""What each window of a model measured, newest last: the agents' metric history and `models list`'s last windows.

Sorted set `<prefix>metrics:<model>`: sealed JSON of one figure of a window, scored by the window's end (s). Of one window there
may stand several: what the service wrote down of it from its incidents, and of each source (`by`) each file that it reported,
and what it reported without any. Nobody's word takes the place of another's, nor of what was measured; a file does that of what
the same source reported of that window before, once it was measured (`_replaces`, as `windows.replaces`).
Set `<prefix>unmeasured`: models of which somebody reported a window that is to be measured here, and may have been by now. Key
`<prefix>measuring:<model>`: who measures them, for as long as that may take.

At most `WINDOWS_KEPT` of them are kept of a model, and at most half of these from what one source reported: whoever reports
much pushes out their own.
"""

import hashlib
import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any
from uuid import uuid4

import redis

from driftwarden.clock import parse_rfc3339
from driftwarden.errors import Retry
from driftwarden.sealing import Seal
from driftwarden.service.workflow.windows import ROWS_MIN
from driftwarden.strict import plain

WINDOWS_KEPT = 500
KEPT_OF_A_SOURCE = WINDOWS_KEPT // 2
REPORTS_KNOWN = 8
_INTERNAL = ("by", "reports", "told", "place", "labelled")
_UNMEASURED = b'"unmeasured": true'
# What belongs together: the value, and what it was measured on and against.
_FIGURE = ("value", "reference", "rows", "metric", "basis", "version")

Window = dict[str, Any]
# By what stands there of one window: what goes, and what comes; None: nothing is to change.
Change = Callable[[Mapping[bytes, Window]], tuple[Collection[bytes], Collection[Window]] | None]


class MetricHistory:
    """Windows by model."""

    def __init__(self, client: Any, prefix: str, seal: Seal) -> None:
        """Use this Redis; windows that `seal` does not open are left out."""
        self._redis, self._prefix, self._seal = client, f"{prefix}metrics:", seal
        self._unmeasured, self._measuring = f"{prefix}unmeasured", f"{prefix}measuring:"

    def record(self, model: str, window: Window) -> None:
        """Keep `{start, end, rows, metric, value, reference, drift_share, incident, labelled}`, `end` in RFC 3339; what was
        reported of the window stays beside it. `labelled`: the value was measured with labels."""

        def kept(known: Mapping[bytes, Window]) -> tuple[Collection[bytes], Collection[Window]] | None:
            own = {raw: one for raw, one in known.items() if "by" not in one}
            if window.get("value") is None and any(one.get("value") is not None for one in own.values()):
                return None  # what could not be measured this time takes nothing away
            return own, [window]

        self._put(model, window["end"], kept)
        self._trim(model)

    def report(self, model: str, window: Window, *, report: str, source: str) -> bool:
        """Keep what was reported of a window beside what else is known of it; False where this very `report` was kept before.

        `window` as for `record`, and `told` (RFC 3339), the moment that the report tells of. Where it has a `uri` it is to be
        measured here; until then, what was measured of the same file stays.
        """
        by = hashlib.sha256(source.encode("utf-8", "surrogatepass")).hexdigest()[:12]

        def kept(known: Mapping[bytes, Window]) -> tuple[Collection[bytes], Collection[Window]] | None:
            if any(report in one.get("reports", ()) for one in known.values()):
                return None
            mine = {raw: one for raw, one in known.items() if one.get("by") == by}
            same = {raw: one for raw, one in mine.items() if one.get("uri") == window.get("uri")}
            before: Window = next(iter(same.values()), {})
            measured = before.get("basis") == "measured"
            figure = {name: before[name] for name in _FIGURE if measured and before.get(name) is not None}
            reports = [*before.get("reports", [])[1 - REPORTS_KNOWN :], report]
            place = 1 + max((int(one.get("place", 0)) for one in mine.values()), default=0)
            told = {"by": by, "reports": reports, "place": place, "unmeasured": bool(window.get("uri"))}
            return same, [before | window | figure | told]

        if window.get("uri"):  # first, so that nothing waits unseen
            self._redis.sadd(self._unmeasured, model)
        if not self._put(model, window["end"], kept):
            return False
        self._trim(model, by)
        return True

    def knows(self, model: str, end: str, report: str) -> bool:
        """Whether this report of the window that ends then was kept."""
        score = parse_rfc3339(end).timestamp()
        known = self._known(model, self._redis.zrangebyscore(self._prefix + model, score, score))
        return any(report in one.get("reports", ()) for one in known.values())

    def last(self, model: str, limit: int = 20) -> list[Window]:
        """All that stands of the newest windows, newest last, of one window what names a file last; `unmeasured` where that is
        still to be measured."""
        return [_shown(one) for of_one in self._by_end(model, limit) for one in sorted(of_one, key=_order)]

    def windows(self, model: str, limit: int = 20) -> list[Window]:
        """The newest windows, newest last, each once: the figure that counts most, and what else is known of the window."""
        return [_shown(_merged(of_one)) for of_one in self._by_end(model, limit)]

    def _by_end(self, model: str, limit: int) -> list[list[Window]]:
        """What stands of each of the newest windows, newest last."""
        key, found, at = self._prefix + model, dict[float, list[Window]](), 0
        while page := self._redis.zrange(key, at, at + limit, desc=True, withscores=True):
            at += len(page)
            for raw, score in page:
                window = self._opened(model, raw)
                if window is not None and (score in found or len(found) < limit):
                    found.setdefault(score, []).append(window)
            if len(found) >= limit and page[-1][1] < min(found):
                break
        return [found[score] for score in sorted(found)]

    # What was reported and is to be measured

    def with_unmeasured(self) -> list[str]:
        """Models of which something may be left to be measured."""
        return sorted(name.decode() for name in self._redis.smembers(self._unmeasured))

    def unmeasured(self, model: str, limit: int) -> list[tuple[bytes, Window]]:
        """What is to be measured, the newest first, each with what stands there (for `measured`)."""
        raws = [raw for raw in self._redis.zrange(self._prefix + model, 0, -1) if _UNMEASURED in raw]
        return list(self._known(model, raws[::-1]).items())[:limit]

    def measured(self, model: str, raw: bytes, window: Window, *, rows_max: int) -> bool:
        """Put what was measured in the place of `raw`, and of what it replaces (of which at most `rows_max` rows would be
        measured); False where something else stands there by now."""

        def kept(known: Mapping[bytes, Window]) -> tuple[Collection[bytes], Collection[Window]] | None:
            if raw not in known:
                return None
            now = {one: told for one, told in {**known, raw: window}.items() if told.get("by") == window.get("by")}
            gone = {one for one in now if any(_replaces(newer, now[one], rows_max) for newer in now.values())}
            if not gone:
                return [raw], [window]
            # It may itself be what goes, where a later report was measured before it.
            stands = (one for one in now if one not in gone and now[one].get("basis") == "measured")
            heir = max(stands, key=lambda one: int(now[one].get("place", 0)))
            reports = [report for one in (*gone, heir) for report in now[one].get("reports", ())]
            come = {heir: now[heir] | {"reports": reports[-REPORTS_KNOWN:]}}
            if raw not in gone:
                come.setdefault(raw, window)
            return {*gone, *come}, [*come.values()]

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

    def _put(self, model: str, end: str, change: Change) -> bool:
        """Change what stands of the window that ends then; False where `change` says that nothing is to change."""
        key, score = self._prefix + model, parse_rfc3339(end).timestamp()
        for _ in range(20):
            with self._redis.pipeline(transaction=True) as pipe:
                try:
                    pipe.watch(key)
                    changed = change(self._known(model, pipe.zrangebyscore(key, score, score)))
                    if changed is None:
                        return False
                    gone, come = changed
                    pipe.multi()
                    if gone:
                        pipe.zrem(key, *gone)
                    for one in come:
                        sealed = self._seal.close("metrics", model, json.dumps(plain(one), sort_keys=True))
                        pipe.zadd(key, {sealed: score})
                    pipe.execute()
                except redis.WatchError:
                    continue
            return True
        raise Retry(f"the windows of `{model}` kept changing under this one; try again")

    def _known(self, model: str, raws: Sequence[bytes]) -> dict[bytes, Window]:
        return {raw: window for raw in raws if (window := self._opened(model, raw)) is not None}

    def _trim(self, model: str, by: str | None = None) -> None:
        """Drop the oldest of a source that reported more than its share, and then the oldest of all."""
        key = self._prefix + model
        if by is not None and int(self._redis.zcard(key)) > KEPT_OF_A_SOURCE:
            mark = f'"by": "{by}"'.encode()
            own = [raw for raw in self._redis.zrange(key, 0, -1) if mark in raw]
            if over := own[:-KEPT_OF_A_SOURCE]:
                self._redis.zrem(key, *over)
        self._redis.zremrangebyrank(key, 0, -WINDOWS_KEPT - 1)


def _replaces(newer: Window, older: Window, rows_max: int) -> bool:
    """Whether a source's later report takes the place of its earlier one of the same window: it was measured here, with labels,
    on at least half as many rows."""
    if newer.get("basis") != "measured" or newer.get("by") != older.get("by"):
        return False
    if int(newer.get("place", 0)) <= int(older.get("place", 0)):
        return False
    return int(newer.get("rows") or 0) >= max(ROWS_MIN, min(int(older.get("rows") or rows_max), rows_max) / 2)


def _order(window: Window) -> tuple[bool, bool, int]:
    return "by" in window, window.get("uri") is not None, int(window.get("place", 0))


def _merged(of_one: Sequence[Window]) -> Window:
    """One window of all that stands of it: measured figures before words, and the worst of those (scorers: more is better)."""

    def weight(one: Window) -> tuple[int, float]:
        if one.get("value") is None:
            return -1, 0.0
        own = "by" not in one
        kind = 3 if own and one.get("labelled") else 2 if one.get("basis") == "measured" else 1 if own else 0
        return kind, -float(one["value"])

    best = max(of_one, key=weight)
    about = {name: value for one in of_one for name, value in one.items() if value is not None and name not in _FIGURE}
    references = (one for one in of_one if one.get("metric") == best.get("metric"))
    reference = next((one["reference"] for one in references if one.get("reference") is not None), None)
    about |= {"reference": reference, "unmeasured": any(one.get("unmeasured") for one in of_one)}
    return about | {name: best[name] for name in _FIGURE if best.get(name) is not None}


def _shown(window: Window) -> Window:
    hidden = _INTERNAL if window.get("unmeasured") else (*_INTERNAL, "unmeasured")
    return {name: value for name, value in window.items() if name not in hidden}
