"""A TCP proxy that can be cut, stalled or go silent: the network between trainer and sidecar."""

import socket
import struct
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
        self._silent: set[socket.socket] = set()
        self._passes = threading.Event()
        self._passes.set()
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """Break all connections, and every new one at once."""
        with self._lock:
            self._is_cut = True
            for each in self._open:
                _break(each)
            self._open.clear()

    def reset(self) -> None:
        """Break all connections with a reset; new ones go through."""
        with self._lock:
            for each in self._open:
                with suppress(OSError):  # it has ended by itself
                    each.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                _break(each)
            self._open.clear()

    def stall(self) -> None:
        """Pass nothing on, of no connection, as a route that drops every packet."""
        self._passes.clear()

    def silence(self) -> None:
        """Never pass anything on again of the connections there are, without a word to anybody.

        As a firewall that forgets them, or a peer that lost its power. New ones go through.
        """
        with self._lock:
            self._silent |= self._open
            self._open.clear()

    def heal(self) -> None:
        """Let new connections through, and those that were stalled go on."""
        with self._lock:
            self._is_cut = False
        self._passes.set()

    def close(self) -> None:
        """Listen no more."""
        self._listener.close()
        with self._lock:
            self._open |= self._silent
            self._silent.clear()
        self.cut()
        self._passes.set()

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
                    threading.Thread(target=self._pass_on, args=pair, daemon=True).start()
                return
        ours.close()

    def _pass_on(self, source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(CHUNK_BYTES):
                self._passes.wait()
                if source in self._silent:
                    return
                target.sendall(data)
        if source not in self._silent:  # nor does anybody hear that the other end has gone
            _break(source)
            _break(target)


def _break(each: socket.socket) -> None:
    with suppress(OSError):
        each.shutdown(socket.SHUT_RDWR)
    each.close()
