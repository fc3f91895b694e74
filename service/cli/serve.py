"""`driftwarden serve`: the service until a signal."""

import os
import signal
import sys
from typing import TYPE_CHECKING

import click

from driftwarden.errors import BadInput, unreadable
from driftwarden.keyfile import make_folder
from driftwarden.service.cli.common import note

if TYPE_CHECKING:
    from driftwarden.service.workflow.process import Stopped


@click.command()
@click.option(
    "--workers", type=click.IntRange(1, 64), default=None, help="Workers in this process (default: the settings')."
)
@click.option(
    "--log-file", type=click.Path(dir_okay=False, writable=True), help="Write the JSON log here, not to standard error."
)
@click.option(
    "--stop-within",
    type=click.FloatRange(0, 86_400),
    default=None,
    metavar="SECONDS",
    help="After a signal, hand back by then what is still in hand (default: the settings').",
)
def serve(workers: int | None, log_file: str | None, stop_within: float | None) -> None:
    """Run the service until a signal (SIGINT, SIGTERM): read events, find causes, decide, act, verify.

    On a signal every worker finishes the step it is in, or hands its incident back; another worker, now or after a
    restart, goes on from there. What is not finished in time is handed back in the middle of its step, and done again; a
    second signal exits at once. The policy is read again when its file changes; one that does not load leaves the old
    one in force. Log lines are JSON on standard error.

    \b
    Example:
      driftwarden serve --workers 4
    """
    from pathlib import Path

    from driftwarden.service.auditing import process_name
    from driftwarden.service.bootstrap import open_service, read_settings
    from driftwarden.service.heap import preload, settle
    from driftwarden.service.workflow.health import Health
    from driftwarden.service.workflow.process import ServiceProcess

    # Traces, tables and messages hold what the models see: no business of every account of the host.
    os.umask(os.umask(0o077) | 0o007)
    settings = read_settings()
    try:
        make_folder(settings.home)
    except OSError as error:
        raise BadInput(
            "state folder", got=unreadable(error), expected="a folder that can be written", where=str(settings.home)
        ) from None
    count = workers or settings.service.workers
    within_s = settings.service.stop_within.total_seconds() if stop_within is None else stop_within
    with open_service(settings, log_file=Path(log_file) if log_file else None, sandbox_slots=count) as service:
        name = service.process_name()
        process = ServiceProcess(
            service.parts,
            service.store,
            service.intake(name),
            name=name,
            workers=count,
            watch_policy=service.policy_watch.tick,
            housekeeping=service.housekeeping,
            health=Health(service.client, settings.redis.prefix, process_name(unique=True)),
        )
        signals: list[int] = []

        def stop(number: int, frame: object) -> None:
            del frame
            signals.append(number)
            if len(signals) > 1:
                os._exit(128 + number)
            process.request_stop()

        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, stop)
        preload(settings.tracking_uri)
        process.start()
        settle()
        policy = service.policy()
        watched = ", ".join(sorted(settings.models)) or "no model yet (driftwarden models register)"
        note(
            f"driftwarden serves {watched}; policy {policy.name} {policy.revision}; state in {settings.home}; Ctrl-C stops"
        )
        while not process.wait(0.5):
            pass
        note(f"stopping: finishing what is in hand, at most {within_s:g} s; a second signal exits at once")
        stopped = process.stop(within_s)
        note(_how(stopped, within_s, settings.service.lease_s))
        code = 0
        if process.fault is not None or not service.audit_healthy():
            why = process.fault or "the audit log cannot be written"
            note(f"{why}; nothing was executed since, events wait (see driftwarden doctor)")
            code = 1
    if stopped.threads:
        # A thread that hangs would keep the interpreter from ending; all that must be closed is closed by now.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def _how(stopped: "Stopped", within_s: float, lease_s: float) -> str:
    """How the stop went, in one line."""
    if not stopped.handed and not stopped.left:
        return "stopped: everything in hand was finished or handed back"
    parts = [f"handed back in the middle of a step: {', '.join(stopped.handed)}"] if stopped.handed else []
    if stopped.left:
        parts.append(f"left to their leases, which run out within {lease_s:g} s: {', '.join(stopped.left)}")
    return f"stopped after {within_s:g} s: {'; '.join(parts)}"
