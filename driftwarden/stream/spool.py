"""A bounded spool on local disk: events wait here, in order and durably, until Redis has them.

Files below `<state folder>/spool` (mode 0700, files 0600). The name of an event's file holds all that has to be known
without opening it:

- `<number>.<kept at>.<good until>.<model>.<random>.json`   one event, as it will be published; times in ms since 1970
- `dropped.json`   how many events were dropped, and why; only a person takes it away
- `*.bad`          files that could not be read as an event, at most `BAD_MAX` of them
- `lock`           flock, held for moments, while files are made, dropped or listed
- `sending.lock`   flock, held while events are sent: one sender at a time keeps their order

Where it is full, the oldest stay: the first evidence of a drift opens the incident, what comes later only joins it. So a
newer event is refused, unless it is the first of its model; then the newest of the model that has most makes room.
"""

import fcntl
import json
import logging
import os
import re
import secrets
import stat
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from driftwarden.clock import Clock, SystemClock, rfc3339
from driftwarden.contracts.base import Value
from driftwarden.contracts.event import EVENT_BYTES_MAX, MODEL_NAME_PATTERN, DriftEvent, parse_event
from driftwarden.contracts.watch import Duration
from driftwarden.errors import BadInput, Error, EventRejected, Retry, unreadable
from driftwarden.keyfile import make_folder

log = logging.getLogger(__name__)

BAD_MAX = 100
LOCK_WAIT_S = 10.0
_POLL_S = 0.01
_MIB = 1024 * 1024
_NAME = re.compile(rf"([0-9]{{20,30}})\.([0-9]{{1,14}})\.([0-9]{{1,14}})\.({MODEL_NAME_PATTERN})\.[0-9a-f]{{8}}\.json")
_DROPPED = "dropped.json"

Why = Literal["full", "too old", "unreadable"]


class SpoolBounds(Value):
    """What one spool may hold, and how long. `max_age` stays below the horizon of de-duplication (30 days by default)."""

    events: Annotated[int, Field(ge=1, le=100_000)] = 1000
    mib: Annotated[int, Field(ge=1, le=16_384)] = 64
    max_age: Annotated[Duration, Field(ge=timedelta(minutes=1), le=timedelta(days=365))] = timedelta(days=7)


class NotKept(Retry):
    """The spool did not take the event: its disk cannot be written, or somebody holds its lock."""


class SpoolFull(NotKept):
    """The spool did not take the event for want of room; it was counted as dropped."""


@dataclass(frozen=True, order=True)
class Spooled:
    """One event that waits, in the order in which they came; times in ms since 1970."""

    number: int
    name: str
    model: str = field(compare=False)
    kept_at_ms: int = field(compare=False)
    good_until_ms: int = field(compare=False)
    size: int = field(compare=False)


@dataclass(frozen=True)
class Waiting:
    """What a spool holds: events (`since`: RFC 3339 of the oldest), files set aside, how many were ever dropped and why."""

    events: int = 0
    since: str | None = None
    bad: int = 0
    dropped: dict[str, int] = field(default_factory=dict)
    last_dropped: str | None = None


@dataclass(frozen=True)
class Sent:
    """What one call sent, by file: the id of its entry; `problem`: why it stopped before the end; `busy`: another one sends."""

    entries: dict[str, str]
    problem: Error | None = None
    busy: bool = False


class Spool:
    """The spool of one state folder; any number of processes and threads may use it at once."""

    def __init__(self, state_folder: Path, bounds: SpoolBounds | None = None, *, clock: Clock | None = None) -> None:
        """Nothing is made before the first event is kept."""
        self.folder = state_folder.expanduser().absolute() / "spool"
        self._bounds, self._clock = bounds or SpoolBounds(), clock or SystemClock()

    def has_room(self, event: DriftEvent) -> bool:
        """True where this event would be kept without dropping another."""
        files = self._files()
        return len(files) < self._bounds.events and _bytes(files) + _size(event) <= self._bounds.mib * _MIB

    def put(self, event: DriftEvent) -> str:
        """Keep an event behind all others, on disk before this returns; the name of its file.

        Raises SpoolFull (no room: refused, and counted), NotKept (the disk, or a lock that is not given back).
        """
        try:
            self._make_folder()
            with self._lock():
                self._sweep()
                files = self._files()
                self._make_room(files, event)
                now = self._now_ms()
                number = files[-1].number + 1 if files else 1
                until = now + int(self._bounds.max_age.total_seconds() * 1000)
                name = f"{number:020d}.{now}.{until}.{event.model}.{secrets.token_hex(4)}.json"
                self._write(name, event.raw.encode("utf-8"))
        except OSError as error:
            raise NotKept(f"the spool cannot be written: {unreadable(error)} ({self.folder})") from None
        return name

    def holds(self, name: str) -> bool:
        """True while the event of this file waits."""
        return (self.folder / name).exists()

    def send(self, publish: Callable[[DriftEvent], str], *, until: float, wait_for_turn_s: float = 0.0) -> Sent:
        """Publish what waits, the oldest first, until nothing waits, `publish` fails, or `time.monotonic()` reaches `until`.

        `publish` returns the id of the entry. A file goes once its event is published: whoever dies in between leaves
        it to be published again, which the pair of source and id makes harmless. `wait_for_turn_s`: how long to wait
        while another process sends.
        """
        entries: dict[str, str] = {}
        if not self._files():
            return Sent(entries)
        try:
            with self._sole_sender(wait_for_turn_s) as mine:
                if not mine:
                    return Sent(entries, busy=True)
                while waiting := self._fresh():
                    for one in waiting:
                        if time.monotonic() >= until:
                            return Sent(entries, Retry("the time for sending is over"))
                        event = self._read(one)
                        if event is None:
                            continue
                        entries[one.name] = publish(event)
                        (self.folder / one.name).unlink(missing_ok=True)
        except Error as error:
            return Sent(entries, error)
        except OSError as error:
            return Sent(entries, Retry(f"the spool cannot be cleared: {unreadable(error)} ({self.folder})"))
        return Sent(entries)

    def waiting(self) -> Waiting:
        """What is there now; raises OSError where the folder cannot be read."""
        if not self.folder.is_dir():
            return Waiting()
        files, known = self._files(), self._known_drops()
        since = rfc3339(datetime.fromtimestamp(files[0].kept_at_ms / 1000, UTC)) if files else None
        bad = sum(path.suffix == ".bad" for path in self.folder.iterdir())
        return Waiting(len(files), since, bad, known["dropped"], known["last_at"])

    # Room and age

    def _make_room(self, files: list[Spooled], event: DriftEvent) -> None:
        while len(files) >= self._bounds.events or _bytes(files) + _size(event) > self._bounds.mib * _MIB:
            crowd = Counter(one.model for one in files)
            model, most = crowd.most_common(1)[0] if crowd else ("", 0)
            if event.model in crowd or most < 2:
                self._drop("full", event.model)
                room = f"{self._bounds.events} events or {self._bounds.mib} MiB"
                raise SpoolFull(f"the spool is full ({room}): an event of {event.model} was dropped ({self.folder})")
            newest = max(one for one in files if one.model == model)
            files.remove(newest)
            (self.folder / newest.name).unlink(missing_ok=True)
            self._drop("full", model)

    def _sweep(self) -> None:
        """Take away what writers that died left, and what is too old to be told from a repeat."""
        for path in self.folder.glob(".*.tmp"):
            path.unlink(missing_ok=True)
        now = self._now_ms()
        for one in self._files():
            if one.good_until_ms < now:
                (self.folder / one.name).unlink(missing_ok=True)
                self._drop("too old", one.model)

    def _fresh(self) -> list[Spooled]:
        with self._lock():
            self._sweep()
            return self._files()

    def _drop(self, why: Why, model: str) -> None:
        """Count an event that nobody will see; whoever calls holds the lock."""
        log.error("an event of %s was dropped from the spool %s: %s", model, self.folder, why)
        known, now = self._known_drops(), rfc3339(self._clock.now())
        known["dropped"][why] = known["dropped"].get(why, 0) + 1
        record = known | {"since": known["since"] or now, "last_at": now, "last_model": model}
        try:
            self._write(_DROPPED, json.dumps(record, indent=2).encode())
        except OSError as error:
            log.error("what was dropped could not be counted: %s", unreadable(error))

    def _known_drops(self) -> dict[str, Any]:
        record: Any = None
        with suppress(OSError, ValueError):
            record = json.loads((self.folder / _DROPPED).read_bytes())
        counts = record.get("dropped") if isinstance(record, dict) else None
        good = {str(why): n for why, n in counts.items() if isinstance(n, int)} if isinstance(counts, dict) else {}
        times = {name: record.get(name) if isinstance(record, dict) else None for name in ("since", "last_at")}
        return {"dropped": good, **{name: at if isinstance(at, str) else None for name, at in times.items()}}

    # Files

    def _files(self) -> list[Spooled]:
        found = []
        with suppress(FileNotFoundError), os.scandir(self.folder) as listing:
            for item in listing:
                match = _NAME.fullmatch(item.name)
                if match is None:
                    continue
                with suppress(FileNotFoundError):  # sent in this moment
                    size = item.stat(follow_symlinks=False).st_size
                    number, kept_at, until = (int(match[part]) for part in (1, 2, 3))
                    found.append(Spooled(number, item.name, match[4], kept_at, until, size))
        return sorted(found)

    def _read(self, one: Spooled) -> DriftEvent | None:
        """The event of a file, None where it has gone or had to be set aside."""
        path = self.folder / one.name
        try:
            fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            with os.fdopen(fd, "rb") as file:
                return parse_event(file.read(EVENT_BYTES_MAX + 1))
        except FileNotFoundError:
            return None
        except (OSError, EventRejected) as error:
            reason = error.diagnostics() if isinstance(error, EventRejected) else unreadable(error)
        log.error("%s cannot be read and is set aside: %s", path, reason)
        with self._lock():
            if sum(1 for _ in self.folder.glob("*.bad")) < BAD_MAX:
                path.replace(path.with_name(one.name + ".bad"))
            else:
                path.unlink(missing_ok=True)
            self._drop("unreadable", one.model)
        return None

    def _write(self, name: str, content: bytes) -> None:
        """Whole or not at all, and on disk: the file first, then its name."""
        fresh = self.folder / f".{name}.tmp"
        try:
            fresh.unlink(missing_ok=True)
            fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            with os.fdopen(fd, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            fresh.replace(self.folder / name)
        except OSError:
            with suppress(OSError):
                fresh.unlink(missing_ok=True)
            raise
        _sync_folder(self.folder)

    def _make_folder(self) -> None:
        if not self.folder.is_dir():
            make_folder(self.folder, 0o700)
            _sync_folder(self.folder.parent)
        status = self.folder.lstat()
        if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & 0o022:
            raise NotKept(f"the spool needs a folder of this user that nobody else may write ({self.folder})")

    def _now_ms(self) -> int:
        return int(self._clock.now().timestamp() * 1000)

    # Locks: they die with their holders, SIGKILL included

    @contextmanager
    def _lock(self) -> Iterator[None]:
        with _flocked(self.folder / "lock", wait_s=LOCK_WAIT_S) as held:
            if not held:
                raise NotKept(f"the spool's lock was not given back within {LOCK_WAIT_S:g} s ({self.folder})")
            yield

    @contextmanager
    def _sole_sender(self, wait_s: float) -> Iterator[bool]:
        with _flocked(self.folder / "sending.lock", wait_s=wait_s) as held:
            yield held


@contextmanager
def _flocked(file: Path, *, wait_s: float) -> Iterator[bool]:
    deadline = time.monotonic() + wait_s
    fd = os.open(file, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    held = False
    try:
        while not held:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                held = True
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    break
                time.sleep(_POLL_S)
        yield held
    finally:
        if held:
            fcntl.flock(
                fd, fcntl.LOCK_UN
            )  # a forked child may still have the descriptor: closing alone would not unlock
        os.close(fd)


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _bytes(files: list[Spooled]) -> int:
    return sum(one.size for one in files)


def _size(event: DriftEvent) -> int:
    return len(event.raw.encode("utf-8"))


def read_bounds(options: Any, *, where: str) -> SpoolBounds:
    """The bounds that a configuration names (`{events, mib, max_age}`); raises BadInput."""
    from pydantic import ValidationError

    try:
        return SpoolBounds.model_validate(options if options is not None else {})
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(("spool", *map(str, first["loc"])))
        raise BadInput(place, got=first.get("input"), expected=str(first["msg"]), where=where) from None
