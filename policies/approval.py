"""What an approval lifts (semantics 10): the rules its signers saw, once the tier's grants are there."""

from typing import Any, Final

from driftwarden.contracts.decision import ApprovalTerms
from driftwarden.policies.facts import moment

_NOTHING: Final[frozenset[str]] = frozenset()


def seen_rules(approval: Any, terms: ApprovalTerms | None) -> frozenset[str]:
    """The ids of the rules that a granted approval lifts; none where anything in it is missing or malformed, where the
    grants do not suffice, or where nobody can approve. Signatures are the service's to verify, before it states the fact."""
    if terms is None or type(approval) is not dict:
        return _NOTHING
    digest, granted, lifts = approval.get("digest"), approval.get("granted"), approval.get("lifts")
    if type(digest) is not str or not digest or type(granted) is not list or type(lifts) is not list:
        return _NOTHING
    if not all(type(rule) is str for rule in lifts):
        return _NOTHING
    approvers = {grant["by"] for grant in granted if _counts(grant, terms)}
    return frozenset(lifts) if len(approvers) >= terms.required else _NOTHING


def _counts(grant: Any, terms: ApprovalTerms) -> bool:
    if type(grant) is not dict:
        return False
    by, group = grant.get("by"), grant.get("group")
    return (
        type(by) is str
        and bool(by.strip())
        and type(group) is str
        and group in terms.from_
        and moment(grant.get("at")) is not None
    )
