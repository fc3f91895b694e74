"""`driftwarden approvals`: the queue of plans that wait for a person."""

import getpass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from driftwarden.clock import SystemClock, parse_rfc3339
from driftwarden.errors import BadInput
from driftwarden.service.cli.common import console, json_option, note, print_json, print_json_lines, safe_text

if TYPE_CHECKING:
    from driftwarden.service.bootstrap import Views
    from driftwarden.service.workflow.approvals import ApprovalRequest


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
    for column in ("id", "state", "model", "action", "cost", "confidence", "age", "left", "why"):
        table.add_column(column, justify="right" if column in {"cost", "confidence", "age", "left"} else "left")
    for one in found:
        table.add_row(
            one.id,
            one.state,
            safe_text(one.model, 40),
            _action(one),
            f"${one.cost_usd:.2f}",
            "-" if one.confidence is None else f"{one.confidence:.2f}",
            _span(datetime.now(UTC) - parse_rfc3339(one.requested_at)),
            _span(parse_rfc3339(one.expires_at) - datetime.now(UTC)) if one.state == "pending" else "-",
            ", ".join(one.why),
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
    from driftwarden.service.cli.render import render_incident
    from driftwarden.service.workflow.incident import Incident

    with open_views() as views:
        request = views.approvals.get(id)
        record = views.store.get(request.incident)
    if as_json:
        print_json(request.view())
        return
    out = console()
    out.print(f"[bold]{request.id}[/bold]  {request.state}  {_action(request)} on {safe_text(request.model)}")
    out.print(
        f"asked {request.requested_at}, expires {request.expires_at}; "
        f"needs {request.required} of {', '.join(request.groups)}; has {len(request.granted)}"
    )
    out.print(f"digest {request.digest}")
    for grant in request.granted:
        out.print(
            f"  approved by {safe_text(grant.by)} ({grant.group}) at {grant.at}: {safe_text(grant.reason)}",
            markup=False,
        )
    out.print()
    render_incident(out, Incident.model_validate(record.doc), trace_url=None, timeline=False)
    if request.state == "pending":
        out.print(f"\n  driftwarden approvals approve {request.id} --reason '...'", markup=False)
        out.print(f"  driftwarden approvals reject  {request.id} --reason '...'", markup=False)


@approvals.command()
@click.argument("id")
@click.option("--reason", required=True, help="Why; it stands in the audit log.")
@json_option
def approve(id: str, reason: str, as_json: bool) -> None:
    """Approve exactly this plan; the policy decides again with fresh facts before anything is done.

    \b
    Example:
      driftwarden approvals approve apr-3f2a --reason "checked with the line manager"
    """
    _answer(id, reason, approved=True, as_json=as_json)


@approvals.command()
@click.argument("id")
@click.option("--reason", required=True, help="Why; it stands in the audit log.")
@json_option
def reject(id: str, reason: str, as_json: bool) -> None:
    """Reject this plan, finally.

    \b
    Example:
      driftwarden approvals reject apr-3f2a --reason "the sensor is being replaced tomorrow"
    """
    _answer(id, reason, approved=False, as_json=as_json)


def _answer(id: str, reason: str, *, approved: bool, as_json: bool) -> None:
    from driftwarden.service.bootstrap import open_views
    from driftwarden.service.workflow.halts import check_reason

    why = check_reason(reason)
    with open_views(clock=SystemClock()) as views:
        who, groups = approver(views)
        request = views.approvals.get(id)
        groups = request.groups if groups is None else groups
        answer = views.approvals.grant if approved else views.approvals.refuse
        request = answer(request.id, by=who, groups=groups, reason=why)
        views.store.wake(request.incident, "approval", {"approval": request.id})
    if as_json:
        print_json(request.view())
        return
    missing = request.required - len(request.granted)
    if request.state == "pending":
        note(f"{request.id}: noted; {missing} more needed of {', '.join(request.groups)}")
    else:
        note(f"{request.id} is {request.state}; follow it with: driftwarden incidents show {request.incident}")


def approver(views: "Views") -> tuple[str, tuple[str, ...] | None]:
    """The person at this terminal and the groups they may approve for.

    Groups are None (whichever the policy asks for) only with the embedded Redis and while no approver is listed at all.
    """
    who, listed = getpass.getuser(), views.settings.approvers
    if who in listed:
        return who, listed[who].groups
    if not listed and views.settings.redis.url is None:
        return who, None
    names = ", ".join(sorted(listed)) or "nobody is listed yet"
    raise BadInput("you may not approve", got=who, expected=f"someone listed in approvers.yml ({names})")


def _action(request: "ApprovalRequest") -> str:
    params = ", ".join(f"{key}={value}" for key, value in request.params.items() if key in {"strategy", "to_version"})
    return f"{request.action}({params})" if params else request.action


def _span(delta: Any) -> str:
    seconds = int(delta.total_seconds())
    if seconds < 0:
        return "over"
    for unit, size in (("d", 86_400), ("h", 3_600), ("m", 60)):
        if seconds >= size:
            return f"{seconds // size}{unit}"
    return f"{seconds}s"
