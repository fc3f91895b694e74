"""A person's signed request about one incident (retry, close, undo, choose): the bytes that are signed, and when they are heard.

The bytes and the conditions are written down for strangers in docs/approvals.md; the two must say the same.
"""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, ValidationError

from driftwarden.clock import parse_rfc3339, rfc3339
from driftwarden.contracts.base import Value
from driftwarden.errors import BadInput
from driftwarden.service.signing.keys import NAME
from driftwarden.service.signing.roster import keys_of
from driftwarden.service.signing.sshsig import ARMORED_CHARS_MAX, public_of, sign, verify
from driftwarden.settings import Approver
from driftwarden.strict import canonical_json, digest, plain

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

NAMESPACE = "request@driftwarden.io"
REASON_CHARS_MAX = 2000
# How long a request may lie before it is taken up, and how far the signer's clock may be ahead.
AGE_MAX, AHEAD_MAX = timedelta(hours=24), timedelta(minutes=5)

What = Literal["retry", "close", "undo", "choose"]
_Text = Annotated[str, Field(max_length=200)]


class SignedRequest(Value):
    """What one person asks of one incident. Where another candidate is to be chosen, and only there, it is named, and so is
    the asking (`<id>@<requested at>`) that the person looked at, so that it is chosen in the place of no other."""

    incident: _Text
    what: What
    candidate: _Text | None = None
    approval: _Text | None = None
    by: Annotated[str, Field(pattern=f"^{NAME.pattern}$")]
    at: _Text
    reason: Annotated[str, Field(min_length=1, max_length=REASON_CHARS_MAX)]
    public_key: _Text
    signature: Annotated[str, Field(max_length=ARMORED_CHARS_MAX)]

    @property
    def statement(self) -> bytes:
        """The bytes that are signed: canonical JSON (RFC 8785) of all but key and signature, no newline after it."""
        return statement(self.model_dump(exclude={"public_key", "signature"}))

    @property
    def digest(self) -> str:
        """What tells this request from any other, however its signature is written down."""
        return digest(self.statement.decode())


def statement(said: Mapping[str, Any]) -> bytes:
    """Canonical JSON (RFC 8785) of what is said."""
    return canonical_json(plain(dict(said)))


def sign_request(
    incident: str,
    what: What,
    *,
    candidate: str | None = None,
    approval: str | None = None,
    by: str,
    at: datetime,
    reason: str,
    key: "Ed25519PrivateKey",
) -> SignedRequest:
    """Sign one request."""
    about = {"incident": incident, "what": what, "candidate": candidate, "approval": approval}
    said = about | {"by": by, "at": rfc3339(at), "reason": reason}
    signature = sign(statement(said), key, NAMESPACE)
    return SignedRequest.model_validate(said | {"public_key": public_of(key).line, "signature": signature})


def hear_request(
    payload: object, *, incident: str, what: str, now: datetime, approvers: Mapping[str, Approver]
) -> SignedRequest:
    """The request, where it is the word of someone who is listed now, about this incident, signed within the last day.

    Raises BadInput with the reason where it is nobody's word, or another one. Whether it was heard before is for the
    caller to remember.
    """
    request = _read(payload)
    if (request.incident, request.what) != (incident, what):
        raise BadInput("signed request", got=f"{request.what} of {request.incident}", expected=f"{what} of {incident}")
    named = {one is not None for one in (request.candidate, request.approval)}
    if named != {request.what == "choose"}:
        got = f"candidate {request.candidate}, approval {request.approval}"
        raise BadInput("signed request", got=got, expected="both to choose, and else neither")
    person = approvers.get(request.by)
    if person is None:
        raise BadInput("signed request", got=f"by {request.by}", expected="someone who is enrolled")
    key = verify(request.signature, request.statement, NAMESPACE)
    if key not in keys_of(person) or request.public_key != key.line:
        got = f"the key {key.fingerprint}"
        raise BadInput("signed request", got=got, expected=f"one that is enrolled for {request.by} and not revoked")
    if not request.reason.strip():
        raise BadInput("signed request", got="no reason", expected="why")
    try:
        at = parse_rfc3339(request.at)
    except ValueError as error:
        raise BadInput("signed request", got=f"time {request.at}", expected=str(error)) from None
    if not now - AGE_MAX <= at <= now + AHEAD_MAX:
        raise BadInput("signed request", got=f"one of {request.at}", expected="one of the last 24 hours")
    return request


def _read(payload: object) -> SignedRequest:
    try:
        return SignedRequest.model_validate(payload)
    except ValidationError as error:
        field = ".".join(map(str, error.errors(include_url=False)[0]["loc"])) or "nothing that is one"
        raise BadInput("signed request", got=f"a wrong {field}", expected="a request of this version") from None
