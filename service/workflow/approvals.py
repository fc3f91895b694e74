"""The queue of plans that wait for people: requests bound to a digest of everything they approve, and their grants.

Hash `<prefix>approvals`: `apr-<12 hex>` -> the JSON of one `ApprovalRequest`. A request changes state only through a
compare-and-set on its stored bytes, so two people at once never overwrite each other.
"""

import hashlib
from collections.abc import Callable, Sequence
from datetime import timedelta
from decimal import Decimal
from typing import Any, Literal

import redis
from pydantic import BaseModel, ConfigDict

from driftwarden.clock import Clock, parse_rfc3339, rfc3339
from driftwarden.contracts.decision import Decision
from driftwarden.errors import BadInput, NotFound, Retry
from driftwarden.service.workflow.incident import Incident
from driftwarden.strict import digest, plain

ApprovalState = Literal["pending", "approved", "rejected", "expired", "superseded", "executed"]


class Grant(BaseModel):
    """One person's word, in one group of the policy."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    by: str
    group: str
    at: str
    reason: str


class ApprovalRequest(BaseModel):
    """What is asked, of whom, until when, and why it was not simply done."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    incident: str
    correlation_id: str
    model: str
    action: str
    params: dict[str, Any]
    candidate: str
    digest: str
    state: ApprovalState = "pending"
    required: int
    groups: tuple[str, ...]
    granted: tuple[Grant, ...] = ()
    refused: Grant | None = None
    requested_at: str
    expires_at: str
    cost_usd: Decimal
    benefit_usd: Decimal | None = None
    confidence: float | None = None
    why: tuple[str, ...] = ()
    summary: str = ""
    requested_by: str | None = None

    def view(self) -> dict[str, Any]:
        """The fields of `approvals list --json` (contract §6)."""
        document: dict[str, Any] = plain(self.model_dump(mode="python", exclude={"groups", "refused", "candidate"}))
        return document | {"from": list(self.groups), "refused": self.refused.model_dump() if self.refused else None}


def approval_digest(incident: Incident, decision: Decision) -> str:
    """Digest of everything that an approval of this incident's plan approves.

    Another action, parameter, champion, window, tier's terms or failing rule makes another digest, and so another request.
    """
    if incident.candidate is None or decision.approvals is None:
        raise BadInput("nothing to approve", got=incident.id, expected="a plan, and a tier that says who may approve")
    terms = decision.approvals
    return _digest(incident, required=terms.required, groups=terms.from_, lifts=lifted_rules(decision))


def is_bound(incident: Incident, request: "ApprovalRequest") -> bool:
    """True where what was asked is still what the incident would do: the digest of its present plan is the one approved."""
    if incident.candidate is None:
        return False
    return request.digest == _digest(incident, required=request.required, groups=request.groups, lifts=request.why)


def _digest(incident: Incident, *, required: int, groups: Sequence[str], lifts: Sequence[str]) -> str:
    candidate = incident.candidate
    assert candidate is not None
    window = incident.event.get("window") or {}
    return digest(
        {
            "incident": incident.id,
            "model": incident.model,
            "action": candidate.action.value,
            "params": plain(candidate.params),
            "champion": incident.champion_before,
            "window": {"uri": window.get("uri"), "start": window.get("start"), "end": window.get("end")},
            "approvals": {"required": required, "from": list(groups)},
            "lifts": sorted(lifts),
        }
    )


def lifted_rules(decision: Decision) -> tuple[str, ...]:
    """Ids of the rules that failed or were unknown and held the action back: what the signers see, and lift."""
    return tuple(rule.id for rule in decision.rules if rule.verdict in {"fail", "unknown"} and rule.effect is not None)


class Approvals:
    """The store of requests."""

    def __init__(self, client: Any, prefix: str, clock: Clock) -> None:
        """Use this Redis; times of requests are real time."""
        self._redis, self._key, self._clock = client, f"{prefix}approvals", clock

    def request(self, incident: Incident, decision: Decision, summary: str) -> tuple[ApprovalRequest, bool]:
        """The request for this incident's plan; True where it is new. Open ones of another digest are superseded.

        One that was rejected stays rejected: the same plan is not asked for again.
        """
        made = approval_digest(incident, decision)
        candidate, terms = incident.candidate, decision.approvals
        assert candidate is not None
        assert terms is not None
        id = "apr-" + hashlib.sha256(f"{incident.id}\n{made}".encode()).hexdigest()[:12]
        for other in self.list():
            if other.incident == incident.id and other.id != id and other.state in {"pending", "approved"}:
                self._change(other.id, lambda one: one.model_copy(update={"state": "superseded"}))
        existing = self._load(id)
        if existing is not None and existing[1].state in {"pending", "approved", "rejected"}:
            return existing[1], False
        now = self._clock.now()
        request = ApprovalRequest(
            id=id,
            incident=incident.id,
            correlation_id=incident.correlation_id,
            model=incident.model,
            action=candidate.action.value,
            params=plain(candidate.params),
            candidate=candidate.id,
            digest=made,
            required=terms.required,
            groups=terms.from_,
            requested_at=rfc3339(now),
            expires_at=rfc3339(now + timedelta(seconds=terms.expires_after_seconds)),
            cost_usd=candidate.cost_usd,
            benefit_usd=candidate.benefit_usd,
            confidence=incident.confidence,
            why=lifted_rules(decision),
            summary=summary,
            requested_by=incident.undo_of.get("by") if incident.undo_of else None,
        )
        self._redis.hset(self._key, id, request.model_dump_json())
        return request, True

    def grant(self, id: str, *, by: str, groups: tuple[str, ...], reason: str) -> ApprovalRequest:
        """Add one person's approval; `approved` once enough distinct people of the tier's groups have given theirs."""

        def change(one: ApprovalRequest) -> ApprovalRequest:
            group = self._seat(one, by, groups)
            if one.requested_by == by:
                raise BadInput(
                    f"approval `{one.id}`", got=f"an approval by {by}, who asked for it", expected="another person"
                )
            if any(grant.by == by for grant in one.granted):
                raise BadInput(f"approval `{one.id}`", got=f"a second approval by {by}", expected="another person")
            granted = (*one.granted, Grant(by=by, group=group, at=rfc3339(self._clock.now()), reason=reason))
            return one.model_copy(
                update={"granted": granted, "state": "approved" if len(granted) >= one.required else "pending"}
            )

        return self._change(id, change)

    def refuse(self, id: str, *, by: str, groups: tuple[str, ...], reason: str) -> ApprovalRequest:
        """Reject: final for this digest."""

        def change(one: ApprovalRequest) -> ApprovalRequest:
            group = self._seat(one, by, groups)
            grant = Grant(by=by, group=group, at=rfc3339(self._clock.now()), reason=reason)
            return one.model_copy(update={"refused": grant, "state": "rejected"})

        return self._change(id, change)

    def mark(self, id: str, state: ApprovalState) -> ApprovalRequest:
        """Set the state that the workflow reached (`executed`, `expired`, `superseded`)."""
        return self._change(id, lambda one: one.model_copy(update={"state": state}))

    def get(self, id: str) -> ApprovalRequest:
        """One request by id or unambiguous prefix; raises NotFound or BadInput."""
        found = [one for one in self.list() if one.id.startswith(id)]
        exact = [one for one in found if one.id == id]
        if exact or len(found) == 1:
            return (exact or found)[0]
        if not found:
            raise NotFound("no such approval", got=id, expected="an id of `driftwarden approvals list`")
        raise BadInput("ambiguous approval", got=id, expected=f"one of: {', '.join(one.id for one in found[:5])}")

    def list(self) -> list[ApprovalRequest]:
        """Every request, oldest first."""
        requests = [ApprovalRequest.model_validate_json(raw) for raw in self._redis.hvals(self._key)]
        return sorted(requests, key=lambda one: (one.requested_at, one.id))

    def is_expired(self, request: ApprovalRequest) -> bool:
        """True from the moment `expires_at` on."""
        return self._clock.now() >= parse_rfc3339(request.expires_at)

    def _seat(self, one: ApprovalRequest, by: str, groups: tuple[str, ...]) -> str:
        """The group for which this person may answer this request."""
        self._check_open(one)
        group = next((name for name in one.groups if name in groups), None)
        if group is None:
            got = f"groups: {', '.join(groups) or 'none'}"
            raise BadInput(f"approver `{by}`", got=got, expected=f"one of: {', '.join(one.groups)}")
        return group

    def _check_open(self, one: ApprovalRequest) -> None:
        if one.state != "pending":
            raise BadInput(f"approval `{one.id}`", got=one.state, expected="a pending request")
        if self.is_expired(one):
            raise BadInput(f"approval `{one.id}`", got=f"expired at {one.expires_at}", expected="a pending request")

    def _load(self, id: str) -> tuple[bytes, ApprovalRequest] | None:
        raw = self._redis.hget(self._key, id)
        return None if raw is None else (raw, ApprovalRequest.model_validate_json(raw))

    def _change(self, id: str, change: Callable[[ApprovalRequest], ApprovalRequest]) -> ApprovalRequest:
        for _ in range(20):
            with self._redis.pipeline() as pipe:
                try:
                    pipe.watch(self._key)
                    raw = pipe.hget(self._key, id)
                    if raw is None:
                        raise NotFound("no such approval", got=id, expected="an id of `driftwarden approvals list`")
                    changed = change(ApprovalRequest.model_validate_json(raw))
                    pipe.multi()
                    pipe.hset(self._key, id, changed.model_dump_json())
                    pipe.execute()
                except redis.WatchError:
                    continue
                return changed
        raise Retry(f"approval `{id}` kept changing under this request; try again")
