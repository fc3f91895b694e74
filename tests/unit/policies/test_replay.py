"""Replay from audit records alone, and PolicyTest documents."""

import copy
import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from driftwarden.errors import BadInput
from driftwarden.policies import Policy, canonical_facts, load_policy, replay, run_policy_tests

NOW = datetime(2026, 11, 20, tzinfo=UTC)


def log_of(policy: Policy, all_facts: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Audit records as a service would write them, by way of JSON."""
    records: list[dict[str, Any]] = [{"type": "open"}, {"type": "policy_change", "body": policy.change_record(NOW)}]
    for number, facts in enumerate(all_facts):
        decision = policy.decide(facts).to_json()
        body = {"facts": canonical_facts(facts), "decision": decision, "policy_digest": policy.digest}
        records.append(
            {"type": "decision", "incident": f"inc-{number}", "ts": "2026-11-20T09:00:00.000000Z", "body": body}
        )
    stamped = [{"stream": "s", "seq": number, **record} for number, record in enumerate(records)]
    copied: list[dict[str, Any]] = json.loads(json.dumps(stamped))
    return copied


@pytest.fixture
def history(facts: dict[str, Any]) -> list[dict[str, Any]]:
    """An execute, an escalation for confidence, a monitor for cooldown, and one with spoilt facts."""
    found = [copy.deepcopy(facts) for _ in range(4)]
    found[1]["plan"] |= {"confidence": 0.71, "cost_usd": "7.50"}
    found[2]["state"]["seconds_since_last_action_model"] = 60
    found[3]["plan"]["confidence"] = float("nan")
    return found


def test_under_the_recorded_policy_all_is_the_same(policy_text: str, history: list[dict[str, Any]]) -> None:
    """Every decision again, floats and NaN included."""
    report = replay(log_of(load_policy(policy_text, "p"), history))
    assert (report.ok, report.decisions, report.same, report.changed) == (True, 4, 4, [])


@pytest.mark.parametrize(
    ("path", "value", "where"),
    [
        (("outcome",), "execute", "outcome"),
        (("rules", 2, "verdict"), "pass", "rules.confidence"),
        (("rules", 2, "got"), "0.99", "rules.confidence"),
        (("decisive",), [], "decisive"),
        (("facts_digest",), "sha256:0", "facts_digest"),
        (("approvals",), None, "approvals"),
    ],
)
def test_a_record_that_was_altered_is_found(
    policy_text: str, history: list[dict[str, Any]], path: tuple[Any, ...], value: Any, where: str
) -> None:
    """All of a decision is compared, part by part."""
    records = log_of(load_policy(policy_text, "p"), history[1:2])
    target = records[-1]["body"]["decision"]
    for key in path[:-1]:
        target = target[key]
    target[path[-1]] = value
    report = replay(records)
    assert not report.ok
    assert where in report.changed[0].differs_in


def test_messages_are_not_compared(policy_text: str, history: list[dict[str, Any]]) -> None:
    """A later engine may say it better."""
    records = log_of(load_policy(policy_text, "p"), history)
    for record in records[2:]:
        for rule in record["body"]["decision"]["rules"]:
            rule["message"] = "said otherwise"
    assert replay(records).ok


def test_another_policy_shows_what_would_change(policy_text: str, history: list[dict[str, Any]]) -> None:
    """A matrix, what newly executes one by one, and what it would have cost."""
    looser = load_policy(
        policy_text.replace('"0.80"', '"0.70"').replace("cooldown: {perModel: 4h", "cooldown: {perModel: 0h"), "q"
    )
    report = replay(log_of(load_policy(policy_text, "p"), history), looser)
    document = report.to_json()
    assert report.ok
    assert document["matrix"] == {
        "execute": {"execute": 1},
        "escalate": {"execute": 1, "escalate": 1},
        "monitor": {"execute": 1},
    }
    assert [item["incident"] for item in document["newly_executing"]] == ["inc-1", "inc-2"]
    assert document["cost_usd"] == {"before": "5", "after": "17.5", "newly_executing": "12.5"}


def test_what_changes_is_told_in_the_order_of_time(policy_text: str, history: list[dict[str, Any]]) -> None:
    """Files come by name, as their processes are called: what is told of them does not."""
    log = log_of(load_policy(policy_text, "p"), history[:1] * 3)
    for number, record in enumerate(log):
        record["ts"] = f"2026-11-20T09:00:{len(log) - number:02}.000000Z"
    report = replay(log, load_policy(policy_text.replace("enforcement: enforce", "enforcement: halt"), "p"))
    assert [str(item.ts)[17:19] for item in report.changed] == ["01", "02", "03"]


def test_what_is_decided_again_before_its_effect_costs_once(policy_text: str, history: list[dict[str, Any]]) -> None:
    """Two decisions to execute one plan are one expense; what the second of them stopped is none."""
    policy = load_policy(policy_text, "p")
    executed, stopped = history[0], history[0] | {"state": history[0]["state"] | {"halted": True}}
    records = log_of(policy, [executed, executed])
    for record in records[2:]:
        record["incident"] = "inc-0"
    assert replay(records).to_json()["cost_usd"] == {"before": "5", "after": "5", "newly_executing": "0"}
    records = log_of(policy, [executed, stopped])
    for record in records[2:]:
        record["incident"] = "inc-0"
    assert replay(records).to_json()["cost_usd"] == {"before": "0", "after": "0", "newly_executing": "0"}


@pytest.mark.parametrize("spoil", ["no policy", "no facts", "spoilt policy"])
def test_what_cannot_be_made_again_is_a_fault(policy_text: str, history: list[dict[str, Any]], spoil: str) -> None:
    """Never silently left out."""
    records = log_of(load_policy(policy_text, "p"), history[:1])
    if spoil == "no policy":
        del records[1]
    elif spoil == "no facts":
        records[2]["body"]["facts"] = None
    else:
        records[1]["body"]["policy"]["spec"]["enforcement"] = "halt"
    report = replay(records)
    assert (report.ok, len(report.faults), report.faults[0].incident) == (False, 1, "inc-0")


def test_each_decision_finds_its_own_policy(policy_text: str, history: list[dict[str, Any]]) -> None:
    """Two policies in one stream, and a decision whose policy another stream recorded."""
    first, second = load_policy(policy_text, "p"), load_policy(policy_text.replace('"0.80"', '"0.70"'), "q")
    records = log_of(first, history) + log_of(second, history)
    records[-1]["stream"] = "another"
    report = replay(records)
    assert (report.ok, report.decisions, len(report.policies)) == (True, 8, 2)


CASES = """\
apiVersion: driftwarden.io/v1
kind: PolicyTest
policy: production.yml
cases:
  - name: it runs
    facts: fixtures/retrain.json
    expect: {outcome: execute, would_be: null, decisive: []}
  - name: a missing confidence fails closed
    facts: fixtures/retrain.json
    set: {state.spent_usd_today: "195.01", new.fact: 1}
    remove: [plan.confidence]
    expect: {outcome: escalate, rules: {confidence: unknown, cost-per-day: fail}, effects: {impact: null}}
  - name: facts written out
    facts: {plan: {action: none}}
    expect: {outcome: monitor}
"""


@pytest.fixture
def read(policy_text: str, facts: dict[str, Any]) -> Callable[[str], str]:
    """A file system of three files."""
    files = {"d/t.yml": CASES, "d/production.yml": policy_text, "d/fixtures/retrain.json": json.dumps(facts)}
    return files.__getitem__


def test_cases_pass_and_cover(read: Callable[[str], str]) -> None:
    """Paths are relative to the document; each rule's verdicts are counted."""
    report = run_policy_tests(["d/t.yml"], read)
    assert (report.ok, len(report.results)) == (True, 3)
    cover = report.coverage["d/production.yml"]
    assert cover.seen["confidence"] == {"pass": 1, "unknown": 2}
    assert cover.possible["cooldown"] == ("pass", "fail", "unknown", "not_applicable")
    assert cover.possible["enforcement"] == ("pass",)
    assert 0 < report.coverage_percent < 100


def test_a_case_that_fails_says_what_it_got(read: Callable[[str], str]) -> None:
    """Got and expected, with the line of the case."""
    changed = CASES.replace("{outcome: execute, would_be", "{outcome: monitor, rules: {tier: fail}, would_be")
    report = run_policy_tests(["d/t.yml"], lambda path: changed if path == "d/t.yml" else read(path))
    assert report.results[0].faults == (
        "outcome: got `execute`, expected `monitor`",
        "rule `tier`: got `pass`, expected `fail`",
    )
    assert (report.results[0].where, report.ok) == ("d/t.yml:5", False)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("outcome: execute, ", "outcome: run, "),
        ("rules: {confidence: unknown", "rules: {confidense: unknown"),
        ("remove: [plan.confidence]", "remove: [plan.confidense]"),
        ("set: {state.spent", "set: {now.spent"),
        ("kind: PolicyTest", "kind: Test"),
        ("expect: {outcome: monitor}", "expect: {}"),
        ("  - name: it runs\n", "  - title: it runs\n"),
        ("195.01", '195.01", state.spent_usd_today: "1'),
    ],
)
def test_a_bad_test_document_is_refused(read: Callable[[str], str], old: str, new: str) -> None:
    """A typing mistake never makes a test pass."""
    changed = CASES.replace(old, new, 1)
    assert changed != CASES
    with pytest.raises(BadInput, match=r"^d/t\.yml:\d+"):
        run_policy_tests(["d/t.yml"], lambda path: changed if path == "d/t.yml" else read(path))
