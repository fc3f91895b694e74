"""The sandbox's fork server: one helper process that has imported the heavy libraries once and forks a child per call.

It is started by `driftwarden.sandbox` and speaks JSON only. On the control socket (file descriptor 0) comes one byte with
two descriptors for each call: the call's own socket, on which its request line already waits, and the pipe for its
output. On the call's socket go back `{"pid"}` and at the end `{"status", "cpu_s", "rss_kib"}`; the other side closing it
means: kill. End of file on the control socket means that the service is gone: every child is killed and the folder removed.
The server stays single-threaded, because a fork copies one thread and every lock.
"""

import contextlib
import ctypes
import errno
import gc
import importlib
import json
import os
import resource
import selectors
import shutil
import signal
import socket
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from driftwarden.errors import AskHuman, BadInput, Error, Refused, Retry

CONTROL_FD = 0
REQUEST_BYTES_MAX = 65536
_PR_SET_PDEATHSIG = 1
_PARENT_CHECK_S = 1.0
_LIMIT_OF_ERRNO = {errno.EFBIG: "file size", errno.EMFILE: "open files", errno.ENOMEM: "memory"}


@dataclass(frozen=True)
class _Call:
    pid: int
    connection: socket.socket


class ForkServer:
    """Forks, watches and kills the children of one service."""

    def __init__(self, control: socket.socket, folder: Path, prefixes: tuple[str, ...]) -> None:
        """Serve the requests on `control`; `folder` is removed at the end."""
        self._control, self._folder, self._prefixes = control, folder, prefixes
        self._calls: dict[int, _Call] = {}
        self._selector = selectors.DefaultSelector()
        self._service_pid = os.getppid()
        self._wake_write = -1

    def run(self) -> None:
        """Serve until the service closes the control socket or is gone."""
        wake_read, self._wake_write = os.pipe()
        os.set_blocking(wake_read, False)
        os.set_blocking(self._wake_write, False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.set_wakeup_fd(self._wake_write)
        self._selector.register(self._control, selectors.EVENT_READ, self._accept)
        self._selector.register(wake_read, selectors.EVENT_READ, lambda: self._reap(wake_read))
        try:
            while os.getppid() == self._service_pid:
                for key, _ in self._selector.select(_PARENT_CHECK_S):
                    if key.data() is False:
                        return
        finally:
            for call in self._calls.values():
                _kill_group(call.pid)
            shutil.rmtree(self._folder, ignore_errors=True)

    def _accept(self) -> bool | None:
        data, descriptors, _, _ = socket.recv_fds(self._control, 1, 2)
        if not data:
            return False
        if len(descriptors) != 2:
            for descriptor in descriptors:
                os.close(descriptor)
            return None
        connection, output = socket.socket(fileno=descriptors[0]), descriptors[1]
        try:
            request = json.loads(connection.recv(REQUEST_BYTES_MAX))
            server_pid, pid = os.getpid(), os.fork()
            if pid == 0:
                self._become_child(request, connection, output, server_pid)
            self._calls[pid] = _Call(pid, connection)
            self._selector.register(connection, selectors.EVENT_READ, lambda: self._kill(pid))
            connection.sendall(json.dumps({"pid": pid}).encode() + b"\n")
        except (OSError, ValueError):
            connection.close()
        finally:
            os.close(output)
        return None

    def _kill(self, pid: int) -> None:
        call = self._calls[pid]
        self._selector.unregister(call.connection)
        _kill_group(pid)

    def _reap(self, wake_read: int) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(wake_read, 4096)
        while self._calls:
            try:
                pid, status, usage = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            call = self._calls.pop(pid, None)
            if call is None:
                continue
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(pid, signal.SIGKILL)  # whatever the task itself had started
            with contextlib.suppress(KeyError):
                self._selector.unregister(call.connection)
            answer = {"status": status, "cpu_s": usage.ru_utime + usage.ru_stime, "rss_kib": usage.ru_maxrss}
            with contextlib.suppress(OSError):
                call.connection.sendall(json.dumps(answer).encode() + b"\n")
            call.connection.close()

    def _become_child(self, request: dict[str, Any], connection: socket.socket, output: int, server_pid: int) -> None:
        code = 70
        try:
            os.setsid()
            die_with_parent(server_pid)
            self._leave_server()
            connection.close()
            null = os.open(os.devnull, os.O_RDONLY)
            for descriptor, standard in ((null, 0), (output, 1), (output, 2)):
                os.dup2(descriptor, standard)
            os.close(null)
            os.close(output)
            code = run_task(request, self._prefixes)
        except BaseException as error:  # noqa: BLE001 - a forked child must never return into the server's loop
            with contextlib.suppress(Exception):
                os.write(2, f"{type(error).__name__}: {error}\n".encode())
        finally:
            with contextlib.suppress(Exception):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(code)

    def _leave_server(self) -> None:
        # What it was is kept, not asked here: from Python 3.12 on asyncio, once imported, has taken it back in the child.
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        keys = list(self._selector.get_map().values())
        self._selector.close()  # first: the epoll set is shared with the server, so nothing may be unregistered here
        os.close(self._wake_write)
        for key in keys:
            if key.fd != CONTROL_FD:
                os.close(key.fd)
        for call in self._calls.values():
            call.connection.detach()


def run_task(request: dict[str, Any], prefixes: tuple[str, ...]) -> int:
    """In the child: apply the limits, call the function, write `answer.json`; the process's exit code."""
    folder = Path(request["folder"])
    os.chdir(folder / "work")
    os.environ["TMPDIR"] = str(folder / "work")
    payload = json.loads((folder / "request.json").read_bytes())
    set_limits(request["limits"])
    try:
        answer = {"ok": _call(request["task"], payload, prefixes)}
        text = json.dumps(answer, allow_nan=False)
    except Error as error:
        text = json.dumps({"error": _kind(error), "message": error.diagnostics()})
    except MemoryError:
        text = json.dumps({"error": "limit", "message": "memory"})
    except Exception as error:  # noqa: BLE001 - the boundary of the sandbox: whatever was raised becomes the answer
        limit = _LIMIT_OF_ERRNO.get(error.errno or 0) if isinstance(error, OSError) else None
        text = json.dumps({"error": "exception", "message": f"{type(error).__name__}: {error}"})
        if limit is not None:
            text = json.dumps({"error": "limit", "message": limit})
    partial = folder / "answer.part"
    partial.write_text(text, encoding="utf-8")
    partial.rename(folder / "answer.json")
    return 0


def _call(task: str, payload: dict[str, Any], prefixes: tuple[str, ...]) -> Any:
    if not task.startswith(prefixes):
        raise BadInput("sandbox task", got=task, expected="a function below an allowed module")
    module, _, name = task.partition(":")
    answer = getattr(importlib.import_module(module), name)(payload)
    if not isinstance(answer, dict):
        raise TypeError(f"{task} answered {type(answer).__name__}, expected a JSON object")
    return answer


def _kind(error: Error) -> str:
    for kind in (BadInput, Retry, AskHuman, Refused):
        if isinstance(error, kind):
            return kind.__name__
    return "GiveUp"


def set_limits(limits: dict[str, int | None]) -> None:
    """Set the process's own hard limits; `memory_bytes` counts on top of what the fork inherited."""
    memory_bytes = limits.get("memory_bytes")
    if memory_bytes is not None:
        _limit(resource.RLIMIT_AS, memory_bytes + _address_space_bytes())
    cpu_s = limits.get("cpu_s")
    if cpu_s is not None:
        _limit(resource.RLIMIT_CPU, cpu_s, grace=1)
    for name in ("FSIZE", "NOFILE", "CORE"):
        value = limits.get(name.lower())
        if value is not None:
            _limit(getattr(resource, f"RLIMIT_{name}"), value)


def _limit(which: int, value: int, grace: int = 0) -> None:
    hard = resource.getrlimit(which)[1]
    if hard != resource.RLIM_INFINITY:
        value = min(value, hard)
        grace = min(grace, hard - value)
    # macOS knows RLIMIT_AS but refuses it; the wall and CPU limits still hold there.
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(which, (value, value + grace))


def _address_space_bytes() -> int:
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    except (OSError, ValueError, IndexError):
        return 0
    return pages * resource.getpagesize()


def die_with_parent(parent: int) -> None:
    """Ask Linux to kill this process when its parent dies; elsewhere the process group's end does it."""
    if not sys.platform.startswith("linux"):
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it died before the call
        os._exit(70)


def _kill_group(pid: int) -> None:
    # The child may not have reached setsid yet: then there is no group, and the process itself is killed.
    try:
        os.killpg(pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def preload(modules: list[str]) -> None:
    """Import what the tasks will need; a module that is not installed is left to the task that asks for it."""
    for module in modules:
        try:
            importlib.import_module(module)
        except Exception as error:  # noqa: BLE001 - a task that does not need it must still run
            sys.stderr.write(f"preload of {module}: {type(error).__name__}: {error}\n")
    gc.collect()
    gc.freeze()


def main() -> None:
    """Start with a JSON document as the only argument: `folder`, `prefixes`, `preload`."""
    config = json.loads(sys.argv[1])
    preload(config["preload"])
    control = socket.socket(fileno=CONTROL_FD)
    ForkServer(control, Path(config["folder"]), tuple(config["prefixes"])).run()


if __name__ == "__main__":
    main()
