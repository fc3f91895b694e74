"""`driftwarden bench remediation`: a real stream through the real service, beside fixed strategies."""

import re
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from driftwarden.service.cli.common import console, json_option, note, print_json, require_service

if TYPE_CHECKING:
    from driftwarden.service.streams import ReplayStream


@click.command()
@click.option("--data", required=True, metavar="FILE", type=click.Path(path_type=Path), help="Parquet or csv.")
@click.option("--target", required=True, metavar="C", help="Column of the truth.")
@click.option("--task", required=True, type=click.Choice(["classification", "regression"]))
@click.option("--metric", required=True, metavar="M", help="A scikit-learn scorer: accuracy, roc_auc, r2, ...")
@click.option("--time", "time_column", metavar="C", help="Column that orders the rows (default: the file's own order).")
@click.option("--windows", type=click.IntRange(1, 1000), default=20, show_default=True)
@click.option(
    "--train-share",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    default=0.2,
    show_default=True,
    help="Share of the rows that the first champion is trained on.",
)
@click.option(
    "--label-delay-windows",
    type=click.IntRange(0, 1000),
    default=0,
    show_default=True,
    help="How many windows later than a window's end its labels arrive.",
)
@click.option("--policy", metavar="FILE", type=click.Path(path_type=Path), help="Default: the demo's policy.")
@click.option(
    "--leave-out",
    multiple=True,
    metavar="C",
    help="A column that is no feature (repeatable). Default: what leaks the target in files of a known name.",
)
@click.option("--keep", metavar="FOLDER", type=click.Path(path_type=Path), help="Keep the service's folder, here.")
@json_option
def remediation(
    data: Path,
    target: str,
    task: Any,
    metric: str,
    time_column: str | None,
    windows: int,
    train_share: float,
    label_delay_windows: int,
    policy: Path | None,
    leave_out: tuple[str, ...],
    keep: Path | None,
    as_json: bool,
) -> None:
    """Replay a stream window by window through the service, beside fixed strategies on the same windows.

    Every strategy's score on a window is that of the model in force when the window began. Nobody answers approvals here:
    what the policy escalates is not done.

    \b
    Example:
      driftwarden bench remediation --data elec2.parquet --target target --task classification --metric accuracy
    """
    require_service()
    from driftwarden.service.bench_remediation import run
    from driftwarden.service.streams import table_stream

    stream = table_stream(
        data,
        name=_name(data),
        target=target,
        task=task,
        metric=metric,
        time_column=time_column,
        leave_out=_left_out(data, target, time_column, leave_out),
        windows=windows,
        train_share=train_share,
        label_delay_windows=label_delay_windows,
    )
    with ExitStack() as stack:
        home = keep or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="driftwarden-bench-"))) / "home"
        document, wasted = run(stream, home.absolute(), policy=policy, say=note)
    if keep:
        note(f"kept in {keep}; look with: DRIFTWARDEN_HOME={keep} driftwarden incidents list")
    if as_json:
        print_json(document)
    else:
        _show(document, wasted, stream)


def _name(file: Path) -> str:
    """The stream's name: the file's without suffixes, as a model may be called."""
    return re.sub(r"[^A-Za-z0-9._-]", "-", file.name.split(".")[0])[:100] or "stream"


def _left_out(file: Path, target: str, time_column: str | None, named: tuple[str, ...]) -> tuple[str, ...]:
    from driftwarden.service.streams import KNOWN_STREAMS

    if named:
        return tuple(name for name in named if name not in {target, time_column})
    known = next((one for one in KNOWN_STREAMS.values() if one.file == file.name and one.target == target), None)
    columns = tuple(name for name in known.leave_out if name != time_column) if known else ()
    if columns:
        note(f"no features, since they leak the target or only count rows: {', '.join(columns)}")
    return columns


def _show(document: dict[str, Any], wasted: dict[str, int], stream: "ReplayStream") -> None:
    from rich.table import Table

    summary, out = document["summary"], console()
    table = Table(title=f"{document['stream']}: mean {document['metric']} over {len(document['windows'])} windows")
    table.add_column("strategy")
    for name in ("mean", "against frozen", "retrains", "of them wasted"):
        table.add_column(name, justify="right")
    frozen = summary["performance"]["frozen"]
    ranked = sorted(summary["performance"].items(), key=lambda item: -(item[1] if item[1] is not None else -1e300))
    for name, mean in ranked:
        gain = None if mean is None or frozen is None else mean - frozen
        table.add_row(
            name,
            "-" if mean is None else f"{mean:.4f}",
            "-" if gain is None else f"{gain:+.4f}",
            str(summary["retrains"][name]),
            str(wasted[name]),
            style="bold" if name == "driftwarden" else None,
        )
    out.print(table)
    seconds = summary["seconds_to_decision"]
    decided = sum(window["outcome"] is not None for window in document["windows"])
    rate = "-" if summary["autonomy_rate"] is None else f"{summary['autonomy_rate']:.0%}"
    out.print(
        f"{decided} decisions, {rate} of them unattended, {summary['escalations']} escalated, "
        f"{summary['unauthorised']} unauthorised effects; "
        f"from event to decision p50 {_s(seconds['p50'])}, p95 {_s(seconds['p95'])}"
    )
    out.print(f"labels arrive {stream.label_delay_windows} windows late; {verdict(summary, wasted)}")


def _s(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds:.1f} s"


def verdict(summary: dict[str, Any], wasted: dict[str, int]) -> str:
    """Whether the service paid, in one sentence: against doing nothing, and against the best fixed strategy."""
    means = {name: mean for name, mean in summary["performance"].items() if mean is not None}
    ours = means.pop("driftwarden", None)
    if ours is None or not means:
        return "the metric is not defined on these windows: no verdict"
    best = max(means, key=lambda name: means[name])
    retrains = summary["retrains"]
    parts = []
    if "frozen" in means:
        parts.append(f"driftwarden is {_compared(ours - means['frozen'])} never retraining")
    if best != "frozen":
        parts.append(
            f"{_compared(ours - means[best])} the best fixed strategy, {best}, "
            f"with {retrains['driftwarden']} retrainings ({wasted['driftwarden']} wasted) "
            f"against {retrains[best]} ({wasted[best]} wasted)"
        )
    return " and ".join(parts)


def _compared(difference: float) -> str:
    if abs(difference) < 5e-5:
        return "level with"
    return f"{abs(difference):.4f} {'better than' if difference > 0 else 'worse than'}"
