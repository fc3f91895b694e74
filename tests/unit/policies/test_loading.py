"""Strict reading: what is not exactly of the contract's form does not load, and says where."""

import re
from collections.abc import Callable
from typing import Any

import pytest

from driftwarden.errors import BadInput
from driftwarden.policies import Policy, load_policy
from driftwarden.strict import digest

# (what is replaced in the contract's policy, by what, words of the message)
BAD = [
    ('atLeast: "0.80"', "atLeast: 0.80", "got `0.8`, expected a probability as a quoted decimal"),
    ('atLeast: "0.80"', "atLeast: .nan", "expected a quoted string"),
    ('atLeast: "0.80"', 'atLeast: "0x1"', "quoted decimal"),
    ('atLeast: "0.80"', 'atLeast: " 0.8"', "quoted decimal"),
    ('atLeast: "0.80"', 'atLeast: "1e999999"', "quoted decimal"),
    ('atLeast: "0.80"', "atLeast: true", "got `true`"),
    ('atLeast: "0.80"', "atLeast: null", "got `null`"),
    ('atLeast: "0.80"', 'atLeast: "0.80", atMost: "0.9"', "exactly one of"),
    ('atLeast: "0.80", else', "else", "exactly one of"),
    ('atLeast: "0.80"', 'moreThan: "0.80"', "unknown field"),
    ('atLeast: "0.80"', 'atLeast: "0.80", atLeast: "0.10"', "duplicate key"),
    ("fact: plan.confidence", "fact: plan.certainty", "expected one of: now,"),
    ("fact: plan.confidence", "fact: plan.params", "got `plan.params`"),
    ("fact: plan.confidence, atLeast", "fact: plan.action, atLeast", "the fact is an action"),
    ('notIn: ["friday"]', 'notIn: ["Friday"]', "got `Friday`"),
    ('notIn: ["friday"]', "notIn: []", "at least one item"),
    ('notIn: ["friday"]', "notIn: friday", "a list"),
    ("else: monitor}\n    - {id: conf", "else: execute}\n    - {id: conf", "one of: escalate, monitor"),
    ("id: confidence", "id: impact", "each id once"),
    ("id: confidence", "id: cooldown", "an id that no generated rule has"),
    ("id: confidence", "id: 7", "an id of letters"),
    ("id: launch", "id: month-end", "each id once"),
    ("name: standard", "name: critical", "each name once"),
    ("enforcement: enforce", "enforcement: on", "YAML would read this as bool"),
    ("enforcement: enforce", "enforcement: dryrun", "one of: enforce, dryRun, halt"),
    ("Europe/Amsterdam", "Europe/Amsterdan", "an IANA time zone"),
    ('models: ["fraud-*"]\n', "models: fraud-*\n", "a list with at least one item"),
    ('models: ["fraud-*"]\n', "models: [1]\n", "expected text"),
    ("allow: [rollback, notify]", "allow: [rollback, explode]", "got `explode`"),
    ("tiers: [critical]", "tiers: [vital]", "a tier of this policy: critical, standard"),
    ("required: 2", "required: 0", "an integer from 1"),
    ("required: 2", "required: 2.0", "an integer from 1"),
    ("expiresAfter: 4h", "expiresAfter: 4", "a duration like"),
    ("expiresAfter: 4h", "expiresAfter: 0h", "above zero"),
    ('perAction: "50.00"', "perAction: 50.00", "an amount of money as a quoted decimal"),
    ('perAction: "50.00"', 'perAction: "-1"', "at least 0"),
    ("costUSD:", "costEUR:", "unknown field"),
    ("max: 2", "max: -2", "an integer from 0"),
    ("minRuns: 5", "minRuns: 0", "an integer from 1"),
    ("window: 24h}", "window: 24}", "a duration like"),
    ('"0 18 L * *"', '"0 0 18 L * *"', "five cron fields"),
    ('"0 18 L * *"', '"0 18 L *"', "five cron fields"),
    ('"0 18 L * *"', '"@monthly"', "five cron fields"),
    ('"0 18 L * *"', '"61 18 L * *"', "five cron fields"),
    ('"0 18 L * *", duration: 36h', '"0 18 L * *"', "`schedule` with `duration` or `until`"),
    ('"0 18 L * *", duration: 36h', '"0 18 L * *", duration: 36h, until: "17:00"', "`schedule` with"),
    ('until: "17:00"', "until: 17:00", "YAML would read this as int"),
    ('until: "17:00"', 'until: "25:00"', "a quoted time of day"),
    ('until: "17:00"', 'until: "١٧:٠٠"', "a quoted time of day"),
    ('to: "2027-01-04T08:00:00"', 'to: "2027-02-30T08:00:00"', "a date and time"),
    ('to: "2027-01-04T08:00:00"', 'to: "tomorrow"', "a date and time"),
    ("country: NL", "country: NO", "YAML would read this as bool"),
    ("country: NL", "country: Narnia", "a country code"),
    ("country: NL", "country: NL, subdivision: XX", "expected"),
    ("kind: deny, holidays", "kind: forbid, holidays", "one of: deny, allow"),
    ("rules: [cooldown]", "rules: [cooldwon]", "the id of a rule"),
    ('expiresAt: "2026-12-01T00:00:00Z"', 'expiresAt: "2026-12-01"', "an RFC 3339 time with a zone"),
    ('expiresAt: "2026-12-01T00:00:00Z", ', "", "the field `expiresAt`"),
    (", reason: INC-4411", "", "the field `reason`"),
    ("reason: INC-4411", 'reason: ""', "a reason"),
    ("kind: RemediationPolicy", "kind: Policy", "one of: RemediationPolicy"),
    ("driftwarden.io/v1", "driftwarden.io/v2", "one of: driftwarden.io/v1"),
    ('revision: "2026-11-20.1"', "revision: 1", "a revision as quoted text"),
    ("metadata: {name: production, ", "metadata: {", "the field `name`"),
    ("  require:", "  requires:", "unknown field"),
]


@pytest.mark.parametrize(("old", "new", "message"), BAD)
def test_a_bad_policy_does_not_load(policy_text: str, old: str, new: str, message: str) -> None:
    """One line: file and line, what was got, what was expected."""
    assert policy_text.count(old) >= 1
    with pytest.raises(BadInput) as caught:
        load_policy(policy_text.replace(old, new, 1), "production.yml")
    said = caught.value.diagnostics()
    assert message in said
    assert re.match(r"production\.yml:\d+: ", said)
    assert "\n" not in said


def test_the_line_is_the_line(policy_text: str) -> None:
    """An error names the line of the value, not of the rule."""
    lines = policy_text.splitlines()
    number = next(index for index, line in enumerate(lines, 1) if "id: confidence" in line)
    with pytest.raises(BadInput, match=rf"^production.yml:{number}: "):
        load_policy(policy_text.replace('"0.80"', "0.80"), "production.yml")


@pytest.mark.parametrize(
    "text", ["", "[]", "null", "a: [", "\x00", "- 1\n- 2", "'just text'", "a: &x 1\nb: *x", "---\na: 1\n---\nb: 2"]
)
def test_what_is_no_policy_at_all(text: str) -> None:
    """Anything else is one line too, never a traceback."""
    with pytest.raises(BadInput):
        load_policy(text, "p.yml")


def test_an_empty_policy_denies(policy_of: Callable[..., str], facts: dict[str, Any]) -> None:
    """No tier, no rule: everything escalates, and nobody can approve."""
    decision = load_policy(policy_of(tiers=False), "p.yml").decide(facts)
    assert (decision.outcome.value, decision.decisive, decision.approvals) == ("escalate", ("tier",), None)


def test_integers_serve_as_decimals(policy_of: Callable[..., str], facts: dict[str, Any]) -> None:
    """An integer is exact: only floats are refused."""
    policy = load_policy(policy_of("  limits:\n    costUSD: {perAction: 50}\n"), "p.yml")
    assert policy.decide(facts).outcome.value == "execute"


def test_the_digest_is_of_the_document(policy_text: str) -> None:
    """Comments and spelling of numbers do not matter, any value does; the canonical form loads again."""
    policy = load_policy(policy_text, "p.yml")
    assert policy.digest == digest(policy.canonical())
    assert load_policy(policy_text.replace('"0.80"', '"0.8"') + "# the end\n", "q.yml").digest == policy.digest
    assert load_policy(policy_text.replace('"0.80"', '"0.81"'), "q.yml").digest != policy.digest
    again = Policy.from_change_record(policy.change_record())
    assert (again.digest, again.name, again.revision) == (policy.digest, "production", "2026-11-20.1")


@pytest.mark.parametrize("spoil", ["policy", "digest", "windows", "horizon"])
def test_a_spoilt_change_record_does_not_load(policy_text: str, spoil: str) -> None:
    """A record without its policy, digest or intervals makes no policy."""
    body = load_policy(policy_text, "p.yml").change_record()
    body[spoil] = {"launch": [["x", "y"]]} if spoil == "windows" else None
    with pytest.raises(BadInput):
        Policy.from_change_record(body)
