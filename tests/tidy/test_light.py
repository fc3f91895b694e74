"""A light install stays light: what a user's pipeline imports, what a quick command loads, what a missing part says."""

import json
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
HEAVY = {
    "alembic", "chromadb", "cryptography", "evidently", "google", "httpx", "kedro_datasets", "langfuse", "matplotlib",
    "mlflow", "numpy", "opentelemetry", "pandas", "plotly", "pyarrow", "redis", "scipy", "sklearn", "skops", "sqlalchemy",
}  # fmt: skip
KEDRO_ALLOWED = ("kedro", "kedro.framework", "kedro.utils")
LOADED = "\nimport json, sys\nprint('LOADED ' + json.dumps(sorted(sys.modules)))"
# Kedro's own hook marker is what a plugin must import; the rest of Kedro is not.
BLOCKED = """
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition('.')[0] in set(sys.argv[1].split(',')):
            raise ModuleNotFoundError(f'No module named {name!r}', name=name)
sys.meta_path.insert(0, Blocker())
from driftwarden.service.cli.main import run
sys.exit(run(sys.argv[2:]))
"""


def loaded(done: Any) -> set[str]:
    """Modules that the process had loaded at its end."""
    line = next(line for line in done.stdout.splitlines() if line.startswith("LOADED "))
    return set(json.loads(line.removeprefix("LOADED ")))


def heavy(modules: set[str]) -> set[str]:
    """The heavy ones among them."""
    return {name.partition(".")[0] for name in modules} & HEAVY


def test_importing_the_package_loads_nothing_heavy(run: Any) -> None:
    """`import driftwarden` and its event model cost neither Redis nor tables."""
    done = run("import driftwarden; driftwarden.parse_event" + LOADED)
    assert done.returncode == 0, done.stderr
    assert heavy(loaded(done)) == set()
    assert not {name for name in loaded(done) if name.partition(".")[0] == "kedro"}


def test_importing_the_hook_loads_of_kedro_the_hooks_only(run: Any) -> None:
    """Every Kedro command imports the hook: no data sets, no runner, no Redis come with it."""
    done = run("import driftwarden.pipelines.hook" + LOADED)
    assert done.returncode == 0, done.stderr
    assert heavy(loaded(done)) == set()
    kedro = {name for name in loaded(done) if name.partition(".")[0] == "kedro"}
    assert {
        name for name in kedro if name not in KEDRO_ALLOWED and not name.startswith("kedro.framework.hooks")
    } == set()


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["--version"],
        ["policy", "--help"],
        ["policy", "check", str(ROOT / "conf/base/driftwarden/policy.yml")],
        ["audit", "verify", "--help"],
    ],
    ids=" ".join,
)
def test_a_quick_command_loads_nothing_heavy(run: Any, tmp_path: Path, arguments: list[str]) -> None:
    """The bound on processor time, held by what costs it: modules."""
    code = f"from driftwarden.service.cli.main import run\ncode = run({arguments!r})" + LOADED + "\nsys.exit(code)"
    done = run(code, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert heavy(loaded(done)) == set()
    assert "kedro" not in loaded(done)


@pytest.mark.parametrize(
    ("missing", "arguments", "part"),
    [
        ("pandas,numpy,pyarrow", ["monitor", "--model", "m", "--reference", "r.csv", "--current", "r.csv"], "monitor"),
        ("chromadb", ["knowledge", "search", "unit change"], "service"),
        (
            "mlflow,sqlalchemy",
            [
                *[
                    "models",
                    "register",
                    "m",
                    "--data",
                    "r.csv",
                    "--target",
                    "b",
                    "--task",
                    "regression",
                    "--metric",
                    "r2",
                ]
            ],
            "service",
        ),
        ("google,mlflow,chromadb,pandas", ["serve"], ""),
        ("google,mlflow,chromadb,pandas", ["demo"], ""),
    ],
    ids=["monitor", "knowledge", "models", "serve", "demo"],
)
def test_a_part_that_is_missing_is_named(
    run: Any, tmp_path: Path, missing: str, arguments: list[str], part: str
) -> None:
    """One line with the extra to install, exit code 2, no traceback."""
    rows = "".join(f"{n},{n % 7}\n" for n in range(400))
    (tmp_path / "r.csv").write_text("a,b\n" + rows, encoding="utf-8")
    done = run(BLOCKED, missing, *arguments, cwd=tmp_path, DRIFTWARDEN_HOME=str(tmp_path / "state"))
    assert done.returncode == 2, done.stdout + done.stderr
    line = done.stderr.strip().splitlines()[-1]
    assert f"this needs `driftwarden[{part}" in line
    assert "Traceback" not in done.stderr
