"""The supervisor: keeps a worker process running for one sink, whatever becomes of it.

A worker that ends is started again, first at once, then ever less often. One that is frozen, by a
signal or in a call that never returns, is noticed by its silence: it is killed, its wandb-core with
it, and replaced. What a worker had confirmed is in its sink, so nothing is lost or doubled by that.

Knows nothing of what workers say but that they say something; `delivery.py` does.
"""

import asyncio
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from pillion_sidecar import logs

RESTART_MIN_S, RESTART_MAX_S = 0.1, 5.0
"""Pauses before a restart: once what kills a worker has ended, it works again within seconds."""
STABLE_S = 60.0
"""A worker that has run for so long is restarted at once."""
BEAT_INTERVAL_S = 5.0
"""So often a worker says something, unless the sink is busy with one call."""
BEATS_MISSED_MAX = 24
"""A worker that stays silent for so many intervals is frozen: two minutes, where the longest call
of a sink takes half a minute. Counted and not timed, so that a sidecar that was itself stopped
takes no worker for frozen."""
LOG_LOOK_INTERVAL = 1000
"""So many messages of a worker lie between two looks at the size of its log."""
END_WAIT_S = 5.0
"""How long a worker that was told to go may take."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Worker:
    """How a sink's worker process stands."""

    sink: str
    pid: int
    """0: none runs."""
    restart_count: int
    """How often it was started again."""
    error: str
    """Why it does not run, or did not last; empty once it works."""


class Supervisor:
    """One worker process and all its successors. Used from the event loop only."""

    def __init__(
        self,
        setup: Mapping[str, Any],
        log_path: Path,
        *,
        on_start: Callable[[], None],
        on_message: Callable[[dict[str, Any]], None],
        module: str = "pillion_sidecar.worker",
    ) -> None:
        """Prepare it.

        Args:
            setup: What each process is told first; its `sink` is the sink's name.
            log_path: Where to what it prints is appended.
            on_start: Called before a process is started: what the former one said may be outdated.
            on_message: Called with all that it says.
            module: What each process runs.
        """
        self._sink: str = setup["sink"]
        self._setup = {"beat_interval_s": BEAT_INTERVAL_S, **setup}
        self._log_path, self._module = log_path, module
        self._on_start, self._on_message = on_start, on_message
        self._process: subprocess.Popen[bytes] | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._task: asyncio.Task[None] | None = None
        self._is_draining = False
        self._is_renewing = False
        """Whether the process ends because it is to begin with another setup."""
        self._restart_count = 0
        self._error = ""
        self._has_said_why = False

    @property
    def state(self) -> Worker:
        """How the process stands."""
        pid = self._process.pid if self._process is not None else 0
        return Worker(self._sink, pid, self._restart_count, self._error)

    @property
    def error(self) -> str:
        """Why there is no working process; empty if there is."""
        return self._error

    def works(self) -> None:
        """Take it that the process does what it is for."""
        self._error = ""

    def cannot(self, reason: str) -> None:
        """Take it that the process cannot do what it is for, and is about to end."""
        self._error, self._has_said_why = reason, True

    def start(self) -> None:
        """Start the first process."""
        self._task = asyncio.create_task(self._keep_running(), name=f"sink-{self._sink}")

    def wake(self) -> None:
        """Say that there is something new."""
        # A worker that does not read has been woken often enough.
        if self._writer is not None and not self._writer.transport.get_write_buffer_size():
            self._send({"wake": True})

    def tell(self, message: Mapping[str, Any]) -> bool:
        """Say something that is said again later, until it has had its effect; tell whether."""
        is_told = self._writer is not None and not self._writer.transport.get_write_buffer_size()
        if is_told:
            self._send(message)
        return is_told

    def renew(self, setup: Mapping[str, Any]) -> None:
        """Go on with another setup, in a new process."""
        self._setup = {"beat_interval_s": BEAT_INTERVAL_S, **setup}
        if self._writer is not None:
            self._is_renewing = True
            self._writer.close()

    def drain(self) -> None:
        """Have this process and its successors say when they have nothing left."""
        self._is_draining = True
        if self._writer is not None:
            self._send({"drain": True})

    async def stop(self) -> None:
        """End the process; no other is started."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task

    def _send(self, message: Mapping[str, Any]) -> None:
        assert self._writer is not None
        self._writer.write(json.dumps(message).encode() + b"\n")

    async def _keep_running(self) -> None:
        restart_s = 0.0
        while True:
            started_s = time.monotonic()
            try:
                reason = await self._run_once()
            except Exception as error:  # noqa: BLE001 - no room for it, or it said nonsense
                reason = f"its worker could not be run: {error!r}"
            if self._is_renewing:
                self._is_renewing, self._error, restart_s = False, "", 0.0
                continue
            if not self._has_said_why:
                self._error = reason
            if time.monotonic() - started_s > STABLE_S:
                restart_s = 0.0
            log.warning(
                "worker ended",
                extra={"sink": self._sink, "error": self._error, "restart_s": round(restart_s, 1)},
            )
            await asyncio.sleep(min(restart_s, RESTART_MIN_S) if self._is_draining else restart_s)
            restart_s = min(max(2 * restart_s, RESTART_MIN_S), RESTART_MAX_S)
            self._restart_count += 1

    async def _run_once(self) -> str:
        """Run a process to its end; return why it ended."""
        self._has_said_why = False
        self._on_start()
        self._log_path.parent.mkdir(mode=0o700, exist_ok=True)
        await asyncio.to_thread(logs.cut, self._log_path)
        ours, theirs = socket.socketpair()
        with theirs, self._log_path.open("ab") as log_file:
            process = self._process = _spawn(self._module, theirs, log_file)
        reader, self._writer = await asyncio.open_connection(sock=ours)
        is_frozen = False
        try:
            self._send(self._setup)
            if self._is_draining:
                self._send({"drain": True})
            is_frozen = await self._listen(reader)
        finally:
            # The closed socket is its sign to go; one that hangs is killed.
            self._writer.close()
            self._writer = None
            code = await asyncio.to_thread(_reap, process, 0.0 if is_frozen else END_WAIT_S)
            self._process = None
        if is_frozen:
            silent_s = BEATS_MISSED_MAX * BEAT_INTERVAL_S
            return f"its worker was silent for {silent_s:.0f} s and was killed"
        return f"its worker ended with code {code}; see {self._log_path}"

    async def _listen(self, reader: asyncio.StreamReader) -> bool:
        """Take in what the process says until it ends; tell whether it has frozen instead."""
        missed_count = message_count = 0
        while missed_count < BEATS_MISSED_MAX:
            try:
                async with asyncio.timeout(BEAT_INTERVAL_S):
                    line = await reader.readline()
            except TimeoutError:
                missed_count += 1
                continue
            except ConnectionResetError:
                return False
            if not line:
                return False
            missed_count = 0
            message_count += 1
            if message_count % LOG_LOOK_INTERVAL == 0:
                await asyncio.to_thread(logs.cut, self._log_path)
            self._on_message(json.loads(line))
        return True


def _spawn(module: str, channel: socket.socket, log_file: BinaryIO) -> subprocess.Popen[bytes]:
    # A session of its own: the terminal's Ctrl-C is not for the worker, nor for what it starts.
    return subprocess.Popen(
        [sys.executable, "-m", module, str(channel.fileno())],
        stdin=subprocess.DEVNULL,
        stdout=log_file,
        stderr=log_file,
        pass_fds=[channel.fileno()],
        start_new_session=True,
        cwd=Path(log_file.name).parent,
    )


def _reap(process: subprocess.Popen[bytes], wait_s: float) -> int:
    try:
        return process.wait(timeout=wait_s)
    except subprocess.TimeoutExpired:
        # wandb-core first: it is in a session of its own, and if it is frozen too it would outlive
        # its parent. While that has not been waited for, the numbers stay theirs.
        for pid in _children(process.pid):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.kill()
        with suppress(subprocess.TimeoutExpired):
            return process.wait(timeout=END_WAIT_S)
        return -signal.SIGKILL  # it will be, when the driver or the filesystem lets go of it


def _children(pid: int) -> list[int]:
    found: list[int] = []
    with suppress(OSError):  # it has ended just now
        for path in Path(f"/proc/{pid}/task").glob("*/children"):
            found += map(int, path.read_text(encoding="ascii").split())
    return found
