"""`driftwarden serve`: the service until a signal."""

import signal
import sys

import click

from driftwarden.errors import BadInput, unreadable
from driftwarden.service.cli.common import note


@click.command()
@click.option(
    "--workers", type=click.IntRange(1, 64), default=None, help="Workers in this process (default: the settings')."
)
@click.option(
    "--log-file", type=click.Path(dir_okay=False, writable=True), help="Write the JSON log here, not to standard error."
)
def serve(workers: int | None, log_file: str | None) -> None:
    """Run the service until a signal (SIGINT, SIGTERM): read events, find causes, decide, act, verify.

    On a signal every worker finishes the step it is in, or hands its incident back; another worker, now or after a
    restart, goes on from there. The policy is read again when its file changes; one that does not load leaves the old
    one in force. Log lines are JSON on standard error.

    \b
    Example:
      driftwarden serve --workers 4
    """
    from pathlib import Path

    from driftwarden.service.bootstrap import open_service, read_settings
    from driftwarden.service.workflow.process import ServiceProcess

    settings = read_settings()
    try:
        settings.home.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInput(
            "state folder", got=unreadable(error), expected="a folder that can be written", where=str(settings.home)
        ) from None
    count = workers or settings.service.workers
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
        )

        def stop(number: int, frame: object) -> None:
            del number, frame
            process.request_stop()

        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, stop)
        process.start()
        policy = service.policy()
        watched = ", ".join(sorted(settings.models)) or "no model yet (driftwarden models register)"
        note(
            f"driftwarden serves {watched}; policy {policy.name} {policy.revision}; state in {settings.home}; Ctrl-C stops"
        )
        while not process.wait(0.5):
            pass
        note("stopping: finishing what is in hand")
        process.stop()
        if not service.audit_healthy():
            note("the audit log cannot be written; nothing was executed since (see driftwarden doctor)")
            sys.exit(1)
