"""Backup and restore, as an operator does them: while the service works, after the machine is lost, and with bad input."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from fakes.workflow_world import World

from driftwarden.audit import verify
from driftwarden.clock import SystemClock
from driftwarden.errors import BadInput
from driftwarden.service.backup import back_up
from driftwarden.service.backup import restore as put_back
from driftwarden.service.cli.main import run
from driftwarden.settings import load_settings
from driftwarden.stream.client import connect
from driftwarden.stream.embedded import EmbeddedRedis


def test_work_goes_on_from_a_backup_that_was_taken_while_it_went_on(tmp_path: Path) -> None:
    """What came between the copy of Redis and that of the log is not done twice; what the copies hold is walked on."""
    home, copy = tmp_path / "home", tmp_path / "copy"
    home.mkdir()
    with EmbeddedRedis.acquire(home) as server:
        client = connect(server.url)
        world = World(home, client, models=("before", "between", "waiting"))
        world.send(world.event("before", id="before"))
        world.run()
        world.send(world.event("between", id="between"))
        world.take_in()
        world.send(world.event("waiting", id="waiting"))

        def meanwhile(part: str) -> None:
            if part == "registry and files":  # Redis is copied, the log is not yet
                assert world.worker().work_once()

        manifest = back_up(world.settings, client, copy, SystemClock(), meanwhile)
        assert world.store.list(model="between")[0].state == "verifying"
        plant, settings = world.plant, world.settings
        world.log.close()
        client.close()
    # Redis 6.2 keeps one file, Redis 7 a folder.
    assert manifest["files"].keys() & {"redis/appendonly.aof", "redis/appendonlydir/appendonly.aof.manifest"}
    assert [model for model, *_ in plant.moves] == ["before", "between"]

    home.rename(tmp_path / "lost")
    put_back(settings, copy)
    assert verify(settings.audit_dir).ok
    shutil.rmtree(home / "data")
    with EmbeddedRedis.acquire(home) as server:
        client = connect(server.url)
        again = World(home, client, models=("before", "between", "waiting"))
        again.plant.champions, again.plant.versions = plant.champions, plant.versions
        again.plant.done, again.plant.moves = plant.done, plant.moves
        assert {one.model: one.state.value for one in again.incidents()}["before"] == "verifying"
        again.restart()
        states = {one.model: one.state.value for one in again.incidents()}
        assert states == {"before": "verifying", "waiting": "verifying", "between": "failed"}
        assert "audit log" in str(next(one for one in again.incidents() if one.model == "between").problem)
        assert [model for model, *_ in plant.moves] == ["before", "between", "waiting"], "each effect once"
        again.log.close()
        client.close()


@pytest.mark.parametrize("name", ["audit", "aaa", "var/log", "audit/new", "demo"])
def test_the_log_is_copied_last_wherever_it_lies(tmp_path: Path, name: str) -> None:
    """What happened while the rest was copied is known to it; an earlier folder of the usual name is copied too."""
    home = tmp_path / "home"
    for folder in (home / name, home / "zzz", home / "audit"):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "a.jsonl").write_text("before\n")
    settings = load_settings({"DRIFTWARDEN_HOME": str(home), "DRIFTWARDEN_AUDIT_DIR": str(home / name)}, tmp_path)

    def meanwhile(part: str) -> None:
        if part == "audit log":
            (home / name / "a.jsonl").write_text("before\nafter\n")

    manifest = back_up(settings, None, tmp_path / "copy", SystemClock(), meanwhile)
    assert manifest["audit"] == "here"
    assert [*manifest["files"]][-1] == f"{name}/a.jsonl"
    assert {*manifest["files"]} == {f"{one}/a.jsonl" for one in (name, "zzz", "audit")}
    assert (tmp_path / "copy" / "files" / name / "a.jsonl").read_text() == "before\nafter\n"


def test_a_log_that_is_the_state_folder_itself_is_refused(tmp_path: Path) -> None:
    """Nothing could be copied after it."""
    (tmp_path / "home").mkdir()
    home = str(tmp_path / "home")
    settings = load_settings({"DRIFTWARDEN_HOME": home, "DRIFTWARDEN_AUDIT_DIR": home}, tmp_path)
    with pytest.raises(BadInput, match="audit folder"):
        back_up(settings, None, tmp_path / "copy", SystemClock())


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with one registered model, a runbook of its own and an event that waits."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DRIFTWARDEN_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("DRIFTWARDEN_CONF", str(tmp_path / "conf"))
    monkeypatch.delenv("DRIFTWARDEN_REDIS_URL", raising=False)
    rows = "\n".join(f"{row},{row % 2}" for row in range(300))
    (tmp_path / "rows.csv").write_text(f"x,y\n{rows}\n")
    (tmp_path / "own.md").write_text(
        "---\nid: pump-seal\ntitle: Pump seal swaps two sensors\nroot_causes: [swapped_columns]\n"
        "actions: [quarantine_data]\n---\n# Pump seal\n\nAfter a seal is changed, two sensors are exchanged.\n"
    )
    return tmp_path


def answers(capsys: pytest.CaptureFixture[str], *commands: tuple[str, ...]) -> list[str]:
    """What each command prints; each must succeed."""
    found = []
    for command in commands:
        capsys.readouterr()
        assert run(list(command)) == 0, capsys.readouterr().err
        found.append(capsys.readouterr().out)
    return found


def test_registry_log_events_and_keys_come_back(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The machine is lost: from the backup alone, the same answers as before, and the champion's model loads."""
    asked = ["--data", "rows.csv", "--target", "y", "--task", "classification", "--metric", "accuracy"]
    assert run(["models", "register", "tiny", *asked]) == 0
    event = {
        "specversion": "1.0", "id": "1", "source": "t", "type": "io.driftwarden.drift.v1", "time": "2026-11-20T09:00:00Z",
        "data": {"model": "tiny", "kind": "data_drift"},
    }  # fmt: skip
    (project / "event.json").write_text(json.dumps(event))
    assert run(["emit", "event.json"]) == 0
    asks = (("models", "show", "tiny", "--json"), ("audit", "verify", "--json"))
    before = answers(capsys, *asks)
    assert run(["backup", str(project / "copy")]) == 0
    assert "files in" in capsys.readouterr().err
    secrets = [file for file in (project / "copy").rglob("*") if file.stat().st_mode & 0o077]
    assert secrets == [], "a backup holds keys: nobody else may read it"

    assert run(["down"]) == 0
    (project / "home").rename(project / "lost")
    assert run(["restore", str(project / "copy")]) == 0
    assert "next: driftwarden audit verify" in capsys.readouterr().err
    assert answers(capsys, *asks) == before
    for name in ("keys/audit.key", "keys/state.key"):
        kept, again = project / "lost" / name, project / "home" / name
        assert kept.exists() == again.exists()
        if kept.exists():
            assert (again.read_bytes(), again.stat().st_mode & 0o777) == (kept.read_bytes(), 0o600)
    from driftwarden.actions.registry import MlflowRegistry
    from driftwarden.settings import load_settings

    settings = load_settings()
    registry = MlflowRegistry(settings.tracking_uri, settings.artifact_root)
    assert registry.champion(settings.watched("tiny")) == 1
    with EmbeddedRedis.acquire(settings.home) as server:
        client = connect(server.url)
        assert client.xlen("driftwarden:events") == 1, "the event that waited still waits"
        client.close()


def refused(capsys: pytest.CaptureFixture[str], *command: str) -> str:
    """The one line of a request that was wrong."""
    capsys.readouterr()
    assert run(list(command)) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()[-1:]
    return line


def test_bad_input_is_one_line_and_nothing_is_overwritten(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """No state, a target in use, a copy that was changed, a folder that is no backup, another path."""
    copy, home = project / "copy", project / "home"
    assert run(["emit", "--help"]) == 0
    home.mkdir()
    (home / "kept.txt").write_text("state")
    (home / "mlflow").mkdir()
    assert "a folder outside" in refused(capsys, "backup", str(home / "copy"))
    (project / "used").mkdir()
    (project / "used" / "x").write_text("")
    assert "an empty one, or none" in refused(capsys, "backup", str(project / "used"))
    assert run(["backup", str(copy)]) == 0
    assert "an empty one, or none" in refused(capsys, "restore", str(copy))
    assert "manifest.json" in refused(capsys, "restore", str(project / "used"))
    assert run(["down"]) == 0
    home.rename(project / "moved")
    kept = copy / "files" / "kept.txt"
    kept.write_text("statf")
    assert "`kept.txt` is not what was copied" in refused(capsys, "restore", str(copy))
    assert not home.exists() or not any(home.iterdir())
    kept.unlink()
    kept.symlink_to(project / "rows.csv")
    assert "`kept.txt` is not what was copied" in refused(capsys, "restore", str(copy))
    manifest = json.loads((copy / "manifest.json").read_text())
    for name in ("../evil", "/etc/evil", "a/../../evil", "./x"):
        (copy / "manifest.json").write_text(json.dumps(manifest | {"files": {name: "0" * 64}}))
        assert "names below the state folder" in refused(capsys, "restore", str(copy))
    for wrong in ([], {}, {"format": 2}, manifest | {"files": []}, manifest | {"home": 1}):
        (copy / "manifest.json").write_text(json.dumps(wrong))
        assert "driftwarden backup" in refused(capsys, "restore", str(copy))


def test_a_file_that_is_gone_is_left_out_and_a_broken_one_is_named(
    world: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The service works on while it is copied: what it sends or removes meanwhile stops no backup; what is broken does."""
    (tmp_path / "spool").mkdir()
    (tmp_path / "spool" / "1.json").write_text("sent")
    (tmp_path / "spool" / "2.json").write_text("waits")
    (tmp_path / "broken.db").write_text("this is no database, whatever its name says")
    with pytest.raises(BadInput, match="expected a SQLite database"):
        back_up(world.settings, None, tmp_path.parent / f"{tmp_path.name}-broken", SystemClock())
    (tmp_path / "broken.db").unlink()
    copyfile = shutil.copyfile

    def send_first(source: Path, copy: Path) -> object:
        if source.name == "1.json":
            source.unlink()
        return copyfile(source, copy)

    monkeypatch.setattr(shutil, "copyfile", send_first)
    target = tmp_path.parent / f"{tmp_path.name}-gone"
    files = back_up(world.settings, None, target, SystemClock())["files"]
    assert {name for name in files if name.startswith("spool/")} == {"spool/2.json"}
    assert not (target / "files" / "spool" / "1.json").exists()


def test_it_is_restored_where_the_registry_says_its_files_are(world: Any, tmp_path: Path) -> None:
    """Entries of the local registry name files by their path: another path would be a registry without models."""
    back_up(world.settings, None, tmp_path.parent / f"{tmp_path.name}-copy", SystemClock())
    elsewhere = world.settings.model_copy(update={"home": tmp_path.parent / "elsewhere"})
    with pytest.raises(BadInput, match="the registry's entries name files below it"):
        put_back(elsewhere, tmp_path.parent / f"{tmp_path.name}-copy")


def test_what_goes_wrong_while_it_is_put_back_is_one_line(
    world: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that changes after it was compared is not written; a full disk is said as such."""
    copy = tmp_path.parent / f"{tmp_path.name}-copy"
    (tmp_path / "kept.txt").write_text("state")
    world.log.close()
    back_up(world.settings, None, copy, SystemClock())
    shutil.rmtree(tmp_path)

    def meanwhile(part: str) -> None:
        if part == "copying":
            (copy / "files" / "kept.txt").write_text("statf")

    with pytest.raises(BadInput, match=r"`kept.txt` changed meanwhile"):
        put_back(world.settings, copy, meanwhile)
    assert not (tmp_path / "kept.txt").exists()
    (copy / "files" / "kept.txt").write_text("state")
    shutil.rmtree(tmp_path)

    def full(*args: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("driftwarden.service.backup._write", full)
    with pytest.raises(BadInput, match="state folder"):
        put_back(world.settings, copy)
