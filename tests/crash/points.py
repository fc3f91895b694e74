"""Fail points of a process: every place where it can be killed, told as it comes there, in the order of the run.

Nothing here names a point by hand. The store and the worker tell theirs (`fail_point`), the actions tell their steps, and
everything through which a process leaves a trace is wrapped whole: each command to Redis, each call of the registry's
client, each fsync and each write that is one (`O_DSYNC`), each method of the books (ledger, approvals, metrics, state, messages).

A fsync is a place of its own: `unsynced:` and `torn:` die there and take from the file what no fsync had made durable, all
of it or half, as a machine does that loses power.
"""

import fcntl
import os
import re
import signal
import stat
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial, wraps
from pathlib import Path
from typing import Any

# How files are named that are put in another's place once they are whole.
_TEMPORARY = re.compile(r"^\.(.*?)\.[0-9]+(?:\.[0-9a-f]+)?$")


@dataclass(frozen=True)
class Point:
    """The nth time that a process comes to a place."""

    place: str
    nth: int

    def __str__(self) -> str:
        """As it is named on the command line."""
        return f"{self.place}#{self.nth}"

    @classmethod
    def parse(cls, text: str) -> "Point":
        """`<place>#<n>`, or `<place>` for the first time."""
        place, _, nth = text.rpartition("#")
        return cls(place, int(nth)) if place and nth.isdigit() else cls(text, 1)


@dataclass
class Points:
    """Counts what it is told; kills its process at `at`, or calls `passing` at every point (a recording run).

    `wrapping` False: only the product's own fail points are told, and this process stays as it is.
    """

    at: Point | None = None
    passing: Callable[[Point], None] | None = None
    wrapping: bool = True
    _told: Counter[str] = field(default_factory=Counter)
    _looking: bool = False
    _here: threading.local = field(default_factory=threading.local)
    _synced: dict[tuple[int, int], int] = field(default_factory=dict)

    def tell(self, place: str, last_act: Callable[[], None] | None = None) -> None:
        """The process is at this place."""
        if self._looking:  # what a recording run asks of Redis is no part of the run
            return
        self._told[place] += 1
        point = Point(place, self._told[place])
        if self.passing is not None:
            self._looking = True
            self.passing(point)
            self._looking = False
        if point == self.at:
            if last_act is not None:
                last_act()
            os.kill(os.getpid(), signal.SIGKILL)

    def around(self, owner: Any, name: str, label: Callable[..., str]) -> None:
        """Tell `before:<label>` and `after:<label>` of each call of a method; `label` is given its arguments."""
        if not self.wrapping:
            return
        method = getattr(owner, name)

        @wraps(method)
        def called(*args: Any, **named: Any) -> Any:
            what = label(*args, **named)
            self.tell(f"before:{what}")
            outer, self._here.within = getattr(self._here, "within", ""), what
            try:
                answer = method(*args, **named)
            finally:
                self._here.within = outer
            self.tell(f"after:{what}")
            return answer

        setattr(owner, name, called)

    def around_all(self, owner: Any, label: str) -> None:
        """Tell of each public method of an object or class."""
        for name in dir(owner):
            if (
                not name.startswith("_")
                and callable(getattr(owner, name))
                and not isinstance(getattr(owner, name), type)
            ):
                self.around(owner, name, partial(_constant, f"{label}.{name}"))

    def watch_syncs(self) -> None:
        """Tell of each fsync of this process, and of each write that is one (`O_DSYNC`), and of what a loss of power there
        would take."""
        if not self.wrapping:
            return
        for name in ("fsync", "fdatasync"):
            if hasattr(os, name):
                setattr(os, name, partial(self._sync, getattr(os, name)))
        os.write = partial(self._write, os.write)

    def _sync(self, real: Callable[[int], None], handle: int) -> None:
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode):
            self.tell("before:fsync folder")
            real(handle)
            return self.tell("after:fsync folder")
        what = self._what(handle)
        file, whole = (status.st_dev, status.st_ino), status.st_size
        kept = self._synced.get(file, 0)
        self.tell(f"unsynced:{what}", partial(os.truncate, f"/proc/self/fd/{handle}", kept))
        if whole - kept > 1:
            self.tell(f"torn:{what}", partial(os.truncate, f"/proc/self/fd/{handle}", (kept + whole) // 2))
        real(handle)
        self._synced[file] = whole
        return self.tell(f"after:{what}")

    def _write(self, real: Callable[[int, bytes], int], handle: int, data: bytes) -> int:
        if not fcntl.fcntl(handle, fcntl.F_GETFL) & os.O_DSYNC:
            return real(handle, data)
        what = self._what(handle)
        self.tell(f"unsynced:{what}")
        if len(data) > 1:
            self.tell(f"torn:{what}", lambda: _nothing(real(handle, data[: len(data) // 2])))
        written = real(handle, data)
        status = os.fstat(handle)
        self._synced[status.st_dev, status.st_ino] = status.st_size
        self.tell(f"after:{what}")
        return written

    def _what(self, handle: int) -> str:
        name = _TEMPORARY.sub(r"\1", Path(f"/proc/self/fd/{handle}").readlink().name)
        return f"fsync {Path(name).suffix or name} in {getattr(self._here, 'within', '') or 'opening'}"


def _nothing(answer: int) -> None:
    del answer


def _constant(label: str, *args: Any, **named: Any) -> str:
    del args, named
    return label


def redis_label(prefix: str) -> Callable[..., str]:
    """What a command to Redis does, to which kind of key: the same for every incident, model and shard."""

    def label(client: Any, *args: Any, **options: Any) -> str:
        del client, options
        words = [word.decode("utf-8", "replace") if isinstance(word, bytes) else str(word) for word in args]
        command = words[0].partition(" ")[0]
        key = next((part for word in words for part in word.split(" ") if part.startswith(prefix)), "")
        return f"redis {command} {kind_of(key.removeprefix(prefix))}".rstrip()

    return label


def kind_of(key: str) -> str:
    """A key without what tells one incident, model, event or shard from another."""
    key = re.sub(r"inc-[0-9a-f]+", "*", key)
    key = re.sub(r"(?<=seen:|once:)[0-9a-f]+", "*", key)
    key = re.sub(r"\{[^}]*\}", "{}", key)
    return re.sub(r"(model|metrics|quarantine|reference):[^:]+", r"\1:*", key)
