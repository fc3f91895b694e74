"""Telling people: messages as JSON lines in a file of the state folder, each key once."""

import fcntl
import json
import os
import threading
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from driftwarden.clock import Clock, SystemClock, rfc3339

JsonObject = dict[str, Any]


@runtime_checkable
class KeyedNotifier(Protocol):
    """A notifier that can say whether a message has been sent."""

    def sent(self, key: str) -> bool:
        """Whether a message with this key is out."""
        ...


class FileNotifier:
    """The port `Notifier` over one file, shared by processes: `{"at", "key", "subject", "body", "fields"}` a line."""

    def __init__(self, path: Path, clock: Clock | None = None) -> None:
        """The file and its folder are made at the first message."""
        self._path, self._clock = path, clock or SystemClock()
        self._lock = threading.Lock()
        self._keys: set[str] = set()
        self._read_to = 0

    def notify(self, subject: str, body: str, *, key: str, fields: JsonObject) -> None:
        """Write one message, durable on return; the same `key` twice is one message."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        message = {"at": rfc3339(self._clock.now()), "key": key, "subject": subject, "body": body, "fields": fields}
        line = json.dumps(message, ensure_ascii=False, default=str).encode("utf-8") + b"\n"
        with self._lock, self._path.open("a+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            if key in self._known(file):
                return
            torn = file.tell() > self._read_to  # the writer before us died within a line
            file.write(b"\n" + line if torn else line)
            file.flush()
            os.fsync(file.fileno())

    def sent(self, key: str) -> bool:
        """Whether a message with this key is in the file."""
        if not self._path.exists():
            return False
        with self._lock, self._path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH)
            return key in self._known(file)

    def _known(self, file: Any) -> set[str]:
        file.seek(self._read_to)
        whole, newline, _ = file.read().rpartition(b"\n")
        for line in whole.split(b"\n"):
            try:
                self._keys.add(str(json.loads(line)["key"]))
            except (ValueError, KeyError, TypeError):
                continue
        self._read_to += len(whole) + len(newline)
        file.seek(0, os.SEEK_END)
        return self._keys
