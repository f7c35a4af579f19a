"""However a training ends, its run says so and why: real processes, real signals, real limits.

W&B is switched off in these sidecars, which no training may notice.
"""

import functools
import os
import pty
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from faults.spooled import read_spool
from processes import SidecarProcess
from training import FOR_EVER, end_of, run_of, start_training, state_of

from pillion import Run
from pillion.v1 import record_pb2
from pillion.values import from_key_values
from pillion_trainer.cli import main

pytestmark = pytest.mark.timeout(1200)

ADAPTER = "adapter_model.safetensors"

Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start_at(small_base: Path, tmp_path: Path) -> Iterator[Start]:
    """Return a function that starts a training that logs to an address."""
    started: list[subprocess.Popen[str]] = []

    def start(address: str, *flags: str, output_dir: Path | None = None, **more: Any) -> Any:
        folder = output_dir or tmp_path / "out"
        started.append(start_training(small_base, folder, address, *flags, **more))
        return started[-1]

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()


@pytest.fixture
def start(start_at: Start, sidecar: SidecarProcess) -> Start:
    """Return a function that starts a training beside a sidecar."""
    return functools.partial(start_at, sidecar.address)


@pytest.fixture
def learning(sidecar: SidecarProcess, wait_until: Callable[..., Any]) -> Callable[[], Any]:
    """Return a function that waits until the training has logged some rows."""
    return lambda: wait_until(lambda: (run := run_of(sidecar)) and run.row_count > 3)


def test_ctrl_c_at_a_terminal_saves_and_stops(
    start: Start, learning: Callable[[], Any], sidecar: SidecarProcess, tmp_path: Path
) -> None:
    """The key itself, at a terminal that is the training's own: adapter, exit code 130, STOPPED."""
    ours, theirs = pty.openpty()
    process = start(
        *(*FOR_EVER, "--quiet"),
        stdin=theirs,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        wrapper=("setsid", "--ctty"),
    )
    os.close(theirs)
    learning()
    os.write(ours, b"\x03")
    end_of(process)
    os.close(ours)
    run = run_of(sidecar)
    assert process.returncode == run.exit_code == 130
    assert (state_of(run), run.reason) == ("STOPPED", "Stopped by SIGINT.")
    assert (tmp_path / "out" / ADAPTER).is_file()
    assert from_key_values(run.summary)["total_steps"] > 3


def test_sigterm_saves_and_stops(
    start: Start, learning: Callable[[], Any], sidecar: SidecarProcess, tmp_path: Path
) -> None:
    """As a scheduler stops it."""
    process = start(*FOR_EVER)
    learning()
    process.terminate()
    end_of(process)
    run = run_of(sidecar)
    assert process.returncode == run.exit_code == 143
    assert (state_of(run), run.reason) == ("STOPPED", "Stopped by SIGTERM.")
    assert (tmp_path / "out" / ADAPTER).is_file()


def test_a_signal_while_the_run_begins_stops_it(
    small_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`init` has not returned; without a sidecar it waits for some seconds, and then must go."""
    begin = Run.open

    def open_broken_off(run: Run) -> None:
        begin(run)
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(Run, "open", open_broken_off)
    flags = ["--model", str(small_base), "--output-dir", str(tmp_path / "out"), "--quiet"]
    flags += ["--sequence-length", "32", "--address", f"unix:{tmp_path}/nobody.sock"]
    assert main([*flags]) == 143
    (spooled,) = read_spool(tmp_path / "spool")
    assert spooled.finish is not None
    assert (spooled.finish.exit_code, spooled.finish.reason) == (143, "Stopped by SIGTERM.")
    assert spooled.finish.state == record_pb2.RUN_STATE_STOPPED


def test_a_killed_training_has_crashed(
    start: Start,
    learning: Callable[[], Any],
    sidecar: SidecarProcess,
    wait_until: Callable[..., Any],
) -> None:
    """Nobody in it could say so: the sidecar does."""
    process = start(*FOR_EVER)
    learning()
    process.kill()
    end_of(process)
    run = wait_until(lambda: state_of(run := run_of(sidecar)) == "CRASHED" and run)
    assert run.reason


def test_a_machine_without_memory_is_told_with_what_to_lower(
    start: Start, sidecar: SidecarProcess, tmp_path: Path
) -> None:
    """The address space of the process is bounded, and one batch is larger than that."""
    text = tmp_path / "long.txt"
    text.write_text("All work and no play. " * 40_000, encoding="utf-8")
    limited = ("prlimit", f"--as={4 << 30}")
    large = ("--data", str(text), "--batch-size", "20000", "--max-steps", "2")
    output = end_of(start(*large, wrapper=limited))
    run = run_of(sidecar)
    assert (state_of(run), run.exit_code) == ("FAILED", 1), output
    assert run.reason.startswith("The machine's memory ran out with batch_size 20000"), output
    assert "sequence_length 32, precision fp32" in run.reason
    assert "give a smaller batch_size" in run.reason
    assert run.reason in output


def test_a_loss_that_is_no_number_fails_the_run(start: Start, sidecar: SidecarProcess) -> None:
    """With the step, and what to change."""
    output = end_of(start("--learning-rate", "1e30", "--warmup-steps", "0", "--max-steps", "20"))
    run = run_of(sidecar)
    assert (state_of(run), run.exit_code) == ("FAILED", 1), output
    assert "give a smaller learning_rate" in run.reason


def test_a_mistake_that_only_the_model_shows_is_the_runs_reason(
    start: Start, sidecar: SidecarProcess
) -> None:
    """The run has begun by then, so it fails, with the same words that the terminal has."""
    process = start("--target-modules", "nonesuch")
    output = end_of(process)
    run = run_of(sidecar)
    assert process.returncode == run.exit_code == 2
    assert state_of(run) == "FAILED"
    assert run.reason.startswith("target_modules is 'nonesuch'")
    assert run.reason in output


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Mount a disk that is smaller than an adapter."""
    place = tmp_path / "disk"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(place)], check=True)
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


def test_a_full_disk_is_told_with_what_to_do(
    start: Start, sidecar: SidecarProcess, small_disk: Path
) -> None:
    """The adapter cannot be saved: FAILED, in a sentence."""
    output = end_of(start("--max-steps", "3", output_dir=small_disk / "out"))
    run = run_of(sidecar)
    assert (state_of(run), run.exit_code) == ("FAILED", 1), output
    assert f"output_dir ({small_disk / 'out'}) is full: free some room" in run.reason
    assert "Traceback" not in output


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (("--max-steps", "3"), ("FINISHED", 0)),
        (("--learning-rate", "1e30", "--warmup-steps", "0"), ("FAILED", 1)),
    ],
)
def test_without_a_sidecar_the_end_waits_for_one(
    start_at: Start,
    make_sidecar: Callable[..., SidecarProcess],
    wait_until: Callable[..., Any],
    tmp_path: Path,
    flags: tuple[str, ...],
    expected: tuple[str, int],
) -> None:
    """The training does not notice; rows, summary and end are there once a sidecar is."""
    process = start_at(f"unix:{tmp_path}/nobody.sock", *flags)
    output = end_of(process)
    assert process.returncode == expected[1], output
    later = make_sidecar("--wandb-mode", "disabled")
    run = wait_until(lambda: (run := run_of(later)) and state_of(run) != "RUNNING" and run)
    assert (state_of(run), run.exit_code) == expected
    assert run.row_count > 0
