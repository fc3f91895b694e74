"""`driftwarden bench throughput`: events a second from XADD to decision, beside a bare consumer loop."""

import os
import tempfile
from pathlib import Path
from typing import Any

import click

from driftwarden.service.cli.common import console, json_option, note, print_json

PARTS = ("rates", "path", "memory")


@click.command()
@click.option(
    "--events",
    type=click.IntRange(10, 1_000_000),
    default=300,
    show_default=True,
    help="Events of a round (at most 1,000), and of the run that memory is measured over.",
)
@click.option("--rounds", type=click.IntRange(1, 100), default=3, show_default=True)
@click.option(
    "--workers",
    type=click.IntRange(1, 64),
    default=8,
    show_default=True,
    help="All together; the whole path, which computes, has at most 2.",
)
@click.option(
    "--processes",
    type=click.IntRange(1, 64),
    help="That the workers of no-op steps are spread over.  [default: one a core]",
)
@click.option(
    "--incidents",
    type=click.IntRange(1, 10_000),
    default=60,
    show_default=True,
    help="Incidents of the whole path, and a third as many one at a time.",
)
@click.option("--part", "parts", type=click.Choice(PARTS), multiple=True, help="Only this (may be repeated).")
@json_option
def throughput(
    events: int,
    rounds: int,
    workers: int,
    processes: int | None,
    incidents: int,
    parts: tuple[str, ...],
    as_json: bool,
) -> None:
    """Events a second: triaged, through no-op workflows, and decided, against bare XREADGROUP + XACK on the same server;
    the whole path with the offline reasoner, as incidents for each second of CPU and as the time of a single one; and memory.

    \b
    Example:
      driftwarden bench throughput --events 200 --json
    """
    from driftwarden.service.bench_throughput import run

    with tempfile.TemporaryDirectory(prefix="driftwarden-bench-") as folder:
        document = run(
            Path(folder),
            events=events,
            rounds=rounds,
            workers=workers,
            processes=processes or os.cpu_count() or 1,
            incidents=incidents,
            one_by_one=max(3, incidents // 3),
            parts=parts or PARTS,
            say=note,
        )
    if as_json:
        print_json(document)
    else:
        _show(document)


def _show(document: dict[str, Any]) -> None:
    from rich.table import Table

    if "bare" in document:
        _show_rates(document)
    if "path" in document:
        _show_path(document["path"])
    if "memory" in document:
        _show_memory(document["memory"])
    table = Table(title="goals")
    for name in ("", "goal", "measured", ""):
        table.add_column(name)
    words = {True: "reached", False: "not reached", None: "not measured"}
    for goal in document["goals"]:
        table.add_row(
            goal["name"], goal["goal"], "" if goal["got"] is None else str(goal["got"]), words[goal["reached"]]
        )
    console().print(table)
    console().print(f"Load of the machine at the end: {', '.join(str(one) for one in document['load'])}.")


def _show_rates(document: dict[str, Any]) -> None:
    from rich.table import Table

    bare, triaged = document["bare"], document["triaged"]
    table = Table(title=f"{document['events']} events, median of {document['rounds']} interleaved rounds")
    table.add_column("from XADD to")
    for name in (
        "events per second",
        "of the bare loop, one at a time",
        "of the bare loop, in batches",
        "CPU, and Redis's",
    ):
        table.add_column(name, justify="right")
    cpu = {name: f"{of['own']} + {of['redis']} µs" for name, of in document["cpu_us_per_event"].items()}
    table.add_row("XACK, bare, one at a time", str(bare["one_at_a_time_per_second"]), "100.0 %", "")
    table.add_row(
        f"XACK, bare, batches of {document['batch']}",
        str(bare["batches_per_second"]),
        "",
        "100.0 %",
        cpu["bare_batches"],
    )
    table.add_row(
        "triaged, one at a time",
        str(triaged["one_at_a_time_per_second"]),
        _percent(triaged["share_of_bare_one_at_a_time"]),
        "",
    )
    table.add_row(
        f"triaged, batches of {document['batch']}",
        str(triaged["batches_per_second"]),
        _percent(triaged["batches_share_of_bare_one_at_a_time"]),
        _percent(triaged["share_of_bare_batches"]),
        cpu["triaged_batches"],
    )
    rows = ("no-op steps", "no_op_one_process"), ("no-op steps", "no_op"), ("decision, records, end", "decided")
    for title, name in rows:
        one = document[name]
        spread = f" in {one['processes']} processes" if one["processes"] > 1 else ""
        table.add_row(
            f"{title}, {one['workers']} workers{spread}",
            str(one["per_second"]),
            _percent(one["share_of_bare_one_at_a_time"]),
            _percent(one["share_of_bare_batches"]),
            cpu[name],
        )
    console().print(table)
    became = ", ".join(f"{count} {kind.replace('_', ' ')}" for kind, count in sorted(triaged["became"].items()))
    console().print(f"Triaged in the last round: {became}.")


def _show_path(path: dict[str, Any]) -> None:
    wait, sizes = path["ms_to_decision"], path["sizes"]
    console().print(
        f"The whole path, {path['incidents']} incidents, {path['workers']} workers: {path['per_second']} a second; "
        f"{path['cpu_ms_per_incident']} ms CPU each (and {path['redis_cpu_ms_per_incident']} ms of Redis), which is "
        f"{path['per_second_and_core']} a second and core.\n"
        f"One at a time, {path['one_at_a_time']} events: {wait['min']} / {wait['p50']} / {wait['max']} ms from XADD to "
        f"decision (least, p50, most).\n"
        f"An incident: {sizes['redis_incident_bytes']} bytes in Redis, {sizes['audit_bytes_per_incident']} in "
        f"{sizes['audit_records_per_incident']} audit records, {sizes['trace_bytes_per_incident']} in traces; "
        f"{sizes['model_calls_per_incident']} model calls, {sizes['tokens_read_per_incident']} tokens read and "
        f"{sizes['tokens_written_per_incident']} written."
    )


def _show_memory(memory: dict[str, Any]) -> None:
    first, last = memory["samples"][0], memory["samples"][-1]
    console().print(
        f"Memory over {memory['events']} events ({memory['incidents']} incidents): process "
        f"{first['rss_bytes'] // 2**20} -> {last['rss_bytes'] // 2**20} MiB, {memory['rss_bytes_per_event']} bytes an event "
        f"over the second half ({_percent(memory['rss_grown_in_second_half'])}); Redis "
        f"{first['redis_bytes'] // 2**20} -> {last['redis_bytes'] // 2**20} MiB, {memory['redis_bytes_per_event']} bytes an event."
    )


def _percent(share: float) -> str:
    return f"{share:.1%}".replace("%", " %")
