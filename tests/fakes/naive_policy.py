"""The contract's sentences of §4, one after another, with fractions instead of decimals: what the engine is held against."""

from datetime import datetime
from fractions import Fraction
from typing import Any

ACTIONS = ["retrain", "rollback", "recalibrate", "refresh_reference", "quarantine_data", "fallback_model", "notify"]
STRICTNESS = {"execute": 0, "monitor": 1, "escalate": 2}
ABSENT = object()


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
