"""The sidecar as a process of its own, for tests and for `benchmarks/guarantees.py`."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import grpc

from pillion.v1 import telemetry_service_pb2 as pb2
from pillion.v1 import telemetry_service_pb2_grpc as pb2_grpc

WAIT_S = 120.0
"""Generous: how long anything that should happen may take."""


class StartError(Exception):
    """The sidecar ended before it listened; the message is what it printed."""


class SidecarProcess:
    """A sidecar as `pillion serve` starts it. It can be stopped, killed and started again."""

    def __init__(self, directory: Path, *flags: str, listen: str = "") -> None:
        self.data_dir, self.spool_dir = directory / "data", directory / "spool"
        # Short, whatever the test's name: a socket's path may have 107 bytes.
        self._socket_dir = Path(tempfile.mkdtemp(prefix="pillion-test-"))
        self.listen = listen or f"unix:{self._socket_dir}/s.sock"
        self.address = self.listen
        self._flags = flags
        self._output = self._socket_dir / "output"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, *wrapper: str, **variables: str) -> "SidecarProcess":
        """Start it and wait until it listens.

        Args:
            wrapper: A command that runs it, such as `strace`; empty: none.
            variables: More environment.

        Raises:
            StartError: It did not.
        """
        ready, ready_theirs = os.pipe()
        command = [
            *(*wrapper, sys.executable, "-m", "pillion_sidecar", "serve"),
            *("--data-dir", str(self.data_dir), "--listen", self.listen),
            *("--ready-fd", str(ready_theirs), *self._flags),
        ]
        # A file, since nobody reads a pipe while it runs, and a full one would stop it.
        with self._output.open("wb") as output:
            self.process = subprocess.Popen(
                command,
                pass_fds=[ready_theirs],
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment(**{"PILLION_SPOOL_DIR": str(self.spool_dir)} | variables),
            )
        os.close(ready_theirs)
        with os.fdopen(ready, encoding="utf-8") as file:
            address = file.readline().strip()  # no further: a wrapper keeps it open
        if not address:
            self.process.wait(WAIT_S)
            raise StartError(f"the sidecar did not start:\n{self.output()}")
        self.address = address
        return self

    def output(self) -> str:
        """Return all that it has printed since it was started last."""
        return self._output.read_text(encoding="utf-8", errors="replace")

    def kill(self) -> None:
        """End it with SIGKILL."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def stop(self) -> tuple[int, str]:
        """End it with SIGTERM; return its exit code and all that it printed."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=WAIT_S), self.output()

    def close(self) -> None:
        """End it somehow."""
        if self.process is not None and self.process.poll() is None:
            self.kill()
        shutil.rmtree(self._socket_dir, ignore_errors=True)

    def freeze(self) -> None:
        """Stop it with SIGSTOP, and wait until it does nothing any more."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, self.process.pid, os.WSTOPPED | os.WNOWAIT)

    def worker(self, sink: str) -> int:
        """Return the process that drives a sink, once there is one."""
        deadline_s = time.monotonic() + WAIT_S
        while time.monotonic() < deadline_s:
            for worker in self.call("GetStatus", pb2.GetStatusRequest()).workers:
                if worker.sink == sink and worker.pid:
                    return int(worker.pid)
        raise TimeoutError(f"no worker of {sink}")

    def token(self) -> tuple[tuple[str, str], ...]:
        """Return the metadata that a TCP sidecar asks for."""
        path = self.data_dir / "token"
        if not path.exists():
            return ()
        return (("authorization", f"Bearer {path.read_text(encoding='ascii').strip()}"),)

    def call(self, method: str, request: Any) -> Any:
        """Call a unary RPC."""
        with self.channel() as channel:
            stub = pb2_grpc.TelemetryServiceStub(channel)
            return getattr(stub, method)(request, timeout=WAIT_S, metadata=self.token())

    def log(self, *requests: Any) -> list[Any]:
        """Call LogMetrics; return the acks."""
        with self.channel() as channel:
            stub = pb2_grpc.TelemetryServiceStub(channel)
            return list(stub.LogMetrics(iter(requests), timeout=WAIT_S, metadata=self.token()))

    def channel(self) -> grpc.Channel:
        """Open a channel to it."""
        return grpc.insecure_channel(self.address, options=[("grpc.enable_http_proxy", 0)])


def environment(**more: str) -> dict[str, str]:
    """Return this process's environment without any Pillion or W&B settings, and with `more`.

    No anomalies are looked for, and no system is sampled: each takes a process more per sidecar.
    And a sidecar has time: where all is busy, a worker may start later than it waits by default.
    """
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PILLION_", "WANDB_"))
    }
    ours = {
        "PILLION_ANOMALIES": "false",
        "PILLION_SYSTEM_INTERVAL_S": "0",
        "PILLION_DRAIN_TIMEOUT_S": "60",
        "PILLION_STORE_WAIT_S": "25",
        "NETRC": os.devnull,  # nor with a key that `wandb login` has left
    }
    return kept | ours | more


def pids_below(pid: int) -> Sequence[int]:
    """Return the processes that a process, and those that they, have started."""
    found: list[int] = []
    with suppress(OSError):  # it is just ending
        for tasks in Path(f"/proc/{pid}/task").glob("*/children"):
            for child in map(int, tasks.read_text(encoding="ascii").split()):
                found += [child, *pids_below(child)]
    return found
