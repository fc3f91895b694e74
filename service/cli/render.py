"""How incidents look on a terminal."""

from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from driftwarden.errors import BadInput
from driftwarden.service.cli.common import safe_text
from driftwarden.service.workflow.incident import Incident
from driftwarden.service.workflow.stored import LaterVersion, load_incident
from driftwarden.service.workflow.transitions import State

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from driftwarden.service.workflow.store_types import IncidentRecord

STATE_STYLE = {
    "resolved": "green",
    "closed": "dim",
    "monitoring": "dim",
    "undone": "yellow",
    "failed": "red",
    "rejected": "red",
    "expired": "red",
    "awaiting_approval": "yellow",
    "verifying": "cyan",
}
OUTCOME_STYLE = {"execute": "green", "escalate": "yellow", "monitor": "dim"}
VERDICT_STYLE = {"pass": "green", "fail": "red", "unknown": "yellow", "not_applicable": "dim"}


def incident_of(record: "IncidentRecord") -> Incident:
    """The incident's document; one that no worker has touched yet is made up from its record."""
    if record.doc:
        try:
            incident = load_incident(record.doc)
        except LaterVersion as error:
            expected = "a driftwarden as new as the one at work"
            raise BadInput(f"incident {record.id}", got=error.diagnostics(), expected=expected) from None
        except ValidationError as error:
            field = ".".join(map(str, error.errors(include_url=False)[0]["loc"]))
            expected = "a record of this version of driftwarden (another one is at work)"
            raise BadInput(
                f"incident {record.id}", got=f"a record whose `{field}` differs", expected=expected
            ) from None
        if record.reason and record.state == "failed":
            incident.problem = incident.problem or record.reason
        return incident.model_copy(update={"state": State(record.state)})
    return Incident(
        id=record.id,
        correlation_id=record.correlation_id,
        model=record.model,
        environment=record.environment,
        opened_at=record.opened_at,
        updated_at=record.updated_at,
        problem=record.reason,
    ).model_copy(update={"state": State(record.state)})


def removed_text(count: int) -> str:
    """How many incidents are not among those shown, for their time was over."""
    was = "1 closed incident was" if count == 1 else f"{count} closed incidents were"
    return f"{was} removed from redis after service.closed_ttl"


def incident_table(found: list[Incident]) -> "Table":
    """One line an incident."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("id", "opened", "model", "state", "outcome", "root cause", "action", "conf.", "versions"):
        table.add_column(column, no_wrap=True)
    for one in found:
        candidate, result = one.candidate, one.result
        table.add_row(
            one.id,
            one.opened_at[5:16].replace("T", " "),
            safe_text(one.model, 30) + (f" +{len(one.others)}" if one.others else ""),
            _styled(one.state, STATE_STYLE),
            one.outcome or "-",
            one.finding.root_cause.value if one.finding else "-",
            candidate.action.value if candidate else "-",
            "-" if one.confidence is None else f"{one.confidence:.2f}",
            f"{result.before} -> {result.after}" if result and result.changed and result.after else "-",
        )
    return table


def render_incident(out: "Console", incident: Incident, *, trace_url: str | None, timeline: bool = True) -> None:
    """Everything about one incident, for a person on call."""
    out.print(f"[bold]{incident.id}[/bold]  {_styled(incident.state, STATE_STYLE)}  {_plain(incident.model)}")
    out.print(f"correlation id {incident.correlation_id}   opened {incident.opened_at}")
    if incident.others:
        out.print(_members(incident))
    if held := incident.held_back_by:
        what = "approved, and waits" if incident.approval is not None else "waits for its turn,"
        out.print(f"[yellow]held back[/yellow]  {what} until {_plain(', '.join(held))} no longer stops it")
    if incident.problem:
        out.print(f"[red]problem[/red]  {_plain(incident.problem)}")
    _finding(out, incident)
    if incident.plan:
        out.print("\n[bold]plan[/bold]")
        out.print(_candidates(incident))
    if incident.decision:
        decision = incident.decision
        would = f" (would be {decision['would_be']})" if decision.get("would_be") else ""
        policy = _plain(f"{decision['policy']['name']} {decision['policy']['revision']}")
        out.print(f"\n[bold]decision[/bold]  {decision['outcome']}{would} under policy {policy}")
        out.print(_rules(decision["rules"]))
    if incident.result:
        out.print(f"\n[bold]effect[/bold]  {_plain(incident.result.detail)}")
        out.print(f"  key {incident.result.idempotency_key[:16]}, cost ${incident.result.cost_usd:.2f}")
    if incident.verification:
        out.print(f"[bold]verification[/bold]  {incident.verification.verdict}: {_plain(incident.verification.detail)}")
    if timeline:
        out.print("\n[bold]timeline[/bold]")
        for line in incident.timeline:
            who = _plain(line["actor"], 28)
            out.print(f"  {line['ts'][11:23]}  {line['type']:<12} {who:<28} {_plain(line['summary'], 220)}")
        out.print(f"\naudit  driftwarden audit show {incident.id}")
    if trace_url:
        out.print(f"trace  {trace_url}")


def _members(incident: Incident) -> "Table":
    from rich.table import Table

    upstream = incident.finding.upstream if incident.finding else ()
    fed = f", fed from {', '.join(_plain(name, 60) for name in upstream)}" if upstream else ""
    title = f"one upstream cause over {len(incident.models)} models{fed}"
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 1), title=title, title_justify="left")
    for column in ("models", "window to", "loss", "decision", "why"):
        table.add_column(column, overflow="fold")
    for one in incident.members:
        loss = one.performance.get("relative_loss")
        table.add_row(
            safe_text(one.model, 40),
            one.event_time[:16].replace("T", " "),
            "-" if loss is None else f"{loss * 100:.1f} %",
            _styled(one.outcome or "-", OUTCOME_STYLE),
            safe_text(one.problem or one.fault or ", ".join(one.failing), 80),
        )
    return table


def _finding(out: "Console", incident: Incident) -> None:
    finding = incident.finding
    if finding is None:
        return
    columns = f" in {', '.join(_plain(name, 60) for name in finding.columns)}" if finding.columns else ""
    out.print(f"\n[bold]finding[/bold]  {finding.root_cause}{columns}, confidence {finding.confidence:.2f}")
    out.print(f"  {_plain(finding.summary)}")
    for evidence in finding.evidence[:8]:
        out.print(f"  - {_plain(evidence.claim, 160)}  ({_plain(evidence.source, 40)})")


def _plain(text: object, limit: int = 500) -> str:
    from rich.markup import escape

    return escape(safe_text(text, limit))


def _candidates(incident: Incident) -> "Table":
    from rich.table import Table

    rehearsed = {one.candidate: one for one in incident.rehearsals}
    refused: dict[str, str] = incident.rehearsal_notes.get("refused", {})
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 1))
    for column in ("", "action", "cost", "benefit", "beats champion", "gain", "why"):
        table.add_column(column, overflow="fold")
    assert incident.plan is not None
    for one in incident.plan.candidates:
        rehearsal = rehearsed.get(one.id)
        tried = rehearsal is not None and rehearsal.status == "rehearsed"
        strategy = one.params.get("strategy") or one.params.get("to_version")
        why = refused.get(one.id) or (rehearsal.detail if rehearsal and not tried else one.rationale)
        table.add_row(
            "->" if one.id == incident.chosen else "",
            f"{one.action.value}({strategy})" if strategy else one.action.value,
            f"${one.cost_usd:.2f}",
            "-" if one.benefit_usd is None else f"${one.benefit_usd:.2f}",
            f"p={rehearsal.win_probability:.2f}"
            if tried and rehearsal and rehearsal.win_probability is not None
            else "-",
            f"{(rehearsal.relative_gain or 0) * 100:+.1f} %" if tried and rehearsal else "-",
            safe_text(("refused: " if one.id in refused else "") + why, 140),
        )
    return table


def _rules(rules: list[dict[str, Any]]) -> "Table":
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 1))
    for column in ("rule", "verdict", "effect", "got", "expected"):
        table.add_column(column, overflow="fold")
    for rule in sorted(rules, key=lambda one: (one["effect"] is None, one["verdict"] == "not_applicable")):
        table.add_row(
            rule["id"],
            _styled(rule["verdict"], VERDICT_STYLE),
            rule["effect"] or "",
            _rounded(rule["got"]),
            safe_text(rule["expected"] if rule["expected"] is not None else "-", 60),
        )
    return table


def _rounded(got: str | None) -> str:
    """A rule's figure for a person: four places; the audit log has them all."""
    if got is None:
        return "-"
    try:
        number = Decimal(got)
    except InvalidOperation:
        return safe_text(got, 40)
    return safe_text(got, 40) if len(got) <= 8 else f"{number:.4f}"


def _styled(text: str, styles: dict[str, str]) -> str:
    style = styles.get(text)
    return f"[{style}]{text}[/{style}]" if style else text
