"""What `driftwarden doctor` finds of the state folder and of the audit log's disk."""

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from driftwarden.errors import unreadable
from driftwarden.settings import Settings

Mark = Literal["ok", "warning", "fault"]
PROBE_BYTES = 64 * 1024


@dataclass(frozen=True)
class Check:
    """One thing that was looked at; `mend` says what to do where it is not ok."""

    name: str
    state: Mark
    detail: str
    mend: str = ""


def state_folder(settings: Settings) -> list[Check]:
    """A folder that was there before it was ours is left as it is, and said."""
    home = settings.home
    if home.is_dir() and home.stat().st_mode & 0o007:
        return [
            Check("state folder", "warning", f"{home} is open to every account of this host", f"chmod o-rwx {home}")
        ]
    return [
        Check(
            "state folder", "ok", f"{home}" + (" is not open to others" if home.is_dir() else ", nothing written yet")
        )
    ]


def audit(settings: Settings) -> list[Check]:
    """Whether the log can be written, and verifies."""
    from driftwarden.audit import verify
    from driftwarden.audit.notes import read_public_key

    folder = settings.audit_dir
    if (refusal := _write_refusal(folder)) is not None:
        detail = f"{folder} cannot be written ({refusal}): nothing executes, events wait"
        mend = "make room or correct its rights, then `driftwarden audit fsck`, then start the service again"
        return [Check("audit log", "fault", detail, mend)]
    if (folder / "unwritable").exists():
        detail = "a write failed: nothing executes until an operator acts, events wait"
        return [Check("audit log", "fault", detail, "driftwarden audit fsck, then start the service again")]
    if not folder.exists():
        return [Check("audit log", "ok", f"{folder}, nothing written yet")]
    key = settings.home / "keys" / "audit.pub"
    report: Any = verify(folder, public_key=read_public_key(key) if key.exists() else None)
    if not report.ok:
        return [Check("audit log", "fault", "does not verify", "driftwarden audit verify")]
    return [Check("audit log", "ok", f"{report.records} records in {len(report.files)} files verify")]


def _write_refusal(folder: Path) -> str | None:
    """Why nothing can be made durable there, None where it can: asked by writing, for a full disk looks like any other."""
    if not folder.exists():
        parent = next(parent for parent in folder.parents if parent.exists())
        return None if os.access(parent, os.W_OK) else "no right to create it"
    try:
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".doctor-") as probe:
            probe.write(bytes(PROBE_BYTES))
            probe.flush()
            os.fsync(probe.fileno())
    except OSError as error:
        return unreadable(error)
    return None
