"""Our own source, held to what the project promises of it."""

import ast
import functools
import importlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest

ROOT = Path(__file__).parents[2]
ROOMS = ("driftwarden", "service", "agents", "policies", "audit", "knowledge", "actions", "pipelines")
LINES_MAX = 400

# Modules that may be longer, each with its reason.
LONG = {
    "driftwarden.service.cli.audit": "one command group, one file: eight commands, each parse, call, print",
}

# Modules that no other module of ours imports: who does.
IMPORTED_FROM_OUTSIDE = {
    "driftwarden.testing": "tests, ours and the users'",
    "driftwarden.service.cli.main": "the console script",
    "driftwarden.pipelines.hook": "Kedro's entry point",
    "driftwarden.pipelines.settings": "Kedro, by its convention",
    "driftwarden.pipelines.pipeline_registry": "Kedro, by its convention",
    "driftwarden.pipelines.run_project": "the interpreter of a user's project, as source",
}

# Put together here, so that this file does not hold them.
MARKERS = re.compile(
    "|".join(("TO" + "DO", "FIX" + "ME", "X" * 3, "HA" + "CK", "NotImplemented" + "Error", "<<<" + "<<<<"))
)
MACHINE_PATH = re.compile(r"(?<![\w.])/(work|tmp|root|opt|home/\w+|Users/\w+)/\w")
ADDRESS = re.compile(r"https?://|file:|--(extra-)?index-url|--find-links|--trusted-host|\s@\s")


@functools.cache
def sources() -> dict[str, Path]:
    """Every module of the product by its installed name."""
    found = {}
    for room in ROOMS:
        for path in sorted((ROOT / room).rglob("*.py")):
            inner = path.relative_to(ROOT)
            if any(parent.is_symlink() for parent in path.parents) or "__pycache__" in inner.parts:
                continue
            parts = (
                inner.with_suffix("").parts if room == "driftwarden" else ("driftwarden", *inner.with_suffix("").parts)
            )
            found[".".join(parts).removesuffix(".__init__")] = path
    return found


@functools.cache
def tree(path: Path) -> ast.Module:
    """The parsed module."""
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def committed_texts() -> Iterator[Path]:
    """Every text that belongs to the project, tests and documents included."""
    for room in (*ROOMS, "conf", "docs", "tests", "scripts", "requirements", ".ci"):
        for path in (ROOT / room).rglob("*"):
            linked = any(parent.is_symlink() for parent in (path, *path.parents))
            if path.is_file() and not linked and "__pycache__" not in path.parts and "local" not in path.parts:
                yield path
    for name in ("Makefile", "pyproject.toml", ".gitignore", "README.md", "CONTRIBUTING.md", "CHANGELOG.md"):
        if (ROOT / name).is_file():
            yield ROOT / name


def found_in(pattern: re.Pattern[str], paths: Iterator[Path]) -> list[str]:
    """Each line that holds the pattern, as `file:line: text`."""
    return [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()[:100]}"
        for path in paths
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if pattern.search(line)
    ]


def test_modules_are_short() -> None:
    """No module is over 400 lines without a reason in the table, and no reason outlives its cause."""
    lengths = {name: len(path.read_text(encoding="utf-8").splitlines()) for name, path in sources().items()}
    long = {name: lines for name, lines in lengths.items() if lines > LINES_MAX}
    assert {name: lines for name, lines in long.items() if name not in LONG} == {}
    assert set(LONG) - set(long) == set()


def test_only_the_command_line_prints() -> None:
    """Everything else returns, logs or raises."""
    prints = [
        f"{name}:{node.lineno}"
        for name, path in sources().items()
        if not name.startswith("driftwarden.service.cli")
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
    ]
    assert prints == []


def test_nothing_is_left_to_be_done_later() -> None:
    """No marker of unfinished work."""
    assert found_in(MARKERS, committed_texts()) == []


def test_no_path_of_a_machine() -> None:
    """What is committed works on any machine; tests may name files that nobody opens."""
    texts = (path for path in committed_texts() if "tests" not in path.relative_to(ROOT).parts)
    assert found_in(MACHINE_PATH, texts) == []


def _undocumented(node: Any, prefix: str) -> Iterator[str]:
    for child in node.body:
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and not child.name.startswith("_"):
            if ast.get_docstring(child) is None:
                yield f"{prefix}.{child.name}"
            if isinstance(child, ast.ClassDef):
                yield from _undocumented(child, f"{prefix}.{child.name}")


def test_everything_public_is_documented() -> None:
    """Each module, and each public function, class and method, says what it is."""
    bare = [name for name, path in sources().items() if ast.get_docstring(tree(path)) is None]
    assert bare == []
    assert [what for name, path in sources().items() for what in _undocumented(tree(path), name)] == []


def _imported(path: Path) -> Iterator[str]:
    """Names that a module imports, or hands on as text (`driftwarden.service.tasks:measure`)."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield from re.findall(r"driftwarden(?:\.\w+)+", node.value)


def test_no_module_is_dead() -> None:
    """Every module is imported by another one, is a command, or is called from outside for a reason in the table."""
    from driftwarden.service.cli.bench import BENCHMARKS
    from driftwarden.service.cli.main import COMMANDS

    commands = [target for target, _ in (*COMMANDS.values(), *BENCHMARKS.values())]
    used = {f"driftwarden.service.cli.{target.partition(':')[0]}" for target in commands}
    for name, path in sources().items():
        used |= {target for target in _imported(path) if target != name}
    packages = {name for name, path in sources().items() if path.name == "__init__.py"}
    assert set(sources()) - used - packages - set(IMPORTED_FROM_OUTSIDE) == set()
    assert set(IMPORTED_FROM_OUTSIDE) - set(sources()) == set()


def _commands(command: click.Command, path: str) -> Iterator[tuple[str, click.Command]]:
    yield path, command
    if isinstance(command, click.Group):
        context = click.Context(command, info_name=path)
        for name in command.list_commands(context):
            inner = command.get_command(context, name)
            assert inner is not None, f"{path} {name}"
            yield from _commands(inner, f"{path} {name}")


def test_every_command_ends_its_help_with_an_example() -> None:
    """The last paragraph of each help text shows a call of that very command."""
    from driftwarden.service.cli.main import cli

    without = []
    for path, command in _commands(cli, "driftwarden"):
        last = re.split(r"\n\s*\n|\x08", (command.help or "").strip())[-1].strip()
        head, _, examples = last.partition("\n")
        calls = [line.strip() for line in examples.splitlines()]
        if head.strip() not in {"Example:", "Examples:"} or not any(f"{path} " in f"{call} " for call in calls):
            without.append(path)
    assert without == []


def test_commands_load_by_the_names_in_the_tables() -> None:
    """A lazy table that names what is not there would be found by a user first."""
    from driftwarden.service.cli.bench import BENCHMARKS
    from driftwarden.service.cli.main import COMMANDS

    for target, _ in (*COMMANDS.values(), *BENCHMARKS.values()):
        module, _, attribute = target.partition(":")
        assert isinstance(
            getattr(importlib.import_module(f"driftwarden.service.cli.{module}"), attribute), click.Command
        )


@pytest.mark.parametrize("name", ["light", "monitor", "service", "dev", "uv"])
def test_requirements_are_pinned_hashed_and_neutral(name: str) -> None:
    """Every requirement has one version and hashes; no index, address or path says where it came from."""
    text = (ROOT / "requirements" / f"{name}.txt").read_text(encoding="utf-8")
    assert ADDRESS.findall(text) == []
    entries = re.split(
        r"\n(?=[A-Za-z])", "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))
    )
    assert all(re.match(r"[\w.\-\[\],]+==[\w.+!]+ ", entry) and "--hash=sha256:" in entry for entry in entries)


def test_the_smaller_installs_are_parts_of_the_larger() -> None:
    """One version of a package in every lock."""
    pins = {
        name: set(re.findall(r"^([\w.-]+==[\w.+!]+)", (ROOT / f"requirements/{name}.txt").read_text(), re.MULTILINE))
        for name in ("light", "monitor", "service", "dev")
    }
    assert pins["light"] < pins["monitor"] < pins["service"] < pins["dev"]


def test_the_lock_follows_the_project(pyproject: dict[str, Any]) -> None:
    """Each direct dependency is locked, in a version that its own range allows."""
    from importlib.metadata import version

    from packaging.requirements import Requirement

    project = pyproject["project"]
    wanted = [*project["dependencies"], *(item for part in project["optional-dependencies"].values() for item in part)]
    locked = dict(re.findall(r"^([\w.-]+)==([\w.+!]+)", (ROOT / "requirements/dev.txt").read_text(), re.MULTILINE))
    for requirement in map(Requirement, wanted):
        name = requirement.name.lower()
        if name == project["name"]:
            continue
        assert locked.get(name, "nothing") in requirement.specifier, f"{requirement} is not locked: make lock"
        if requirement.marker is None or requirement.marker.evaluate():
            assert version(name) == locked[name], f"{name}: this environment is not the locked one (make setup)"


def test_the_changelog_keeps_to_its_form(pyproject: dict[str, Any]) -> None:
    """Keep a Changelog: Unreleased first, then versions with dates, newest first, in the known sections."""
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert text.startswith("# Changelog\n")
    headings = re.findall(r"^## (.*)$", text, re.MULTILINE)
    assert headings[0] == "[Unreleased]"
    versions = [re.fullmatch(r"\[(\d+)\.(\d+)\.(\d+)\] - \d{4}-\d{2}-\d{2}", heading) for heading in headings[1:]]
    assert all(versions)
    numbers = [tuple(map(int, match.groups())) for match in versions if match]
    assert numbers == sorted(numbers, reverse=True)
    assert pyproject["project"]["version"] in {".".join(map(str, number)) for number in numbers}
    sections = set(re.findall(r"^### (.*)$", text, re.MULTILINE))
    assert sections <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
