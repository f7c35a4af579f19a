"""A worker's tie to the sidecar: a socket of JSON lines, and its death with the sidecar's."""

import ctypes
import json
import select
import signal
import socket
import time
from typing import Any


def die_with_parent() -> None:
    """Have the kernel kill this process when the one that has started it ends."""
    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)


class WorkerLine:
    """The socket to the sidecar."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._rest = b""
        self._sent_s = time.monotonic()
        self.beat_interval_s = 1.0

    def send(self, message: dict[str, Any]) -> None:
        """Send a message; raises BrokenPipeError or ConnectionResetError: the sidecar is gone."""
        self._sock.sendall(json.dumps(message).encode() + b"\n")
        self._sent_s = time.monotonic()

    def beat(self) -> None:
        """Say something, unless that was done just now."""
        if time.monotonic() - self._sent_s >= self.beat_interval_s / 2:
            self.send({"alive": True})

    def receive(self, timeout_s: float | None) -> list[dict[str, Any]]:
        """Return what has come within the time; raises EOFError when the sidecar is gone."""
        if not select.select([self._sock], [], [], timeout_s)[0]:
            return []
        data = self._sock.recv(1 << 16)
        if not data:
            raise EOFError
        *lines, self._rest = (self._rest + data).split(b"\n")
        return [json.loads(line) for line in lines]

    def receive_setup(self) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """Wait for the setup; return it, and what has come with it."""
        messages: list[dict[str, Any]] = []
        while not messages:
            messages = self.receive(None)
        setup, *others = messages
        self.beat_interval_s = setup["beat_interval_s"]
        return setup, others
