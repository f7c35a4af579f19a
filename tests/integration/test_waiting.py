"""`pillion wait` against a real sidecar: it ends when it may, and says how."""

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pillion


def command(sidecar: Any, *arguments: str) -> list[str]:
    """Return the command that waits there."""
    place = ("--address", sidecar.address, "--data-dir", str(sidecar.data_dir))
    return [sys.executable, "-m", "pillion_sidecar", "wait", *arguments, *place]


def waited(sidecar: Any, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Wait, to the end."""
    return subprocess.run(
        command(sidecar, *arguments), capture_output=True, text=True, check=False, timeout=300
    )


def test_wait_ends_with_the_run_and_its_delivery(make_sidecar: Callable[..., Any]) -> None:
    """Delivered to both sinks, W&B's file too; as a sentence or as JSON."""
    sidecar = make_sidecar()
    run = pillion.init(id="r", address=sidecar.address, quiet=True)
    run.log({"loss": 1.0})
    assert run.flush(60)
    in_vain = waited(sidecar, "r", "--timeout-s", "0")
    assert in_vain.returncode == 3
    assert "1 run has not ended" in in_vain.stdout
    with subprocess.Popen(command(sidecar, "r"), stdout=subprocess.PIPE, text=True) as waiting:
        run.finish()
        output, _ = waiting.communicate(timeout=300)
    assert (waiting.returncode, output) == (0, "Everything is delivered.\n")
    shape = json.loads(waited(sidecar, "--json").stdout)
    assert shape["is_done"]
    assert shape["undelivered"] == {"store": 0, "wandb": 0}
    assert (sidecar.data_dir / "wandb" / "wandb").is_dir()


def test_refused_questions_are_sentences(sidecar: Any) -> None:
    """A run or a sink that is not there, and no sidecar."""
    for arguments, words in ((("nobody",), "no run nobody"), (("--sink", "x"), "only to store")):
        refused = waited(sidecar, *arguments)
        assert refused.returncode == 1
        assert words in refused.stderr
        assert "Traceback" not in refused.stderr
    sidecar.stop()
    assert "No sidecar answers" in waited(sidecar).stderr


def test_ctrl_c_ends_it_with_130(sidecar: Any, wait_until: Callable[..., Any]) -> None:
    """As every command."""
    run = pillion.init(id="r", address=sidecar.address, quiet=True)
    ignored = signal.signal(signal.SIGINT, signal.default_int_handler)  # a child inherits ignoring
    with subprocess.Popen(command(sidecar), stdout=subprocess.PIPE, text=True) as waiting:
        signal.signal(signal.SIGINT, ignored)
        wait_until(lambda: is_asking(waiting.pid))
        waiting.send_signal(signal.SIGINT)
        waiting.communicate(timeout=300)
    run.finish()
    assert waiting.returncode == 130


def is_asking(pid: int) -> bool:
    """Tell whether a process has come so far that gRPC has threads in it."""
    for path in Path(f"/proc/{pid}/task").glob("*/comm"):
        with suppress(OSError):  # the thread has just ended
            if "event_engine" in path.read_text("ascii"):
                return True
    return False
