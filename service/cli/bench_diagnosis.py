"""`driftwarden bench diagnosis`: faults of known cause in real windows."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from driftwarden.errors import BadInput
from driftwarden.service.cli.common import console, json_option, note, print_json, require_service

if TYPE_CHECKING:
    from driftwarden.service.streams import ReplayStream

CLASSES_MAX = 10


@click.command()
@click.option(
    "--data",
    multiple=True,
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Parquet or csv with real rows (repeatable). Default: the simulated factory.",
)
@click.option("--target", metavar="C", help="Column of the truth in every FILE; files of known streams need none.")
@click.option("--task", type=click.Choice(["classification", "regression"]), help="Default: by the target's values.")
@click.option("--metric", metavar="M", help="Default: accuracy, or r2.")
@click.option("--time", "time_column", metavar="C", help="Column that orders the rows (default: the file's own order).")
@click.option("--faults", metavar="LIST", help="Comma-separated; default: all.")
@click.option("--windows", type=click.IntRange(1, 100), default=3, show_default=True, help="Windows of each stream.")
@click.option("--seed", type=click.IntRange(0), default=7, show_default=True)
@json_option
def diagnosis(
    data: tuple[Path, ...],
    target: str | None,
    task: Any,
    metric: str | None,
    time_column: str | None,
    faults: str | None,
    windows: int,
    seed: int,
    as_json: bool,
) -> None:
    """Inject faults of known cause into real windows: accuracy of root cause, columns and planned action.

    \b
    Example:
      driftwarden bench diagnosis --faults unit_change,stuck_values,none
    """
    require_service()
    from driftwarden.service.bench_diagnosis import run
    from driftwarden.service.bench_faults import FAULTS

    wanted = [name.strip() for name in faults.split(",") if name.strip()] if faults else list(FAULTS)
    for name in wanted:
        if name not in FAULTS:
            raise BadInput("option --faults", got=name, expected=f"some of: {', '.join(FAULTS)}")
    streams = [_stream(file, target, task, metric, time_column) for file in data] or [_factory(seed)]
    document = run(streams, faults=wanted, windows=windows, seed=seed, say=note)
    if as_json:
        print_json(document)
    else:
        _show(document)


def _factory(seed: int) -> "ReplayStream":
    """The simulated factory without any fault of its own: those are injected here."""
    from driftwarden.pipelines.simulator import TARGET, TIME_COLUMN, simulate
    from driftwarden.service.streams import ReplayStream, StreamWindow

    made = simulate(seed=seed, windows=10, faults=())
    return ReplayStream(
        name="factory",
        task="classification",
        target=TARGET,
        metric="accuracy",
        time_column=TIME_COLUMN,
        train=made.train,
        windows=tuple(StreamWindow(one.index, "", "", one.rows) for one in made.windows),
    )


def _stream(file: Path, target: str | None, task: Any, metric: str | None, time_column: str | None) -> "ReplayStream":
    from driftwarden.service.streams import KNOWN_STREAMS, table_stream

    known = next((one for one in KNOWN_STREAMS.values() if one.file == file.name), None)
    if known is not None and target in {None, known.target}:
        target, task, time_column = known.target, task or known.task, time_column or known.time_column
        metric, leave_out = metric or known.metric, known.leave_out
    else:
        leave_out = ()
    if target is None:
        raise BadInput("option --target", got="nothing", expected="the column of the truth", where=str(file))
    task = task or _task(file, target)
    return table_stream(
        file,
        name=re.sub(r"[^A-Za-z0-9._-]", "-", file.name.split(".")[0]) or "stream",
        target=target,
        task=task,
        metric=metric or ("accuracy" if task == "classification" else "r2"),
        time_column=time_column,
        leave_out=leave_out,
        windows=1,
    )


def _task(file: Path, target: str) -> str:
    from driftwarden.pipelines.estimator import column_kind
    from driftwarden.tables import read_table, resolve

    path = resolve(str(file), [file.expanduser().resolve().parent])
    values = read_table(path, [target])[target].dropna()
    few = values.nunique() <= CLASSES_MAX
    return "classification" if few or column_kind(values) != "numeric" else "regression"


def _show(document: dict[str, Any]) -> None:
    from rich.table import Table

    table = Table(title=f"diagnosis: {document['cases']} cases in {', '.join(document['streams'])}")
    table.add_column("fault")
    for name in ("cases", "root cause", "columns", "action"):
        table.add_column(name, justify="right")
    table.add_column("taken for")
    for fault, figures in document["by_fault"].items():
        truth = "false_alarm" if fault == "none" else fault
        said = {name: n for name, n in document["confusion"].get(truth, {}).items() if name != truth}
        shown = ", ".join(f"{name} {n}" for name, n in sorted(said.items(), key=lambda item: -item[1]))
        table.add_row(fault, str(figures["cases"]), *(_percent(figures[key]) for key in KEYS), shown)
    table.add_section()
    table.add_row("all", str(document["cases"]), *(_percent(document["accuracy"][key]) for key in KEYS), "")
    console().print(table)


KEYS = ("root_cause", "columns", "action")


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.0%}"
