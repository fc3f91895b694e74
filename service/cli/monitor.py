"""`driftwarden monitor`: compare a window with a reference, publish what drifted."""

import re
from pathlib import Path
from typing import Any

import click

from driftwarden.contracts.event import MODEL_NAME_PATTERN
from driftwarden.errors import BadInput
from driftwarden.service.cli.common import console, json_option, note, print_json, safe_text


@click.command()
@click.option("--model", required=True, help="Name of the model whose data this is.")
@click.option(
    "--reference", required=True, type=click.Path(path_type=Path), help="Rows to compare with (parquet, csv)."
)
@click.option("--current", required=True, type=click.Path(path_type=Path), help="The window's rows (parquet, csv).")
@click.option("--target", help="Column with the truth.")
@click.option("--prediction", help="Column with the model's predictions.")
@click.option("--no-emit", is_flag=True, help="Publish nothing, only print the event.")
@json_option
def monitor(
    model: str,
    reference: Path,
    current: Path,
    target: str | None,
    prediction: str | None,
    no_emit: bool,
    as_json: bool,
) -> None:
    """Compare a window with a reference column by column (Evidently), and publish a drift event where they differ.

    With --json (or --no-emit) the event itself is printed, null where nothing drifted.

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
    entry = None
    if event is not None and not no_emit:
        from driftwarden.stream.publisher import Publisher

        with Publisher() as publisher:
            entry = publisher.publish(event)
    if as_json or (no_emit and event is not None):
        print_json(event)
    else:
        _show(result)
    _say(result, entry, no_emit)


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


def _say(result: dict[str, Any], entry: str | None, no_emit: bool) -> None:
    for name, reason in result["left_out"].items():
        note(f"left out: {safe_text(name, 60)} ({reason})")
    if result["event"] is None:
        note("nothing drifted: no event")
        return
    share = f"{result['kind']}, {result['drift_share']:.0%} of the columns drifted"
    note(f"{share}; not published (--no-emit)" if no_emit else f"{share}; published as {entry}")
