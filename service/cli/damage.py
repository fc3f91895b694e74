"""One line for whoever reads a log that is not whole."""

from pathlib import Path
from typing import TYPE_CHECKING

from driftwarden.errors import NotInstalled
from driftwarden.service.cli.common import note, safe_text

if TYPE_CHECKING:
    from driftwarden.audit import VerifyReport


def warn_of_damage(folder: Path) -> None:
    """Say on standard error where a log is not whole: what a command shows of it may be altered, or miss something.

    Hashes and chains are looked at; the rest, and checkpoints that were kept elsewhere, are for `audit verify`.
    """
    from driftwarden.audit import verify

    try:
        report = verify(folder, strict=False)
    except NotInstalled as error:  # the policy commands work without the service's parts
        note(f"whether the log is whole was not looked at: {error.diagnostics()}")
        return
    say_damage(report)


def say_damage(report: "VerifyReport") -> None:
    """The same, where the log was verified anyhow."""
    wrong = [file for file in report.files if not file.ok]
    if report.ok:
        return
    first = f": {wrong[0].name}: {wrong[0].fault}" if wrong else ""
    more = f" (and {len(wrong) - 1} more files)" if len(wrong) > 1 else ""
    note(
        safe_text(
            f"the log is not whole, so this may be altered or miss something{first}{more}; see driftwarden audit verify"
        )
    )
