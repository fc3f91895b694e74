"""A small HTTP server on the loopback interface that a test scripts; every request is kept."""

import gzip
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple, Self


class Request(NamedTuple):
    """One request as it came, its body unzipped."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)


class Reply(NamedTuple):
    """A status and a body; `hang`: no answer until the server closes."""

    status: int
    body: bytes
    headers: dict[str, str] = {}
    hang: bool = False


def json_reply(document: Any, status: int = 200) -> Reply:
    """A JSON document."""
    return Reply(status, json.dumps(document).encode(), {"Content-Type": "application/json"})


HANG = Reply(0, b"", hang=True)


class LoopbackServer:
    """Answers with `reply(request)` of a subclass; use as a context manager."""

    def __init__(self) -> None:
        """Bind a free port of 127.0.0.1."""
        self.requests: list[Request] = []
        self._closing = threading.Event()
        self._connections, self._changed = 0, threading.Condition()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def setup(self) -> None:
                outer._connected(1)
                super().setup()

            def finish(self) -> None:
                super().finish()
                outer._connected(-1)

            def handle_any(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                headers = {name.lower(): value for name, value in self.headers.items()}
                request = Request(self.command, self.path, headers, body)
                reply = outer.reply(request)
                if headers.get("content-encoding") == "gzip" and reply.status != 400:
                    request = request._replace(body=gzip.decompress(body))
                outer.requests.append(request)
                if reply.hang:
                    outer._closing.wait(30)
                    self.close_connection = True
                    return
                self.send_response(reply.status)
                for name, value in reply.headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(reply.body)))
                self.end_headers()
                self.wfile.write(reply.body)

            def do_GET(self) -> None:
                self.handle_any()

            def do_POST(self) -> None:
                self.handle_any()

            def log_message(self, format: str, *args: Any) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, request: Any, client_address: Any) -> None:
                """A client that went away after its own timeout is expected."""

        self._server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def _connected(self, change: int) -> None:
        with self._changed:
            self._connections += change
            self._changed.notify_all()

    def left_alone(self, timeout_s: float) -> bool:
        """Wait until no client is connected any more; False where one still is after `timeout_s`."""
        with self._changed:
            return self._changed.wait_for(lambda: self._connections == 0, timeout_s)

    def reply(self, request: Request) -> Reply:
        """What to answer."""
        raise AssertionError("a subclass answers")

    def __enter__(self) -> Self:
        """Serve in the background."""
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        """Let hanging requests go and close."""
        self._closing.set()
        self._server.shutdown()
        self._server.server_close()
