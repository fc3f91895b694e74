"""`driftwarden monitor`: compare a window with a reference, publish what drifted."""

import re
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from driftwarden.contracts.event import MODEL_NAME_PATTERN
from driftwarden.errors import BadInput
from driftwarden.service.cli.common import AnswerIsNo, console, json_option, note, print_json, safe_text

if TYPE_CHECKING:
    from driftwarden.stream.publisher import Delivered

SEND_S = 10.0
ANSWER_S = 3.0


@click.command()
@click.option("--model", required=True, help="Name of the model whose data this is.")
@click.option(
    "--reference", required=True, type=click.Path(path_type=Path), help="Rows to compare with (parquet, csv)."
)
@click.option("--current", required=True, type=click.Path(path_type=Path), help="The window's rows (parquet, csv).")
@click.option("--target", help="Column with the truth.")
@click.option("--prediction", help="Column with the model's predictions.")
@click.option("--no-emit", is_flag=True, help="Publish nothing, only print the event.")
@click.option(
    "--spool/--no-spool",
    default=True,
    help="Keep the event on this disk while Redis is away, and send it later (default).",
)
@json_option
def monitor(
    model: str,
    reference: Path,
    current: Path,
    target: str | None,
    prediction: str | None,
    no_emit: bool,
    spool: bool,
    as_json: bool,
) -> None:
    """Compare a window with a reference column by column (Evidently), and publish a drift event where they differ.

    With --json (or --no-emit) the event itself is printed, null where nothing drifted. Exit code 1 where the event was
    not published: kept in the spool (`driftwarden emit --spool` sends it, and so does whatever publishes next), or,
    with --no-spool, kept nowhere.

    \b
    Example:
      driftwarden monitor --model churn --reference train.parquet --current today.parquet --target churned
    """
    if not re.fullmatch(MODEL_NAME_PATTERN, model):
        raise BadInput("--model", got=model, expected="1 to 128 of `A-Z a-z 0-9 . _ -`")
    from driftwarden.pipelines.tasks import monitor as run
    from driftwarden.tables import resolve

    files = [resolve(str(file), [Path(file.expanduser().resolve().anchor)]) for file in (reference, current)]
    result = run(
        {
            "model": model,
            "reference": str(files[0]),
            "current": str(files[1]),
            "target": target,
            "prediction": prediction,
        }
    )
    event = result["event"]
    delivered = None
    if event is not None and not no_emit:
        delivered = _deliver(event, spool)
    if as_json or (no_emit and event is not None):
        print_json(event)
    else:
        _show(result)
    _say(result, delivered)
    if delivered is not None and delivered.kept:
        if isinstance(delivered.problem, BadInput):
            raise delivered.problem
        raise AnswerIsNo


def _deliver(event: dict[str, Any], spool: bool) -> "Delivered":
    from driftwarden.service.bootstrap import read_settings
    from driftwarden.service.outbox import open_publisher
    from driftwarden.stream.publisher import Delivered, deliver, send_in_order
    from driftwarden.stream.spool import Spool

    settings = read_settings()
    waiting = Spool(settings.home)
    if spool:
        connect = partial(open_publisher, settings, timeout_s=ANSWER_S, retry_for_s=0)
        return deliver(event, waiting, connect, until=time.monotonic() + SEND_S)
    with open_publisher(settings) as publisher:
        send_in_order(waiting, publisher)
        return Delivered(kept=False, entry=publisher.publish(event))


def _show(result: dict[str, Any]) -> None:
    from rich.table import Table

    table = Table("column", "type", "role", "test", "score", "threshold", "drifted", box=None, pad_edge=False)
    for column in sorted(result["columns"], key=lambda column: not column["drifted"]):
        table.add_row(
            safe_text(column["name"], 60),
            column["type"],
            column["role"],
            column["method"],
            f"{column['score']:.3g}",
            f"{column['threshold']:.3g}",
            "yes" if column["drifted"] else "no",
        )
    console().print(table)


def _say(result: dict[str, Any], delivered: "Delivered | None") -> None:
    for name, reason in result["left_out"].items():
        note(f"left out: {safe_text(name, 60)} ({reason})")
    if result["event"] is None:
        note("nothing drifted: no event")
        return
    share = f"{result['kind']}, {result['drift_share']:.0%} of the columns drifted"
    if delivered is None:
        note(f"{share}; not published (--no-emit)")
    elif not delivered.kept:
        note(f"{share}; published as {delivered.entry or 'part of what waited in the spool'}")
    else:
        reason = delivered.problem.diagnostics() if delivered.problem else "another process is sending what waits there"
        note(f"{share}; kept in the spool, not published: {reason}")
