"""Who tells people: the file of messages, and the command of the settings where one is set."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from driftwarden.clock import Clock
from driftwarden.settings import Settings

if TYPE_CHECKING:
    from driftwarden.contracts.ports import Notifier


def open_notifier(settings: Settings, clock: Clock, environ: Mapping[str, str]) -> "Notifier":
    """The notifier of one process; the command sees of `environ` what a sandboxed child sees: no secret of the service."""
    from driftwarden.actions.notify import CommandNotifier, FileNotifier
    from driftwarden.sandbox import child_environ

    written = FileNotifier(settings.home / "notifications.jsonl", clock)
    told = settings.notify
    if not told.command:
        return written
    return CommandNotifier(written, told.command, timeout_s=told.timeout_s, environ=child_environ(environ, threads=1))
