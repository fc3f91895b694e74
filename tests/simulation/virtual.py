"""A real Redis under a virtual clock, reached by a client whose every command is a step that a scheduler grants.

The scripts are the product's own; where they ask `redis.call('TIME')`, they are told the time of the simulation (a textual
substitution as they are loaded). How long a stream's entries lie idle, the server counts by its own clock: when virtual time
passes, each pending entry is made as much older.
"""

import math
import socket
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Self

import tenacity.nap
from redis import Redis
from redis._parsers import BaseParser
from redis.exceptions import ConnectionError as RedisConnectionError

from driftwarden.stream import scripts

CLOCK_KEY = "simulation:clock"
ASKS_TIME = "redis.call('TIME')"
TELLS_TIME = f"redis.call('HMGET', '{CLOCK_KEY}', 's', 'us')"
START_MS = 1_800_000_000_000
GROUP = "workers"

# KEYS: clock, streams; ARGV: now ms, passed ms (0 where the clock went back), group
ADVANCE = """
redis.call('HSET', KEYS[1], 's', math.floor(tonumber(ARGV[1]) / 1000), 'us', (tonumber(ARGV[1]) % 1000) * 1000)
for i = 2, #KEYS do
  local pending = redis.pcall('XPENDING', KEYS[i], ARGV[3], '-', '+', 100)
  for _, p in ipairs(pending) do
    redis.call('XCLAIM', KEYS[i], ARGV[3], p[2], 0, p[1], 'IDLE', p[3] + tonumber(ARGV[2]), 'RETRYCOUNT', p[4], 'JUSTID')
  end
end
return 1
"""

Words = tuple[Any, ...]
READS = {"XREADGROUP", "XAUTOCLAIM", "XCLAIM", "XGROUP", "XREVRANGE", "XPENDING"}  # of nobody's state but the reader's
Change = Mapping[str, tuple[str, str]]  # script -> (text, what stands in its place)


class Killed(BaseException):
    """The process of an actor died here; nothing of it goes on."""


@contextmanager
def virtual_scripts(change: Change | None = None, *, clock: bool = True) -> Iterator[None]:
    """While it lasts, scripts are loaded with the virtual clock, and with parts of their text changed (mutations)."""
    read, source, change = Path.read_text, scripts._source, change or {}

    def changed(path: Path, *args: Any, **options: Any) -> str:
        text = read(path, *args, **options)
        if path.suffix != ".lua":
            return text
        if path.stem in change:
            text = altered(path.stem, text, *change[path.stem])
        return text.replace(ASKS_TIME, TELLS_TIME) if clock else text

    Path.read_text = changed  # type: ignore[method-assign]
    scripts._source = cache(source.__wrapped__)
    try:
        yield
    finally:
        Path.read_text = read  # type: ignore[method-assign]
        scripts._source = source


def altered(name: str, text: str, old: str, new: str) -> str:
    """The text of a script with one place changed; raises AssertionError where that place is no longer there."""
    assert text.count(old) == 1, f"{name}.lua holds {text.count(old)} times, expected once: {old}"
    return text.replace(old, new)


@contextmanager
def no_pauses() -> Iterator[None]:
    """While it lasts, what is tried again is tried at once."""
    real = tenacity.nap.time
    tenacity.nap.time = SimpleNamespace(sleep=lambda seconds: None)  # type: ignore[assignment]
    try:
        yield
    finally:
        tenacity.nap.time = real


class Wire:
    """One connection on a Unix socket: commands out, replies in; a fraction of what a general client costs."""

    def __init__(self, url: str) -> None:
        """`url`: unix://..."""
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(url.partition("://")[2])
        self._buffer, self._at = b"", 0

    def call(self, *commands: Words) -> list[Any]:
        """Send commands together; their replies, errors as values."""
        self._socket.sendall(b"".join(_packed(words) for words in commands))
        return [self._reply() for _ in commands]

    def close(self) -> None:
        """Hang up."""
        self._socket.close()

    def _more(self) -> None:
        chunk = self._socket.recv(65536)
        if not chunk:
            raise RedisConnectionError("the server hung up")
        self._buffer, self._at = self._buffer[self._at :] + chunk, 0

    def _line(self) -> bytes:
        while (end := self._buffer.find(b"\r\n", self._at)) < 0:
            self._more()
        line = self._buffer[self._at : end]
        self._at = end + 2
        return line

    def _reply(self) -> Any:
        line = self._line()
        kind, rest = line[:1], line[1:]
        if kind == b"$":
            length = int(rest)
            if length < 0:
                return None
            while len(self._buffer) - self._at < length + 2:
                self._more()
            found = self._buffer[self._at : self._at + length]
            self._at += length + 2
            return found
        if kind == b":":
            return int(rest)
        if kind == b"*":
            count = int(rest)
            return None if count < 0 else [self._reply() for _ in range(count)]
        if kind == b"+":
            return rest
        return BaseParser.parse_error(rest.decode())


def _packed(words: Words) -> bytes:
    parts = [b"*%d\r\n" % len(words)]
    for word in words:
        text = word if isinstance(word, bytes) else str(word).encode()
        parts.append(b"$%d\r\n%b\r\n" % (len(text), text))
    return b"".join(parts)


class Hub:
    """Where actors wait for their turn: exactly one of them, or the scheduler, runs at any moment."""

    def __init__(self, wire: Wire) -> None:
        """Commands go over `wire`; `before` and `after` see each that is executed, lost reply or not."""
        self.wire = wire
        self.before: Callable[[Words], None] = lambda words: None
        self.after: Callable[[Words, Any], None] = lambda words, reply: None
        self.audits: list[Words] = []  # commands that are sent right after each that may change an incident
        self.audited: list[Any] = []
        self.current: Actor | None = None
        self.back = threading.Lock()
        self.back.acquire()

    def execute(self, words: Words) -> Any:
        """One command of whoever runs; raises what the server, or the scheduler's verdict, says."""
        actor = self.current
        verdict = actor.wait(words) if actor else "go"
        if verdict == "die":
            raise Killed
        if verdict == "refuse":
            raise RedisConnectionError("the server is away")
        self.before(words)
        reply, *self.audited = self.wire.call(words, *(() if words[0] in READS else self.audits))
        self.after(words, reply)
        if verdict == "die after":
            raise Killed
        if verdict == "lose":
            raise RedisConnectionError("the reply was lost")
        return reply


class Actor:
    """One process of the simulation: a thread that runs when it is told to, from one command to the next."""

    _idle: "list[_Thread]" = []

    def __init__(self, hub: Hub, name: str, work: "Callable[[], None]") -> None:
        """Starts at the first `resume`; `pending` is the command it waits with, `over` once it has ended or died."""
        self.name, self._hub, self._work = name, hub, work
        self.pending: Words = ()
        self.over = False
        self.error: BaseException | None = None
        self._verdict = ""
        self._thread: _Thread | None = None

    def resume(self, verdict: str = "go") -> None:
        """Let it go on as far as its next command; raises what the actor's own work raised."""
        hub, self._verdict = self._hub, verdict
        hub.current = self
        if self._thread is None:
            self._thread = Actor._idle.pop() if Actor._idle else _Thread()
            self._thread.job = self._run
        self._thread.go.release()
        hub.back.acquire()
        hub.current = None
        if self.over:
            Actor._idle.append(self._thread)
        if self.error is not None:
            raise self.error

    def wait(self, words: Words) -> str:
        """In the actor's thread: say what comes next, and wait for the verdict on it."""
        assert self._thread is not None
        self.pending = words
        self._hub.back.release()
        self._thread.go.acquire()
        return self._verdict

    def _run(self) -> None:
        try:
            self._work()
        except Killed:
            pass
        except BaseException as error:  # noqa: BLE001 - handed to the scheduler, whose thread is another one
            self.error = error
        self.over = True
        self._hub.back.release()


class _Thread:
    def __init__(self) -> None:
        self.go = threading.Lock()
        self.go.acquire()
        self.job: Callable[[], None] = lambda: None
        threading.Thread(target=self._loop, daemon=True).start()

    def _loop(self) -> None:
        while True:
            self.go.acquire()
            self.job()


class VirtualRedis(Redis):
    """What the store takes for its client; each command, also within a pipeline, is a step of the actor that runs."""

    hub: Hub

    @classmethod
    def of(cls, hub: Hub) -> "VirtualRedis":
        """A client that only goes over the hub."""
        client = cls(host="never-connected.invalid")
        client.hub = hub
        return client

    def execute_command(self, *args: Any, **options: Any) -> Any:
        """As redis-py's own, over the hub."""
        words = (*args[0].split(), *args[1:]) if " " in args[0] else args
        reply = self.hub.execute(words)
        if isinstance(reply, Exception):
            raise reply
        callback: Any = self.response_callbacks.get(args[0])
        return callback(reply, **options) if callback else reply

    def pipeline(self, transaction: bool = True, shard_hint: str | None = None) -> Any:
        """Commands that are sent together; other actors' commands may come in between."""
        return _Pipeline(self)


class _Pipeline:
    def __init__(self, client: VirtualRedis) -> None:
        self._client, self._commands = client, list[Words]()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._commands.clear()

    def execute_command(self, *args: Any, **options: Any) -> "_Pipeline":
        self._commands.append(args)
        return self

    def __getattr__(self, name: str) -> Any:
        method = getattr(Redis, name)
        return lambda *args, **options: method(self, *args, **options)

    def execute(self, raise_on_error: bool = True) -> list[Any]:
        replies: list[Any] = []
        for words in self._commands:
            try:
                replies.append(self._client.execute_command(*words))
            except RedisConnectionError:
                raise
            except Exception as error:
                if raise_on_error:
                    raise
                replies.append(error)
        self._commands.clear()
        return replies


class Clock:
    """The time that the scripts are told, in ms; it may jump."""

    def __init__(self, wire: Wire, streams: Sequence[str]) -> None:
        """`streams`: those whose pending entries age."""
        self._wire, self._streams = wire, tuple(streams)
        self._advance: bytes = wire.call(("SCRIPT", "LOAD", ADVANCE))[0]
        self.now_ms = START_MS
        self.pass_ms(0)

    def pass_ms(self, ms: int) -> None:
        """Time passes, or (negative) the server's clock is set back: then nothing grows older."""
        self.now_ms += ms
        keys = (CLOCK_KEY, *self._streams)
        self._wire.call(("EVALSHA", self._advance, len(keys), *keys, math.floor(self.now_ms), max(0, ms), GROUP))
