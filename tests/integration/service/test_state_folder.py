"""The state folder is closed to other accounts from its first moment, whoever makes it."""

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from driftwarden.actions.notify import FileNotifier
from driftwarden.actions.registry import first_open as registry_opened
from driftwarden.clock import SystemClock
from driftwarden.keyfile import create_once
from driftwarden.pipelines.registry import first_open as tracking_opened
from driftwarden.service.cli.disk import state_folder
from driftwarden.service.demo import demo_home
from driftwarden.settings import load_settings
from driftwarden.stream.embedded import EmbeddedRedis
from driftwarden.stream.publisher import build_event, checked
from driftwarden.stream.spool import Spool

ROOT = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def careless() -> Iterator[None]:
    """Of a person whose files everybody may read and write."""
    before = os.umask(0)
    yield
    os.umask(before)


def redis(home: Path) -> None:
    with EmbeddedRedis.acquire(home):
        pass


def mlflow(home: Path) -> None:
    with registry_opened(f"sqlite:///{home}/mlflow/mlflow.db"):
        pass


def tracking(home: Path) -> None:
    with tracking_opened(f"sqlite:///{home}/mlflow/mlflow.db"):
        pass


def spool(home: Path) -> None:
    Spool(home).put(checked(build_event({"model": "m", "kind": "data_drift"}, source="t")))


def notifier(home: Path) -> None:
    FileNotifier(home / "notifications.jsonl", SystemClock()).notify("s", "b", key="k", fields={})


def key(home: Path) -> None:
    create_once(home / "keys" / "state.key", "secret")
    assert (home / "keys" / "state.key").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("first", [redis, mlflow, tracking, spool, notifier, key])
def test_whoever_comes_first_makes_it_closed(tmp_path: Path, first: Callable[[Path], None]) -> None:
    """0750, whatever the umask of the account; one that was there is left as it is, and `doctor` says so."""
    home = tmp_path / "home"
    first(home)
    assert home.stat().st_mode & 0o777 == 0o750
    (check,) = state_folder(load_settings({"DRIFTWARDEN_HOME": str(home)}, tmp_path))
    assert check.state == "ok"
    home.chmod(0o755)
    first(home)
    assert home.stat().st_mode & 0o777 == 0o755
    (check,) = state_folder(load_settings({"DRIFTWARDEN_HOME": str(home)}, tmp_path))
    assert (check.state, check.mend) == ("warning", f"chmod o-rwx {home}")


def test_the_demo_s_folder_too(tmp_path: Path) -> None:
    """And the one above it, where it is made with it."""
    home = demo_home(None, tmp_path)
    assert [folder.stat().st_mode & 0o777 for folder in (home, home.parent)] == [0o750, 0o750]


def test_nobody_makes_a_folder_with_its_parents_by_other_means() -> None:
    """Only where it is not below the state folder: configuration, a report's or a benchmark's own place."""
    elsewhere = {
        "service/signing/roster.py", "service/cli/approvers.py", "service/signing/keys.py", "service/registering.py",
        "service/bench_path.py", "service/bench_remediation.py", "service/bench_throughput.py", "service/backup.py",
        "driftwarden/telemetry.py", "driftwarden/stream/embedded.py", "pipelines/publication.py", "service/stage.py",
        "service/demo.py",
    }  # fmt: skip
    rooms = ("driftwarden", "service", "agents", "policies", "audit", "knowledge", "actions", "pipelines")
    made = re.compile(r"\.mkdir\([^)]*parents=True")
    found = {
        str(file.relative_to(ROOT))
        for room in rooms
        for file in (ROOT / room).rglob("*.py")
        if made.search(file.read_text(encoding="utf-8"))
    }
    assert found <= elsewhere
