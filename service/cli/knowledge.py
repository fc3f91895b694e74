"""`driftwarden knowledge`: read the runbooks and past incidents, add runbooks of one's own."""

from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from driftwarden.contracts.base import RootCause
from driftwarden.errors import BadInput
from driftwarden.service.cli.common import console, json_option, note, print_json, print_json_lines, safe_text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from driftwarden.contracts.ports import KnowledgeHit
    from driftwarden.knowledge import KnowledgeBase

Command = TypeVar("Command", bound="Callable[..., Any]")

_FILE_BYTES_MAX = 256 * 1024

_kind_option = click.option(
    "--kind", type=click.Choice(["runbook", "incident"]), help="Only runbooks, or only incidents."
)
_cause_option = click.option(
    "--root-cause", type=click.Choice([cause.value for cause in RootCause]), help="Only what is about this cause."
)


def _limit_option(default: int) -> "Callable[[Command], Command]":
    return click.option(
        "--limit", type=click.IntRange(1, 1000), default=default, show_default=True, help="At most so many."
    )


@contextmanager
def _opened() -> "Iterator[KnowledgeBase]":
    from driftwarden.service.bootstrap import open_knowledge

    with open_knowledge() as opened:
        base: Any = opened
        yield base


@click.group()
def knowledge() -> None:
    """Runbooks and past incidents.

    \b
    Example:
      driftwarden knowledge search "temperature is 1.8 times too large"
    """


@knowledge.command("list")
@_kind_option
@_cause_option
@_limit_option(1000)
@json_option
def list_(kind: Any, root_cause: str | None, limit: int, as_json: bool) -> None:
    """What the knowledge base holds, runbooks first.

    \b
    Example:
      driftwarden knowledge list --root-cause unit_change
    """
    with _opened() as base:
        hits = base.entries(kind=kind, root_cause=root_cause, limit=limit)
    _show(hits, as_json, "nothing there")


@knowledge.command("search")
@click.argument("text")
@_kind_option
@_cause_option
@_limit_option(5)
@json_option
def search(text: str, kind: Any, root_cause: str | None, limit: int, as_json: bool) -> None:
    """The passages nearest to TEXT, best first (scores 0 to 1).

    \b
    Example:
      driftwarden knowledge search "sensor repeats the same value" --kind runbook --limit 3
    """
    if not text.strip():
        raise BadInput("search text", got=repr(text), expected="at least one word")
    with _opened() as base:
        hits = base.search(text, kind=kind, root_cause=root_cause, limit=limit)
    _show(hits, as_json, "nothing found", passages=True)


@knowledge.command("add")
@click.argument("file", type=click.Path(path_type=Path))
@json_option
def add(file: Path, as_json: bool) -> None:
    """Add the runbook in FILE (Markdown with front matter); one with the same id is replaced.

    \b
    The file begins like this; its sections are headed `## ...`:
      ---
      id: our-boiler
      title: The boiler's sensor after maintenance
      root_causes: [stuck_values]
      actions: [quarantine_data, notify]
      kinds: [data_quality]
      revision: 1
      ---
    \b
    Example:
      driftwarden knowledge add runbooks/our-boiler.md
    """
    text = _read(file)
    with _opened() as base:
        added = base.add_runbook(text, where=str(file))
    if as_json:
        print_json(added.model_dump(mode="json"))
    else:
        note(f"added runbook {added.id}: {safe_text(added.title)}")


def _read(file: Path) -> str:
    try:
        with file.open("rb") as stream:
            data = stream.read(_FILE_BYTES_MAX + 1)
    except OSError as error:
        raise BadInput("file", got=file, expected=f"a Markdown file that can be read ({error.strerror})") from None
    if len(data) > _FILE_BYTES_MAX:
        raise BadInput("file", got=f"over {_FILE_BYTES_MAX} bytes", expected="a runbook", where=str(file))
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise BadInput("not UTF-8", got=f"byte {error.start}", expected="UTF-8 text", where=f"{file}:{line}") from None


def _show(hits: "Sequence[KnowledgeHit]", as_json: bool, nothing: str, *, passages: bool = False) -> None:
    if as_json:
        print_json_lines(hit.model_dump(mode="json") for hit in hits)
        return
    if not hits:
        note(nothing)
        return
    if not passages:
        _table(hits)
        return
    terminal = console()
    for hit in hits:
        terminal.print(
            f"{hit.score:.2f}  {hit.kind}  {safe_text(hit.id)}  {safe_text(hit.title)}", markup=False, style="bold"
        )
        for row in hit.text.split("\n")[:8]:
            terminal.print(f"      {safe_text(row)}", markup=False, soft_wrap=True)
        terminal.print("")


def _table(hits: "Sequence[KnowledgeHit]") -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, header_style="bold")
    for heading in ("kind", "id", "root causes", "title"):
        table.add_column(heading)
    for hit in hits:
        causes = hit.metadata.get("root_causes") or [hit.metadata.get("root_cause", "")]
        row = (hit.kind, hit.id, ", ".join(map(str, causes)), hit.title)
        table.add_row(*(Text(safe_text(cell)) for cell in row))
    console().print(table)
