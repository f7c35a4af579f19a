"""Every way in which a trainer's process ends, with a sidecar and without one.

With one, what it says of the run is the oracle; without, what is in the spool: the same end has to
be there, for whoever takes the file over.
"""

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from faults.spooled import read_spool

from pillion.spool import End
from pillion.v1 import record_pb2
from pillion.v1 import telemetry_service_pb2 as pb2

ROWS = 100

TRAINER = """
import os, signal, sys, threading, pillion
run = pillion.init(id="ending", quiet=True)
for step in range({rows}): run.log({{"loss": float(step)}}, step=step)
{ending}
"""

# What ends the process; its exit code; the run's state, exit code and reason, None: no word of it.
ENDINGS = {
    "return": ("", 0, ("FINISHED", 0, "")),
    "finish": ("run.finish()", 0, ("FINISHED", 0, "")),
    "finish-3": ("run.finish(3)", 0, ("FAILED", 3, "")),
    "sys.exit-0": ("sys.exit(0)", 0, ("FINISHED", 0, "")),
    "sys.exit-5": ("sys.exit(5)", 5, ("FAILED", 5, "")),
    "exit-5": ("exit(5)", 5, ("FAILED", 5, "")),
    # Nobody but the process that started it can tell this from a plain end; `pillion run` can.
    "bare-system-exit": ("raise SystemExit(5)", 5, ("FINISHED", 0, "")),
    "exception": ("raise RuntimeError('no luck')", 1, ("FAILED", 1, "RuntimeError: no luck")),
    "with-exception": (
        "with run: raise RuntimeError('no luck')",
        1,
        ("FAILED", 1, "RuntimeError: no luck"),
    ),
    "with-system-exit": ("with run: raise SystemExit(5)", 5, ("FAILED", 5, "")),
    "ctrl-c": (
        (
            "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
            "os.kill(os.getpid(), signal.SIGINT); signal.pause()"
        ),
        -signal.SIGINT,
        ("STOPPED", 130, "Stopped by SIGINT."),
    ),
    "sigterm": (
        "os.kill(os.getpid(), signal.SIGTERM); signal.pause()",
        -signal.SIGTERM,
        ("STOPPED", 143, "Stopped by SIGTERM."),
    ),
    "sigterm-under-a-lock": (
        (
            "threading.Timer(0.01, os.kill, [os.getpid(), signal.SIGTERM]).start()\n"
            "while True: run.counts; run.flush(0)"
        ),
        -signal.SIGTERM,
        ("STOPPED", 143, "Stopped by SIGTERM."),
    ),
    "sigterm-of-the-program's-own": (
        (
            "signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))\n"
            "os.kill(os.getpid(), signal.SIGTERM); signal.pause()"
        ),
        7,
        ("FAILED", 7, ""),
    ),
    "thread-still-running": (
        "threading.Thread(target=threading.Event().wait, daemon=True).start()",
        0,
        ("FINISHED", 0, ""),
    ),
    "os._exit": ("run_is_kept(); os._exit(3)", 3, None),
    "abort": ("run_is_kept(); os.abort()", -signal.SIGABRT, None),
    "sigkill": ("run_is_kept(); os.kill(os.getpid(), signal.SIGKILL)", -signal.SIGKILL, None),
}


def code_of(ending: str) -> str:
    """Return a trainer's program; what is killed waits until its rows are out of its hands."""
    kept = (
        "def run_is_kept():\n"
        "    while run.counts.acked + run.counts.spooled < len(range({rows})): pass\n"
    )
    return TRAINER.format(rows=ROWS, ending=kept.format(rows=ROWS) + ending)


@pytest.mark.parametrize("name", ENDINGS)
def test_end_is_told_to_the_sidecar(
    sidecar: Any, run_python: Callable[..., Any], wait_until: Callable[..., Any], name: str
) -> None:
    """The process ends as it would without us; the run as the process did, with all its rows."""
    ending, exit_code, expected = ENDINGS[name]
    trainer = run_python(code_of(ending), PILLION_ADDRESS=sidecar.address)
    trainer.communicate(timeout=300)
    assert trainer.returncode == exit_code
    get = pb2.GetRunRequest(run_id="ending")
    run = wait_until(
        lambda: (
            (found := sidecar.call("GetRun", get).run).state != record_pb2.RUN_STATE_RUNNING
            and found
        )
    )
    state = record_pb2.RunState.Name(run.state).removeprefix("RUN_STATE_")
    if expected is None:
        assert state == "CRASHED"
    else:
        assert (state, run.exit_code, run.reason) == expected
    assert run.row_count == ROWS


@pytest.mark.parametrize("name", ENDINGS)
def test_end_without_a_sidecar_is_in_the_spool(
    run_python: Callable[..., Any], tmp_path: Path, name: str
) -> None:
    """With the same state, code and reason; one that tells nothing leaves no end there."""
    ending, exit_code, expected = ENDINGS[name]
    trainer = run_python(code_of(ending), PILLION_ADDRESS=f"unix:{tmp_path}/s.sock")
    trainer.communicate(timeout=300)
    assert trainer.returncode == exit_code
    (spooled,) = read_spool(tmp_path / "spool")
    assert [step for step, _ in spooled.rows] == [*range(ROWS)]
    assert spooled.end is End.WHOLE
    if expected is None:
        assert spooled.finish is None
        return
    finish = spooled.finish
    said = record_pb2.RunState.Name(finish.state).removeprefix("RUN_STATE_")
    state = said if finish.state else "FAILED" if finish.exit_code else "FINISHED"
    assert (state, finish.exit_code, finish.reason) == expected
    assert finish.last_sequence == spooled.sequences[-1]


@pytest.mark.parametrize("name", ["return", "exception", "sigterm", "sigkill"])
def test_end_that_was_spooled_is_the_runs(
    make_sidecar: Callable[..., Any],
    run_python: Callable[..., Any],
    wait_until: Callable[..., Any],
    tmp_path: Path,
    name: str,
) -> None:
    """Once a sidecar takes the file over: all rows, and the end as if it had been there."""
    ending, _, expected = ENDINGS[name]
    trainer = run_python(code_of(ending), PILLION_ADDRESS=f"unix:{tmp_path}/s.sock")
    trainer.communicate(timeout=300)
    sidecar = make_sidecar("--wandb-mode", "disabled")
    wait_until(lambda: read_spool(tmp_path / "spool") == [])
    run = sidecar.call("GetRun", pb2.GetRunRequest(run_id="ending")).run
    state = record_pb2.RunState.Name(run.state).removeprefix("RUN_STATE_")
    if expected is None:
        assert state == "CRASHED"
    else:
        assert (state, run.exit_code, run.reason) == expected
    assert run.row_count == ROWS


def test_second_sigterm_does_not_wait(
    sidecar: Any, run_python: Callable[..., Any], tmp_path: Path
) -> None:
    """A sidecar that is frozen holds nobody who insists; what was logged is in the spool."""
    code = (
        "import os, signal, threading, pillion\n"
        "run = pillion.init(id='ending', quiet=True)\n"
        "print('ready', flush=True); input()\n"
        "run.log({'loss': 1.0})\n"
        "os.kill(os.getpid(), signal.SIGTERM)\n"
    )
    trainer = run_python(code, PILLION_ADDRESS=sidecar.address)
    assert trainer.stdout.readline() == "ready\n"
    sidecar.freeze()
    trainer.stdin.write("\n")
    trainer.stdin.flush()
    while trainer.poll() is None:
        trainer.send_signal(signal.SIGTERM)
    sidecar.process.send_signal(signal.SIGCONT)
    assert trainer.returncode == -signal.SIGTERM


def test_end_waits_for_a_frozen_sidecar_no_longer_than_it_says(
    sidecar: Any, run_python: Callable[..., Any], tmp_path: Path
) -> None:
    """Then what it did not ack is in the spool, with the end."""
    code = (
        "import pillion\n"
        "run = pillion.init(id='ending', quiet=True)\n"
        "print('ready', flush=True); input()\n"
        "for step in range(100): run.log({'loss': float(step)}, step=step)\n"
    )
    trainer = run_python(code, PILLION_ADDRESS=sidecar.address)
    assert trainer.stdout.readline() == "ready\n"
    sidecar.freeze()
    _, errors = trainer.communicate("\n", timeout=300)
    assert trainer.returncode == 0
    assert "ended without a sidecar" in errors
    (spooled,) = read_spool(tmp_path / "spool")
    sidecar.process.send_signal(signal.SIGCONT)
    assert [step for step, _ in spooled.rows] == [*range(100)]
    assert spooled.finish is not None
