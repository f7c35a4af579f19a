"""HTTP on a port of loopback that can be closed and opened again. Knows nothing of W&B."""

import socket
import struct
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any

BODY_BYTES_MAX = 1 << 30


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """A request that has come in whole."""

    method: str
    path: str
    headers: Any
    body: bytes


@dataclass(frozen=True, slots=True)
class HttpAnswer:
    """What is sent back."""

    status: int
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)


Answer = Callable[[HttpRequest], HttpAnswer | None]
"""Called on a thread per connection; None ends the connection without a word."""


class Listener:
    """Listens on 127.0.0.1; `close` and `open` keep the port."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self._lock = threading.Lock()
        self._connections: set[socket.socket] = set()
        self._is_open = False
        self._socket = _bound(0)
        self.port: int = self._socket.getsockname()[1]
        self.open()

    def open(self) -> None:
        """Listen."""
        with self._lock:
            self._is_open = True
        self._socket.listen(128)
        threading.Thread(target=self._accept, args=(self._socket,), daemon=True).start()

    def close(self, *, for_good: bool = False) -> None:
        """Refuse connections, and break those there are."""
        with self._lock:
            self._is_open = False
            for each in self._connections:
                _break(each)
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)  # wakes `accept`
        self._socket.close()
        if not for_good:
            self._socket = _bound(self.port)  # not listening: keeps the port, refuses everybody

    def _accept(self, listening: socket.socket) -> None:
        while True:
            try:
                connection, _ = listening.accept()
            except OSError:
                return
            with self._lock:
                if not self._is_open:
                    connection.close()
                    return
                self._connections.add(connection)
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        try:
            with suppress(OSError):  # the other side has gone, or we have broken it
                _Handler(connection, self._answer)
        finally:
            with self._lock:
                self._connections.discard(connection)
            connection.close()


class _Handler(BaseHTTPRequestHandler):
    """One connection, kept alive."""

    protocol_version = "HTTP/1.1"

    def __init__(self, connection: socket.socket, answer: Answer) -> None:
        self._answer = answer
        super().__init__(connection, ("127.0.0.1", 0), None)  # type: ignore[arg-type]

    def log_message(self, *_: Any) -> None:
        """Print nothing."""

    def _handle(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        assert length <= BODY_BYTES_MAX
        body = self.rfile.read(length)
        if len(body) < length:  # who sends it was killed
            self.close_connection = True
            return
        answer = self._answer(HttpRequest(self.command, self.path, self.headers, body))
        if answer is None:
            self.close_connection = True
            _break(self.connection)
            return
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(answer.body)))
        self.end_headers()
        self.wfile.write(answer.body)

    do_GET = do_POST = do_PUT = _handle  # noqa: N815 - called so by the base class


def _bound(port: int) -> socket.socket:
    made = socket.socket()
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    made.bind(("127.0.0.1", port))
    return made


def _break(connection: socket.socket) -> None:
    with suppress(OSError):  # it has ended by itself
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.shutdown(socket.SHUT_RDWR)
