"""What a Redis promises of its writes is read from the server, and `doctor` says what may be lost."""

from pathlib import Path
from typing import Any

import pytest
from fakes.redis_server import RedisServer, in_step, replica_of, until

from driftwarden.service.bootstrap import read_settings
from driftwarden.service.cli.doctor import _redis
from driftwarden.service.durability import promises
from driftwarden.stream.client import connect, patiently

ALWAYS = ("--appendonly", "yes", "--appendfsync", "always")


@pytest.mark.parametrize(
    ("arguments", "state", "said"),
    [
        (ALWAYS, "ok", "what it answers is on disk"),
        (("--appendonly", "yes"), "warning", "appendfsync everysec: a loss of power loses about a second"),
        (("--appendonly", "yes", "--appendfsync", "no"), "warning", "many seconds"),
        ((), "warning", "a restart loses them"),
        ((*ALWAYS, "--maxmemory-policy", "allkeys-lru"), "warning", "would throw state away"),
        ((*ALWAYS, "--maxmemory-policy", "allkeys-lru", "--maxmemory", "100mb"), "fault", "throws state away"),
        ((*ALWAYS, "--rename-command", "CONFIG", ""), "warning", "CONFIG GET is refused"),
    ],
)
def test_what_may_be_lost_is_told(tmp_path: Path, arguments: tuple[str, ...], state: str, said: str) -> None:
    """The settings that decide, one after the other, on a real server."""
    with RedisServer(tmp_path / "r", *arguments) as server:
        client = server.client()
        (promise,) = promises(client)
        client.close()
    assert promise.state == state
    assert said in promise.detail
    assert bool(promise.mend) is (state != "ok")


def test_replicas_that_nobody_waits_for_and_a_replica_itself(tmp_path: Path) -> None:
    """A failover may lose what no replica had; a replica's address takes no write at all."""
    with RedisServer(tmp_path / "a", *ALWAYS) as master, replica_of(master, tmp_path / "b", *ALWAYS) as replica:
        here, there = master.client(), replica.client()
        until(lambda: in_step(there), what="replication")
        (promise,) = promises(here)
        assert (promise.state, "a failover may lose writes" in promise.detail) == ("warning", True)
        here.config_set("min-replicas-to-write", 1)
        assert [one.state for one in promises(here)] == ["ok"]
        (promise,) = promises(there)
        assert (promise.state, "a replica" in promise.detail) == ("fault", True)
        here.close()
        there.close()


def test_a_cluster_answers_by_one_of_its_nodes(tmp_path: Path) -> None:
    """Its nodes are configured alike."""
    with RedisServer(tmp_path / "c", "--cluster-enabled", "yes", "--appendonly", "yes") as node:
        straight: Any = node.client()
        straight.execute_command("CLUSTER ADDSLOTS", *range(16384))
        until(lambda: straight.execute_command("CLUSTER INFO")["cluster_state"] == "ok", what="the cluster")
        client = patiently(lambda: connect(f"redis+cluster://127.0.0.1:{node.port}"))
        (promise,) = promises(client)
        client.close()
        straight.close()
    assert "everysec" in promise.detail


def test_doctor_tells_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The check stands beside that of the server, with the mend."""
    monkeypatch.setenv("DRIFTWARDEN_HOME", str(tmp_path))
    with RedisServer(tmp_path / "r", "--appendonly", "yes") as server:
        monkeypatch.setenv("DRIFTWARDEN_REDIS_URL", server.url)
        reached, promised = _redis(read_settings())
    assert (reached.state, promised.name, promised.state) == ("ok", "redis durability", "warning")
    assert "appendfsync always" in promised.mend
