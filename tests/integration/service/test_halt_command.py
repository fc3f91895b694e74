"""`driftwarden halt`: it waits neither for a server nor for the log."""

import json
from pathlib import Path

import pytest

from driftwarden.service.cli.main import run


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A state folder of its own, with the embedded server."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DRIFTWARDEN_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("DRIFTWARDEN_CONF", str(tmp_path / "conf"))
    monkeypatch.delenv("DRIFTWARDEN_REDIS_URL", raising=False)
    return tmp_path / "home"


def test_a_halt_and_its_end(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Either a file or the command halts; `resume` lifts both, and says where there was nothing to lift."""
    assert run(["halt", "--reason", "deploy", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["in_force"]["*"]["reason"] == "deploy"
    assert run(["resume", "--reason", "done"]) == 0
    assert not (home / "HALT").exists()
    (home / "HALT").touch()
    assert run(["resume", "--reason", "done"]) == 0
    assert run(["resume", "--reason", "done"]) == 1


def test_a_halt_without_a_server_is_in_the_file(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Services that share the state folder see it; the person is told that others do not, and the answer is no."""
    monkeypatch.setenv("DRIFTWARDEN_REDIS_URL", f"unix://{home}/nobody.sock")
    assert run(["halt", "--reason", "smoke"]) == 1
    assert json.loads((home / "HALT").read_text(encoding="utf-8"))["reason"] == "smoke"
    assert f"only services with the state folder {home} see it" in capsys.readouterr().err
    (log,) = (home / "audit").glob("*.jsonl")
    changes = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines() if '"mode_change"' in line]
    assert [one["body"] for one in changes] == [{"halted": True, "model": None, "reason": "smoke"}]


def test_a_halt_without_a_log_is_in_force(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What stops everything must not fail because the log does; that the log lacks it is said."""
    (tmp_path / "file").touch()
    monkeypatch.setenv("DRIFTWARDEN_AUDIT_DIR", str(tmp_path / "file"))
    assert run(["halt", "--reason", "smoke"]) == 1
    assert (home / "HALT").exists()
    assert "the halt is in force, and the audit log does not tell of it" in capsys.readouterr().err


@pytest.mark.parametrize("command", [["serve"], ["halt", "--reason", "smoke"]])
def test_a_state_folder_that_is_a_file(
    tmp_path: Path, home: Path, capsys: pytest.CaptureFixture[str], command: list[str]
) -> None:
    """One line, never a traceback."""
    home.touch()
    assert run(command) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert str(home) in said
