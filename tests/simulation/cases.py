"""Small cases of the workflow store under a seeded scheduler: a few events, two or three workers, everything that goes wrong.

A case is its seed: which events come, what the workers do, who goes on after each single command, whose reply is lost, who
dies, who sleeps beyond its lease, how time passes or jumps. After each command one script looks at the whole state; each
reply is held against what the commands before allow; at the end everything is let finish and nothing may be left. The
invariants have the names of the notes: I1 no event lost or in two incidents, I2 no key has two effects, I3 one active
incident a model, I4 versions contiguous and fences growing, I5 an unfinished incident is in activations, timers or queue,
I6 no signal lost, I7 nothing is left at rest.
"""

import hashlib
import json
import random
import re
from collections import Counter
from dataclasses import dataclass
from functools import cache

from simulation.lab import Lab
from simulation.virtual import GROUP, READS, Actor, Clock, Words
from simulation.watching import LEASE_MS, MODELS, Broken, Watch, hold, table
from simulation.workers import NOW, Worker

from driftwarden.service.workflow.store import WorkflowStore
from driftwarden.stream.publisher import build_event

DAY_MS = 90_000_000  # longer than any timer
ROUNDS_MAX = 12


@cache
def event_text(model: str, environment: str, number: int) -> str:
    """A drift event in JSON."""
    data = {"model": model, "kind": "data_drift", "environment": environment}
    return json.dumps(build_event(data, source="simulation", id=f"{model}-{environment}-{number}", time=NOW))


@cache
def report_text(model: str, number: int) -> str:
    """A performance report in JSON."""
    data = {"model": model, "environment": "production", "window": {}, "performance": {"current": 0.9}}
    kind = "io.driftwarden.performance.v1"
    return json.dumps(build_event(data, source="simulation", id=f"{model}-report-{number}", type=kind, time=NOW))


def identity(raw: str) -> str:
    """What the store knows an event by."""
    document = json.loads(raw)
    return hashlib.sha256(f"{document['source']}\n{document['id']}".encode()).hexdigest()


@dataclass(frozen=True)
class Weather:
    """How likely what is, for each step; a case draws one of these."""

    name: str
    loses: float = 0.03
    dies: float = 0.03
    sleeps: float = 0.03
    passes: float = 0.05
    jumps: float = 0.01
    destroys: float = 0.003
    sticks: float = 0.5  # the same actor goes on


WEATHERS = (
    Weather("calm", loses=0, dies=0, sleeps=0, jumps=0, destroys=0, sticks=0.2),
    Weather("mixed"),
    Weather("losses", loses=0.15, dies=0.0),
    Weather("deaths", dies=0.1, loses=0.0),
    Weather("sleepers", sleeps=0.12, passes=0.1, sticks=0.7),
    Weather("bad clock", jumps=0.08, passes=0.1),
    Weather("everything", loses=0.08, dies=0.06, sleeps=0.08, passes=0.1, jumps=0.03, destroys=0.02, sticks=0.3),
)  # fmt: skip


class Case:
    """One interleaving."""

    def __init__(self, lab: Lab, seed: int) -> None:
        """Set it up; the same seed on the same scripts is the same case."""
        self.lab, self.rng = lab, random.Random(seed)
        rng = self.rng
        self.weather = rng.choice(WEATHERS)
        self.prefix, self.crashes_max = lab.prefix(), rng.choice((0, 0, 1, 100))
        self.grouped = rng.random() < 0.4  # events of both models may join one incident
        self.shard_count = rng.choice((1, 1, 1, 2))
        shards = self.store().shards
        self.intake, self.dead_letters = shards.shared.intake, shards.shared.dead_letters
        self.clock = Clock(lab.wire, (self.intake, *(keys.activations for keys in shards.all)))
        self.watch = Watch(lab, shards.all, self.clock)
        self.sink: list[str] = []
        self.published: Counter[str] = Counter()  # identity -> how often
        self.garbage = 0
        self.reports: set[str] = set()
        self.ops = rng.randint(3, 8)
        self.steps = 0
        self.trace: list[str] = [f"weather: {self.weather.name}"]
        self.coming = self._drawn_events()
        self.actors: list[Actor] = []
        self.workers: list[Worker] = []
        self.asleep: dict[Actor, int] = {}
        self._names = 0

    def store(self) -> WorkflowStore:
        """A process's own."""
        upstream = (lambda model: "upstream") if self.grouped else (lambda model: None)
        return WorkflowStore(
            self.lab.client,
            prefix=self.prefix,
            shards=self.shard_count,
            upstream_of=upstream,
            crashes_max=self.crashes_max,
        )

    # What happens

    def run(self) -> None:
        """The whole case; raises Broken."""
        hub, watch = self.lab.hub, self.watch
        hub.audits, hub.before, hub.after = watch.audits(), watch.before, watch.after
        try:
            self._publish(self.rng.randint(1, len(self.coming)))
            if self.rng.random() < 0.6:  # somebody has admitted these already
                Worker(self, "w0").take_in()
            for _ in range(self.rng.choice((2, 2, 3))):
                self._hire()
            last: Actor | None = None
            while self.actors and self.steps < 150:
                last = self._step(last)
            self._finish()
            self._judge()
        finally:
            hub.audits, hub.before, hub.after = [], lambda words: None, lambda words, reply: None
            self.bury()

    def story(self) -> list[str]:
        """The steps, without what differs from one run to the next (ids of entries, tokens, the prefix)."""
        return [
            re.sub(r"\b(\d{13}-\d+|[0-9a-f]{16}|s\d+:|\d{16}|20\d\d-\d\d-\d\dT\d\d:\d\d)", "", line)
            for line in self.trace
        ]

    def bury(self) -> None:
        """No thread stays behind."""
        for actor in self.actors:
            while not actor.over:
                actor.resume("die")
        self.actors.clear()

    def _step(self, last: Actor | None) -> Actor | None:
        rng, weather = self.rng, self.weather
        self.steps += 1
        draw = rng.random()
        takes_over = any(actor.pending and actor.pending[0] == "XCLAIM" for actor in self.actors)
        for share, move in (
            (weather.passes, self._pass_time),
            (weather.jumps, self._jump),
            (weather.destroys * (10 if takes_over else 1), self._destroy),
            (0.05, self._publish),
            (weather.sleeps, self._send_to_sleep),
        ):
            draw -= share
            if draw < 0:
                move()
                return last
        for actor in [*self.asleep]:
            self.asleep[actor] -= 1
            if self.asleep[actor] <= 0:
                del self.asleep[actor]
        awake = [actor for actor in self.actors if actor not in self.asleep]
        if not awake:
            self.asleep.clear()
            return None
        writes = last is not None and bool(last.pending) and last.pending[0] not in READS
        sticks = last in awake and rng.random() < weather.sticks / (2 if writes else 1)
        actor = last if last is not None and sticks else rng.choice(awake)
        self._resume(actor, self._verdict(actor))
        return actor

    def _verdict(self, actor: Actor) -> str:
        if not actor.pending:
            return "go"
        draw = self.rng.random() / (0.4 if actor.pending[0] in READS else 2)  # a lost read is the smaller harm
        if draw < self.weather.dies:
            return self.rng.choice(("die", "die after"))
        if draw < self.weather.dies + self.weather.loses:
            return self.rng.choice(("lose", "lose", "refuse"))
        return "go"

    def _resume(self, actor: Actor, verdict: str) -> None:
        self.trace.append(f"{actor.name}: {verdict} {self._told(actor.pending)}")
        self.watch.seen[verdict] += 1
        actor.resume(verdict)
        if actor.over:
            self.actors.remove(actor)
            if verdict.startswith("die") and self.ops > 0:  # somebody starts it again, mostly under its old name
                self._hire(actor.name if self.rng.random() < 0.7 else None)

    def _told(self, words: Words) -> str:
        if not words:
            return "starts"
        if words[0] == "EVALSHA":
            count = int(words[2])
            args = [str(arg)[:16] for arg in words[3 + count :] if not str(arg).startswith("{")]
            return f"{self.lab.names.get(str(words[1]), '?')}({', '.join(args[:12])})"
        return " ".join(str(word) for word in words[:8])

    def _hire(self, name: str | None = None) -> None:
        if name is None:
            self._names += 1
            name = f"w{self._names}"
        worker = Worker(self, name)
        self.workers.append(worker)
        self.actors.append(Actor(self.lab.hub, name, worker.work))

    # The surroundings

    def _drawn_events(self) -> list[str]:
        rng, drawn = self.rng, list[str]()
        for _ in range(rng.randint(1, 4)):
            draw = rng.random()
            model = rng.choice(MODELS) if rng.random() < 0.4 else "a"
            if drawn and draw < 0.2:
                drawn.append(rng.choice(drawn))
            elif draw < 0.3:
                drawn.append(report_text(model, len(drawn)))
            elif draw < 0.35:
                drawn.append("{" + f'"broken": {len(drawn)}')
            else:
                drawn.append(event_text(model, rng.choice(("production", "production", "staging")), len(drawn)))
        return drawn

    def _publish(self, count: int = 1) -> None:
        batch, self.coming = self.coming[:count], self.coming[count:]
        if not batch:
            return
        for raw in batch:
            if raw.startswith('{"broken'):
                self.garbage += 1
            elif "performance.v1" in raw:
                self.reports.add(raw)
            else:
                self.published[identity(raw)] += 1
        self.trace.append(f"{len(batch)} events come")
        self.lab.wire.call(*(("XADD", self.intake, "*", "event", raw) for raw in batch))

    def _pass_time(self) -> None:
        self.pass_ms(self.rng.choice((700, 700, 5_000, LEASE_MS + 1, 40_000, DAY_MS)))

    def _jump(self) -> None:
        self.pass_ms(self.rng.choice((-3_600_000, -LEASE_MS, -1, 3_600_000)))

    def pass_ms(self, ms: int) -> None:
        """Time passes, or (negative) the server's clock goes back."""
        self.trace.append(f"time {ms:+} ms")
        self.watch.seen["time"] += 1
        self.clock.pass_ms(ms)
        for worker in self.workers:
            worker.store.sweep_soon()

    def _destroy(self) -> None:
        stream = self.rng.choice((self.intake, *(keys.activations for keys in self.watch.shards)))
        self.trace.append(f"the group of {stream} is destroyed")
        self.lab.wire.call(("XGROUP", "DESTROY", stream, GROUP))

    def _send_to_sleep(self) -> None:
        awake = [actor for actor in self.actors if actor.pending and actor not in self.asleep]
        if awake:
            actor = self.rng.choice([one for one in awake if one.pending[0] not in READS] or awake)
            self.asleep[actor] = self.rng.randint(3, 20)
            self.trace.append(f"{actor.name} sleeps before {self._told(actor.pending)}")
            self.watch.seen["sleeps"] += 1
            self.pass_ms(LEASE_MS + 1)

    # The end

    def _finish(self) -> None:
        """Sleepers wake up and go on, all that is left comes, and one worker finishes everything without a fault."""
        self.trace.append("from here on nothing goes wrong")
        self._publish(len(self.coming))
        self.ops = 0
        while self.actors:
            self._resume(self.rng.choice(self.actors), "go")
        last = Worker(self, "last")
        self.workers.append(last)
        for _ in range(ROUNDS_MAX):
            self.pass_ms(DAY_MS)
            last.take_in()
            last.store.pump_timers(limit=100)
            while last.claim_and_end():
                pass
            left = self.lab.wire.call(
                ("XLEN", self.intake),
                *(("XLEN", keys.activations) for keys in self.watch.shards),
                *(("ZCARD", keys.timers) for keys in self.watch.shards),
            )
            if not any(left):
                return
        raise Broken(f"I5: no rest, intake, activations and timers hold {left}")

    def _judge(self) -> None:
        """What must hold at rest."""
        wire, known = self.lab.wire, self.watch.known
        found: dict[str, dict[str, str]] = {}
        seen: Counter[str] = Counter()
        for keys in self.watch.shards:
            names = (keys.model(model) for model in MODELS)
            ids = [one.decode() for one in wire.call(("ZRANGE", keys.index, 0, -1))[0]]
            moved, *rest = wire.call(
                ("XRANGE", keys.transitions, "-", "+"),
                *(("HGET", name, "active") for name in names),
                *(("ZCARD", keys.model(model, "queue")) for model in MODELS),
                *(("SCARD", keys.model(model, "verifying")) for model in MODELS),
                *(("HGETALL", keys.wf(one)) for one in ids),
                *(("LRANGE", keys.wf(one, "keys"), 0, -1) for one in ids),
            )
            hold(not any(rest[:6]), f"I7: slots, queues and who verifies: {rest[:6]}")
            hashes = dict(zip(ids, map(table, rest[6 : 6 + len(ids)]), strict=True))
            seen.update(name.decode().partition("|")[0] for names in rest[6 + len(ids) :] for name in names)
            self._judge_transitions([table(fields) for _, fields in moved], hashes)
            found |= hashes
        for one, h in found.items():
            hold(h["done"] == "1" and h["run"] == "0" and h["lease"] == "0", f"I5: {one} has not ended: {h}")
            acted = self.sink.count(one)
            hold(acted <= 1, f"I2: {acted} effects of {one}")
            hold(acted == 1 or h["state"] != "resolved", f"I2: {one} is resolved without its effect")
        wanted = Counter(dict.fromkeys(self.published, 1))
        hold(seen == wanted, f"I1: {len(wanted)} events are in incidents {[*seen.values()]} times")
        lost = {signal for signal in known.sent if not known.heard[signal] and signal[0] not in known.gave_up}
        hold(not lost, f"I6: signals {sorted(lost)} were never heard")
        hold(all(count == 1 for count in known.heard.values()), f"I6: signals heard twice: {known.heard}")
        self._judge_streams()

    def _judge_streams(self) -> None:
        keys = self.watch.shards
        dead, *rest = self.lab.wire.call(
            ("XRANGE", self.dead_letters, "-", "+"),
            ("XPENDING", self.intake, GROUP),
            *(("XPENDING", one.activations, GROUP) for one in keys),
            *(("LRANGE", one.model(model, "performance"), 0, -1) for one in keys for model in MODELS),
        )
        pending = [one[0] for one in rest[: 1 + len(keys)] if isinstance(one, list)]
        hold(not any(pending), f"I7: {pending} entries of intake and activations are pending")
        kept = Counter(raw.decode() for reports in rest[1 + len(keys) :] for raw in reports)
        hold(
            kept == Counter(dict.fromkeys(self.reports, 1)),
            f"I1: {len(self.reports)} reports are kept {[*kept.values()]} times",
        )
        letters = [table(fields) for _, fields in dead]
        lost = Counter(one["incident"] for one in letters if one["kind"] == "incident")
        crashed = self.watch.known.crashed_out
        hold(lost == crashed, f"I1: dead letters of incidents {lost}, of crash loops {crashed}")
        buried = sum(one["kind"] == "event" for one in letters)
        hold(buried == self.garbage, f"I1: {buried} dead letters of {self.garbage} entries that cannot be read")

    def _judge_transitions(self, moved: list[dict[str, str]], hashes: dict[str, dict[str, str]]) -> None:
        last: dict[str, tuple[int, int, str]] = {}
        for one in moved:
            version, fence, state = last.get(one["incident"], (-1, 0, ""))
            hold(int(one["version"]) == version + 1, f"I4: versions of {one['incident']} are not contiguous")
            hold(int(one["fence"]) >= fence, f"I4: fences of {one['incident']} go back")
            hold(one["from"] == state, f"I4: an arrow of {one['incident']} begins at {one['from']}, not {state}")
            last[one["incident"]] = (int(one["version"]), int(one["fence"]), one["state"])
        at = {one: (int(h["version"]), h["state"]) for one, h in hashes.items()}
        hold({one: (v, s) for one, (v, _, s) in last.items()} == at, "I4: transitions and incidents differ")
