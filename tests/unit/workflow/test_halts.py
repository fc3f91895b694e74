"""The kill switch: a file or a key halts, and what cannot be read is unknown."""

from pathlib import Path
from typing import Any

import pytest
import redis

from driftwarden.clock import SystemClock
from driftwarden.errors import BadInput
from driftwarden.service.workflow.halts import Halts, check_reason


@pytest.fixture
def halts(client: Any, tmp_path: Path) -> Halts:
    """Nothing is halted."""
    return Halts(client, "driftwarden:", tmp_path, SystemClock())


def test_everything_or_one_model(halts: Halts) -> None:
    """A model's halt is its own; the halt of everything is everybody's; each is lifted by itself."""
    assert halts.is_halted("m") is False
    halts.halt("m", reason="r", by="ada")
    assert (halts.is_halted("m"), halts.is_halted("n")) == (True, False)
    halts.halt(None, reason="r", by="ada")
    assert halts.is_halted("n") is True
    assert halts.resume("m") is True
    assert halts.is_halted("m") is True, "everything is still halted"
    assert halts.resume(None) is True
    assert halts.resume(None) is False
    assert halts.is_halted("m") is False


def test_the_file_alone_halts(halts: Halts, client: Any, tmp_path: Path) -> None:
    """Whoever clears Redis has not lifted the halt; a file made by hand is a halt as well."""
    halts.halt("m", reason="r", by="ada")
    client.flushall()
    assert halts.is_halted("m") is True
    (tmp_path / "HALT").touch()
    assert halts.is_halted("n") is True
    assert halts.all()["*"] == {"reason": "no reason given", "by": "?", "at": None}
    assert halts.all()["m"]["reason"] == "r"


def test_the_key_alone_halts(halts: Halts, tmp_path: Path) -> None:
    """Another host's folder has no file; the key halts there too."""
    halts.halt("m", reason="r", by="ada")
    (tmp_path / "halts" / "m").unlink()
    assert halts.is_halted("m") is True


def test_what_cannot_be_read_is_unknown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Redis away, or a folder that may not be looked into: neither halted nor not."""
    away = redis.Redis(unix_socket_path=str(tmp_path / "nothing.sock"))
    assert Halts(away, "driftwarden:", tmp_path, SystemClock()).is_halted("m") is None

    def denied(self: Path) -> bool:
        raise PermissionError(str(self))

    monkeypatch.setattr(Path, "exists", denied)
    assert Halts(away, "driftwarden:", tmp_path, SystemClock()).is_halted("m") is None


def test_a_reason_says_something() -> None:
    """Blank is none."""
    assert check_reason("  why ") == "why"
    with pytest.raises(BadInput, match="--reason"):
        check_reason(" \n")
