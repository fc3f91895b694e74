"""Rules as compiled closures: each looks at a case and answers with a verdict, what it got and what it expected.

Nothing here knows about outcomes; `engine` puts the verdicts together.
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
from driftwarden.policies.numbers import number_reader, number_text
from driftwarden.policies.zones import zone

Verdict = Literal["pass", "fail", "unknown", "not_applicable"]
PASS: Final = "pass"  # noqa: S105 - a verdict
FAIL: Final = "fail"
UNKNOWN: Final = "unknown"
NOT_APPLICABLE: Final = "not_applicable"

Answer = tuple[Verdict, str | None, str | None]
Check = Callable[["Case"], Answer]
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
        self.model = model_name(_get_model(facts))
        self.action = text_of(_ACTION, _get_action(facts))


_get_model = getter("model.name")
_ACTION = FACTS["plan.action"]
_get_action = getter("plan.action")


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule: `applies` None: always. `liftable`: an approval may lift it; `subject` and `place` are for people."""

    id: str
    check: Check
    otherwise: Else
    subject: str
    applies: Applies | None = None
    liftable: bool = True
    nothing_to_do: bool = False
    place: str = ""
    passed_over: RuleResult = field(init=False)

    def __post_init__(self) -> None:
        """Make the one result that is the same for all facts: the rule does not apply."""
        message = "the rule does not apply here"
        result = RuleResult(id=self.id, verdict=NOT_APPLICABLE, effect=None, got=None, expected=None, message=message)
        object.__setattr__(self, "passed_over", result)


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
        otherwise=rule.otherwise,
        subject=rule.fact,
        applies=compile_match(rule.match),
        nothing_to_do=rule.otherwise == "monitor" and rule.fact.startswith("impact."),
        place=rule.place,
    )


def _requirement_check(rule: Requirement, kind: Kind, expected: str) -> Check:
    holds = comparison(rule.operator, rule.operand)
    if rule.fact == "now":
        return _now_check(holds, expected, lambda case: case.moment)
    if rule.fact == "now.weekday":
        return _now_check(holds, expected, lambda case: case.local and WEEKDAYS[case.local.weekday()])
    if rule.fact == "now.date":
        return _now_check(holds, expected, lambda case: case.local and case.local.date())
    if kind.shape is Shape.NUMBER:
        return number_check(rule.fact, holds, expected)
    get, read = getter(rule.fact), reader(rule.fact, kind)

    def check(case: Case) -> Answer:
        raw = get(case.facts)
        value = read(raw)
        if value is None:
            return UNKNOWN, shown(raw), expected
        return PASS if holds(value) else FAIL, shown(raw), expected

    return check


def number_check(path: str, holds: Callable[[Decimal], bool], expected: str) -> Check:
    """A check of one number: unknown where it is none that this fact can be."""
    get, read = getter(path), number_reader(FACTS[path])

    def check(case: Case) -> Answer:
        raw = get(case.facts)
        value, text = read(raw)
        if value is None:
            return UNKNOWN, shown(raw), expected
        return PASS if holds(value) else FAIL, text, expected

    return check


def _now_check(holds: Callable[[Any], bool], expected: str, derive: Callable[[Case], Any]) -> Check:
    def check(case: Case) -> Answer:
        value = derive(case)
        if value is None:
            return UNKNOWN, shown(_get_now(case.facts)), expected
        got = moment_text(value) if isinstance(value, datetime) else str(value)
        return PASS if holds(value) else FAIL, got, expected

    return check


_get_now = getter("now")


def moment_text(at: datetime) -> str:
    """A moment as RFC 3339 in UTC, to the second."""
    return at.astimezone(UTC).isoformat(timespec="seconds")[:19] + "Z"


def reader(path: str, kind: Kind) -> Callable[[object], Any]:
    """The function that reads a fact of this kind, numbers apart: a value, or None for unknown."""
    if path == "model.name":
        return model_name
    readers: Mapping[Shape, Callable[[object], Any]] = {
        Shape.TEXT: lambda raw: text_of(kind, raw),
        Shape.FLAG: lambda raw: raw if type(raw) is bool else None,
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
    expected = {tier.name: "one of: " + ", ".join(tier.allow) for tier in document.tiers}

    def check(case: Case) -> Answer:
        if case.action is None:
            return UNKNOWN, shown(_get_action(case.facts)), "an action that is known"
        if not case.tier_known:
            return UNKNOWN, None, "the facts that tell the tier"
        if case.tier is None:
            return FAIL, case.action, "a tier that matches"
        return PASS if case.action in case.tier.allow else FAIL, case.action, expected[case.tier.name]

    return Rule("tier", check, "escalate", "plan.action", place=document.where)


def halted_rule() -> Rule:
    """`state.halted` is false."""
    get = getter("state.halted")

    def check(case: Case) -> Answer:
        raw = get(case.facts)
        if type(raw) is not bool:
            return UNKNOWN, shown(raw), "false"
        return (FAIL, "true", "false") if raw else (PASS, "false", "false")

    return Rule("halted", check, "escalate", "state.halted", liftable=False)


def enforcement_rule(document: PolicyDocument) -> Rule:
    """The policy is not `halt`; a dry run passes here, and its outcome becomes monitor."""
    answer: Answer = (FAIL if document.enforcement == "halt" else PASS, document.enforcement, "enforce")
    return Rule("enforcement", lambda case: answer, "escalate", "spec.enforcement", liftable=False)


def resolve_time(case: Case, time_zone: str | None) -> None:
    """Read `now` into the case, in UTC and, where a zone is given, in it."""
    case.moment = moment(_get_now(case.facts))
    if case.moment is not None and time_zone is not None:
        case.local = case.moment.astimezone(zone(time_zone))
