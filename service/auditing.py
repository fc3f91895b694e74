"""This process's stream of the audit log, as the settings have it, and how long the log is kept."""

import logging
import os
import socket
from typing import TYPE_CHECKING

from driftwarden.clock import Clock
from driftwarden.settings import Settings

if TYPE_CHECKING:
    from driftwarden.audit import AuditWriter

log = logging.getLogger(__name__)


def process_name(*, unique: bool = False) -> str:
    """Host and number of this process; `unique`: also among containers that share both."""
    name = f"{socket.gethostname().partition('.')[0]}-{os.getpid()}"
    return f"{name}-{os.urandom(3).hex()}" if unique else name


def open_audit(settings: Settings, clock: Clock, *, role: str) -> "AuditWriter":
    """A stream of the audit log of this process's own."""
    from driftwarden.audit import AuditWriter, Limits

    stream = f"{role}-{process_name(unique=True)}"
    bounds = settings.audit
    return AuditWriter(
        settings.audit_dir,
        stream=stream,
        clock=clock,
        key_path=settings.home / "keys" / "audit.key",
        limits=Limits(
            file_bytes_max=bounds.file_mib * 1024 * 1024,
            file_age_max=bounds.file_age,
            checkpoint_records=bounds.checkpoint_records,
            checkpoint_age=bounds.checkpoint_age,
        ),
        personal=bounds.personal,
    )


def keep_audit(settings: Settings, audit: "AuditWriter", clock: Clock) -> None:
    """Remove the files of the audit log that the settings no longer keep; on record, and never an unverified log's."""
    from driftwarden.audit.maintain import retain
    from driftwarden.contracts.ports import Actor

    bounds = settings.audit
    if bounds.keep is None and bounds.keep_mib is None:
        return
    gone = retain(
        audit,
        now=clock.now(),
        reason="retention of the settings",
        actor=Actor(kind="timer", id="retention"),
        age_max=bounds.keep,
        bytes_max=bounds.keep_mib * 1024 * 1024 if bounds.keep_mib else None,
    )
    if gone:
        log.info("audit: %d files are no longer kept: %s", len(gone), ", ".join(gone))
