"""`driftwarden audit`: for auditors. Verify, show, search, export, report; for operators: fsck, erase, retain."""

import getpass
import sys
from datetime import timedelta
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import click

from driftwarden.clock import SystemClock, parse_rfc3339
from driftwarden.contracts.watch import parse_duration
from driftwarden.errors import BadInput
from driftwarden.service.cli.common import (
    AnswerIsNo,
    json_option,
    note,
    print_json,
    print_json_lines,
    safe_text,
)
from driftwarden.service.cli.damage import say_damage, warn_of_damage

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime

    from driftwarden.audit import AuditWriter, Criteria, Record, VerifyReport
    from driftwarden.audit.export import Prover
    from driftwarden.contracts.ports import Actor

dir_option = click.option(
    "--dir", "folder", type=click.Path(path_type=Path), help="The audit folder (default: the service's)."
)
key_option = click.option(
    "--key", "key_file", type=click.Path(path_type=Path), help="File with the verifier key that checkpoints must bear."
)
checkpoint_option = click.option(
    "--checkpoint", "checkpoints", type=click.Path(path_type=Path), multiple=True,
    help="A signed note kept elsewhere, or a folder of them; may be repeated.",
)  # fmt: skip


@click.group()
def audit() -> None:
    """Verify, show and export the decision log.

    \b
    Example:
      driftwarden audit verify
      driftwarden audit show inc-3f
    """


def _folder(folder: Path | None) -> Path:
    if folder is None:
        from driftwarden.settings import load_settings

        folder = load_settings().audit_dir
    if not folder.is_dir():
        raise BadInput("audit folder", got=folder, expected="a folder with *.jsonl files (--dir PATH)")
    return folder


def _key_path(folder: Path) -> Path:
    """The log's key: the service's for the service's own log, else beside the folder."""
    from driftwarden.settings import load_settings

    try:
        settings = load_settings()
    except BadInput:  # a copied log is verified where nothing is configured
        return folder.parent / "keys" / "audit.key"
    own = settings.audit_dir.resolve() == folder.resolve()
    return (settings.home if own else folder.parent) / "keys" / "audit.key"


def _public_key(folder: Path, key_file: Path | None) -> bytes | None:
    from driftwarden.audit.notes import read_public_key

    if key_file is not None:
        return read_public_key(key_file)
    beside = _key_path(folder).with_suffix(".pub")
    return read_public_key(beside) if beside.is_file() else None


@audit.command()
@dir_option
@key_option
@checkpoint_option
@click.option("--fast", is_flag=True, help="Hashes and chains only; do not encode every record again.")
@json_option
def verify(
    folder: Path | None, key_file: Path | None, checkpoints: tuple[Path, ...], fast: bool, as_json: bool
) -> None:
    """Recompute every hash, chain and checkpoint. Exits 0 where the log is whole, 1 where anything is wrong.

    \b
    Example:
      driftwarden audit verify --checkpoint /mnt/notary/
    """
    from driftwarden.audit import verify as verify_log

    where = _folder(folder)
    public_key = _public_key(where, key_file)
    report = verify_log(where, checkpoints, strict=not fast, public_key=public_key)
    if public_key is None and report.files:
        note("no key is pinned: signatures are held against the keys that the log itself names (--key audit.pub)")
    if as_json:
        print_json(report.model_dump(mode="json"))
    else:
        _print_verification(report)
    if not report.ok:
        raise AnswerIsNo


def _print_verification(report: "VerifyReport") -> None:
    for file in report.files:
        click.echo(f"{safe_text(file.name)}: {'ok' if file.ok else safe_text(file.fault)} ({file.records} records)")
    for remark in report.notes:
        note(safe_text(remark))
    broken = sum(not file.ok for file in report.files)
    if not report.files:
        note("there is no file: nothing was verified")
    state = "whole" if report.ok else f"NOT whole, {broken} of {len(report.files)} files are wrong"
    click.echo(f"{report.records} records, {report.checkpoints} signed checkpoints: {state}")


@audit.command()
@click.argument("id")
@dir_option
@json_option
def show(id: str, folder: Path | None, as_json: bool) -> None:
    """The story of one incident (id or prefix) or correlation id, in order, across writers.

    \b
    Example:
      driftwarden audit show inc-3f
    """
    from driftwarden.audit import story

    where = _folder(folder)
    warn_of_damage(where)
    _print_records(story(where, id, skip_damaged=True), as_json)


def _print_records(records: "list[Record]", as_json: bool) -> None:
    from driftwarden.audit import summarise

    if as_json:
        print_json_lines({**record.to_json(), "summary": summarise(record)} for record in records)
        return
    for record in records:
        when = record.ts[:19].replace("T", " ")
        who = safe_text(f"{record.actor.kind}:{record.actor.id}", 40)
        click.echo(f"{when}  {record.type:13} {who:24} {summarise(record)}")


@audit.command()
@dir_option
@click.option("--since", help="RFC 3339 moment, or how long ago (`7d`).")
@click.option("--until", help="RFC 3339 moment, or how long ago.")
@click.option("--model", help="Records about this model.")
@click.option("--type", "types", multiple=True, help="Record type; may be repeated.")
@click.option("--actor", help="Actor id or kind.")
@click.option("--outcome", help="A decision's outcome, an approval's or verification's verdict.")
@click.option("--incident", help="Incident id or prefix.")
@click.option("--text", help="Anywhere in the record, whatever its case.")
@click.option("--limit", type=click.IntRange(min=1), help="Stop after so many.")
@json_option
def search(folder: Path | None, limit: int | None, as_json: bool, **wanted: Any) -> None:
    """Find records by time, model, type, actor, outcome or text.

    \b
    Example:
      driftwarden audit search --since 7d --type decision --outcome escalate
    """
    from itertools import islice

    from driftwarden.audit import search as search_log

    where = _folder(folder)
    warn_of_damage(where)
    found = search_log(where, _criteria(**wanted), skip_damaged=True)
    _print_records(list(islice(found, limit)), as_json)


def _criteria(since: str | None, until: str | None, types: tuple[str, ...], **others: str | None) -> "Criteria":
    from driftwarden.audit import Criteria
    from driftwarden.audit.record import RECORD_TYPES

    for kind in types:
        if kind not in RECORD_TYPES:
            raise BadInput("--type", got=kind, expected=f"one of: {', '.join(RECORD_TYPES)}")
    return Criteria(since=_moment("--since", since), until=_moment("--until", until), types=types, **others)


def _moment(option: str, text: str | None) -> "datetime | None":
    if text is None:
        return None
    try:
        return SystemClock().now() - parse_duration(text)
    except (ValueError, OverflowError):
        pass
    try:
        return parse_rfc3339(text)
    except (ValueError, OverflowError):
        raise BadInput(option, got=text, expected="an RFC 3339 moment with a zone, or a duration like `7d`") from None


@audit.command()
@dir_option
@click.option("--format", "form", type=click.Choice(["jsonl", "csv", "parquet"]), default="jsonl", show_default=True)
@click.option(
    "--output", type=click.Path(path_type=Path, dir_okay=False), help="File to write (default: standard output)."
)
@click.option("--since", help="RFC 3339 moment, or how long ago (`7d`).")
@click.option("--until", help="RFC 3339 moment, or how long ago.")
@click.option("--model", help="Records about this model.")
@click.option("--type", "types", multiple=True, help="Record type; may be repeated.")
@click.option("--incident", help="Incident id or prefix.")
@click.option("--proofs", is_flag=True, help="With jsonl: a proof that each record stands in a signed checkpoint.")
@click.option("--json", "as_json", is_flag=True, help="The same as --format jsonl.")
def export(folder: Path | None, form: str, output: Path | None, proofs: bool, as_json: bool, **wanted: Any) -> None:
    """Copy records out, for other tools.

    \b
    Example:
      driftwarden audit export --since 30d --format csv --output audit.csv
    """
    from driftwarden.audit import search as search_log
    from driftwarden.audit.export import Prover, write_parquet

    form = "jsonl" if as_json else form
    if proofs and form != "jsonl":
        raise BadInput("--proofs", got=f"--format {form}", expected="--format jsonl")
    if form == "parquet" and output is None:
        raise BadInput("--format parquet", got="standard output", expected="--output FILE")
    where = _folder(folder)
    warn_of_damage(where)
    found = search_log(where, _criteria(**wanted))
    prover = Prover(where) if proofs else None
    if output is None:
        _export_text(form, found, prover, sys.stdout)
        return
    try:
        if form == "parquet":
            write_parquet(found, output)
        else:
            with output.open("w", encoding="utf-8", newline="") as handle:
                _export_text(form, found, prover, handle)
    except OSError as error:
        raise BadInput(
            "--output", got=error.strerror, expected="a file that can be written", where=str(output)
        ) from None
    note(f"records written to {output}")


def _export_text(form: str, found: "Iterable[Record]", prover: "Prover | None", out: IO[str]) -> None:
    from driftwarden.audit.export import json_lines, write_csv

    if form == "csv":
        write_csv(found, out)
        return
    for line in json_lines(found, prover):
        out.write(line + "\n")


@audit.command()
@click.argument("id")
@dir_option
@key_option
@click.option("--output", type=click.Path(path_type=Path, dir_okay=False), help="HTML file (default: report-ID.html).")
@json_option
def report(id: str, folder: Path | None, key_file: Path | None, output: Path | None, as_json: bool) -> None:
    """One self-contained HTML page about an incident, for an auditor.

    \b
    Example:
      driftwarden audit report inc-3f --output incident.html
    """
    from driftwarden.audit import story
    from driftwarden.audit import verify as verify_log
    from driftwarden.audit.report import render

    where = _folder(folder)
    records = story(where, id, skip_damaged=True)
    name = next((record.incident for record in records if record.incident), id)
    verified = verify_log(where, public_key=_public_key(where, key_file))
    say_damage(verified)
    target = output or Path(f"report-{''.join(ch for ch in name if ch.isalnum() or ch in '-_')}.html")
    try:
        target.write_text(render(name, records, verified), encoding="utf-8")
    except OSError as error:
        raise BadInput(
            "--output", got=error.strerror, expected="a file that can be written", where=str(target)
        ) from None
    if as_json:
        print_json({"file": str(target), "incident": name, "records": len(records), "log_ok": verified.ok})
    else:
        click.echo(str(target))


@audit.command()
@click.option("--json", "as_json", is_flag=True, help="The same: it is JSON.")
def schema(as_json: bool) -> None:
    """The JSON Schema of one record.

    \b
    Example:
      driftwarden audit schema > record.schema.json
    """
    from driftwarden.audit import json_schema

    print_json(json_schema())


@audit.command()
@dir_option
@key_option
@checkpoint_option
@json_option
def fsck(folder: Path | None, key_file: Path | None, checkpoints: tuple[Path, ...], as_json: bool) -> None:
    """Recompute everything, restore notes that are missing, and lift the mark that a failed write left.

    \b
    Example:
      driftwarden audit fsck
    """
    from driftwarden.audit.maintain import fsck as mend

    where = _folder(folder)
    result = mend(where, checkpoints, public_key=_public_key(where, key_file))
    if as_json:
        print_json(result.model_dump(mode="json"))
    else:
        _print_verification(result.log)
        click.echo(f"notes restored: {len(result.notes_restored)}; vault: {result.vault_entries} values")
        if result.notes_fault is not None:
            click.echo(
                f"notes are missing and cannot be written ({result.notes_fault}): make room, or correct the rights"
            )
        if result.vault_faults:
            click.echo(f"vault: {len(result.vault_faults)} values do not match their commitments")
        if result.was_unwritable:
            state = "the mark is lifted" if result.cleared else "the mark stays"
            click.echo(f"a write failed earlier ({safe_text(result.was_unwritable)}): {state}")
    if not result.ok:
        raise AnswerIsNo


def _writer(folder: Path, label: str) -> "AuditWriter":
    from driftwarden.audit import AuditWriter, Limits

    key = _key_path(folder)
    if not key.exists():  # one made now would sign as somebody else, in what may be an auditor's copy
        expected = "the log's own, on the host of its service: a copy is not written to"
        raise BadInput("key of the log", got="none", expected=expected, where=str(key))
    return AuditWriter(folder, stream=label, clock=SystemClock(), key_path=key, limits=Limits(idle_s=None))


def _person() -> "Actor":
    from driftwarden.contracts.ports import Actor

    return Actor(kind="human", id=getpass.getuser())


@audit.command()
@dir_option
@click.option("--incident", help="Everything personal in this incident's records.")
@click.option("--correlation-id", help="Everything personal in records of this correlation id.")
@click.option("--commitment", help="One value, by the commitment that stands for it.")
@click.option("--reason", required=True, help="Why; it is recorded.")
@json_option
def erase(folder: Path | None, reason: str, as_json: bool, **which: str | None) -> None:
    """Erase personal data: the values are forgotten, the log still verifies, the erasure is recorded.

    \b
    Example:
      driftwarden audit erase --incident inc-3f9a --reason "request 2026-114"
    """
    from driftwarden.audit import vault
    from driftwarden.audit.maintain import erasable
    from driftwarden.audit.maintain import erase as erase_values
    from driftwarden.audit.reader import whole_incident

    if sum(value is not None for value in which.values()) != 1:
        raise BadInput("what to erase", expected="one of --incident, --correlation-id, --commitment")
    where = _folder(folder)
    if (named := which["incident"]) is not None and not vault.entries(where, incident=named):
        which["incident"] = whole_incident(
            where, named
        )  # the vault may outlive the records: there only whole ids are known
    erasable(where, **which)  # a request that finds nothing leaves no trace in the log
    with _writer(where, "erase") as writer:
        count = erase_values(writer, reason=reason, actor=_person(), **which)
    if as_json:
        print_json({"erased": count})
    else:
        click.echo(f"{count} values erased")


@audit.command()
@dir_option
@click.option("--older-than", help="Remove files whose last record is older (`200d`).")
@click.option("--larger-than-mib", type=click.IntRange(min=1), help="Remove the oldest files beyond this size in all.")
@click.option("--reason", required=True, help="Why; it is recorded.")
@json_option
def retain(
    folder: Path | None, older_than: str | None, larger_than_mib: int | None, reason: str, as_json: bool
) -> None:
    """Remove old files, whole; the removal is recorded and signed first.

    \b
    Example:
      driftwarden audit retain --older-than 400d --reason "retention schedule 7"
    """
    from driftwarden.audit.maintain import retain as remove_old

    if older_than is None and larger_than_mib is None:
        raise BadInput("what to remove", expected="--older-than or --larger-than-mib")
    try:
        age: timedelta | None = parse_duration(older_than) if older_than else None
    except ValueError as error:
        raise BadInput("--older-than", got=older_than, expected=str(error)) from None
    size = larger_than_mib * 1024 * 1024 if larger_than_mib else None
    with _writer(_folder(folder), "retain") as writer:
        now = SystemClock().now()
        gone = remove_old(writer, now=now, reason=reason, actor=_person(), age_max=age, bytes_max=size)
    if as_json:
        print_json({"removed": list(gone)})
    else:
        click.echo("\n".join(gone) or "nothing to remove")
