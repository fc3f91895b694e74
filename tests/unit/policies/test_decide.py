"""Single decisions: fail closed on every fact, approvals, exceptions, halts, digests, messages."""

import copy
import hashlib
import json
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest
import rfc8785

from driftwarden.contracts.decision import RuleResult
from driftwarden.errors import BadInput
from driftwarden.policies import canonical_facts, facts_digest, load_policy
from driftwarden.policies.facts import model_name
from driftwarden.policies.globs import covers, matches
from driftwarden.strict import digest, numbers_as_text

READ = [
    "now",
    "model",
    "model.name",
    "model.traffic_percent",
    "plan",
    "plan.action",
    "plan.confidence",
    "plan.cost_usd",
    "plan.models_affected",
    "impact.relative_loss",
    "evidence.rows",
    "state",
    "state.halted",
    "state.spent_usd_today",
    "state.spent_usd_today_model",
    "state.actions_in_window_model",
    "state.actions_in_window_global",
    "state.seconds_since_last_action_model",
    "state.last_action_failed",
    "state.running_model",
    "state.running_global",
    "state.recent_runs",
    "state.recent_failures",
]
ABSENT = object()
WRONG: list[Any] = [
    ABSENT, None, float("nan"), float("inf"), -float("inf"), "NaN", "nan", "Infinity", "1e999", "1e999999", " 0.9 ", "0x1",
    "+1", "1_0", "١", "0,9", "", [], {}, [1], {"value": 1}, -1, "-0.0001", 10**5000, "9" * 101,
]  # fmt: skip


def rule_of(decision: Any, id: str) -> RuleResult:
    """One rule of a decision."""
    found: RuleResult = next(rule for rule in decision.rules if rule.id == id)
    return found


def put(facts: dict[str, Any], path: str, value: Any) -> None:
    """Set a fact, or take it away."""
    group, _, last = path.rpartition(".")
    target = facts[group] if group else facts
    if value is ABSENT:
        del target[last]
    else:
        target[last] = value


@pytest.mark.parametrize("path", READ)
def test_every_fact_fails_closed(policy_text: str, facts: dict[str, Any], path: str) -> None:
    """Missing, null, mistyped, NaN, infinite, out of range: unknown, and escalated whatever the rule's `else`."""
    policy = load_policy(policy_text, "p")
    assert policy.decide(facts).outcome.value == "execute"
    for wrong in WRONG:
        if path == "state.seconds_since_last_action_model" and wrong is None:
            continue
        if path == "model.name" and isinstance(wrong, str) and model_name(wrong):
            continue  # a model may be called NaN
        spoilt = copy.deepcopy(facts)
        put(spoilt, path, wrong)
        decision = policy.decide(spoilt)
        assert decision.outcome.value == "escalate", wrong
        assert any(rule.verdict == "unknown" for rule in decision.rules), wrong


@pytest.mark.parametrize("path", [path for path in READ if path not in {"state.halted", "state.last_action_failed"}])
def test_a_boolean_is_not_a_number_nor_a_text(policy_text: str, facts: dict[str, Any], path: str) -> None:
    """`true` is never 1."""
    put(facts, path, True)
    assert load_policy(policy_text, "p").decide(facts).outcome.value == "escalate"


def test_a_null_cooldown_is_known(policy_text: str, facts: dict[str, Any]) -> None:
    """No action yet: null passes, whatever is said of a last action."""
    facts["state"] |= {"seconds_since_last_action_model": None, "last_action_failed": None}
    decision = load_policy(policy_text, "p").decide(facts)
    assert (rule_of(decision, "cooldown").verdict, decision.outcome.value) == ("pass", "execute")


@pytest.mark.parametrize(
    ("path", "value", "rule", "verdict"),
    [
        ("plan.confidence", "0.80", "confidence", "pass"),
        ("plan.confidence", 0.8, "confidence", "pass"),
        ("plan.confidence", "0.7" + "9" * 90, "confidence", "fail"),
        ("plan.cost_usd", "50." + "0" * 90 + "1", "cost-per-action", "fail"),
        ("state.spent_usd_today", "195.00", "cost-per-day", "pass"),
        ("state.spent_usd_today", "195." + "0" * 90 + "1", "cost-per-day", "fail"),
        ("state.spent_usd_today_model", 95.01, "cost-per-model-per-day", "fail"),
        ("state.actions_in_window_model", 1, "rate-per-model", "pass"),
        ("state.actions_in_window_model", "2", "rate-per-model", "fail"),
        ("state.actions_in_window_model", "1.5", "rate-per-model", "unknown"),
        ("state.seconds_since_last_action_model", 14400, "cooldown", "pass"),
        ("state.seconds_since_last_action_model", "14399.999999", "cooldown", "fail"),
        ("state.running_global", 3, "concurrency-global", "fail"),
        ("state.recent_failures", 2, "circuit-breaker", "pass"),
        ("state.recent_failures", 3, "circuit-breaker", "fail"),
        ("state.recent_failures", 7, "circuit-breaker", "unknown"),
        ("state.recent_runs", 0, "circuit-breaker", "unknown"),
        ("model.traffic_percent", "100.0", "blast-radius-traffic", "pass"),
        ("model.traffic_percent", 101, "blast-radius-traffic", "unknown"),
        ("plan.models_affected", 2, "blast-radius-models", "fail"),
        ("plan.action", "none", "tier", "fail"),
        ("plan.action", "fallback_model", "tier", "fail"),
        ("plan.action", "explode", "tier", "unknown"),
        ("plan.action", "Retrain", "tier", "unknown"),
        ("model.name", "FRAUD-1", "no-friday-deploys", "not_applicable"),
        ("model.name", "fraud-1", "no-friday-deploys", "fail"),
        ("model.name", "no spaces", "tier", "unknown"),
        ("now", "2026-11-21T10:00:00+01:00", "window:office-hours", "fail"),
        ("now", "2026-12-25T10:00:00Z", "window:holidays", "fail"),
    ],
)
def test_a_fact_and_its_verdict(
    policy_text: str, facts: dict[str, Any], path: str, value: Any, rule: str, verdict: str
) -> None:
    """When each rule passes, at the very threshold and a hair beyond it."""
    put(facts, path, value)
    assert rule_of(load_policy(policy_text, "p").decide(facts), rule).verdict == verdict


@pytest.mark.parametrize("spoil", [{}, {"state": {"halted": True}}, {"now": "never"}])
def test_nothing_to_do_stands_above_all(policy_text: str, facts: dict[str, Any], spoil: dict[str, Any]) -> None:
    """Action `none`, or too little impact: monitor, in spite of unknowns, failures and a halt."""
    policy = load_policy(policy_text, "p")
    facts |= copy.deepcopy(spoil)
    little = copy.deepcopy(facts)
    little["impact"]["relative_loss"] = "0.0199"
    decision = policy.decide(little)
    assert (decision.outcome.value, decision.decisive) == ("monitor", ("impact",))
    facts["plan"]["action"] = "none"
    assert policy.decide(facts).outcome.value == "monitor"
    unknown_impact = copy.deepcopy(facts) | {"plan": facts["plan"] | {"action": "retrain"}}
    unknown_impact["impact"]["relative_loss"] = None
    assert policy.decide(unknown_impact).outcome.value == "escalate"


def approval(*grants: tuple[str, str], lifts: list[str]) -> dict[str, Any]:
    """An approval with these (by, group)."""
    granted = [{"by": by, "group": group, "at": "2026-11-20T08:30:00Z"} for by, group in grants]
    return {"digest": "sha256:" + "0" * 64, "granted": granted, "lifts": lifts}


@pytest.mark.parametrize(
    ("grants", "lifts", "outcome"),
    [
        ([("ann", "ml-oncall"), ("bob", "risk")], ["confidence", "tier", "window:launch"], "execute"),
        ([("ann", "ml-oncall"), ("bob", "risk")], ["confidence"], "escalate"),
        ([("ann", "ml-oncall"), ("ann", "risk")], ["confidence", "tier"], "escalate"),
        ([("ann", "ml-oncall")], ["confidence", "tier"], "escalate"),
        ([("ann", "ml-oncall"), ("bob", "sales")], ["confidence", "tier"], "escalate"),
        ([("ann", "ml-oncall"), ("  ", "risk")], ["confidence", "tier"], "escalate"),
        ([], ["confidence", "tier"], "escalate"),
    ],
)
def test_an_approval_lifts_what_its_signers_saw(
    policy_text: str, facts: dict[str, Any], grants: list[tuple[str, str]], lifts: list[str], outcome: str
) -> None:
    """Semantics 10: distinct people, of the tier's groups, enough of them, and only the rules they saw."""
    facts["model"]["name"] = "fraud-v7"
    facts["plan"]["confidence"] = "0.5"
    facts["now"] = "2026-11-19T09:00:00Z"
    facts["approval"] = approval(*grants, lifts=lifts)
    decision = load_policy(policy_text, "p").decide(facts)
    assert decision.outcome.value == outcome
    assert decision.approvals is not None
    assert decision.approvals.required == 2
    if outcome == "execute":
        assert rule_of(decision, "confidence").effect == "lifted"
        assert rule_of(decision, "tier").verdict == "fail"


@pytest.mark.parametrize(
    ("path", "value", "rule"),
    [
        ("state.halted", True, "halted"),
        ("state.halted", ABSENT, "halted"),
        ("state.running_model", 1, "concurrency-per-model"),
        ("state.running_global", ABSENT, "concurrency-global"),
        ("plan.action", "explode", "tier"),
        ("model.name", ABSENT, "tier"),
    ],
)
def test_some_rules_are_never_lifted(policy_text: str, facts: dict[str, Any], path: str, value: Any, rule: str) -> None:
    """Halts, concurrency, unknown actions: no approval reaches them, and execute does not come."""
    put(facts, path, value)
    policy = load_policy(policy_text, "p")
    facts["approval"] = approval(("ann", "ml-oncall"), lifts=[item.id for item in policy.rules])
    decision = policy.decide(facts)
    assert decision.outcome.value != "execute"
    assert rule_of(decision, rule).effect != "lifted"


@pytest.mark.parametrize(
    "spoil",
    [
        "yes",
        True,
        [],
        {},
        {"digest": None},
        {"granted": None},
        {"granted": "ann"},
        {"granted": ["ann"]},
        {"granted": [{"by": ["ann"], "group": "ml-oncall", "at": "2026-11-20T08:30:00Z"}]},
        {"granted": [{"by": "ann", "group": "ml-oncall"}]},
        {"granted": [{"by": "ann", "group": "ml-oncall", "at": "yesterday"}]},
        {"lifts": None},
        {"lifts": "confidence"},
        {"lifts": [["confidence"]]},
    ],
)
def test_a_malformed_approval_lifts_nothing(policy_text: str, facts: dict[str, Any], spoil: Any) -> None:
    """What is missing or malformed in an approval is no approval."""
    good = approval(("ann", "ml-oncall"), lifts=["confidence"])
    facts["plan"]["confidence"] = None
    facts["approval"] = good
    policy = load_policy(policy_text, "p")
    assert policy.decide(facts).outcome.value == "execute"
    facts["approval"] = good | spoil if isinstance(spoil, dict) and spoil else spoil
    assert policy.decide(facts).outcome.value == "escalate"


def test_an_exception_touches_only_a_failure(policy_text: str, facts: dict[str, Any]) -> None:
    """Semantics 9: a fail becomes not applicable, with the reason; an unknown stays, and so does another model's fail."""
    policy = load_policy(policy_text, "p")
    facts["model"]["name"] = "fraud-v7"
    facts["state"]["seconds_since_last_action_model"] = 60
    excused = rule_of(policy.decide(facts), "cooldown")
    assert (excused.verdict, excused.effect) == ("not_applicable", None)
    assert "EX-17: INC-4411" in excused.message
    facts["state"]["seconds_since_last_action_model"] = "soon"
    assert rule_of(policy.decide(facts), "cooldown").verdict == "unknown"
    facts["state"]["seconds_since_last_action_model"] = 60
    facts["model"]["name"] = "fraud-v8"
    assert rule_of(policy.decide(facts), "cooldown").verdict == "fail"


def test_a_halt_leaves_monitor_alone(policy_text: str, facts: dict[str, Any]) -> None:
    """Semantics 5: execute becomes escalate; monitor by another rule stays monitor."""
    policy = load_policy(policy_text, "p")
    facts["state"]["halted"] = True
    assert policy.decide(facts).decisive == ("halted",)
    facts["state"]["actions_in_window_model"] = 2
    decision = policy.decide(facts)
    assert (decision.outcome.value, decision.decisive) == ("monitor", ("rate-per-model",))
    assert (rule_of(decision, "halted").verdict, rule_of(decision, "halted").effect) == ("fail", None)


def test_the_form_of_a_decision(policy_text: str, facts: dict[str, Any]) -> None:
    """The contract's own example: keys, figures as the policy spells them, approvals in seconds."""
    facts["plan"]["confidence"] = 0.71
    document = load_policy(policy_text, "p").decide(facts).to_json()
    assert list(document) == ["outcome", "would_be", "rules", "decisive", "approvals", "policy", "facts_digest"]
    rule = next(item for item in document["rules"] if item["id"] == "confidence")  # type: ignore[attr-defined]
    assert {key: rule[key] for key in ("verdict", "effect", "got", "expected")} == {
        "verdict": "fail",
        "effect": "escalate",
        "got": "0.71",
        "expected": "at least 0.80",
    }
    assert document["approvals"] == {"required": 1, "from": ["ml-oncall"], "expires_after_seconds": 86400}
    assert document["decisive"] == ["confidence"]
    assert json.loads(json.dumps(document)) == document


def test_numbers_have_one_digest(facts: dict[str, Any]) -> None:
    """0.9, "0.9" and "0.90" are one; the digest is the ground's, and RFC 8785's."""
    facts["plan"]["params"] = {
        "größe": [1, 1.0, "1.50", "01", "-0.0", "1e3", 1e-7, None, True],
        "ｚ": "\u20ac\u0007\n",
        "a": {},
    }
    same = copy.deepcopy(facts)
    same["plan"]["confidence"], same["state"]["recent_runs"] = 0.91, "6.0"
    assert facts_digest(facts) == facts_digest(same) == facts_digest(canonical_facts(same))
    del facts["plan"]["params"]
    assert facts_digest(facts) == digest(facts)
    document = {"é": 1.5, "z": ["0.10", 2], "\U0001f600": "x", "\uffff": "y"}
    assert facts_digest(document) == "sha256:" + hashlib.sha256(rfc8785.dumps(numbers_as_text(document))).hexdigest()


@pytest.mark.parametrize(
    "value",
    [float("nan"), float("inf"), Decimal("NaN"), 10**5000, "\ud800", b"x", 2**60, -0.0],
    ids=lambda value: type(value).__name__,
)
def test_any_facts_have_a_digest_and_a_recordable_form(policy_text: str, facts: dict[str, Any], value: Any) -> None:
    """Nothing in facts stops a decision, and the recorded form gives the same one."""
    facts["event"]["age_seconds"] = value
    facts["plan"]["confidence"] = value
    policy = load_policy(policy_text, "p")
    recorded = json.loads(json.dumps(canonical_facts(facts)))
    assert policy.decide(facts).outcome.value == policy.decide(recorded).outcome.value == "escalate"
    assert facts_digest(facts) == facts_digest(recorded)


def test_facts_that_are_no_json_are_refused(policy_text: str, facts: dict[str, Any]) -> None:
    """A bound instead of a crash."""
    deep: Any = []
    for _ in range(5000):
        deep = [deep]
    policy = load_policy(policy_text, "p")
    for params, said in (({"deep": deep}, "nested too deeply"), ({1: 2}, "a key that is not text")):
        facts["plan"]["params"] = params
        with pytest.raises(BadInput, match=said):
            policy.decide(facts)


def test_operators_by_kind_of_fact(policy_of: Callable[..., str], facts: dict[str, Any]) -> None:
    """Numbers, words, flags, dates and times are compared as what they are."""
    rules = [
        ("fact: plan.reversible, equals: true", "pass"),
        ("fact: plan.reversible, in: [false]", "fail"),
        ("fact: event.kind, in: [data_drift, concept_drift]", "pass"),
        ("fact: finding.root_cause, notIn: [unknown, covariate_shift]", "fail"),
        ('fact: now.date, atLeast: "2026-11-20"', "pass"),
        ('fact: now.date, in: ["2026-11-21"]', "fail"),
        ('fact: now, atMost: "2026-11-20T10:00:00+01:00"', "pass"),
        ('fact: now, equals: "2026-11-20T10:00:01+01:00"', "fail"),
        ('fact: plan.models_affected, equals: "1.0"', "pass"),
        ('fact: model.name, equals: "churn"', "pass"),
        ("fact: now.weekday, equals: friday", "pass"),
    ]
    lines = "".join(f"    - {{id: r{index}, {rule}}}\n" for index, (rule, _) in enumerate(rules))
    decision = load_policy(policy_of("  require:\n" + lines), "p").decide(facts)
    assert [rule_of(decision, f"r{index}").verdict for index in range(len(rules))] == [verdict for _, verdict in rules]


def test_the_weekday_is_the_policys(policy_of: Callable[..., str], facts: dict[str, Any]) -> None:
    """23:30 UTC on a Friday is Saturday in Amsterdam."""
    facts["now"] = "2026-11-20T23:30:00Z"
    rule = "  require:\n    - {id: day, fact: now.weekday, equals: saturday}\n"
    for zone, verdict in (("Europe/Amsterdam", "pass"), ("UTC", "fail")):
        assert rule_of(load_policy(policy_of(rule, zone=zone), "p").decide(facts), "day").verdict == verdict


@pytest.mark.parametrize(
    ("pattern", "name", "expected"),
    [
        ("*", "", True),
        ("fraud-*", "fraud-", True),
        ("fraud-*", "Fraud-1", False),
        ("?", "", False),
        ("a?c", "abc", True),
        ("*b*b*", "abcb", True),
        ("*b*b*", "abc", False),
        ("[ab]", "a", False),
        ("[ab]", "[ab]", True),
        ("*" + "a*" * 30 + "b", "a" * 128, False),
    ],
)
def test_globs(pattern: str, name: str, expected: bool) -> None:
    """`*` and `?`, case-sensitive, nothing else, and no pattern takes long."""
    assert matches(pattern, name) is expected


@pytest.mark.parametrize(
    ("wide", "narrow", "expected"),
    [("*", "a", True), ("a*", "a", True), ("a*", "ab*", True), ("ab*", "a*", False), ("a?", "ab", True), ("a?", "a*", False),
     ("*-v?", "fraud-v1", True), ("**", "*", True), ("?", "", False)],
)  # fmt: skip
def test_a_glob_covers_another(wide: str, narrow: str, expected: bool) -> None:
    """Every name of the narrow one is a name of the wide one."""
    assert covers(wide, narrow) is expected
