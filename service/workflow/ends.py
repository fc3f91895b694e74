"""Which incidents the audit log says ended, at which version of their stored state, and as what; in a few bytes each.

Kept by the day they ended on, and no longer than Redis keeps them: what is asked about one that was opened before is read from
the log again, once, and once more after it has ended since. That is rare: it has been open for longer than closed ones are kept,
or the state in Redis was put back.
"""

import hashlib
import sys
from collections.abc import Callable, Iterable
from datetime import timedelta
from typing import Any

from driftwarden.clock import Clock, SystemClock, parse_rfc3339

JsonObject = dict[str, Any]
LookBack = Callable[[str], Iterable[JsonObject]]

DAY_MS = 86_400_000
LOOKED_MAX = 10_000


def ms_of(moment: object) -> int | None:
    """Milliseconds of an RFC 3339 time; None where it is none."""
    try:
        return int(parse_rfc3339(str(moment)).timestamp() * 1000)
    except ValueError:
        return None


class Ends:
    """The ends of one process's log; not thread-safe. `kept`: how long closed incidents stay in Redis (None: for good)."""

    def __init__(
        self, kept: timedelta | None = None, look_back: LookBack | None = None, clock: Clock | None = None
    ) -> None:
        """`look_back` reads all `close` records of an incident from the log; without it nothing is dropped."""
        self._kept_ms = None if kept is None else int(kept.total_seconds() * 1000)
        self._look_back, self._clock = look_back, clock or SystemClock()
        self._days: dict[int, dict[int, dict[int, str] | str]] = {}
        self._looked: dict[int, list[tuple[int, int, str]]] = {}  # day, version and state of each end that was found

    def since_ms(self, opened_at: str) -> int:
        """From when on the log speaks of the incident that was opened then, and not of an earlier one of the same name."""
        opened_ms = ms_of(opened_at)
        if opened_ms is None or self._kept_ms is None:
            return 0
        return min(opened_ms, self._now_ms()) - self._kept_ms

    def add(self, incident: str, version: int, state: str, at: object) -> None:
        """It ended in this state, from this version of what was stored."""
        number, at_ms = _number(incident), ms_of(at)
        # What was read before it ended does not tell of that, and the day on which it did is not kept for good.
        self._looked.pop(number, None)
        day, first = (self._now_ms() if at_ms is None else at_ms) // DAY_MS, self._first_day()
        if first is not None:
            for past in [one for one in self._days if one < first]:
                del self._days[past]
            if day < first:
                return
        ends = self._days.setdefault(day, {})
        before = ends.get(number)
        # Most end once: a text that many share takes no room, a dict some hundred bytes.
        text = sys.intern(f"{version} {state}")
        ends[number] = text if before is None else _unpacked(before) | {version: state}

    def of(self, incident: str, opened_at: str) -> dict[int, str]:
        """Version of the stored state that was closed -> the state that it ended in."""
        number, since_day = _number(incident), self.since_ms(opened_at) // DAY_MS
        found: dict[int, str] = {}
        opened_ms, first = ms_of(opened_at), self._first_day()
        if first is not None and (opened_ms is None or opened_ms // DAY_MS < first):
            found |= {
                version: state for day, version, state in self._from_the_log(incident, number) if day >= since_day
            }
        for day in sorted(self._days):
            if day >= since_day:
                found |= _unpacked(self._days[day].get(number))
        return found

    def __len__(self) -> int:
        """How many are kept."""
        return sum(len(ends) for ends in self._days.values())

    def _from_the_log(self, incident: str, number: int) -> list[tuple[int, int, str]]:
        if number not in self._looked:
            found = []
            for record in self._look_back(incident) if self._look_back else ():
                version, at_ms = record["body"].get("version"), ms_of(record.get("ts"))
                if isinstance(version, int):
                    day = sys.maxsize if at_ms is None else at_ms // DAY_MS
                    found.append((day, version, str(record["body"].get("state"))))
            if len(self._looked) >= LOOKED_MAX:
                del self._looked[next(iter(self._looked))]
            self._looked[number] = found
        return self._looked[number]

    def _first_day(self) -> int | None:
        """The first day that is kept; None: every day is."""
        if self._kept_ms is None or self._look_back is None:
            return None
        return (self._now_ms() - self._kept_ms) // DAY_MS - 1

    def _now_ms(self) -> int:
        return int(self._clock.now().timestamp() * 1000)


def _number(incident: str) -> int:
    """An incident's name in a few bytes; 64 bits of it, so that of a billion two are the same with a chance of one in 37."""
    return int.from_bytes(hashlib.blake2b(incident.encode(), digest_size=8).digest(), "big")


def _unpacked(ends: dict[int, str] | str | None) -> dict[int, str]:
    if isinstance(ends, str):
        version, _, state = ends.partition(" ")
        return {int(version): state}
    return dict(ends or {})
