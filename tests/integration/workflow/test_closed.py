"""Closed incidents leave Redis after their time, whole or not at all, against a real server."""

import json
from typing import Any

import pytest
from redis import Redis

from driftwarden.contracts.event import DriftEvent, parse_event
from driftwarden.errors import NotFound
from driftwarden.service.workflow.closed import Place, Remains
from driftwarden.service.workflow.store import Claim, WorkflowStore
from driftwarden.stream.publisher import build_event

LEASE_MS = 60_000
NOW = "2026-11-20T09:00:00.000000Z"
DAY_MS = 86_400_000


def drift(number: int, model: str) -> DriftEvent:
    """A drift event."""
    data = {"model": model, "kind": "data_drift"}
    return parse_event(json.dumps(build_event(data, source="closed", id=str(number), time=NOW)))


_entries = iter(range(1, 10**9))


def admit(store: WorkflowStore, number: int, model: str = "m", *groups: str) -> str:
    """Admit an event; the incident that it opened or joined."""
    return store.admit(f"1-{next(_entries)}", drift(number, model), now=NOW, groups=groups).incident


def claim(store: WorkflowStore) -> Claim:
    """Claim what must be there."""
    found = store.claim("w", block_ms=0, lease_ms=LEASE_MS)
    assert found is not None
    return found


def end(store: WorkflowStore, held: Claim, **more: Any) -> Claim:
    """Its end."""
    options: dict[str, Any] = {"state": "closed", "doc": {}, "accepting": False, "disposition": "finish"}
    return store.commit(held, **(options | more))


def closed(store: WorkflowStore, number: int, model: str = "m") -> str:
    """An incident that ended."""
    incident = admit(store, number, model)
    end(store, claim(store))
    return incident


def long_ago(client: Any, store: WorkflowStore, incident: str, days: float = 91) -> None:
    """As if it had been opened and ended then."""
    k = store.shards.of_incident(incident)
    then = int(client.time()[0] * 1000 - days * DAY_MS)
    client.hset(k.wf(incident), "updated", then)
    client.zadd(k.index, {incident: then}, xx=True)


def sweep(store: WorkflowStore, days: float = 90, limit: int = 100) -> list[str]:
    """Look at everything once, and remove what may go."""
    place: Place | None = Place()
    gone: list[str] = []
    while place is not None:
        found, onwards = store.closed.look(place, int(days * DAY_MS), limit)
        now_gone = store.closed.forget(found, int(days * DAY_MS))
        gone += now_gone
        same = onwards is not None and onwards.shard == place.shard
        place = Place(place.shard, onwards.rank - len(now_gone)) if onwards and same else onwards
    return gone


BY_THEMSELVES = (":seen:", ":group:", ":transitions")  # they expire, or are cut


def mentions(client: Any, store: WorkflowStore, incident: str) -> list[str]:
    """Keys that still speak of it, once activations of what has ended were dropped, and but for those that end by themselves."""
    while store.claim("idle", block_ms=0, lease_ms=LEASE_MS):
        pass
    found = []
    for key in client.scan_iter():
        kind, name = client.type(key), key.decode()
        held = {
            b"hash": lambda key: client.hgetall(key),
            b"zset": lambda key: client.zrange(key, 0, -1),
            b"set": lambda key: client.smembers(key),
            b"list": lambda key: client.lrange(key, 0, -1),
            b"stream": lambda key: client.xrange(key),
            b"string": lambda key: client.get(key),
        }[kind](key)
        if (incident in str(held) or incident in name) and not any(one in name for one in BY_THEMSELVES):
            found.append(name)
    return found


def test_what_closed_long_ago_is_gone_with_every_trace(client: Redis, store: WorkflowStore) -> None:
    """State, events, index entries and counts; what ended later, or is open, stays."""
    old, young = closed(store, 1), closed(store, 2)
    waits = admit(store, 3)
    long_ago(client, store, old, 91)
    long_ago(client, store, young, 89)
    assert sweep(store) == [old]
    assert mentions(client, store, old) == []
    assert [one.id for one in store.list()] == [waits, young]
    assert [one.id for one in store.list(model="m")] == [waits, young]
    assert store.counts() == {"closed": 1, "received": 1}
    assert store.removed() == 1
    assert sweep(store) == []
    assert store.removed() == 1


def test_it_goes_from_the_index_of_every_model_it_has_events_of(client: Redis, store: WorkflowStore) -> None:
    """Events that went on to a successor took their model's index entry with them."""
    incident = admit(store, 1, "a", "g")
    joining = enumerate("bcb", start=2)
    assert [admit(store, number, model, "g") for number, model in joining] == [incident] * 3
    held = end(store, claim(store), weighed=2)
    assert held.successor
    assert {model: [one.id for one in store.list(model=model)] for model in "abc"} == {
        "a": [incident], "b": [held.successor, incident], "c": [held.successor],
    }  # fmt: skip
    long_ago(client, store, incident)
    assert sweep(store) == [incident]
    assert mentions(client, store, incident) == [f"driftwarden:wf:{held.successor}"]  # its predecessor's name
    assert [one.id for one in store.list()] == [held.successor]


def test_an_open_one_stays_however_old(client: Redis, store: WorkflowStore) -> None:
    """Also where somebody names it."""
    incident = admit(store, 1)
    long_ago(client, store, incident, 400)
    assert sweep(store) == []
    assert store.closed.forget([Remains(incident, ("m",))], 1) == []
    assert store.get(incident).state == "received"


def test_its_time_is_asked_again_at_the_last_moment(client: Redis, store: WorkflowStore) -> None:
    """It was undone, and ended anew, between the look and the removal."""
    incident = closed(store, 1)
    assert store.closed.forget([Remains(incident, ("m",))], DAY_MS) == []
    assert store.get(incident).ended
    long_ago(client, store, incident, 2)
    assert store.closed.forget([Remains(incident, ("m",))], DAY_MS) == [incident]


def test_a_word_that_nobody_heard_keeps_it(client: Redis, store: WorkflowStore) -> None:
    """An operator asked for an undo: it is heard, and the incident with it."""
    incident = closed(store, 1)
    store.wake(incident, "undo", {"by": "ada"})
    long_ago(client, store, incident)
    assert sweep(store) == []
    held = claim(store)
    assert [signal.why for signal in held.signals] == ["undo"]
    client.delete(store.keys.wf(incident, "signals"))  # heard: and still somebody has it in hand
    assert sweep(store) == []
    client.hset(store.keys.wf(incident), "run", 0)
    assert sweep(store) == [incident]


def test_a_dead_letter_that_is_to_be_written_keeps_it(client: Redis, store: WorkflowStore) -> None:
    """The letter stands in the incident until it is written."""
    incident = closed(store, 1)
    long_ago(client, store, incident)
    client.hset(store.keys.wf(incident), "letter", "{}")
    assert sweep(store) == []
    client.hdel(store.keys.wf(incident), "letter")
    assert sweep(store) == [incident]


def test_a_timer_or_a_verification_keeps_it(client: Redis, store: WorkflowStore) -> None:
    """Neither should be there of a closed one; what is not understood is not removed."""
    incident, k = closed(store, 1), store.keys
    long_ago(client, store, incident)
    client.zadd(k.timers, {f"{incident}|m": 10**15})
    assert sweep(store) == []
    client.delete(k.timers)
    client.sadd(k.model("m", "verifying"), incident)
    assert sweep(store) == []
    client.delete(k.model("m", "verifying"))
    assert sweep(store) == [incident]


def test_who_saw_other_events_removes_nothing(client: Redis, store: WorkflowStore) -> None:
    """Half of the index entries would stay behind."""
    incident = admit(store, 1, "a", "g")
    admit(store, 2, "b", "g")
    end(store, claim(store))
    long_ago(client, store, incident)
    assert store.closed.forget([Remains(incident, ("a",))], 1) == []
    assert store.closed.forget([Remains(incident, ("a", "b"))], 1) == [incident]
    assert mentions(client, store, incident) == []


def test_a_lost_reply_is_no_second_removal(client: Redis, store: WorkflowStore) -> None:
    """The same call again says that it is gone, and counts nothing."""
    incident = closed(store, 1)
    long_ago(client, store, incident)
    one = Remains(incident, ("m",))
    assert store.closed.forget([one, one], DAY_MS) == [incident, incident]
    assert (store.removed(), store.counts()) == (1, {})


def test_a_few_at_a_time_over_every_shard(client: Redis) -> None:
    """Pages of two, those that must stay in between; no incident is passed over."""
    store = WorkflowStore(client, shards=3)
    store.shards.pin()
    ids = [closed(store, number, f"m{number}") for number in range(9)]
    for number, incident in enumerate(ids):
        long_ago(client, store, incident, 100 + number)
    for incident in ids[::3]:
        client.hset(store.shards.of_incident(incident).wf(incident), "letter", "{}")
    assert sorted(sweep(store, limit=2)) == sorted(set(ids) - set(ids[::3]))
    assert store.removed() == 6
    assert sorted(one.id for one in store.list()) == sorted(ids[::3])


def test_a_removed_one_is_named_with_where_it_can_be_read(client: Redis, store: WorkflowStore) -> None:
    """One line; before anything was removed there is nothing to point to."""
    incident = closed(store, 1)
    with pytest.raises(NotFound) as unknown:
        store.find("inc-ffff")
    assert "audit show" not in unknown.value.diagnostics()
    long_ago(client, store, incident)
    sweep(store)
    for ask in (store.find, store.get):
        with pytest.raises(NotFound) as gone:
            ask(incident)
        said = gone.value.diagnostics()
        assert f"`driftwarden audit show {incident}`" in said
        assert "\n" not in said


def test_a_repeat_after_that_is_a_new_incident(client: Redis, store: WorkflowStore) -> None:
    """While the event is remembered it is a duplicate; after that it opens one, of the same name."""
    incident = closed(store, 1)
    long_ago(client, store, incident)
    sweep(store)
    again = store.admit(f"1-{next(_entries)}", drift(1, "m"), now=NOW)
    assert (again.kind, again.incident) == ("duplicate", incident)
    (seen,) = client.scan_iter("driftwarden:seen:*")
    client.delete(seen)
    again = store.admit(f"1-{next(_entries)}", drift(1, "m"), now=NOW)
    assert (again.kind, again.incident) == ("opened", incident)
    assert claim(store).version == 0
