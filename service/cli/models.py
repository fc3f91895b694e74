"""`driftwarden models`: what is watched, its champion, its last windows; and putting a model under watch."""

import os
from pathlib import Path
from typing import Any

import click

from driftwarden.errors import BadInput
from driftwarden.service.cli.common import (
    console,
    json_option,
    note,
    print_json,
    print_json_lines,
    require_service,
    safe_text,
)


@click.group()
def models() -> None:
    """Models under watch.

    \b
    Example:
      driftwarden models register bike --data bike.parquet --target cnt --task regression --metric r2
      driftwarden models list
    """


@models.command("list")
@json_option
def list_(as_json: bool) -> None:
    """What is watched, with champion, challenger and last window.

    \b
    Example:
      driftwarden models list --json
    """
    found = _views()
    if as_json:
        print_json_lines(found)
        return
    if not found:
        note("no model is watched yet (driftwarden models register)")
        return
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("name", "task", "metric", "champion", "previous", "challenger", "last window", "value"):
        table.add_column(column)
    for one in found:
        last = one["last_window"] or {}
        value = last.get("value")
        table.add_row(
            one["name"], one["task"], one["metric"], _version(one["champion"]), _version(one["previous"]),
            _version(one["challenger"]), safe_text(last.get("end") or "-", 19), "-" if value is None else safe_text(value, 8),
        )  # fmt: skip
    console().print(table)


@models.command()
@click.argument("name")
@json_option
def show(name: str, as_json: bool) -> None:
    """One model: its entry, its versions, its last windows.

    \b
    Example:
      driftwarden models show factory-failure
    """
    view = next(iter(_views(name)))
    if as_json:
        print_json(view)
        return
    out = console()
    out.print(
        f"[bold]{safe_text(view['name'])}[/bold]  {view['task']}, {view['metric']}, champion {_version(view['champion'])}"
    )
    for version in view["versions"]:
        marks = ", ".join(version.get("aliases") or ()) or "-"
        out.print(
            f"  version {version['version']:<4} {marks:<20} {safe_text(version.get('strategy') or '-', 12):<12} "
            f"{safe_text(version.get('rows') or '-', 8):>8} rows  {safe_text(version.get('created_at') or '', 19)}",
            markup=False,
        )
    for window in view["windows"]:
        value = window.get("value")
        out.print(
            f"  window to {safe_text(window.get('end') or '', 19)}  {safe_text(window.get('metric') or '', 20)} "
            f"{'-' if value is None else safe_text(value, 8)}",
            markup=False,
        )


def _version(value: Any) -> str:
    return "-" if value is None else f"v{value}"


def _views(name: str | None = None) -> list[dict[str, Any]]:
    from driftwarden.actions.registry import MlflowRegistry
    from driftwarden.service.bootstrap import open_redis, read_settings
    from driftwarden.service.state_key import open_seal
    from driftwarden.service.workflow.metrics import MetricHistory

    settings = read_settings()
    watched = [settings.watched(name)] if name else [settings.models[key] for key in sorted(settings.models)]
    if not watched:
        return []
    registry = MlflowRegistry(settings.tracking_uri, settings.artifact_root)
    views = []
    with open_redis(settings) as client:
        history = MetricHistory(client, settings.redis.prefix, open_seal(settings))
        for model in watched:
            windows = history.windows(model.name, 10)
            views.append(
                {
                    "name": model.name,
                    "registered_model": model.registered_model,
                    "champion": registry.champion(model),
                    "previous": registry.previous(model),
                    "challenger": registry.challenger(model),
                    "task": model.task,
                    "metric": model.metric,
                    "last_window": windows[-1] if windows else None,
                    "windows": windows,
                    "versions": registry.versions(model, 10),
                }
            )
    return views


@models.command()
@click.argument("name")
@click.option(
    "--data", "data", required=True, type=click.Path(), help="Parquet or csv file of labelled rows, oldest first."
)
@click.option("--target", required=True, help="The column that is predicted.")
@click.option("--task", required=True, type=click.Choice(["classification", "regression"]), help="What kind of target.")
@click.option("--metric", required=True, help="A scikit-learn scorer's name, like accuracy, roc_auc, r2.")
@click.option("--time", "time_column", help="The column that orders the rows (default: the file's own order).")
@click.option(
    "--train-rows", type=click.IntRange(1), help="Train the champion on the first so many rows (default: a fifth)."
)
@json_option
def register(
    name: str,
    data: str,
    target: str,
    task: str,
    metric: str,
    time_column: str | None,
    train_rows: int | None,
    as_json: bool,
) -> None:
    """Write the model's entry, train the first champion on the first rows, register it.

    \b
    Example:
      driftwarden models register elec2 --data elec2.parquet --target target --task classification --metric accuracy
    """
    require_service()
    from pydantic import ValidationError

    from driftwarden.actions.registry import MlflowRegistry
    from driftwarden.clock import SystemClock
    from driftwarden.contracts.data import RowSelection
    from driftwarden.contracts.watch import WatchedModel
    from driftwarden.pipelines.runner import KedroTrainer
    from driftwarden.service.auditing import open_audit
    from driftwarden.service.bootstrap import read_settings
    from driftwarden.service.registering import check_rows, first_champion, write_entry
    from driftwarden.tables import read_table, resolve

    settings = read_settings()
    file = resolve(data, [Path(data).expanduser().resolve().parent])
    entry = {
        "name": name, "target": target, "task": task, "metric": metric, "time_column": time_column,
        "data": {"history": str(file), "roots": [str(file.parent)]},
    }  # fmt: skip
    try:
        model = WatchedModel.model_validate(entry)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        expected = "1-128 of A-Z a-z 0-9 . _ -" if first["loc"][0] == "name" else first["msg"]
        raise BadInput(f"model's {first['loc'][0]}", got=first.get("input"), expected=expected) from None
    rows = len(_checked(read_table(file), model, str(file)))
    count = train_rows or max(1, rows // 5)
    if count > rows:
        raise BadInput("option --train-rows", got=count, expected=f"at most the file's {rows} rows", where=str(file))
    selection = RowSelection(
        paths=(str(file),), time_column=time_column, target=target, row_end=count, labelled_only=True
    )
    check_rows(model, selection, where=str(file))
    note(f"training the first champion of {name} on {count} of {rows} rows ...")
    clock = SystemClock()
    with open_audit(settings, clock, role="cli") as audit:
        result = first_champion(
            model,
            selection,
            registry=MlflowRegistry(settings.tracking_uri, settings.artifact_root),
            trainer=KedroTrainer(settings.home / "training", environ=os.environ),
            audit=audit,
            clock=clock,
            watched=settings.models,
        )
        written = write_entry(settings, model)
    value = result.metrics.get(metric)
    if as_json:
        print_json(
            {
                "name": name,
                "version": result.version,
                "rows": result.rows,
                "metric": metric,
                "value": value,
                "entry": str(written),
            }
        )
        return
    scored = "" if value is None else f", {metric} {value:.4f} on rows it had not seen"
    note(f"{name}: version {result.version} is the champion, trained on {result.rows} rows{scored}")
    note(f"entry written to {written}")


def _checked(frame: Any, model: Any, where: str) -> Any:
    for column in (model.target, model.time_column):
        if column is not None and column not in frame.columns:
            shown = ", ".join(map(str, list(frame.columns)[:12]))
            raise BadInput("column", got=column, expected=f"one of: {shown}", where=where)
    if frame.empty:
        raise BadInput("table", got="no rows", expected="labelled rows", where=where)
    return frame
