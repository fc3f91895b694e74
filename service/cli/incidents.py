"""`driftwarden incidents`: what happened to each event, step by step."""

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, TypeVar

import click

from driftwarden.service.cli.common import console, json_option, note, print_json, print_json_lines, safe_text
from driftwarden.service.cli.signer import signing

if TYPE_CHECKING:
    from driftwarden.service.signing.requests import What

Change = TypeVar("Change")


@click.group()
def incidents() -> None:
    """What happened to each event, step by step.

    \b
    Example:
      driftwarden incidents list --model factory-failure
      driftwarden incidents watch
    """


@incidents.command("list")
@click.option("--model", help="Only this model's.")
@click.option("--state", help="Only those in this state.")
@click.option("--limit", type=click.IntRange(1, 10_000), default=50, show_default=True, help="At most so many.")
@json_option
def list_(model: str | None, state: str | None, limit: int, as_json: bool) -> None:
    """Incidents, newest first.

    \b
    Example:
      driftwarden incidents list --state awaiting_approval --json
    """
    from driftwarden.service.bootstrap import open_views
    from driftwarden.service.cli.render import incident_of, incident_table, removed_text
    from driftwarden.service.workflow.incident import list_view
    from driftwarden.service.workflow.transitions import State

    if state is not None and state not in set(State):
        raise click.BadParameter(f"got `{state}`, expected one of {', '.join(State)}", param_hint="--state")
    with open_views() as views:
        found = [incident_of(record) for record in views.store.list(state=state, model=model, limit=limit)]
        removed = views.store.removed()
    if removed and len(found) < limit:
        note(f"{removed_text(removed)}; the audit log has them: driftwarden audit show ID")
    if as_json:
        print_json_lines(list_view(incident) for incident in found)
    elif found:
        console().print(incident_table(found))
    else:
        note("no incident yet")


@incidents.command()
@click.argument("id")
@json_option
def show(id: str, as_json: bool) -> None:
    """One incident: finding, plan, rehearsal, decision, effect, verification, and its timeline.

    \b
    Example:
      driftwarden incidents show inc-4f1c
    """
    from driftwarden.service.bootstrap import open_views, trace_url
    from driftwarden.service.cli.render import incident_of, render_incident
    from driftwarden.service.workflow.incident import show_view

    with open_views() as views:
        incident = incident_of(views.store.get(views.store.find(_prefix(id))))
        url = trace_url(views.settings, incident.correlation_id)
    if as_json:
        print_json(show_view(incident, url))
    else:
        render_incident(console(), incident, trace_url=url)


@incidents.command()
@click.option("--count", type=click.IntRange(1), help="Stop after so many changes.")
@json_option
def watch(count: int | None, as_json: bool) -> None:
    """Follow every change of state as it is committed, until interrupted.

    \b
    Example:
      driftwarden incidents watch
    """
    from driftwarden.service.bootstrap import open_views
    from driftwarden.service.cli.render import incident_of

    seen = 0
    with open_views() as views:
        if not as_json:
            note("watching; Ctrl-C stops")
        out = console()
        for change in until_interrupted(views.store.watch()):
            if change is None:
                continue
            if as_json:
                print_json_lines([{"ts": change.at, "incident": change.incident, "model": change.model,
                                   "from": change.before, "state": change.state, "version": change.version}])  # fmt: skip
            else:
                incident = incident_of(views.store.get(change.incident))
                last = incident.timeline[-1]["summary"] if incident.timeline else ""
                who = f"{change.at[11:19]}  {change.incident}  {safe_text(change.model, 30):<20}"
                out.print(f"{who}  {change.state:<18} {safe_text(last, 120)}", markup=False)
            seen += 1
            if count is not None and seen >= count:
                return


def _prefix(id: str) -> str:
    """What was typed as a prefix of ids: the first letters of `inc-` begin every one of them."""
    return "inc-" if id and "inc-".startswith(id) else id


def until_interrupted(changes: Iterator[Change]) -> Iterator[Change]:
    """Everything up to a Ctrl-C, which is how one stops watching and no fault."""
    with contextlib.suppress(KeyboardInterrupt):
        yield from changes


def _by_hand(id: str, what: "What", reason: str, name: str | None, key: str | None, as_json: bool) -> None:
    from driftwarden.clock import SystemClock
    from driftwarden.service.bootstrap import open_views
    from driftwarden.service.cli.approvers import groups_of_policy
    from driftwarden.service.cli.render import incident_of
    from driftwarden.service.cli.signer import listed, signed_reason, with_key
    from driftwarden.service.signing.requests import sign_request
    from driftwarden.service.workflow.byhand import check_request, check_retry

    why = signed_reason(reason)
    with open_views() as views:
        incident = views.store.find(_prefix(id))
        record = views.store.get(incident)
        stands = bool((record.doc.get("result") or {}).get("changed")) and record.doc.get("undone") is None
        check_request(record.state, what, stands=stands)
        if what == "retry":
            check_retry(incident_of(record))
        who, entry = listed(views.settings, name, key, lambda: groups_of_policy(views.settings))
        person = with_key(views.settings, who, entry, key)
        said = sign_request(incident, what, by=person.name, at=SystemClock().now(), reason=why, key=person.key)
        views.store.wake(incident, what, said.model_dump())
    if as_json:
        print_json({"incident": incident, "asked": what, "by": said.by, "at": said.at, "reason": why})
    else:
        note(f"asked: {what} {incident}; a worker takes it up (driftwarden incidents show {incident})")


@incidents.command()
@click.argument("id")
@signing
def retry(id: str, reason: str, name: str | None, key: str | None, as_json: bool) -> None:
    """Take a failed, rejected, expired or waiting incident up again from the start, under the same policy.

    \b
    Example:
      driftwarden incidents retry inc-4f1c --reason "the file is back"
    """
    _by_hand(id, "retry", reason, name, key, as_json)


@incidents.command()
@click.argument("id")
@signing
def close(id: str, reason: str, name: str | None, key: str | None, as_json: bool) -> None:
    """Close an incident that waits: nothing more is done about it.

    \b
    Example:
      driftwarden incidents close inc-4f1c --reason "known maintenance"
    """
    _by_hand(id, "close", reason, name, key, as_json)


@incidents.command()
@click.argument("id")
@signing
def undo(id: str, reason: str, name: str | None, key: str | None, as_json: bool) -> None:
    """Ask to undo what an incident did; the policy decides, and people approve, as for any other action.

    \b
    Example:
      driftwarden incidents undo inc-4f1c --reason "the new model upsets the line"
    """
    _by_hand(id, "undo", reason, name, key, as_json)
