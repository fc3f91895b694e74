"""Time zones from the `tzdata` package alone (never the host's copy), and public holidays: data with versions."""

import bisect
import warnings
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from importlib import import_module, resources
from importlib.metadata import version
from zoneinfo import ZoneInfo

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@lru_cache(maxsize=1)
def zone_names() -> frozenset[str]:
    """Every IANA name that the package knows."""
    return frozenset(resources.files("tzdata").joinpath("zones").read_text(encoding="utf-8").split())


@lru_cache(maxsize=256)
def zone(name: str) -> ZoneInfo:
    """The zone of this IANA name; ValueError where the package has none."""
    if name not in zone_names():
        raise ValueError(f"not a time zone: {name}")
    with resources.files("tzdata").joinpath("zoneinfo", *name.split("/")).open("rb") as file:
        return ZoneInfo.from_file(file, key=name)


@lru_cache(maxsize=1)
def data_versions() -> dict[str, str]:
    """Versions of the data that windows are resolved from: `tzdata` (IANA's name) and `holidays`."""
    return {"tzdata": str(import_module("tzdata").IANA_VERSION), "holidays": version("holidays")}


@lru_cache(maxsize=1)
def holiday_countries() -> dict[str, tuple[str, ...]]:
    """Country codes whose holidays are known, each with its subdivisions."""
    listed = import_module("holidays").list_supported_countries(include_aliases=False)
    return {country: tuple(subdivisions) for country, subdivisions in listed.items()}


@lru_cache(maxsize=256)
def holiday_dates(country: str, subdivision: str | None, year: int) -> tuple[date, ...]:
    """The public holidays of a year, in order; empty where the calendar knows none for it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns of years that it does not know: empty here, and so unknown
        found = import_module("holidays").country_holidays(country, subdiv=subdivision, years=year, expand=False)
    return tuple(sorted(day for day in found if day.year == year))


def epoch(moment: datetime) -> int:
    """Whole seconds since 1970 in UTC, rounded down."""
    return (moment - _EPOCH) // timedelta(seconds=1)


def instants(local: datetime, tz: ZoneInfo) -> tuple[int, ...]:
    """The UTC seconds at which a wall clock shows `local` (naive): one; two, in order, where the hour is repeated; the
    end of the gap where it is skipped."""
    first = epoch(local.replace(tzinfo=tz, fold=0).astimezone(UTC))
    second = epoch(local.replace(tzinfo=tz, fold=1).astimezone(UTC))
    if first == second:
        return (first,)
    if first < second:
        return (first, second)
    after = local.replace(tzinfo=tz, fold=1).utcoffset()
    seconds = range(second, first + 1)
    index = bisect.bisect_left(seconds, True, key=lambda at: _offset(at, tz) == after)
    return (seconds[index],)


def _offset(at: int, tz: ZoneInfo) -> timedelta | None:
    return (_EPOCH + timedelta(seconds=at)).astimezone(tz).utcoffset()


def plain_day_start(day: date, tz: ZoneInfo) -> int | None:
    """UTC seconds of a local day's midnight where its wall clock runs without a jump from midnight to midnight, else None."""
    today = datetime.combine(day, datetime.min.time())
    start, end = instants(today, tz), instants(today + timedelta(days=1), tz)
    plain = (
        len(start) == 1
        and len(end) == 1
        and end[0] - start[0] == 86400
        and _offset(start[0], tz) == _offset(end[0], tz)
    )
    return start[0] if plain else None
