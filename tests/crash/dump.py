"""Everything that stands below a prefix of one Redis, read by one script: nothing moves between two of its keys.

What it reads it takes from names and types alone, so a key that moves into a shard (`<prefix>{3}:wf:...`) is found as
well. A cluster has no instant of its own: there each node is dumped, and the dumps are merged (an incident's keys lie on one).
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

# ARGV: pattern of the keys, 1 to leave out what conservation does not need (documents, raw events of incidents).
_DUMP = """
local found = {}
for _, key in ipairs(redis.call('KEYS', ARGV[1])) do
  local kind = redis.call('TYPE', key).ok
  local value
  if kind == 'hash' then
    if ARGV[2] == '1' and string.match(key, 'wf:inc%-%x+$') then
      value = {}
      for _, name in ipairs({'model', 'state', 'version', 'fence', 'done', 'run', 'lease', 'predecessor', 'successor'}) do
        local one = redis.call('HGET', key, name)
        if one then value[#value + 1] = name; value[#value + 1] = one end
      end
    else value = redis.call('HGETALL', key) end
  elseif kind == 'string' then value = redis.call('GET', key)
  elseif kind == 'list' then
    value = (ARGV[2] == '1' and string.match(key, 'wf:inc%-%x+:events$')) and {} or redis.call('LRANGE', key, 0, -1)
  elseif kind == 'set' then value = redis.call('SMEMBERS', key)
  elseif kind == 'zset' then value = redis.call('ZRANGE', key, 0, -1, 'WITHSCORES')
  elseif kind == 'stream' then
    local groups = {}
    for _, group in ipairs(redis.call('XINFO', 'GROUPS', key)) do
      groups[#groups + 1] = group[2]; groups[#groups + 1] = redis.call('XPENDING', key, group[2])[1]
    end
    local skip = ARGV[2] == '1' and string.match(key, 'transitions$')
    value = {skip and {} or redis.call('XRANGE', key, '-', '+'), groups}
  end
  if value then found[#found + 1] = {key, kind, value} end
end
local t = redis.call('TIME')
return {t[1] * 1000 + math.floor(t[2] / 1000), found}
"""

Fields = Mapping[str, str]


@dataclass(frozen=True)
class Entry:
    """One entry of a stream; `raw` has the fields as the bytes that came."""

    id: str
    fields: Fields
    raw: tuple[tuple[bytes, bytes], ...] = ()


@dataclass(frozen=True)
class Stream:
    """A stream and how many entries are pending in each of its groups."""

    entries: tuple[Entry, ...] = ()
    pending: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Stored:
    """An incident as it stands: its hash, its events (raw, oldest first) with their identities, and the words left for it."""

    id: str
    fields: Fields = field(default_factory=dict)
    events: tuple[str, ...] = ()
    identities: tuple[str, ...] = ()
    signals: Mapping[str, str] = field(default_factory=dict)

    @property
    def ended(self) -> bool:
        """True where its last commit was an end."""
        return self.fields.get("done") == "1"

    @property
    def state(self) -> str:
        """Where it stands."""
        return self.fields.get("state", "")

    @property
    def version(self) -> int:
        """How many commits it has had."""
        return int(self.fields.get("version", "-1"))

    @property
    def doc(self) -> dict[str, Any]:
        """Its document, {} where there is none that can be read."""
        try:
            found = json.loads(self.fields.get("doc", ""))
        except ValueError:
            return {}
        return found if isinstance(found, dict) else {}


@dataclass(frozen=True)
class Dump:
    """One instant of one Redis; times in its own ms. `other`: every key that has no place of its own here."""

    at_ms: int = 0
    incidents: Mapping[str, Stored] = field(default_factory=dict)
    streams: Mapping[str, Stream] = field(default_factory=dict)
    timers: Mapping[str, float] = field(default_factory=dict)  # `<incident>|<model>` -> due
    models: Mapping[str, Fields] = field(default_factory=dict)
    queued: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # model -> incidents
    reports: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # model -> raw performance events
    seen: Mapping[str, str] = field(default_factory=dict)  # identity -> what became of it
    other: Mapping[str, Any] = field(default_factory=dict)

    def entries(self, name: str) -> Iterator[Entry]:
        """Entries of every stream of that name, of whatever shard."""
        for key, stream in self.streams.items():
            if last_part(key) == name:
                yield from stream.entries

    @property
    def requests(self) -> dict[str, str]:
        """Every request for approval, those of the past (`approvals:past{<prefix>approvals}`) too."""
        past = (
            value for key, value in self.other.items() if key.startswith("approvals:past{") and isinstance(value, dict)
        )
        return {id: text for one in past for id, text in one.items()} | self.hashes("approvals")

    def hashes(self, name: str) -> dict[str, str]:
        """All fields of every hash of that name."""
        found: dict[str, str] = {}
        for key, value in self.other.items():
            if last_part(key) == name and isinstance(value, dict):
                found |= value
        return found


_WF = re.compile(r"wf:(inc-[0-9a-f]+)(?::(events|keys|signals))?$")
_MODEL = re.compile(r"model:([A-Za-z0-9._-]+)(?::(queue|incidents|verifying|performance))?$")
_SEEN = re.compile(r"seen:([0-9a-f]{64})$")


def last_part(key: str) -> str:
    """The name of a key without what stands before it: a shard, another key's name."""
    return re.split(r"[:}]", key)[-1]


def _text(value: bytes) -> str:
    return value.decode("utf-8", "backslashreplace")


def _flat(parts: Iterable[bytes]) -> dict[str, str]:
    texts = [_text(part) for part in parts]
    return dict(zip(texts[::2], texts[1::2], strict=True))


def _stream(value: Any) -> Stream:
    entries, groups = value
    found = []
    for id, flat in entries:
        raw = tuple(zip(flat[::2], flat[1::2], strict=True))
        found.append(Entry(_text(id), {_text(name): _text(one) for name, one in raw}, raw))
    return Stream(
        tuple(found), {_text(name): int(count) for name, count in zip(groups[::2], groups[1::2], strict=True)}
    )


def _of_incident(key: str, kind: str, value: Any) -> tuple[str, dict[str, Any]] | None:
    found = _WF.search(key)
    if found is None:
        return None
    part = found[2]
    if part in {None, "signals"} and kind == "hash":
        return found[1], {part or "fields": _flat(value)}
    if part == "keys":  # `<identity>|<model>` where the event is of another model than the incident
        return found[1], {"identities": tuple(_text(one).partition("|")[0] for one in value)}
    return found[1], {"events": tuple(_text(one) for one in value)}


def take_dump(client: Any, prefix: str = "driftwarden:", *, light: bool = False) -> Dump:
    """Read it all at one instant, while workers run. `light`: without documents, raw events and transitions."""
    pattern = re.sub(r"([*?\[\]\\])", r"\\\1", prefix) + "*"
    at_ms, rows = client.eval(_DUMP, 0, pattern, int(light))
    incidents: dict[str, dict[str, Any]] = {}
    dump: dict[str, dict[str, Any]] = {
        name: {} for name in ("streams", "timers", "models", "queued", "reports", "seen")
    }
    other: dict[str, Any] = {}
    for raw_key, raw_kind, value in rows:
        key, kind = _text(raw_key).removeprefix(prefix), _text(raw_kind)
        about, seen = _MODEL.search(key), _SEEN.search(key)
        if one := _of_incident(key, kind, value):
            incidents.setdefault(one[0], {}).update(one[1])
        elif kind == "stream":
            dump["streams"][key] = _stream(value)
        elif last_part(key) == "timers" and kind == "zset":
            dump["timers"] |= {member: float(due) for member, due in _flat(value).items()}
        elif about and about[2] is None and kind == "hash":
            dump["models"].setdefault(about[1], {}).update(_flat(value))
        elif about and about[2] == "queue":
            dump["queued"][about[1]] = tuple(_flat(value))
        elif about and about[2] == "performance":
            dump["reports"][about[1]] = tuple(_text(one) for one in value)
        elif seen:
            dump["seen"][seen[1]] = _text(value)
        elif kind == "hash":
            other[key] = _flat(value)
        elif kind == "string":
            other[key] = _text(value)
        else:
            other[key] = tuple(_text(one) for one in value)
    stored = {id: Stored(id, **parts) for id, parts in incidents.items() if "fields" in parts}
    return Dump(at_ms=int(at_ms), incidents=stored, other=other, **dump)
