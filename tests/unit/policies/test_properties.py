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
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from driftwarden.errors import shorten
from driftwarden.policies import Policy, canonical, canonical_facts, facts_digest, load_policy
from driftwarden.policies.numbers import PLAIN_MAX, PLAIN_MIN, Range, number, parsed
from driftwarden.policies.reader import read_policy
from driftwarden.policies.reading import Node
from driftwarden.strict import canonical_json, decimal_text, digest, numbers_as_text, plain

ACTIONS = ["retrain", "rollback", "recalibrate", "refresh_reference", "quarantine_data", "fallback_model", "notify"]
STRICTNESS = {"execute": 0, "monitor": 1, "escalate": 2}
ABSENT = object()
quick = settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))


# ---- the naive model: the contract's sentences, one after another, with fractions instead of decimals ----


def look(facts: dict[str, Any], path: str) -> Any:
    """A fact by its dotted path, or ABSENT."""
    value: Any = facts
    for part in path.split("."):
        if not isinstance(value, dict) or part not in value:
            return ABSENT
        value = value[part]
    return value


SHARES = {"plan.confidence", "impact.relative_loss", "finding.confidence", "rehearsal.win_probability"}


def as_number(facts: dict[str, Any], path: str) -> Fraction | None:
    """A number, or None where it is unknown."""
    value = look(facts, path)
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    if isinstance(value, str) and (
        not value.isascii() or value != value.strip() or not value[-1:].isdigit() or "_" in value or "x" in value
    ):
        return None
    try:
        number = Fraction(str(value))
    except (ValueError, OverflowError):
        return None
    if abs(number) > 10**40 or ("gain" not in path and number < 0):
        return None
    if (path in SHARES and number > 1) or (path == "model.traffic_percent" and number > 100):
        return None
    whole = path.startswith("state.") and not any(word in path for word in ("usd", "seconds"))
    return None if (whole or path in {"evidence.rows", "plan.models_affected"}) and number.denominator != 1 else number


def glob(pattern: str, name: str) -> bool:
    """`*` and `?`, by recursion."""
    if not pattern:
        return not name
    if pattern[0] == "*":
        return glob(pattern[1:], name) or (bool(name) and glob(pattern, name[1:]))
    return bool(name) and pattern[0] in ("?", name[0]) and glob(pattern[1:], name[1:])


def text(facts: dict[str, Any], path: str, words: list[str] | None = None) -> str | None:
    """A text, or None where it is unknown."""
    value = look(facts, path)
    if not isinstance(value, str) or not value or (words and value not in words):
        return None
    if path == "model.name" and not all(char.isascii() and (char.isalnum() or char in "._-") for char in value):
        return None
    return value


def applies(rule: dict[str, Any], facts: dict[str, Any], tier: Any) -> bool | None:
    """Do the match fields apply? None: unknown."""
    answers: list[bool | None] = []
    name, action, where = (
        text(facts, "model.name"),
        text(facts, "plan.action", [*ACTIONS, "none"]),
        text(facts, "model.environment"),
    )
    if "models" in rule:
        answers.append(None if name is None else any(glob(pattern, name) for pattern in rule["models"]))
    if "actions" in rule:
        answers.append(None if action is None else action in rule["actions"])
    if "environments" in rule:
        answers.append(None if where is None else where in rule["environments"])
    if "tiers" in rule:
        answers.append(None if tier == "unknown" else tier is not None and tier["name"] in rule["tiers"])
    return None if None in answers else all(answers)


def now_of(facts: dict[str, Any]) -> datetime | None:
    """The moment, or None."""
    value = look(facts, "now")
    try:
        return datetime.fromisoformat(value) if isinstance(value, str) and value.endswith("Z") else None
    except ValueError:
        return None


def compare(number: Fraction | None, holds: Any) -> str:
    """A verdict from a number."""
    return "unknown" if number is None else "pass" if holds(number) else "fail"


def naive_rules(spec: dict[str, Any], facts: dict[str, Any], tier: Any) -> list[tuple[str, str, str, Any]]:
    """(id, verdict without match and exceptions, else, mapping with match fields) of every rule but the last two."""
    rows: list[tuple[str, str, str, Any]] = []
    action = text(facts, "plan.action", [*ACTIONS, "none"])
    if action is None or tier == "unknown":
        rows.append(("tier", "unknown", "escalate", {}))
    else:
        rows.append(("tier", "pass" if tier and action in tier["allow"] else "fail", "escalate", {}))
    for rule in spec["require"]:
        number = as_number(facts, rule["fact"])
        verdict = (
            compare(number, lambda n, r=rule: n >= Fraction(r["atLeast"]))
            if "atLeast" in rule
            else compare(number, lambda n, r=rule: n <= Fraction(r["atMost"]))
        )
        rows.append((rule["id"], verdict, rule["else"], rule))
    limits = spec["limits"]
    cost = as_number(facts, "plan.cost_usd")
    for key, id, path in (
        ("perAction", "cost-per-action", None),
        ("perDay", "cost-per-day", "state.spent_usd_today"),
        ("perModelPerDay", "cost-per-model-per-day", "state.spent_usd_today_model"),
    ):
        if key in limits.get("costUSD", {}):
            spent = Fraction(0) if path is None else as_number(facts, path)
            total = None if cost is None or spent is None else cost + spent
            cap = Fraction(limits["costUSD"][key])
            rows.append((id, compare(total, lambda n, c=cap: n <= c), "escalate", limits["costUSD"]))
    if "rate" in limits:
        number = as_number(facts, "state.actions_in_window_model")
        top = limits["rate"]["perModel"]["max"]
        rows.append(("rate-per-model", compare(number, lambda n: n < top), limits["rate"]["else"], limits["rate"]))
    if "cooldown" in limits:
        rows.append(("cooldown", naive_cooldown(limits["cooldown"], facts), limits["cooldown"]["else"], {}))
    if "concurrency" in limits:
        number, top = as_number(facts, "state.running_model"), limits["concurrency"]["perModel"]
        rows.append(("concurrency-per-model", compare(number, lambda n: n < top), limits["concurrency"]["else"], {}))
    if "circuitBreaker" in limits:
        rule = limits["circuitBreaker"]
        runs, failed = as_number(facts, "state.recent_runs"), as_number(facts, "state.recent_failures")
        if runs is None or failed is None or failed > runs:
            verdict = "unknown"
        else:
            verdict = "pass" if runs < rule["minRuns"] or 100 * failed / runs < rule["failurePercent"] else "fail"
        rows.append(("circuit-breaker", verdict, rule["else"], {}))
    if "blastRadius" in limits:
        number, top = as_number(facts, "plan.models_affected"), limits["blastRadius"]["modelsAtMost"]
        rows.append(("blast-radius-models", compare(number, lambda n: n <= top), limits["blastRadius"]["else"], {}))
    for window in spec["windows"]:
        now = now_of(facts)
        start, end = datetime.fromisoformat(window["from"]), datetime.fromisoformat(window["to"])
        inside = None if now is None else start <= now < end
        verdict = "unknown" if inside is None else "pass" if inside == (window["kind"] == "allow") else "fail"
        rows.append((f"window:{window['id']}", verdict, "escalate", window))
    return rows


def naive_cooldown(rule: dict[str, Any], facts: dict[str, Any]) -> str:
    """The cooldown's verdict; the policies here state it in hours."""
    if look(facts, "state.seconds_since_last_action_model") is None:
        return "pass"
    failed = look(facts, "state.last_action_failed")
    if not isinstance(failed, bool):
        return "unknown"
    hours = int(rule["afterFailure" if failed else "perModel"][:-1])
    return compare(as_number(facts, "state.seconds_since_last_action_model"), lambda n: n >= hours * 3600)


def naive_lifts(facts: dict[str, Any], tier: Any) -> set[str]:
    """The rules that a granted approval lifts."""
    approval = look(facts, "approval")
    if not isinstance(tier, dict) or not isinstance(approval, dict):
        return set()
    by = {grant["by"] for grant in approval["granted"] if grant["group"] in tier["approvals"]["from"]}
    return set(approval["lifts"]) if len(by) >= tier["approvals"]["required"] else set()


def naive(policy: dict[str, Any], facts: dict[str, Any]) -> tuple[str, str | None, dict[str, tuple[str, str | None]]]:
    """Outcome, would_be, and verdict and effect of each rule."""
    spec = policy["spec"]
    tier: Any = None
    for candidate in spec["tiers"]:
        matched = applies(candidate, facts, None)
        if matched is not False:
            tier = "unknown" if matched is None else candidate
            break
    lifts = naive_lifts(facts, tier)
    found: dict[str, tuple[str, str | None]] = {}
    nothing = look(facts, "plan.action") == "none"
    for id, verdict, otherwise, match in naive_rules(spec, facts, tier):
        applicable = applies(match, facts, tier) if match else True
        verdict = "unknown" if applicable is None else verdict if applicable else "not_applicable"
        for exception in spec["exceptions"]:
            now, name = now_of(facts), text(facts, "model.name")
            if verdict == "fail" and id in exception["rules"] and id != "tier" and now is not None and name is not None:
                alive = now < datetime.fromisoformat(exception["expiresAt"])
                verdict = "not_applicable" if alive and any(glob(p, name) for p in exception["models"]) else verdict
        effect = {"fail": otherwise, "unknown": "escalate"}.get(verdict)
        if effect and id in lifts and not id.startswith("concurrency") and not (id == "tier" and verdict == "unknown"):
            effect = "lifted"
        requirement = next((rule for rule in spec["require"] if rule["id"] == id), None)
        if requirement and requirement["fact"].startswith("impact.") and verdict == "fail" and effect == "monitor":
            nothing = True
        found[id] = (verdict, effect)
    effects = {effect for _, effect in found.values()}
    outcome = "escalate" if "escalate" in effects else "monitor" if "monitor" in effects else "execute"
    if nothing:
        outcome = "monitor"
    halted = look(facts, "state.halted")
    halt_verdict = "pass" if halted is False else "fail" if halted is True else "unknown"
    enforcement = spec["enforcement"]
    last = {"halted": halt_verdict, "enforcement": "fail" if enforcement == "halt" else "pass"}
    if outcome == "execute" and set(last.values()) != {"pass"}:
        outcome = "escalate"
    for id, verdict in last.items():
        found[id] = (verdict, "escalate" if verdict != "pass" and outcome == "escalate" else None)
    return ("monitor", outcome, found) if enforcement == "dryRun" else (outcome, None, found)


# ---- generated policies and facts ----

HEAD = {
    "apiVersion": "driftwarden.io/v1",
    "kind": "RemediationPolicy",
    "metadata": {"name": "generated", "revision": "1"},
}
elses = st.sampled_from(["escalate", "monitor"])
globs = st.lists(
    st.sampled_from(["*", "fraud-*", "churn", "c?urn", "billing-*", "*-v?"]), min_size=1, max_size=2, unique=True
)


@st.composite
def policies(draw: st.DrawFn) -> dict[str, Any]:
    """A policy of the contract's form, as data."""

    def matched(rule: dict[str, Any]) -> dict[str, Any]:
        if draw(st.integers(0, 2)) == 0:
            rule["models"] = draw(globs)
        if draw(st.integers(0, 3)) == 0:
            rule["actions"] = draw(st.lists(st.sampled_from(ACTIONS), min_size=1, max_size=3, unique=True))
        if draw(st.integers(0, 3)) == 0:
            rule["environments"] = [draw(st.sampled_from(["production", "staging"]))]
        if draw(st.integers(0, 3)) == 0 and tiers:
            rule["tiers"] = [draw(st.sampled_from([tier["name"] for tier in tiers]))]
        return rule

    tiers = [
        {
            "name": f"t{index}",
            "models": draw(globs),
            "allow": draw(st.lists(st.sampled_from(ACTIONS), min_size=1, unique=True)),
            "approvals": {"required": draw(st.integers(1, 2)), "from": ["ops", "risk"], "expiresAfter": "1h"},
        }
        for index in range(draw(st.integers(0, 2)))
    ]
    facts = [
        "impact.relative_loss",
        "plan.confidence",
        "evidence.rows",
        "rehearsal.relative_gain",
        "model.traffic_percent",
    ]
    require = [
        matched(
            {
                "id": f"r{index}",
                "fact": draw(st.sampled_from(facts)),
                draw(st.sampled_from(["atLeast", "atMost"])): draw(st.sampled_from(["0.02", "0.80", "1", "500", "0"])),
                "else": draw(elses),
            }
        )
        for index in range(draw(st.integers(0, 3)))
    ]
    full = {
        "costUSD": matched(
            {"perAction": "50.00", "perDay": "200.00", "perModelPerDay": draw(st.sampled_from(["5", "100"]))}
        ),
        "rate": matched({"perModel": {"max": draw(st.integers(0, 2)), "window": "24h"}, "else": draw(elses)}),
        "cooldown": {"perModel": "4h", "afterFailure": "24h", "else": draw(elses)},
        "concurrency": {"perModel": 1, "else": draw(elses)},
        "circuitBreaker": {"failurePercent": 40, "minRuns": 5, "window": "7d", "else": draw(elses)},
        "blastRadius": {"modelsAtMost": 1, "else": draw(elses)},
    }
    chosen = draw(st.sets(st.sampled_from(sorted(full))))
    windows = [
        matched(
            {
                "id": f"w{index}",
                "kind": draw(st.sampled_from(["deny", "allow"])),
                "from": draw(st.sampled_from(["2026-11-01T00:00:00Z", "2026-11-20T09:00:00Z"])),
                "to": draw(st.sampled_from(["2026-11-20T09:00:00Z", "2026-12-24T00:00:00Z"])),
            }
        )
        for index in range(draw(st.integers(0, 2)))
    ]
    ids = ["cooldown", "tier", "halted", "rate-per-model", "cost-per-day", *(rule["id"] for rule in require)]
    exceptions = [
        {
            "id": "EX-1",
            "rules": draw(st.lists(st.sampled_from(ids), min_size=1, max_size=3, unique=True)),
            "models": draw(globs),
            "expiresAt": draw(st.sampled_from(["2026-11-20T09:00:00Z", "2026-12-01T00:00:00Z"])),
            "reason": "because",
        }
    ]
    spec = {
        "enforcement": draw(st.sampled_from(["enforce", "enforce", "enforce", "dryRun", "halt"])),
        "timeZone": "UTC",
        "tiers": tiers,
        "require": require,
        "limits": {key: full[key] for key in sorted(chosen)},
        "windows": windows,
        "exceptions": exceptions if draw(st.booleans()) else [],
    }
    return {**HEAD, "spec": spec}


WRONG = [
    ABSENT,
    None,
    True,
    "NaN",
    float("nan"),
    float("inf"),
    "1e999",
    -1,
    "-0.5",
    " 0.9 ",
    "0x1",
    "",
    [],
    {},
    "١",
    "1_0",
    10**80,
]
GOOD: dict[str, list[Any]] = {
    "now": ["2026-11-20T09:00:00Z", "2026-11-20T08:59:59Z", "2026-12-25T10:00:00Z"],
    "model.name": ["churn", "fraud-v7", "billing-1"],
    "model.environment": ["production", "staging"],
    "model.traffic_percent": [100, "0.5", 80.5],
    "plan.action": [*ACTIONS, "none"],
    "plan.confidence": ["0.80", 0.8, "0.79999999999999999999999999999999999999", "0.95", 1],
    "plan.cost_usd": ["5.00", 0, "50.00", "50.0000000000000000000000000000000000001"],
    "plan.models_affected": [0, 1, 2, "1"],
    "impact.relative_loss": ["0.05", 0.02, "0.0199999999999999999999999999999999999999999"],
    "evidence.rows": [500, "499", 1000.0],
    "rehearsal.relative_gain": ["0.03", -1],
    "state.halted": [False, False, False, True],
    "state.spent_usd_today": ["0", "195.00", 195.01],
    "state.spent_usd_today_model": [0, "95.00", "100.00"],
    "state.actions_in_window_model": [0, 1, 2],
    "state.seconds_since_last_action_model": [None, 14400, "14399.999", 86400, 0],
    "state.last_action_failed": [False, True],
    "state.running_model": [0, 1],
    "state.recent_runs": [0, 4, 5, 10],
    "state.recent_failures": [0, 2, 4],
}


def put(facts: dict[str, Any], path: str, value: Any) -> None:
    """Set a fact, or take it away."""
    *groups, last = path.split(".")
    target = facts
    for group in groups:
        target = target.setdefault(group, {})
    if value is ABSENT:
        target.pop(last, None)
    else:
        target[last] = value


@st.composite
def cases(draw: st.DrawFn) -> dict[str, Any]:
    """Facts, mostly sound, some wrong in one or two places."""
    facts: dict[str, Any] = {"approval": None}
    for path, values in GOOD.items():
        put(facts, path, draw(st.sampled_from(values)))
    for path in draw(st.lists(st.sampled_from([*GOOD]), max_size=2)):
        put(facts, path, draw(st.sampled_from(WRONG)))
    if draw(st.integers(0, 2)) == 0:
        grant = st.fixed_dictionaries(
            {
                "by": st.sampled_from(["ann", "bob"]),
                "group": st.sampled_from(["ops", "risk", "sales"]),
                "at": st.just("2026-11-20T08:00:00Z"),
            }
        )
        ids = [
            "tier",
            "cooldown",
            "halted",
            "enforcement",
            "concurrency-per-model",
            "r0",
            "r1",
            "cost-per-day",
            "window:w0",
        ]
        lifts = draw(st.lists(st.sampled_from(ids), unique=True))
        facts["approval"] = {"digest": "sha256:00", "granted": draw(st.lists(grant, max_size=3)), "lifts": lifts}
    return facts


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
