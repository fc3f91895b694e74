"""Replay: every recorded decision made again from the audit records alone, under its own policy or under another one."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from driftwarden.errors import BadInput
from driftwarden.policies.engine import Policy
from driftwarden.policies.facts import FACTS, getter
from driftwarden.policies.numbers import number_reader
from driftwarden.policies.rules import EXACT
from driftwarden.strict import JsonObject, canonical_json, decimal_text

_get_cost, _read_cost = getter("plan.cost_usd"), number_reader(FACTS["plan.cost_usd"])
_NO_COST = Decimal(0)


@dataclass(frozen=True, slots=True)
class Replayed:
    """One decision that came out otherwise, or could not be made again (`fault`)."""

    incident: str | None
    ts: str | None
    model: str | None
    action: str | None
    before: str | None
    after: str | None
    cost_usd: str | None
    differs_in: tuple[str, ...] = ()
    fault: str | None = None

    def to_json(self) -> JsonObject:
        """JSON-able, cost as a decimal string."""
        return {name: getattr(self, name) for name in self.__slots__} | {"differs_in": list(self.differs_in)}


@dataclass(slots=True)
class ReplayReport:
    """What a replay found. Under the recorded policies `ok` means: all the same. `matrix[before][after]` counts outcomes."""

    other_policy: bool
    decisions: int = 0
    same: int = 0
    policies: set[str] = field(default_factory=set)
    matrix: dict[str, dict[str, int]] = field(default_factory=dict)
    changed: list[Replayed] = field(default_factory=list)
    newly_executing: list[Replayed] = field(default_factory=list)
    faults: list[Replayed] = field(default_factory=list)
    costs: dict[object, tuple[Decimal, Decimal]] = field(default_factory=dict)

    @property
    def cost_before(self) -> Decimal:
        """What was recorded as executing cost: each plan of an incident once, by its last decision."""
        return _sum(before for before, _ in self.costs.values())

    @property
    def cost_after(self) -> Decimal:
        """The same, as decided now."""
        return _sum(after for _, after in self.costs.values())

    @property
    def ok(self) -> bool:
        """No decision is unreadable, and under the recorded policies none differs."""
        return not self.faults and (self.other_policy or not self.changed)

    def to_json(self) -> JsonObject:
        """The report as one document, money as decimal strings."""
        return {
            "ok": self.ok,
            "under": "another policy" if self.other_policy else "the recorded policies",
            "policies": sorted(self.policies),
            "decisions": self.decisions,
            "same": self.same,
            "matrix": self.matrix,
            "changed": [item.to_json() for item in self.changed],
            "newly_executing": [item.to_json() for item in self.newly_executing],
            "faults": [item.to_json() for item in self.faults],
            "cost_usd": {
                "before": decimal_text(self.cost_before),
                "after": decimal_text(self.cost_after),
                "newly_executing": decimal_text(_total(self.newly_executing)),
            },
        }


def replay(records: Iterable[Mapping[str, Any]], policy: Policy | None = None) -> ReplayReport:
    """Make every `decision` record again and compare all of it but `message`.

    `policy` None: under the policy that each record names, from its `policy_change` record with the window intervals
    resolved then. Otherwise under `policy`: what would change, what would newly execute, what it would have cost.
    """
    kept = [record for record in records if record.get("type") in {"decision", "policy_change"}]
    kept.sort(key=lambda record: str(record.get("ts")))  # files come by name; who reads the report reads by time
    book = _PolicyBook(kept)
    report = ReplayReport(other_policy=policy is not None)
    for record in kept:
        if record.get("type") == "decision":
            report.decisions += 1
            _replay_one(record, policy, book, report)
    return report


class _PolicyBook:
    """The policies of the records: the latest before a decision in its own stream, else any with the digest."""

    def __init__(self, records: list[Mapping[str, Any]]) -> None:
        self._changes: dict[str, list[Mapping[str, Any]]] = {}
        self._compiled: dict[int, Policy] = {}
        for record in records:
            body = record.get("body")
            if record.get("type") == "policy_change" and isinstance(body, dict) and isinstance(body.get("digest"), str):
                self._changes.setdefault(body["digest"], []).append(record)

    def find(self, digest: str, decision: Mapping[str, Any]) -> Policy:
        """The policy of this digest; BadInput where no record holds it or it does not load."""
        changes = self._changes.get(digest)
        if not changes:
            raise BadInput("policy", got=digest, expected="a policy_change record with this digest")
        own = [change for change in changes if change.get("stream") == decision.get("stream")]
        before = [change for change in own if _seq(change) < _seq(decision)]
        chosen = max(before, key=_seq) if before else (own or changes)[0]
        if id(chosen) not in self._compiled:
            self._compiled[id(chosen)] = Policy.from_change_record(chosen["body"])
        return self._compiled[id(chosen)]


def _seq(record: Mapping[str, Any]) -> int:
    seq = record.get("seq")
    return seq if isinstance(seq, int) else 0


def _replay_one(record: Mapping[str, Any], policy: Policy | None, book: _PolicyBook, report: ReplayReport) -> None:
    body = record.get("body")
    facts, recorded = (body.get("facts"), body.get("decision")) if isinstance(body, dict) else (None, None)
    if not isinstance(body, dict) or not isinstance(facts, dict) or not isinstance(recorded, dict):
        report.faults.append(_entry(record, {}, None, None, fault="the record holds no facts or no decision"))
        return
    digest = body.get("policy_digest")
    report.policies.add(str(digest))
    before = recorded.get("outcome")
    try:
        used = policy or book.find(str(digest), record)
    except BadInput as error:
        report.faults.append(_entry(record, facts, before, None, fault=error.diagnostics()))
        return
    decision = used.decide(facts).to_json()
    after = str(decision["outcome"])
    report.matrix.setdefault(str(before), {}).setdefault(after, 0)
    report.matrix[str(before)][after] += 1
    cost = _read_cost(_get_cost(facts))[0] or _NO_COST
    costs = (cost if before == "execute" else _NO_COST, cost if after == "execute" else _NO_COST)
    report.costs[_plan_of(record, facts) or report.decisions] = costs
    differs = differences(recorded, decision) if policy is None else (("outcome",) if before != after else ())
    if not differs:
        report.same += 1
        return
    entry = _entry(record, facts, before, after, differs_in=differs)
    report.changed.append(entry)
    if after == "execute" and before != "execute":
        report.newly_executing.append(entry)


def _plan_of(record: Mapping[str, Any], facts: Mapping[str, Any]) -> tuple[str, bytes] | None:
    """What the money of several decisions is spent on once: an action is decided about again right before its effect."""
    incident, plan = _text(record.get("incident")), facts.get("plan")
    if incident is None or not isinstance(plan, dict):
        return None
    return incident, _bytes([getter("model.name")(facts), plan.get("action"), plan.get("params"), plan.get("cost_usd")])


def differences(recorded: Mapping[str, Any], made: Mapping[str, Any]) -> tuple[str, ...]:
    """The parts in which two decisions differ, byte for byte in canonical form, `message` apart; rules by their id."""
    found = [
        key
        for key in sorted({*recorded, *made} - {"rules"})
        if _bytes(recorded.get(key, "absent")) != _bytes(made.get(key, "absent"))
    ]
    old, new = _without_messages(recorded.get("rules")), _without_messages(made.get("rules"))
    if _bytes(old) != _bytes(new):
        ids = [
            str(a.get("id")) for a, b in zip(old, new, strict=False) if isinstance(a, dict) and _bytes(a) != _bytes(b)
        ]
        found += [f"rules.{id}" for id in ids] or ["rules"]
    return tuple(found)


def _without_messages(rules: Any) -> list[Any]:
    if not isinstance(rules, list):
        return [rules]
    return [
        {key: value for key, value in rule.items() if key != "message"} if isinstance(rule, dict) else rule
        for rule in rules
    ]


def _bytes(value: Any) -> bytes:
    try:
        return canonical_json(value)
    except ValueError:
        return repr(value).encode("utf-8", "backslashreplace")


def _entry(
    record: Mapping[str, Any],
    facts: Mapping[str, Any],
    before: object,
    after: str | None,
    *,
    differs_in: tuple[str, ...] = (),
    fault: str | None = None,
) -> Replayed:
    cost = _read_cost(_get_cost(facts))[0]
    model, action = getter("model.name")(facts), getter("plan.action")(facts)
    return Replayed(
        incident=_text(record.get("incident")),
        ts=_text(record.get("ts")),
        model=_text(model),
        action=_text(action),
        before=_text(before),
        after=after,
        cost_usd=None if cost is None else decimal_text(cost),
        differs_in=differs_in,
        fault=fault,
    )


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _total(items: Iterable[Replayed]) -> Decimal:
    """Each incident's action once, however often it was decided about."""
    once = {
        (item.incident or number, item.model, item.action, item.cost_usd): item for number, item in enumerate(items)
    }
    return _sum(Decimal(item.cost_usd or 0) for item in once.values())


def _sum(amounts: Iterable[Decimal]) -> Decimal:
    total = _NO_COST
    for amount in amounts:
        total = EXACT.add(total, amount)
    return total
