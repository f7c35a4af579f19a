"""Fine-tunes as processes of their own, on a base so small that a step takes milliseconds."""

import subprocess
import sys
from pathlib import Path
from typing import Any

from processes import WAIT_S, SidecarProcess, environment

from pillion.v1 import record_pb2
from pillion.v1 import telemetry_service_pb2 as pb2

SMALL = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "layers": 2,
    "heads": 2,
    "context_tokens": 64,
    "sequence_length": 32,
    "batch_size": 16,
    "steps": 120,
    "learning_rate": 5e-3,
}
"""What `pillion_trainer.base_model.Recipe` is given."""

FLAGS = ("--sequence-length", "32", "--eval-interval-steps", "0", "--threads", "1")
FOR_EVER = ("--max-steps", "1000000")


def start_training(
    base: Path,
    output_dir: Path,
    address: str,
    *flags: str,
    wrapper: tuple[str, ...] = (),
    **more: Any,
) -> "subprocess.Popen[str]":
    """Start a fine-tune that is the run `tune`; it prints to a pipe. `more` is `Popen`'s."""
    command = [
        *(*wrapper, sys.executable, "-m", "pillion_trainer", "--run-id", "tune"),
        *("--model", str(base), "--output-dir", str(output_dir), "--address", address),
        *FLAGS,
        *flags,
    ]
    variables = {"PILLION_SPOOL_DIR": str(output_dir.parent / "spool")}
    options: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT} | more
    return subprocess.Popen(command, text=True, env=environment(**variables), **options)


def end_of(process: "subprocess.Popen[str]") -> str:
    """Wait for a training's end; return what it printed."""
    output, _ = process.communicate(timeout=2 * WAIT_S)
    return output or ""


def run_of(sidecar: SidecarProcess, run_id: str = "tune") -> Any:
    """Return the run, or None while there is none."""
    found = sidecar.call("ListRuns", pb2.ListRunsRequest(reference=run_id)).runs
    return sidecar.call("GetRun", pb2.GetRunRequest(run_id=found[0].run_id)).run if found else None


def state_of(run: Any) -> str:
    """Return the word for a run's state."""
    return record_pb2.RunState.Name(run.state).removeprefix("RUN_STATE_")
