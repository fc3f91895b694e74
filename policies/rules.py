"""Rules as compiled closures: each looks at a case and answers with a result, and the effect it has by itself.

What can be known when a policy is loaded is made then: texts, and whole results where they are the same for all facts.
Nothing here knows about outcomes, exceptions and approvals; `engine` puts the results together.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Context as DecimalContext
from decimal import Decimal
from typing import Any, Final, Literal

from driftwarden.contracts.decision import RuleResult
from driftwarden.errors import shorten
from driftwarden.policies.document import Else, Match, PolicyDocument, Requirement, Tier
from driftwarden.policies.facts import (
    ACTIONS,
    FACTS,
    MISSING,
    WEEKDAYS,
    Facts,
    Kind,
    Shape,
    calendar_date,
    getter,
    model_name,
    moment,
    text_of,
)
from driftwarden.policies.globs import compile_globs
from driftwarden.policies.numbers import Range, number_reader, number_text, plain_floats, plain_ints
from driftwarden.policies.zones import zone

Verdict = Literal["pass", "fail", "unknown", "not_applicable"]
PASS: Final = "pass"  # noqa: S105 - a verdict
FAIL: Final = "fail"
UNKNOWN: Final = "unknown"
NOT_APPLICABLE: Final = "not_applicable"

Check = Callable[["Case"], RuleResult]
Answers = Callable[[Verdict, str | None], RuleResult]
Applies = Callable[["Case"], bool | None]

# Sums and products of facts stay exact: a figure is never rounded across a threshold.
EXACT: Final = DecimalContext(prec=500)
_HUNDRED: Final = Decimal(100)


class Case:
    """What is being decided: the facts, the moment (UTC; None: not known), and the tier (None: none matches)."""

    __slots__ = ("action", "facts", "local", "model", "moment", "tier", "tier_known")

    def __init__(self, facts: Facts) -> None:
        """Reads the model's name and the action; the engine finds moment and tier."""
        self.facts = facts
        self.moment: datetime | None = None
        self.local: datetime | None = None
        self.tier: Tier | None = None
        self.tier_known = True
        model, plan = facts.get("model"), facts.get("plan")  # what `getter` does
        self.model = model_name(model.get("name")) if type(model) is dict else None
        action = plan.get("action") if type(plan) is dict else None
        self.action: str | None = action if type(action) is str and action in _ACTIONS else None


_ACTIONS = frozenset(ACTIONS)
_get_action = getter("plan.action")


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule: `applies` None: always. `liftable`: an approval may lift it; `subject` and `place` are for people."""

    id: str
    check: Check
    subject: str
    applies: Applies | None = None
    liftable: bool = True
    nothing_to_do: bool = False
    place: str = ""
    judge: Check = field(init=False)

    def __post_init__(self) -> None:
        """Join `applies` and `check` into the one question that is asked of a case."""
        object.__setattr__(self, "judge", self.check if self.applies is None else _only_where(self, self.applies))


def _only_where(rule: Rule, applies: Applies) -> Check:
    check = rule.check
    unsure = answers(rule.id, rule.subject, "the facts that tell whether the rule applies")(UNKNOWN, None)
    passed_over = RuleResult(rule.id, NOT_APPLICABLE, None, None, None, "the rule does not apply here")

    def judge(case: Case) -> RuleResult:
        applied = applies(case)
        return check(case) if applied else unsure if applied is None else passed_over

    return judge


def answers(id: str, subject: str, expected: str, otherwise: Else = "escalate") -> Answers:
    """A function that makes the results of a rule that expects this, from a verdict and what was got (None: missing).

    A failure has the effect `otherwise`; what is unknown escalates.
    """
    effects: Mapping[Verdict, Else | None] = {PASS: None, FAIL: otherwise, UNKNOWN: "escalate"}
    missing = f"{subject} is missing, expected {expected}"

    def answer(verdict: Verdict, got: str | None) -> RuleResult:
        message = missing if got is None else f"{subject} is `{got}`, expected {expected}"
        return new_result(RuleResult, (id, verdict, effects[verdict], got, expected, message))

    return answer


new_result = tuple.__new__  # without the function call and the checks that a NamedTuple's own is


def shown(raw: object) -> str | None:
    """A fact as `got` shows it: None where it is missing; numbers in their shortest form; bounded, on one line."""
    if raw is MISSING:
        return None
    if raw is None:
        return "null"
    kind = type(raw)
    if kind is str:
        return shorten("".join(ch if ch.isprintable() else "�" for ch in raw[:200]))  # type: ignore[index]
    if kind is bool:
        return "true" if raw else "false"
    if kind is int or kind is float or kind is Decimal:
        return shorten(number_text(raw))  # type: ignore[arg-type]
    return "an object" if kind is dict else "a list" if kind is list else f"a {kind.__name__}"


def compile_match(match: Match) -> Applies | None:
    """A function that says whether the match fields apply: None where a fact that is asked for is not known."""
    tests: list[Applies] = []
    if match.models is not None:
        tests.append(_matches_model(compile_globs(match.models)))
    if match.tiers is not None:
        tests.append(_matches_tier(frozenset(match.tiers)))
    if match.actions is not None:
        tests.append(_matches_action(frozenset(match.actions)))
    if match.environments is not None:
        tests.append(_matches_word("model.environment", match.environments))
    if match.root_causes is not None:
        tests.append(_matches_word("finding.root_cause", match.root_causes))
    if len(tests) < 2:
        return tests[0] if tests else None

    def every(case: Case) -> bool | None:
        answers = [test(case) for test in tests]
        return None if None in answers else all(answers)

    return every


def _matches_model(accepts: Callable[[str], bool]) -> Applies:
    return lambda case: None if case.model is None else accepts(case.model)


def _matches_word(path: str, words: tuple[str, ...]) -> Applies:
    get, kind, accepted = getter(path), FACTS[path], frozenset(words)

    def test(case: Case) -> bool | None:
        value = text_of(kind, get(case.facts))
        return None if value is None else value in accepted

    return test


def _matches_tier(names: frozenset[str]) -> Applies:
    def test(case: Case) -> bool | None:
        if not case.tier_known:
            return None
        return case.tier is not None and case.tier.name in names

    return test


def _matches_action(names: frozenset[str]) -> Applies:
    return lambda case: None if case.action is None else case.action in names


def requirement_rule(rule: Requirement) -> Rule:
    """A `require` entry as a rule."""
    kind = FACTS[rule.fact]
    words = {
        "atLeast": "at least {}",
        "atMost": "at most {}",
        "equals": "{}",
        "in": "one of: {}",
        "notIn": "none of: {}",
    }
    expected = words[rule.operator].format(rule.written)
    return Rule(
        id=rule.id,
        check=_requirement_check(rule, kind, expected),
        subject=rule.fact,
        applies=compile_match(rule.match),
        nothing_to_do=rule.otherwise == "monitor" and rule.fact.startswith("impact."),
        place=rule.place,
    )


def _requirement_check(rule: Requirement, kind: Kind, expected: str) -> Check:
    if kind.shape is Shape.NUMBER and rule.operator in _RANGES:
        return range_check(rule.id, rule.fact, _RANGES[rule.operator](rule.operand), expected, rule.otherwise)
    holds = comparison(rule.operator, rule.operand)
    answer = answers(rule.id, rule.fact, expected, rule.otherwise)
    if rule.fact == "now":
        return _now_check(holds, answer, lambda case: case.moment)
    if rule.fact == "now.weekday":
        return _now_check(holds, answer, lambda case: case.local and WEEKDAYS[case.local.weekday()])
    if rule.fact == "now.date":
        return _now_check(holds, answer, lambda case: case.local and case.local.date())
    if kind.shape is Shape.NUMBER:
        return number_check(rule.fact, holds, answer)
    if kind.shape is Shape.FLAG:
        return flag_check(rule.fact, holds, answer)
    get, read = getter(rule.fact), reader(rule.fact, kind)

    def check(case: Case) -> RuleResult:
        raw = get(case.facts)
        value = read(raw)
        if value is None:
            return answer(UNKNOWN, shown(raw))
        return answer(PASS if holds(value) else FAIL, shown(raw))

    return check


_RANGES: Final[Mapping[str, Callable[[Decimal], Range]]] = {
    "atLeast": lambda operand: Range(low=operand),
    "atMost": lambda operand: Range(high=operand),
    "equals": lambda operand: Range(operand, operand),
}


def range_check(id: str, path: str, accepted: Range, expected: str, otherwise: Else) -> Check:
    """A check that one number is in a range: unknown where it is none that this fact can be.

    Most rules are of this kind, and most numbers are plain floats and ints: these are compared as they are.
    """
    group_name, _, name = path.partition(".")
    kind = FACTS[path]
    read, holds, answer = number_reader(kind), accepted.holds, answers(id, path, expected, otherwise)
    before, after = f"{path} is `", f"`, expected {expected}"
    (int_min, int_end), (first_int, last_int) = plain_ints(kind), accepted.ints()
    (float_min, float_end), (first_float, last_float) = plain_floats(kind), accepted.floats()

    def check(case: Case) -> RuleResult:
        group = case.facts.get(group_name)  # what `getter` does
        raw: Any = group.get(name, MISSING) if type(group) is dict else MISSING
        given = type(raw)
        if given is float and float_min <= raw < float_end:
            text = repr(raw)
            if text[-1] == "0":
                text = text[:-2]
            passed = first_float <= raw <= last_float
        elif given is int and int_min <= raw < int_end:
            text = str(raw)
            passed = first_int <= raw <= last_int
        else:
            value, text = read(raw)
            if value is None:
                return answer(UNKNOWN, shown(raw))
            passed = holds(value)
        message = f"{before}{text}{after}"
        if passed:
            return new_result(RuleResult, (id, PASS, None, text, expected, message))
        return new_result(RuleResult, (id, FAIL, otherwise, text, expected, message))

    return check


def number_check(path: str, holds: Callable[[Decimal], bool], answer: Answers) -> Check:
    """A check of one number that no range says: unknown where it is none that this fact can be."""
    get, read = getter(path), number_reader(FACTS[path])

    def check(case: Case) -> RuleResult:
        raw = get(case.facts)
        value, text = read(raw)
        if value is None:
            return answer(UNKNOWN, shown(raw))
        return answer(PASS if holds(value) else FAIL, text)

    return check


def flag_check(path: str, holds: Callable[[bool], bool], answer: Answers) -> Check:
    """A check of true or false: both results are made beforehand."""
    get = getter(path)
    if_true, if_false = (answer(PASS if holds(flag) else FAIL, shown(flag)) for flag in (True, False))

    def check(case: Case) -> RuleResult:
        raw = get(case.facts)
        return if_true if raw is True else if_false if raw is False else answer(UNKNOWN, shown(raw))

    return check


def _now_check(holds: Callable[[Any], bool], answer: Answers, derive: Callable[[Case], Any]) -> Check:
    def check(case: Case) -> RuleResult:
        value = derive(case)
        if value is None:
            return answer(UNKNOWN, shown(_get_now(case.facts)))
        got = moment_text(value) if isinstance(value, datetime) else str(value)
        return answer(PASS if holds(value) else FAIL, got)

    return check


_get_now = getter("now")


def moment_text(at: datetime) -> str:
    """A moment as RFC 3339 in UTC, to the second."""
    return at.astimezone(UTC).isoformat(timespec="seconds")[:19] + "Z"


def reader(path: str, kind: Kind) -> Callable[[object], Any]:
    """The function that reads a fact of this kind, numbers and flags apart: a value, or None for unknown."""
    if path == "model.name":
        return model_name
    readers: Mapping[Shape, Callable[[object], Any]] = {
        Shape.TEXT: lambda raw: text_of(kind, raw),
        Shape.DATE: calendar_date,
        Shape.MOMENT: moment,
    }
    return readers[kind.shape]


def comparison(name: str, operand: Any) -> Callable[[Any], bool]:
    """An operator of `require` with its operand."""
    compare: Mapping[str, Callable[[Any], bool]] = {
        "atLeast": lambda value: value >= operand,
        "atMost": lambda value: value <= operand,
        "equals": lambda value: value == operand,
        "in": lambda value: value in operand,
        "notIn": lambda value: value not in operand,
    }
    return compare[name]


def tier_rule(document: PolicyDocument) -> Rule:
    """The action is in the `allow` of the first tier that matches."""
    id, subject = "tier", "plan.action"
    unknown = answers(id, subject, "an action that is known")
    unsure = answers(id, subject, "the facts that tell the tier")(UNKNOWN, None)
    without = answers(id, subject, "a tier that matches")
    made = {
        tier.name: _tier_results(tier, answers(id, subject, "one of: " + ", ".join(tier.allow)))
        for tier in document.tiers
    }

    def check(case: Case) -> RuleResult:
        if case.action is None:
            return unknown(UNKNOWN, shown(_get_action(case.facts)))
        if not case.tier_known:
            return unsure
        if case.tier is None:
            return without(FAIL, case.action)
        return made[case.tier.name][case.action]

    return Rule(id, check, subject, place=document.where)


def _tier_results(tier: Tier, answer: Answers) -> dict[str, RuleResult]:
    return {action: answer(PASS if action in tier.allow else FAIL, action) for action in ACTIONS}


def halted_rule() -> Rule:
    """`state.halted` is false."""
    id, subject = "halted", "state.halted"
    check = flag_check(subject, lambda halted: not halted, answers(id, subject, "false"))
    return Rule(id, check, subject, liftable=False)


def enforcement_rule(document: PolicyDocument) -> Rule:
    """The policy is not `halt`; a dry run passes here, and its outcome becomes monitor."""
    id, subject = "enforcement", "spec.enforcement"
    verdict: Verdict = FAIL if document.enforcement == "halt" else PASS
    result = answers(id, subject, "enforce")(verdict, document.enforcement)
    return Rule(id, lambda case: result, subject, liftable=False)


def resolve_time(case: Case, time_zone: str | None) -> None:
    """Read `now` into the case, in UTC and, where a zone is given, in it."""
    case.moment = moment(_get_now(case.facts))
    if case.moment is not None and time_zone is not None:
        case.local = case.moment.astimezone(zone(time_zone))
