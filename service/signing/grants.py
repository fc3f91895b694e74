"""A person's signed word on one request: the exact bytes that are signed, and when such a word counts.

The bytes and the conditions are written down for strangers in docs/approvals.md; the two must say the same.
"""

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Literal

from driftwarden.clock import parse_rfc3339, rfc3339
from driftwarden.contracts.base import Value
from driftwarden.errors import BadInput
from driftwarden.service.signing.sshsig import PublicKey, parse_public, public_of, sign, verify
from driftwarden.settings import Approver
from driftwarden.strict import canonical_json, plain

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

NAMESPACE = "approval@driftwarden.io"

Verdict = Literal["approve", "reject"]


class Question(Value):
    """What every answer to one request repeats, so that it is an answer to no other."""

    approval: str
    incident: str
    model: str
    digest: str
    requested_at: str


class Grant(Value):
    """One person's word, in one group of the policy, with the signature, its key, and the bytes that were signed."""

    by: str
    group: str
    at: str
    reason: str
    public_key: str = ""
    signature: str = ""
    statement: str = ""


def statement(question: Question, verdict: Verdict, *, by: str, group: str, at: str, reason: str) -> bytes:
    """The bytes that are signed: canonical JSON (RFC 8785) of the ten fields, no newline after it."""
    said = {"verdict": verdict, "by": by, "group": group, "at": at, "reason": reason}
    return canonical_json(plain(question.model_dump() | said))


def sign_grant(
    question: Question,
    verdict: Verdict,
    *,
    by: str,
    group: str,
    at: datetime,
    reason: str,
    key: "Ed25519PrivateKey",
) -> Grant:
    """Sign one answer."""
    moment = rfc3339(at)
    message = statement(question, verdict, by=by, group=group, at=moment, reason=reason)
    return Grant(
        by=by,
        group=group,
        at=moment,
        reason=reason,
        public_key=public_of(key).line,
        signature=sign(message, key, NAMESPACE),
        statement=message.decode(),
    )


def signer(grant: Grant, question: Question, verdict: Verdict) -> PublicKey:
    """The key that signed exactly this answer to exactly this question; raises BadInput."""
    message = statement(question, verdict, by=grant.by, group=grant.group, at=grant.at, reason=grant.reason)
    if grant.statement != message.decode():
        raise BadInput("signed answer", got="one to another request", expected=f"one to {question.approval}")
    key = verify(grant.signature, message, NAMESPACE)
    if grant.public_key != key.line:
        raise BadInput("signed answer", got="another public key", expected="the one that signed")
    return key


def fault_of(
    grant: Grant,
    question: Question,
    verdict: Verdict,
    *,
    groups: Iterable[str],
    expires_at: datetime,
    approvers: Mapping[str, Approver],
) -> str | None:
    """Why this word does not count, or None where it does: signed, by a listed key, for a group, in time."""
    person = approvers.get(grant.by)
    if person is None:
        return f"{grant.by} is not enrolled"
    try:
        key = signer(grant, question, verdict)
        listed = {parse_public(one.public) for one in person.keys if one.revoked_at is None}
        at, asked = parse_rfc3339(grant.at), parse_rfc3339(question.requested_at)
    except BadInput as error:
        return error.diagnostics()
    except ValueError as error:
        return f"time: {error}"
    if key not in listed:
        return f"the key is not enrolled for {grant.by}, or was revoked"
    if grant.group not in groups or grant.group not in person.groups:
        return f"{grant.by} may not answer for the group {grant.group}"
    if not asked <= at <= expires_at:
        return f"signed at {grant.at}, outside the time of the request"
    if not grant.reason.strip():
        return "no reason is given"
    return None
