"""A seeded simulation of the store: workers that crash, freeze and come back, lost replies, repeats, timers, signals.

After every move the invariants are checked against one consistent view of the server; at the end all work is finished
and nothing may be left. The seed is in the test's name.
"""

import json
import random
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import pytest
from redis import Redis
from redis import exceptions as redis_exceptions

from driftwarden.errors import Fenced
from driftwarden.service.workflow.store import Claim, WorkflowStore
from driftwarden.stream.client import connect
from driftwarden.stream.embedded import EmbeddedRedis
from driftwarden.stream.intake import Delivery, Intake
from driftwarden.stream.publisher import build_event

LEASE_MS = 600_000
MOVES = 350
WORKERS = ("w0", "w1", "w2")
MODELS = ("a", "b")
NEXT = {
    "received": "triaged",
    "triaged": "planned",
    "planned": "executing",
    "executing": "verifying",
    "verifying": "resolved",
}
ACT, EVENTS, GROUP = "driftwarden:activations", "driftwarden:events", "workers"
SHARD = re.compile(r"\{\d+\}:")  # the tag of a shard, whose keys are looked at together with those of the others
SNAPSHOT = """
local all = {}
for _, key in ipairs(redis.call('KEYS', 'driftwarden:*')) do
  local kind = redis.call('TYPE', key)['ok']
  if kind == 'hash' then all[#all + 1] = {key, redis.call('HGETALL', key)}
  elseif kind == 'zset' then all[#all + 1] = {key, redis.call('ZRANGE', key, 0, -1)}
  elseif kind == 'list' then all[#all + 1] = {key, redis.call('LRANGE', key, 0, -1)}
  elseif kind == 'stream' then all[#all + 1] = {key, redis.call('XRANGE', key, '-', '+')} end
end
return all
"""


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a server for this module."""
    with EmbeddedRedis.acquire(tmp_path_factory.mktemp("simulation-redis")) as embedded:
        connect(embedded.url).config_set("appendfsync", "no")  # the server itself is not killed here
        yield embedded.url


@dataclass
class World:
    """What the simulation knows beside the server: who holds what, what was published, sent and handled."""

    client: Redis
    rng: random.Random
    crashes_max: int
    shards: int = 1
    held: dict[str, Claim] = field(default_factory=dict)
    zombies: list[Claim] = field(default_factory=list)
    published: set[str] = field(default_factory=set)
    sent: Counter[str] = field(default_factory=Counter)
    heard: Counter[str] = field(default_factory=Counter)
    reports: int = 0
    joined_another: int = 0
    faults: float = 0.03

    def __post_init__(self) -> None:
        self.store = WorkflowStore(self.client, crashes_max=self.crashes_max, shards=self.shards, fail_point=self.lose)
        self.intakes = {name: Intake(self.client, name, reclaim_after_ms=0) for name in WORKERS}

    def lose(self, where: str) -> None:
        """Now and then a reply is lost after the script ran, or the server is away before it."""
        if self.rng.random() < self.faults:
            raise redis_exceptions.ConnectionError(where)

    # Moves

    def publish(self) -> None:
        """A new event, or one that came before."""
        again = self.published and self.rng.random() < 0.3
        number = self.rng.choice(sorted(self.published)) if again else f"{len(self.published)}"
        model = MODELS[int(number) % len(MODELS)]
        document = build_event({"model": model, "kind": "data_drift"}, source="sim", id=number)
        self.client.xadd(EVENTS, {"event": json.dumps(document)})
        self.published.add(number)

    def report(self) -> None:
        """A performance report."""
        data = {"model": self.rng.choice(MODELS), "environment": "production", "window": {}, "performance": {}}
        self.reports += 1
        document = build_event(data, source="sim", id=f"r{self.reports}", type="io.driftwarden.performance.v1")
        self.client.xadd(EVENTS, {"event": json.dumps(document)})

    def take_in(self) -> None:
        """Somebody admits what waits, or dies in the middle of it."""
        deliveries = self.intakes[self.rng.choice(WORKERS)].read(self.rng.randint(1, 4))
        for is_report, run in groupby(deliveries, key=lambda one: one.event.kind == "performance"):
            if self.rng.random() < 0.1:
                return
            self.admit(is_report, [*run])

    def admit(self, is_report: bool, deliveries: list[Delivery]) -> None:
        """Reports one by one, drifts together; two of three events have a cause in common with those of other models."""
        for one in deliveries if is_report else ():
            self.store.record_performance(one.entry_id, one.event)
        if not is_report:
            self.store.admit_many(
                deliveries,
                now="2026-11-20T09:00:00Z",
                groups=lambda event: ("cause",) if int(event.id) % 3 else (),
            )

    def claim(self) -> None:
        """A free worker takes an incident up."""
        free = [name for name in WORKERS if name not in self.held]
        if free:
            name = self.rng.choice(free)
            claim = self.store.claim(name, block_ms=0, lease_ms=LEASE_MS)
            if claim is not None:
                self.held[name] = claim

    def commit(self) -> None:
        """A worker makes a step: on, parked, released, or finished."""
        if not self.held:
            return
        name = self.rng.choice(sorted(self.held))
        claim = self.held.pop(name)
        state = NEXT.get(claim.state, "resolved")
        if state == "resolved":
            disposition = "finish"
        elif state == "verifying":
            disposition = "release"
        else:
            disposition = self.rng.choice(["go", "go", "park", "release"])
        after = self.store.commit(
            claim,
            state=state,
            doc={"n": claim.version},
            disposition=disposition,  # type: ignore[arg-type]
            due_s=self.rng.choice([None, 10]),
            accepting=self.rng.random() < 0.5,
            handled=claim.signals,
        )
        self.heard.update(signal.payload for signal in claim.signals)
        if disposition == "go":
            self.held[name] = after
        elif self.rng.random() < 0.3:
            self.zombies.append(claim)

    def hand_back(self) -> None:
        """A worker stops in order."""
        if self.held:
            self.store.hand_back(self.held.pop(self.rng.choice(sorted(self.held))))

    def crash(self) -> None:
        """A worker dies, or freezes: its lease runs out, and it may come back as a zombie."""
        if self.held:
            claim = self.held.pop(self.rng.choice(sorted(self.held)))
            self.expire(claim)
            self.zombies.append(claim)

    def zombie(self) -> None:
        """One that froze comes back: where another took over since, nothing it does may have an effect."""
        if not self.zombies:
            return
        claim = self.zombies.pop(self.rng.randrange(len(self.zombies)))
        record = self.store.get(claim.incident)
        if record.fence == claim.fence and record.version == claim.version:
            self.zombies.append(claim)  # nobody took over yet: it may still commit, which `commit` shows
            return
        for attempt in (self.store.heartbeat, self.store.hand_back):
            with pytest.raises(Fenced):
                attempt(claim)
        with pytest.raises(Fenced):
            self.store.commit(claim, state="stale", doc={}, disposition="finish", accepting=False)
        assert self.store.get(claim.incident) == record

    def wake(self) -> None:
        """Somebody sends an incident a signal, at any time of its life."""
        ids = [record.id for record in self.store.list()]
        if ids:
            payload = f"s{sum(self.sent.values())}"
            self.store.wake(self.rng.choice(ids), "signal", payload)
            self.sent[payload] += 1

    def beat(self) -> None:
        """A heartbeat, of somebody who holds a lease."""
        if self.held:
            self.store.heartbeat(self.held[self.rng.choice(sorted(self.held))])

    def tick(self) -> None:
        """Time passes: some timers are due."""
        self.store.pump_timers(ahead_s=self.rng.choice([0, 20, 100_000]), limit=self.rng.choice([1, 100]))

    def destroy(self) -> None:
        """Somebody destroys a consumer group."""
        if self.rng.random() < 0.2:
            stream = self.rng.choice([EVENTS, *(keys.activations for keys in self.store.shards.all)])
            if self.client.exists(stream):
                self.client.xgroup_destroy(stream, GROUP)

    def trim(self) -> None:
        """The backstop runs."""
        self.store.trim()

    def expire(self, claim: Claim) -> None:
        """As if the lease's time had passed without a heartbeat."""
        keys = self.store.shards.of_incident(claim.incident)
        self.client.hset(keys.wf(claim.incident), "lease", 0)
        if self.client.xinfo_groups(keys.activations):
            arguments = (GROUP, claim.consumer, 0, claim.entry, "IDLE", 10**9, "JUSTID")
            self.client.execute_command(f"XCLAIM {keys.activations}", *arguments)
        self.store.sweep_soon()

    # Invariants

    def check(self) -> None:
        """Every invariant, on one consistent view."""
        view: dict[str, Any] = {}
        for key, value in self.client.eval(SNAPSHOT, 0):  # type: ignore[misc,union-attr]
            view.setdefault(SHARD.sub("", key.decode()), []).extend(value)
        incidents = {key.split(":")[2]: table(value) for key, value in view.items() if key.startswith("driftwarden:wf:") and
                     key.count(":") == 2}  # fmt: skip
        entries = [table(fields) for _, fields in view.get(ACT, [])]
        reachable = {entry["incident"] for entry in entries}
        reachable |= {member.decode().partition("|")[0] for member in view.get("driftwarden:timers", [])}
        for model in MODELS:
            queued = {member.decode() for member in view.get(f"driftwarden:model:{model}:queue", [])}
            reachable |= queued
            active = table(view.get(f"driftwarden:model:{model}", [])).get("active", "")
            assert not (queued and not active), "I3: somebody waits for a slot that is free"
            running = [one for one, h in incidents.items() if h["model"] == model and h["run"] == "1"]
            assert running in ([], [active]), "I3: one running incident a model, and it holds the slot"
        for incident, h in incidents.items():
            assert h["done"] == "1" or incident in reachable, (
                "I5: an unfinished incident is in activations, timers or queue"
            )
            waiting = view.get(f"driftwarden:wf:{incident}:signals")
            assert not (h["done"] == "1" and waiting) or incident in reachable, "I6: a late signal has its activation"
        keys = Counter(key for name, value in view.items() if name.endswith(":keys") for key in identities(value))
        assert set(keys.values()) <= {1}, "I1: no event is in two incidents"
        self.check_transitions(view)
        flat = view.get("driftwarden:counts", [])
        counted: Counter[str] = Counter()
        for name, number in zip(flat[::2], flat[1::2], strict=True):
            counted[name.decode()] += int(number)
        assert {name: number for name, number in counted.items() if number} == Counter(
            h["state"] for h in incidents.values()
        )

    def check_transitions(self, view: dict[str, Any]) -> None:
        """Versions are contiguous, fences never go back, and every arrow begins where the one before ended."""
        last: dict[str, tuple[int, int, str]] = {}
        for _, fields in view.get("driftwarden:transitions", []):
            one = table(fields)
            version, fence, state = last.get(one["incident"], (-1, 0, ""))
            assert int(one["version"]) == version + 1, "I4: versions are contiguous"
            assert int(one["fence"]) >= fence, "I4: fences never go back"
            assert one["from"] == state, "I4: an arrow begins where the last one ended"
            last[one["incident"]] = (int(one["version"]), int(one["fence"]), one["state"])

    def finish(self) -> None:
        """No faults any more: all that is left is worked off."""
        self.faults = 0.0
        for claim in self.held.values():
            self.expire(claim)
        self.held.clear()
        idle = 0
        while idle < 3:
            before = self.steps()
            for name in WORKERS:
                deliveries = self.intakes[name].read(100)
                for is_report, run in groupby(deliveries, key=lambda one: one.event.kind == "performance"):
                    self.admit(is_report, [*run])
            self.store.pump_timers(ahead_s=200_000)
            for _ in range(50):
                self.claim()
                self.commit()
            self.check()
            idle = idle + 1 if self.steps() == before else 0

    def steps(self) -> int:
        """How many arrows there were."""
        return sum(self.client.xlen(keys.transitions) for keys in self.store.shards.all)

    def at_rest(self) -> None:
        """I1, I6, I7: everything ended once, every signal was heard, nothing is left anywhere."""
        records = self.store.list(limit=10_000)
        self.joined_another = sum(
            json.loads(raw)["data"]["model"] != record.model for record in records for raw in record.events
        )
        assert all(record.ended for record in records)
        assert Counter(json.loads(raw)["id"] for record in records for raw in record.events) == Counter(self.published)
        failed = {record.id for record in records if record.state == "failed" and record.reason}
        letters: Any = self.client.xrange("driftwarden:dead-letters")
        assert failed <= {fields[b"incident"].decode() for _, fields in letters}
        if not letters:
            assert self.heard == self.sent
        each = self.store.shards.all
        with self.client.pipeline() as pipe:
            for stream in (EVENTS, *(keys.activations for keys in each)):
                pipe.xlen(stream)
            for keys in each:
                pipe.zcard(keys.timers)
            assert set(pipe.execute()) == {0}
        for stream in (EVENTS, *(keys.activations for keys in each)):
            if self.client.exists(stream):
                assert self.client.xpending(stream, GROUP)["pending"] == 0
        for model in MODELS:
            home = self.store.shards.of_model(model)
            assert self.client.hget(home.model(model), "active") in (None, b"")
            assert self.client.zcard(home.model(model, "queue")) == 0
            assert self.client.scard(home.model(model, "verifying")) == 0
        assert sum(len(self.store.performance_reports(model)) for model in MODELS) == self.reports


def table(flat: Any) -> dict[str, str]:
    """A flat reply of names and values."""
    return {flat[i].decode(): flat[i + 1].decode() for i in range(0, len(flat), 2)}


def identities(keys: list[bytes]) -> list[bytes]:
    """Of the events of an incident, whosever they are."""
    return [key.partition(b"|")[0] for key in keys]


WEIGHTS = {
    World.publish: 10, World.report: 2, World.take_in: 10, World.claim: 25, World.commit: 30, World.hand_back: 2,
    World.crash: 6, World.zombie: 5, World.wake: 6, World.beat: 4, World.tick: 6, World.destroy: 1, World.trim: 1,
}  # fmt: skip


@pytest.fixture
def play(url: str, monkeypatch: pytest.MonkeyPatch) -> Callable[..., World]:
    """Plays one world to its end, looking at the invariants after each move.

    The seed chooses the moves; names of incidents and the server's clock are not its own, so that two runs of one seed differ.
    """
    monkeypatch.setattr("tenacity.nap.time.sleep", lambda seconds: None)  # lost replies are asked again at once

    def run(seed: int, crashes_max: int = 100, shards: int = 1) -> World:
        client = connect(url)
        client.flushall()
        rng = random.Random(seed)
        world = World(client, rng, crashes_max, shards)
        for _ in range(MOVES):
            rng.choices(list(WEIGHTS), list(WEIGHTS.values()))[0](world)
            world.check()
        world.finish()
        world.at_rest()
        client.close()
        return world

    return run


@pytest.mark.parametrize(
    ("seed", "crashes_max", "shards"), [(1, 100, 1), (2, 100, 1), (3, 0, 1), (4, 100, 1), (5, 100, 3), (6, 0, 3)]
)
def test_any_order_of_faults_keeps_the_invariants(
    play: Callable[..., World], seed: int, crashes_max: int, shards: int
) -> None:
    """Whatever happens in whatever order: no event lost or doubled, no two workers on one model, no signal lost."""
    assert len(play(seed, crashes_max, shards).published) > 10


def test_events_of_several_models_do_join_in_it(play: Callable[..., World]) -> None:
    """Not in every world, but in one of some."""
    assert any(play(seed).joined_another for seed in range(10, 40))
