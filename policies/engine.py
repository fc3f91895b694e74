"""The policy engine: facts in, a decision out; no clock, no file, no network (contract §4, semantics 1 to 10)."""

from collections.abc import Iterable, Mapping
from datetime import date, datetime
from typing import Any, Final

from driftwarden.contracts.base import Outcome
from driftwarden.contracts.decision import ApprovalTerms, Decision, RuleResult
from driftwarden.policies.approval import seen_rules
from driftwarden.policies.canonical import facts_digest
from driftwarden.policies.document import Enforcement, Exemption, Limits, PolicyDocument, Tier
from driftwarden.policies.facts import Facts
from driftwarden.policies.globs import compile_globs
from driftwarden.policies.limits import limit_rules, window_rule
from driftwarden.policies.reader import read_policy
from driftwarden.policies.reading import Node
from driftwarden.policies.record import change_body, document_of, recorded_timelines
from driftwarden.policies.rules import (
    FAIL,
    NOT_APPLICABLE,
    Applies,
    Case,
    Rule,
    compile_match,
    enforcement_rule,
    halted_rule,
    new_result,
    requirement_rule,
    resolve_time,
    tier_rule,
)
from driftwarden.policies.windows import Timeline, WindowClock
from driftwarden.policies.zones import zone
from driftwarden.strict import JsonObject, digest, load_yaml

# An exception never touches these (semantics 9).
BEYOND_EXCEPTIONS: Final = frozenset({"tier", "halted", "enforcement"})
# The last two rules of every policy: they turn execute into escalate, and leave monitor alone (semantics 5).
ACT_LAST: Final = frozenset({"halted", "enforcement"})


class Policy:
    """A compiled policy: the same facts always give the same decision."""

    def __init__(self, document: PolicyDocument, recorded: Mapping[str, Timeline] | None = None) -> None:
        """Compile a document; `recorded`: resolved intervals of its windows by window id, used before any of one's own."""
        self.document = document
        self.digest = digest(document.raw)
        self._clocks = {window.id: WindowClock(window, (recorded or {}).get(window.id)) for window in document.windows}
        self._tiers: tuple[tuple[Tier, Applies | None, ApprovalTerms | None], ...] = tuple(
            (tier, compile_match(tier.match), _terms(tier)) for tier in document.tiers
        )
        self.rules: tuple[Rule, ...] = tuple(self._compile())
        self._judges = tuple(rule.judge for rule in self.rules)
        self._dry = document.enforcement == "dryRun"
        self._exceptions = _exceptions_by_rule(document.exceptions)
        derived = any(rule.fact in {"now.weekday", "now.date"} for rule in document.require)
        self._local_zone = document.time_zone if derived else None
        timed = any(rule.fact.split(".")[0] == "now" for rule in document.require)
        self._looks_at_time = bool(timed or document.windows or document.exceptions)

    def _compile(self) -> Iterable[Rule]:
        yield tier_rule(self.document)
        yield from map(requirement_rule, self.document.require)
        yield from limit_rules(self.document.limits)
        for window in self.document.windows:
            yield window_rule(window, self._clocks[window.id])
        yield halted_rule()
        yield enforcement_rule(self.document)

    @property
    def name(self) -> str:
        """The policy's name."""
        return self.document.name

    @property
    def revision(self) -> str:
        """The policy's revision, as its author wrote it."""
        return self.document.revision

    @property
    def enforcement(self) -> Enforcement:
        """`enforce`, `dryRun` or `halt`."""
        return self.document.enforcement

    @property
    def limits(self) -> Limits:
        """The limits: windows of rates, cooldowns and caps, from which the service computes `state.*`."""
        return self.document.limits

    def day_of(self, now: datetime) -> date:
        """The calendar day of a moment in the policy's zone: the day of `spent_usd_today`."""
        return now.astimezone(zone(self.document.time_zone)).date()

    def canonical(self) -> JsonObject:
        """The whole policy as a document without floats; `digest` is its digest, and it loads again as the same policy."""
        return self.document.raw

    def change_record(self, now: datetime | None = None) -> JsonObject:
        """The body of an audit record `policy_change`: the policy, the versions of engine, tzdata and holidays, and the
        resolved intervals of its windows from the year before `now` to two years after it (None: 2024 to 2033)."""
        return change_body(self.document, self.digest, now)

    @classmethod
    def from_change_record(cls, body: Mapping[str, Any]) -> "Policy":
        """The policy of a `policy_change` record, with the intervals resolved then; BadInput where it does not load."""
        document = document_of(body)
        return cls(document, recorded_timelines(body, document))

    def decide(self, facts: Facts) -> Decision:
        """Decide from facts alone: every rule is evaluated and reported, whatever the others say."""
        case = Case(facts)
        if self._looks_at_time:
            resolve_time(case, self._local_zone)
        terms = self._find_tier(case)
        seen = seen_rules(facts.get("approval"), terms)
        results: list[RuleResult] = []
        escalating: list[str] = []
        monitoring: list[str] = []
        nothing: list[str] = []
        for judge in self._judges:
            result = judge(case)
            if result[2] is not None:  # its effect: it is a failure, or unknown
                rule = self.rules[len(results)]
                if seen or self._exceptions:
                    result = self._reconsidered(rule, result, seen, case)
                effect = result[2]
                if effect == "escalate":
                    escalating.append(rule.id)
                elif effect == "monitor":
                    monitoring.append(rule.id)
                    if rule.nothing_to_do:
                        nothing.append(rule.id)
            results.append(result)
        if nothing or case.action == "none":
            outcome, decisive = Outcome.MONITOR, nothing
        else:
            outcome, decisive = _strictest(escalating, monitoring)
        if outcome is Outcome.MONITOR and escalating and escalating[-1] in ACT_LAST:  # they leave monitor alone
            results[-2:] = [result._replace(effect=None) for result in results[-2:]]
        dry = self._dry
        return _decision(
            {
                "outcome": Outcome.MONITOR if dry else outcome,
                "would_be": outcome if dry else None,
                "rules": tuple(results),
                "decisive": tuple(decisive),
                "approvals": terms,
                "policy_name": self.document.name,
                "policy_revision": self.document.revision,
                "policy_digest": self.digest,
                "facts_digest": facts_digest(facts),
            }
        )

    def _reconsidered(self, rule: Rule, result: RuleResult, seen: frozenset[str], case: Case) -> RuleResult:
        """A failure or an unknown, where an exception excuses it or an approval lifts it."""
        id, verdict, _, got, expected, message = result
        excuse = self._excuse(id, case) if verdict == FAIL else None
        if excuse is not None:
            return new_result(RuleResult, (id, NOT_APPLICABLE, None, got, expected, excuse))
        if id in seen and rule.liftable and (id != "tier" or case.action is not None):
            return new_result(RuleResult, (id, verdict, "lifted", got, expected, message + ", lifted by the approval"))
        return result

    def _find_tier(self, case: Case) -> ApprovalTerms | None:
        for tier, applies, terms in self._tiers:
            matched = True if applies is None else applies(case)
            if matched is None:
                case.tier_known = False
                return None
            if matched:
                case.tier = tier
                return terms
        return None

    def _excuse(self, rule_id: str, case: Case) -> str | None:
        """Which exception excuses a failure of this rule, and why; None: none holds now for this model."""
        if case.moment is not None:
            for exemption, accepts in self._exceptions.get(rule_id, ()):
                named = accepts is None or (case.model is not None and accepts(case.model))
                if named and case.moment < exemption.expires_at:
                    return f"excepted by {exemption.id}: {exemption.reason}"
        return None


def load_policy(text: str, where: str) -> Policy:
    """Read and compile a policy from YAML; `where` names the file in errors. Raises BadInput."""
    data, lines = load_yaml(text, where=where)
    return Policy(read_policy(Node(data, (), lines, where)))


def _terms(tier: Tier) -> ApprovalTerms | None:
    if tier.approvals is None:
        return None
    return ApprovalTerms(
        required=tier.approvals.required,
        from_=tier.approvals.groups,
        expires_after_seconds=int(tier.approvals.expires_after.total_seconds()),
    )


def _exceptions_by_rule(exceptions: Iterable[Exemption]) -> dict[str, list[tuple[Exemption, Any]]]:
    by_rule: dict[str, list[tuple[Exemption, Any]]] = {}
    for exemption in exceptions:
        accepts = None if exemption.models is None else compile_globs(exemption.models)
        for rule in exemption.rules:
            if rule not in BEYOND_EXCEPTIONS:
                by_rule.setdefault(rule, []).append((exemption, accepts))
    return by_rule


def _strictest(escalating: list[str], monitoring: list[str]) -> tuple[Outcome, list[str]]:
    """The strictest outcome and the rules that decide it; `halted` and `enforcement`, the last of all rules, act last."""
    if monitoring and (not escalating or escalating[0] in ACT_LAST):
        return Outcome.MONITOR, monitoring
    return (Outcome.ESCALATE if escalating else Outcome.EXECUTE), escalating


# Values whose parts are right by construction are made without pydantic's checks, which cost more than the rules do.
_DECISION_FIELDS = set(Decision.model_fields)  # nothing adds to it
_new, _set = object.__new__, object.__setattr__


def _decision(parts: dict[str, Any]) -> Decision:
    decision = _new(Decision)
    _set(decision, "__dict__", parts)
    _set(decision, "__pydantic_fields_set__", _DECISION_FIELDS)
    _set(decision, "__pydantic_extra__", None)
    _set(decision, "__pydantic_private__", None)
    return decision
