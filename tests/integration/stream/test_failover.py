"""Failover and lost replies, with real servers: nothing is executed twice unasked, and the client finds the new master."""

import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

sys.path.insert(0, str(Path(__file__).parents[2]))

from fakes.forwarder import Forwarder
from fakes.ports import free_port
from fakes.redis_server import RedisServer, in_step, replica_of, until

from driftwarden.contracts.event import parse_event
from driftwarden.errors import Retry
from driftwarden.service.workflow.store import WorkflowStore
from driftwarden.stream import client as clients
from driftwarden.stream.client import BLOCK_MS_MAX, SOCKET_TIMEOUT_S, connect, patiently, redis_errors
from driftwarden.stream.group import Group
from driftwarden.stream.intake import Intake
from driftwarden.stream.publisher import Publisher, build_event

NOW = "2026-11-20T09:00:00.000000Z"
LEASE_MS = 60_000
COUNT_UP = "return redis.call('INCR', KEYS[1])"


def drift(number: int) -> dict[str, Any]:
    """A drift event of a model of its own."""
    return build_event({"model": f"m{number}", "kind": "data_drift"}, source="s", id=str(number))


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[tuple[RedisServer, RedisServer]]:
    """A master, and a replica that has what it has."""
    with ExitStack() as stack:
        master = stack.enter_context(RedisServer(tmp_path / "a"))
        replica = stack.enter_context(replica_of(master, tmp_path / "b"))
        with replica.client() as client:
            until(lambda: in_step(client), what="replication")
        yield master, replica


def turn_round(old: RedisServer, new: RedisServer) -> None:
    """The replica becomes the master, and the master its replica."""
    with new.client() as there, old.client() as here:
        there.execute_command("REPLICAOF NO ONE")
        here.execute_command("REPLICAOF", "127.0.0.1", new.port)
        until(lambda: in_step(here), what="replication")


def commands(kind: str) -> Any:
    """A command, a script or a transaction that counts a key up."""
    if kind == "command":
        return lambda client: client.incr("lost-reply")
    if kind == "script":
        return lambda client: client.eval(COUNT_UP, 1, "lost-reply")

    def transaction(client: Any) -> Any:
        with client.pipeline(transaction=True) as pipe:
            return pipe.incr("lost-reply").execute()

    return transaction


@pytest.fixture(scope="module")
def lossy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Forwarder, dict[str, str], dict[str, Redis]]]:
    """Servers behind forwarders: addresses by kind, and clients that go straight to the servers."""
    folder = tmp_path_factory.mktemp("lossy")
    with ExitStack() as stack:
        plain = stack.enter_context(RedisServer(folder / "plain"))
        forwarder = stack.enter_context(Forwarder(plain.port))
        sentinel = RedisServer(folder / "sentinel", "--sentinel", conf=folder / "sentinel.conf")
        (folder / "sentinel.conf").write_text(f"sentinel monitor main 127.0.0.1 {forwarder.port} 1\n")
        stack.enter_context(sentinel)
        urls = {
            "redis": f"redis://127.0.0.1:{forwarder.port}",
            "sentinel": f"redis+sentinel://127.0.0.1:{sentinel.port}/main",
        }
        yield forwarder, urls, {name: plain.client() for name in urls}


@pytest.mark.parametrize("what", ["command", "script", "transaction"])
@pytest.mark.parametrize("kind", ["redis", "sentinel"])
def test_a_lost_reply_is_told_and_nothing_is_executed_again(
    lossy: tuple[Forwarder, dict[str, str], dict[str, Redis]], kind: str, what: str
) -> None:
    """The server executed it and the reply was cut off: once there, one Retry here; the next call works."""
    forwarder, urls, straight = lossy
    straight[kind].delete("lost-reply")
    client, call = patiently(lambda: connect(urls[kind])), commands(what)
    forwarder.lose, forwarder.lost = b"lost-reply", 0
    with pytest.raises(Retry, match="away"), redis_errors():
        call(client)
    forwarder.lose = None
    assert forwarder.lost == 1
    assert straight[kind].get("lost-reply") == b"1"
    call(client)
    assert straight[kind].get("lost-reply") == b"2"
    client.close()


def test_a_lost_reply_in_a_cluster(tmp_path: Path) -> None:
    """The cluster's client too executes once, and tells."""
    port = free_port()
    with (
        Forwarder(port) as forwarder,
        RedisServer(
            tmp_path / "c", "--cluster-enabled", "yes", "--cluster-announce-port", str(forwarder.port),
            "--cluster-announce-ip", "127.0.0.1", port=port,
        ) as node,
    ):  # fmt: skip
        straight: Any = node.client()
        straight.execute_command("CLUSTER ADDSLOTS", *range(16384))
        until(lambda: straight.execute_command("CLUSTER INFO")["cluster_state"] == "ok", what="the cluster")
        client = patiently(lambda: connect(f"redis+cluster://127.0.0.1:{forwarder.port}"))
        for expected, what in enumerate(("command", "script"), start=1):
            forwarder.lose, forwarder.lost = b"lost-reply", 0
            with pytest.raises(Retry), redis_errors():
                commands(what)(client)
            forwarder.lose = None
            assert forwarder.lost == 1
            assert straight.get("lost-reply") == str(expected).encode()
        client.close()
        straight.close()


def test_a_script_that_is_sent_again_after_a_lost_reply_has_its_effect_once(
    lossy: tuple[Forwarder, dict[str, str], dict[str, Redis]],
) -> None:
    """Admission, the claim and the commit each lose their reply: the same script and token go again, and find it done."""
    forwarder, urls, straight = lossy
    straight["redis"].flushall()
    client = connect(urls["redis"])
    store = WorkflowStore(client)

    def losing(call: Any) -> Any:
        forwarder.lose, forwarder.lost = b"EVALSHA", 0

        def stop() -> None:
            until(lambda: forwarder.lost, what="a lost reply")
            forwarder.lose = None

        thread = threading.Thread(target=stop)
        thread.start()
        try:
            return call()
        finally:
            thread.join()

    with Publisher(urls["redis"]) as publisher:
        publisher.publish(drift(1))
    (delivery,) = Intake(client, "w").read(1)
    admission = losing(lambda: store.admit(delivery.entry_id, delivery.event, now=NOW))
    held = losing(lambda: store.claim("w", block_ms=5, lease_ms=LEASE_MS))
    assert held is not None
    held = losing(lambda: store.commit(held, state="triaged", doc={"a": 1}, disposition="go", accepting=True))
    record = store.get(admission.incident)
    assert (record.state, record.version, len(store.list())) == ("triaged", 1, 1)
    assert store.counts() == {"triaged": 1}
    client.close()


def test_a_blocking_read_ends_before_the_socket_gives_up(tmp_path: Path) -> None:
    """However long a caller is ready to wait: the read returns with nothing, not with a time-out that strands entries."""
    assert BLOCK_MS_MAX / 1000 < SOCKET_TIMEOUT_S / 2
    with RedisServer(tmp_path / "r") as server:
        client = server.client()
        assert Group(client, "s", "g").fresh("w", count=1, block_ms=3_600_000) == []
        client.close()


@pytest.mark.parametrize("what", ["command", "script", "transaction"])
def test_a_demoted_master_is_left_for_the_new_one(pair: tuple[RedisServer, RedisServer], what: str) -> None:
    """The address leads to the new master for new connections only: READONLY ends the old ones, whatever met it first."""
    old, new = pair
    with Forwarder(old.port) as address:
        client: Any = connect(f"redis://127.0.0.1:{address.port}")
        call = commands(what)
        call(client)
        with new.client() as there:
            until(lambda: there.get("lost-reply") == b"1", what="replication")
        turn_round(old, new)
        address.target = new.port
        patiently(lambda: call(client))
        with new.client() as there:
            assert there.get("lost-reply") == b"2"
        assert client.info("server")["tcp_port"] == new.port
        client.close()


def test_a_blocked_reader_survives_the_demotion_of_its_server(pair: tuple[RedisServer, RedisServer]) -> None:
    """It is unblocked with an error while it waits, goes on at the new master, and gets what comes there."""
    old, new = pair
    with Forwarder(old.port) as address:
        url = f"redis://127.0.0.1:{address.port}"
        intake, found = Intake(connect(url), "w"), list[str]()
        assert intake.read(10) == []

        def read() -> None:
            while not found:
                found.extend(one.event.id for one in intake.read(10, block_ms=1000))

        with old.client() as here:
            reader = threading.Thread(target=read, daemon=True)
            reader.start()
            until(lambda: here.info("clients")["blocked_clients"] == 1, what="a blocked reader")
        address.target = new.port
        turn_round(old, new)
        with Publisher(url) as publisher:
            publisher.publish(drift(7))
        reader.join(120)
        assert found == ["7"]


def test_a_real_failover_by_the_sentinel(tmp_path: Path) -> None:
    """The store goes on with the new master in the middle of an incident: what was answered is there, once.

    The old master does not know yet that it was replaced; `min-replicas-to-write` keeps it from taking what it would lose.
    """
    with ExitStack() as stack:
        safe = ("--min-replicas-to-write", "1", "--repl-ping-replica-period", "1")
        master = stack.enter_context(RedisServer(tmp_path / "a", *safe))
        replica = stack.enter_context(replica_of(master, tmp_path / "b", *safe))
        with replica.client() as there:
            until(lambda: in_step(there), what="replication")
        conf = tmp_path / "sentinel.conf"
        conf.write_text(
            f"sentinel monitor main 127.0.0.1 {master.port} 1\n"
            "sentinel down-after-milliseconds main 2000\nsentinel failover-timeout main 20000\n"
        )
        watcher = stack.enter_context(RedisServer(tmp_path / "s", "--sentinel", conf=conf))
        url = f"redis+sentinel://127.0.0.1:{watcher.port}/main"
        client: Any = patiently(lambda: connect(url))
        store = WorkflowStore(client, retry_for_s=30)
        with Publisher(url) as publisher:
            publisher.publish(drift(1))
            (delivery,) = Intake(client, "w").read(1)
            store.admit(delivery.entry_id, delivery.event, now=NOW)
            held = store.claim("w", block_ms=5, lease_ms=LEASE_MS)
            assert held is not None
            asked = watcher.client()
            until(lambda: _fails_over(asked), what="a replica that the sentinel knows")
            until(
                lambda: int(asked.execute_command("SENTINEL GET-MASTER-ADDR-BY-NAME", "main")[1]) == replica.port,
                what="the failover",
            )
            held = store.commit(held, state="triaged", doc={}, disposition="go", accepting=True)
            assert (held.version, store.get(held.incident).state) == (1, "triaged")
            assert client.info("server")["tcp_port"] == replica.port
            publisher.publish(drift(2))
        with replica.client() as there:
            ids = [parse_event(fields[b"event"]).id for _, fields in there.xrange("driftwarden:events")]
        assert ids == ["2"], "the first was admitted, and is gone from the intake"
        asked.close()
        client.close()


def _fails_over(sentinel: Any) -> bool:
    from redis.exceptions import ResponseError

    try:
        sentinel.execute_command("SENTINEL FAILOVER", "main")
    except ResponseError as error:
        if "NOGOODSLAVE" not in str(error) and "INPROG" not in str(error):
            raise
        return "INPROG" in str(error)
    return True


def test_every_address_leaves_its_retries_to_us() -> None:
    """The notes' measurement as a rule: a client of any kind repeats nothing by itself."""
    for url in ("redis://127.0.0.1:1", "unix:///nowhere", "redis+sentinel://127.0.0.1:1/main"):
        made: Any = clients.connect(url, check=False)
        assert made.connection_pool.connection_kwargs["retry"].get_retries() == 0
