"""A decision of the policy engine (contract §4): a value, complete, serialisable, made from policy and facts alone."""

from typing import Literal, NamedTuple

from driftwarden.contracts.base import Outcome, Value


class RuleResult(NamedTuple):
    """One rule's verdict, and what it did to the outcome (`effect` None where nothing).

    A tuple: a decision makes one for every rule, and a model of pydantic costs more than the rule does.
    """

    id: str
    verdict: Literal["pass", "fail", "unknown", "not_applicable"]
    effect: Literal["escalate", "monitor", "lifted"] | None
    got: str | None
    expected: str | None
    message: str


class ApprovalTerms(Value):
    """Who must approve, and by when."""

    required: int
    from_: tuple[str, ...]
    expires_after_seconds: int


class Decision(Value):
    """Outcome, every rule's verdict, the decisive rules, the terms of approval, and what it was made from.

    `to_json` gives the contract's form (`approvals.from`, digests with `sha256:`).
    """

    outcome: Outcome
    would_be: Outcome | None
    rules: tuple[RuleResult, ...]
    decisive: tuple[str, ...]
    approvals: ApprovalTerms | None
    policy_name: str
    policy_revision: str
    policy_digest: str
    facts_digest: str

    def to_json(self) -> dict[str, object]:
        """The document of contract §4, JSON-able, without floats."""
        terms = self.approvals
        return {
            "outcome": self.outcome.value,
            "would_be": self.would_be.value if self.would_be else None,
            "rules": [rule._asdict() for rule in self.rules],
            "decisive": list(self.decisive),
            "approvals": None
            if terms is None
            else {
                "required": terms.required,
                "from": list(terms.from_),
                "expires_after_seconds": terms.expires_after_seconds,
            },
            "policy": {"name": self.policy_name, "revision": self.policy_revision, "digest": self.policy_digest},
            "facts_digest": self.facts_digest,
        }
