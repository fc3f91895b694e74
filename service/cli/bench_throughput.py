"""`driftwarden bench throughput`: events a second from XADD to decision, beside a bare consumer loop."""

import tempfile
from pathlib import Path
from typing import Any

import click

from driftwarden.service.cli.common import console, json_option, note, print_json


@click.command()
@click.option("--events", type=click.IntRange(1, 1_000_000), default=300, show_default=True, help="Events of a round.")
@click.option("--rounds", type=click.IntRange(1, 100), default=3, show_default=True)
@click.option("--workers", type=click.IntRange(1, 64), default=2, show_default=True)
@json_option
def throughput(events: int, rounds: int, workers: int, as_json: bool) -> None:
    """Events a second: admitted, and decided by no-op workflows, against bare XREADGROUP + XACK on the same server.

    \b
    Example:
      driftwarden bench throughput --events 200 --json
    """
    from driftwarden.service.bench_throughput import run

    with tempfile.TemporaryDirectory(prefix="driftwarden-bench-") as folder:
        document = run(Path(folder), events=events, rounds=rounds, workers=workers, say=note)
    if as_json:
        print_json(document)
    else:
        _show(document)


def _show(document: dict[str, Any]) -> None:
    from rich.table import Table

    bare, triaged, decided = document["bare"], document["triaged"], document["decided"]
    table = Table(title=f"{document['events']} events, median of {document['rounds']} interleaved rounds")
    table.add_column("from XADD to")
    for name in ("events per second", "of the bare loop, one at a time", "of the bare loop, in batches"):
        table.add_column(name, justify="right")
    table.add_row("XACK, bare, one at a time", str(bare["one_at_a_time_per_second"]), "100.0 %", "")
    table.add_row(f"XACK, bare, batches of {document['batch']}", str(bare["batches_per_second"]), "", "100.0 %")
    table.add_row(
        "incident, one at a time",
        str(triaged["one_at_a_time_per_second"]),
        _percent(triaged["share_of_bare_one_at_a_time"]),
        "",
    )
    table.add_row(
        f"incident, batches of {document['batch']}",
        str(triaged["batches_per_second"]),
        "",
        _percent(triaged["share_of_bare_batches"]),
    )
    table.add_row(
        f"decision and end, {decided['workers']} workers",
        str(decided["per_second"]),
        _percent(decided["share_of_bare_one_at_a_time"]),
        _percent(decided["share_of_bare_batches"]),
    )
    console().print(table)
    console().print("The decisions include their audit records, each on disk before what follows from it.")


def _percent(share: float) -> str:
    return f"{share:.1%}".replace("%", " %")
