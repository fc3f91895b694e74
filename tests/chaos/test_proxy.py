"""The proxy does to connections what it says, and nothing else."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import redis
from chaos.proxy import ProxyProcess
from chaos.server import Server
from fakes.redis_server import until

from driftwarden.stream.client import connect, patiently


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server of its own."""
    server = Server(tmp_path_factory.mktemp("proxy-redis"))
    yield server
    server.kill()


@pytest.fixture
def direct(server: Server) -> Iterator[Any]:
    """A client past the proxy, of an empty server that runs."""
    if not server.runs:
        server.start()
    client = server.wait()
    client.flushall()
    yield client
    client.close()


@pytest.fixture
def proxy(server: Server, direct: Any) -> Iterator[ProxyProcess]:
    """A calm proxy."""
    with ProxyProcess(server.port, "seed") as proxy:
        yield proxy


@pytest.fixture
def client(proxy: ProxyProcess) -> Iterator[Any]:
    """A client through the proxy, of one connection, which repeats nothing by itself."""
    client = connect(f"redis://127.0.0.1:{proxy.port}", timeout_s=60)
    yield client
    client.close()


def test_calm_it_passes_everything_on(proxy: ProxyProcess, client: Any, direct: Any) -> None:
    """Also what is longer than a chunk."""
    value = b"x" * 300_000
    client.set("k", value)
    assert client.get("k") == direct.get("k") == value
    assert proxy.tell("look") == {
        "accepted": 1, "refused": 0, "cut": 0, "dropped": 0, "torn": 0, "silenced": 0, "delayed": 0, "open": 1,
    }  # fmt: skip


def test_a_reply_is_swallowed_after_its_command_was_executed(proxy: ProxyProcess, client: Any, direct: Any) -> None:
    """Once each; the connection goes with it, and the next one is as good as any."""
    proxy.tell("drop", 2)
    for count in (1, 2):
        with pytest.raises(redis.ConnectionError):
            client.incr("k")
        assert int(direct.get("k")) == count
    assert client.incr("k") == 3
    assert proxy.tell("look")["dropped"] == 2


def test_a_read_that_waited_in_vain_uses_up_no_loss(proxy: ProxyProcess, client: Any) -> None:
    """What is lost is an answer that says something."""
    proxy.tell("drop", 1)
    assert client.execute_command("XREAD", "BLOCK", 1, "STREAMS", "s", "0") in (None, [], {})
    assert proxy.tell("look")["dropped"] == 0


def test_a_reply_breaks_off_in_the_middle(proxy: ProxyProcess, client: Any, direct: Any) -> None:
    """Half of an answer is no answer."""
    direct.set("k", b"0123456789" * 10)
    proxy.tell("tear", 1)
    with pytest.raises(redis.ConnectionError):
        client.get("k")
    assert client.get("k") == b"0123456789" * 10
    assert proxy.tell("look")["torn"] == 1


def test_open_connections_are_cut(proxy: ProxyProcess, client: Any) -> None:
    """All of them for a share of 1; new ones are made."""
    client.ping()
    assert proxy.tell("cut", 1.0)["cut"] == 1
    assert proxy.tell("look")["open"] == 0
    assert client.ping()  # it was not under way: the client sees that its connection is gone
    told = proxy.tell("cut", 0.0)
    assert (told["cut"], told["accepted"], told["open"]) == (1, 2, 1)


def test_whoever_waits_on_a_connection_that_is_cut_hears_of_it(proxy: ProxyProcess, direct: Any) -> None:
    """At once, not after its time-out."""
    client = connect(f"redis://127.0.0.1:{proxy.port}", timeout_s=300)
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(client.execute_command, "BLPOP", "list", "300")
        while not _blocked(direct):
            assert not waiting.done()
        proxy.tell("cut", 1.0)
        with pytest.raises(redis.ConnectionError, match=r"reset|closed"):
            waiting.result()


def _blocked(direct: Any) -> int:
    return int(direct.info("clients")["blocked_clients"])


def test_in_silence_connections_are_accepted_and_never_answered(proxy: ProxyProcess, direct: Any) -> None:
    """An old and a new one alike; nothing of it ever reaches the server."""
    url = f"redis://127.0.0.1:{proxy.port}"
    impatient = patiently(lambda: connect(url, timeout_s=1))
    before = proxy.tell("silence")["accepted"]
    for _ in range(2):  # the first time on the connection that was open
        with pytest.raises(redis.TimeoutError):
            impatient.set("k", "v")
    until(lambda: proxy.tell("look")["accepted"] == before + 1, what="the second connection")
    proxy.tell("calm")
    connect(url, timeout_s=60).set("other", "v")
    assert direct.get("k") is None
    impatient.close()


def test_chunks_are_delayed_and_arrive(proxy: ProxyProcess, client: Any) -> None:
    """Request and answer each wait."""
    proxy.tell("delay", 0.02)
    client.set("k", "v")
    assert client.get("k") == b"v"
    assert proxy.tell("delay", 0.0)["delayed"] >= 4


def test_a_server_that_is_down_is_down_through_it_too(
    server: Server, proxy: ProxyProcess, client: Any, direct: Any
) -> None:
    """It comes back on what it had answered, under the same address."""
    client.set("k", "v")
    server.kill()
    with pytest.raises(redis.ConnectionError):
        client.get("k")
    with pytest.raises(redis.ConnectionError):
        client.get("k")
    assert proxy.tell("look")["refused"] >= 1
    server.start()
    server.wait().close()
    assert _again(lambda: client.get("k")) == b"v"


def _again(ask: Callable[[], Any]) -> Any:
    """Once more after a connection that had died unseen."""
    try:
        return ask()
    except redis.ConnectionError:
        return ask()


def test_a_server_keeps_its_port_and_its_data(tmp_path: Path) -> None:
    """SIGKILL takes nothing of what was answered."""
    server = Server(tmp_path)
    try:
        client = server.wait()
        for number in range(50):
            client.rpush("list", number)
        server.kill()
        assert not server.runs
        server.start()
        assert server.wait().llen("list") == 50
    finally:
        server.kill()
