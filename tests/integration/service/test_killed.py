"""Processes killed with SIGKILL around a real effect: Kedro, MLflow, Redis and the audit log agree on exactly one."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import redis

sys.path.insert(0, str(Path(__file__).parent))

from stack import Stack

from driftwarden.audit import verify
from driftwarden.service.state_key import open_seal
from driftwarden.service.workflow.ledger import Ledger
from driftwarden.service.workflow.store import WorkflowStore
from driftwarden.settings import load_settings
from driftwarden.stream.embedded import EmbeddedRedis

# After the challenger was trained; after the alias moved, before anybody was told; after everything, before the commit.
POINTS = ("trained", "moved", "stepped:executing")


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Stack:
    """A registered model."""
    stack = Stack(tmp_path_factory.mktemp("killed"), lease_s=1)  # each heir waits for the end of the lease before it
    stack.register()
    return stack


def start(stack: Stack, point: str) -> tuple[int, str]:
    """Run the service until it is at rest or dead; its exit code, and the last it said."""
    driver = Path(__file__).parent / "driver.py"
    done = subprocess.run(
        [sys.executable, str(driver), point], env=stack.environ, cwd=stack.folder, capture_output=True, text=True
    )
    return done.returncode, done.stderr[-2000:]


def test_one_effect_whatever_was_killed(stack: Stack) -> None:
    """The same incident is killed at three points in turn; the fourth process finishes it, and it was done once."""
    with EmbeddedRedis.acquire(stack.home) as server:
        client = redis.Redis.from_url(server.url)
        event = stack.event("drift", stack.window(1, flipped=True), day=10)
        client.xadd("driftwarden:events", {"event": json.dumps(event)})
        for point in POINTS:
            code, said = start(stack, point)
            assert code == -signal.SIGKILL, f"{point}: {said}"
        code, said = start(stack, "-")
        assert code == 0, said
        (incident,) = WorkflowStore(client).list()
        (entry,) = Ledger(client, "driftwarden:", open_seal(load_settings(stack.environ))).entries().values()
        client.close()
    assert incident.state == "verifying"
    assert (entry["state"], entry["cost"]) == ("done", 1_000_000)

    from mlflow import MlflowClient

    from driftwarden.actions.registry import KEY_TAG

    registry = MlflowClient(load_settings(stack.environ).tracking_uri)
    versions = registry.search_model_versions("name='tiny'")
    keys = [version.tags[KEY_TAG] for version in versions]
    assert len(keys) == len(set(keys)) == 3, "the first champion, the challenger that was compared, its refit"
    champion = int(registry.get_model_version_by_alias("tiny", "champion").version)

    assert verify(stack.home / "audit").ok
    records = [one for one in stack.records() if one["incident"] == incident.id]
    results = [one for one in records if one["type"] == "result" and not one["body"].get("cancelled")]
    assert {one["body"]["after"] for one in results} == {champion}
    assert {one["body"]["idempotency_key"] for one in results} == {incident.doc["intent"]["idempotency_key"]}
    intents = sorted(one["@hash"] for one in records if one["type"] == "intent")
    told = sorted(one["causation"] for one in records if one["type"] == "result")
    assert told == intents, "each intent has its one result, also those that were intended anew"
