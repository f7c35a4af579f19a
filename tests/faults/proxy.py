"""A TCP proxy that can be cut: the network between a trainer and its sidecar."""

import socket
import threading
from contextlib import suppress

CHUNK_BYTES = 1 << 16


class Proxy:
    """Passes bytes on between 127.0.0.1:PORT and a target, until it is cut."""

    def __init__(self, target: str) -> None:
        """Listen, for connections to `HOST:PORT`."""
        host, _, port = target.rpartition(":")
        self._target = (host, int(port))
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._lock = threading.Lock()
        self._is_cut = False
        self._open: set[socket.socket] = set()
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """Break all connections, and every new one at once."""
        with self._lock:
            self._is_cut = True
            for each in self._open:
                _break(each)
            self._open.clear()

    def heal(self) -> None:
        """Let new connections through."""
        with self._lock:
            self._is_cut = False

    def close(self) -> None:
        """Listen no more."""
        self._listener.close()
        self.cut()

    def _accept(self) -> None:
        with suppress(OSError):  # closed
            while True:
                ours, _ = self._listener.accept()
                self._connect(ours)

    def _connect(self, ours: socket.socket) -> None:
        with self._lock, suppress(OSError):
            theirs = None if self._is_cut else socket.create_connection(self._target)
            if theirs is not None:
                self._open |= {ours, theirs}
                for pair in ((ours, theirs), (theirs, ours)):
                    threading.Thread(target=_pass_on, args=pair, daemon=True).start()
                return
        ours.close()


def _pass_on(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(CHUNK_BYTES):
            target.sendall(data)
    _break(source)
    _break(target)


def _break(each: socket.socket) -> None:
    with suppress(OSError):
        each.shutdown(socket.SHUT_RDWR)
    each.close()
