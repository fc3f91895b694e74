"""`driftwarden bench policy`: decisions per second with the full trace, on one core, beside a hand-written if-chain and,
where they are installed, two general engines with the same rules: zen-engine and Cedar (cedarpy).

A decision is counted with all that it says: every rule's verdict, figure, expectation and message, the terms of approval
and the digest of the facts. `to_json_per_second` counts the writing of it as a document as well.
"""

import importlib
import json
import random
import time
from collections.abc import Callable
from decimal import Decimal
from typing import Any

from driftwarden.contracts.base import Outcome
from driftwarden.policies import Policy, load_policy

# Twelve rules: tier, five requirements, cost-per-action, cost-per-day, rate-per-model, cooldown, halted, enforcement.
POLICY = """\
apiVersion: driftwarden.io/v1
kind: RemediationPolicy
metadata: {name: bench, revision: "1"}
spec:
  enforcement: enforce
  tiers:
    - name: critical
      models: ["fraud-*"]
      allow: [rollback, notify]
      approvals: {required: 2, from: [ops], expiresAfter: 4h}
    - name: standard
      models: ["*"]
      allow: [retrain, rollback, notify]
      approvals: {required: 1, from: [ops], expiresAfter: 24h}
  require:
    - {id: impact, fact: impact.relative_loss, atLeast: "0.02", else: monitor}
    - {id: confidence, fact: plan.confidence, atLeast: "0.80"}
    - {id: evidence, fact: evidence.rows, atLeast: "500", actions: [retrain]}
    - {id: finding, fact: finding.confidence, atLeast: "0.60"}
    - {id: reversible, fact: plan.reversible, equals: true}
  limits:
    costUSD: {perAction: "50.00", perDay: "200.00"}
    rate: {perModel: {max: 2, window: 24h}, else: monitor}
    cooldown: {perModel: 4h, afterFailure: 24h, else: monitor}
"""


def run(decisions: int = 20_000, seed: int = 7) -> dict[str, Any]:
    """Measure `decisions` decisions over facts that all differ, in CPU time of this process.

    Every outcome is checked against the if-chain's. Figures: per second; p50 and p99 in microseconds of CPU.
    A yardstick that is not installed says so instead.
    """
    policy = load_policy(POLICY, "bench")
    rng = random.Random(seed)  # noqa: S311 - reproducible facts, no secret
    cases = [_facts(rng) for _ in range(decisions)]
    warm = cases[: min(500, decisions)]
    for facts in warm:
        policy.decide(facts)
    outcomes: list[Outcome] = []
    per_second = _per_second(lambda facts: outcomes.append(policy.decide(facts).outcome), cases)
    document_per_second = _per_second(lambda facts: policy.decide(facts).to_json(), cases)
    expected: list[Outcome] = []
    chain_per_second = _per_second(lambda facts: expected.append(if_chain(facts)), cases)
    latencies = sorted(_latency_us(policy, facts) for facts in cases)
    return {
        "decisions": decisions,
        "rules": len(policy.rules),
        "per_second": round(per_second),
        "to_json_per_second": round(document_per_second),
        "p50_us": round(latencies[len(latencies) // 2], 1),
        "p99_us": round(latencies[int(len(latencies) * 0.99)], 1),
        "outcomes": {outcome.value: outcomes.count(outcome) for outcome in Outcome},
        "agrees_with_if_chain": outcomes == expected,
        "yardsticks": {
            "if_chain_without_trace_per_second": round(chain_per_second),
            "zen_engine": _zen(cases, expected),
            "cedar": _cedar(cases, expected),
        },
    }


def _per_second(decide: Callable[[dict[str, Any]], object], cases: list[dict[str, Any]]) -> float:
    start = time.process_time()
    for facts in cases:
        decide(facts)
    return len(cases) / max(time.process_time() - start, 1e-9)


# The if-chain below in zen's own language.
_ZEN_ESCALATES = (
    "not(plan.action in (startsWith(model.name, 'fraud-') ? ['rollback', 'notify'] : ['retrain', 'rollback', 'notify']))",
    "plan.confidence < 0.80",
    "plan.action == 'retrain' and evidence.rows < 500",
    "finding.confidence < 0.60",
    "plan.reversible != true",
    "number(plan.cost_usd) > 50",
    "number(state.spent_usd_today) + number(plan.cost_usd) > 200",
)
_ZEN_MONITORS = (
    "state.actions_in_window_model >= 2",
    "(state.seconds_since_last_action_model ?? 86400) < (state.last_action_failed ? 86400 : 14400)",
)


def _zen(cases: list[dict[str, Any]], expected: list[Outcome]) -> dict[str, Any] | str:
    """The same rules in zen-engine: decisions a second of CPU, bare and with its trace; `not installed` otherwise."""
    try:
        zen = importlib.import_module("zen")
    except ImportError:
        return "not installed"
    rows = {"nothing": "impact.relative_loss < 0.02"}
    rows |= {f"escalate{index}": text for index, text in enumerate(_ZEN_ESCALATES)}
    rows |= {f"monitor{index}": text for index, text in enumerate(_ZEN_MONITORS)}
    rows["halted"] = "state.halted"
    escalates, monitors = ([f"$.{id}" for id in rows if id.startswith(kind)] for kind in ("escalate", "monitor"))
    rows["outcome"] = (
        f"$.nothing ? 'monitor' : ({' or '.join(escalates)}) ? 'escalate' : ({' or '.join(monitors)}) ? 'monitor'"
        " : $.halted ? 'escalate' : 'execute'"
    )
    expressions = [{"id": id, "key": id, "value": text} for id, text in rows.items()]
    nodes = [
        {"id": "in", "name": "in", "type": "inputNode"},
        {"id": "rules", "name": "rules", "type": "expressionNode", "content": {"expressions": expressions}},
        {"id": "out", "name": "out", "type": "outputNode"},
    ]
    edges = [
        {"id": f"{a}-{b}", "type": "edge", "sourceId": a, "targetId": b} for a, b in (("in", "rules"), ("rules", "out"))
    ]
    decision = zen.ZenEngine().create_decision(json.dumps({"nodes": nodes, "edges": edges}))
    outcomes: list[str] = []
    bare = _per_second(lambda facts: outcomes.append(decision.evaluate(facts)["result"]["outcome"]), cases)
    traced = _per_second(lambda facts: decision.evaluate(facts, {"trace": True}), cases)
    return {
        "per_second": round(bare),
        "with_trace_per_second": round(traced),
        "agrees_with_if_chain": outcomes == [outcome.value for outcome in expected],
    }


# The same rules in Cedar: one `forbid` each. It allows or denies, and names every `forbid` that applies: the outcome is
# read off these names. It has no sums and no comparisons of fractions but of four places, so money is in whole cents.
_CEDAR = """\
permit (principal, action, resource);
@id("nothing") forbid (principal, action, resource) when { context.loss.lessThan(decimal("0.02")) };
@id("escalate-tier") forbid (principal, action, resource) unless {
  if context.model like "fraud-*" then ["rollback", "notify"].contains(context.action)
  else ["retrain", "rollback", "notify"].contains(context.action) };
@id("escalate-confidence") forbid (principal, action, resource) when { context.confidence.lessThan(decimal("0.80")) };
@id("escalate-evidence") forbid (principal, action, resource) when { context.action == "retrain" && context.rows < 500 };
@id("escalate-finding") forbid (principal, action, resource) when { context.finding.lessThan(decimal("0.60")) };
@id("escalate-reversible") forbid (principal, action, resource) unless { context.reversible };
@id("escalate-cost") forbid (principal, action, resource) when { context.cost_cents > 5000 };
@id("escalate-day") forbid (principal, action, resource) when { context.spent_cents + context.cost_cents > 20000 };
@id("monitor-rate") forbid (principal, action, resource) when { context.actions_in_window >= 2 };
@id("monitor-cooldown") forbid (principal, action, resource) when { context has seconds_since &&
  context.seconds_since < (if context.last_action_failed then 86400 else 14400) };
@id("halted") forbid (principal, action, resource) when { context.halted };
"""


def _cedar(cases: list[dict[str, Any]], expected: list[Outcome]) -> dict[str, Any] | str:
    """The same rules in Cedar: decisions a second of CPU, one at a time and in one batch; `not installed` otherwise.

    Its requests are made before the clock starts. It says which rules fail, and neither figures nor what passes.
    """
    try:
        cedar = importlib.import_module("cedarpy")
    except ImportError:
        return "not installed"
    policies, entities = cedar.PolicySet.from_str(_CEDAR), cedar.Entities.from_json_str("[]")
    requests = [_cedar_request(facts) for facts in cases]
    answers: list[Any] = []
    single = _per_second(lambda request: answers.append(cedar.is_authorized(request, policies, entities)), requests)
    start = time.process_time()
    cedar.is_authorized_batch(requests, policies, entities)
    batched = len(requests) / max(time.process_time() - start, 1e-9)
    return {
        "per_second": round(single),
        "in_one_batch_per_second": round(batched),
        "agrees_with_if_chain": [_cedar_outcome(answer) for answer in answers] == expected,
    }


def _cedar_request(facts: dict[str, Any]) -> dict[str, Any]:
    plan, state = facts["plan"], facts["state"]
    since = state["seconds_since_last_action_model"]

    def decimal(value: float) -> dict[str, Any]:
        return {"__extn": {"fn": "decimal", "arg": repr(value)}}

    context = {
        "model": facts["model"]["name"],
        "action": plan["action"],
        "loss": decimal(facts["impact"]["relative_loss"]),
        "confidence": decimal(plan["confidence"]),
        "finding": decimal(facts["finding"]["confidence"]),
        "rows": facts["evidence"]["rows"],
        "reversible": plan["reversible"],
        "cost_cents": int(100 * Decimal(plan["cost_usd"])),
        "spent_cents": int(100 * Decimal(state["spent_usd_today"])),
        "actions_in_window": state["actions_in_window_model"],
        "last_action_failed": state["last_action_failed"],
        "halted": state["halted"],
    } | ({} if since is None else {"seconds_since": since})
    return {"principal": 'S::"service"', "action": 'A::"act"', "resource": 'M::"model"', "context": context}


def _cedar_outcome(answer: Any) -> Outcome | str:
    """The outcome that the forbidding rules make together; an error of any rule is no outcome."""
    if answer.diagnostics.errors:
        return str(answer.diagnostics.errors)
    fired = {name.partition("-")[0] for name in answer.diagnostics.id_annotations_by_reason.values()}
    if "nothing" in fired:
        return Outcome.MONITOR
    if "escalate" in fired:
        return Outcome.ESCALATE
    if "monitor" in fired:
        return Outcome.MONITOR
    if "halted" in fired:
        return Outcome.ESCALATE
    return Outcome.EXECUTE if answer.allowed else "denied by nothing"


def _latency_us(policy: Policy, facts: dict[str, Any]) -> float:
    start = time.thread_time_ns()
    policy.decide(facts)
    return (time.thread_time_ns() - start) / 1000


def _facts(rng: random.Random) -> dict[str, Any]:
    model = rng.choice(["churn", "demand", "fraud-v7", "billing"]) + f"-{rng.randrange(1000)}"
    return {
        "now": f"2026-11-20T{rng.randrange(24):02}:{rng.randrange(60):02}:{rng.randrange(60):02}Z",
        "model": {"name": model, "environment": "production", "traffic_percent": rng.randrange(101)},
        "event": {"kind": "data_drift", "age_seconds": round(rng.uniform(0, 900), 1)},
        "finding": {"root_cause": "covariate_shift", "confidence": round(rng.uniform(0.55, 1), 4)},
        "plan": {
            "action": rng.choice(["retrain", "retrain", "rollback", "notify"]),
            "params": {"strategy": "recent"},
            "confidence": round(rng.uniform(0.7, 1), 4),
            "cost_usd": f"{rng.uniform(0, 55):.2f}",
            "models_affected": 1,
            "reversible": True,
        },
        "impact": {"relative_loss": round(rng.uniform(0.01, 0.3), 4)},
        "evidence": {"rows": rng.randrange(300, 20_000)},
        "approval": None,
        "state": {
            "halted": False,
            "spent_usd_today": f"{rng.uniform(0, 190):.2f}",
            "actions_in_window_model": rng.randrange(3),
            "seconds_since_last_action_model": rng.choice([None, rng.randrange(200_000)]),
            "last_action_failed": rng.random() < 0.1,
        },
    }


def if_chain(facts: dict[str, Any]) -> Outcome:
    """The same twelve rules by hand: no trace, no digests, and nothing said of facts that are missing."""
    plan, state = facts["plan"], facts["state"]
    if facts["impact"]["relative_loss"] < 0.02:
        return Outcome.MONITOR
    allowed = (
        ("rollback", "notify") if facts["model"]["name"].startswith("fraud-") else ("retrain", "rollback", "notify")
    )
    cost = Decimal(plan["cost_usd"])
    if (
        plan["action"] not in allowed
        or plan["confidence"] < 0.80
        or (plan["action"] == "retrain" and facts["evidence"]["rows"] < 500)
        or facts["finding"]["confidence"] < 0.60
        or plan["reversible"] is not True
        or cost > 50
        or Decimal(state["spent_usd_today"]) + cost > 200
    ):
        return Outcome.ESCALATE
    since = state["seconds_since_last_action_model"]
    cooling = since is not None and since < (86_400 if state["last_action_failed"] else 14_400)
    if state["actions_in_window_model"] >= 2 or cooling:
        return Outcome.MONITOR
    return Outcome.ESCALATE if state["halted"] else Outcome.EXECUTE
