"""The queue of plans that wait for people: requests bound to a digest of everything they approve, and their signed answers.

Hash `<prefix>approvals`: `apr-<12 hex>` -> the JSON of one `ApprovalRequest`; beside it, on the same slot,
`<prefix>approvals:past{<prefix>approvals}`: those that are settled and whose incident has ended (`settled.py`), and
`<prefix>approvals:book{<prefix>approvals}`: what is kept of those that are gone (`answered.py`). A request changes
state only through a compare-and-set on its stored bytes, so two people at once never overwrite each other.

Nothing that stands there is believed: what a request asks for must be what its digest says, the digest must be that of
what the incident would do under the policy as it is, and an answer counts where its signature holds (docs/approvals.md).
"""

import hashlib
import logging
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Annotated, Any, Literal

import redis
from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError

from driftwarden.clock import Clock, parse_rfc3339, rfc3339
from driftwarden.contracts.decision import ApprovalTerms, Decision
from driftwarden.errors import BadInput, NotFound, Retry
from driftwarden.service.signing.grants import Grant, Question, Verdict, fault_of, signer
from driftwarden.service.workflow.answered import read_refusal, refusal_name
from driftwarden.service.workflow.binding import bound_document, lifts_by_model, lifts_of
from driftwarden.service.workflow.incident import Incident
from driftwarden.settings import Approver
from driftwarden.strict import digest, plain

log = logging.getLogger(__name__)

ApprovalState = Literal["pending", "approved", "rejected", "expired", "superseded", "executed"]

OPEN: frozenset[ApprovalState] = frozenset({"pending", "approved"})


def _moment(text: str) -> str:
    parse_rfc3339(text)
    return text


Moment = Annotated[str, AfterValidator(_moment)]


class ApprovalRequest(BaseModel):
    """What is asked, of whom, until when, and why it was not simply done.

    `bound` is the document that `digest` is the digest of; the fields that repeat it are for reading, and must agree.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    incident: str
    correlation_id: str
    model: str
    action: str
    params: dict[str, Any]
    candidate: str
    digest: str
    bound: dict[str, Any] = {}
    state: ApprovalState = "pending"
    required: int
    groups: tuple[str, ...]
    granted: tuple[Grant, ...] = ()
    refused: Grant | None = None
    requested_at: Moment
    expires_at: Moment
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

    @property
    def question(self) -> Question:
        """What every signed answer must repeat."""
        return Question(
            approval=self.id,
            incident=self.incident,
            model=self.model,
            digest=self.digest,
            requested_at=self.requested_at,
        )

    def altered(self) -> str | None:
        """What does not agree with the digest, or None: a request that was changed where it is stored is nobody's."""
        try:
            if digest(self.bound) != self.digest:
                return "digest"
            said = _readable(self.bound, self.requested_at)
        except (KeyError, TypeError, ValueError, ArithmeticError):
            return "bound"
        wrong = [name for name, value in said.items() if plain(getattr(self, name)) != plain(value)]
        return ", ".join(wrong) or None


def _readable(bound: Mapping[str, Any], requested_at: str) -> dict[str, Any]:
    """The fields of a request that follow from what it is bound to."""
    terms = bound["approvals"]
    return {
        "id": approval_id(bound["incident"], digest(bound)),
        "incident": bound["incident"],
        "model": bound["model"],
        "action": bound["action"],
        "params": bound["params"],
        "required": terms["required"],
        "groups": terms["from"],
        "expires_at": rfc3339(parse_rfc3339(requested_at) + timedelta(seconds=terms["expires_after_seconds"])),
        "cost_usd": Decimal(bound["cost_usd"]),
        "why": bound["lifts"],
        "requested_by": bound["requested_by"],
    }


def approval_id(incident: str, digest: str) -> str:
    """The same plan of the same incident is asked for under the same id."""
    return "apr-" + hashlib.sha256(f"{incident}\n{digest}".encode()).hexdigest()[:12]


def approval_digest(incident: Incident, decision: Decision) -> str:
    """Digest of everything that an approval of this incident's plan approves.

    Another action, parameter, version, window, cost, tier's terms or failing rule makes another digest, and so another
    request.
    """
    if decision.approvals is None:
        raise BadInput("nothing to approve", got=incident.id, expected="a tier that says who may approve")
    return digest(bound_document(incident, decision.approvals, lifts_of(incident, decision)))


def is_bound(incident: Incident, request: ApprovalRequest, terms: ApprovalTerms | None) -> bool:
    """True where what was asked is still what the incident would do, under the terms that its tier has now."""
    if incident.candidate is None or terms is None:
        return False
    return request.digest == digest(bound_document(incident, terms, request.why, lifts_by_model(request.bound)))


def asked_as(request: ApprovalRequest) -> str:
    """Which asking of a plan this is, as the incident remembers it: an older one of the same plan is another."""
    return f"{request.id}@{request.requested_at}"


def standing(request: ApprovalRequest, approvers: Mapping[str, Approver]) -> tuple[Grant, ...]:
    """The grants that count: signed, by listed keys, of distinct persons with distinct keys, none of whom asked for it."""
    if wrong := request.altered():
        log.warning("approval %s was altered where it is stored: %s", request.id, wrong)
        return ()
    kept: dict[str, Grant] = {}
    for grant in request.granted:
        fault = _fault(request, grant, "approve", approvers)
        if grant.by == request.requested_by:
            fault = f"{grant.by} asked for it"
        if grant.by in kept or grant.public_key in {one.public_key for one in kept.values()}:
            fault = f"{grant.by} or this key counts already"
        if fault:
            log.warning("approval %s: a grant does not count: %s", request.id, fault)
        else:
            kept[grant.by] = grant
    return tuple(kept.values())


def approved_by(request: ApprovalRequest, approvers: Mapping[str, Approver]) -> tuple[Grant, ...] | None:
    """The grants that count, where they are as many as what was signed asks for; else None."""
    granted = standing(request, approvers)
    return granted if granted and len(granted) >= request.required else None


def refused_by(request: ApprovalRequest, approvers: Mapping[str, Approver]) -> Grant | None:
    """The rejection, where it is someone's word; None where nobody signed it who may."""
    if request.refused is None or request.altered():
        return None
    fault = _fault(request, request.refused, "reject", approvers)
    if fault:
        log.warning("approval %s: the rejection is nobody's word: %s", request.id, fault)
    return None if fault else request.refused


def _fault(request: ApprovalRequest, grant: Grant, verdict: Verdict, approvers: Mapping[str, Approver]) -> str | None:
    return fault_of(
        grant,
        request.question,
        verdict,
        groups=request.groups,
        expires_at=parse_rfc3339(request.expires_at),
        approvers=approvers,
    )


class Approvals:
    """The store of requests."""

    def __init__(self, client: Any, prefix: str, clock: Clock) -> None:
        """Use this Redis; times of requests are real time."""
        self.redis, self.key, self._clock = client, f"{prefix}approvals", clock
        self.past, self.book = f"{self.key}:past{{{self.key}}}", f"{self.key}:book{{{self.key}}}"

    def request(self, incident: Incident, decision: Decision, summary: str) -> tuple[ApprovalRequest, bool]:
        """The request for this incident's plan; True where it is new. Open ones of another digest are superseded.

        One that was rejected stays rejected: the same plan is not asked for again.
        """
        made = approval_digest(incident, decision)
        candidate, terms = incident.candidate, decision.approvals
        assert candidate is not None
        assert terms is not None
        bound = bound_document(incident, terms, lifts_of(incident, decision))
        id = approval_id(incident.id, made)
        for other in self.recent():
            if other.incident == incident.id and other.id != id and other.state in OPEN:
                self._change(other.id, lambda one: one.model_copy(update={"state": "superseded"}))
        existing = self.find(id)
        if existing is not None and _stands(incident, existing):
            return existing, False
        refusal = read_refusal(self.redis.hget(self.book, refusal_name(id)))
        requested_at = (refusal.requested_at if refusal else None) or rfc3339(self._clock.now())
        request = ApprovalRequest.model_validate(
            _readable(bound, requested_at)
            | {
                "correlation_id": incident.correlation_id,
                "candidate": candidate.id,
                "digest": made,
                "bound": bound,
                "requested_at": requested_at,
                "benefit_usd": candidate.benefit_usd,
                "confidence": incident.confidence,
                "summary": summary,
            }
            | ({"state": "rejected", "refused": refusal.refused} if refusal else {})
        )
        self.redis.hset(self.key, id, request.model_dump_json())
        return request, refusal is None

    def grant(self, id: str, grant: Grant) -> ApprovalRequest:
        """Add one person's signed approval; `approved` once as many distinct people as are required have given theirs.

        What is refused here is told to the person at once; whether it counts is asked where it is used.
        """

        def change(one: ApprovalRequest) -> ApprovalRequest:
            self._check(one, grant, "approve")
            if one.requested_by == grant.by:
                got = f"an approval by {grant.by}, who asked for it"
                raise BadInput(f"approval `{one.id}`", got=got, expected="another person")
            for other in one.granted:
                if grant.by == other.by or grant.public_key == other.public_key:
                    got = f"a second approval by {grant.by}" if grant.by == other.by else f"the key of {other.by}"
                    raise BadInput(f"approval `{one.id}`", got=got, expected="another person")
            granted = (*one.granted, grant)
            return one.model_copy(
                update={"granted": granted, "state": "approved" if len(granted) >= one.required else "pending"}
            )

        return self._change(id, change)

    def refuse(self, id: str, grant: Grant) -> ApprovalRequest:
        """Reject, signed: final for this digest."""

        def change(one: ApprovalRequest) -> ApprovalRequest:
            self._check(one, grant, "reject")
            return one.model_copy(update={"refused": grant, "state": "rejected"})

        return self._change(id, change)

    def reopen(self, id: str, granted: tuple[Grant, ...]) -> ApprovalRequest:
        """Back to `pending` with the grants that count: somebody wrote `approved` where too few had signed."""
        return self._change(id, lambda one: one.model_copy(update={"state": "pending", "granted": granted}))

    def mark(self, id: str, state: ApprovalState) -> ApprovalRequest:
        """Set the state that the workflow reached (`executed`, `expired`, `superseded`)."""
        return self._change(id, lambda one: one.model_copy(update={"state": state}))

    def get(self, id: str) -> ApprovalRequest:
        """One request by id or unambiguous prefix; raises NotFound or BadInput."""
        if not id:  # a variable that was not set is no prefix of the only request
            raise BadInput("approval", got="nothing", expected="an id of `driftwarden approvals list`")
        exact = self.find(id)
        found = [one for one in self.list() if one.id.startswith(id)] if exact is None else [exact]
        if len(found) == 1:
            return found[0]
        if not found:
            raise NotFound("no such approval", got=id, expected="an id of `driftwarden approvals list`")
        raise BadInput("ambiguous approval", got=id, expected=f"one of: {', '.join(one.id for one in found[:5])}")

    def find(self, id: str) -> ApprovalRequest | None:
        """One request by its whole id; None where there is none, or nothing that is one."""
        for key in (self.key, self.past, self.key):  # it may be on its way from one to the other, either way
            raw = self.redis.hget(key, id)
            if raw is not None:
                return _read(id, raw)
        return None

    def list(self) -> list[ApprovalRequest]:
        """Every request, oldest first; what is none is passed over."""
        recent = self.stored()
        return _ordered(self.stored(past=True) | recent)

    def recent(self) -> tuple[ApprovalRequest, ...]:
        """Those that are open, or were a moment ago, or whose incident goes on; oldest first."""
        return tuple(_ordered(self.stored()))

    def stored(self, *, past: bool = False) -> dict[str, tuple[bytes, ApprovalRequest]]:
        """By id what is stored, as bytes and as what it says: the recent ones, or those of the past."""
        found = self.redis.hgetall(self.past if past else self.key).items()
        named = ((name.decode("utf-8", "replace"), raw) for name, raw in found)
        return {id: (raw, one) for id, raw in named if (one := _read(id, raw)) is not None}

    def is_expired(self, request: ApprovalRequest) -> bool:
        """True from the moment `expires_at` on."""
        return self._clock.now() >= parse_rfc3339(request.expires_at)

    def check_open(self, one: ApprovalRequest) -> None:
        """Raise BadInput where a request cannot be answered any more, or is not what its digest says."""
        if one.state != "pending":
            raise BadInput(f"approval `{one.id}`", got=one.state, expected="a pending one: driftwarden approvals list")
        if wrong := one.altered():
            raise BadInput(
                f"approval `{one.id}`", got=f"changed where it is stored: {wrong}", expected="what was asked"
            )
        if self.is_expired(one):
            raise BadInput(f"approval `{one.id}`", got=f"expired at {one.expires_at}", expected="a pending request")

    def _check(self, one: ApprovalRequest, grant: Grant, verdict: Verdict) -> None:
        self.check_open(one)
        if grant.group not in one.groups:
            got = f"group: {grant.group or 'none'}"
            raise BadInput(f"approver `{grant.by}`", got=got, expected=f"one of: {', '.join(one.groups)}")
        signer(grant, one.question, verdict)
        if not parse_rfc3339(one.requested_at) <= _time_of(grant) <= parse_rfc3339(one.expires_at):
            expected = f"a time from {one.requested_at} to {one.expires_at}: check this machine's clock"
            raise BadInput("signed answer", got=f"one of {grant.at}", expected=expected)

    def _change(self, id: str, change: Callable[[ApprovalRequest], ApprovalRequest]) -> ApprovalRequest:
        for _ in range(20):
            with self.redis.pipeline(transaction=True) as pipe:
                try:
                    pipe.watch(self.key, self.past)
                    raw = pipe.hget(self.key, id) or pipe.hget(self.past, id)
                    one = None if raw is None else _read(id, raw)
                    if one is None:
                        raise NotFound("no such approval", got=id, expected="an id of `driftwarden approvals list`")
                    changed = change(one)
                    pipe.multi()
                    pipe.hset(self.key, id, changed.model_dump_json())
                    pipe.hdel(self.past, id)
                    pipe.execute()
                except redis.WatchError:
                    continue
                return changed
        raise Retry(f"approval `{id}` kept changing under this request; try again")


def _stands(incident: Incident, existing: ApprovalRequest) -> bool:
    """True where the same plan need not be asked for anew: it was rejected, which is final however it came to stand there,
    or it is open, and is the very asking that the incident remembers: an older one may have been put back, signed."""
    if existing.state == "rejected":
        return True
    return existing.state in {"pending", "approved"} and incident.asked == asked_as(existing) and not existing.altered()


def _time_of(grant: Grant) -> datetime:
    try:
        return parse_rfc3339(grant.at)
    except ValueError:
        raise BadInput("signed answer", got=f"time {grant.at}", expected="RFC 3339 with a zone") from None


def _ordered(found: Mapping[str, tuple[bytes, ApprovalRequest]]) -> list[ApprovalRequest]:
    return sorted((one for _, one in found.values()), key=lambda one: (one.requested_at, one.id))


def _read(id: str, raw: bytes) -> ApprovalRequest | None:
    """A stored request; None, and a line in the log, where it is none or stands under another's id."""
    try:
        request = ApprovalRequest.model_validate_json(raw)
    except (ValidationError, RecursionError):
        log.warning("approval %.40s cannot be read: passed over", id)
        return None
    return request if request.id == id else None
