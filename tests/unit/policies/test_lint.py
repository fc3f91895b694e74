"""Lints: one policy for each, and none for the contract's own and the packaged policy."""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from driftwarden.policies import lint, load_policy

NOW = datetime(2026, 11, 20, tzinfo=UTC)
PACKAGED = Path(__file__).parents[3] / "conf" / "base" / "driftwarden" / "policy.yml"


def codes(text: str, now: datetime | None = NOW) -> list[tuple[str, str]]:
    """(code, subject) of every lint."""
    return [(item.code, item.subject) for item in lint(load_policy(text, "p.yml"), now)]


def test_the_contracts_and_the_packaged_policy_are_clean(policy_text: str) -> None:
    """No lint on either, in November 2026."""
    assert codes(policy_text) == []
    assert codes(PACKAGED.read_text(encoding="utf-8")) == []
    assert load_policy(PACKAGED.read_text(encoding="utf-8"), "p").enforcement == "dryRun"


def test_what_has_expired_depends_on_the_moment(policy_text: str) -> None:
    """The exception and the launch window of the contract's policy, half a year later."""
    later = datetime(2027, 6, 1, tzinfo=UTC)
    assert codes(policy_text, later) == [("window-never-active", "window:launch"), ("exception-expired", "EX-17")]
    assert codes(policy_text, None) == []


@pytest.mark.parametrize(
    ("rule", "code"),
    [
        ('fact: plan.confidence, atLeast: "0"', "never-fails"),
        ('fact: plan.confidence, atLeast: "1.01"', "never-passes"),
        ('fact: plan.confidence, atMost: "1"', "never-fails"),
        ('fact: plan.confidence, atMost: "-0.1"', "never-passes"),
        ('fact: evidence.rows, equals: "1.5"', "never-passes"),
        ('fact: evidence.rows, in: ["-1", "0.5"]', "never-passes"),
        ('fact: evidence.rows, notIn: ["-1"]', "never-fails"),
        ("fact: plan.reversible, in: [true, false]", "never-fails"),
        ("fact: plan.reversible, notIn: [true, false]", "never-passes"),
        (
            "fact: now.weekday, in: [monday, tuesday, wednesday, thursday, friday, saturday, sunday]",
            "never-fails",
        ),
        ('fact: plan.confidence, atLeast: "0.8", actions: [recalibrate]', "never-applies"),
        ('fact: plan.confidence, atLeast: "0.8"', None),
        ('fact: rehearsal.relative_gain, atLeast: "0"', None),
    ],
)
def test_a_requirement_that_is_constant(policy_of: Callable[..., str], rule: str, code: str | None) -> None:
    """Rules that can never fail, never pass, or never apply."""
    found = codes(policy_of(f"  require:\n    - {{id: r, {rule}}}\n"))
    assert found == ([] if code is None else [(code, "r")])


def test_requirements_that_contradict_each_other(policy_of: Callable[..., str]) -> None:
    """At least 0.9 and at most 0.5 never hold together."""
    rules = (
        '    - {id: a, fact: plan.confidence, atLeast: "0.9"}\n    - {id: b, fact: plan.confidence, atMost: "0.5"}\n'
    )
    assert codes(policy_of("  require:\n" + rules)) == [("never-passes", "a")]


@pytest.mark.parametrize(
    ("limits", "code", "subject"),
    [
        ("rate: {perModel: {max: 0, window: 1h}}", "never-passes", "rate-per-model"),
        ("concurrency: {global: 0}", "never-passes", "concurrency-global"),
        ("cooldown: {perModel: 0h}", "never-fails", "cooldown"),
        ('circuitBreaker: {failurePercent: "100.5", minRuns: 1, window: 1d}', "never-fails", "circuit-breaker"),
        ('blastRadius: {trafficPercentAtMost: "200"}', "never-fails", "blast-radius-traffic"),
    ],
)
def test_a_limit_that_is_constant(policy_of: Callable[..., str], limits: str, code: str, subject: str) -> None:
    """Limits that can never fail or never pass."""
    assert codes(policy_of(f"  limits:\n    {limits}\n")) == [(code, subject)]


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ('schedule: "0 0 30 2 *", duration: 1h', "window-never-active"),
        ('from: "2026-12-02T00:00:00", to: "2026-12-01T00:00:00"', "window-never-active"),
        ('schedule: "0 0 * * *", until: "00:00"', "window-always-active"),
        ('schedule: "* * * * *", duration: 1m', "window-always-active"),
        ('schedule: "0 * 15 1 *", duration: 24h', "window-overlaps-itself"),
        ('schedule: "0 0 29 2 *", duration: 24h', None),
        ('schedule: "0 22 * * *", duration: 8h', None),
    ],
)
def test_a_window_that_is_odd(policy_of: Callable[..., str], fields: str, code: str | None) -> None:
    """Never active, always active, or starting again while it lasts."""
    found = codes(policy_of(f"  windows:\n    - {{id: w, kind: deny, {fields}}}\n"))
    assert found == ([] if code is None else [(code, "window:w")])


@pytest.mark.parametrize(
    ("deny", "inside"),
    [
        ("", True),
        (", actions: [retrain, rollback]", True),
        (", actions: [rollback]", False),
        (", models: ['fraud-*']", False),
    ],
)
def test_an_allow_window_inside_a_deny(policy_of: Callable[..., str], deny: str, inside: bool) -> None:
    """It allows nothing where the deny window holds for all that it is for."""
    windows = (
        f'    - {{id: day, kind: deny, schedule: "0 8 * * *", until: "18:00"{deny}}}\n'
        '    - {id: noon, kind: allow, schedule: "0 12 * * *", duration: 1h, actions: [retrain], models: ["churn-*"]}\n'
    )
    found = codes(policy_of("  windows:\n" + windows))
    assert found == ([("allow-inside-deny", "window:noon")] if inside else [])


def test_tiers_that_cannot_be_reached_or_approved() -> None:
    """A shadowed tier, a tier that allows nothing, approvals without a group or with too few people."""
    text = """\
apiVersion: driftwarden.io/v1
kind: RemediationPolicy
metadata: {name: p, revision: "1"}
spec:
  enforcement: enforce
  tiers:
    - {name: wide, models: ["fraud-*", "churn"], allow: [retrain], approvals: {required: 2, from: [ops], expiresAfter: 1h}}
    - {name: narrow, models: ["fraud-eu-*"], allow: [retrain]}
    - {name: rest, allow: [], approvals: {required: 1, from: [], expiresAfter: 1h}}
"""
    assert codes(text) == [("tier-shadowed", "narrow"), ("never-passes", "tier"), ("approvals-never-met", "rest")]
    policy = load_policy(text, "p.yml")
    few = [item.subject for item in lint(policy, NOW, {"ann": ["ops"]}) if item.code == "approvals-never-met"]
    enough = [item for item in lint(policy, NOW, {"ann": ["ops"], "bob": ["ops", "risk"]}) if item.subject == "wide"]
    assert (few, enough) == (["wide", "rest"], [])


def test_exceptions_without_effect(policy_of: Callable[..., str]) -> None:
    """On rules that no exception touches, or that the policy does not have; each with its line."""
    rule = '{id: E, rules: [halted, cooldown], models: ["*"], expiresAt: "2027-01-01T00:00:00Z", reason: x}'
    text = policy_of(f"  exceptions:\n    - {rule}\n")
    found = lint(load_policy(text, "p.yml"), NOW)
    assert [item.code for item in found] == ["exception-without-effect"] * 2
    assert found[0].line().startswith(f"p.yml:{len(text.splitlines())}: exception `E` has no effect on `halted`")


def test_no_tier_is_a_lint(policy_of: Callable[..., str]) -> None:
    """Everything would escalate."""
    assert codes(policy_of(tiers=False)) == [("no-tier", "tiers")]
