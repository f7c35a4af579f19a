"""A trainer that logs flat out while its sidecar is frozen or away: its memory stays bounded.

For some ten seconds, of which five pass until a frozen sidecar is found; for ten minutes each:

    PILLION_SOAK=1 pytest tests/faults/test_client_memory.py
"""

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pillion import _run, _unacked

SECONDS = 600 if "PILLION_SOAK" in os.environ else 10
QUEUE_BYTES_MAX = _run.ROWS_MAX * 1000
"""A row of ten numbers takes some 750 bytes in the queue."""
SLACK_BYTES = 64 * 1024 * 1024
"""What gRPC, protobuf and the allocator may take besides."""

TRAINER = """
import json, sys, time, pillion
run = pillion.init(id="flat-out", quiet=True)
assert run.flush(60)
print("ready", flush=True); sys.stdin.readline()
def resident():
    with open("/proc/self/statm") as file: return int(file.read().split()[1]) * 4096
began_bytes, most_bytes, most_unacked, logged = resident(), 0, 0, 0
keys = [f"metric_{index}" for index in range(10)]
end_s = time.monotonic() + float(sys.argv[1])
while time.monotonic() < end_s:
    for _ in range(1000):
        run.log({key: logged + 0.5 for key in keys})
        logged += 1
    most_bytes = max(most_bytes, resident())
    most_unacked = max(most_unacked, run.counts.unacked_bytes)
counts = run.counts
print(json.dumps({"began": began_bytes, "most": most_bytes, "unacked": most_unacked,
    "logged": logged, "counted": counts.queued + counts.unacked + counts.spooled + counts.acked
    + counts.refused + counts.dropped, "spooled": counts.spooled,
    "refused": counts.refused}), flush=True)
sys.stdin.readline()
"""


@pytest.mark.timeout(SECONDS + 600)
@pytest.mark.parametrize("spool", ["spool", "/dev/full"], ids=["spool", "no-spool"])
@pytest.mark.parametrize("fault", ["frozen", "away"])
def test_memory_is_bounded_while_nothing_is_acked(
    sidecar: Any, run_python: Callable[..., Any], tmp_path: Path, fault: str, spool: str
) -> None:
    """Batches and queue keep to their bounds, and every row is in one count."""
    trainer = run_python(
        TRAINER,
        str(SECONDS),
        PILLION_ADDRESS=sidecar.address,
        PILLION_SPOOL_DIR=str(tmp_path / spool),
        PILLION_SPOOL_BYTES_MAX=str(256 * 1024 * 1024),
    )
    assert trainer.stdout.readline() == "ready\n"
    if fault == "frozen":
        sidecar.freeze()
    else:
        sidecar.kill()
    trainer.stdin.write("\n")
    trainer.stdin.flush()
    told = json.loads(trainer.stdout.readline())
    trainer.kill()
    if fault == "frozen":
        sidecar.process.send_signal(signal.SIGCONT)
    print(fault, spool, told)
    assert told["logged"] == told["counted"]
    assert told["unacked"] <= _unacked.BYTES_MAX
    assert told["most"] - told["began"] <= _unacked.BYTES_MAX + QUEUE_BYTES_MAX + SLACK_BYTES
    assert bool(told["spooled"]) is (spool == "spool")
