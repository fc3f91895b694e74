"""PolicyTest documents: facts and the expected decision as data, beside the policy (contract §4)."""

import copy
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any, Final

from driftwarden.contracts.decision import Decision
from driftwarden.errors import BadInput
from driftwarden.policies.document import API_VERSION, PolicyDocument
from driftwarden.policies.engine import Policy, load_policy
from driftwarden.policies.reading import Node
from driftwarden.strict import JsonObject, load_yaml, loads_json

Read = Callable[[str], str]
_OUTCOMES: Final = ("execute", "escalate", "monitor")
_VERDICTS: Final = ("pass", "fail", "unknown", "not_applicable")


@dataclass(frozen=True, slots=True)
class CaseResult:
    """One case: `faults` are the expectations that were not met, each as one line; none: it passed."""

    file: str
    name: str
    where: str
    faults: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Did every expectation hold?"""
        return not self.faults


@dataclass(slots=True)
class Coverage:
    """Which verdicts each rule of a policy was seen in, out of those that it can have."""

    policy: str
    possible: dict[str, tuple[str, ...]]
    seen: dict[str, dict[str, int]] = field(default_factory=dict)

    @property
    def counts(self) -> tuple[int, int]:
        """(verdicts seen, verdicts possible) over all rules."""
        hit = sum(1 for rule, verdicts in self.possible.items() for verdict in verdicts if self.seen[rule].get(verdict))
        return hit, sum(len(verdicts) for verdicts in self.possible.values())


@dataclass(slots=True)
class TestReport:
    """Results of all cases, and the coverage of each policy by its file."""

    __test__ = False  # the name is the domain's: nothing for pytest to collect

    results: list[CaseResult] = field(default_factory=list)
    coverage: dict[str, Coverage] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Is there a case, and did every case pass?"""
        return bool(self.results) and all(result.ok for result in self.results)

    @property
    def coverage_percent(self) -> float:
        """Verdicts seen, of all that the rules of the policies can have, in percent."""
        counts = [coverage.counts for coverage in self.coverage.values()]
        possible = sum(total for _, total in counts)
        return 100 * sum(seen for seen, _ in counts) / possible if possible else 0.0

    def to_json(self) -> JsonObject:
        """The report as one document."""
        return {
            "ok": self.ok,
            "passed": sum(result.ok for result in self.results),
            "failed": sum(not result.ok for result in self.results),
            "cases": [
                {"file": item.file, "name": item.name, "ok": item.ok, "where": item.where, "faults": list(item.faults)}
                for item in self.results
            ],
            "coverage_percent": f"{self.coverage_percent:.1f}",
            "coverage": {
                path: {
                    rule: {verdict: cover.seen[rule].get(verdict, 0) for verdict in verdicts}
                    for rule, verdicts in cover.possible.items()
                }
                for path, cover in self.coverage.items()
            },
        }


def run_policy_tests(paths: Iterable[str], read: Read) -> TestReport:
    """Run the PolicyTest documents at `paths`; `read` gives the text of a file (the engine itself reads none).

    Paths inside a document are relative to it. A document, policy or fixture that cannot be read raises BadInput.
    """
    report = TestReport()
    policies: dict[str, Policy] = {}
    for path in paths:
        data, lines = load_yaml(read(path), where=path)
        fields = Node(data, (), lines, path).fields(("apiVersion", "kind", "policy", "cases"))
        fields["apiVersion"].choice((API_VERSION,))
        fields["kind"].choice(("PolicyTest",))
        policy_path = beside(path, fields["policy"].text("the path of a policy"))
        if policy_path not in policies:
            policies[policy_path] = load_policy(read(policy_path), policy_path)
            report.coverage[policy_path] = _empty_coverage(policies[policy_path], policy_path)
        for node in fields["cases"].items():
            result, decision = _run_case(node, path, policies[policy_path], read)
            report.results.append(result)
            for rule in decision.rules:
                seen = report.coverage[policy_path].seen[rule.id]
                seen[rule.verdict] = seen.get(rule.verdict, 0) + 1
    return report


def beside(path: str, relative: str) -> str:
    """A path that is written in a document, seen from where the document stands."""
    return str(PurePath(path).parent / relative)


def _empty_coverage(policy: Policy, path: str) -> Coverage:
    possible = possible_verdicts(policy.document, policy)
    return Coverage(path, possible, {rule: {} for rule in possible})


def possible_verdicts(document: PolicyDocument, policy: Policy) -> dict[str, tuple[str, ...]]:
    """The verdicts that each rule can have: `not_applicable` only with match fields or an exception."""
    excepted = {rule for exemption in document.exceptions for rule in exemption.rules} - {"tier", "halted"}
    possible: dict[str, tuple[str, ...]] = {}
    for rule in policy.rules:
        if rule.id == "enforcement":
            possible[rule.id] = ("fail",) if document.enforcement == "halt" else ("pass",)
        else:
            optional = ("not_applicable",) if rule.applies is not None or rule.id in excepted else ()
            possible[rule.id] = ("pass", "fail", "unknown", *optional)
    return possible


def _run_case(node: Node, path: str, policy: Policy, read: Read) -> tuple[CaseResult, Decision]:
    fields = node.fields(("name", "facts", "expect"), ("set", "remove"))
    facts = _facts(fields["facts"], path, read)
    if "set" in fields:
        for dotted, change in fields["set"].fields(tuple(_mapping(fields["set"]))).items():
            _set(facts, dotted, copy.deepcopy(change.value), change)
    if "remove" in fields:
        for item in fields["remove"].items(empty=True):
            _remove(facts, item.text("a dotted path"), item)
    decision = policy.decide(facts)
    faults = tuple(_faults(fields["expect"], decision))
    return CaseResult(path, fields["name"].text("the name of the case"), node.place, faults), decision


def _mapping(node: Node) -> dict[str, Any]:
    if not isinstance(node.value, dict):
        node.refuse("a mapping of dotted paths to values")
    return node.value


def _facts(node: Node, path: str, read: Read) -> JsonObject:
    if isinstance(node.value, dict):
        return copy.deepcopy(node.value)
    file = beside(path, node.text("an object, or the path of a JSON file"))
    facts = loads_json(read(file), where=file) if file.endswith(".json") else load_yaml(read(file), where=file)[0]
    if not isinstance(facts, dict):
        raise BadInput("facts", got=type(facts).__name__, expected="an object", where=file)
    return facts


def _set(facts: JsonObject, dotted: str, value: Any, node: Node) -> None:
    *groups, last = dotted.split(".")
    target: Any = facts
    for group in groups:
        target = target.setdefault(group, {})
        if not isinstance(target, dict):
            node.refuse("a path through objects", got=dotted)
    target[last] = value


def _remove(facts: JsonObject, dotted: str, node: Node) -> None:
    *groups, last = dotted.split(".")
    target: Any = facts
    for group in groups:
        target = target.get(group) if isinstance(target, dict) else None
    if not isinstance(target, dict) or last not in target:
        node.refuse("a fact that is there")
    del target[last]


def _faults(expect: Node, decision: Decision) -> Iterable[str]:
    fields = expect.fields((), ("outcome", "would_be", "rules", "effects", "decisive"))
    if not fields:
        expect.refuse("at least one expectation", got="none")
    if "outcome" in fields:
        yield from _differs("outcome", fields["outcome"].choice(_OUTCOMES), decision.outcome.value)
    if "would_be" in fields:
        wanted = None if fields["would_be"].value is None else fields["would_be"].choice(_OUTCOMES)
        yield from _differs("would_be", wanted, decision.would_be and decision.would_be.value)
    if "decisive" in fields:
        yield from _differs("decisive", sorted(fields["decisive"].texts(empty=True)), sorted(decision.decisive))
    results = {rule.id: rule for rule in decision.rules}
    for key in ("rules", "effects"):
        if key not in fields:
            continue
        for id, node in fields[key].fields(tuple(_mapping(fields[key]))).items():
            if id not in results:
                node.refuse("the id of a rule of the policy: " + ", ".join(results), got=id)
            if key == "rules":
                yield from _differs(f"rule `{id}`", node.choice(_VERDICTS), results[id].verdict)
            else:
                yield from _differs(f"effect of `{id}`", node.value, results[id].effect)


def _differs(what: str, wanted: object, got: object) -> Iterable[str]:
    if wanted != got:
        yield f"{what}: got `{got}`, expected `{wanted}`"
