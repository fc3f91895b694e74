"""`driftwarden demo`: the whole story on this machine, with no key and no server."""

import os
import shlex
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from driftwarden.service.cli.common import AnswerIsNo, console, json_option, print_json, require_service, safe_text

if TYPE_CHECKING:
    from rich.console import Console

    from driftwarden.service.demo import Outcome, Scene
    from driftwarden.service.stage import Stage
    from driftwarden.service.workflow.incident import Incident

STREAMS = ("factory", "elec2", "bike", "gas_turbine", "metro")
OUTCOME_STYLE = {"execute": "green", "escalate": "yellow", "monitor": "dim"}
STEPS = {
    "labels": "labels of earlier windows arrive",
    "monitoring": "Evidently compares the window with the reference",
    "deciding": "agents find the cause, candidates are rehearsed, the policy decides",
}


@click.command()
@click.option(
    "--stream",
    type=click.Choice(STREAMS),
    default="factory",
    show_default=True,
    help="What is replayed; all but `factory` are real data, from DRIFTWARDEN_DATA.",
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Seed of the simulated factory.")
@click.option(
    "--windows",
    type=click.IntRange(4, 200),
    default=None,
    help="How many windows (default: 22 of the factory, 20 of a real stream).",
)
@json_option
def demo(stream: str, seed: int, windows: int | None, as_json: bool) -> None:
    """The whole story on this machine: real pipelines, registry, stream, agents, policy, approvals and audit log.

    A factory's failure model meets a season, a wrong unit, gaps, a slow and a sudden change, a stuck sensor and a new
    kind of machine. The service is told none of that: it sees windows, and labels after each window.

    \b
    Example:
      driftwarden demo --seed 3
      driftwarden demo --stream elec2 --json
    """
    require_service()
    from driftwarden.service.bootstrap import TELEMETRY_OFF
    from driftwarden.service.demo import demo_home, document, play, sum_up, write_conf
    from driftwarden.service.stage import open_stage
    from driftwarden.service.streams import data_folder, factory_stream, known_stream
    from driftwarden.stream.embedded import server_binary

    server_binary()  # without one nothing can be played: said before the last demo's folder is emptied
    os.environ.update(TELEMETRY_OFF)
    started = time.monotonic()
    truth: Any = ()
    if stream == "factory":
        replayed, truth = factory_stream(seed, windows or 22)
    else:
        folder = data_folder(os.environ.get("DRIFTWARDEN_DATA"), Path.cwd())
        replayed = known_stream(stream, folder, windows=windows or 20)
    home = demo_home(os.environ.get("DRIFTWARDEN_HOME"), Path.cwd())
    out = console(stderr=as_json)
    _open(out, stream, replayed)
    with (
        out.status("starting Redis, Chroma, MLflow and the sandbox ...") as status,
        open_stage(home, replayed) as stage,
    ):
        status.update(f"training the first champion on {len(replayed.train):,} rows (Kedro, MLflow) ...")
        version = stage.train_first()
        conf = write_conf(stage)
        out.print(f"version {version} is the first champion, trained on {len(replayed.train):,} rows\n")
        _head(out, replayed.metric)
        scenes = play(
            stage,
            on_step=lambda window, step: status.update(
                f"window {window.index + 1} of {len(replayed.windows)}: {STEPS.get(step, step)} ..."
            ),
            on_scene=lambda scene: _scene(out, scene),
        )
        status.update("summing up, verifying the audit log ...")
        outcome = sum_up(stage, scenes)
        seconds = time.monotonic() - started
        if as_json:
            shown_seed = seed if stream == "factory" else None
            print_json(document(stage, outcome, seconds=seconds, stream=stream, seed=shown_seed))
        _summary(out, stage, outcome, truth, seconds, conf)
    if not outcome.audit_ok or outcome.unaccounted:
        raise AnswerIsNo


def _open(out: "Console", stream: str, replayed: Any) -> None:
    what = "a simulated factory's failure model" if stream == "factory" else f"the real stream `{stream}`"
    out.rule("[bold]driftwarden demo")
    out.print(
        f"{what}: {len(replayed.windows)} windows of about {len(replayed.windows[0].rows):,} rows, "
        f"{replayed.task}, {replayed.metric}; labels arrive after each window.\n"
        "Real Redis, Kedro, Evidently, MLflow, Chroma and ADK agents; an offline reasoner in place of a language model."
    )


WIDTHS = (10, 3, 8, 8, 17, 38, 9, 0)


def _row(cells: tuple[str, ...]) -> str:
    return "  ".join(cell.ljust(width) for cell, width in zip(cells, WIDTHS, strict=True)).rstrip()


def _head(out: "Console", metric: str) -> None:
    out.print(
        _row(("until", "v", safe_text(metric, 8), "frozen", "detected", "found", "decided", "done")), style="bold"
    )


def _scene(out: "Console", scene: "Scene") -> None:
    from rich.markup import escape

    event = scene.played.event
    cells = (
        scene.window.end[:10],
        str(scene.played.champion),
        "-" if scene.value is None else f"{scene.value:.3f}",
        "-" if scene.frozen is None else f"{scene.frozen:.3f}",
        event["data"]["kind"] if event else "-",
    )
    last = scene.incidents[-1] if scene.incidents else None
    if last is None:
        out.print(escape(_row((*cells, "", "", ""))), style="dim" if event is None else None)
        return
    finding = last.finding
    found = "-"
    if finding is not None:
        columns = f" ({', '.join(finding.columns[:3])})" if finding.columns else ""
        found = safe_text(f"{finding.root_cause.value}{columns} {finding.confidence:.2f}", 38)
    line = escape(_row((*cells, found.ljust(WIDTHS[5]), "", "")).rstrip().ljust(sum(WIDTHS[:6]) + 12))
    style = OUTCOME_STYLE.get(last.outcome or "", "red")
    out.print(f"{line}[{style}]{(last.outcome or last.state):<9}[/]  {escape(_done(last))}", soft_wrap=True)


def _done(incident: "Incident") -> str:
    result, candidate = incident.result, incident.candidate
    if incident.state.value == "failed":
        return f"failed: {safe_text(incident.problem or '', 70)}"
    if incident.approval and result is None and incident.outcome == "escalate":
        strategy = candidate.params.get("strategy") if candidate else None
        what = f"{candidate.action.value}{f' ({strategy})' if strategy else ''}" if candidate else "plan"
        return f"{what} waits for approval ({incident.approval})"
    if result is None:
        return "left alone"
    if result.changed and result.after is not None:
        strategy = candidate.params.get("strategy") if candidate else None
        return f"{result.action.value}{f' ({strategy})' if strategy else ''}: v{result.before} -> v{result.after}"
    return {"quarantine_data": "batch quarantined"}.get(result.action.value, safe_text(result.detail, 60))


def _summary(out: "Console", stage: "Stage", outcome: "Outcome", truth: Any, seconds: float, conf: Path) -> None:
    from driftwarden.service.demo import mean

    stats = outcome.stats
    out.print()
    out.rule("[bold]summary")
    outcomes = stats["outcomes"]
    events = sum(scene.played.event is not None for scene in outcome.scenes)
    out.print(
        f"{len(outcome.scenes)} windows, {events} drift events, {stats['incidents']} incidents: "
        f"[green]{outcomes['execute']} executed[/], [yellow]{outcomes['escalate']} escalated[/], "
        f"{outcomes['monitor']} only monitored"
    )
    response = stats["response_seconds"]
    if response["p50"] is not None:
        out.print(
            f"event to decision: median {response['p50']:.1f} s, slowest {response['max']:.1f} s; "
            f"without a person: {float(stats['autonomy_rate'] or 0) * 100:.0f} % of decisions"
        )
    with_, without = mean([one.value for one in outcome.scenes]), mean([one.frozen for one in outcome.scenes])
    if with_ is not None and without is not None:
        half = outcome.scenes[len(outcome.scenes) // 2 :]
        late, late_frozen = mean([one.value for one in half]), mean([one.frozen for one in half])
        out.print(
            f"{stage.model.metric}: {with_:.3f} with remediation, {without:.3f} with the first model left alone "
            f"(second half: {late:.3f} and {late_frozen:.3f})"
        )
    _truth(out, outcome, truth)
    _versions(out, outcome)
    state = "[green]verifies[/]" if outcome.audit_ok else "[red]does not verify[/]"
    out.print(f"audit log: {outcome.audit_records} records, {state}; done in {seconds:.0f} s")
    _further(out, stage, outcome, conf)


def _truth(out: "Console", outcome: "Outcome", truth: Any) -> None:
    """What really happened beside what was found: the only place that knows the faults' names."""
    if not truth:
        return
    out.print("\n[bold]what really happened, and what the service found[/]")
    begun: set[str] = set()
    for record in truth:
        if record.kind in begun:
            continue
        begun.add(record.kind)
        columns = f" in {', '.join(record.columns)}" if record.columns else ""
        later = [scene for scene in outcome.scenes if scene.window.index >= record.window and scene.incidents]
        answer = next((scene for scene in later if _names(record.kind, scene.incidents[-1])), None)
        told = "not named"
        if answer is not None:
            lag = answer.window.index - record.window
            when = "in its first window" if lag == 0 else f"{lag} window{'s' if lag > 1 else ''} later"
            told = f"{_cause(answer.incidents[-1])} {when}"
        out.print(f"  window {record.window + 1:>2}  {record.kind + columns:<42}  {told}")


CAUSES = {
    "seasonal_pattern": {"seasonal_pattern", "covariate_shift", "false_alarm"},
    "new_machine_type": {"new_category"},
    "gradual_concept": {"concept_drift"},
    "abrupt_concept": {"concept_drift"},
    "unit_change": {"unit_change"},
    "stuck_sensor": {"stuck_values"},
    "missing_values": {"missing_values"},
}


def _cause(incident: "Incident") -> str:
    return incident.finding.root_cause.value if incident.finding else "nothing"


def _names(kind: str, incident: "Incident") -> bool:
    return _cause(incident) in CAUSES[kind]


def _versions(out: "Console", outcome: "Outcome") -> None:
    out.print("\n[bold]versions in the registry, each accounted for in the audit log[/]")
    for one in outcome.versions:
        audit = one["audit"]
        whose = "no record: [red]not accounted for[/]" if audit is None else (audit["incident"] or "registered by hand")
        marks = f" [{', '.join(one['aliases'])}]" if one.get("aliases") else ""
        out.print(f"  v{one['version']:<3} {one.get('strategy') or '-':<12} {whose}", end="")
        out.print(marks, markup=False, style="bold")


def _further(out: "Console", stage: "Stage", outcome: "Outcome", conf: Path) -> None:
    home = stage.service.settings.home
    out.print("\n[bold]look further[/]")
    out.print(
        f"  export DRIFTWARDEN_HOME={shlex.quote(_near(home))} DRIFTWARDEN_CONF={shlex.quote(_near(conf))}",
        soft_wrap=True,
    )
    waiting = [one for one in outcome.approvals if one.state == "pending"]
    for one in waiting[-1:]:
        out.print(f"  driftwarden approvals show {one.id}        [yellow]waits for you: {one.action} on {one.model}[/]")
        out.print(f"  driftwarden approvals approve {one.id} --reason '...'   (driftwarden serve then carries it out)")
    out.print("  driftwarden incidents list")
    if outcome.incidents:
        acted = next((one for one in reversed(outcome.incidents) if one.result is not None), outcome.incidents[-1])
        out.print(f"  driftwarden incidents show {acted.id}")
        out.print(f"  driftwarden audit report {acted.id}")
    out.print("  driftwarden audit verify; driftwarden stats; driftwarden policy replay")


def _near(path: Path) -> str:
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)
