"""A policy and facts that it would execute, shared by the tests of this folder."""

import copy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[2]))  # the naive model of tests/fakes

CONTRACT_POLICY = """\
apiVersion: driftwarden.io/v1
kind: RemediationPolicy
metadata: {name: production, revision: "2026-11-20.1"}
spec:
  enforcement: enforce
  timeZone: Europe/Amsterdam
  tiers:
    - name: critical
      models: ["fraud-*"]
      allow: [rollback, notify]
      approvals: {required: 2, from: [ml-oncall, risk], expiresAfter: 4h}
    - name: standard
      models: ["*"]
      allow: [retrain, rollback, recalibrate, refresh_reference, quarantine_data, notify]
      approvals: {required: 1, from: [ml-oncall], expiresAfter: 24h}
  require:
    - {id: impact, fact: impact.relative_loss, atLeast: "0.02", else: monitor}
    - {id: confidence, fact: plan.confidence, atLeast: "0.80", else: escalate}
    - {id: evidence, fact: evidence.rows, atLeast: "500", else: escalate, actions: [retrain]}
    - {id: no-friday-deploys, fact: now.weekday, notIn: ["friday"], else: escalate, tiers: [critical]}
  limits:
    costUSD: {perAction: "50.00", perDay: "200.00", perModelPerDay: "100.00"}
    rate: {perModel: {max: 2, window: 24h}, global: {max: 10, window: 1h}, else: monitor}
    cooldown: {perModel: 4h, afterFailure: 24h, else: monitor}
    concurrency: {perModel: 1, global: 3, else: monitor}
    circuitBreaker: {failurePercent: 40, minRuns: 5, window: 7d, else: escalate}
    blastRadius: {trafficPercentAtMost: "100", modelsAtMost: 1, else: escalate}
  windows:
    - {id: month-end, kind: deny, schedule: "0 18 L * *", duration: 36h, models: ["billing-*"]}
    - {id: office-hours, kind: allow, schedule: "0 9 * * 1-5", until: "17:00", actions: [retrain]}
    - {id: launch, kind: deny, from: "2026-12-18T18:00:00", to: "2027-01-04T08:00:00"}
    - {id: holidays, kind: deny, holidays: {country: NL}}
  exceptions:
    - {id: EX-17, rules: [cooldown], models: ["fraud-v7"], expiresAt: "2026-12-01T00:00:00Z", reason: INC-4411}
"""

GOOD_FACTS: dict[str, Any] = {
    "now": "2026-11-20T09:00:00Z",
    "model": {"name": "churn", "environment": "production", "traffic_percent": 100},
    "event": {"kind": "data_drift", "age_seconds": 12},
    "finding": {"root_cause": "covariate_shift", "confidence": "0.9"},
    "plan": {
        "action": "retrain",
        "params": {"strategy": "recent"},
        "confidence": "0.91",
        "cost_usd": "5.00",
        "benefit_usd": "100",
        "models_affected": 1,
        "reversible": True,
    },
    "impact": {"relative_loss": "0.05", "usd_per_day": "12"},
    "evidence": {"rows": 1000, "labelled_rows": 900, "age_seconds": 60},
    "rehearsal": {"win_probability": "0.95", "relative_gain": "0.03"},
    "track_record": {"successes": 3, "failures": 0, "lower_bound": "0.5"},
    "approval": None,
    "state": {
        "halted": False,
        "spent_usd_today": "0",
        "spent_usd_today_model": "0",
        "actions_in_window_model": 0,
        "actions_in_window_global": 0,
        "seconds_since_last_action_model": 90000,
        "last_action_failed": False,
        "running_model": 0,
        "running_global": 0,
        "recent_runs": 6,
        "recent_failures": 1,
    },
}


@pytest.fixture
def policy_text() -> str:
    """The policy of the contract, word for word."""
    return CONTRACT_POLICY


@pytest.fixture
def facts() -> dict[str, Any]:
    """Facts that the contract's policy executes."""
    return copy.deepcopy(GOOD_FACTS)


@pytest.fixture
def policy_of() -> Callable[..., str]:
    """A function that writes a small policy: `spec` is YAML below `spec`, indented by two."""

    def write(
        spec: str = "", *, enforcement: str = "enforce", zone: str = "Europe/Amsterdam", tiers: bool = True
    ) -> str:
        tier = (
            "  tiers:\n    - {name: all, models: ['*'], allow: [retrain, rollback, notify], "
            "approvals: {required: 1, from: [ops], expiresAfter: 1h}}\n"
        )
        head = "apiVersion: driftwarden.io/v1\nkind: RemediationPolicy\nmetadata: {name: p, revision: '1'}\nspec:\n"
        return f"{head}  enforcement: {enforcement}\n  timeZone: {zone}\n{tier if tiers else ''}{spec}"

    return write
