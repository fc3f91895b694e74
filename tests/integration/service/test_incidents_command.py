"""`driftwarden incidents`: any unambiguous prefix serves, and a record of another version is one line."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from redis import Redis

from driftwarden.clock import SystemClock, rfc3339
from driftwarden.contracts.event import parse_event
from driftwarden.service.cli.main import run
from driftwarden.service.workflow.store import WorkflowStore
from driftwarden.stream.client import connect
from driftwarden.stream.embedded import EmbeddedRedis
from driftwarden.stream.publisher import build_event


@pytest.fixture
def client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Redis]:
    """A server of this test's own, which the commands find as configured."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DRIFTWARDEN_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("DRIFTWARDEN_CONF", str(tmp_path / "conf"))
    with EmbeddedRedis.acquire(tmp_path / "redis") as server:
        monkeypatch.setenv("DRIFTWARDEN_REDIS_URL", server.url)
        client = connect(server.url)
        yield client
        client.close()


def opened(client: Redis, number: int, model: str) -> str:
    """The id of an incident that an event opens."""
    event = parse_event(json.dumps(build_event({"model": model, "kind": "data_drift"}, source="t", id=f"e{number}")))
    admitted = WorkflowStore(client).admit(f"{number}-0", event, now=rfc3339(SystemClock().now()))
    assert admitted.incident is not None
    return admitted.incident


def test_any_prefix_of_the_only_incident_serves(client: Redis, capsys: pytest.CaptureFixture[str]) -> None:
    """From its first letter on; nothing at all is no prefix."""
    id = opened(client, 1, "a")
    for prefix in ("i", "inc", "inc-", id[:7], id):
        assert run(["incidents", "show", prefix, "--json"]) == 0, prefix
        assert json.loads(capsys.readouterr().out)["id"] == id
    for wrong in ("", "inx", id + "0"):
        assert run(["incidents", "show", wrong]) == 2
        assert f"no such incident, got `{wrong}`" in capsys.readouterr().err


def test_an_ambiguous_prefix_names_two_that_fit(client: Redis, capsys: pytest.CaptureFixture[str]) -> None:
    """The person sees what to type more of."""
    ids = sorted([opened(client, 1, "a"), opened(client, 2, "b")])
    assert run(["incidents", "show", "inc"]) == 2
    said = capsys.readouterr().err
    assert all(id in said for id in ids)
    assert "a longer prefix" in said


def test_a_record_of_another_version_is_said_in_one_line(client: Redis, capsys: pytest.CaptureFixture[str]) -> None:
    """During an upgrade, one version of the command meets what another version of the service wrote."""
    id = opened(client, 1, "a")
    client.hset(f"driftwarden:wf:{id}", "doc", json.dumps({"from_the_future": 1}))
    assert run(["incidents", "list"]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert said.startswith(f"driftwarden: incident {id}, got `a record whose")
