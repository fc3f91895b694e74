"""Lints: what loads, and still is hardly meant: rules without effect, windows that never or always hold, dead tiers."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Final

from driftwarden.policies.document import Match, PolicyDocument, Requirement, Schedule, Span, Window
from driftwarden.policies.engine import BEYOND_EXCEPTIONS, Policy
from driftwarden.policies.facts import FACTS, Kind, Shape
from driftwarden.policies.globs import covers
from driftwarden.policies.windows import Timeline, resolve, starts
from driftwarden.policies.zones import epoch

_YEARS_SEARCHED: Final = 9  # 29 February comes at least once in nine years
_REFERENCE: Final = datetime(2026, 1, 1, tzinfo=UTC)  # schedules repeat: where no moment is given, any year serves


@dataclass(frozen=True, slots=True)
class Lint:
    """One remark: `code` is stable, `subject` the rule, window, tier or exception, `where` file and line."""

    code: str
    subject: str
    message: str
    where: str

    def line(self) -> str:
        """The remark as one line."""
        return f"{self.where}: {self.message} ({self.code})"


def lint(
    policy: Policy, now: datetime | None = None, approvers: Mapping[str, Collection[str]] | None = None
) -> list[Lint]:
    """Every remark on a policy, in the order of the document.

    `now` (aware) finds what has expired; `approvers` (person to groups) finds approvals that too few people can give.
    """
    document = policy.document
    return [
        *_tiers(document, approvers),
        *_requirements(document),
        *_limits(document),
        *_dead_matches(document),
        *_windows(document, now),
        *_exceptions(document, now),
    ]


def _tiers(document: PolicyDocument, approvers: Mapping[str, Collection[str]] | None) -> Iterator[Lint]:
    if not document.tiers:
        yield Lint("no-tier", "tiers", "there is no tier: everything escalates, and nobody can approve", document.where)
    for index, tier in enumerate(document.tiers):
        for earlier in document.tiers[:index]:
            if match_covers(earlier.match, tier.match):
                message = f"tier `{tier.name}` is never reached: `{earlier.name}` matches all of it first"
                yield Lint("tier-shadowed", tier.name, message, tier.place)
                break
        if not tier.allow:
            yield Lint("never-passes", "tier", f"tier `{tier.name}` allows no action", tier.place)
        terms = tier.approvals
        if terms is None:
            continue
        if not terms.groups:
            message = f"approvals of tier `{tier.name}` can never be met: no group may approve"
            yield Lint("approvals-never-met", tier.name, message, tier.place)
        elif approvers is not None:
            able = sum(1 for groups in approvers.values() if set(groups) & set(terms.groups))
            if able < terms.required:
                message = f"approvals of tier `{tier.name}` can never be met: {terms.required} needed, {able} enrolled for them"
                yield Lint("approvals-never-met", tier.name, message, tier.place)


def match_covers(wide: Match, narrow: Match) -> bool:
    """Does every case that `narrow` applies to fall under `wide`? Sound: never yes where the answer is no."""
    if wide.models is not None and (
        narrow.models is None or not all(any(covers(outer, inner) for outer in wide.models) for inner in narrow.models)
    ):
        return False
    pairs = (
        (wide.tiers, narrow.tiers),
        (wide.actions, narrow.actions),
        (wide.environments, narrow.environments),
        (wide.root_causes, narrow.root_causes),
    )
    return all(outer is None or (inner is not None and set(inner) <= set(outer)) for outer, inner in pairs)


def _requirements(document: PolicyDocument) -> Iterator[Lint]:
    for rule in document.require:
        verdict = _constant(rule)
        if verdict is not None:
            yield Lint(
                f"never-{verdict}",
                rule.id,
                f"rule `{rule.id}` can never {verdict.removesuffix('es').removesuffix('s')}: "
                f"`{rule.fact}` is {FACTS[rule.fact].noun}, and {rule.operator} is {rule.written}",
                rule.place,
            )
    for low in document.require:
        for high in document.require:
            if (low.operator, high.operator, low.fact) == (
                "atLeast",
                "atMost",
                high.fact,
            ) and low.operand > high.operand:
                narrow = next((a for a, b in ((low, high), (high, low)) if match_covers(b.match, a.match)), None)
                if narrow is not None:
                    message = f"rules `{low.id}` and `{high.id}` can never pass together"
                    yield Lint("never-passes", narrow.id, message, narrow.place)


def _constant(rule: Requirement) -> str | None:
    kind = FACTS[rule.fact]
    if rule.operator in {"atLeast", "atMost"}:
        return _constant_bound(rule, kind)
    values = rule.operand if isinstance(rule.operand, frozenset) else frozenset([rule.operand])
    possible = frozenset(value for value in values if _can_be(kind, value))
    universe = frozenset([True, False]) if kind.shape is Shape.FLAG else frozenset(kind.words)
    everything = bool(universe) and possible == universe
    if rule.operator == "notIn":
        return "passes" if everything else None if possible else "fails"
    return "fails" if everything else None if possible else "passes"


def _constant_bound(rule: Requirement, kind: Kind) -> str | None:
    low, high, bound = kind.low, kind.high, rule.operand
    if kind.shape is not Shape.NUMBER:
        return None
    if rule.operator == "atLeast":
        return "fails" if low is not None and bound <= low else "passes" if high is not None and bound > high else None
    return "fails" if high is not None and bound >= high else "passes" if low is not None and bound < low else None


def _can_be(kind: Kind, value: object) -> bool:
    if not isinstance(value, Decimal):
        return True
    inside = (kind.low is None or value >= kind.low) and (kind.high is None or value <= kind.high)
    return inside and (not kind.whole or value == value.to_integral_value())


def _limits(document: PolicyDocument) -> Iterator[Lint]:
    limits = document.limits
    if limits.rate is not None:
        for id, rate in (("rate-per-model", limits.rate.per_model), ("rate-global", limits.rate.everywhere)):
            if rate is not None and rate.max == 0:
                yield Lint("never-passes", id, f"rule `{id}` can never pass: the maximum is 0", limits.rate.place)
    busy = limits.concurrency
    if busy is not None:
        for id, limit in (("concurrency-per-model", busy.per_model), ("concurrency-global", busy.everywhere)):
            if limit == 0:
                yield Lint("never-passes", id, f"rule `{id}` can never pass: the limit is 0", busy.place)
    cool = limits.cooldown
    if cool is not None and not cool.per_model and not cool.after_failure:
        yield Lint("never-fails", "cooldown", "rule `cooldown` can never fail: it lasts 0 seconds", cool.place)
    breaker = limits.circuit_breaker
    if breaker is not None and breaker.failure_percent > 100:
        message = "rule `circuit-breaker` can never fail: no share is above 100 %"
        yield Lint("never-fails", "circuit-breaker", message, breaker.place)
    radius = limits.blast_radius
    # 100 % is how a policy says "all traffic, but it must be known": no remark.
    if radius is not None and radius.traffic_percent_at_most is not None and radius.traffic_percent_at_most > 100:
        message = "rule `blast-radius-traffic` can never fail: no share is above 100 %"
        yield Lint("never-fails", "blast-radius-traffic", message, radius.place)


def _dead_matches(document: PolicyDocument) -> Iterator[Lint]:
    rules = [(rule.id, rule.match, rule.place) for rule in document.require]
    rules += [(window.rule_id, window.match, window.place) for window in document.windows]
    for id, match, place in rules:
        if match.actions is None or not document.tiers:
            continue
        tiers = [tier for tier in document.tiers if match.tiers is None or tier.name in match.tiers]
        if not any(set(match.actions) & set(tier.allow) for tier in tiers):
            message = f"rule `{id}` is only for actions that no tier of it allows: " + ", ".join(match.actions)
            yield Lint("never-applies", id, message, place)


def _windows(document: PolicyDocument, now: datetime | None) -> Iterator[Lint]:
    today = (now or _REFERENCE).astimezone(UTC)
    for window in document.windows:
        remark = _constant_window(window, today, now)
        if remark is not None:
            yield Lint(remark[0], window.rule_id, f"window `{window.id}` {remark[1]}", window.place)
        if isinstance(window.when, Schedule) and _overlaps_itself(window, window.when, today.date()):
            message = f"window `{window.id}` starts again while it still lasts: `{window.when.cron.text}`"
            yield Lint("window-overlaps-itself", window.rule_id, message, window.place)
    for allow in document.windows:
        for deny in document.windows:
            if allow.kind == "allow" and deny.kind == "deny" and match_covers(deny.match, allow.match):
                years = (today.year, today.year + 1)
                if _inside(resolve(allow, *years), resolve(deny, *years)):
                    message = f"allow window `{allow.id}` lies inside deny window `{deny.id}`: it allows nothing"
                    yield Lint("allow-inside-deny", allow.rule_id, message, allow.place)


def _constant_window(window: Window, today: datetime, now: datetime | None) -> tuple[str, str] | None:
    if isinstance(window.when, Span):
        found = resolve(window, 1970, 2199)
        if not found.starts:
            return "window-never-active", "is never active: it ends before it begins"
        if now is not None and found.ends[-1] <= epoch(now):
            return "window-never-active", "is over, and never active again"
        return None
    years = range(today.year, today.year + _YEARS_SEARCHED)
    if not any(resolve(window, year, year).starts for year in years):
        return "window-never-active", "is never active"
    if _always(resolve(window, today.year, today.year + 1)):
        return "window-always-active", "is always active"
    return None


def _always(timeline: Timeline) -> bool:
    return (
        len(timeline.starts) == 1
        and timeline.starts[0] <= timeline.known_from
        and timeline.ends[0] >= timeline.known_to
    )


def _overlaps_itself(window: Window, schedule: Schedule, first: date) -> bool:
    latest = None
    for start, end in starts(window, schedule, first, first + timedelta(days=400)):
        if latest is not None and start < latest:
            return True
        latest = end
    return False


def _inside(inner: Timeline, outer: Timeline) -> bool:
    pairs = list(zip(outer.starts, outer.ends, strict=True))
    return bool(inner.starts) and all(
        any(begin <= start and end <= stop for begin, stop in pairs)
        for start, end in zip(inner.starts, inner.ends, strict=True)
    )


def _exceptions(document: PolicyDocument, now: datetime | None) -> Iterator[Lint]:
    present = set(document.rule_ids())
    for exemption in document.exceptions:
        if now is not None and exemption.expires_at <= now:
            message = f"exception `{exemption.id}` has expired: {exemption.expires_at.isoformat()}"
            yield Lint("exception-expired", exemption.id, message, exemption.place)
        for rule in exemption.rules:
            if rule in BEYOND_EXCEPTIONS:
                message = f"exception `{exemption.id}` has no effect on `{rule}`: no exception touches it"
                yield Lint("exception-without-effect", exemption.id, message, exemption.place)
            elif rule not in present:
                message = f"exception `{exemption.id}` names `{rule}`, a rule that this policy does not have"
                yield Lint("exception-without-effect", exemption.id, message, exemption.place)
