"""Records in a real Redis."""

from typing import Any

import pytest
import redis

from driftwarden.contracts.ports import RecordStore
from driftwarden.errors import Retry
from driftwarden.knowledge import MemoryRecordStore, RedisRecordStore


@pytest.fixture(params=["memory", "redis", "redis-decoding"])
def store(request: pytest.FixtureRequest, client: Any, redis_socket: str) -> RecordStore:
    """Each kind of store."""
    if request.param == "memory":
        return MemoryRecordStore()
    if request.param == "redis":
        return RedisRecordStore(client, "driftwarden:knowledge")
    return RedisRecordStore(redis.Redis(unix_socket_path=redis_socket, decode_responses=True), "driftwarden:knowledge")


def test_records_come_back_in_order_and_the_last_word_counts(store: RecordStore) -> None:
    """Stored twice is stored once, and every text survives."""
    store.put("b", {"text": "first"})
    store.put("a", {"text": "é \ud800 \x00", "gain": 0.25, "helped": None})
    store.put("b", {"text": "second"})
    assert list(store.all()) == [
        ("a", {"text": "é \ud800 \x00", "gain": 0.25, "helped": None}),
        ("b", {"text": "second"}),
    ]


def test_more_records_than_one_page(store: RecordStore) -> None:
    """Every record, once, in the order of the ids."""
    for number in range(3_000):
        store.put(f"incident:{number:05d}", {"number": number})
    assert [record["number"] for _, record in store.all()] == list(range(3_000))


def test_values_that_are_no_records_are_passed_over(client: Any, caplog: pytest.LogCaptureFixture) -> None:
    """What others wrote into the hash costs a warning."""
    for field, value in ((b"a", b"{"), (b"b", b"[]"), (b"c", b"\xff"), (b"d", b'{"x":NaN}'), (b"e", b'{"x":1}')):
        client.hset("driftwarden:knowledge", field, value)
    assert list(RedisRecordStore(client, "driftwarden:knowledge").all()) == [("e", {"x": 1})]
    assert caplog.text.count("passed over") == 4


def test_a_server_that_is_away_is_a_passing_fault(tmp_path: Any) -> None:
    """The caller is told to try again."""
    away = RedisRecordStore(redis.Redis(unix_socket_path=str(tmp_path / "none.sock"), retry=None), "k")
    with pytest.raises(Retry, match="not stored"):
        away.put("a", {})
    with pytest.raises(Retry, match="not read"):
        list(away.all())
