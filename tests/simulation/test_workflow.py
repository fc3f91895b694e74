"""A seeded simulation of the whole workflow: crashes at every place, repeats, more drift, halts, approvals, people, time.

The surroundings are scripted, the workflow is real. At the end everything is let finish, and the invariants must hold;
the seed stands in the test's name. I1: every event is in exactly one incident, and none is lost. I2: at most one effect
for each key, by the sink's own log, and every effect has its intent before it. I3: one effect at a time on a model, and
the moves of its champion form one chain. I4: versions of incidents only grow. I5: nothing hangs: each incident ends or
waits for time or people.
"""

import itertools
import random
from collections import Counter
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from fakes.approvers import key_of
from fakes.workflow_world import Crash, World

from driftwarden.contracts.base import ActionName
from driftwarden.contracts.findings import Candidate
from driftwarden.errors import BadInput, Retry

MODELS = ("a", "b", "c")
PROCESSES = ("p1", "p2")
MALLORY = key_of("mallory")
MOVES = 80
AT_REST = {"resolved", "undone", "failed", "rejected", "expired", "closed", "awaiting_approval", "verifying"}
ACTIONS = (ActionName.RETRAIN, ActionName.RETRAIN, ActionName.RETRAIN, ActionName.QUARANTINE_DATA, ActionName.NONE)


class Simulation:
    """One world under random moves."""

    def __init__(self, world: World, seed: int) -> None:
        self.world, self.rng = world, random.Random(seed)
        self.sent: list[dict[str, Any]] = []
        self.versions: Counter[str] = Counter()
        self.faults = 0.04
        world.plant.die_at = self.fault
        world.script.on_advise = lambda: self.fault("advise")

    def fault(self, where: str) -> None:
        """Now and then the process dies here, or something is away."""
        if self.rng.random() < self.faults:
            raise self.rng.choice([Crash(where), Crash(where), Retry(where)])

    def dies(self, where: str) -> None:
        """Now and then the process dies between two steps."""
        if self.rng.random() < self.faults:
            raise Crash(where)

    # Moves

    def drift(self) -> None:
        """A new event, or one that came before."""
        if self.sent and self.rng.random() < 0.25:
            return self.world.send(self.rng.choice(self.sent))
        self.sent.append(self.world.event(self.rng.choice(MODELS), id=f"s{len(self.sent)}"))
        return self.world.send(self.sent[-1])

    def change_script(self) -> None:
        """Agents, rehearsals and labels say something else from now on."""
        script, rng = self.world.script, self.rng
        script.candidates = (Candidate(id="c1", action=rng.choice(ACTIONS), cost_usd=Decimal(rng.choice([1, 5]))),)
        script.win = rng.choice([None, 0.4, 0.97, 0.97, 0.97])
        script.loss = rng.choice([None, 0.001, 0.2, 0.2, 0.2])
        script.gain, script.gain_win = rng.choice([(None, None), (0.1, 0.99), (-0.2, 0.01), (0.0, 0.5)])

    def work(self) -> None:
        """A worker of one of two processes takes one incident up, and may die at it."""
        self.world.take_in()
        try:
            self.world.worker(self.rng.choice(PROCESSES), self.dies).work_once()
        except Crash:
            self.world.free_leases()
        except Retry:
            pass

    def answer(self) -> None:
        """Somebody approves or rejects something that waits; it may have been answered or have expired meanwhile."""
        waiting = [one for one in self.world.parts.approvals.list() if one.state == "pending"]
        if not waiting:
            return
        one, approvals = self.rng.choice(waiting), self.world.parts.approvals
        no = self.rng.random() < 0.3
        who = self.rng.choice(["ada", "bob"])
        word = self.world.people.say(one, who, verdict="reject" if no else "approve", group="risk")
        try:
            approvals.refuse(one.id, word) if no else approvals.grant(one.id, word)
        except BadInput:
            return
        self.world.store.wake(one.incident, "approval")

    def by_hand(self) -> None:
        """Somebody asks for a retry, a close or an undo, sensible or not; now and then with a key that is nobody's."""
        found = self.world.store.list(limit=100)
        if found:
            what = self.rng.choice(["retry", "close", "undo"])
            id = self.rng.choice(found).id
            said = self.world.people.request(id, what, "eve", key=MALLORY if self.rng.random() < 0.2 else None)
            self.world.store.wake(id, what, said.model_dump())

    def switch(self) -> None:
        """Everything is halted, or resumed."""
        halts = self.world.parts.halts
        halts.halt(None, reason="sim", by="sim") if self.rng.random() < 0.4 else halts.resume(None)

    def wait(self) -> None:
        """Time passes; timers fire, leases run out."""
        span = self.rng.choice([1.0, 200.0, 4000.0])
        self.world.clock.advance(seconds=span)
        self.world.store.pump_timers(ahead_s=span)
        self.world.free_leases()

    def check(self) -> None:
        """What must hold at any instant."""
        for record in self.world.store.list(limit=1000):
            assert record.version >= self.versions[record.id], "I4"
            self.versions[record.id] = record.version
        keys = Counter(key for *_, key in self.world.plant.moves)
        assert max(keys.values(), default=1) == 1, "I2: an effect happened twice"

    def run(self) -> None:
        """Random moves, then everything is let finish."""
        moves: list[Callable[[], None]] = [self.drift, self.work, self.answer, self.by_hand, self.switch, self.wait,
                                           self.change_script]  # fmt: skip
        for _ in range(MOVES):
            self.rng.choices(moves, weights=[5, 14, 3, 1, 1, 4, 2])[0]()
            self.check()
        self.faults = 0.0
        self.world.parts.halts.resume(None)
        for _ in range(8):
            self.world.free_leases()
            for name in PROCESSES:  # each takes up what its own forerunner left
                self.world.run(self.world.worker(name))
            self.world.clock.advance(seconds=200)
            self.world.store.pump_timers(ahead_s=200)

    def judge(self) -> None:
        """What must hold at the end."""
        world, incidents = self.world, self.world.incidents()
        weighed = [(one["source"], one["id"]) for incident in incidents for one in incident.events]
        published = {(one["source"], one["id"]) for one in self.sent}
        assert Counter(weighed) == Counter(published), "I1"
        assert {one.state for one in incidents} <= AT_REST, "I5"
        assert world.parts.ledger.running() == [], "I5: a reservation that nobody holds"
        intents = [one["body"]["idempotency_key"] for one in world.records("intent")]
        assert {key.removesuffix(":undo") for key in world.plant.done} <= {
            key.removesuffix(":undo") for key in intents
        }, "I2"
        for model in MODELS:
            chain = [(before, after) for name, before, after, _ in world.plant.moves if name == model]
            assert all(one[1] == two[0] for one, two in itertools.pairwise(chain)), "I3"
            assert world.plant.champions[model] == (chain[-1][1] if chain else 1), "I3"
        ends = Counter(one["causation"] for one in world.records("result"))
        assert ends == Counter(one["@hash"] for one in world.records("intent")), "I2: not one result for each intent"
        settled = Counter(str([one["incident"], one["body"]]) for one in world.records("settlement"))
        assert max(settled.values(), default=1) == 1, "a settlement is told twice"
        approved = {one["@hash"]: one for one in world.records() if one["type"] in {"decision", "approval"}}
        for intent in world.records("intent"):
            cause = approved[intent["causation"]]["body"]
            assert cause.get("verdict") == "approved" or cause["decision"]["outcome"] == "execute"


@pytest.mark.parametrize("seed", range(30))
def test_whatever_happens(tmp_path: Path, redis_server: Any, seed: int) -> None:
    """Crashes, repeats, people and time in any order leave every effect done once and every event answered."""
    redis_server.flushall()
    simulation = Simulation(World(tmp_path, redis_server, models=MODELS, memory_log=True), seed)
    simulation.run()
    simulation.judge()
