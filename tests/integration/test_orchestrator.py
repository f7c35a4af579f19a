"""Jobs as people run them: real fine-tunes, a real sidecar, real signals."""

import os
import signal
import subprocess
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from processes import WAIT_S, SidecarProcess
from training import run_of, state_of

from pillion_trainer import JobState, TrainingOrchestrator

pytestmark = pytest.mark.timeout(1200)

LONG_S = 4 * WAIT_S

SCRIPT = """
import sys
from pillion_trainer import TrainingOrchestrator
with TrainingOrchestrator(sys.argv[1], max_parallel=1) as orchestrator:
    for job_id in ("first", "second"):
        config = {"model": sys.argv[2], "max_steps": 1_000_000, "sequence_length": 32}
        orchestrator.create_job(config, job_id, environment={"OMP_NUM_THREADS": "1"})
        orchestrator.start(job_id)
    print("started", flush=True)
for status in orchestrator.jobs():
    print(status.state)
"""


def test_jobs_learn_and_end_as_they_are_told(
    sidecar: SidecarProcess, small_base: Path, tmp_path: Path, wait_until: Callable[..., Any]
) -> None:
    """One to its end; one cancelled, one killed, one mistaken; the sidecar tells of all."""
    config = {"model": str(small_base), "sequence_length": 32, "eval_interval_steps": 0}
    for_ever = config | {"max_steps": 1_000_000}
    given = {
        "done": config | {"max_steps": 5},
        "cancelled": for_ever,
        "killed": for_ever,
        "mistaken": config | {"target_modules": ["nonesuch"]},
    }
    with TrainingOrchestrator(
        tmp_path / "jobs", address=sidecar.address, max_parallel=2
    ) as orchestrator:
        for job_id, options in given.items():
            variables = {"OMP_NUM_THREADS": "1", "PILLION_SPOOL_DIR": str(tmp_path / "spool")}
            orchestrator.create_job(options, job_id, environment=variables)
            orchestrator.start(job_id)
        done = orchestrator.wait("done", LONG_S)
        log = done.log_file.read_text(encoding="utf-8")
        assert (done.state, done.exit_code, done.reason) == ("FINISHED", 0, ""), log
        assert (done.step, done.steps) == (5, 5)
        assert done.metrics["train/loss"] == done.metrics["final_loss"] > 0
        assert (done.output_dir / "adapter_model.safetensors").is_file()

        for job_id in ("cancelled", "killed"):
            status = wait_until(
                lambda job_id=job_id: (
                    (known := orchestrator.status(job_id)).step is not None and known
                )
            )
            assert status.state is JobState.RUNNING
            assert "train/loss" in status.metrics
            assert status.steps == 1_000_000
        orchestrator.cancel("cancelled")
        killed_pid = _pid_of(orchestrator.status("killed").run_id)
        os.kill(killed_pid, signal.SIGKILL)
        cancelled = orchestrator.wait("cancelled", LONG_S)
        assert (cancelled.state, cancelled.exit_code) == ("STOPPED", 143)
        assert cancelled.reason == "Stopped by SIGTERM."
        assert (cancelled.output_dir / "adapter_model.safetensors").is_file()
        killed = orchestrator.wait("killed", LONG_S)
        assert (killed.state, killed.exit_code) == ("CRASHED", 137)
        assert killed.reason
    mistaken = orchestrator.status("mistaken")
    assert (mistaken.state, mistaken.exit_code) == ("FAILED", 2)
    assert mistaken.reason.startswith("target_modules is 'nonesuch'")
    for status in orchestrator.jobs():
        run = wait_until(
            lambda status=status: (
                state_of(known := run_of(sidecar, status.run_id)) == status.state and known
            )
        )
        assert run.name == status.job_id


@pytest.fixture
def launcher(
    sidecar: SidecarProcess, small_base: Path, tmp_path: Path, run_python: Callable[..., Any]
) -> Any:
    """Return a program that has started two jobs, of which one waits for the other."""
    process = run_python(
        SCRIPT, str(tmp_path / "jobs"), str(small_base), PILLION_ADDRESS=sidecar.address
    )
    assert process.stdout.readline() == "started\n"
    return process


def test_ctrl_c_stops_the_jobs_and_keeps_their_adapters(
    sidecar: SidecarProcess,
    tmp_path: Path,
    launcher: subprocess.Popen[str],
    wait_until: Callable[..., Any],
) -> None:
    """What runs saves and ends STOPPED, what waits never begins, and the program ends by it."""
    wait_until(lambda: (run := run_of(sidecar, "first")) and run.row_count > 3)
    launcher.send_signal(signal.SIGINT)
    _, errors = launcher.communicate(timeout=LONG_S)
    assert launcher.returncode == -signal.SIGINT, errors
    run = run_of(sidecar, "first")
    assert (state_of(run), run.reason) == ("STOPPED", "Stopped by SIGTERM.")
    assert (tmp_path / "jobs" / run.run_id / "adapter" / "adapter_model.safetensors").is_file()
    assert run_of(sidecar, "second") is None


def test_a_job_outlives_its_orchestrator(
    sidecar: SidecarProcess,
    launcher: subprocess.Popen[str],
    wait_until: Callable[..., Any],
) -> None:
    """A training is not lost with who has launched it; its run tells of it, and it can be ended."""
    wait_until(lambda: (run := run_of(sidecar, "first")) and run.row_count > 0)
    launcher.kill()
    launcher.communicate()
    rows = run_of(sidecar, "first").row_count
    run = wait_until(lambda: (run := run_of(sidecar, "first")).row_count > rows and run)
    pid = _pid_of(run.run_id)
    os.kill(pid, signal.SIGTERM)
    wait_until(lambda: state_of(run_of(sidecar, "first")) == "STOPPED")


def _pid_of(run_id: str) -> int:
    """Find the process of a job."""
    for path in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it is gone
            if run_id.encode() in (path / "cmdline").read_bytes():
                return int(path.name)
    pytest.fail(f"no process of {run_id}")
