"""The intake against a real server: what can be read is handed out until it is settled, the rest becomes dead letters."""

import json
from typing import Any

import pytest
from redis import Redis

from driftwarden.contracts.event import EVENT_BYTES_MAX
from driftwarden.errors import BadInput, NotFound
from driftwarden.stream.dead_letters import DeadLetters
from driftwarden.stream.intake import GROUP, Intake, Rejection
from driftwarden.stream.publisher import Publisher, build_event

EVENTS, LETTERS = "driftwarden:events", "driftwarden:dead-letters"


def event(number: int = 1, **changes: Any) -> dict[str, Any]:
    """A drift event that can be read."""
    return build_event({"model": "m", "kind": "data_drift"}, source="test", id=str(number)) | changes


def raw(document: Any) -> bytes:
    """Its bytes."""
    return json.dumps(document).encode()


def settle(client: Redis, entry_id: str) -> None:
    """What the script that admits an event does to its entry."""
    client.xack(EVENTS, GROUP, entry_id)
    client.xdel(EVENTS, entry_id)


WRONG = {
    "not JSON": (b"{", "event", "JSON"),
    "not UTF-8": (b'{"id":"\xff"}', "event", "UTF-8 text"),
    "duplicate key": (b'{"id":"1","id":"2"}', "id", "each key once"),
    "NaN": (
        raw(event(data={"model": "m", "kind": "data_drift", "drift_share": float("nan")})),
        "data.drift_share",
        "a finite number",
    ),
    "no object": (b"[1]", "event", "a JSON object"),
    "missing field": (raw({k: v for k, v in event().items() if k != "id"}), "id", "the field to be there"),
    "no model": (raw(event(data={"kind": "data_drift"})), "data.model", "the field to be there"),
    "wrong type": (raw(event(data={"model": "m", "kind": "data_drift", "columns": 3})), "data.columns", "a list"),
    "out of range": (
        raw(event(data={"model": "m", "kind": "data_drift", "drift_share": 2.0})),
        "data.drift_share",
        "1",
    ),
    "unknown type": (raw(event(type="io.driftwarden.other.v1")), "type", "io.driftwarden.drift.v1"),
    "no zone": (raw(event(time="2026-11-20T00:00:00")), "time", "with a zone"),
    "too large": (b'{"x":"' + b"a" * (EVENT_BYTES_MAX + 1 - 8) + b'"}', "event", str(EVENT_BYTES_MAX)),
    "a lone surrogate": (raw(event(source="\ud800")), "source", "without lone surrogates"),
    "a lone surrogate in a column": (
        raw(event(data={"model": "m", "kind": "data_drift", "columns": [{"name": "\ud800"}]})),
        "data.columns.0.name",
        "without lone surrogates",
    ),
    "a lone surrogate in what is carried along": (
        raw(event(data={"model": "m", "kind": "data_drift", "upstream": ["a", "\udfff"]})),
        "data.upstream.1",
        "without lone surrogates",
    ),
    "a lone surrogate in a name": (
        raw(event(data={"model": "m", "kind": "data_drift", "x": {"\ud83d": 1}})),
        "data.x.?",
        "without lone surrogates",
    ),
    "deeply nested": (b"[" * 100_000, "event", "levels"),
}


def test_a_character_that_is_escaped_as_two_is_one(client: Redis) -> None:
    """As many producers write what is beyond the basic plane."""
    content = raw(event(data={"model": "m", "kind": "data_drift", "columns": [{"name": "\U0001f321"}]}))
    assert b"\\ud83c" in content
    client.xadd(EVENTS, {"event": content})
    (delivery,) = Intake(client, "w").read(10)
    assert [column.name for column in delivery.event.data.columns] == ["\U0001f321"]


@pytest.mark.parametrize("name", WRONG)
def test_each_kind_that_cannot_be_read_becomes_a_dead_letter(client: Redis, name: str) -> None:
    """The letter names the field, what was got and what was expected, keeps the bytes, and the stream goes on."""
    content, field, expected = WRONG[name]
    client.xadd(EVENTS, {"event": content})
    client.xadd(EVENTS, {"event": raw(event(7))})
    deliveries = Intake(client, "w").read(10)
    assert [delivery.event.id for delivery in deliveries] == ["7"]
    (letter,) = DeadLetters(client).list()
    assert letter.field == field
    assert expected in (letter.expected or "")
    assert letter.got
    assert "\n" not in letter.reason
    assert letter.raw == content
    assert letter.deliveries == 1
    assert client.xlen(EVENTS) == 1


def test_an_event_of_the_largest_size_is_read(client: Redis) -> None:
    """1 MiB is not too much."""
    document = raw(event(data={"model": "m", "kind": "data_drift", "report_uri": ""}))
    content = document.replace(b'"report_uri": ""', b'"report_uri": "%s"' % (b"x" * (EVENT_BYTES_MAX - len(document))))
    assert len(content) == EVENT_BYTES_MAX
    client.xadd(EVENTS, {"event": content})
    assert len(Intake(client, "w").read(10)) == 1


@pytest.mark.parametrize(
    "fields",
    [
        [b"other", raw(event())],
        [b"event", raw(event()), b"more", b"\xff"],
        [b"event", raw(event(1)), b"event", raw(event(2))],
        [b"Event", raw(event())],
        [part for number in range(1500) for part in (b"%d" % number, b"x" * (number % 7))],
    ],
    ids=["no event", "extra field", "event twice", "wrong case", "many fields"],
)
def test_an_entry_of_another_shape_is_kept_whole(client: Redis, fields: list[bytes]) -> None:
    """One field `event` is the contract; anything else is a dead letter that holds all fields, and goes back as it came."""
    client.execute_command("XADD", EVENTS, "*", *fields)
    assert Intake(client, "w").read(10) == []
    (letter,) = DeadLetters(client).list()
    assert [part for pair in letter.fields for part in pair] == fields
    assert "one field, `event`" in (letter.expected or "")
    DeadLetters(client).redrive(letter.id)
    reply = client.execute_command("XRANGE" + " " + EVENTS, "-", "+")
    assert reply[0][1] == fields


def test_the_json_form_of_a_letter(client: Redis) -> None:
    """The fields of the contract; the identity where it can be read."""
    client.xadd(EVENTS, {"event": raw(event(5, specversion="2"))})
    Intake(client, "w").read(1)
    (letter,) = DeadLetters(client).list()
    document = letter.to_json()
    assert document["event"] == {"source": "test", "id": "5"}
    assert document["field"] == "specversion"
    assert document["got"] == "2"
    assert document["deliveries"] == 1
    assert document["at"].endswith("Z")
    assert set(document) >= {"id", "reason", "expected"}
    assert letter.to_json(whole=True)["entry"][0][0] == "event"


def test_redriving_twice_is_once(client: Redis) -> None:
    """The letter stays and says what became of it; unreadable as it is, it becomes a second letter."""
    client.xadd(EVENTS, {"event": b"\xff" * 3})
    intake, letters = Intake(client, "w"), DeadLetters(client)
    intake.read(1)
    (letter,) = letters.list()
    _, entry, before = letters.redrive(letter.id)
    assert letters.redrive(letter.id[:-1])[1:] == (entry, True)
    assert before is False
    assert client.xlen(EVENTS) == 1
    assert intake.read(1) == []
    assert [one.redriven_as for one in letters.list()] == [None, entry]
    with pytest.raises(BadInput, match="a longer prefix: 2"):
        letters.show(letter.id[:3])
    with pytest.raises(NotFound):
        letters.show("9-9")


def test_letters_are_listed_newest_first_in_any_number(client: Redis) -> None:
    """Paging shows every letter once."""
    for number in range(120):
        client.xadd(EVENTS, {"event": b"%d" % number})
    Intake(client, "w").read(200)
    letters = DeadLetters(client)
    assert [int(one.raw) for one in letters.list()] == list(range(119, -1, -1))
    assert [int(one.raw) for one in letters.list(limit=60)] == list(range(119, 59, -1))


def test_burial_is_announced_first(client: Redis) -> None:
    """Whoever records dead letters is told before one is written; where that fails, none is written."""
    client.xadd(EVENTS, {"event": b"{}"})
    told: list[Rejection] = []

    def refuse(rejection: Rejection) -> None:
        told.append(rejection)
        raise RuntimeError("the log is full")

    with pytest.raises(RuntimeError):
        Intake(client, "w", before_burial=refuse).read(1)
    assert client.xlen(LETTERS) == 0
    assert Intake(client, "w", before_burial=told.append).read(1) == []
    assert client.xlen(LETTERS) == 1
    assert told[0] == told[1]


def test_what_was_not_admitted_comes_again(client: Redis) -> None:
    """A worker of the same name gets its entries again, another one after the idle time, a third nothing."""
    client.xadd(EVENTS, {"event": raw(event())})
    (first,) = Intake(client, "a").read(5)
    assert Intake(client, "b").read(5) == []
    (again,) = Intake(client, "a").read(5)
    assert again.entry_id == first.entry_id
    (taken,) = Intake(client, "b", reclaim_after_ms=0).read(5)
    assert taken.entry_id == first.entry_id
    settle(client, taken.entry_id)
    assert Intake(client, "c", reclaim_after_ms=0).read(5) == []
    assert Intake(client, "a").read(5) == []


def test_the_dead_are_found_behind_many_living(client: Redis) -> None:
    """A sweep follows the cursor past a hundred entries that are in good hands."""
    for number in range(120):
        client.xadd(EVENTS, {"event": raw(event(number))})
    deliveries = Intake(client, "alive").read(120)
    last = deliveries[-1].entry_id
    client.execute_command("XCLAIM", EVENTS, GROUP, "dead", 0, last, "IDLE", 3_600_000)
    (found,) = Intake(client, "b", reclaim_after_ms=60_000).read(120)
    assert found.entry_id == last


def test_a_pending_entry_that_was_deleted_is_dropped(client: Redis) -> None:
    """Ghosts (nil entries of Redis 6.2) neither stop a sweep nor stay pending."""
    ghost = client.xadd(EVENTS, {"event": raw(event(1))})
    client.xadd(EVENTS, {"event": raw(event(2))})
    Intake(client, "a").read(5)
    client.xdel(EVENTS, ghost)
    (found,) = Intake(client, "b", reclaim_after_ms=0).read(5)
    assert found.event.id == "2"
    settle(client, found.entry_id)
    assert client.xpending(EVENTS, GROUP)["pending"] == 0

    ghost = client.xadd(EVENTS, {"event": raw(event(3))})
    Intake(client, "a").read(5)
    client.xdel(EVENTS, ghost)
    assert Intake(client, "a").read(5) == []
    assert client.xpending(EVENTS, GROUP)["pending"] == 0


def test_events_before_the_first_worker_count(client: Redis) -> None:
    """The group starts at the beginning of the stream; a destroyed group or a flushed server does not end the reading."""
    client.xadd(EVENTS, {"event": raw(event(1))})
    intake = Intake(client, "w")
    assert [delivery.event.id for delivery in intake.read(5)] == ["1"]
    client.xgroup_destroy(EVENTS, GROUP)
    assert [delivery.event.id for delivery in intake.read(5)] == ["1"]
    client.flushall()
    assert intake.read(5) == []
    client.xadd(EVENTS, {"event": raw(event(2))})
    assert [delivery.event.id for delivery in intake.read(5)] == ["2"]


def test_a_worker_takes_no_more_than_its_free_slots(client: Redis) -> None:
    """COUNT is what the worker can hold; the rest is for others."""
    for number in range(5):
        client.xadd(EVENTS, {"event": raw(event(number))})
    assert len(Intake(client, "a").read(2)) == 2
    assert len(Intake(client, "b").read(10)) == 3
    assert Intake(client, "c").read(0) == []


def test_publishing(client: Redis, redis_url: str) -> None:
    """The publisher checks first, and publishes one entry with one field."""
    with Publisher(redis_url, prefix="other:") as publisher:
        entry = publisher.publish(event(1))
        with pytest.raises(BadInput, match=r"data\.kind"):
            publisher.publish(event(2, data={"model": "m", "kind": "nothing"}))
        text = json.dumps(event(3), indent=1)
        publisher.publish(text)
    found: Any = client.xrange("other:events")
    assert found[0][0].decode() == entry
    assert list(found[0][1]) == [b"event"]
    assert found[1][1][b"event"].decode() == text
    assert len(found) == 2
