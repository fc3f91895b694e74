"""One whole demo, played once for every test here."""

import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[3]
README = (ROOT / "README.md").read_text(encoding="utf-8")
DEMO_S = 1000  # on a machine that is slow and busy


def blocks(marker: str) -> list[str]:
    """Code blocks below `<!-- marker -->`."""
    return re.findall(rf"<!-- {marker} -->\n```\w+\n(.*?)```", README, flags=re.DOTALL)


@dataclass(frozen=True)
class DemoRun:
    """What a demo printed, and where it played."""

    home: Path
    screen: str
    document: dict[str, Any]

    @property
    def environ(self) -> dict[str, str]:
        """The environment that the demo's last lines tell people to set."""
        return environ_of(self.home) | {"DRIFTWARDEN_CONF": str(self.home / "conf")}


def environ_of(home: Path) -> dict[str, str]:
    """This process's environment without any setting of driftwarden's, its state below `home`."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("DRIFTWARDEN_", "LANGFUSE_"))}
    return kept | {"DRIFTWARDEN_HOME": str(home), "NO_COLOR": "1"}


def run_demo(home: Path, *options: str, data: str | None = None) -> DemoRun:
    """Run `driftwarden demo --json`; its screen goes to standard error."""
    environ = environ_of(home) | ({"DRIFTWARDEN_DATA": data} if data else {})
    done = subprocess.run(
        [sys.executable, "-m", "driftwarden.service.cli.main", "demo", "--json", *options],
        env=environ,
        cwd=home.parent,
        capture_output=True,
        text=True,
        timeout=DEMO_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return DemoRun(home, done.stderr, json.loads(done.stdout))


@pytest.fixture(scope="session")
def factory(tmp_path_factory: pytest.TempPathFactory) -> DemoRun:
    """The demo as `make demo` plays it."""
    return run_demo(tmp_path_factory.mktemp("demo") / "state")
