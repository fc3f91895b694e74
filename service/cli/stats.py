"""`driftwarden stats`: how the service does."""

import click

from driftwarden.service.cli.common import console, json_option, print_json, safe_text


@click.command()
@click.option("--model", help="Only this model's incidents.")
@json_option
def stats(model: str | None, as_json: bool) -> None:
    """Autonomy rate, response times, success, spend, calibration, approvals; what waits, and how every worker is.

    \b
    Example:
      driftwarden stats --json
    """
    from driftwarden.service.bootstrap import open_views
    from driftwarden.service.cli.render import incident_of, removed_text
    from driftwarden.service.state_key import open_seal
    from driftwarden.service.workflow.answered import read_book
    from driftwarden.service.workflow.backpressure import backpressure
    from driftwarden.service.workflow.health import processes
    from driftwarden.service.workflow.ledger import Ledger
    from driftwarden.service.workflow.stats import figures, running, told

    with open_views() as views:
        incidents = [incident_of(record) for record in views.store.list(model=model, limit=100_000)]
        counted = {one.id for one in incidents}
        gone, refused = read_book(views.client.hgetall(views.approvals.book), model)
        approvals = [
            one
            for one in views.approvals.list()
            if (model in {None, one.model} or one.incident in counted) and one.id not in refused
        ]
        spend = Ledger(views.client, views.settings.redis.prefix, open_seal(views.settings)).spend_usd(model)
        found = figures(incidents, approvals, spend_usd=spend, harmful_loss=views.settings.harmful_loss, gone=gone)
        live = processes(views.client, views.settings.redis.prefix)
        # Of all models: nothing is left that says whose they were.
        found["removed"] = views.store.removed()
        found |= running(backpressure(views.client, views.settings.redis.prefix, views.settings.redis.shards), live)
    if as_json:
        print_json(found)
        return
    out = console()
    decided = sum(found["outcomes"].values())
    out.print(f"[bold]{found['incidents']}[/bold] incidents from {found['events']} events, {decided} decided")
    if found["removed"]:
        out.print(
            f"besides        {removed_text(found['removed'])}: of these spend and what approvers answered are counted",
            soft_wrap=True,
        )
    out.print(
        "outcomes       "
        + "   ".join(f"{name} {count}" for name, count in found["outcomes"].items())
        + f"   undone {found['undone']}"
    )
    out.print(
        f"autonomy       {_percent(found['autonomy_rate'])} of decided, {_percent(found['autonomy_rate_harmful'])} of harmful"
    )
    seconds = found["response_seconds"]
    out.print(f"response       p50 {_s(seconds['p50'])}   p95 {_s(seconds['p95'])}   max {_s(seconds['max'])}")
    actions = ", ".join(f"{name} {count}" for name, count in sorted(found["actions"].items())) or "none"
    out.print(f"actions        {actions}; helped {_percent(found['success_rate'])} of those judged")
    out.print(f"spend          ${found['spend_usd']}")
    calibration = found["calibration"]
    out.print(
        f"calibration    Brier {calibration['brier'] or '-'}, ECE {calibration['ece'] or '-'} over {calibration['n']}"
    )
    approved = found["approvals"]
    out.print(
        f"approvals      {approved['approved']} approved, {approved['rejected']} rejected, {approved['expired']} expired, "
        f"{approved['pending']} waiting; median {_s(approved['median_seconds'])}"
    )
    right = approved["proved_right"]
    out.print(
        f"approvers      approved {_percent(approved['approval_rate'])} of those answered; "
        f"{_percent(right['share'])} of {right['n']} judged later had helped"
    )
    for line in told(found):
        out.print(safe_text(line, 1000), markup=False, soft_wrap=True)


def _percent(share: str | None) -> str:
    return "-" if share is None else f"{float(share) * 100:.0f} %"


def _s(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds:.1f} s"
