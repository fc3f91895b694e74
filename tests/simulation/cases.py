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
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from typing import Any

from simulation.virtual import GROUP, Actor, Clock, Hub, VirtualRedis, Wire, Words

from driftwarden.errors import Fenced
from driftwarden.service.workflow.store import Claim, WorkflowStore
from driftwarden.service.workflow.store_types import Keys
from driftwarden.stream import scripts
from driftwarden.stream.intake import Intake
from driftwarden.stream.publisher import build_event

LEASE_MS = 10_000
DAY_MS = 90_000_000  # longer than any timer
NOW = "2026-11-20T09:00:00.000000Z"
MODELS = ("a", "b")
PACKAGES = {"driftwarden.service.workflow": "workflow", "driftwarden.stream": "stream"}
ROUNDS_MAX = 12

# KEYS: activations, timers, index, counts; ARGV: names with % for the incident or model: wf, wf:signals, model, model:queue;
# then the models. The answer: what does not hold, or ''.
AUDIT = """
local function name(i, what) return (string.gsub(ARGV[i], '%%', function() return what end)) end
local reach, tally, running, total = {}, {}, {}, 0
for _, entry in ipairs(redis.call('XRANGE', KEYS[1], '-', '+')) do
  for i = 1, #entry[2], 2 do if entry[2][i] == 'incident' then reach[entry[2][i + 1]] = true end end
end
for _, member in ipairs(redis.call('ZRANGE', KEYS[2], 0, -1)) do reach[string.match(member, '^(.-)|')] = true end
local active = {}
for i = 5, #ARGV do
  active[ARGV[i]] = redis.call('HGET', name(3, ARGV[i]), 'active') or ''
  local queue = redis.call('ZRANGE', name(4, ARGV[i]), 0, -1)
  if #queue > 0 and active[ARGV[i]] == '' then return 'I3: ' .. queue[1] .. ' waits for a slot that is free' end
  for _, incident in ipairs(queue) do reach[incident] = true end
end
for _, incident in ipairs(redis.call('ZRANGE', KEYS[3], 0, -1)) do
  local h = redis.call('HMGET', name(1, incident), 'done', 'run', 'model', 'state')
  tally[h[4]] = (tally[h[4]] or 0) + 1; total = total + 1
  if h[1] ~= '1' and not reach[incident] then
    return 'I5: ' .. incident .. ' (' .. h[4] .. ') is in no activation, timer or queue'
  end
  if not reach[incident] and redis.call('HLEN', name(2, incident)) > 0 then
    return 'I6: ' .. incident .. ' has a signal and no activation'
  end
  if h[2] == '1' then
    if running[h[3]] then return 'I3: ' .. incident .. ' and ' .. running[h[3]] .. ' run at once' end
    running[h[3]] = incident
    if active[h[3]] ~= incident then return 'I3: ' .. incident .. ' runs, and the slot is with ' .. active[h[3]] end
  end
end
local counts = redis.call('HGETALL', KEYS[4])
for i = 1, #counts, 2 do
  if tonumber(counts[i + 1]) ~= (tally[counts[i]] or 0) then return 'I4: ' .. counts[i + 1] .. ' counted as ' .. counts[i] end
  total = total - counts[i + 1]
end
return total == 0 and '' or 'I4: incidents that are not counted'
"""

# KEYS: whatever must stay as it is -> a digest of it
DIGEST = """
local all = {}
for _, key in ipairs(KEYS) do
  local kind, found = redis.call('TYPE', key)['ok'], {}
  if kind == 'hash' then
    local flat = redis.call('HGETALL', key)
    for i = 1, #flat, 2 do found[#found + 1] = flat[i] .. '=' .. flat[i + 1] end
    table.sort(found)
  elseif kind == 'zset' then found = redis.call('ZRANGE', key, 0, -1, 'WITHSCORES')
  elseif kind == 'list' then found = redis.call('LRANGE', key, 0, -1)
  elseif kind == 'set' then found = redis.call('SMEMBERS', key); table.sort(found)
  elseif kind == 'stream' then
    for _, entry in ipairs(redis.call('XRANGE', key, '-', '+')) do found[#found + 1] = entry[1] end
    local pending = redis.pcall('XPENDING', key, 'workers', '-', '+', 100)
    for _, p in ipairs(pending) do found[#found + 1] = p[1] .. p[2] end
  end
  all[#all + 1] = key .. ':' .. table.concat(found, ',')
end
return redis.sha1hex(table.concat(all, ';'))
"""

# Places of the scripts' arguments, from 0.
ACQUIRE_INCIDENT, ACQUIRE_TOKEN = 3, 7
COMMIT_INCIDENT, COMMIT_FENCE, COMMIT_VERSION, COMMIT_TOKEN, COMMIT_DISPOSITION = 3, 5, 6, 7, 9
BEAT_ENTRY, BEAT_FENCE, BACK_ENTRY, BACK_FENCE, BACK_INCIDENT = 2, 3, 1, 2, 3


class Broken(AssertionError):
    """An invariant does not hold."""


def scripts_of(package: str) -> list[str]:
    """Names of a package's scripts."""
    return sorted(one.name.removesuffix(".lua") for one in files(package).iterdir() if one.name.endswith(".lua"))


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


class Lab:
    """What all cases of a process share: one server, one connection, the names of the scripts that are loaded."""

    def __init__(self, url: str) -> None:
        """Make it within `virtual_scripts`: it learns the digests of the scripts as they are then."""
        self.wire = Wire(url)
        self.hub = Hub(self.wire)
        self.client = VirtualRedis.of(self.hub)
        self.names: dict[str, str] = {}
        for package in PACKAGES:
            for name in scripts_of(package):
                text = scripts._source(package, name)
                self.names[hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()] = name
                if not name.startswith(("successor", "policy_agreement", "ledger")):
                    self.wire.call(("SCRIPT", "LOAD", text))
        self.audit: bytes = self.wire.call(("SCRIPT", "LOAD", AUDIT))[0]
        self.digest: bytes = self.wire.call(("SCRIPT", "LOAD", DIGEST))[0]
        self._cases = 0

    def prefix(self) -> str:
        """Of a case of its own; now and then what earlier ones left is cleared away."""
        self._cases += 1
        if self._cases % 200 == 1:
            self.wire.call(("FLUSHALL",))
        return f"s{self._cases}:"

    def close(self) -> None:
        """Hang up."""
        self.wire.close()


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


@dataclass
class Known:
    """What the replies so far allow: the truth that the next reply is held against."""

    fence: dict[str, int] = field(default_factory=dict)
    version: dict[str, int] = field(default_factory=dict)
    claims: dict[str, int] = field(default_factory=dict)  # token of a claim -> fence
    commits: dict[str, int] = field(default_factory=dict)  # token of a commit -> version
    holder: dict[str, tuple[int, str]] = field(default_factory=dict)  # incident -> fence, entry
    lease_until: dict[str, float] = field(default_factory=dict)
    handed: set[int] = field(default_factory=set)
    ended: set[str] = field(default_factory=set)
    crashed_out: Counter[str] = field(default_factory=Counter)
    gave_up: set[str] = field(
        default_factory=set
    )  # what a crash loop ends, or kills after its end, drops what it was told
    heard: Counter[tuple[str, str]] = field(default_factory=Counter)


class Case:
    """One interleaving."""

    def __init__(self, lab: Lab, seed: int) -> None:
        """Set it up; the same seed on the same scripts is the same case."""
        self.lab, self.rng = lab, random.Random(seed)
        rng = self.rng
        self.weather = rng.choice(WEATHERS)
        self.prefix, self.crashes_max = lab.prefix(), rng.choice((0, 0, 1, 100))
        self.grouped = rng.random() < 0.4  # events of both models may join one incident
        keys = self.keys = Keys(self.prefix)
        self.clock = Clock(lab.wire, (keys.activations, keys.intake))
        self.known = Known()
        self.sink: list[str] = []
        self.published: Counter[str] = Counter()  # identity -> how often
        self.garbage = 0
        self.reports: set[str] = set()
        self.sent: set[tuple[str, str]] = set()  # incident and token of each signal
        self.handled: dict[tuple[str, int, int], list[str]] = {}
        self.ops = rng.randint(3, 7)
        self.steps = 0
        self.trace: list[str] = [f"weather: {self.weather.name}"]
        self.seen: Counter[str] = Counter()  # kinds of what happened, so that a test can see that they do
        self.coming = self._drawn_events()
        self.actors: list[Actor] = []
        self.workers: list[Worker] = []
        self.asleep: dict[Actor, int] = {}
        self._suspect: bytes | None = None
        self._names = 0

    # What happens

    def run(self) -> None:
        """The whole case; raises Broken."""
        hub, keys = self.lab.hub, self.keys
        named = (keys.wf("%"), keys.wf("%", "signals"), keys.model("%"), keys.model("%", "queue"), *MODELS)
        hub.audit = ("EVALSHA", self.lab.audit, 4, keys.activations, keys.timers, keys.index, keys.counts, *named)
        hub.before, hub.after = self._before, self._after
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
            hub.audit = None
            self._judge()
        finally:
            hub.audit, hub.before, hub.after = None, lambda words: None, lambda words, reply: None
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

    def will_handle(self, claim: Claim) -> None:
        """What a commit of this claim says that it has dealt with."""
        self.handled[claim.incident, claim.fence, claim.version] = [signal.token for signal in claim.signals]

    def _step(self, last: Actor | None) -> Actor | None:
        rng, weather = self.rng, self.weather
        self.steps += 1
        draw = rng.random()
        for share, move in (
            (weather.passes, self._pass_time),
            (weather.jumps, self._jump),
            (weather.destroys, self._destroy),
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
        actor = last if last in awake and rng.random() < weather.sticks else rng.choice(awake)
        self._resume(actor, self._verdict(actor))
        return actor

    def _verdict(self, actor: Actor) -> str:
        if not actor.pending:
            return "go"
        draw = self.rng.random() / (2 if actor.pending[0] == "EVALSHA" else 0.4)  # a lost read is the smaller harm
        if draw < self.weather.dies:
            return self.rng.choice(("die", "die after"))
        if draw < self.weather.dies + self.weather.loses:
            return self.rng.choice(("lose", "lose", "refuse"))
        return "go"

    def _resume(self, actor: Actor, verdict: str) -> None:
        self.trace.append(f"{actor.name}: {verdict} {self._told(actor.pending)}")
        self.seen[verdict] += 1
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
        self.lab.wire.call(*(("XADD", self.keys.intake, "*", "event", raw) for raw in batch))

    def _pass_time(self) -> None:
        self._tick(self.rng.choice((700, 700, 5_000, LEASE_MS + 1, 40_000, DAY_MS)))

    def _jump(self) -> None:
        self._tick(self.rng.choice((-3_600_000, -LEASE_MS, -1, 3_600_000)))

    def _tick(self, ms: int) -> None:
        self.trace.append(f"time {ms:+} ms")
        self.seen["time"] += 1
        self.clock.pass_ms(ms)
        for worker in self.workers:
            worker.store.sweep_soon()

    def _destroy(self) -> None:
        keys = self.keys
        stream = self.rng.choice((keys.activations, keys.intake))
        self.trace.append(f"the group of {stream} is destroyed")
        self.lab.wire.call(("XGROUP", "DESTROY", stream, GROUP))

    def _send_to_sleep(self) -> None:
        awake = [actor for actor in self.actors if actor.pending and actor not in self.asleep]
        if awake:
            actor = self.rng.choice([one for one in awake if one.pending[0] == "EVALSHA"] or awake)
            self.asleep[actor] = self.rng.randint(3, 20)
            self.trace.append(f"{actor.name} sleeps before {self._told(actor.pending)}")
            self.seen["sleeps"] += 1
            self._tick(LEASE_MS + 1)

    # Each command, held against those before

    def _before(self, words: Words) -> None:
        self._suspect = self._digest() if self._is_stale(words) else None

    def _is_stale(self, words: Words) -> bool:
        if words[0] != "EVALSHA":
            return False
        name, keys, args = self._script(words)
        known = self.known
        if name == "commit":
            incident, token = args[COMMIT_INCIDENT], args[COMMIT_TOKEN]
            current = (known.fence.get(incident), known.version.get(incident, 0))
            return token in known.commits or current != (int(args[COMMIT_FENCE]), int(args[COMMIT_VERSION]))
        if name == "heartbeat":
            return known.holder.get(self._incident(keys[1])) != (int(args[BEAT_FENCE]), args[BEAT_ENTRY])
        if name == "hand_back":
            return known.holder.get(args[BACK_INCIDENT]) != (int(args[BACK_FENCE]), args[BACK_ENTRY])
        return False

    def _after(self, words: Words, reply: Any) -> None:
        if self.lab.hub.audited:
            said = self.lab.hub.audited
            raise Broken(said.decode() if isinstance(said, bytes) else str(said))
        if words[0] == "EVALSHA" and not isinstance(reply, Exception):
            name, keys, args = self._script(words)
            said = reply[0] if isinstance(reply, list) and reply else reply
            self.seen[said.decode() if isinstance(said, bytes) and said.isalpha() else name] += 1
            if name == "acquire":
                self._acquired(args, reply)
            elif name == "commit":
                self._committed(args, reply)
            elif name == "heartbeat":
                self._beaten(self._incident(keys[1]), args, reply)
            elif name == "hand_back":
                self._handed_back(args, reply)
            elif name == "wake" and reply == b"OK":
                self.sent.add((args[0], args[1]))
        if self._suspect is not None and self._digest() != self._suspect:
            raise Broken(f"I3: a fenced or repeated call changed something: {self._told(words)}")

    def _acquired(self, args: list[str], reply: Any) -> None:
        known, incident, token = self.known, args[ACQUIRE_INCIDENT], args[ACQUIRE_TOKEN]
        if reply[0] == b"FAILED":
            known.gave_up.add(incident)
            known.holder.pop(incident, None)
            known.lease_until.pop(incident, None)
            if incident not in known.ended:
                known.crashed_out[incident] += 1
                known.ended.add(incident)
                known.version[incident] = known.version.get(incident, 0) + 1
                known.fence[incident] = known.fence.get(incident, 0) + 1
        if reply[0] != b"OK":
            return
        fence = int(reply[1])
        if known.claims.get(token) == fence:
            return
        self._hold(fence > known.fence.get(incident, 0), f"I4: the fence of {incident} does not grow")
        until = known.lease_until.get(incident, 0)
        self._hold(self.clock.now_ms >= until, f"I3: {incident} was taken from a worker whose lease had not run out")
        self.seen["claimed"] += 1
        known.claims[token] = known.fence[incident] = fence
        known.holder[incident] = (fence, args[2])
        known.lease_until[incident] = self.clock.now_ms + LEASE_MS

    def _committed(self, args: list[str], reply: Any) -> None:
        known, incident, token = self.known, args[COMMIT_INCIDENT], args[COMMIT_TOKEN]
        fence, version = int(args[COMMIT_FENCE]), int(args[COMMIT_VERSION])
        current = (known.fence.get(incident), known.version.get(incident, 0)) == (fence, version)
        if reply[0] == b"FENCED":
            self._hold(not current, f"I3: the worker that holds {incident} was fenced")
        if reply[0] != b"OK":
            return
        if token in known.commits:
            self._hold(int(reply[1]) == known.commits[token], f"I4: one commit of {incident} has two versions")
            return
        self._hold(current, f"I3: a fenced worker committed {incident}")
        self._hold(int(reply[1]) == version + 1, f"I4: version {reply[1]} of {incident} follows {version}")
        known.commits[token] = known.version[incident] = version + 1
        self.seen["committed"] += 1
        known.heard.update((incident, signal) for signal in self.handled[incident, fence, version])
        if args[COMMIT_DISPOSITION] == "go":
            known.lease_until[incident] = self.clock.now_ms + LEASE_MS
        else:
            known.holder.pop(incident, None)
            known.lease_until.pop(incident, None)
        if args[COMMIT_DISPOSITION] == "finish":
            known.ended.add(incident)

    def _beaten(self, incident: str, args: list[str], reply: Any) -> None:
        holds = self.known.holder.get(incident) == (int(args[BEAT_FENCE]), args[BEAT_ENTRY])
        self._hold(holds == (reply == b"OK"), f"I3: a heartbeat of {incident} was told {reply}")
        if holds:
            self.known.lease_until[incident] = self.clock.now_ms + LEASE_MS

    def _handed_back(self, args: list[str], reply: Any) -> None:
        known, incident, fence = self.known, args[BACK_INCIDENT], int(args[BACK_FENCE])
        holds = known.holder.get(incident) == (fence, args[BACK_ENTRY])
        self._hold(
            (holds or fence in known.handed) == (reply == b"OK"), f"I3: hand back of {incident} was told {reply}"
        )
        if holds:
            known.handed.add(fence)
            known.holder.pop(incident, None)
            known.lease_until.pop(incident, None)

    def _script(self, words: Words) -> tuple[str, list[str], list[str]]:
        count = int(words[2])
        texts = [str(word) for word in words[3:]]
        return self.lab.names.get(str(words[1]), ""), texts[:count], texts[count:]

    def _incident(self, key: str) -> str:
        return key.rpartition("wf:")[2]

    def _digest(self) -> bytes:
        keys = self.keys
        found = [keys.activations, keys.timers, keys.index, keys.counts, keys.transitions, keys.dead_letters]
        for incident in {*self.known.fence}:
            found += [
                keys.wf(incident),
                keys.wf(incident, "signals"),
                keys.wf(incident, "events"),
                keys.wf(incident, "keys"),
            ]
        for model in MODELS:
            found += [keys.model(model), keys.model(model, "queue"), keys.model(model, "verifying")]
        reply: bytes = self.lab.wire.call(("EVALSHA", self.lab.digest, len(found), *found))[0]
        return reply

    def _hold(self, holds: bool, what: str) -> None:
        if not holds:
            raise Broken(what)

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
        keys = self.keys
        for _ in range(ROUNDS_MAX):
            self._tick(DAY_MS)
            last.take_in()
            last.store.pump_timers(limit=100)
            while last.claim_and_end():
                pass
            streams = self.lab.wire.call(
                ("XLEN", keys.intake), ("XLEN", keys.activations), ("ZCARD", keys.timers),
            )  # fmt: skip
            if streams == [0, 0, 0]:
                return
        raise Broken(f"I5: no rest, intake, activations and timers hold {streams}")

    def _judge(self) -> None:
        """What must hold at rest."""
        wire, keys = self.lab.wire, self.keys
        ids = [one.decode() for one in wire.call(("ZRANGE", keys.index, 0, -1))[0]]
        dead, moved, *rest = wire.call(
            ("XRANGE", keys.dead_letters, "-", "+"), ("XRANGE", keys.transitions, "-", "+"),
            ("XPENDING", keys.intake, GROUP), ("XPENDING", keys.activations, GROUP),
            *(("HGET", keys.model(model), "active") for model in MODELS),
            *(("ZCARD", keys.model(model, "queue")) for model in MODELS),
            *(("SCARD", keys.model(model, "verifying")) for model in MODELS),
            *(("LRANGE", keys.model(model, "performance"), 0, -1) for model in MODELS),
        )  # fmt: skip
        pending = [one[0] for one in rest[:2] if isinstance(one, list)]
        self._hold(not any(pending), f"I7: {pending} entries of intake and activations are pending")
        self._hold(not any(rest[2:8]), f"I7: slots, queues and who verifies: {rest[2:8]}")
        kept = {raw.decode() for reports in rest[8:] for raw in reports}
        self._hold(kept == self.reports and len(kept) == sum(map(len, rest[8:])), "I1: reports lost or kept twice")
        hashes = [table(h) for h in wire.call(*(("HGETALL", keys.wf(one)) for one in ids))] if ids else []
        lists = wire.call(*(("LRANGE", keys.wf(one, "keys"), 0, -1) for one in ids)) if ids else []
        seen = Counter(name.decode().partition("|")[0] for names in lists for name in names)
        self._hold(
            seen == Counter(dict.fromkeys(self.published, 1)),
            f"I1: {len(self.published)} events, in incidents {[*seen.values()]}",
        )
        letters = [table(fields) for _, fields in dead]
        lost = Counter(one["incident"] for one in letters if one["kind"] == "incident")
        self._hold(
            lost == self.known.crashed_out, f"I1: dead letters of incidents {lost}, crashed {self.known.crashed_out}"
        )
        buried = sum(one["kind"] == "event" for one in letters)
        self._hold(buried == self.garbage, f"I1: {buried} dead letters of {self.garbage} entries that cannot be read")
        for one, h in zip(ids, hashes, strict=True):
            self._hold(h["done"] == "1" and h["run"] == "0" and h["lease"] == "0", f"I5: {one} has not ended: {h}")
            acted = self.sink.count(one)
            self._hold(acted <= 1, f"I2: {acted} effects of {one}")
            self._hold(acted == 1 or h["state"] != "resolved", f"I2: {one} is resolved without its effect")
        self._judge_signals()
        self._judge_transitions([table(fields) for _, fields in moved], dict(zip(ids, hashes, strict=True)))

    def _judge_signals(self) -> None:
        heard = self.known.heard
        lost = {signal for signal in self.sent if not heard[signal] and signal[0] not in self.known.gave_up}
        self._hold(not lost, f"I6: signals {sorted(lost)} were never heard")
        self._hold(all(count == 1 for count in heard.values()), f"I6: signals heard twice: {heard}")

    def _judge_transitions(self, moved: list[dict[str, str]], hashes: dict[str, dict[str, str]]) -> None:
        last: dict[str, tuple[int, int, str]] = {}
        for one in moved:
            version, fence, state = last.get(one["incident"], (-1, 0, ""))
            self._hold(int(one["version"]) == version + 1, f"I4: versions of {one['incident']} are not contiguous")
            self._hold(int(one["fence"]) >= fence, f"I4: fences of {one['incident']} go back")
            self._hold(one["from"] == state, f"I4: an arrow of {one['incident']} begins at {one['from']}, not {state}")
            last[one["incident"]] = (int(one["version"]), int(one["fence"]), one["state"])
        at = {one: (int(h["version"]), h["state"]) for one, h in hashes.items()}
        self._hold({one: (v, s) for one, (v, _, s) in last.items()} == at, "I4: transitions and incidents differ")


class Worker:
    """A process: takes in, claims, walks, pumps timers, leaves signals; may be any of several at once."""

    def __init__(self, case: Case, name: str) -> None:
        """Under a name that no other live one has."""
        self.case, self.name, self.rng = case, name, case.rng
        self.store = WorkflowStore(case.lab.client, prefix=case.prefix, crashes_max=case.crashes_max)
        self.intake = Intake(case.lab.client, name, prefix=case.prefix, reclaim_after_ms=LEASE_MS)

    def work(self) -> None:
        """Until the case has no operation left."""
        case, moves = self.case, (self.take_in, self.claim, self.pump, self.wake, self.trim)
        while case.ops > 0:
            case.ops -= 1
            waits = case.published.total() + len(case.reports) + case.garbage > case.seen["acknowledge"]
            self.rng.choices(moves, (6 if waits else 0.5, 9 if case.seen["opened"] else 0.5, 2, 1, 0.3))[0]()

    def take_in(self) -> None:
        """Admit what waits, reports by themselves, drifts together."""
        deliveries = self.intake.read(self.rng.randint(1, 3))
        drifts = [one for one in deliveries if one.event.kind != "performance"]
        for one in deliveries:
            if one.event.kind == "performance":
                self.store.record_performance(one.entry_id, one.event)
        if drifts:
            groups = ("upstream",) if self.case.grouped else ()
            self.store.admit_many(drifts, now=NOW, groups=lambda event: groups)

    def pump(self) -> None:
        """Fire the timers that are due."""
        self.store.pump_timers(limit=self.rng.choice((1, 100)))

    def wake(self) -> None:
        """Leave a signal for some incident."""
        found = sorted(self.case.known.fence)
        if found:
            self.store.wake(self.rng.choice(found), "signal", len(self.case.sent))

    def trim(self) -> None:
        """The backstop."""
        self.store.trim()

    def claim(self) -> None:
        """Take an incident up and walk it; whoever was replaced stops."""
        claim = self.store.claim(self.name, block_ms=0, lease_ms=LEASE_MS)
        if claim is None:
            return
        try:
            self.walk(claim)
        except Fenced:
            return

    def walk(self, claim: Claim) -> None:
        """Steps of an incident, as far as this worker goes."""
        rng, step = self.rng, 0
        while True:
            step += 1
            if rng.random() < 0.15:
                self.store.heartbeat(claim)
            if claim.state == "executing":
                self.effect(claim)
            if claim.state in {"received", "triaged"} and rng.random() < 0.06:
                self.store.hand_back(claim, after_s=rng.choice((0, 0, 5)))
                break
            state, disposition = self.onwards(claim, last=step > 3)
            weighed = len(claim.events)
            if weighed > 1 and rng.random() < 0.3:
                weighed = max(1, weighed - 1)
            self.case.will_handle(claim)
            old, claim = claim, self.store.commit(
                claim,
                state=state,
                doc={"step": claim.version},
                disposition=disposition,  # type: ignore[arg-type]
                due_s=rng.choice((None, 1, 30)) if disposition in {"park", "release"} else None,
                accepting=state in {"received", "triaged", "waiting"},
                handled=claim.signals,
                weighed=weighed,
                split=state == "executing",
            )  # fmt: skip
            if disposition != "go":
                if rng.random() < 0.25:
                    self.store.heartbeat(old)  # its heart beats once more: Fenced
                break

    def onwards(self, claim: Claim, *, last: bool) -> tuple[str, str]:
        """Where it goes from here."""
        rng, state = self.rng, claim.state
        if state in {"failed", "closed", "resolved"}:
            return state, "finish"
        if state == "executing":
            return rng.choice(
                (("verifying", "release"), ("resolved", "finish"), ("resolved", "finish"), ("executing", "park"))
            )
        if state == "verifying":
            return rng.choice((("resolved", "finish"), ("verifying", "release")))
        if last:
            return state, "park"
        return rng.choice((
            ("triaged", "go"), ("triaged", "go"), ("triaged", "park"), ("executing", "go"), ("executing", "go"),
            ("executing", "go"), ("waiting", "release"), ("closed", "finish"),
        ))  # fmt: skip

    def effect(self, claim: Claim) -> None:
        """Look up by the key, check the lease, call; nothing comes between the check's answer and the call."""
        sink = self.case.sink
        if claim.incident not in sink:
            self.store.heartbeat(claim)
            sink.append(claim.incident)
            self.case.trace.append(f"{self.name}: effect of {claim.incident}")
            self.case.seen["effect"] += 1

    def claim_and_end(self) -> bool:
        """Take one up and finish it at once; False: there was none."""
        claim = self.store.claim(self.name, block_ms=0, lease_ms=LEASE_MS)
        if claim is None:
            return False
        if claim.state == "executing":
            self.effect(claim)
        ends = {"executing": "resolved", "verifying": "resolved", "failed": "failed", "resolved": "resolved"}
        state = ends.get(claim.state, "closed")
        self.case.will_handle(claim)
        self.store.commit(claim, state=state, doc={}, disposition="finish", accepting=False, handled=claim.signals)
        return True


def table(flat: Any) -> dict[str, str]:
    """A flat reply of names and values."""
    return {flat[i].decode(): flat[i + 1].decode() for i in range(0, len(flat), 2)}
