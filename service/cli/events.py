"""`emit`, `dead-letters`, `down`: events in, what could not be handled, and the embedded server."""

import json
import sys
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from driftwarden.contracts.event import DriftEvent, parse_event
from driftwarden.errors import BadInput, EventRejected, Retry
from driftwarden.service.cli.common import (
    AnswerIsNo,
    console,
    json_option,
    note,
    print_json,
    print_json_lines,
    safe_text,
)
from driftwarden.strict import loads_json

if TYPE_CHECKING:
    from driftwarden.stream.dead_letters import DeadLetter

FIELDS_SHOWN = ("at", "reason", "field", "got", "expected", "deliveries", "incident", "redriven_as")


@click.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, allow_dash=True), required=False)
@click.option("--spool", is_flag=True, help="Publish what waits in this state folder's spool, instead of a FILE.")
@json_option
def emit(file: str | None, spool: bool, as_json: bool) -> None:
    """Publish drift events from FILE (JSON, a list included, or JSON Lines; `-`: standard input) and print their ids.

    Every event is checked before the first is published: a wrong one publishes nothing. What waits in the spool goes
    first. With --spool only that goes; exit code 1 where some of it still waits.

    \b
    Example:
      driftwarden emit drift.json
      driftwarden emit --spool
    """
    from driftwarden.service.bootstrap import read_settings
    from driftwarden.service.outbox import open_publisher
    from driftwarden.stream.publisher import send_in_order
    from driftwarden.stream.spool import Spool

    if spool == (file is not None):
        raise BadInput("emit", got="both" if spool else "neither", expected="FILE or --spool")
    if file is None:
        _emit_spooled(as_json)
        return
    events = _events(file)
    settings = read_settings()
    done = 0
    with open_publisher(settings) as publisher:
        for event in events:
            try:
                if not done:
                    send_in_order(Spool(settings.home), publisher)
                entry = publisher.publish(event.raw)
            except Retry as error:
                raise Retry(f"{done} of {len(events)} events were published, then: {error.diagnostics()}") from None
            done += 1
            _print_entry(event, entry, as_json)
    note(f"{done} event{'s' if done != 1 else ''} published")


def _emit_spooled(as_json: bool) -> None:
    from driftwarden.service.bootstrap import read_settings
    from driftwarden.service.outbox import open_publisher
    from driftwarden.stream.publisher import SPOOL_WAIT_S, send_spooled
    from driftwarden.stream.spool import Spool

    settings = read_settings()
    spool = Spool(settings.home)
    connect = partial(open_publisher, settings)
    sent = send_spooled(
        spool, connect, until=time.monotonic() + SPOOL_WAIT_S, told=partial(_print_entry, as_json=as_json)
    )
    left = spool.waiting()
    note(f"{len(sent.entries)} event{'s' if len(sent.entries) != 1 else ''} published, {left.events} left in the spool")
    if sent.problem is not None:
        raise sent.problem
    if left.events:
        note(f"another process is sending what waits in {spool.folder}" if sent.busy else "events came meanwhile")
        raise AnswerIsNo


def _print_entry(event: DriftEvent, entry: str, as_json: bool) -> None:
    if as_json:
        identity = {"source": event.source, "id": event.id, "correlation_id": event.correlation_id}
        print_json_lines([{"entry": entry, **identity}])
    else:
        sys.stdout.write(f"{entry} {safe_text(event.id)}\n")


def _events(file: str) -> list[DriftEvent]:
    name = "standard input" if file == "-" else file
    try:
        content = sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
    except OSError as error:
        raise BadInput("cannot read", got=error.strerror, expected="a file that can be read", where=name) from None
    lines = [(number, line.strip()) for number, line in enumerate(content.split(b"\n"), start=1) if line.strip()]
    if not lines:
        raise BadInput("no events", got="an empty file", expected="JSON or JSON Lines", where=name)
    whole = _document(content)
    if isinstance(whole, list):
        if not whole:
            raise BadInput("no events", got="an empty list", expected="JSON or JSON Lines", where=name)
        return [
            _event(json.dumps(one).encode(), f"{name}, event {number}") for number, one in enumerate(whole, start=1)
        ]
    looks_like_lines = lines[0][1].startswith(b"{") and lines[0][1].endswith(b"}")
    if isinstance(whole, dict) or not looks_like_lines:
        return [_event(content.strip(), name)]
    return [_event(line, f"{name}:{number}") for number, line in lines]


def _document(content: bytes) -> object:
    try:
        return loads_json(content)
    except BadInput:
        return None  # said later, with the place


def _event(text: bytes, where: str) -> DriftEvent:
    try:
        return parse_event(text)
    except EventRejected as error:
        raise BadInput(error.what, got=error.got, expected=error.expected, where=where) from None


@click.group("dead-letters")
def dead_letters() -> None:
    """Events that could not be handled: each with its reason, whole, and ready to be put back.

    \b
    Example:
      driftwarden dead-letters list
    """


@dead_letters.command("list")
@click.option("--limit", type=click.IntRange(min=1), default=None, help="At most so many, the newest first.")
@json_option
def list_letters(limit: int | None, as_json: bool) -> None:
    """List the dead letters, the newest first.

    \b
    Example:
      driftwarden dead-letters list --limit 20
    """
    from rich.table import Table

    from driftwarden.service.bootstrap import open_redis, read_settings
    from driftwarden.stream.dead_letters import DeadLetters

    settings = read_settings()
    with open_redis(settings) as client:
        letters = DeadLetters(client, settings.redis.prefix).list(limit)
        if as_json:
            print_json_lines(letter.to_json() for letter in letters)
            return
        table = Table(box=None, header_style="bold")
        for column in ("id", "at", "reason", "redriven"):
            table.add_column(column, overflow="fold", no_wrap=column in {"id", "at"})
        for letter in letters:
            table.add_row(letter.id, letter.at[:19] + "Z", _plain(letter.reason), "yes" if letter.redriven_as else "")
    if table.row_count:
        console().print(table)
    note(f"{table.row_count} dead letter{'s' if table.row_count != 1 else ''}")


@dead_letters.command("show")
@click.argument("id")
@json_option
def show_letter(id: str, as_json: bool) -> None:
    """Show one dead letter whole (ID: any prefix that fits one only).

    \b
    Example:
      driftwarden dead-letters show 1795177117524-0
    """
    from driftwarden.service.bootstrap import open_redis, read_settings
    from driftwarden.stream.dead_letters import DeadLetters

    settings = read_settings()
    with open_redis(settings) as client:
        letter = DeadLetters(client, settings.redis.prefix).show(id)
    if as_json:
        print_json(letter.to_json(whole=True))
        return
    _show(letter)


def _show(letter: "DeadLetter") -> None:
    document = letter.to_json(whole=True)
    lines = [f"{letter.id}"]
    lines += [f"  {name:12} {safe_text(document[name])}" for name in FIELDS_SHOWN if document[name] is not None]
    if document["event"]:
        lines.append(f"  {'event':12} {safe_text(document['event']['source'])} {safe_text(document['event']['id'])}")
    lines += [f"  {safe_text(name, 40):12} {safe_text(value, 2000)}" for name, value in document["entry"]]
    sys.stdout.write("\n".join(lines) + "\n")


@dead_letters.command("redrive")
@click.argument("id")
@json_option
def redrive_letter(id: str, as_json: bool) -> None:
    """Put the event of a dead letter back into the intake, once however often it is asked.

    \b
    Example:
      driftwarden dead-letters redrive 1795177117524-0
    """
    from driftwarden.service.bootstrap import open_redis, read_settings
    from driftwarden.stream.dead_letters import DeadLetters

    settings = read_settings()
    with open_redis(settings) as client:
        letter, entry, again = DeadLetters(client, settings.redis.prefix).redrive(id)
    if as_json:
        print_json({"id": letter.id, "entry": entry, "redriven_before": again})
        return
    sys.stdout.write(f"{entry}\n")
    note(f"{letter.id} was put back {'before' if again else 'now'}, as {entry}")


@click.command()
def down() -> None:
    """Stop what runs embedded for this state folder, whoever uses it.

    \b
    Example:
      driftwarden down
    """
    from driftwarden.service.bootstrap import read_settings
    from driftwarden.stream.embedded import stop

    home = read_settings().home
    stopped = [folder for folder in (home, home / "demo") if stop(folder)]
    for folder in stopped:
        note(f"stopped the redis server of {folder}")
    if not stopped:
        note(f"nothing runs for {home}")


def _plain(text: str) -> str:
    from rich.markup import escape

    return escape(safe_text(text))
