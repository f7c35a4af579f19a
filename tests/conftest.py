"""What several tests need: a real sidecar process, trainers as processes, and a bounded wait."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from pillion.v1 import telemetry_service_pb2 as pb2
from pillion.v1 import telemetry_service_pb2_grpc as pb2_grpc

WAIT_S = 60.0
"""Generous: how long anything that should happen may take."""


class SidecarProcess:
    """A sidecar as `pillion serve` starts it. It can be stopped, killed and started again."""

    def __init__(self, directory: Path, *flags: str, listen: str = "") -> None:
        self.data_dir = directory / "data"
        # Short, whatever the test's name: a socket's path may have 107 bytes.
        self._socket_dir = Path(tempfile.mkdtemp(prefix="pillion-test-"))
        self.listen = listen or f"unix:{self._socket_dir}/s.sock"
        self.address = self.listen
        self._flags = flags
        self.process: subprocess.Popen[str] | None = None

    def start(self) -> "SidecarProcess":
        """Start it and wait until it listens."""
        ready, ready_theirs = os.pipe()
        command = [
            *(sys.executable, "-m", "pillion_sidecar", "serve"),
            *("--data-dir", str(self.data_dir), "--listen", self.listen),
            *("--ready-fd", str(ready_theirs), *self._flags),
        ]
        self.process = subprocess.Popen(
            command,
            pass_fds=[ready_theirs],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=environment(),
        )
        os.close(ready_theirs)
        with os.fdopen(ready, encoding="utf-8") as file:
            self.address = file.read().strip()
        if not self.address:
            pytest.fail(f"the sidecar did not start:\n{self.process.communicate()[0]}")
        return self

    def kill(self) -> None:
        """End it with SIGKILL."""
        assert self.process is not None
        self.process.kill()
        self.process.communicate()

    def stop(self) -> tuple[int, str]:
        """End it with SIGTERM; return its exit code and all that it printed."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        output, _ = self.process.communicate(timeout=WAIT_S)
        return self.process.returncode, output

    def close(self) -> None:
        """End it somehow."""
        if self.process is not None and self.process.poll() is None:
            self.kill()
        shutil.rmtree(self._socket_dir, ignore_errors=True)

    def token(self) -> tuple[tuple[str, str], ...]:
        """Return the metadata that a TCP sidecar asks for."""
        path = self.data_dir / "token"
        if not path.exists():
            return ()
        return (("authorization", f"Bearer {path.read_text(encoding='ascii').strip()}"),)

    def call(self, method: str, request: Any) -> Any:
        """Call a unary RPC."""
        with grpc.insecure_channel(
            self.address, options=[("grpc.enable_http_proxy", 0)]
        ) as channel:
            stub = pb2_grpc.TelemetryServiceStub(channel)
            return getattr(stub, method)(request, timeout=WAIT_S, metadata=self.token())

    def log(self, *requests: pb2.LogMetricsRequest) -> list[pb2.LogMetricsResponse]:
        """Call LogMetrics; return the acks."""
        with grpc.insecure_channel(
            self.address, options=[("grpc.enable_http_proxy", 0)]
        ) as channel:
            stub = pb2_grpc.TelemetryServiceStub(channel)
            return list(stub.LogMetrics(iter(requests), timeout=WAIT_S, metadata=self.token()))


def environment(**more: str) -> dict[str, str]:
    """Return this process's environment without any Pillion or W&B settings, and with `more`."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PILLION_", "WANDB_"))
    }
    return kept | more


@pytest.fixture
def make_sidecar(tmp_path: Path) -> Iterator[Callable[..., SidecarProcess]]:
    """Return a function that starts sidecars on one data directory; flags as on the command."""
    made: list[SidecarProcess] = []

    def make(*flags: str, listen: str = "") -> SidecarProcess:
        made.append(SidecarProcess(tmp_path, *flags, listen=listen))
        return made[-1].start()

    yield make
    for sidecar in made:
        sidecar.close()


@pytest.fixture
def sidecar(make_sidecar: Callable[..., SidecarProcess]) -> SidecarProcess:
    """Return a running sidecar without W&B."""
    return make_sidecar("--wandb-mode", "disabled")


@pytest.fixture
def run_python(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Return a function that runs Python code as a process of its own."""
    started: list[subprocess.Popen[str]] = []

    def run(code: str, *arguments: str, python: str = sys.executable, **variables: str) -> Any:
        process = subprocess.Popen(
            [python, "-c", code, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=tmp_path,
            env=environment(**variables),
        )
        started.append(process)
        return process

    yield run
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()


@pytest.fixture
def wait_until() -> Callable[[Callable[[], Any]], Any]:
    """Return a function that waits until something is true, and fails if it never is."""

    def wait(is_true: Callable[[], Any]) -> Any:
        deadline_s = time.monotonic() + WAIT_S
        pause = threading.Event()
        while not (result := is_true()):
            if time.monotonic() > deadline_s:
                pytest.fail(f"not within {WAIT_S:.0f} s")
            pause.wait(0.02)
        return result

    return wait
