"""Telling people: messages as JSON lines in a file of the state folder, each key once, and to a command where one is set."""

import contextlib
import fcntl
import json
import logging
import os
import signal
import subprocess
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from driftwarden.clock import Clock, SystemClock, rfc3339
from driftwarden.keyfile import make_folder

log = logging.getLogger(__name__)

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
        make_folder(self._path.parent)
        line = self.line(subject, body, key=key, fields=fields)
        with self._lock, self._path.open("a+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            if key in self._known(file):
                return
            torn = file.tell() > self._read_to  # the writer before us died within a line
            file.write(b"\n" + line if torn else line)
            file.flush()
            os.fsync(file.fileno())

    def line(self, subject: str, body: str, *, key: str, fields: JsonObject) -> bytes:
        """One message as it is written down, with the time of now."""
        message = {"at": rfc3339(self._clock.now()), "key": key, "subject": subject, "body": body, "fields": fields}
        return json.dumps(message, ensure_ascii=False, default=str).encode("utf-8", "replace") + b"\n"

    def lock(self) -> contextlib.AbstractContextManager[Any]:
        """Held by one process at a time, whoever writes here."""
        make_folder(self._path.parent)
        return _locked(self._path.with_name(f".{self._path.name}.lock"))

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


class CommandNotifier:
    """The port `Notifier`: a command gets each new message first, as one line of JSON on standard input, then the file.

    In this order a message whose process dies is told again, under the same key, rather than never. A command that fails or
    does not end is logged and holds nothing up but for its timeout. Its arguments are fixed: nothing of a message is in them,
    and no shell reads them.
    """

    def __init__(
        self, written: FileNotifier, command: Sequence[str], *, timeout_s: float, environ: Mapping[str, str]
    ) -> None:
        """`command`: the program's path and its arguments; it sees the variables of `environ` and no others."""
        self._written, self._command = written, tuple(command)
        self._timeout_s, self._environ = timeout_s, dict(environ)
        self._mutex = threading.Lock()

    def notify(self, subject: str, body: str, *, key: str, fields: JsonObject) -> None:
        """Tell the command and write the message down; the same `key` twice is one message, also of two processes."""
        if self._written.sent(key):
            return
        with self._mutex, self._written.lock():
            if self._written.sent(key):
                return
            fault = self._run(self._written.line(subject, body, key=key, fields=fields))
            if fault is not None:
                log.error("notify: %s %s", self._command[0], fault, extra={"key": key})
            self._written.notify(subject, body, key=key, fields=fields)

    def sent(self, key: str) -> bool:
        """Whether a message with this key was told."""
        return self._written.sent(key)

    def _run(self, message: bytes) -> str | None:
        """Run the command in a group of its own, which ends with it; returns what went wrong."""
        try:
            process = subprocess.Popen(
                self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env=self._environ,
                start_new_session=True,
            )
        except OSError as error:
            return f"cannot be started: {error.strerror}"
        with process:
            try:
                process.communicate(message, timeout=self._timeout_s)
            except subprocess.TimeoutExpired:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                return f"did not end within {self._timeout_s:g} s"
        return f"ended with code {process.returncode}" if process.returncode else None


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
