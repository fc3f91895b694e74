"""A TCP forwarder in the place of a server's address: where it leads can change, and a reply can be lost on the way."""

import socket
import threading
from contextlib import suppress
from types import TracebackType
from typing import Self


class Forwarder:
    """Listens on a port of the loopback; each new connection is led to `target` (a port), open ones stay where they are."""

    def __init__(self, target: int) -> None:
        """Listen at once; the forwarding ends with the block."""
        self.target = target
        self.lose: bytes | None = None  # the reply to a request that holds this is lost: the connection is cut instead
        self.lost = 0
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port: int = self._listener.getsockname()[1]
        self._open: set[socket.socket] = set()
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> Self:
        """Itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close everything."""
        for one in (self._listener, *self._open):
            _cut(one)

    def _accept(self) -> None:
        while True:
            try:
                inner, _ = self._listener.accept()
                outer = socket.create_connection(("127.0.0.1", self.target))
            except OSError:
                if self._listener.fileno() == -1:
                    return
                _cut(inner)
                continue
            self._open |= {inner, outer}
            losing = threading.Event()
            threading.Thread(target=self._requests, args=(inner, outer, losing), daemon=True).start()
            threading.Thread(target=self._replies, args=(outer, inner, losing), daemon=True).start()

    def _requests(self, source: socket.socket, sink: socket.socket, losing: threading.Event) -> None:
        with suppress(OSError):
            while data := source.recv(65_536):
                if self.lose and self.lose in data:
                    losing.set()
                sink.sendall(data)
        _cut(source, sink)

    def _replies(self, source: socket.socket, sink: socket.socket, losing: threading.Event) -> None:
        with suppress(OSError):
            while data := source.recv(65_536):
                if losing.is_set():  # it was executed: the server has answered
                    self.lost += 1
                    break
                sink.sendall(data)
        _cut(source, sink)


def _cut(*sockets: socket.socket) -> None:
    for one in sockets:
        with suppress(OSError):
            one.shutdown(socket.SHUT_RDWR)
        one.close()
