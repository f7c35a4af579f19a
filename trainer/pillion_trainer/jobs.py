"""A job: a fine-tune that is a process of its own; how it is described, and how it has ended."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from pathlib import Path

from pillion.plain import Value
from pillion_trainer.config import TrainingConfig

COMMAND = (sys.executable, "-m", "pillion_trainer")
SIGNALLED = 128
"""An exit code above it is that of a signal, as shells count."""
_STOPPING = (signal.SIGINT, signal.SIGTERM)
_LAST_LINE_BYTES_MAX = 4096


class JobState(StrEnum):
    """How far a job has come; the last four are ends, in the words of runs."""

    CREATED = "CREATED"
    """It waits for `start`."""
    QUEUED = "QUEUED"
    """It waits for others to end."""
    RUNNING = "RUNNING"
    FINISHED = "FINISHED"
    STOPPED = "STOPPED"
    FAILED = "FAILED"
    CRASHED = "CRASHED"

    @property
    def is_end(self) -> bool:
        """Whether it will not change any more."""
        return self in _ENDS


_ENDS = {JobState.FINISHED, JobState.STOPPED, JobState.FAILED, JobState.CRASHED}


@dataclass(frozen=True, slots=True)
class Job:
    """What is decided of a job before it starts."""

    id: str
    run_id: str
    config: TrainingConfig
    folder: Path
    """What is its own: `job.toml`, `job.log`, and the adapter unless the config says where."""
    environment: Mapping[str, str]
    """Variables that it gets beside those of this process."""

    @property
    def output_dir(self) -> Path:
        """Where adapter and checkpoints go."""
        return Path(self.config.output_dir or self.folder / "adapter").expanduser().absolute()

    @property
    def log_file(self) -> Path:
        """What it prints."""
        return self.folder / "job.log"

    @property
    def config_file(self) -> Path:
        """What its process reads."""
        return self.folder / "job.toml"


@dataclass(frozen=True, slots=True)
class JobStatus:
    """A job as it was when it was asked for."""

    job_id: str
    state: JobState
    reason: str
    """Why it has ended, for people; empty while it runs, and if all went well."""
    exit_code: int | None
    """128 and the signal's number for one that was killed; None: it has not ended, or not begun."""
    step: int | None
    """The last step that is logged; None: none, or no sidecar tells."""
    steps: int | None
    """How many there will be; None: not known yet."""
    metrics: dict[str, Value]
    """The latest value of each metric and what is in the summary, without `system/...`; empty if no
    sidecar tells."""
    run_id: str
    run_url: str
    """Its page at W&B; empty if there is none, or no sidecar tells."""
    create_time: datetime
    start_time: datetime | None
    end_time: datetime | None
    gpu: str
    """What its CUDA_VISIBLE_DEVICES says; empty: nothing of its own."""
    output_dir: Path
    log_file: Path


@dataclass(frozen=True, slots=True)
class Ending:
    """How a job's process has ended."""

    state: JobState
    exit_code: int | None
    reason: str


def start_process(
    job: Job, gpu: str, address: str | None, token: str | None
) -> "subprocess.Popen[bytes]":
    """Start a job's process, without a key of W&B's, in a session and a folder of its own.

    Args:
        job: The job.
        gpu: Its CUDA_VISIBLE_DEVICES; empty: as this process has it.
        address: The sidecar; None: as the client finds it.
        token: What that asks for; None: `$PILLION_TOKEN`.

    Raises:
        OSError: The folder or the process cannot be made.
        ValueError: The configuration cannot be written as text.
    """
    job.folder.mkdir(parents=True)
    job.config_file.write_text(toml_of(job.config), encoding="utf-8")
    variables = {name: value for name, value in os.environ.items() if name != "WANDB_API_KEY"}
    if token:
        variables["PILLION_TOKEN"] = token
    if gpu:
        variables["CUDA_VISIBLE_DEVICES"] = gpu
    where = ("--address", address) if address else ()
    with job.log_file.open("ab") as log_file:
        return subprocess.Popen(
            [*COMMAND, "--config", str(job.config_file), "--run-id", job.run_id, *where],
            stdin=subprocess.DEVNULL,
            stdout=log_file,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C reaches the orchestrator alone, which then tells it
            env=variables | dict(job.environment),
        )


def kill_group(process: "subprocess.Popen[bytes]") -> None:
    """End a job's process and all that it has started, at once."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)


def ending_of(code: int, log_file: Path) -> Ending:
    """Tell how a process ended by its exit code, negative for the signal that killed it."""
    if code == 0:
        return Ending(JobState.FINISHED, 0, "")
    number = -code if code < 0 else code - SIGNALLED
    if number in _STOPPING:
        return Ending(JobState.STOPPED, SIGNALLED + number, f"Stopped by {_name(number)}.")
    if code < 0:
        memory = "; perhaps memory ran out" if number == signal.SIGKILL else ""
        reason = f"Killed by {_name(number)}{memory}."
        return Ending(JobState.CRASHED, SIGNALLED + number, reason)
    return Ending(JobState.FAILED, code, last_line(log_file) or f"Exit code {code}.")


def last_line(log_file: Path) -> str:
    """Return what a process has printed last, without the name of who prints; empty if nothing."""
    try:
        with log_file.open("rb") as file:
            file.seek(0, 2)
            file.seek(max(0, file.tell() - _LAST_LINE_BYTES_MAX))
            lines = file.read().decode(errors="replace").splitlines()
    except OSError:
        return ""
    return next((line for line in reversed(lines) if line.strip()), "").removeprefix("trainer: ")


def toml_of(config: TrainingConfig) -> str:
    """Return a configuration as `--config` reads it. All values are plain or lists of texts."""
    lines = (
        f"{name} = {_toml_value(value)}\n"
        for name, value in config.as_dict().items()
        if value is not None
    )
    return "".join(lines)


def _toml_value(value: object) -> str:
    # JSON is TOML here, but for one character, and for floats that JSON does not have.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
