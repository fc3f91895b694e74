"""The policy engine: parse, lint, decide, test, replay. Pure: no clock, no file, no network."""

from driftwarden.policies.canonical import canonical_facts, facts_digest
from driftwarden.policies.engine import Policy, load_policy

__all__ = ["Policy", "canonical_facts", "facts_digest", "load_policy"]
