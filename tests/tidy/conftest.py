"""The project as its users get it: wheel and source distribution, built once a session from a copy of the tree."""

import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
LEFT_OUT = shutil.ignore_patterns(
    ".*", "__pycache__", "*.egg-info", "build", "dist", "local", "requirements", "tests", "mlruns"
)

Run = Callable[..., "subprocess.CompletedProcess[str]"]


class Built(NamedTuple):
    """The two archives."""

    wheel: Path
    sdist: Path


@pytest.fixture(scope="session")
def pyproject() -> dict[str, Any]:
    """The project's own description."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def _build(source: Path, target: Path) -> None:
    command = [sys.executable, "-m", "build", "--no-isolation", "--skip-dependency-check", "--outdir", str(target)]
    done = subprocess.run([*command, str(source)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """The wheel is built from the source distribution, as an installer would: what that one lacks, the wheel lacks."""
    folder = tmp_path_factory.mktemp("build")
    shutil.copytree(ROOT, folder / "tree", symlinks=True, ignore=LEFT_OUT)
    _build(folder / "tree", folder / "dist")
    (wheel,) = (folder / "dist").glob("*.whl")
    (sdist,) = (folder / "dist").glob("*.tar.gz")
    return Built(wheel, sdist)


@pytest.fixture
def run() -> Run:
    """Runs Python with code and arguments, apart from the user's environment: only PATH is kept, beside `environ`."""

    def start(
        code: str, *arguments: str, cwd: Path | None = None, **environ: str
    ) -> "subprocess.CompletedProcess[str]":
        env = {"PATH": os.environ["PATH"], "KEDRO_DISABLE_TELEMETRY": "1", "DO_NOT_TRACK": "true", **environ}
        command = [sys.executable, "-c", code, *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd, env=env)

    return start
