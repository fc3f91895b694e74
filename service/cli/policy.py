"""`driftwarden policy`: check, decide, explain, test and replay policies."""

import json
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from driftwarden.errors import BadInput, kind_of, unreadable
from driftwarden.service.cli.common import AnswerIsNo, console, json_option, note, print_json, safe_text
from driftwarden.service.cli.damage import warn_of_damage
from driftwarden.strict import load_yaml, loads_json

if TYPE_CHECKING:
    from rich.table import Table

    from driftwarden.contracts.decision import Decision
    from driftwarden.policies import Lint, Policy, ReplayReport, TestReport

_STYLES = {"FAIL": "bold red", "UNKNOWN": "bold yellow", "ok": "green", "-": "dim"}


@click.group()
def policy() -> None:
    """Check, decide, test and replay policies.

    \b
    Example:
      driftwarden policy check conf/base/driftwarden/policy.yml
    """


@policy.command()
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@json_option
def check(files: tuple[str, ...], as_json: bool) -> None:
    """Load and lint policies: 0 clean, 1 lints, 2 does not load.

    \b
    Example:
      driftwarden policy check production.yml
    """
    from driftwarden.policies import lint
    from driftwarden.settings import load_settings

    listed = load_settings().approvers
    enrolled = {name: approver.groups for name, approver in listed.items() if approver.active} if listed else None
    reports: list[dict[str, Any]] = []
    for file in files:
        try:
            loaded = _load(file)
        except BadInput as error:
            reports.append(_check_report(file, None, [], error.diagnostics()))
            note(error.diagnostics())
            continue
        lints = lint(loaded, datetime.now(UTC), enrolled)
        reports.append(_check_report(file, loaded, lints, None))
        if not as_json:
            for item in lints:
                click.echo(item.line())
            remarks = f"{len(lints)} remark{'' if len(lints) == 1 else 's'}" if lints else "clean"
            click.echo(
                f"{file}: {loaded.name} {loaded.revision}, {loaded.enforcement}, {len(loaded.rules)} rules: {remarks}"
            )
    if as_json:
        print_json({"ok": all(report["ok"] for report in reports), "files": reports})
    if any(report["error"] for report in reports):
        raise click.exceptions.Exit(2)
    if not all(report["ok"] for report in reports):
        raise AnswerIsNo


def _check_report(file: str, loaded: "Policy | None", lints: "list[Lint]", error: str | None) -> dict[str, Any]:
    return {
        "file": file,
        "ok": error is None and not lints,
        "error": error,
        "name": loaded and loaded.name,
        "revision": loaded and loaded.revision,
        "digest": loaded and loaded.digest,
        "lints": [
            {"code": item.code, "subject": item.subject, "message": item.message, "where": item.where} for item in lints
        ],
    }


_policy_option = click.option("--policy", "policy_file", metavar="FILE", required=True, help="The policy.")
_facts_option = click.option(
    "--facts", "facts_file", metavar="FILE", required=True, help="The facts, one JSON object; `-`: standard input."
)


@policy.command()
@_policy_option
@_facts_option
@json_option
def decide(policy_file: str, facts_file: str, as_json: bool) -> None:
    """Make one decision from facts: 0 whatever the outcome.

    \b
    Example:
      driftwarden policy decide --policy production.yml --facts facts.json --json
    """
    _decide(policy_file, facts_file, as_json=as_json)


@policy.command()
@_policy_option
@_facts_option
@json_option
def explain(policy_file: str, facts_file: str, as_json: bool) -> None:
    """Explain a decision rule by rule (what `decide` prints; with --json its rows).

    \b
    Example:
      driftwarden policy explain --policy production.yml --facts facts.json
    """
    from dataclasses import asdict

    from driftwarden.policies import approval_line, headline
    from driftwarden.policies import explain as rows_of

    if not as_json:
        _decide(policy_file, facts_file, as_json=False)
        return
    loaded, facts = _load(policy_file), read_facts(facts_file)
    decision = loaded.decide(facts)
    print_json(
        {
            "headline": headline(decision, facts),
            "approval": approval_line(decision),
            "rows": [asdict(row) for row in rows_of(decision, facts)],
        }
    )


def _decide(policy_file: str, facts_file: str, *, as_json: bool) -> None:
    loaded, facts = _load(policy_file), read_facts(facts_file)
    decision = loaded.decide(facts)
    if as_json:
        print_json(decision.to_json())
    else:
        show_decision(decision, facts)


def show_decision(decision: "Decision", facts: dict[str, Any]) -> None:
    """Print a decision as the table that a person on call reads."""
    from rich.text import Text

    from driftwarden.policies import approval_line, headline
    from driftwarden.policies import explain as rows_of

    terminal = console()
    terminal.print(Text(safe_text(headline(decision, facts)), style="bold"))
    if decision.decisive:
        terminal.print(Text(safe_text("because of: " + ", ".join(decision.decisive))))
    table = _table("", "rule", "verdict", "effect", "got", "expected")
    for row in rows_of(decision, facts):
        cells = (">" if row.decisive else "", row.rule, row.mark, row.effect, row.got, row.expected)
        table.add_row(*(Text(safe_text(cell), style=_STYLES.get(cell, "")) for cell in cells))
    terminal.print(table)
    terminal.print(Text(safe_text(approval_line(decision))))
    terminal.print(Text(f"policy {decision.policy_name} {decision.policy_revision} {decision.policy_digest[:19]}"))


def _table(*columns: str) -> "Table":
    from rich.box import SIMPLE
    from rich.table import Table

    return Table(*columns, box=SIMPLE, pad_edge=False)


@policy.command()
@click.argument("paths", nargs=-1, required=True, metavar="PATH...")
@click.option("--coverage-at-least", type=click.FloatRange(0, 100), metavar="PERCENT", help="Fail below this coverage.")
@json_option
def test(paths: tuple[str, ...], coverage_at_least: float | None, as_json: bool) -> None:
    """Run PolicyTest documents (files, or folders of them); shows which verdicts were seen of each rule.

    \b
    Example:
      driftwarden policy test policies/ --coverage-at-least 80
    """
    from driftwarden.policies import run_policy_tests

    report = run_policy_tests(_test_files(paths), _read)
    enough = coverage_at_least is None or report.coverage_percent >= coverage_at_least
    if as_json:
        print_json({**report.to_json(), "ok": report.ok and enough})
    else:
        _show_tests(report)
        if not enough:
            note(f"coverage {report.coverage_percent:.1f} %, expected at least {coverage_at_least:g} %")
    if not (report.ok and enough):
        raise AnswerIsNo


def _show_tests(report: "TestReport") -> None:
    from rich.text import Text

    terminal = console()
    for result in report.results:
        terminal.print(Text(safe_text(f"{'ok  ' if result.ok else 'FAIL'} {result.name} ({result.where})")))
        for fault in result.faults:
            terminal.print(Text(safe_text(f"       {fault}")))
    for path, cover in report.coverage.items():
        table = _table(safe_text(path), "pass", "fail", "unknown", "n/a")
        for rule, verdicts in cover.possible.items():
            shown = [
                str(cover.seen[rule].get(verdict) or "never") if verdict in verdicts else ""
                for verdict in ("pass", "fail", "unknown", "not_applicable")
            ]
            table.add_row(Text(rule), *shown)
        terminal.print(table)
    passed = sum(result.ok for result in report.results)
    terminal.print(f"{passed} of {len(report.results)} cases pass, coverage {report.coverage_percent:.1f} %")


def _test_files(paths: tuple[str, ...]) -> list[str]:
    files: list[str] = []
    for path in map(Path, paths):
        if not path.is_dir():
            files.append(str(path))
            continue
        found = sorted(file for file in path.rglob("*") if file.suffix in {".yml", ".yaml"} and file.is_file())
        files += [str(file) for file in found if _is_policy_test(file)]
    if not files:
        raise BadInput("no PolicyTest document", got=", ".join(paths), expected="files, or folders that hold some")
    return files


def _is_policy_test(file: Path) -> bool:
    text = _read(str(file))
    if "PolicyTest" not in text:
        return False
    data, _ = load_yaml(text, where=str(file))
    return isinstance(data, dict) and data.get("kind") == "PolicyTest"


@policy.command()
@click.option("--policy", "policy_file", metavar="FILE", help="Another policy; default: the recorded ones.")
@click.option(
    "--audit-dir",
    "--dir",
    "audit_dir",
    metavar="DIR",
    help="Where the audit files are (default: the configured audit folder).",
)
@json_option
def replay(policy_file: str | None, audit_dir: str | None, as_json: bool) -> None:
    """Make every recorded decision again, from the audit log alone.

    Under the recorded policies all of a decision but its messages must come out the same: 1 where one does not. Under
    another policy: which outcomes change, what newly executes, and what it would have cost.

    \b
    Example:
      driftwarden policy replay --policy stricter.yml
    """
    from driftwarden.policies import replay as replay_records

    other = _load(policy_file) if policy_file is not None else None
    folder = _audit_dir(audit_dir)
    warn_of_damage(folder)
    report = replay_records(read_records(folder), other)
    if as_json:
        print_json(report.to_json())
    else:
        _show_replay(report)
    if not report.ok:
        raise AnswerIsNo


def _audit_dir(given: str | None) -> Path:
    from driftwarden.settings import load_settings

    folder = Path(given) if given is not None else load_settings().audit_dir
    if not folder.is_dir():
        raise BadInput("audit folder", got=str(folder), expected="a folder of *.jsonl files (--audit-dir DIR)")
    return folder


def read_records(folder: Path) -> Iterator[dict[str, Any]]:
    """The decisions and policy changes of every audit file in a folder; a torn tail is left out, and said."""
    from driftwarden.audit.files import log_files

    for file in log_files(folder):
        with file.open("rb") as lines:
            for number, line in enumerate(lines, start=1):
                if not line.endswith(b"\n"):
                    note(f"{file}:{number}: torn tail, {len(line)} bytes left out")
                    break
                if b'"type":"decision"' not in line and b'"type":"policy_change"' not in line:
                    continue
                record = loads_json(line, where=f"{file}:{number}")
                if not isinstance(record, dict):
                    raise BadInput("audit record", got=kind_of(record), expected="an object", where=f"{file}:{number}")
                yield record


def _show_replay(report: "ReplayReport") -> None:
    from rich.text import Text

    from driftwarden.strict import decimal_text

    terminal = console()
    under = "the policy that was given" if report.other_policy else "the recorded policies"
    terminal.print(f"{report.decisions} decisions under {under}: {report.same} the same, {len(report.changed)} changed")
    if report.other_policy and report.matrix:
        outcomes = ("execute", "escalate", "monitor")
        table = _table("was \\ would be", *outcomes)
        for before, row in sorted(report.matrix.items()):
            table.add_row(Text(safe_text(before)), *(str(row.get(after, 0)) for after in outcomes))
        terminal.print(table)
    for title, items in (
        ("newly executes", report.newly_executing),
        ("changed", [item for item in report.changed if item not in report.newly_executing]),
        ("cannot be made again", report.faults),
    ):
        for item in items:
            about = f"{item.ts} {item.incident} {item.action or 'no action'} for {item.model or 'no model'}"
            costs = "" if item.cost_usd is None else f", costs {item.cost_usd} USD"
            why = item.fault or f"{item.before} -> {item.after} ({', '.join(item.differs_in)}){costs}"
            terminal.print(Text(safe_text(f"{title}: {about}: {why}")))
    if report.other_policy:
        before, after = decimal_text(report.cost_before), decimal_text(report.cost_after)
        terminal.print(f"cost of what executes: was {before} USD, would have been {after} USD")


def _load(file: str) -> "Policy":
    from driftwarden.policies import load_policy

    return load_policy(_read(file), file)


def _read(file: str) -> str:
    try:
        if file == "-":
            return sys.stdin.read()
        return Path(file).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError, ValueError) as error:
        raise BadInput("cannot read the file", got=unreadable(error), expected="a UTF-8 file", where=file) from None


def read_facts(file: str) -> dict[str, Any]:
    """One JSON object. NaN, infinities and numbers beyond a float are let through: the policy holds them to be unknown."""

    def once(items: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(items)
        if len(found) != len(items):
            keys = [key for key, _ in items]
            twice = next(key for key in keys if keys.count(key) > 1)
            raise BadInput("duplicate key", got=twice, expected="each key once", where=file)
        return found

    try:
        facts = json.loads(_read(file), object_pairs_hook=once)
    except json.JSONDecodeError as error:
        raise BadInput("not JSON", got=error.msg, expected="one JSON object", where=f"{file}:{error.lineno}") from None
    except (RecursionError, ValueError) as error:
        raise BadInput("not JSON", got=unreadable(error), expected="one JSON object", where=file) from None
    if not isinstance(facts, dict):
        raise BadInput("facts", got=kind_of(facts), expected="one JSON object", where=file)
    return facts
