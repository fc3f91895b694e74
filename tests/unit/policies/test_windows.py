"""Windows across daylight saving, months, leap years and holidays."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from driftwarden.policies import Policy, load_policy
from driftwarden.policies.windows import merge, resolve, year_start
from driftwarden.policies.zones import instants, zone, zone_names


def verdict_at(policy: Policy, moment: str) -> str:
    """The verdict of the window `w` at a moment."""
    decision = policy.decide({"now": moment, "model": {"name": "m"}, "plan": {"action": "retrain"}})
    return next(rule.verdict for rule in decision.rules if rule.id == "window:w")


def window(policy_of: Callable[..., str], fields: str, zone_name: str = "Europe/Amsterdam") -> Policy:
    """A policy with one window `w`."""
    return load_policy(policy_of(f"  windows:\n    - {{id: w, {fields}}}\n", zone=zone_name), "w.yml")


@pytest.mark.parametrize(
    ("fields", "moment", "inside"),
    [
        # 22:00 + 8 h of elapsed time over the spring change (29 March 2026) ends at 07:00 on the wall clock
        ('schedule: "0 22 * * *", duration: 8h', "2026-03-28T20:59:59Z", False),
        ('schedule: "0 22 * * *", duration: 8h', "2026-03-28T21:00:00Z", True),
        ('schedule: "0 22 * * *", duration: 8h', "2026-03-29T04:59:59Z", True),
        ('schedule: "0 22 * * *", duration: 8h', "2026-03-29T05:00:00Z", False),
        # until 06:00 on the wall clock: 7 h that night, 9 h in the night of the autumn change (25 October 2026)
        ('schedule: "0 22 * * *", until: "06:00"', "2026-03-29T03:59:59Z", True),
        ('schedule: "0 22 * * *", until: "06:00"', "2026-03-29T04:00:00Z", False),
        ('schedule: "0 22 * * *", until: "06:00"', "2026-10-25T04:59:59Z", True),
        ('schedule: "0 22 * * *", until: "06:00"', "2026-10-25T05:00:00Z", False),
        # 02:30 does not exist on 29 March: the window starts at the end of the gap, 03:00 summer time
        ('schedule: "30 2 * * *", duration: 1h', "2026-03-29T00:59:59Z", False),
        ('schedule: "30 2 * * *", duration: 1h', "2026-03-29T01:00:00Z", True),
        ('schedule: "30 2 * * *", duration: 1h', "2026-03-29T02:00:00Z", False),
        # ... and one that lies in the gap altogether never is
        ('schedule: "0 2 * * *", until: "02:30"', "2026-03-29T01:00:00Z", False),
        # 02:30 comes twice on 25 October: the schedule starts at the first
        ('schedule: "30 2 * * *", duration: 30m', "2026-10-25T00:30:00Z", True),
        ('schedule: "30 2 * * *", duration: 30m', "2026-10-25T01:30:00Z", False),
        # every hour follows the clock as it runs: both 02:00 of 25 October
        ('schedule: "0 * * * *", duration: 10m', "2026-10-25T00:05:00Z", True),
        ('schedule: "0 * * * *", duration: 10m', "2026-10-25T01:05:00Z", True),
        ('schedule: "0 * * * *", duration: 10m', "2026-10-25T01:10:00Z", False),
        # the last day of the month, leap years included
        ('schedule: "0 18 L * *", duration: 36h', "2028-02-29T17:00:00Z", True),
        ('schedule: "0 18 L * *", duration: 36h', "2028-02-28T17:00:00Z", False),
        ('schedule: "0 18 L * *", duration: 36h', "2027-03-02T04:59:59Z", True),
        ('schedule: "0 18 L * *", duration: 36h', "2027-03-02T05:00:00Z", False),
        # into the next year
        ('schedule: "0 18 L 12 *", duration: 36h', "2027-01-01T12:00:00Z", True),
        # a long one that began last year, a weekday, a list
        ('schedule: "0 0 1 12 *", duration: 60d', "2027-01-29T22:59:59Z", True),
        ('schedule: "0 9 * * 1-5", until: "17:00"', "2026-11-20T15:59:59Z", True),
        ('schedule: "0 9 * * 1-5", until: "17:00"', "2026-11-20T16:00:00Z", False),
        ('schedule: "0 9 * * 1-5", until: "17:00"', "2026-11-21T10:00:00Z", False),
        ('schedule: "0 9,13 * * *", duration: 2h', "2026-11-21T13:59:00Z", True),
        # spans, in the policy's zone or with an offset
        ('from: "2026-12-18T18:00:00", to: "2027-01-04T08:00:00"', "2026-12-18T17:00:00Z", True),
        ('from: "2026-12-18T18:00:00", to: "2027-01-04T08:00:00"', "2026-12-18T16:59:59Z", False),
        ('from: "2026-12-18T18:00:00", to: "2027-01-04T08:00:00"', "2027-01-04T07:00:00Z", False),
        ('from: "2026-12-18T18:00:00Z", to: "2026-12-18T19:00:00+00:00"', "2026-12-18T18:30:00Z", True),
        # holidays: whole local days (King's Day, Easter Monday; Christmas in UTC is a day in Amsterdam's clothes)
        ("holidays: {country: NL}", "2026-04-26T22:00:00Z", True),
        ("holidays: {country: NL}", "2026-04-26T21:59:59Z", False),
        ("holidays: {country: NL}", "2026-04-27T22:00:00Z", False),
        ("holidays: {country: DE, subdivision: BY}", "2026-11-01T12:00:00Z", True),
        ("holidays: {country: DE}", "2026-11-01T12:00:00Z", False),
        # a zone of its own
        ('schedule: "0 9 * * *", until: "17:00", timeZone: America/New_York', "2026-11-20T21:59:59Z", True),
        ('schedule: "0 9 * * *", until: "17:00", timeZone: America/New_York', "2026-11-20T13:59:59Z", False),
    ],
)
def test_a_window_at_a_moment(policy_of: Callable[..., str], fields: str, moment: str, inside: bool) -> None:
    """A deny window fails inside and passes outside, an allow window the other way round."""
    assert verdict_at(window(policy_of, f"kind: deny, {fields}"), moment) == ("fail" if inside else "pass")
    assert verdict_at(window(policy_of, f"kind: allow, {fields}"), moment) == ("pass" if inside else "fail")


def test_an_end_that_comes_twice_holds_actions_back(policy_of: Callable[..., str]) -> None:
    """Until 02:30 in the autumn night: a deny window lasts to the second 02:30, an allow window to the first."""
    fields = 'schedule: "0 1 * * *", until: "02:30"'
    between = "2026-10-25T01:00:00Z"
    assert verdict_at(window(policy_of, f"kind: deny, {fields}"), between) == "fail"
    assert verdict_at(window(policy_of, f"kind: allow, {fields}"), between) == "fail"


@pytest.mark.parametrize(
    "now", [None, "soon", 1795165200, "2026-11-20T09:00:00", "2026-13-01T00:00:00Z", "1969-12-31T23:59:59Z"]
)
def test_a_moment_that_is_no_moment_is_unknown(policy_of: Callable[..., str], now: Any) -> None:
    """A window never passes on a `now` that cannot be read."""
    policy = window(policy_of, 'kind: deny, schedule: "0 9 * * *", duration: 1h')
    decision = policy.decide({"now": now, "model": {"name": "m"}, "plan": {"action": "retrain"}})
    assert next(rule.verdict for rule in decision.rules if rule.id == "window:w") == "unknown"


def test_a_year_without_a_calendar_is_unknown(policy_of: Callable[..., str]) -> None:
    """Where the holidays of a year are not known, a holiday window does not pass."""
    policy = window(policy_of, "kind: deny, holidays: {country: NL}")
    assert [verdict_at(policy, f"{year}-06-15T00:00:00Z") for year in (2026, 2150)] == ["pass", "unknown"]
    assert resolve(policy.document.windows[0], 2150, 2150).covers(year_start(2150)) is None


def test_every_zone_comes_from_the_package() -> None:
    """No zone is read from the host, and names cannot leave the package."""
    assert "Europe/Amsterdam" in zone_names()
    for name in ("../../etc/passwd", "", "Europe", "europe/amsterdam"):
        with pytest.raises(ValueError, match="not a time zone"):
            zone(name)


def test_a_skipped_day_has_no_instants_of_its_own() -> None:
    """Samoa skipped 30 December 2011: its noon is the end of the gap."""
    noon = instants(datetime(2011, 12, 30, 12), zone("Pacific/Apia"))  # noqa: DTZ001
    assert noon == (int(datetime(2011, 12, 30, 10, tzinfo=UTC).timestamp()),)


def test_intervals_are_merged_and_empty_ones_vanish() -> None:
    """Sorted, disjoint, not touching."""
    assert merge([(5, 9), (1, 3), (3, 4), (6, 7), (20, 20), (30, 29)]) == [(1, 4), (5, 9)]


def test_a_replay_uses_the_recorded_intervals(policy_of: Callable[..., str]) -> None:
    """A change record's own intervals decide, not those of today's tzdata and holidays."""
    policy = window(policy_of, 'kind: deny, schedule: "0 9 * * *", duration: 1h')
    body = policy.change_record(datetime(2026, 11, 20, tzinfo=UTC))
    assert ["2026-11-20T08:00:00Z", "2026-11-20T09:00:00Z"] in body["windows"]["w"]
    assert body["horizon"] == {"from": "2025-01-01T00:00:00Z", "to": "2029-01-01T00:00:00Z"}
    body["windows"]["w"] = [["2026-11-20T12:00:00Z", "2026-11-20T13:00:00Z"]]
    recorded = Policy.from_change_record(body)
    assert [verdict_at(recorded, f"2026-11-20T{hour}:30:00Z") for hour in ("08", "12")] == ["pass", "fail"]
    assert verdict_at(recorded, "2031-11-20T08:30:00Z") == "fail"  # beyond the horizon: resolved here
