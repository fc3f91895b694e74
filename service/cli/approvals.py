"""`driftwarden approvals`: the queue of plans that wait for a person."""

import getpass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from driftwarden.clock import SystemClock, parse_rfc3339
from driftwarden.errors import BadInput
from driftwarden.service.cli.common import console, json_option, note, print_json, print_json_lines, safe_text
from driftwarden.strict import plain

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from driftwarden.service.signing.grants import Verdict
    from driftwarden.service.workflow.approvals import ApprovalRequest
    from driftwarden.service.workflow.incident import Incident
    from driftwarden.settings import Approver, Settings

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
        table.add_column(column, justify="right" if column in figures else "left")
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
        record = views.store.get(request.incident)
        roster = read_roster(views.settings)
    if as_json:
        print_json(request.view() | {"altered": request.altered()})
        return
    _screen(request, incident_of(record), roster)


def _screen(request: "ApprovalRequest", incident: "Incident", roster: "Mapping[str, Approver]") -> None:
    from driftwarden.service.cli.render import render_incident
    from driftwarden.service.workflow.approvals import standing

    out = console()

    def line(text: str) -> None:
        out.print(safe_text(text, 1000), markup=False)

    left = _span(parse_rfc3339(request.expires_at) - datetime.now(UTC))
    line(f"{request.id}  {request.state}  {_action(request)} on {safe_text(request.model)}")
    if wrong := request.altered():
        line(f"CHANGED WHERE IT IS STORED ({wrong}): it is not what was asked, and cannot be approved")
    line(f"asked      {request.requested_at}, expires {request.expires_at} ({left} left)")
    line(f"needs      {request.required} of {', '.join(request.groups)}; signed by {len(request.granted)}")
    counting = {grant.by for grant in standing(request, roster)}
    for grant in request.granted:
        note_ = "" if grant.by in counting else "  [does not count: see `driftwarden approvers list`]"
        line(f"           {safe_text(grant.by)} ({grant.group}) at {grant.at}: {safe_text(grant.reason)}{note_}")
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
    render_incident(out, incident, trace_url=None, timeline=False)
    if request.state == "pending":
        out.print()
        line(f"  driftwarden approvals approve {request.id} --reason '...'")
        line(f"  driftwarden approvals reject  {request.id} --reason '...'")
        line(f"  driftwarden incidents show {request.incident}     (its whole timeline)")


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


def _answering(command: "Callable[..., None]") -> "Callable[..., None]":
    """The options of approve and reject."""
    command = json_option(command)
    command = click.option("--key", type=click.Path(), help="Your private key (default: the one that was enrolled).")(
        command
    )
    command = click.option("--as", "name", help="Your name in approvers.yml (default: this account's).")(command)
    return click.option("--reason", required=True, help="Why; it stands in the audit log.")(command)


@approvals.command()
@click.argument("id")
@_answering
def approve(id: str, reason: str, name: str | None, key: str | None, as_json: bool) -> None:
    """Sign exactly this plan; the policy decides again with fresh facts before anything is done.

    \b
    Example:
      driftwarden approvals approve apr-3f2a --reason "checked with the line manager"
    """
    _answer(id, reason, name, key, verdict="approve", as_json=as_json)


@approvals.command()
@click.argument("id")
@_answering
def reject(id: str, reason: str, name: str | None, key: str | None, as_json: bool) -> None:
    """Reject this plan, signed and finally.

    \b
    Example:
      driftwarden approvals reject apr-3f2a --reason "the sensor is being replaced tomorrow"
    """
    _answer(id, reason, name, key, verdict="reject", as_json=as_json)


def _answer(id: str, reason: str, name: str | None, key: str | None, *, verdict: "Verdict", as_json: bool) -> None:
    from driftwarden.service.bootstrap import open_views
    from driftwarden.service.cli.approvers import ask_passphrase, key_folders
    from driftwarden.service.signing.grants import sign_grant
    from driftwarden.service.signing.keys import find_private, places_of
    from driftwarden.service.signing.roster import keys_of

    why, clock = _reason(reason), SystemClock()
    with open_views(clock=clock) as views:
        request = views.approvals.get(id)
        views.approvals.check_open(request)
        who, entry = _approver(views.settings, request, name, key)
        group = next((one for one in request.groups if one in entry.groups), None)
        if group is None:
            got = f"groups: {', '.join(entry.groups) or 'none'}"
            raise BadInput(f"approver `{who}`", got=got, expected=f"one of: {', '.join(request.groups)}")
        places = (Path(key).expanduser(),) if key else places_of(who, key_folders(views.settings))
        private = find_private(places, keys_of(entry), ask_passphrase)
        grant = sign_grant(request.question, verdict, by=who, group=group, at=clock.now(), reason=why, key=private)
        say = views.approvals.grant if verdict == "approve" else views.approvals.refuse
        request = say(request.id, grant)
        views.store.wake(request.incident, "approval", {"approval": request.id})
    if as_json:
        print_json(request.view())
        return
    missing = request.required - len(request.granted)
    if request.state == "pending":
        note(safe_text(f"{request.id}: signed; {missing} more needed of {', '.join(request.groups)}"))
    else:
        note(safe_text(f"{request.id} is {request.state}; follow it: driftwarden incidents show {request.incident}"))


def _reason(reason: str) -> str:
    """A reason that can be signed as the audit log will hold it; BadInput for an empty one, or one with a secret in it."""
    from driftwarden.audit.redact import redact_text
    from driftwarden.service.workflow.halts import check_reason

    why: str = plain(check_reason(reason))
    if redact_text(why) != why:
        raise BadInput("option --reason", got="what looks like a secret", expected="words for the audit log")
    return why


def _approver(
    settings: "Settings", request: "ApprovalRequest", name: str | None, key: str | None
) -> tuple[str, "Approver"]:
    """The person at this terminal as they are listed. With the embedded Redis, and while nobody at all is listed, whoever
    uses it first is enrolled for what the request asks for."""
    from driftwarden.service.cli.approvers import enroll_key, own_key
    from driftwarden.service.signing.keys import check_name
    from driftwarden.service.signing.roster import read_roster, roster_file

    who, listed = check_name(name or getpass.getuser()), read_roster(settings)
    if who in listed:
        return who, listed[who]
    if listed:
        expected = f"someone listed in approvers.yml: {', '.join(sorted(listed))} (--as NAME)"
        raise BadInput("you may not answer", got=who, expected=expected)
    if settings.redis.url is not None:
        how = f"driftwarden approvers enroll {who} --group {' --group '.join(request.groups)}"
        raise BadInput("you may not answer", got="nobody is enrolled", expected=f"first: {how}")
    public, path = own_key(settings, who, key)
    if path is None:
        raise BadInput("option --key", got="a public key", expected="a private one, to sign with")
    entry = enroll_key(settings, who, request.groups, public, first=True)
    note(f"first use: {who} is enrolled for {', '.join(entry.groups)} with the key {public.fingerprint}")
    note(f"           private key {path}, list {roster_file(settings)}; add others with: driftwarden approvers enroll")
    return who, entry


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
