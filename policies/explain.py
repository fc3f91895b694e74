"""A decision for a person on call at 3 a.m.: what was decided, which rules decided it, what would change it."""

from dataclasses import dataclass

from driftwarden.contracts.base import Outcome
from driftwarden.contracts.decision import Decision, RuleResult
from driftwarden.policies.facts import MISSING, Facts, getter

_HEADLINES = {
    Outcome.EXECUTE: "EXECUTE: every rule holds, the action runs unattended",
    Outcome.ESCALATE: "ESCALATE: a person must decide, nothing runs",
    Outcome.MONITOR: "MONITOR: nothing runs, the model is watched",
}
_MARKS = {"pass": "ok", "fail": "FAIL", "unknown": "UNKNOWN", "not_applicable": "-"}


@dataclass(frozen=True, slots=True)
class Row:
    """One rule: `mark` is its verdict in a word, `decisive` whether it decided the outcome."""

    rule: str
    mark: str
    effect: str
    got: str
    expected: str
    decisive: bool


def headline(decision: Decision, facts: Facts) -> str:
    """One line: the outcome, the action and the model, and what a dry run keeps from happening."""
    action, model = getter("plan.action")(facts), getter("model.name")(facts)
    about = f"{_word(action)} of {_word(model)}"
    if decision.would_be is not None:
        return f"MONITOR (dry run): {about} would be: {_HEADLINES[decision.would_be]}"
    return f"{about}: {_HEADLINES[decision.outcome]}"


def _word(value: object) -> str:
    return (
        value[:128]
        if isinstance(value, str) and value.isprintable()
        else "?"
        if value is MISSING
        else "a malformed fact"
    )


def explain(decision: Decision, facts: Facts) -> list[Row]:
    """Every rule as a row, decisive ones first, then what failed or is unknown, then what passed, then what does not apply."""
    ranked = sorted(decision.rules, key=lambda rule: _rank(rule, decision))
    return [
        Row(
            rule=rule.id,
            mark=_MARKS[rule.verdict],
            effect=rule.effect or "",
            got=("" if rule.verdict == "not_applicable" else "(missing)") if rule.got is None else rule.got,
            expected=rule.message if rule.verdict == "not_applicable" else rule.expected or "",
            decisive=rule.id in decision.decisive,
        )
        for rule in ranked
    ]


def _rank(rule: RuleResult, decision: Decision) -> int:
    if rule.id in decision.decisive:
        return 0
    return {"unknown": 1, "fail": 1, "pass": 2, "not_applicable": 3}[rule.verdict]


def approval_line(decision: Decision) -> str:
    """Who may approve, and by when."""
    terms = decision.approvals
    if terms is None:
        return "nobody can approve this: no tier with approvals matches"
    hours = terms.expires_after_seconds / 3600
    return f"approval: {terms.required} of {', '.join(terms.from_) or 'nobody'}, within {hours:g} h"
