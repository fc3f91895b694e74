"""Windows as sorted, disjoint UTC intervals: resolved once per window and year, then searched by bisection.

Times are whole seconds since 1970, UTC. `duration` is elapsed time; `until` is wall-clock time. Where a wall-clock end
comes twice (autumn), a deny window ends at the later and an allow window at the earlier: the doubt holds actions back.
"""

import bisect
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Final

from driftwarden.policies.document import Holidays, Schedule, Span, Window
from driftwarden.policies.zones import epoch, holiday_dates, instants, plain_day_start, zone

Interval = tuple[int, int]
YEAR_MIN: Final = 1970
YEAR_MAX: Final = 2199


@dataclass(frozen=True, slots=True)
class Timeline:
    """Disjoint intervals [start, end) in order, known for the time from `known_from` to `known_to`."""

    starts: tuple[int, ...]
    ends: tuple[int, ...]
    known_from: int
    known_to: int

    def covers(self, at: int) -> bool | None:
        """Is the moment inside an interval? None where it is not known."""
        if not self.known_from <= at < self.known_to:
            return None
        index = bisect.bisect_right(self.starts, at) - 1
        return index >= 0 and at < self.ends[index]


@dataclass(slots=True)
class WindowClock:
    """Answers whether a moment is inside a window: from `recorded` intervals where they reach, else resolved by year."""

    window: Window
    recorded: Timeline | None = None
    _years: dict[int, Timeline] = field(default_factory=dict)

    def covers(self, moment: datetime) -> bool | None:
        """True inside, False outside, None where the window cannot be resolved for that year. `moment` in UTC."""
        at = epoch(moment)
        if self.recorded is not None:
            known = self.recorded.covers(at)
            if known is not None:
                return known
        timeline = self._years.get(moment.year)
        if timeline is None:
            timeline = self._years[moment.year] = resolve(self.window, moment.year, moment.year)
        return timeline.covers(at)


def year_start(year: int) -> int:
    """The UTC second at which a year begins."""
    return epoch(datetime(year, 1, 1, tzinfo=UTC))


def resolve(window: Window, first_year: int, last_year: int) -> Timeline:
    """Every interval of a window that touches these years (UTC), merged. A holiday calendar that knows nothing of one of
    the years leaves the whole time unknown."""
    known_from, known_to = year_start(first_year), year_start(last_year + 1)
    found = _intervals(window, known_from, known_to)
    if found is None:
        return Timeline((), (), known_from, known_from)
    merged = merge(found)
    touching = [(start, end) for start, end in merged if end > known_from and start < known_to]
    return Timeline(tuple(start for start, _ in touching), tuple(end for _, end in touching), known_from, known_to)


def merge(intervals: Iterable[Interval]) -> list[Interval]:
    """Sort intervals and join those that overlap or touch; empty ones vanish."""
    merged: list[Interval] = []
    for start, end in sorted(intervals):
        if end <= start:
            continue
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return merged


def _intervals(window: Window, known_from: int, known_to: int) -> Iterable[Interval] | None:
    match window.when:
        case Span(start, end):
            return [_span(window, start, end)]
        case Holidays(country, subdivision):
            return _holidays(window, country, subdivision, known_from, known_to)
        case Schedule() as schedule:
            lookback = (schedule.duration or timedelta(days=1)) + timedelta(days=3)
            first = _day(known_from - int(lookback.total_seconds()))
            return starts(window, schedule, first, _day(known_to + 2 * 86400))


def _day(at: int) -> date:
    return (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=at)).date()


def _span(window: Window, start: datetime, end: datetime) -> Interval:
    deny, tz = window.kind == "deny", zone(window.zone)

    def bound(at: datetime, *, later: bool) -> int:
        if at.tzinfo is not None:
            return epoch(at)
        seconds = instants(at, tz)
        return seconds[-1] if later else seconds[0]

    return bound(start, later=not deny), bound(end, later=deny)


def _holidays(window: Window, country: str, subdivision: str | None, begin: int, end: int) -> list[Interval] | None:
    tz = zone(window.zone)
    found: list[Interval] = []
    first, last = _day(begin).year, _day(end - 1).year
    for year in range(first - 1, last + 2):
        days = holiday_dates(country, subdivision, year)
        if not days and first <= year <= last:
            return None
        for day in days:
            midnight = datetime.combine(day, datetime.min.time())
            found.append((instants(midnight, tz)[0], instants(midnight + timedelta(days=1), tz)[0]))
    return found


def starts(window: Window, schedule: Schedule, first: date, last: date) -> Iterator[Interval]:
    """Every interval that a schedule starts on the local days from `first` to `last`, unmerged, in order of start."""
    tz = zone(window.zone)
    deny = window.kind == "deny"
    day = first
    while day <= last:
        if schedule.cron.matches(day):
            midnight = plain_day_start(day, tz)
            if midnight is not None and schedule.duration is not None:
                length = int(schedule.duration.total_seconds())
                for minute in schedule.cron.minutes:
                    start = midnight + minute * 60
                    yield start, start + length
            else:
                for minute, start in _starts_of(schedule, day, window.zone):
                    yield start, _end_of(schedule, day, minute, start, window.zone, deny=deny)
        day += timedelta(days=1)


def _starts_of(schedule: Schedule, day: date, zone_name: str) -> list[tuple[int, int]]:
    """(wall-clock minute of the day, UTC second) of each start on a day."""
    tz = zone(zone_name)
    midnight = datetime.combine(day, datetime.min.time())
    found: dict[int, int] = {}
    for minute in schedule.cron.minutes:
        wall = midnight + timedelta(minutes=minute)
        seconds = instants(wall, tz)
        if schedule.cron.follows_clock:
            skipped = len(seconds) == 1 and _wall(seconds[0], zone_name) != wall
            for second in () if skipped else seconds:
                found.setdefault(second, minute)
        else:
            found.setdefault(seconds[0], minute)
    return [(minute, second) for second, minute in sorted(found.items())]


def _wall(at: int, zone_name: str) -> datetime:
    moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=at)
    return moment.astimezone(zone(zone_name)).replace(tzinfo=None)


def _end_of(schedule: Schedule, day: date, minute: int, start: int, zone_name: str, *, deny: bool) -> int:
    if schedule.duration is not None:
        return start + int(schedule.duration.total_seconds())
    until = schedule.until_minute or 0
    same_day = until > minute
    end_day = datetime.combine(day, datetime.min.time()) + timedelta(days=0 if same_day else 1, minutes=until)
    later = [second for second in instants(end_day, zone(zone_name)) if second > start]
    if not later:
        return start
    return later[-1] if deny else later[0]
