"""Policies and facts that Hypothesis makes, most of them right and some wrong in one place."""

from typing import Any

from fakes.naive_policy import ABSENT, ACTIONS
from hypothesis import strategies as st

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
