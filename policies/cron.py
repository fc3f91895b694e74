"""Five-field cron expressions as sets of minutes, hours and days; cronsim parses and matches, nothing is searched here.

As in Debian's cron, a schedule at fixed times runs once on a day whose clock jumps (a skipped time at the end of the
gap, a repeated one at its first pass), and one whose minute or hour begins with `*` follows the clock as it runs.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, datetime

from cronsim import CronSim, CronSimError
from cronsim.cronsim import Field


@dataclass(frozen=True, slots=True)
class Cron:
    """`minutes` of the day at which the schedule starts, on the days that `matches` accepts."""

    text: str
    minutes: tuple[int, ...]
    follows_clock: bool
    months: frozenset[int]
    _days: CronSim

    def matches(self, day: date) -> bool:
        """Does it start on this day?"""
        return day.month in self.months and bool(self._days.match_day(day))


def parse_cron(text: str) -> Cron:
    """Read exactly five fields; ValueError where they cannot be read. A day that never comes (30 February) can."""
    fields = text.upper().split()
    if len(fields) != 5 or not text.isascii():
        raise ValueError("not five fields")
    try:
        minutes, hours = Field.MINUTE.parse(fields[0]), Field.HOUR.parse(fields[1])
        months = Field.MONTH.parse(fields[3])
        # Parsed with all months: cronsim refuses a date that no given month has, and that is a lint here.
        days = CronSim(" ".join(["0", "0", fields[2], "*", fields[4]]), datetime(2024, 1, 1))  # noqa: DTZ001
    except (CronSimError, IndexError, AssertionError, ValueError) as error:
        raise ValueError("not a cron expression") from error
    return Cron(
        text=text,
        minutes=tuple(sorted(int(hour) * 60 + int(minute) for hour in _whole(hours) for minute in _whole(minutes))),
        follows_clock=fields[0].startswith("*") or fields[1].startswith("*"),
        months=frozenset(_whole(months)),
        _days=days,
    )


def _whole(items: object) -> Iterator[int]:
    for item in items:  # type: ignore[attr-defined]
        if not isinstance(item, int):
            raise ValueError("not a plain number")
        yield item
