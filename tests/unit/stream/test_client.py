"""Addresses of Redis: the five kinds, and one line without secrets for anything else."""

import pytest
from redis import exceptions
from redis.backoff import NoBackoff

from driftwarden.errors import BadInput, Retry
from driftwarden.stream.client import (
    BLOCK_MS_MAX,
    SOCKET_TIMEOUT_S,
    connect,
    patiently,
    redact_url,
    redis_errors,
)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://user:secret@host:6379/0", "redis://user:***@host:6379/0"),
        ("rediss://:secret@host", "rediss://:***@host"),
        ("redis+sentinel://u:secret@a:1,b:2/service", "redis+sentinel://u:***@a:1,b:2/service"),
        ("redis://host", "redis://host"),
        ("unix:///a/b.sock", "unix:///a/b.sock"),
    ],
)
def test_a_password_is_never_shown(url: str, shown: str) -> None:
    """What messages show of an address."""
    assert redact_url(url) == shown


def test_a_client_repeats_nothing_by_itself() -> None:
    """No retries below us, explicit time-outs above the longest blocking read, a bounded pool."""
    client = connect("rediss://user:secret@host:6390/3", check=False)
    options = client.connection_pool.connection_kwargs
    assert options["retry"]._retries == 0
    assert isinstance(options["retry"]._backoff, NoBackoff)
    assert options["socket_timeout"] == SOCKET_TIMEOUT_S > BLOCK_MS_MAX / 1000
    assert options["socket_connect_timeout"] > 0
    assert (options["host"], options["port"], options["db"], options["username"]) == ("host", 6390, 3, "user")
    assert client.connection_pool.max_connections < 1000


def test_a_socket_with_odd_characters() -> None:
    """The path is percent-decoded."""
    client = connect("unix:///a%20b/c%23d.sock", check=False)
    assert client.connection_pool.connection_kwargs["path"] == "/a b/c#d.sock"


def test_a_sentinel_address() -> None:
    """Hosts separated by commas, the service, the database; credentials go to the server."""
    client = connect("redis+sentinel://u:p%40@one:1,two,[::1]:3/main/2", check=False)
    pool = client.connection_pool
    assert pool.service_name == "main"
    nodes = [s.connection_pool.connection_kwargs for s in pool.sentinel_manager.sentinels]
    assert [(node["host"], node["port"]) for node in nodes] == [("one", 1), ("two", 26379), ("::1", 3)]
    assert all(node["retry"]._retries == 0 for node in nodes)
    assert (pool.connection_kwargs["password"], pool.connection_kwargs["db"]) == ("p@", 2)


@pytest.mark.parametrize(
    "url",
    [
        "http://user:secret@host",
        "host:6379",
        "redis://user:secret@host:port",
        "redis://user:secret@host:99999999",
        "redis://host/zero",
        "redis://host/0?socket_timeout=0",
        "redis://host?protocol=3",
        "unix://",
        "redis+sentinel://user:secret@host:26379",
        "redis+sentinel://user:secret@host:26379/service/x",
        "redis+sentinel://a b/service",
        "redis+cluster://user:secret@a:x,b:1",
        "",
    ],
)
def test_a_wrong_address_is_one_line(url: str) -> None:
    """What was got and expected, and no password."""
    with pytest.raises(BadInput) as error:
        connect(url)
    assert "secret" not in error.value.diagnostics()
    assert "expected" in error.value.diagnostics()


def test_a_server_that_is_away_may_come_back() -> None:
    """Retry, with the address and without the password."""
    for url in ("redis://user:secret@127.0.0.1:1", "unix:///absent.sock", "redis+cluster://user:secret@127.0.0.1:1"):
        with pytest.raises(Retry) as error:
            connect(url)
        assert "secret" not in error.value.diagnostics()


@pytest.mark.parametrize(
    ("raised", "expected", "said"),
    [
        (exceptions.AuthenticationError("wrong"), BadInput, "refuses the user or the password"),
        (exceptions.ResponseError("WRONGPASS no"), BadInput, "refuses the user or the password"),
        (exceptions.ResponseError("MISCONF disk full"), Retry, "cannot answer now"),
        (exceptions.ReadOnlyError("replica"), Retry, "cannot answer now"),
        (exceptions.BusyLoadingError("loading"), Retry, "away"),
        (exceptions.ResponseError("ERR unknown command"), BadInput, "refuses the request"),
        (exceptions.ResponseError("CROSSSLOT keys"), BadInput, "hash tag"),
        (exceptions.TimeoutError("late"), Retry, "away"),
        (exceptions.MaxConnectionsError("too many"), Retry, "away"),
        (ConnectionResetError("gone"), Retry, "away"),
        (Retry("ours"), Retry, "ours"),
    ],
)
def test_errors_are_named_by_what_to_do_next(raised: Exception, expected: type[Exception], said: str) -> None:
    """Passing faults are Retry, wrong requests BadInput, ours stay as they are."""
    with pytest.raises(expected, match=said), redis_errors("redis://u:secret@h"):
        raise raised


def test_patience_ends() -> None:
    """An idempotent call is made again until it works, or time is up; a wrong one is made once."""
    calls: list[int] = []

    def second_time() -> str:
        calls.append(1)
        if len(calls) < 2:
            raise exceptions.ConnectionError("away")
        return "done"

    assert patiently(second_time) == "done"
    assert len(calls) == 2

    def wrong() -> None:
        calls.append(1)
        raise exceptions.ResponseError("ERR no")

    with pytest.raises(BadInput):
        patiently(wrong)
    assert len(calls) == 3

    def away() -> None:
        raise exceptions.ConnectionError("away")

    with pytest.raises(Retry, match="away"):
        patiently(away, for_s=0.0)
