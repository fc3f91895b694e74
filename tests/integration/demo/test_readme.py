"""The README's commands and shown outputs, held against the program."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from .conftest import README, ROOT, blocks


@pytest.mark.parametrize("block", blocks("checked"))
def test_commands_print_what_the_readme_shows(block: str, tmp_path: Path) -> None:
    """Each `$ driftwarden ...` of a checked block is run, and prints the lines below it."""
    parts = re.split(r"^\$ driftwarden ", block, flags=re.MULTILINE)[1:]
    assert parts
    for part in parts:
        command, _, expected = part.partition("\n")
        done = subprocess.run(
            [sys.executable, "-m", "driftwarden.service.cli.main", *command.split()],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.stdout.strip() == expected.strip(), done.stderr


def test_every_command_that_is_named_exists() -> None:
    """`driftwarden X` in the README is a command of the program, with every option that is shown."""
    from driftwarden.service.cli.main import COMMANDS

    named = re.findall(r"driftwarden ([a-z][a-z-]+)", README)
    known = set(COMMANDS)
    words = {"in", "is", "repairs", "replays"}
    assert named
    assert {name for name in named if name not in words} <= known, sorted(set(named) - known)


def test_links_of_the_readme_lead_somewhere() -> None:
    """Every relative link names a file of the repository."""
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", README):
        assert (ROOT / target).exists(), target
