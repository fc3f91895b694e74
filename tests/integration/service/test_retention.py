"""How long the audit log is kept is a setting; what goes is on record, and the rest still verifies."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from driftwarden.audit import verify
from driftwarden.contracts.ports import Actor
from driftwarden.errors import BadInput
from driftwarden.service.auditing import keep_audit, open_audit
from driftwarden.settings import load_settings

START = datetime(2026, 9, 1, tzinfo=UTC)


class Clock:
    """Time that the test moves."""

    moment = START

    def now(self) -> datetime:
        """The moment that was set."""
        return self.moment


def settings_of(folder: Path, text: str) -> Any:
    """Settings of a project that says so."""
    file = folder / "conf" / "local" / "driftwarden" / "settings.yml"
    file.parent.mkdir(parents=True)
    file.write_text(text)
    return load_settings({"DRIFTWARDEN_HOME": str(folder / "home")}, folder)


@pytest.mark.parametrize(("keep", "left"), [("keep: 31d", 2), ("keep: null", 3)])
def test_old_files_go_where_the_settings_say_so(tmp_path: Path, keep: str, left: int) -> None:
    """Three files of one stream, two months later; the second one's last record is the checkpoint of its rotation."""
    settings, clock = settings_of(tmp_path, f"audit: {{{keep}, file_age: 1d}}"), Clock()
    settings.home.mkdir(parents=True)
    with open_audit(settings, clock, role="test") as audit:
        for day in (0, 2, 60):
            clock.moment = START + timedelta(days=day)
            audit.append("close", {"state": "closed"}, actor=Actor(kind="service", id="t"), incident="inc-1")
        keep_audit(settings, audit, clock)
    assert len(list(settings.audit_dir.glob("*.jsonl"))) == left
    assert verify(settings.audit_dir).ok
    text = b"".join(file.read_bytes() for file in settings.audit_dir.glob("*.jsonl"))
    assert (b'"type":"erasure"' in text) == (left < 3)


def test_personal_paths_of_the_settings_are_committed_to(tmp_path: Path) -> None:
    """What stands there is no clear text in the log."""
    settings = settings_of(tmp_path, "audit: {personal: [reason]}")
    settings.home.mkdir(parents=True)
    with open_audit(settings, Clock(), role="test") as audit:
        audit.append(
            "approval", {"reason": "Ada Lovelace said so"}, actor=Actor(kind="human", id="x"), incident="inc-1"
        )
    assert b"Lovelace" not in b"".join(file.read_bytes() for file in settings.audit_dir.glob("*.jsonl"))
    assert verify(settings.audit_dir).ok


def test_a_log_that_the_counters_rest_on_is_kept_a_month(tmp_path: Path) -> None:
    """A shorter retention is refused, in one line."""
    with pytest.raises(BadInput, match="keep"):
        settings_of(tmp_path, "audit: {keep: 7d}")
