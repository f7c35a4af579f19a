"""The log of a real sidecar and of its workers."""

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pillion

CANARY = "canary-5e1f"
"""In what the user logs, so that it is found wherever it should not be."""


def events(text: str) -> list[dict[str, Any]]:
    """Return the lines that are objects; the others are what `serve` tells people."""
    return [json.loads(line) for line in text.splitlines() if line.startswith("{")]


def test_sidecar_and_workers_log_events_as_json(
    make_sidecar: Callable[..., Any], wait_until: Callable[..., Any]
) -> None:
    """Start, a worker's death and stop are events; nothing that a user logged is in any of them."""
    sidecar = make_sidecar("--wandb-mode", "disabled", "--log-format", "json")
    with pillion.init(id="r", config={CANARY: CANARY}, address=sidecar.address, quiet=True) as run:
        run.log({CANARY: 1.0})
    worker_pid = wait_until(lambda: child_of(sidecar.process.pid))
    os.kill(worker_pid, signal.SIGKILL)
    wait_until(lambda: child_of(sidecar.process.pid) not in {None, worker_pid})
    code, output = sidecar.stop()
    assert code == 0
    told = events(output)
    assert [event["event"] for event in told] == [
        *("listening", "writer started", "writer ended", "worker ended", "stopping")
    ]
    assert (told[1]["run_id"], told[2]["run"], told[3]["sink"]) == ("r", "FINISHED", "store")
    assert {"time", "level", "logger"} <= set(told[1])
    logs = "".join(path.read_text("utf-8") for path in (sidecar.data_dir / "logs").iterdir())
    assert CANARY not in output + logs


def child_of(pid: int) -> int | None:
    """Return the newest child of a process, if it has one."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text("ascii").split()
    return int(children[-1]) if children else None
