"""Several shards on one server: where models and incidents live, for ever, and that none is starved or forgotten."""

import json
import zlib
from collections import Counter
from itertools import count, takewhile
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from driftwarden.contracts.event import DriftEvent, parse_event
from driftwarden.errors import BadInput, NotFound
from driftwarden.service.cli.main import run
from driftwarden.service.workflow.store import Claim, WorkflowStore
from driftwarden.stream.intake import Delivery
from driftwarden.stream.publisher import build_event

NOW = "2026-11-20T09:00:00.000000Z"
LEASE_MS = 60_000
SHARDS = 8
_entries = count(1)


@pytest.fixture
def store(client: Redis) -> WorkflowStore:
    """A store of several shards."""
    return WorkflowStore(client, shards=SHARDS)


def event(number: int | str, model: str, **more: Any) -> DriftEvent:
    """A drift event, or a report."""
    data = {"model": model, "kind": "data_drift"}
    document = build_event(more.pop("data", data), source="s", id=str(number), time=NOW, **more)
    return parse_event(json.dumps(document))


def admit(store: WorkflowStore, number: int | str, model: str, *groups: str) -> Any:
    """Admit an event as the next entry of the intake."""
    return store.admit(f"1-{next(_entries)}", event(number, model), now=NOW, groups=groups)


def claim(store: WorkflowStore, consumer: str = "w") -> Claim:
    """Claim what must be there."""
    found = store.claim(consumer, block_ms=0, lease_ms=LEASE_MS)
    assert found is not None
    return found


def finish(store: WorkflowStore, held: Claim, **more: Any) -> Claim:
    """The end of an incident."""
    return store.commit(held, state="closed", doc={}, disposition="finish", accepting=False, **more)


def shard_of(model: str) -> int:
    """Where a model without an upstream lives."""
    return zlib.crc32(model.encode()) % SHARDS


def test_every_incident_lives_on_the_shard_of_its_model(client: Redis, store: WorkflowStore) -> None:
    """All its keys carry the shard's tag; its id says which shard that is; the rest of the keys carries none."""
    models = [f"m{number}" for number in range(40)]
    deliveries = [Delivery(f"1-{next(_entries)}", event(number, model)) for number, model in enumerate(models)]
    admissions = store.admit_many(deliveries, now=NOW)
    for model, admission in zip(models, admissions, strict=True):
        shard = shard_of(model)
        assert admission.incident.endswith(f"{shard:03x}")
        assert client.exists(f"driftwarden:{{{shard}}}:wf:{admission.incident}")
        assert store.get(admission.incident).model == model
        assert store.find(admission.incident[:12]) == admission.incident
        assert [one.id for one in store.list(model=model)] == [admission.incident]
    tags = Counter(key.decode().split(":")[1] for key in client.scan_iter("driftwarden:*"))
    assert set(tags) == {f"{{{shard_of(model)}}}" for model in models} | {"shards", "identity"}
    assert len(tags) > SHARDS // 2
    assert store.counts() == {"received": 40}
    assert {one.id for one in store.list()} == {one.incident for one in admissions}
    assert store.backlog() == (0, 40)


def test_a_list_over_shards_is_in_the_order_of_opening(client: Redis, store: WorkflowStore) -> None:
    """The newest first, whichever shard they are on, and over more than one page of each."""
    deliveries = [Delivery(f"1-{next(_entries)}", event(number, f"m{number % 9}")) for number in range(360)]
    for first in range(0, 360, 9):
        for held in [admission.incident for admission in store.admit_many(deliveries[first : first + 9], now=NOW)]:
            keys = store.shards.of_incident(held)
            client.hdel(keys.model(store.get(held).model), "open:production")  # the next event opens another
    opened: Any = [one for keys in store.shards.all for one in client.zrange(keys.index, 0, -1, withscores=True)]
    expected = [id.decode() for id, _ in sorted(opened, key=lambda one: (one[1], one[0]), reverse=True)]
    assert len(expected) == 360
    assert [one.id for one in store.list(limit=1000)] == expected
    assert [one.id for one in store.list(limit=150)] == expected[:150]
    assert len(store.list(model="m4", limit=1000)) == 40


def test_with_one_shard_the_keys_are_as_they_were(client: Redis) -> None:
    """No tag, no digits at the end of an id, nothing asked of where a model lives."""
    store = WorkflowStore(client)
    opened = admit(store, 1, "m")
    assert len(opened.incident) == len("inc-") + 12
    assert client.exists(f"driftwarden:wf:{opened.incident}", "driftwarden:activations", "driftwarden:shards") == 2


def test_models_of_one_upstream_share_a_shard_and_an_incident(client: Redis) -> None:
    """A hundred models behind one table: their first upstream says where they live, so that they can join."""
    store = WorkflowStore(client, shards=SHARDS, upstream_of={f"m{number}": "table" for number in range(100)}.get)
    deliveries = [Delivery(f"1-{next(_entries)}", event(number, f"m{number}")) for number in range(100)]
    admissions = store.admit_many(deliveries, now=NOW, groups=lambda event: ("ab" * 32,))
    assert Counter(one.kind for one in admissions) == {"opened": 1, "joined": 99}
    assert store.shards.of_model("m77") is store.shards.of_incident(admissions[0].incident)
    assert zlib.crc32(b"table") % SHARDS == int(admissions[0].incident[-3:], 16)


def test_models_whose_events_tell_of_one_table_share_a_shard_and_an_incident(client: Redis) -> None:
    """Where none is configured, what the first event tells decides for good; what is no list of names decides nothing."""
    store = WorkflowStore(client, shards=SHARDS, upstream_of={"c": "elsewhere"}.get)
    tables = {f"m{number}": ["lake/orders", f"own-{number}"] for number in range(40)} | {"c": ["lake/orders"]}
    odd = {"o1": "lake/orders", "o2": ["lake/orders", 7], "o3": []}
    data = [{"model": name, "kind": "data_drift", "upstream": told} for name, told in (tables | odd).items()]
    deliveries = [Delivery(f"1-{next(_entries)}", event(number, "", data=one)) for number, one in enumerate(data)]
    admissions = store.admit_many(deliveries, now=NOW, groups=lambda event: ("ab" * 32,))
    found = {one.event.model: admission for one, admission in zip(deliveries, admissions, strict=True)}
    assert Counter(found[f"m{number}"].kind for number in range(40)) == {"opened": 1, "joined": 39}
    for name in tables:
        assert store.shards.of_model(name) is store.shards.all[shard_of("elsewhere" if name == "c" else "lake/orders")]
    for name in odd:
        assert store.shards.of_model(name) is store.shards.all[shard_of(name)]
    later = WorkflowStore(client, shards=SHARDS)
    moved = next(name for name in map(str, range(99)) if shard_of(name) != shard_of("lake/orders"))
    again = event("again", "", data={"model": "m0", "kind": "data_drift", "upstream": [moved]})
    assert later.admit(f"1-{next(_entries)}", again, now=NOW).incident == found["m0"].incident


def test_a_model_that_has_incidents_never_moves(client: Redis) -> None:
    """Its upstream is configured anew: it stays where it was, and its open incident is joined."""
    first = WorkflowStore(client, shards=SHARDS, upstream_of=lambda model: "old")
    opened = admit(first, 1, "m")
    moved = next(name for name in map(str, range(99)) if shard_of(name) != shard_of("old"))
    later = WorkflowStore(client, shards=SHARDS, upstream_of=lambda model: moved)
    assert admit(later, 2, "m") == type(opened)("joined", opened.incident)
    assert later.shards.of_model("other") is not later.shards.of_model("m")


@pytest.mark.parametrize("before", [1, 4, "without a pin"])
def test_another_number_of_shards_is_refused(client: Redis, before: Any) -> None:
    """The number is pinned by the first; incidents from before there were shards are on the only one."""
    if before == "without a pin":
        admit(WorkflowStore(client), 1, "m")
    else:
        WorkflowStore(client, shards=before).shards.pin()
    for ask in ("pin", "check"):
        shards = WorkflowStore(client, shards=SHARDS).shards
        with pytest.raises(BadInput, match=r"redis.shards.*8.*the number of shards that this Redis was set up with"):
            getattr(shards, ask)()
    with pytest.raises(BadInput, match=r"redis.shards"):
        admit(WorkflowStore(client, shards=SHARDS), 2, "m")
    assert not client.keys("driftwarden:{*")
    WorkflowStore(client, shards=1 if before == "without a pin" else before).shards.pin()


def test_looking_pins_nothing(client: Redis, store: WorkflowStore) -> None:
    """Who only asks for a model, or for the number of shards, leaves no trace."""
    store.shards.check()
    assert store.list(model="unheard-of") == ()
    assert store.performance_reports("unheard-of") == ()
    assert store.counts() == {}
    for id in ("inc-", "inc-0", "inc-zz", f"inc-{'0' * 12}3ff"):
        with pytest.raises(NotFound):
            store.get(id)
        with pytest.raises(NotFound):
            store.wake(id, "operator")
    assert client.dbsize() == 0


def test_a_pin_that_was_tampered_with_is_refused(client: Redis, store: WorkflowStore) -> None:
    """A shard that does not exist is never guessed at."""
    store.shards.pin()
    client.hset("driftwarden:shards", "m", "8")
    with pytest.raises(BadInput, match="shard of model m"):
        admit(store, 1, "m")


def test_an_event_that_comes_again_for_a_model_elsewhere_is_a_duplicate(client: Redis, store: WorkflowStore) -> None:
    """Source and id are the identity, whatever model is named: neither a drift nor a report has a second effect."""
    opened = admit(store, 1, "a")
    other = next(name for name in map(str, range(99)) if shard_of(name) != shard_of("a"))
    assert admit(store, 1, other).kind == "duplicate"
    data = {"model": other, "environment": "production", "window": {}, "performance": {"current": 0.5}}
    report = event(1, other, data=data, type="io.driftwarden.performance.v1")
    assert store.record_performance("3-1", report).kind == "duplicate"
    assert [one.id for one in store.list()] == [opened.incident]
    assert store.performance_reports(other) == ()
    (key,) = client.scan_iter("driftwarden:identity:*")
    assert client.pttl(key) > 29 * 24 * 3600 * 1000


def test_no_shard_starves(store: WorkflowStore) -> None:
    """One shard has a hundred incidents waiting: those of the others are taken up in between."""
    busy = [name for name in map(str, range(2000)) if shard_of(name) == 0][:100]
    lonely = [next(name for name in map(str, range(100)) if shard_of(name) == shard) for shard in range(1, SHARDS)]
    for number, model in enumerate(busy):
        admit(store, f"b{number}", model)
    for model in lonely:
        admit(store, model, model)
    first = [claim(store, f"w{number}").model for number in range(2)]
    taken = []
    for _ in range(2 * SHARDS):
        held = claim(store, "w")
        taken.append(held.model)
        finish(store, held)
    assert set(lonely) <= {*taken, *first}


def test_a_consumer_waits_for_any_shard(client: Redis, store: WorkflowStore) -> None:
    """What comes while it waits is found, wherever it comes; what was looked through in vain is not asked again."""
    assert store.claim("w", block_ms=0, lease_ms=LEASE_MS) is None
    assert store.claim("w", block_ms=1, lease_ms=LEASE_MS) is None
    client.config_resetstat()
    assert store.claim("w", block_ms=0, lease_ms=LEASE_MS) is None
    assert {"cmdstat_xreadgroup", "cmdstat_xautoclaim"}.isdisjoint(client.info("commandstats"))
    for number in range(2 * SHARDS):
        opened = admit(store, number, f"m{number}")
        held = store.claim("w", block_ms=2000, lease_ms=LEASE_MS)
        assert held is not None
        assert held.incident == opened.incident
        finish(store, held)
    assert store.backlog() == (0, 0)


def test_who_died_is_found_by_each_shards_own_sweep(client: Redis, store: WorkflowStore) -> None:
    """A lease that ran out makes no new entry: it is found all the same, on every shard."""
    for number in range(12):
        admit(store, number, f"m{number}")
    held = [claim(store, f"dead-{number}") for number in range(12)]
    assert store.claim("heir", block_ms=0, lease_ms=LEASE_MS) is None
    for one in held:
        shard = int(one.incident[-3:], 16)
        client.hset(f"driftwarden:{{{shard}}}:wf:{one.incident}", "lease", 0)
    found = set()
    for number in range(12):
        heir = store.claim(f"heir-{number}", block_ms=0, lease_ms=0)
        assert heir is not None
        assert heir.crashes == 1
        found.add(finish(store, heir).incident)
    assert found == {one.incident for one in held}


def test_the_whole_walk_on_every_shard(client: Redis, store: WorkflowStore) -> None:
    """Heartbeats, signals, timers, reports, successors, crash loops: each on the incident's own shard."""
    store = WorkflowStore(client, shards=SHARDS, crashes_max=0)
    for number in range(SHARDS * 2):
        model = f"m{number}"
        opened = admit(store, f"{number}-a", model)
        held = claim(store)
        store.heartbeat(held)
        store.wake(held.incident, "operator", {"n": number})
        held = store.commit(held, state="verifying", doc={}, disposition="park", due_s=0, accepting=True)
        assert [one.payload for one in held.signals] == [{"n": number}]
        assert store.pump_timers() == 1
        held = claim(store)
        data = {"model": model, "environment": "production", "window": {}, "performance": {"current": 0.5}}
        report = event(f"{number}-r", model, data=data, type="io.driftwarden.performance.v1")
        assert store.record_performance(f"2-{number}", report).kind == "performance"
        assert len(store.performance_reports(model)) == 1
        assert admit(store, f"{number}-b", model).incident == opened.incident
        ended = finish(store, held, handled=held.signals, weighed=1)
        assert ended.successor is not None
        assert ended.successor.endswith(held.incident[-3:])
        following = claim(store)
        while following.incident != ended.successor:
            following = claim(store)
        client.hset(f"{store.shards.of_model(model).prefix}wf:{following.incident}", "lease", 0)
        failed = store.claim("heir", block_ms=0, lease_ms=0)
        assert failed is not None
        assert (failed.incident, failed.state) == (following.incident, "failed")
        finish(store, failed, handled=failed.signals)
        while spare := store.claim("w", block_ms=0, lease_ms=LEASE_MS):
            finish(store, spare, handled=spare.signals)
    assert client.xlen("driftwarden:dead-letters") == SHARDS * 2
    assert store.counts() == {"closed": SHARDS * 4}
    assert store.trim() == 0
    assert store.backlog() == (0, 0)


def test_watching_goes_on_where_it_stopped_on_every_shard(store: WorkflowStore) -> None:
    """An id of `watch` names a place on each shard; nothing is told twice, nothing is left out, whichever it was."""
    fresh = store.watch(block_ms=1)
    assert next(fresh) is None
    for number in range(20):
        admit(store, number, f"m{number}")
    told = [next(fresh) for _ in range(20)]
    ids = {one.incident for one in told if one}
    assert ids == {one.id for one in store.list()}
    assert next(fresh) is None
    for stopped in (0, 7, 19):
        at = told[stopped]
        assert at is not None
        left = [one.incident for one in takewhile(bool, store.watch(at.id, block_ms=1)) if one]
        assert sorted(left) == sorted(one.incident for one in told[stopped + 1 :] if one)
    assert len([*takewhile(bool, store.watch("0", block_ms=1))]) == 20
    with pytest.raises(BadInput, match="8 ids"):
        next(store.watch("1-1"))


def test_the_commands_look_over_all_shards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], url: str, client: Redis
) -> None:
    """As configured: a prefix finds its incident wherever it is; another number of shards is refused in one line."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DRIFTWARDEN_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("DRIFTWARDEN_CONF", str(tmp_path / "conf"))
    monkeypatch.setenv("DRIFTWARDEN_REDIS_URL", url)
    settings = tmp_path / "conf" / "local" / "driftwarden" / "settings.yml"
    settings.parent.mkdir(parents=True)
    settings.write_text("redis: {shards: 8}\n")
    store = WorkflowStore(client, shards=SHARDS)
    opened = [admit(store, number, f"m{number}").incident for number in range(6)]
    assert run(["incidents", "list", "--json"]) == 0
    assert sorted(json.loads(line)["id"] for line in capsys.readouterr().out.splitlines()) == sorted(opened)
    for id in opened:
        assert run(["incidents", "show", id[:12], "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["id"] == id
    settings.write_text("redis: {shards: 4}\n")
    assert run(["incidents", "list"]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "setting `redis.shards`, got `4`, expected 8, the number of shards" in said
    settings.write_text("redis: {shards: 1025}\n")
    assert run(["incidents", "list"]) == 2
    assert "redis.shards" in capsys.readouterr().err
