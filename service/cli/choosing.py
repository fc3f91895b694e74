"""`approvals approve --candidate`: another candidate in the place of the one that is asked for, and its approval."""

from decimal import Decimal
from time import monotonic, sleep
from typing import TYPE_CHECKING, Any

from driftwarden.clock import SystemClock, parse_rfc3339
from driftwarden.service.cli.common import AnswerIsNo, note, print_json, safe_text
from driftwarden.service.cli.signer import approver_of, say, signed_reason, told
from driftwarden.strict import plain

if TYPE_CHECKING:
    from datetime import datetime

    from driftwarden.contracts.findings import Candidate
    from driftwarden.service.bootstrap import Views
    from driftwarden.service.workflow.approvals import ApprovalRequest

WAIT_S = 10.0
LOOK_EVERY_S = 0.25
# While it stands here the service has not yet decided about what was asked.
UNDECIDED = frozenset({"awaiting_approval", "rehearsed", "decided"})


def choose(id: str, candidate: str, reason: str, name: str | None, key: str | None, *, as_json: bool) -> None:
    """Ask for this candidate, signed; wait a little for the policy's word about it, and sign that request too.

    It is signed where it is what the person saw: this candidate as it was shown, on the same data and champion, with the
    same approvers, lifting no other rule. Otherwise the command that looks at it is named, and the answer is no (exit 1).
    """
    from driftwarden.service.bootstrap import open_views
    from driftwarden.service.cli.render import incident_of
    from driftwarden.service.signing.requests import sign_request
    from driftwarden.service.workflow.approvals import asked_as
    from driftwarden.service.workflow.byhand import check_choice, check_request

    why, clock = signed_reason(reason), SystemClock()
    with open_views(clock=clock) as views:
        request = views.approvals.get(id)
        views.approvals.check_open(request)
        incident = incident_of(views.store.get(request.incident))
        check_request(incident.state, "choose")
        check_choice(incident, candidate)
        assert incident.plan is not None
        wanted = next(one for one in incident.plan.candidates if one.id == candidate)
        person = approver_of(views.settings, request, name, key)
        asked_at = clock.now()
        wish = sign_request(
            incident.id,
            "choose",
            candidate=candidate,
            approval=asked_as(request),
            by=person.name,
            at=asked_at,
            reason=why,
            key=person.key,
        )
        views.store.wake(incident.id, "choose", wish.model_dump())
        note(f"asked: {candidate} of {incident.id}; waiting for the service to decide, at most {WAIT_S:.0f} s")
        found, word = _decided(views, request, asked_at)
        other = _difference(request, found, wanted) if found is not None else None
        if found is not None and other is None:
            found = say(views, found, person, "approve", why, clock)
    signed = found is not None and other is None
    if as_json:
        view = found.view() if found is not None else None
        print_json(
            {"incident": incident.id, "asked": "choose", "candidate": candidate, "signed": signed, "approval": view}
        )
    if found is not None and other is None:
        if not as_json:
            told(views.settings, found)
        return
    if found is not None:
        note(safe_text(f"not signed, for it is not what you saw: {other}"))
        note(f"look at it: driftwarden approvals show {found.id}")
        note(f"then:       driftwarden approvals approve {found.id} --reason '...'")
        raise AnswerIsNo
    note(safe_text(word, 300))
    if word.startswith("not "):
        note(
            f"the next request, if one follows: driftwarden approvals list; the story: driftwarden incidents show {incident.id}"
        )
        raise AnswerIsNo


def _decided(views: "Views", before: "ApprovalRequest", asked_at: "datetime") -> tuple["ApprovalRequest | None", str]:
    """The request that took this one's place, or what became of the wish instead (`not ...`: it has not been granted)."""
    from driftwarden.service.cli.render import incident_of
    from driftwarden.service.workflow.approvals import asked_as

    until = monotonic() + WAIT_S
    while monotonic() < until:
        sleep(LOOK_EVERY_S)
        incident = incident_of(views.store.get(before.incident))
        for one in views.approvals.list():
            if one.incident == before.incident and one.state == "pending" and asked_as(one) != asked_as(before):
                return one, ""
        if incident.state not in UNDECIDED:
            return None, f"decided: {incident.id} is {incident.state}; nobody need approve it"
        for line in reversed(incident.timeline[-5:]):
            refused = line["summary"].startswith(("not heard: choose", "not chosen"))
            if refused and parse_rfc3339(line["ts"]) >= asked_at:
                return None, line["summary"]
    return None, "not taken up yet: no service has decided about it (driftwarden serve)"


def _difference(before: "ApprovalRequest", after: "ApprovalRequest", wanted: "Candidate") -> str | None:
    """Where the new request is not the candidate that was shown in the place of the old one, or None."""
    if wrong := after.altered():
        return f"changed where it is stored: {wrong}"
    old, new = before.bound, after.bound
    expected: dict[str, Any] = {
        name: old[name]
        for name in ("incident", "model", "environment", "champion", "window", "approvals", "undo", "requested_by")
    }
    expected |= {"action": wanted.action.value, "params": plain(wanted.params)}
    for name, value in expected.items():
        if plain(new[name]) != plain(value):
            return f"{name} {new[name]}"
    if Decimal(new["cost_usd"]) != wanted.cost_usd:
        return f"costs {new['cost_usd']} USD"
    more = sorted(set(new["lifts"]) - set(old["lifts"]))
    return f"it lifts {', '.join(more)} as well" if more else None
