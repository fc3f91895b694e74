"""Runs functions of ours in processes of their own, bounded in time, memory, processor time, file size and output.

Payload and answer cross as JSON. The child's environment holds nothing but what `ENVIRONMENT_KEPT` names, so no secret of
the service can be read there. The libraries' import cost is paid once, by a fork server (`driftwarden.sandbox_server`).
"""

import contextlib
import json
import math
import os
import re
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from driftwarden.errors import AskHuman, BadInput, Error, GiveUp, Refused, Retry, shorten
from driftwarden.keyfile import make_folder
from driftwarden.strict import loads_json

JsonObject = dict[str, Any]

PREFIXES = ("driftwarden.pipelines.", "driftwarden.actions.", "driftwarden.service.")
ENVIRONMENT_KEPT = re.compile(
    r"PATH|HOME|USER|LOGNAME|LANG|LC_[A-Z]+|TZ|TMPDIR|VIRTUAL_ENV|PYTHONPATH|PYTHONHASHSEED|LD_LIBRARY_PATH|SSL_CERT_(FILE|DIR)"
)
TELEMETRY_OFF = {"KEDRO_DISABLE_TELEMETRY": "1", "DO_NOT_TRACK": "true", "MLFLOW_DISABLE_TELEMETRY": "true"}
_THREAD_POOLS = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NUMEXPR_MAX_THREADS",
    "ARROW_NUM_THREADS",
)
_SECRET_NAME = re.compile(r"KEY|SECRET|TOKEN|PASSW|CREDENTIAL", re.IGNORECASE)
_SECRET_TEXT = (
    (re.compile(r"(://[^\s/:@]*):[^\s/@]+@"), r"\1:***@"),
    (
        re.compile(
            r"(?i)\b(\w*(?:key|secret|token|password|passwd|authorization)\w*['\"]?\s*[=:]\s*['\"]?)[^\s'\",;]+"
        ),
        r"\1***",
    ),
)
_OUT_OF_MEMORY = re.compile(
    r"bad_alloc|cannot allocate memory|memoryerror|out of memory|unable to allocate", re.IGNORECASE
)
_KILL_TIMEOUT_S = 5.0
_LAST_READS = 16  # of 64 KiB: a process that left the group could write for ever
_ERRORS: dict[str, type[Error]] = {"Retry": Retry, "AskHuman": AskHuman, "Refused": Refused, "GiveUp": GiveUp}


@dataclass(frozen=True, slots=True)
class SandboxLimits:
    """Bounds of one call; `memory_bytes` counts on top of the preloaded libraries (None: the call says, or no bound),
    `cpu_s` None: the call's wall-clock limit times `threads`."""

    memory_bytes: int | None = 4 * 1024**3
    threads: int = 2
    cpu_s: float | None = None
    file_bytes: int = 4 * 1024**3
    open_files: int = 1024
    log_bytes: int = 65536
    answer_bytes: int = 64 * 1024**2
    start_timeout_s: float = 180.0


@dataclass(slots=True)
class _Server:
    process: subprocess.Popen[bytes]
    control: socket.socket
    folder: Path


class ProcessSandbox:
    """The port `Sandbox` over a warm fork server; thread-safe, at most `slots` calls at a time."""

    def __init__(
        self,
        *,
        environ: Mapping[str, str],
        preload: Sequence[str] = (),
        slots: int = 2,
        limits: SandboxLimits | None = None,
        prefixes: tuple[str, ...] = PREFIXES,
        folder: Path | None = None,
        extra_environ: Mapping[str, str] | None = None,
    ) -> None:
        """Nothing starts before the first call (or `warm`); `extra_environ` is handed to children as it is."""
        self._limits = limits or SandboxLimits()
        self._preload, self._prefixes, self._folder = list(preload), prefixes, folder
        self._environ = child_environ(environ, self._limits.threads) | dict(extra_environ or {})
        self._secrets = secret_values(environ)
        self._slots = threading.BoundedSemaphore(slots)
        self._lock = threading.Lock()
        self._server: _Server | None = None
        self._closed = False

    def warm(self) -> None:
        """Start the fork server; its imports go on in the background."""
        with self._lock:
            self._running_server()

    def call(self, task: str, payload: JsonObject, *, timeout_s: float, memory_bytes: int | None = None) -> JsonObject:
        """Call `driftwarden.module:function` with a JSON object, answer its JSON object.

        Raises what the task raised of `driftwarden.errors` (BadInput, GiveUp, Retry, AskHuman, Refused); GiveUp where it
        raised anything else, was killed by a limit (named) or ran out of time; Retry where its process died otherwise.
        """
        request = self._checked(task, payload)
        with self._slots:
            try:
                return self._once(request, task, timeout_s, memory_bytes)
            except _NotBegun as error:
                if not self._is_gone(error.folder):
                    raise
                # It was given to a server that was dying, and could not yet be seen to be.
                return self._once(request, task, timeout_s, memory_bytes)

    def _once(self, request: bytes, task: str, timeout_s: float, memory_bytes: int | None) -> JsonObject:
        folder = self._call_folder()
        try:
            (folder / "request.json").write_bytes(request)
            bounds = {
                "memory_bytes": memory_bytes if memory_bytes is not None else self._limits.memory_bytes,
                "cpu_s": math.ceil(self._limits.cpu_s or timeout_s * self._limits.threads + 1),
                "fsize": self._limits.file_bytes,
                "nofile": self._limits.open_files,
                "core": 0,
            }
            run = _Run(task, timeout_s, self._limits)
            line = json.dumps({"task": task, "folder": str(folder), "limits": bounds}).encode()
            with self._submit(line, run) as connection:
                run.watch(connection)
            return self._answer(run, folder)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def close(self) -> None:
        """Kill what runs, stop the server, remove the folder; calls under way raise Retry."""
        with self._lock:
            self._closed = True
            self._stop_server()

    def _checked(self, task: str, payload: JsonObject) -> bytes:
        if not re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z]\w*", task) or not task.startswith(self._prefixes):
            raise BadInput("sandbox task", got=task, expected=f"a function below {', '.join(self._prefixes)}")
        if not isinstance(payload, dict):
            raise BadInput("sandbox payload", got=type(payload).__name__, expected="a JSON object")
        try:
            return json.dumps(payload, allow_nan=False).encode("utf-8")
        except (TypeError, ValueError, RecursionError) as error:
            raise BadInput("sandbox payload", got=str(error), expected="a JSON object", where=task) from None

    def _call_folder(self) -> Path:
        with self._lock:
            base = self._running_server().folder
        try:
            folder = Path(tempfile.mkdtemp(prefix="call-", dir=base))
        except FileNotFoundError:  # the server went away and took its folder along
            raise Retry("the sandbox's server stopped") from None
        (folder / "work").mkdir()
        return folder

    def _submit(self, line: bytes, run: "_Run") -> socket.socket:
        ours, theirs = socket.socketpair()
        output_read, output_write = os.pipe()
        run.output = output_read
        ours.sendall(line)
        try:
            with self._lock:
                server = self._running_server()
                try:
                    socket.send_fds(server.control, [b"c"], [theirs.fileno(), output_write])
                except OSError:
                    self._stop_server()
                    raise Retry("the sandbox's server stopped") from None
        except Error:
            ours.close()
            os.close(output_read)
            raise
        finally:
            theirs.close()
            os.close(output_write)
        return ours

    def _running_server(self) -> _Server:
        if self._closed:
            raise Retry("the sandbox is closed")
        if self._server is not None and self._server.process.poll() is None:
            return self._server
        self._stop_server()
        if self._folder is not None:
            make_folder(self._folder)
        folder = Path(tempfile.mkdtemp(prefix="driftwarden-sandbox-", dir=self._folder)).resolve()
        config = json.dumps({"folder": str(folder), "prefixes": self._prefixes, "preload": self._preload})
        ours, theirs = socket.socketpair()
        with theirs:
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", "driftwarden.sandbox_server", config],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env=self._environ,
                cwd=folder,
                start_new_session=True,
            )
        self._server = _Server(process, ours, folder)
        return self._server

    def _is_gone(self, folder: Path) -> bool:
        """Whether the server that had this folder is dead, or dies within a moment."""
        with self._lock:
            server = self._server
        with contextlib.suppress(subprocess.TimeoutExpired):
            if server is not None and server.folder == folder:
                server.process.wait(_KILL_TIMEOUT_S)
            return True
        return False

    def _stop_server(self) -> None:
        server, self._server = self._server, None
        if server is None:
            return
        server.control.close()  # end of file: it kills its children and goes
        try:
            server.process.wait(5)
        except subprocess.TimeoutExpired:
            server.process.kill()
            server.process.wait()
        shutil.rmtree(server.folder, ignore_errors=True)

    def _answer(self, run: "_Run", folder: Path) -> JsonObject:
        log = self._redacted(run.log_tail())
        if run.timed_out:
            raise GiveUp(f"{run.task} was killed after {run.timeout_s:g} s (wall-clock limit){log}")
        if run.status is None and run.pid is None:
            raise _NotBegun(folder.parent, f"the server of {run.task} was lost{log}")
        if run.status is None:
            raise Retry(f"the process of {run.task} was lost{log}")
        if os.WIFSIGNALED(run.status):
            raise _killed(run, os.WTERMSIG(run.status), log)
        file = folder / "answer.json"
        if not file.exists():
            raise Retry(
                f"the process of {run.task} ended with exit code {os.WEXITSTATUS(run.status)} and no answer{log}"
            )
        if file.stat().st_size > self._limits.answer_bytes:
            raise GiveUp(f"{run.task} answered more than {self._limits.answer_bytes} bytes")
        try:
            answer = loads_json(file.read_bytes(), where=run.task)
        except BadInput as error:
            raise GiveUp(error.diagnostics()) from None
        if "ok" in answer:
            return dict(answer["ok"])
        kind, message = str(answer.get("error")), self._redacted(str(answer.get("message")))
        if kind == "limit":
            raise GiveUp(f"{run.task} was stopped by its {message} limit{log}")
        if kind == "exception":
            raise GiveUp(f"{run.task} raised {message}{log}")
        if kind == "BadInput":
            raise BadInput(message)
        raise _ERRORS.get(kind, GiveUp)(message)

    def _redacted(self, text: str) -> str:
        return redact(text, self._secrets)


class _NotBegun(Retry):
    """The server was lost before it had told of a process for the call; `folder` was the server's."""

    def __init__(self, folder: Path, message: str) -> None:
        super().__init__(message)
        self.folder = folder


class _Run:
    """One call as seen from here: waits for the child, keeps the end of its output."""

    def __init__(self, task: str, timeout_s: float, limits: SandboxLimits) -> None:
        self.task, self.timeout_s, self._limits = task, timeout_s, limits
        self.output = -1
        self.timed_out = False
        self.status: int | None = None
        self.pid: int | None = None  # of the process that works on it, once it is told
        self._log = bytearray()

    def watch(self, connection: socket.socket) -> None:
        """Wait for the end, at most `timeout_s` from the fork on; the child is dead on return."""
        deadline = time.monotonic() + self._limits.start_timeout_s
        received = b""
        os.set_blocking(self.output, False)
        try:
            with selectors.DefaultSelector() as selector:
                selector.register(connection, selectors.EVENT_READ)
                selector.register(self.output, selectors.EVENT_READ)
                while self.status is None:
                    ready = {key.fileobj for key, _ in selector.select(max(0.0, deadline - time.monotonic()))}
                    if self.output in ready and not self._drain(reads=1):
                        selector.unregister(self.output)
                    if connection in ready:
                        data = _received(connection)
                        if not data:
                            self._kill_group()
                            break
                        *lines, received = (received + data).split(b"\n")
                        deadline = self._told(lines, deadline)
                    elif time.monotonic() >= deadline:
                        self._give_up(connection)
                        break
            self._drain(reads=_LAST_READS)
        finally:
            os.close(self.output)

    def _told(self, lines: list[bytes], deadline: float) -> float:
        for line in lines:
            message = json.loads(line)
            if "pid" in message:
                self.pid = int(message["pid"])
                deadline = time.monotonic() + self.timeout_s
            else:
                self.status = int(message["status"])
        return deadline

    def _give_up(self, connection: socket.socket) -> None:
        self.timed_out = self.pid is not None
        try:
            connection.shutdown(socket.SHUT_WR)  # the server's order to kill
            connection.settimeout(_KILL_TIMEOUT_S)
            while connection.recv(4096):
                pass
        except OSError:
            self._kill_group()

    def _kill_group(self) -> None:
        # Where the server itself died, Linux has killed the child with it; this reaches what the child had started.
        if self.pid is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGKILL)

    def _drain(self, *, reads: int) -> bool:
        for _ in range(reads):
            try:
                data = os.read(self.output, 65536)
            except BlockingIOError:
                return True
            if not data:
                return False
            self._log += data
            del self._log[: -self._limits.log_bytes]
        return True

    def log_tail(self, lines: int = 3) -> str:
        """The last lines of the output, for a message; empty where there was none."""
        kept = [line for line in self._log.decode("utf-8", "replace").splitlines() if line.strip()][-lines:]
        return f"; its last output: {shorten(' | '.join(kept), 400)}" if kept else ""


def _received(connection: socket.socket) -> bytes:
    try:
        return connection.recv(4096)
    except ConnectionError:
        return b""


def _killed(run: _Run, number: int, log: str) -> Error:
    if number == signal.SIGXCPU:
        return GiveUp(f"{run.task} was stopped by its processor time limit{log}")
    if number in {signal.SIGABRT, signal.SIGSEGV} and _OUT_OF_MEMORY.search(log):
        return GiveUp(f"{run.task} was stopped by its memory limit{log}")
    return Retry(f"the process of {run.task} was killed by signal {number}{log}")


def child_environ(environ: Mapping[str, str], threads: int) -> dict[str, str]:
    """What a child may see of the service's environment, telemetry off, thread pools bounded."""
    kept = {name: value for name, value in environ.items() if ENVIRONMENT_KEPT.fullmatch(name)}
    return kept | TELEMETRY_OFF | dict.fromkeys(_THREAD_POOLS, str(threads))


def secret_values(environ: Mapping[str, str]) -> tuple[str, ...]:
    """Values of variables whose names sound like a secret: they are struck out of every message."""
    return tuple(value for name, value in environ.items() if _SECRET_NAME.search(name) and len(value) >= 6)


def redact(text: str, secrets: Sequence[str] = ()) -> str:
    """Strike known secrets, passwords in URLs and `key=value` credentials out of a text."""
    for secret in secrets:
        text = text.replace(secret, "***")
    for pattern, replacement in _SECRET_TEXT:
        text = pattern.sub(replacement, text)
    return text
