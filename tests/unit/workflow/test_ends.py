"""What the log says of ends: of the incident that is asked about, however long ago, and whatever was asked before."""

from datetime import timedelta
from typing import Any

import pytest

from driftwarden.clock import parse_rfc3339, rfc3339
from driftwarden.service.workflow import ends as module
from driftwarden.service.workflow.ends import Ends


class Log:
    """A log in memory, its time, and what is kept of it."""

    def __init__(self) -> None:
        self.moment, self.records, self.looks = parse_rfc3339("2026-11-20T09:00:00Z"), list[dict[str, Any]](), 0
        self.ends = Ends(timedelta(days=90), self._look_back, self)

    def now(self) -> Any:
        """The present moment."""
        return self.moment

    def _look_back(self, incident: str) -> list[dict[str, Any]]:
        self.looks += 1
        return [one for one in self.records if one["incident"] == incident]

    def ago(self, days: int) -> str:
        """A moment so many days before now."""
        return rfc3339(self.moment - timedelta(days=days))

    def close(self, incident: str, version: int, *, ago: int = 0) -> None:
        """It ends."""
        body = {"state": "closed", "version": version}
        self.records.append({"incident": incident, "ts": self.ago(ago), "body": body})
        self.ends.add(incident, version, "closed", self.ago(ago))


def test_an_end_that_comes_after_the_look_back_is_not_lost_with_its_day() -> None:
    """Asked about while it was still open, it ends, and its day is let go: the log is read again, once."""
    log = Log()
    opened = log.ago(200)
    assert log.ends.of("inc-a", opened) == {}
    log.close("inc-a", 7)
    assert log.ends.of("inc-a", opened) == {7: "closed"}
    log.moment += timedelta(days=100)
    log.close("inc-b", 1)
    assert len(log.ends) == 1
    for _ in range(3):
        assert log.ends.of("inc-a", opened) == {7: "closed"}
    assert log.looks == 2


def test_the_log_speaks_of_no_earlier_incident_of_the_name() -> None:
    """One that ended long before this one was opened is another; what was put back has the opening of old."""
    log = Log()
    log.close("inc-a", 7, ago=400)
    assert log.ends.of("inc-a", log.ago(100)) == {}
    assert log.ends.of("inc-a", log.ago(405)) == {7: "closed"}
    log.records[0]["ts"] = "?"
    assert Ends(timedelta(days=90), log._look_back, log).of("inc-a", log.ago(100)) == {7: "closed"}


def test_what_was_read_again_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many old states are put back, only so many answers are kept."""
    monkeypatch.setattr(module, "LOOKED_MAX", 3)
    log = Log()
    for number in range(10):
        log.close(f"inc-{number}", 7, ago=300)
        assert log.ends.of(f"inc-{number}", log.ago(301)) == {7: "closed"}
    assert (log.looks, len(log.ends._looked)) == (10, 3)
