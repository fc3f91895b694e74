"""People who answer: each with a key of their own, listed in the settings' approvers.yml the first time they speak."""

import hashlib
from datetime import datetime
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from driftwarden.service.signing.grants import Grant, Verdict, sign_grant
from driftwarden.service.signing.requests import SignedRequest, What, sign_request
from driftwarden.service.signing.roster import enrol, read_roster
from driftwarden.service.signing.sshsig import public_of
from driftwarden.service.workflow.approvals import ApprovalRequest
from driftwarden.settings import Settings

GROUPS = ("ml-oncall", "risk")


def key_of(name: str) -> Ed25519PrivateKey:
    """The same person has the same key in every run."""
    return Ed25519PrivateKey.from_private_bytes(hashlib.sha256(name.encode()).digest())


class People:
    """Those whom a service's settings list, and what they sign."""

    def __init__(self, settings: Settings, clock: Any) -> None:
        self.settings, self._clock = settings, clock

    def enrol(self, name: str, groups: tuple[str, ...] = GROUPS, key: Ed25519PrivateKey | None = None) -> None:
        """List this person's key, if nobody of that name is listed yet or another key is given."""
        if key is not None or name not in read_roster(self.settings):
            enrol(self.settings, name, groups, public_of(key or key_of(name)), self._clock.now())

    def say(
        self,
        request: ApprovalRequest,
        by: str = "ada",
        *,
        verdict: Verdict = "approve",
        group: str = "ml-oncall",
        reason: str = "seen",
        key: Ed25519PrivateKey | None = None,
        at: datetime | None = None,
    ) -> Grant:
        """A signed answer by someone who is listed, or, with a `key`, by whoever holds that."""
        if key is None:
            self.enrol(by)
        moment = at or self._clock.now()
        return sign_grant(
            request.question, verdict, by=by, group=group, at=moment, reason=reason, key=key or key_of(by)
        )

    def request(
        self,
        incident: str,
        what: What,
        by: str = "ada",
        *,
        candidate: str | None = None,
        approval: str | None = None,
        reason: str = "because",
        key: Ed25519PrivateKey | None = None,
        at: datetime | None = None,
    ) -> SignedRequest:
        """What someone who is listed asks by hand, or, with a `key`, whoever holds that."""
        if key is None:
            self.enrol(by)
        moment = at or self._clock.now()
        key = key or key_of(by)
        return sign_request(
            incident, what, candidate=candidate, approval=approval, by=by, at=moment, reason=reason, key=key
        )


def write(world: Any, request: ApprovalRequest, **changes: Any) -> None:
    """An attacker's HSET."""
    world.client.hset("driftwarden:approvals", request.id, request.model_copy(update=changes).model_dump_json())
