"""The policy engine: parse, lint, decide, test, replay. Pure: no clock, no file, no network."""

from driftwarden.policies.canonical import canonical_facts, facts_digest
from driftwarden.policies.cases import TestReport, run_policy_tests
from driftwarden.policies.engine import Policy, load_policy
from driftwarden.policies.explain import approval_line, explain, headline
from driftwarden.policies.lint import Lint, lint
from driftwarden.policies.replay import ReplayReport, replay

__all__ = [
    "Lint",
    "Policy",
    "ReplayReport",
    "TestReport",
    "approval_line",
    "canonical_facts",
    "explain",
    "facts_digest",
    "headline",
    "lint",
    "load_policy",
    "replay",
    "run_policy_tests",
]
