"""Ownership of the index's folder: an flock that one process holds, and a socket on which it answers the others.

In `<state folder>/knowledge/`: `lock` (flock), `socket-path` (where the owner listens), `index/` (Chroma). The socket
itself lies in a private folder of this user with a short path, since a Unix socket's path must stay under 108 bytes.
Protocol: one JSON object on one line per connection, answered by one; reading stops at `REQUEST_BYTES_MAX`.
"""

import contextlib
import errno
import fcntl
import hashlib
import json
import logging
import os
import socketserver
import stat
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from driftwarden.contracts.ports import JsonObject
from driftwarden.errors import BadInput, Error, Retry
from driftwarden.keyfile import make_folder
from driftwarden.strict import loads_json

log = logging.getLogger(__name__)

REQUEST_BYTES_MAX = 1024 * 1024
SOCKET_PATH_BYTES_MAX = 100
CONNECTION_TIMEOUT_S = 10.0
CONNECTIONS_MAX = 32

Handler = Callable[[JsonObject], JsonObject]


class FolderLock:
    """The lock of one folder; held until released, and by the system's doing when the process dies."""

    def __init__(self, folder: Path) -> None:
        """Use `<folder>/lock`; the folder is made where it is absent."""
        make_folder(folder, 0o700)
        self._path = folder / "lock"
        self._file: IO[str] | None = None

    def take(self) -> bool:
        """Take the lock without waiting; True where it is now held here."""
        file = self._path.open("a", encoding="ascii")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            file.close()
            if error.errno in {errno.EWOULDBLOCK, errno.EACCES}:
                return False
            raise
        self._file = file
        # A child that is forked and outlives us must not keep the folder.
        os.register_at_fork(after_in_child=file.close)
        return True

    def release(self) -> None:
        """Let another process have the folder."""
        if self._file is not None:
            self._file.close()
            self._file = None


class OwnerServer:
    """Listens at once, answers once `serve` is called: who connects in between waits instead of failing."""

    def __init__(self, folder: Path) -> None:
        """Listen on a fresh socket and write its path to `<folder>/socket-path`."""
        self._path = socket_path(folder)
        self._path.unlink(missing_ok=True)
        self._server = _Server(str(self._path), _Connection, bind_and_activate=False)
        self._server.server_bind()
        self._path.chmod(0o600)
        self._server.server_activate()
        pointer = folder / "socket-path"
        fresh = pointer.with_suffix(".new")
        fresh.write_text(f"{self._path}\n", encoding="utf-8")
        fresh.replace(pointer)
        self._thread: threading.Thread | None = None

    def serve(self, handler: Handler) -> None:
        """Answer requests in a thread."""
        self._server.handler = handler
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, name="knowledge-owner", daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        """Stop answering and remove the socket."""
        if self._thread is not None:
            self._server.shutdown()
            self._thread.join()
        self._server.server_close()
        self._path.unlink(missing_ok=True)


class _Server(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 64
    handler: Handler

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.places = threading.BoundedSemaphore(CONNECTIONS_MAX)

    def handle_error(self, request: Any, client_address: Any) -> None:
        log.error("knowledge owner: a connection failed: %s", sys.exception())


class _Connection(socketserver.StreamRequestHandler):
    server: _Server
    timeout = CONNECTION_TIMEOUT_S

    def handle(self) -> None:
        with contextlib.suppress(OSError), self.server.places:
            self.wfile.write(json.dumps(self._answer()).encode("ascii") + b"\n")

    def _answer(self) -> JsonObject:
        try:
            data = self.rfile.readline(REQUEST_BYTES_MAX + 1)
            if len(data) > REQUEST_BYTES_MAX or not data.endswith(b"\n"):
                raise BadInput(
                    "knowledge request", got=f"{len(data)} bytes", expected=f"a line of at most {REQUEST_BYTES_MAX}"
                )
            request = loads_json(data, where="knowledge request")
            if not isinstance(request, dict):
                raise BadInput("knowledge request", got=type(request).__name__, expected="an object")
            return {"ok": True, **self.server.handler(request)}
        except BadInput as error:
            return {"ok": False, "error": "bad_input", "message": error.diagnostics()}
        except Error as error:
            return {"ok": False, "error": "retry", "message": error.diagnostics()}


def socket_path(folder: Path) -> Path:
    """Where the owner of `folder` listens: a name made of the folder's, in a folder that only this user can enter."""
    name = hashlib.sha256(os.fsencode(folder.resolve())).hexdigest()[:16] + ".sock"
    for base in (Path(tempfile.gettempdir()), Path("/tmp")):  # noqa: S108
        private = base / f"driftwarden-{os.getuid()}"
        if len(os.fsencode(private / name)) <= SOCKET_PATH_BYTES_MAX and _made_private(private):
            return private / name
    private = Path(tempfile.mkdtemp(prefix="driftwarden-", dir="/tmp"))
    return private / name


def _made_private(path: Path) -> bool:
    with contextlib.suppress(FileExistsError):
        path.mkdir(mode=0o700)
    return is_private(path)


def is_private(path: Path) -> bool:
    """Whether the folder is a real one, ours, and closed to everyone else."""
    try:
        found = path.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o077


def told_socket(folder: Path) -> Path:
    """The owner's socket as `<folder>/socket-path` tells it; raises Retry where there is none that can be trusted."""
    try:
        path = Path((folder / "socket-path").read_text(encoding="utf-8").strip())
    except (OSError, UnicodeDecodeError):
        raise Retry("the knowledge base's owner has not said where it listens") from None
    if not path.is_absolute() or not is_private(path.parent):
        raise Retry(f"the knowledge base's socket `{path}` is not in a private folder of this user")
    return path
