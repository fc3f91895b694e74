"""Rooms, links and package list agree, and the wheel that people install holds all of it and nothing else."""

import ensurepip
import importlib.util
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "driftwarden"
DATA_SUFFIXES = {".lua", ".md", ".yml", ".typed", ".html", ".css", ".json"}


def links() -> dict[str, Path]:
    """The rooms: each link below `driftwarden/` and the folder that it shows."""
    return {link.name: link.resolve() for link in PACKAGE.iterdir() if link.is_symlink()}


def folder_of(package: str, mapping: dict[str, str]) -> Path:
    """Where setuptools looks for a package: the longest mapped prefix, then the rest of the name."""
    parts = package.split(".")
    for length in range(len(parts), 0, -1):
        if (prefix := ".".join(parts[:length])) in mapping:
            return ROOT.joinpath(mapping[prefix], *parts[length:])
    raise AssertionError(f"{package} is below no mapped package")


def shipped_files() -> set[str]:
    """Every module and data file of the rooms, by its place in the wheel; `conf/local` is the user's."""
    found = set()
    for name, folder in {"": PACKAGE, **links()}.items():
        for path in folder.rglob("*"):
            inner = path.relative_to(folder)
            if "__pycache__" in inner.parts or not path.is_file() or (inner.parts[0] in links() and not name):
                continue
            if name == "conf" and inner.parts[0] == "local":
                continue
            if path.suffix == ".py" or path.suffix in DATA_SUFFIXES:
                found.add("/".join(("driftwarden", *((name,) if name else ()), *inner.parts)))
    return found


def test_every_link_is_a_room_and_every_room_is_linked(pyproject: dict[str, Any]) -> None:
    """Links are relative, lead to folders of the top level, and are just the mapped packages."""
    mapping = pyproject["tool"]["setuptools"]["package-dir"]
    rooms = {name.removeprefix("driftwarden."): place for name, place in mapping.items() if "." in name}
    assert {name: folder.relative_to(ROOT).as_posix() for name, folder in links().items()} == rooms
    for link in PACKAGE.iterdir():
        if link.is_symlink():
            assert link.readlink() == Path("..") / link.name


def test_every_folder_with_modules_is_listed(pyproject: dict[str, Any]) -> None:
    """A folder that the package list forgets would be missing in the wheel, and only there."""
    config = pyproject["tool"]["setuptools"]
    listed = {package: folder_of(package, config["package-dir"]) for package in config["packages"]}
    assert [package for package, folder in listed.items() if not folder.is_dir()] == []
    with_modules = {
        module.parent.resolve()
        for folder in (PACKAGE, *links().values())
        for module in folder.rglob("*.py")
        if "__pycache__" not in module.parts
    }
    assert with_modules - {folder.resolve() for folder in listed.values()} == set()


def test_the_linter_and_the_type_checker_know_the_rooms(pyproject: dict[str, Any]) -> None:
    """Each room is checked once, under its installed name by mypy, under its own by ruff."""
    excluded = set(pyproject["tool"]["ruff"]["extend-exclude"])
    assert excluded == {f"driftwarden/{name}" for name in links()}
    assert all(name in pyproject["tool"]["mypy"]["exclude"][1] for name in links() if name != "conf")


def test_the_wheel_is_whole(built: Any) -> None:
    """Every module and data file is in it, and its top level holds the package and its description only."""
    with zipfile.ZipFile(built.wheel) as wheel:
        names = {name for name in wheel.namelist() if not name.endswith("/")}
    top = {name.partition("/")[0] for name in names}
    assert top == {"driftwarden", next(name for name in top if name.endswith(".dist-info"))}
    inside = {name for name in names if name.startswith("driftwarden/")}
    assert shipped_files() - inside == set()
    assert inside - shipped_files() == set()
    for needed in ("py.typed", "stream/redrive.lua", "service/workflow/commit.lua", "conf/base/driftwarden/policy.yml"):
        assert f"driftwarden/{needed}" in inside
    assert sum(name.startswith("driftwarden/knowledge/runbooks/") for name in inside) >= 20


def test_the_source_distribution_builds(built: Any, pyproject: dict[str, Any]) -> None:
    """The wheel above was built from it; it also holds the licence and names no file of this machine."""
    with tarfile.open(built.sdist) as archive:
        members = archive.getmembers()
    names = {member.name.partition("/")[2] for member in members}
    assert {"pyproject.toml", "LICENSE", "service/cli/main.py", "driftwarden/contracts/event.py"} <= names
    assert not any(Path(member.name).is_absolute() or ".." in Path(member.name).parts for member in members)
    assert f"driftwarden-{pyproject['project']['version']}.tar.gz" == built.sdist.name


def _pip() -> tuple[list[str], dict[str, str]]:
    """Pip of this environment, else the one that comes with Python."""
    if importlib.util.find_spec("pip"):
        return [sys.executable, "-m", "pip"], {}
    bundled = sorted((Path(ensurepip.__file__).parent / "_bundled").glob("pip-*.whl"))
    if not bundled:
        pytest.skip("neither pip nor ensurepip's copy of it is here")
    return [sys.executable, "-m", "pip"], {"PYTHONPATH": str(bundled[-1])}


def test_the_installed_wheel_runs(built: Any, tmp_path: Path, run: Any) -> None:
    """In a folder of its own, far from this tree, it imports, names its version and is a Kedro plugin."""
    import os

    pip, environ = _pip()
    target = tmp_path / "site"
    command = [*pip, "install", "--quiet", "--no-deps", "--no-index", "--target", str(target), str(built.wheel)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, **environ})
    assert done.returncode == 0, done.stderr
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "import driftwarden, importlib.metadata as m\n"
        "from driftwarden.service.cli.main import run\n"
        "found = m.Distribution.discover(name='driftwarden', path=[sys.argv[1]])\n"
        "print(driftwarden.__file__)\n"
        "print([(e.group, e.name, e.value) for d in found for e in d.entry_points])\n"
        "from driftwarden.settings import load_settings\n"
        "print(load_settings({'DRIFTWARDEN_CONF': sys.argv[1]}).policy_path)\n"
        "sys.exit(run(['--version']))\n"
    )
    shown = run(code, str(target), cwd=tmp_path, DRIFTWARDEN_HOME=str(tmp_path / "nowhere"))
    assert shown.returncode == 0, shown.stderr
    where, entries, policy, version = shown.stdout.strip().splitlines()
    assert (where, policy) == (
        str(target / "driftwarden/__init__.py"),
        str(target / "driftwarden/conf/base/driftwarden/policy.yml"),
    )
    assert "('kedro.hooks', 'driftwarden', 'driftwarden.pipelines.hook:hooks')" in entries
    assert "('console_scripts', 'driftwarden', 'driftwarden.service.cli.main:main')" in entries
    assert version.endswith("0.1.0")
    assert not (tmp_path / "nowhere").exists()
