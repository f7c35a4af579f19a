"""Delivery: keeps one worker process per sink alive and knows how far each has come.

A worker that ends is started again, first at once, then ever less often; what it had confirmed is
in its sink, so nothing is lost or doubled. Intake never waits for anything here.
"""

import asyncio
import json
import logging
import socket
import subprocess
import sys
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from pillion_sidecar.records import Offset, RunId
from pillion_sidecar.settings import Settings, WandbMode

RESTART_MIN_S, RESTART_MAX_S = 0.1, 30.0
STABLE_S = 60.0
"""A worker that has run for so long is restarted at once."""

_DRAIN = b'{"drain": true}\n'

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Progress:
    """How far one sink has come with one run."""

    offset: Offset = field(default=Offset(0))
    row_count: int = 0
    error: str = ""


class Delivery:
    """Supervises the workers. Used from the event loop only."""

    def __init__(self, settings: Settings) -> None:
        self._workers = {name: _Worker(name, settings) for name in _sinks(settings)}

    @property
    def sinks(self) -> list[str]:
        """The sinks' names."""
        return list(self._workers)

    def start(self) -> None:
        """Start the workers."""
        for worker in self._workers.values():
            worker.start()

    def wake(self) -> None:
        """Tell the workers that there is something new. Cheap; never blocks."""
        for worker in self._workers.values():
            worker.send({"wake": True})

    def progress(self, sink: str, run_id: RunId) -> Progress:
        """Tell how far a sink has come with a run."""
        worker = self._workers[sink]
        progress = worker.progress.get(run_id, Progress())
        return (
            progress
            if progress.error or not worker.error
            else Progress(progress.offset, progress.row_count, worker.error)
        )

    def through(self, sink: str) -> Offset:
        """Tell up to which offset the sink has confirmed everything."""
        return self._workers[sink].through

    async def wait_for(
        self, sink: str, targets: Iterable[tuple[RunId, Offset]], timeout_s: float
    ) -> bool:
        """Wait until the sink has confirmed each run up to its offset; tell whether it has."""
        worker = self._workers[sink]
        remaining = list(targets)
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while True:
                    moved = worker.moved
                    remaining = [
                        (run_id, offset)
                        for run_id, offset in remaining
                        if offset > max(self.progress(sink, run_id).offset, worker.through)
                    ]
                    if not remaining:
                        break
                    await moved.wait()
        return not remaining

    async def drain(self, timeout_s: float) -> bool:
        """Let the workers deliver what is left, as far as the time allows; tell whether all did."""
        return all(
            await asyncio.gather(*(worker.drain(timeout_s) for worker in self._workers.values()))
        )

    async def stop(self) -> None:
        """End the workers."""
        await asyncio.gather(*(worker.stop() for worker in self._workers.values()))


class _Worker:
    """One worker process and all its successors."""

    def __init__(self, name: str, settings: Settings) -> None:
        self._name = name
        self._log_path = settings.data_dir / "logs" / f"sink-{name}.log"
        self._setup = {
            "sink": name,
            "journal": str(settings.journal_path),
            "lock": str(settings.data_dir / f"sink-{name}.lock"),
            "store_url": settings.store_url,
            "wandb_dir": str(settings.wandb_dir),
            "log_format": settings.log_format,
            "log_level": settings.log_level,
        }
        self._writer: asyncio.StreamWriter | None = None
        self._is_draining = False
        self._drained = asyncio.Event()
        """Set when a draining worker has nothing left, or can do nothing."""
        self._task: asyncio.Task[None] | None = None
        self.progress: dict[RunId, Progress] = {}
        self.through = Offset(0)
        self.error = ""
        self.moved = asyncio.Event()
        """Set, and replaced, whenever `progress` or `through` changes."""

    def start(self) -> None:
        self._task = asyncio.create_task(self._keep_running(), name=f"sink-{self._name}")

    def send(self, message: dict[str, Any]) -> None:
        # A worker that does not read has been woken often enough.
        if self._writer is not None and not self._writer.transport.get_write_buffer_size():
            self._writer.write(json.dumps(message).encode() + b"\n")

    async def drain(self, timeout_s: float) -> bool:
        self._is_draining = True
        if self._writer is not None:
            self._writer.write(_DRAIN)
        with suppress(TimeoutError):
            await asyncio.wait_for(self._drained.wait(), timeout_s)
        return self._drained.is_set() and not self.error

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task

    async def _keep_running(self) -> None:
        restart_s = 0.0
        while True:
            started_s = time.monotonic()
            try:
                code = await self._run_once()
            except (OSError, ValueError) as error:  # no room for it, or it said nonsense
                code, self.error = None, f"its worker could not be run: {error}"
            if time.monotonic() - started_s > STABLE_S:
                restart_s = 0.0
            self.error = self.error or f"its worker ended with code {code}; see {self._log_path}"
            log.warning(
                "worker ended",
                extra={"sink": self._name, "error": self.error, "restart_s": round(restart_s, 1)},
            )
            await asyncio.sleep(min(restart_s, RESTART_MIN_S) if self._is_draining else restart_s)
            restart_s = min(max(2 * restart_s, RESTART_MIN_S), RESTART_MAX_S)

    async def _run_once(self) -> int | None:
        ours, theirs = socket.socketpair()
        self._log_path.parent.mkdir(mode=0o700, exist_ok=True)
        with theirs, self._log_path.open("ab") as log_file:
            process = _spawn(theirs, log_file)
        reader, self._writer = await asyncio.open_connection(sock=ours)
        self._writer.write(json.dumps(self._setup).encode() + b"\n")
        if self._is_draining:
            self._writer.write(_DRAIN)
        try:
            with suppress(ConnectionResetError):
                while line := await reader.readline():
                    self._hear(json.loads(line))
        finally:
            # The closed socket is its sign to go; one that hangs is killed.
            self._writer.close()
            self._writer = None
            code = await asyncio.to_thread(_reap, process)
        return code

    def _hear(self, message: dict[str, Any]) -> None:
        if "run_id" in message:
            self.error = ""
            self.progress[RunId(message["run_id"])] = Progress(
                Offset(message["offset"]), message["row_count"], message["error"]
            )
        elif "through" in message:
            self.error = ""
            self.through = Offset(message["through"])
        elif "drained" in message:
            self._drained.set()
        elif "failed" in message:
            self.error = message["failed"]
            self._drained.set()
        self.moved.set()
        self.moved = asyncio.Event()


def _sinks(settings: Settings) -> list[str]:
    if settings.wandb_mode is WandbMode.DISABLED:
        return ["store"]
    return ["store", "wandb"]


def _spawn(channel: socket.socket, log_file: BinaryIO) -> subprocess.Popen[bytes]:
    # A session of its own: the terminal's Ctrl-C is not for the worker, nor for what it starts.
    return subprocess.Popen(
        [sys.executable, "-m", "pillion_sidecar.worker", str(channel.fileno())],
        stdin=subprocess.DEVNULL,
        stdout=log_file,
        stderr=log_file,
        pass_fds=[channel.fileno()],
        start_new_session=True,
        cwd=Path(log_file.name).parent,
    )


def _reap(process: subprocess.Popen[bytes]) -> int | None:
    try:
        return process.wait(timeout=5.0)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()
