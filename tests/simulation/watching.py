"""What must hold after every single command: one script looks at the whole state, each reply is held against those before."""

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from simulation.virtual import Clock, Words

from driftwarden.service.workflow.store import Claim
from driftwarden.service.workflow.store_types import Keys

if TYPE_CHECKING:
    from simulation.lab import Lab

LEASE_MS = 10_000
MODELS = ("a", "b")

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


def hold(holds: bool, what: str) -> None:
    """Raise Broken with `what` where it does not hold."""
    if not holds:
        raise Broken(what)


@dataclass
class Known:
    """What the replies so far allow: the truth that the next reply is held against."""

    fence: dict[str, int] = field(default_factory=dict)
    version: dict[str, int] = field(default_factory=dict)
    claims: dict[str, int] = field(default_factory=dict)  # token of a claim -> fence
    commits: dict[str, int] = field(default_factory=dict)  # token of a commit -> version
    holder: dict[str, tuple[int, str]] = field(default_factory=dict)  # incident -> fence, entry
    lease_until: dict[str, float] = field(default_factory=dict)
    handed: dict[str, int] = field(default_factory=dict)  # incident -> fence of the last claim that was handed back
    ended: set[str] = field(default_factory=set)
    crashed_out: Counter[str] = field(default_factory=Counter)
    gave_up: set[str] = field(
        default_factory=set
    )  # a crash loop ended it, or killed it after its end: signals are dropped
    heard: Counter[tuple[str, str]] = field(default_factory=Counter)
    parked: int = 0  # commits that left a timer, less those that took up again
    sent: set[tuple[str, str]] = field(default_factory=set)  # incident and token of each signal
    handled: dict[tuple[str, int, int], list[str]] = field(
        default_factory=dict
    )  # claim -> signals that it will deal with


class Watch:
    """Sees every command of a case."""

    def __init__(self, lab: "Lab", shards: tuple[Keys, ...], clock: Clock) -> None:
        """`shards`: the keys of each shard."""
        self._lab, self.shards, self._clock = lab, shards, clock
        self.known = Known()
        self.seen: Counter[str] = Counter()  # kinds of what happened, so that a test can see that they do
        self._suspect: bytes | None = None

    def audits(self) -> list[Words]:
        """The commands that look at each shard."""
        found: list[Words] = []
        for keys in self.shards:
            named = (keys.wf("%"), keys.wf("%", "signals"), keys.model("%"), keys.model("%", "queue"), *MODELS)
            found.append(
                ("EVALSHA", self._lab.audit, 4, keys.activations, keys.timers, keys.index, keys.counts, *named)
            )
        return found

    def keys_of(self, incident: str) -> Keys:
        """The keys of an incident's shard."""
        return self.shards[int(incident[-3:], 16)] if len(self.shards) > 1 else self.shards[0]

    def will_handle(self, claim: Claim) -> None:
        """What a commit of this claim says that it has dealt with."""
        tokens = [signal.token for signal in claim.signals]
        self.known.handled[claim.incident, claim.fence, claim.version] = tokens

    def before(self, words: Words) -> None:
        """A command of somebody who was replaced, or who repeats, must change nothing."""
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

    def after(self, words: Words, reply: Any) -> None:
        """What a command was told, and what every shard looks like after it."""
        for said in self._lab.hub.audited:
            hold(not said, said.decode() if isinstance(said, bytes) else str(said))
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
            elif name == "timers":
                self.known.parked = max(0, self.known.parked - int(reply))
            elif name == "wake" and reply == b"OK":
                self.known.sent.add((args[0], args[1]))
        if self._suspect is not None:
            hold(self._digest() == self._suspect, "I3: a fenced or repeated call changed something")

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
        mine = known.claims.get(token)
        if (
            mine is not None
            and known.holder.get(incident) == (mine, args[2])
            and self._clock.now_ms < known.lease_until[incident]
        ):
            hold(reply[0] == b"OK", f"I3: the worker that holds {incident} asks again, and is told {reply[0]!r}")
        if reply[0] != b"OK":
            return
        fence = int(reply[1])
        if known.claims.get(token) == fence:
            return
        hold(fence > known.fence.get(incident, 0), f"I4: the fence of {incident} does not grow")
        until = known.lease_until.get(incident, 0)
        hold(self._clock.now_ms >= until, f"I3: {incident} was taken from a worker whose lease had not run out")
        self.seen["claimed"] += 1
        known.claims[token] = known.fence[incident] = fence
        known.holder[incident] = (fence, args[2])
        known.lease_until[incident] = self._clock.now_ms + LEASE_MS

    def _committed(self, args: list[str], reply: Any) -> None:
        known, incident, token = self.known, args[COMMIT_INCIDENT], args[COMMIT_TOKEN]
        fence, version = int(args[COMMIT_FENCE]), int(args[COMMIT_VERSION])
        current = (known.fence.get(incident), known.version.get(incident, 0)) == (fence, version)
        if reply[0] == b"FENCED":
            hold(not current, f"I3: the worker that holds {incident} was fenced")
            made = token in known.commits and known.fence.get(incident) == fence
            hold(
                not made or known.version[incident] != known.commits[token],
                f"I3: a commit of {incident} was made, and fenced",
            )
        if reply[0] != b"OK":
            return
        if token in known.commits:
            hold(int(reply[1]) == known.commits[token], f"I4: one commit of {incident} has two versions")
            return
        hold(current, f"I3: a fenced worker committed {incident}")
        hold(int(reply[1]) == version + 1, f"I4: version {reply[1]} of {incident} follows {version}")
        known.commits[token] = known.version[incident] = version + 1
        self.seen["committed"] += 1
        known.heard.update((incident, signal) for signal in known.handled[incident, fence, version])
        if args[COMMIT_DISPOSITION] == "go":
            known.lease_until[incident] = self._clock.now_ms + LEASE_MS
        else:
            known.holder.pop(incident, None)
            known.lease_until.pop(incident, None)
        known.parked += args[COMMIT_DISPOSITION] in {"park", "release"}
        if args[COMMIT_DISPOSITION] == "finish":
            known.ended.add(incident)

    def _beaten(self, incident: str, args: list[str], reply: Any) -> None:
        holds = self.known.holder.get(incident) == (int(args[BEAT_FENCE]), args[BEAT_ENTRY])
        hold(holds == (reply == b"OK"), f"I3: a heartbeat of {incident} was told {reply}")
        if holds:
            self.known.lease_until[incident] = self._clock.now_ms + LEASE_MS

    def _handed_back(self, args: list[str], reply: Any) -> None:
        known, incident, fence = self.known, args[BACK_INCIDENT], int(args[BACK_FENCE])
        holds = known.holder.get(incident) == (fence, args[BACK_ENTRY])
        hold(
            (holds or known.handed.get(incident) == fence) == (reply == b"OK"),
            f"I3: hand back of {incident} was told {reply}",
        )
        if holds:
            known.handed[incident] = fence
            known.holder.pop(incident, None)
            known.lease_until.pop(incident, None)

    def _script(self, words: Words) -> tuple[str, list[str], list[str]]:
        count = int(words[2])
        texts = [str(word) for word in words[3:]]
        return self._lab.names.get(str(words[1]), ""), texts[:count], texts[count:]

    def _incident(self, key: str) -> str:
        return key.rpartition("wf:")[2]

    def _digest(self) -> bytes:
        found = [self.shards[0].dead_letters]
        for keys in self.shards:
            found += [keys.activations, keys.timers, keys.index, keys.counts, keys.transitions]
            for model in MODELS:
                found += [keys.model(model), keys.model(model, "queue"), keys.model(model, "verifying")]
        for incident in {*self.known.fence}:
            found += [self.keys_of(incident).wf(incident, part) for part in ("", "signals", "events", "keys")]
        reply: bytes = self._lab.wire.call(("EVALSHA", self._lab.digest, len(found), *found))[0]
        return reply


def table(flat: Any) -> dict[str, str]:
    """A flat reply of names and values."""
    return {flat[i].decode(): flat[i + 1].decode() for i in range(0, len(flat), 2)}
