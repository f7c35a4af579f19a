"""What several tests need: a real sidecar process, trainers as processes, and a bounded wait."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from postgresql import PostgresqlServer, postgresql_server
from processes import WAIT_S, SidecarProcess, environment
from training import SMALL

from pillion import _init

settings.register_profile("explore", deadline=None, suppress_health_check=list(HealthCheck))
settings.register_profile("same", settings.get_profile("explore"), derandomize=True)
settings.load_profile("same")
"""The same examples each time, at any pace; `--hypothesis-profile=explore` looks for others."""


# Of torch, here and in what the tests start; it reads this when it is loaded. The models are so
# small, and the test processes as many as the cores, that more threads would wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_configure() -> None:
    """Have signals do to what the tests start what they do by default, however tests are started.

    Under `nohup`, or in a shell's background, some are ignored, and a process inherits that.
    """
    for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_IGN:
            is_interrupt = number == signal.SIGINT
            signal.signal(number, signal.default_int_handler if is_interrupt else signal.SIG_DFL)


@pytest.fixture(autouse=True)
def no_current_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Begin without the run that another test has left as the current one."""
    monkeypatch.setattr(_init, "_current", None)


@pytest.fixture(autouse=True)
def own_spool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep what this test's own clients spool away from the user's."""
    monkeypatch.setenv("PILLION_SPOOL_DIR", str(tmp_path / "spool"))


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
            env=environment(**{"PILLION_SPOOL_DIR": str(tmp_path / "spool")} | variables),
        )
        started.append(process)
        return process

    yield run
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()


@pytest.fixture(scope="session")
def small_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a base model to be tuned; needs the extra [trainer]."""
    pytest.importorskip("peft", reason="needs the extra [trainer]")
    from pillion_trainer.base_model import Recipe, ensure_base_model  # noqa: PLC0415 - torch

    return ensure_base_model(tmp_path_factory.mktemp("base"), recipe=Recipe(**SMALL))


@pytest.fixture(scope="session")
def postgresql() -> Iterator[PostgresqlServer]:
    """Return a PostgreSQL server, the same for all tests of this process."""
    with postgresql_server() as server:
        yield server


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
