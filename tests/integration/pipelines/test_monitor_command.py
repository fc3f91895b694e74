"""`driftwarden monitor`, as a person or a scheduler calls it."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from fakes.warm import warm

from driftwarden.contracts.event import DriftEvent, parse_event
from driftwarden.stream.client import connect
from driftwarden.stream.embedded import EmbeddedRedis

PRELOAD = ("pandas", "redis", "evidently.metrics", "driftwarden.pipelines.monitoring")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for name, shift in (("reference", 0), ("same", 0), ("moved", 3)):
        pd.DataFrame({"heat": rng.normal(shift, 1, 400), "fails": rng.integers(0, 2, 400)}).to_csv(
            tmp_path / f"{name}.csv", index=False
        )
    return tmp_path


Monitor = Callable[..., "subprocess.CompletedProcess[str]"]
COMMAND = ["monitor", "--model", "factory"]


def environment(folder: Path, **more: str) -> dict[str, str]:
    """With a state folder of the test's own."""
    return {**os.environ, "DRIFTWARDEN_HOME": str(folder / "state"), **more}


@pytest.fixture(scope="module")
def monitor(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Monitor]:
    """The command in a process of its own that has Evidently in memory."""
    with warm(tmp_path_factory.mktemp("warm"), "driftwarden.service.cli.main:main", preload=PRELOAD) as command:
        yield lambda folder, *arguments, **more: command.run(
            ["driftwarden", *COMMAND, *arguments], cwd=folder, environ=environment(folder, **more)
        )


def spooled(folder: Path) -> list[DriftEvent]:
    """What waits in the state folder's spool, compact JSON as the command prints it indented."""
    files = sorted((folder / "state" / "spool").glob("*.json"))
    return [parse_event(json.dumps(json.loads(file.read_bytes()))) for file in files]


def test_what_drifted_is_published_and_printed(folder: Path) -> None:
    """The event on the stream is the event that is printed, in a process that has just been started."""
    with EmbeddedRedis.acquire(folder / "redis") as server:
        files = ("--reference", "reference.csv", "--current", "moved.csv", "--target", "fails", "--json")
        command = [sys.executable, "-m", "driftwarden.service.cli.main", *COMMAND, *files]
        environ = environment(folder, DRIFTWARDEN_REDIS_URL=server.url)
        done = subprocess.run(
            command, cwd=folder, env=environ, capture_output=True, text=True, timeout=800, check=False
        )
        assert done.returncode == 0, done.stderr
        client = connect(server.url)
        ((_, fields),) = client.xrange("driftwarden:events")
        client.close()
    assert json.loads(fields[b"event"]) == json.loads(done.stdout)
    assert parse_event(fields[b"event"]).kind == "data_drift"
    assert "published as" in done.stderr


def test_while_redis_is_away_the_event_waits_in_the_spool(monitor: Monitor, folder: Path) -> None:
    """Kept is not published: exit code 1, and words; the next call publishes it first, or keeps nothing where told so."""
    files = ("--reference", "reference.csv", "--current", "moved.csv", "--json")
    kept = monitor(folder, *files, DRIFTWARDEN_REDIS_URL="redis://127.0.0.1:1")
    assert kept.returncode == 1, kept.stderr
    assert "kept in the spool, not published: redis is away" in kept.stderr
    assert [one.raw for one in spooled(folder)] == [parse_event(json.dumps(json.loads(kept.stdout))).raw]
    lost = monitor(folder, *files, "--no-spool", DRIFTWARDEN_REDIS_URL="redis://127.0.0.1:1")
    assert lost.returncode == 1
    assert "redis is away" in lost.stderr
    assert len(spooled(folder)) == 1
    with EmbeddedRedis.acquire(folder / "redis") as server:
        done = monitor(folder, *files, DRIFTWARDEN_REDIS_URL=server.url)
        assert done.returncode == 0, done.stderr
        client = connect(server.url)
        entries: Any = client.xrange("driftwarden:events")
        client.close()
    ids = [json.loads(one.stdout)["id"] for one in (kept, done)]
    assert [parse_event(fields[b"event"]).id for _, fields in entries] == ids
    assert spooled(folder) == []


def test_no_emit_only_prints_the_event(monitor: Monitor, folder: Path) -> None:
    """No server is needed, or started."""
    done = monitor(folder, "--reference", "reference.csv", "--current", "moved.csv", "--no-emit")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["data"]["columns"][0]["drifted"] is True
    assert not (folder / "state").exists()


def test_nothing_drifted_is_no_event(monitor: Monitor, folder: Path) -> None:
    """Exit code 0, null on standard output, and a word for people."""
    done = monitor(folder, "--reference", "reference.csv", "--current", "same.csv", "--no-emit", "--json")
    assert (done.returncode, done.stdout.strip()) == (0, "null")
    assert "nothing drifted" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--reference", "reference.csv", "--current", "absent.csv"), "no such file"),
        (("--reference", "reference.csv", "--current", "same.csv", "--target", "gone"), "got `gone`"),
        (("--reference", "reference.csv", "--current", "same.csv", "--model", "a b"), "--model"),
    ],
)
def test_a_wrong_request_is_one_line_and_exit_code_2(
    monitor: Monitor, folder: Path, arguments: tuple[str, ...], said: str
) -> None:
    """No traceback for what a user did."""
    done = monitor(folder, *arguments, "--no-emit")
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
