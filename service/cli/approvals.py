"""`driftwarden approvals`: the queue of plans that wait for a person."""

import contextlib
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from driftwarden.clock import SystemClock, parse_rfc3339
from driftwarden.errors import NotFound
from driftwarden.service.cli.common import console, json_option, note, print_json, print_json_lines, safe_text
from driftwarden.service.cli.signer import approver_of, say, signed_reason, signing, told

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rich.console import JustifyMethod

    from driftwarden.contracts.findings import Candidate
    from driftwarden.service.signing.grants import Verdict
    from driftwarden.service.workflow.approvals import ApprovalRequest
    from driftwarden.service.workflow.incident import Incident
    from driftwarden.settings import Approver

_BACK = "the champion alias goes back to the version before (driftwarden incidents undo)"

# What an action does, and what takes it back (contract §3), for whoever decides.
EFFECTS = {
    "retrain": ("a challenger is trained, compared with the champion, and replaces it only where it wins", _BACK),
    "rollback": ("the champion alias moves to the version that is named", "pointing the alias back (incidents undo)"),
    "recalibrate": ("a calibrated version of the champion is registered and made the champion", _BACK),
    "refresh_reference": ("the monitors compare with a newer window from now on", "putting the old reference back"),
    "quarantine_data": ("the batch is kept out of training and scoring; the last good one stays in use", "release"),
    "fallback_model": ("the champion alias moves to the registered fallback version", "pointing the alias back"),
    "notify": ("people are told; nothing changes", "nothing to undo"),
    "none": ("nothing", "nothing to undo"),
}


@click.group()
def approvals() -> None:
    """The queue of plans that wait for a person.

    \b
    Example:
      driftwarden approvals list
      driftwarden approvals approve apr-3f2a --reason "checked with the line manager"
    """


@approvals.command("list")
@click.option("--all", "everything", is_flag=True, help="Also those that were answered, expired or superseded.")
@json_option
def list_(everything: bool, as_json: bool) -> None:
    """What waits, oldest first.

    \b
    Example:
      driftwarden approvals list --json
    """
    from driftwarden.service.bootstrap import open_views

    with open_views() as views:
        found = [one for one in views.approvals.list() if everything or one.state == "pending"]
    if as_json:
        print_json_lines(one.view() for one in found)
        return
    if not found:
        note("nothing waits for approval")
        return
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    figures = {"cost", "benefit", "confidence", "age", "left"}
    for column in ("id", "state", "model", "action", "cost", "benefit", "confidence", "age", "left", "why"):
        # What a person decides by is folded, never cut; an id is copied from here.
        justify: JustifyMethod = "right" if column in figures else "left"
        table.add_column(column, justify=justify, overflow="fold", no_wrap=column in figures | {"id", "state"})
    for one in found:
        table.add_row(
            _cell(one.id),
            f"{one.state} (changed)" if one.altered() else one.state,
            _cell(one.model),
            _cell(_action(one)),
            f"${one.cost_usd:.2f}",
            "-" if one.benefit_usd is None else f"${one.benefit_usd:.2f}",
            "-" if one.confidence is None else f"{one.confidence:.2f}",
            _span(datetime.now(UTC) - parse_rfc3339(one.requested_at)),
            _span(parse_rfc3339(one.expires_at) - datetime.now(UTC)) if one.state == "pending" else "-",
            _cell(", ".join(one.why), 200),
        )
    console().print(table)


@approvals.command()
@click.argument("id")
@json_option
def show(id: str, as_json: bool) -> None:
    """Everything needed to decide, on one screen.

    \b
    Example:
      driftwarden approvals show apr-3f2a
    """
    from driftwarden.service.bootstrap import open_views
    from driftwarden.service.cli.render import incident_of
    from driftwarden.service.signing.roster import read_roster

    with open_views() as views:
        request = views.approvals.get(id)
        incident = None
        with contextlib.suppress(NotFound):  # closed long ago: what was asked and answered is still there
            incident = incident_of(views.store.get(request.incident))
        roster = read_roster(views.settings)
    if as_json:
        held = incident.held_back_by if incident is not None and request.state == "approved" else []
        print_json(request.view() | {"altered": request.altered(), "held": held})
        return
    _screen(request, incident, roster)


def _screen(request: "ApprovalRequest", incident: "Incident | None", roster: "Mapping[str, Approver]") -> None:
    from driftwarden.service.cli.render import render_incident
    from driftwarden.service.workflow.approvals import standing
    from driftwarden.service.workflow.byhand import other_candidates

    out = console()
    waits = incident is not None and incident.state == "awaiting_approval"
    can = other_candidates(incident) if incident is not None and waits else []
    others = [one for one in incident.plan.candidates if one.id in can] if incident and incident.plan else []

    def line(text: str) -> None:
        out.print(safe_text(text, 1000), markup=False)

    left = _span(parse_rfc3339(request.expires_at) - datetime.now(UTC))
    line(f"{request.id}  {request.state}  {_action(request)} on {safe_text(request.model)}")
    if wrong := request.altered():
        line(f"CHANGED WHERE IT IS STORED ({wrong}): it is not what was asked, and cannot be approved")
    line(f"asked      {request.requested_at}, expires {request.expires_at} ({left} left)")
    counting = {grant.by for grant in standing(request, roster)}
    line(f"needs      {request.required} of {', '.join(request.groups)}; signed by {len(counting)}")
    for grant in request.granted:
        note_ = "" if grant.by in counting else "  [does not count: see `driftwarden approvers list`]"
        line(f"           {safe_text(grant.by)} ({grant.group}) at {grant.at}: {safe_text(grant.reason)}{note_}")
    if request.state == "approved" and incident is not None and (held := incident.held_back_by):
        line(f"held back  by {', '.join(held)}: it is decided again once that is over, until {request.expires_at}")
        line(
            f"           driftwarden incidents close {request.incident} --reason '...'     (it shall not be done any more)"
        )
    if request.refused is not None:
        line(f"rejected   by {safe_text(request.refused.by)}: {safe_text(request.refused.reason)}")
    benefit = "unknown" if request.benefit_usd is None else f"${request.benefit_usd:.2f}"
    confidence = "unknown" if request.confidence is None else f"{request.confidence:.2f}"
    line(f"costs      ${request.cost_usd:.2f}; benefit {benefit}; confidence {confidence}")
    line(f"why asked  {', '.join(request.why) or '-'} (an approval lifts these rules, and no other)")
    happens, undone = EFFECTS.get(request.action, ("unknown", "unknown"))
    line(f"happens    {happens}")
    line(f"undone by  {undone}")
    line(f"bound to   {_bound(request)}")
    line(f"digest     {request.digest}")
    out.print()
    if incident is None:
        line(f"incident   {request.incident} is not in redis: driftwarden audit show {request.incident}")
        return
    render_incident(out, incident, trace_url=None, timeline=False)
    if request.state == "pending":
        out.print()
        line(f"  driftwarden approvals approve {request.id} --reason '...'")
        line(f"  driftwarden approvals reject  {request.id} --reason '...'")
        for one in others:
            line(
                f"  driftwarden approvals approve {request.id} --candidate {one.id} --reason '...'     ({_named(one)} instead)"
            )
        line(f"  driftwarden incidents show {request.incident}     (its whole timeline)")


def _named(one: "Candidate") -> str:
    what = one.params.get("strategy") or one.params.get("to_version")
    return f"{one.action.value}({what}), ${one.cost_usd:.2f}" if what else f"{one.action.value}, ${one.cost_usd:.2f}"


def _bound(request: "ApprovalRequest") -> str:
    """The versions and the window that are approved, for a person."""
    window = request.bound.get("window")
    window = window if isinstance(window, dict) else {}
    champion = request.bound.get("champion")
    parts = [
        "no champion" if champion is None else f"champion version {champion}",
        f"window {window.get('start') or '?'} to {window.get('end') or '?'}" if window.get("end") else "",
        f"parameters {request.params}" if request.params else "",
        f"asked by {request.requested_by}" if request.requested_by else "",
    ]
    return safe_text("; ".join(part for part in parts if part), 300)


@approvals.command()
@click.argument("id")
@signing
@click.option("--candidate", help="Another candidate than the one that is asked for (see `approvals show`).")
def approve(id: str, reason: str, name: str | None, key: str | None, candidate: str | None, as_json: bool) -> None:
    """Sign exactly this plan; the policy decides again with fresh facts before anything is done.

    With --candidate another one of the incident's candidates takes the plan's place: the policy decides about it, and where
    it asks again, that request is signed.

    \b
    Example:
      driftwarden approvals approve apr-3f2a --reason "checked with the line manager"
      driftwarden approvals approve apr-3f2a --candidate c2 --reason "the cheaper one first"
    """
    if candidate is not None:
        from driftwarden.service.cli.choosing import choose

        choose(id, candidate, reason, name, key, as_json=as_json)
        return
    _answer(id, reason, name, key, verdict="approve", as_json=as_json)


@approvals.command()
@click.argument("id")
@signing
def reject(id: str, reason: str, name: str | None, key: str | None, as_json: bool) -> None:
    """Reject this plan, signed and finally.

    \b
    Example:
      driftwarden approvals reject apr-3f2a --reason "the sensor is being replaced tomorrow"
    """
    _answer(id, reason, name, key, verdict="reject", as_json=as_json)


def _answer(id: str, reason: str, name: str | None, key: str | None, *, verdict: "Verdict", as_json: bool) -> None:
    from driftwarden.service.bootstrap import open_views

    why, clock = signed_reason(reason), SystemClock()
    with open_views(clock=clock) as views:
        request = views.approvals.get(id)
        views.approvals.check_open(request)
        person = approver_of(views.settings, request, name, key)
        request = say(views, request, person, verdict, why, clock)
    if as_json:
        print_json(request.view())
    else:
        told(views.settings, request)


def _action(request: "ApprovalRequest") -> str:
    params = ", ".join(f"{key}={value}" for key, value in request.params.items() if key in {"strategy", "to_version"})
    return f"{request.action}({params})" if params else request.action


def _cell(text: str, limit: int = 40) -> str:
    """What stands in the store, for a table: neither control characters nor markup have an effect."""
    from rich.markup import escape

    return escape(safe_text(text, limit))


def _span(delta: Any) -> str:
    seconds = int(delta.total_seconds())
    if seconds < 0:
        return "over"
    for unit, size in (("d", 86_400), ("h", 3_600), ("m", 60)):
        if seconds >= size:
            return f"{seconds // size}{unit}"
    return f"{seconds}s"
