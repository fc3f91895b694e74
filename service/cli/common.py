"""What every command shares: options, output on the right stream, the one way to say no."""

import importlib.util
import json
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import click

from driftwarden.errors import NotInstalled
from driftwarden.strict import plain

if TYPE_CHECKING:
    from rich.console import Console

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON on standard output.")


class AnswerIsNo(click.exceptions.Exit):
    """A check, test or verification whose answer is no: exit code 1, after its report was printed."""

    def __init__(self) -> None:
        """Exit code 1."""
        super().__init__(1)


def require_service() -> None:
    """Raise NotInstalled where the service's parts are absent, for commands that meet those of the monitor first."""
    for module in ("mlflow", "chromadb", "cryptography", "skops"):
        if importlib.util.find_spec(module) is None:
            raise NotInstalled("service", module)


def print_json(document: Any) -> None:
    """One JSON document on standard output; money and probabilities as decimal strings."""
    sys.stdout.write(json.dumps(document, indent=2, ensure_ascii=False, default=plain) + "\n")


def print_json_lines(documents: Iterable[Any]) -> None:
    """JSON Lines on standard output, flushed line by line."""
    for document in documents:
        sys.stdout.write(json.dumps(document, ensure_ascii=False, default=plain) + "\n")
        sys.stdout.flush()


def note(message: str) -> None:
    """Words for people: one line on standard error."""
    sys.stderr.write(message + "\n")


def console(*, stderr: bool = False) -> "Console":
    """A terminal for tables; plain text where the output is no terminal, or NO_COLOR is set."""
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() else 120
    return Console(file=stream, highlight=False, soft_wrap=False, width=width)


def safe_text(value: object, limit: int = 500) -> str:
    """A value from outside (an event, a model) for a terminal: one line, no control characters, bounded."""
    text = "".join(ch if ch.isprintable() else " " for ch in str(value))
    return text if len(text) <= limit else text[: limit - 1] + "…"
