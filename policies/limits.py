"""The rules that `limits` and `windows` make, as compiled closures."""

from collections.abc import Callable, Iterator
from datetime import timedelta
from decimal import Decimal
from typing import Any

from driftwarden.contracts.decision import RuleResult
from driftwarden.policies.document import CircuitBreaker, Cooldown, Limits, Window
from driftwarden.policies.facts import FACTS, MISSING, getter
from driftwarden.policies.numbers import Range, number_reader, number_text
from driftwarden.policies.rules import (
    _HUNDRED,
    EXACT,
    FAIL,
    PASS,
    UNKNOWN,
    Case,
    Check,
    Rule,
    _get_now,
    answers,
    compile_match,
    moment_text,
    new_result,
    range_check,
    shown,
)
from driftwarden.policies.windows import WindowClock
from driftwarden.strict import decimal_text


def limit_rules(limits: Limits) -> Iterator[Rule]:
    """The rules of all limits that are present, in the order of the report."""
    yield from _cost_rules(limits)
    yield from _rate_rules(limits)
    if limits.cooldown is not None:
        rule, subject = limits.cooldown, "the time since the last action"
        yield Rule(
            "cooldown",
            _cooldown_check(rule, "cooldown", subject),
            subject,
            compile_match(rule.match),
            place=rule.place,
        )
    yield from _concurrency_rules(limits)
    if limits.circuit_breaker is not None:
        breaker, subject = limits.circuit_breaker, "recent failures"
        yield Rule(
            "circuit-breaker",
            _breaker_check(breaker, "circuit-breaker", subject),
            subject,
            compile_match(breaker.match),
            place=breaker.place,
        )
    yield from _radius_rules(limits)


def _cost_rules(limits: Limits) -> Iterator[Rule]:
    cost = limits.cost_usd
    if cost is None:
        return
    applies = compile_match(cost.match)
    if cost.per_action is not None:
        id, path = "cost-per-action", "plan.cost_usd"
        check = range_check(id, path, Range(high=cost.per_action), f"at most {cost.per_action}", "escalate")
        yield Rule(id, check, path, applies, place=cost.place)
    for id, cap, path in (
        ("cost-per-day", cost.per_day, "state.spent_usd_today"),
        ("cost-per-model-per-day", cost.per_model_per_day, "state.spent_usd_today_model"),
    ):
        if cap is not None:
            subject = "what was spent today with this cost"
            yield Rule(id, _budget_check(id, path, cap, subject), subject, applies, place=cost.place)


def _rate_rules(limits: Limits) -> Iterator[Rule]:
    rate = limits.rate
    if rate is None:
        return
    applies = compile_match(rate.match)
    for id, limit, path in (
        ("rate-per-model", rate.per_model, "state.actions_in_window_model"),
        ("rate-global", rate.everywhere, "state.actions_in_window_global"),
    ):
        if limit is not None:
            expected = f"fewer than {limit.max} in {duration_text(limit.window)}"
            check = range_check(id, path, Range(high=Decimal(limit.max), below=True), expected, rate.otherwise)
            yield Rule(id, check, path, applies, place=rate.place)


def _concurrency_rules(limits: Limits) -> Iterator[Rule]:
    busy = limits.concurrency
    if busy is None:
        return
    applies = compile_match(busy.match)
    for id, limit, path in (
        ("concurrency-per-model", busy.per_model, "state.running_model"),
        ("concurrency-global", busy.everywhere, "state.running_global"),
    ):
        if limit is not None:
            check = range_check(
                id, path, Range(high=Decimal(limit), below=True), f"fewer than {limit} running", busy.otherwise
            )
            yield Rule(id, check, path, applies, liftable=False, place=busy.place)


def _radius_rules(limits: Limits) -> Iterator[Rule]:
    radius = limits.blast_radius
    if radius is None:
        return
    applies = compile_match(radius.match)
    models = None if radius.models_at_most is None else Decimal(radius.models_at_most)
    for id, limit, path in (
        ("blast-radius-traffic", radius.traffic_percent_at_most, "model.traffic_percent"),
        ("blast-radius-models", models, "plan.models_affected"),
    ):
        if limit is not None:
            check = range_check(id, path, Range(high=limit), f"at most {limit}", radius.otherwise)
            yield Rule(id, check, path, applies, place=radius.place)


def _budget_check(id: str, path: str, cap: Decimal, subject: str) -> Check:
    name, expected = path.removeprefix("state."), f"at most {cap}"
    read_spent, read_cost = number_reader(FACTS[path]), number_reader(FACTS["plan.cost_usd"])
    add, answer = EXACT.add, answers(id, subject, expected)
    before, after = f"{subject} is `", f"`, expected {expected}"

    def check(case: Case) -> RuleResult:
        state, plan = case.facts.get("state"), case.facts.get("plan")  # what `getter` does
        raw_spent: Any = state.get(name, MISSING) if type(state) is dict else MISSING
        raw_cost: Any = plan.get("cost_usd", MISSING) if type(plan) is dict else MISSING
        (spent, _), (cost, _) = read_spent(raw_spent), read_cost(raw_cost)
        if spent is None or cost is None:
            return answer(UNKNOWN, shown(raw_spent if spent is None else raw_cost))
        total = add(spent, cost)
        text = number_text(total)
        message = f"{before}{text}{after}"
        if total <= cap:
            return new_result(RuleResult, (id, PASS, None, text, expected, message))
        return new_result(RuleResult, (id, FAIL, "escalate", text, expected, message))

    return check


def _cooldown_check(rule: Cooldown, id: str, subject: str) -> Check:
    path = "state.seconds_since_last_action_model"
    get_since, read_since = getter(path), number_reader(FACTS[path])
    get_failed = getter("state.last_action_failed")
    usual = _seconds(rule.per_model)
    failed = usual if rule.after_failure is None else _seconds(rule.after_failure)
    usually, after_failure = (
        answers(id, subject, f"at least {decimal_text(time)} s", rule.otherwise) for time in (usual, failed)
    )
    no_action_yet = usually(PASS, "null")  # known, and cool
    unsure = answers(id, subject, "whether the last action failed")

    def check(case: Case) -> RuleResult:
        raw = get_since(case.facts)
        if raw is None:
            return no_action_yet
        since, text = read_since(raw)
        if since is None:
            return usually(UNKNOWN, shown(raw))
        if rule.after_failure is not None:
            raw_failed = get_failed(case.facts)
            if raw_failed is True:
                return after_failure(PASS if since >= failed else FAIL, text)
            if raw_failed is not False:
                return unsure(UNKNOWN, shown(raw_failed))
        return usually(PASS if since >= usual else FAIL, text)

    return check


def _breaker_check(rule: CircuitBreaker, id: str, subject: str) -> Check:
    get_runs, get_failures = getter("state.recent_runs"), getter("state.recent_failures")
    read = number_reader(FACTS["state.recent_runs"])
    expected = f"fewer than {rule.failure_percent} % failed of at least {rule.min_runs} runs"
    answer = answers(id, subject, expected, rule.otherwise)

    def check(case: Case) -> RuleResult:
        raw_runs, raw_failures = get_runs(case.facts), get_failures(case.facts)
        (runs, of), (failures, failed) = read(raw_runs), read(raw_failures)
        if runs is None or failures is None:
            return answer(UNKNOWN, shown(raw_runs if runs is None else raw_failures))
        got = f"{failed} of {of}"
        if failures > runs:  # contradictory
            return answer(UNKNOWN, got)
        closed = runs < rule.min_runs or EXACT.multiply(_HUNDRED, failures) < EXACT.multiply(rule.failure_percent, runs)
        return answer(PASS if closed else FAIL, got)

    return check


def window_rule(window: Window, clock: WindowClock) -> Rule:
    """A deny window passes outside, an allow window inside."""
    deny = window.kind == "deny"
    answer = answers(window.rule_id, "now", f"outside {window.id}" if deny else f"inside {window.id}")
    wanted = not deny
    covers: Callable[..., bool | None] = clock.covers

    def check(case: Case) -> RuleResult:
        inside = None if case.moment is None else covers(case.moment)
        if inside is None or case.moment is None:
            return answer(UNKNOWN, shown(_get_now(case.facts)))
        return answer(PASS if inside is wanted else FAIL, moment_text(case.moment))

    return Rule(window.rule_id, check, "now", compile_match(window.match), place=window.place)


def duration_text(duration: timedelta) -> str:
    """A duration as the policy writes it: the largest unit that divides it."""
    seconds = int(duration.total_seconds())
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds and seconds % size == 0:
            return f"{seconds // size}{unit}"
    return f"{seconds}s"


def _seconds(duration: timedelta) -> Decimal:
    return Decimal(int(duration.total_seconds()))
