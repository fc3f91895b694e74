"""The semantics of contract §4 as properties, against a naive readable model of the same sentences."""

import copy
import json
import math
import random
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest
from fakes.naive_policy import STRICTNESS, naive
from fakes.policy_cases import GOOD, HEAD, WRONG, cases, policies, put
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from driftwarden.errors import shorten
from driftwarden.policies import Policy, canonical, canonical_facts, facts_digest, load_policy
from driftwarden.policies.numbers import PLAIN_MAX, PLAIN_MIN, Range, number, parsed
from driftwarden.policies.reader import read_policy
from driftwarden.policies.reading import Node
from driftwarden.strict import canonical_json, decimal_text, digest, numbers_as_text, plain

quick = settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))


def compiled(policy: dict[str, Any]) -> Policy:
    """The policy, without the way through YAML text (that is slow, and tested elsewhere)."""
    return Policy(read_policy(Node(policy, (), {}, "generated")))


@settings(quick, max_examples=400)
@given(policies(), cases())
def test_the_engine_agrees_with_the_naive_model(policy: dict[str, Any], facts: dict[str, Any]) -> None:
    """Outcome, would_be, every verdict and every effect."""
    decision = compiled(policy).decide(copy.deepcopy(facts))
    outcome, would_be, rules = naive(policy, facts)
    assert {rule.id: (rule.verdict, rule.effect) for rule in decision.rules} == rules
    assert (decision.outcome.value, decision.would_be and decision.would_be.value) == (outcome, would_be)
    assert all(rules[id][1] == (would_be or outcome) for id in decision.decisive)


@quick
@given(policies(), cases(), st.randoms(use_true_random=False))
def test_the_order_of_rules_changes_only_the_report(
    policy: dict[str, Any], facts: dict[str, Any], rng: random.Random
) -> None:
    """Semantics 6: permuted requirements, limits, windows and exceptions give the same outcome and the same rules."""
    shuffled = copy.deepcopy(policy)
    for key in ("require", "windows", "exceptions"):
        rng.shuffle(shuffled["spec"][key])
    limits = [*shuffled["spec"]["limits"].items()]
    rng.shuffle(limits)
    shuffled["spec"]["limits"] = dict(limits)
    first, second = compiled(policy).decide(facts), compiled(shuffled).decide(facts)
    assert (first.outcome, first.would_be, set(first.decisive)) == (
        second.outcome,
        second.would_be,
        set(second.decisive),
    )
    assert {rule.id: rule for rule in first.rules} == {rule.id: rule for rule in second.rules}


# A negative gain, and `true` for a flag, are values that those facts can have.
NEVER_RIGHT = [value for value in WRONG if value is not True and value not in (-1, "-0.5")]


@quick
@given(policies(), cases(), st.sampled_from([*GOOD]), st.sampled_from(NEVER_RIGHT))
def test_a_spoilt_fact_never_opens_anything(
    policy: dict[str, Any], facts: dict[str, Any], path: str, wrong: Any
) -> None:
    """Semantics 3: no fact that is missing, null, mistyped, NaN or out of range makes a rule pass or an action run."""
    if path == "state.seconds_since_last_action_model" and wrong is None:
        return  # that null is known
    if path in {"model.name", "model.environment"} and isinstance(wrong, str):
        return  # a model may be called NaN
    spoilt = copy.deepcopy(facts)
    put(spoilt, path, wrong)
    before, after = compiled(policy).decide(facts), compiled(policy).decide(spoilt)
    assert after.outcome.value != "execute" or before.outcome.value == "execute"
    earlier = {rule.id: rule.verdict for rule in before.rules}
    assert all(earlier[rule.id] == "pass" for rule in after.rules if rule.verdict == "pass")


@quick
@given(policies(), cases(), st.sampled_from(["0.5", "0.79", "0.80", "0.9", "1"]), st.sampled_from(["0.5", "0.8", "1"]))
def test_more_confidence_is_never_stricter(policy: dict[str, Any], facts: dict[str, Any], low: str, high: str) -> None:
    """With `atLeast` alone on the confidence, raising it never makes the outcome stricter."""
    if float(low) > float(high):
        low, high = high, low
    for rule in policy["spec"]["require"]:
        if rule["fact"] == "plan.confidence" and "atMost" in rule:
            rule["atLeast"] = rule.pop("atMost")
    lower, higher = copy.deepcopy(facts), copy.deepcopy(facts)
    put(lower, "plan.confidence", low)
    put(higher, "plan.confidence", high)
    engine = compiled(policy)
    assert STRICTNESS[engine.decide(higher).outcome.value] <= STRICTNESS[engine.decide(lower).outcome.value]


@quick
@given(policies(), cases(), policies())
def test_another_rule_never_turns_an_outcome_into_execute(
    policy: dict[str, Any], facts: dict[str, Any], donor: dict[str, Any]
) -> None:
    """Adding requirements, windows and limits never opens what was closed."""
    more = copy.deepcopy(policy)
    names = {tier["name"] for tier in more["spec"]["tiers"]}
    for key in ("require", "windows"):
        for rule in copy.deepcopy(donor["spec"][key]):
            if not set(rule.get("tiers", [])) - names:
                more["spec"][key].append(rule | {"id": "more-" + rule["id"]})
    for key, limit in donor["spec"]["limits"].items():
        if key not in more["spec"]["limits"] and not set(limit.get("tiers", [])) - names:
            more["spec"]["limits"][key] = limit
    if compiled(policy).decide(facts).outcome.value != "execute":
        assert compiled(more).decide(facts).outcome.value != "execute"


@quick
@given(policies(), cases())
def test_a_decision_is_a_function_of_policy_and_facts(policy: dict[str, Any], facts: dict[str, Any]) -> None:
    """Semantics 6: the same again, from the policy's own change record too, and the facts stay untouched."""
    engine = compiled(policy)
    kept = copy.deepcopy(facts)
    first = engine.decide(facts)
    again = Policy.from_change_record(engine.change_record(datetime(2026, 11, 20, tzinfo=UTC)))
    assert first == engine.decide(facts) == again.decide(facts)
    assert repr(facts) == repr(kept)
    assert [rule.id for rule in first.rules] == list(engine.document.rule_ids())


TEXT_FACTS = ("now", "model.name", "model.environment", "event.kind", "finding.root_cause", "plan.action")


def _at(facts: dict[str, Any], path: str) -> Any:
    found: Any = facts
    for name in path.split("."):
        found = found.get(name) if isinstance(found, dict) else None
    return found


@quick
@given(policies(), cases())
def test_what_is_recorded_decides_alike(policy: dict[str, Any], facts: dict[str, Any]) -> None:
    """What the audit log holds of facts gives every verdict again: NaN stays unknown, and never becomes a null that is known."""
    # A number where a text belongs (unknown, as it comes) has no form of its own in a record: there numbers are strings.
    assume(not any(isinstance(_at(facts, path), (float, int, Decimal)) for path in TEXT_FACTS))
    engine = compiled(policy)
    recorded = plain(canonical_facts(facts))
    again = json.loads(canonical_json(recorded))
    first, second = engine.decide(facts), engine.decide(again)
    assert (first.outcome, first.would_be, first.decisive) == (second.outcome, second.would_be, second.decisive)
    assert [(rule.id, rule.verdict, rule.effect) for rule in first.rules] == [
        (rule.id, rule.verdict, rule.effect) for rule in second.rules
    ]
    assert again == canonical_facts(again) == plain(again)


anything = st.one_of(
    st.floats(),
    st.integers(),
    st.decimals(),
    st.from_regex(r"-?[0-9]{1,45}(\.[0-9]{1,45})?([eE][+-]?[0-9]{1,3})?", fullmatch=True),
    st.text(max_size=8),
    st.booleans(),
    st.none(),
)


@settings(quick, max_examples=400)
@given(anything)
def test_a_number_is_read_alike_by_rules_and_digest(value: Any) -> None:
    """Both see the same number, in its one shortest form; the digest is the ground's wherever that is defined."""
    found, text = parsed(value)
    assert found == number(value)
    if found is not None:
        assert text == numbers_as_text(value) == decimal_text(found)
    if not (isinstance(value, float | Decimal) and not Decimal(value).is_finite()) and _has_bytes(value):
        assert facts_digest({"a": [value], "b": value}) == digest({"a": [value], "b": value})


keys = st.text(max_size=6) | st.sampled_from(["\uffff", "\U0001f600", "\ud800", "é", "a\u007f"])
documents = st.recursive(
    anything | st.text(st.characters(exclude_categories=()), max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=4),
    max_leaves=12,
)


@settings(quick, max_examples=600)
@given(st.dictionaries(keys, documents, max_size=5))
def test_the_digest_is_the_same_without_the_fast_writer(facts: dict[str, Any]) -> None:
    """Whatever the fast writer takes, it writes as the slow one does; whatever it does not take is left to the other."""
    fast = facts_digest(facts)
    with pytest.MonkeyPatch.context() as without:
        without.setattr(canonical, "orjson", None)
        assert facts_digest(facts) == fast


def _beside(value: float) -> list[float]:
    """A float and its two neighbours: where a comparison goes wrong, if anywhere."""
    return [math.nextafter(value, -math.inf), value, math.nextafter(value, math.inf)]


bounds = st.one_of(
    st.decimals(-(10**40), 10**40, allow_nan=False),
    st.decimals(0, 1, places=3),
    st.integers(-(10**20), 10**20).map(Decimal),
    st.floats(-1e20, 1e20).map(lambda value: Decimal(repr(value))),  # the very decimal that a float is read as
    st.floats(-1e20, 1e20).map(Decimal),  # the very number that a float is
    st.floats(-1e9, 1e9).map(
        lambda value: (Decimal(value) + Decimal(math.nextafter(value, math.inf))) / 2
    ),  # between two
)


@settings(quick, max_examples=600)
@given(
    st.none() | bounds, st.none() | bounds, st.booleans(), st.floats(allow_nan=False, allow_infinity=False), st.data()
)
def test_floats_and_ints_are_compared_as_their_decimals_are(
    low: Decimal | None, high: Decimal | None, below: bool, any_float: float, data: st.DataObject
) -> None:
    """A float against a bound, without a decimal being made, is what its shortest decimal is against it; so is an int."""
    accepted = Range(low, high, below)
    (first, last), (first_int, last_int) = accepted.floats(), accepted.ints()
    edges = [bound for bound in (low, high) if bound is not None]
    for value in [any_float, *(near for edge in edges for near in _beside(float(edge)))]:
        assert (first <= value <= last) == accepted.holds(Decimal(repr(value)))
    whole = [data.draw(st.integers(PLAIN_MIN + 1, PLAIN_MAX - 1))]
    whole += [int(edge) + step for edge in edges for step in (-1, 0, 1) if abs(edge) < PLAIN_MAX - 2]
    for value in whole:
        assert (first_int <= value <= last_int) == accepted.holds(Decimal(value))


@settings(quick, max_examples=400)
@given(st.sampled_from(["atLeast", "atMost", "equals"]), bounds, st.data())
def test_a_requirement_reads_a_number_alike_in_every_form(operator: str, bound: Decimal, data: st.DataObject) -> None:
    """A float, an int, and the same number as text or as a Decimal: one result, by the naive comparison of fractions."""
    written = f"{bound:f}"
    value = data.draw(st.sampled_from([*_beside(float(bound)), round(float(bound))]) | st.floats(-1e16, 1e16))
    assume(number(written) is not None and number(value) is not None)
    spec = {"enforcement": "enforce", "require": [{"id": "gain", "fact": "rehearsal.relative_gain", operator: written}]}
    engine = compiled({**HEAD, "spec": {"timeZone": "UTC", "tiers": [], **spec}})
    forms = (value, repr(value), Decimal(repr(value)))
    results = {engine.decide({"rehearsal": {"relative_gain": form}}).rules[1] for form in forms}
    assert len(results) == 1
    exact, limit = Fraction(repr(value)), Fraction(bound)
    passes = {"atLeast": exact >= limit, "atMost": exact <= limit, "equals": exact == limit}[operator]
    result = results.pop()
    assert (result.verdict, result.effect) == (("pass", None) if passes else ("fail", "escalate"))
    assert result.got == shorten(decimal_text(Decimal(repr(value))))


def _has_bytes(value: Any) -> bool:
    """Not a lone surrogate."""
    return not isinstance(value, str) or value.encode("utf-8", "replace").decode() == value


@quick
@given(policies(), cases())
def test_halt_and_dry_run_never_execute(policy: dict[str, Any], facts: dict[str, Any]) -> None:
    """Semantics 5: a halt turns execute into escalate and leaves monitor alone; a dry run only says what would be."""
    outcomes = {}
    for enforcement in ("enforce", "halt", "dryRun"):
        policy["spec"]["enforcement"] = enforcement
        outcomes[enforcement] = compiled(policy).decide(facts)
    real = outcomes["enforce"].outcome
    assert outcomes["halt"].outcome.value == ("monitor" if real.value == "monitor" else "escalate")
    assert (outcomes["dryRun"].outcome.value, outcomes["dryRun"].would_be) == ("monitor", real)


@pytest.mark.parametrize("minutes", [-1, 0, 1])
def test_an_exception_ends_at_the_very_moment(minutes: int, policy_text: str, facts: dict[str, Any]) -> None:
    """Semantics 9: while now < expiresAt, and not a moment longer."""
    now = datetime(2026, 12, 1, tzinfo=UTC) + timedelta(minutes=minutes)
    facts["now"] = now.isoformat()
    facts["model"]["name"] = "fraud-v7"
    facts["state"]["seconds_since_last_action_model"] = 60
    rule = next(item for item in load_policy(policy_text, "p").decide(facts).rules if item.id == "cooldown")
    assert rule.verdict == ("not_applicable" if minutes < 0 else "fail")
