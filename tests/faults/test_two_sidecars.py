"""Twenty sidecars started at once on one place: one has it, the others say who."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from processes import WAIT_S, environment

SIDECAR_COUNT = 20
EXIT_HELD = 75


@pytest.fixture
def started() -> Iterator[list[subprocess.Popen[str]]]:
    """Return a list whose processes are killed in the end."""
    processes: list[subprocess.Popen[str]] = []
    yield processes
    for process in processes:
        if process.poll() is None:
            process.kill()
        process.communicate()


def test_of_sidecars_started_at_once_one_lives_and_a_killed_one_leaves_the_place(
    tmp_path: Path, started: list[subprocess.Popen[str]], wait_until: Callable[..., Any]
) -> None:
    """No two ever serve one data directory; SIGKILL leaves nothing that keeps the next one out."""
    serve = [
        *(sys.executable, "-m", "pillion_sidecar", "serve", "--wandb-mode", "disabled"),
        *("--data-dir", str(tmp_path / "data"), "--listen", f"unix:{tmp_path}/s.sock"),
    ]

    def start() -> subprocess.Popen[str]:
        pipe = subprocess.PIPE
        variables = environment(PILLION_SPOOL_DIR=str(tmp_path / "spool"))
        process = subprocess.Popen(serve, stdout=pipe, stderr=pipe, text=True, env=variables)
        started.append(process)
        return process

    first = [start() for _ in range(SIDECAR_COUNT)]
    wait_until(lambda: sum(process.poll() is None for process in first) == 1)
    (winner,) = (process for process in first if process.poll() is None)
    assert winner.stdout is not None
    assert "listens at" in winner.stdout.readline()
    for process in first:
        if process is not winner:
            _, errors = process.communicate(timeout=WAIT_S)
            assert process.returncode == EXIT_HELD, errors
            assert "process " in errors
    os.kill(winner.pid, signal.SIGKILL)
    winner.wait(WAIT_S)
    next_one = start()
    assert next_one.stdout is not None
    assert "listens at" in next_one.stdout.readline()
