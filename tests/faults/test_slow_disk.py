"""F7: syncs that take long make batches share commits, not wait in line; nobody is refused.

`PILLION_SOAK=1` has them take up to 5 s, which needs some minutes.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from faults.raw import RawWriter
from faults.strace import Strace, calls_in, journal_files
from processes import WAIT_S, SidecarProcess, environment

WRITERS, BATCHES = 4, 40
DELAYS_MS = [200, 1000, 5000] if "PILLION_SOAK" in os.environ else [200]
TRAINER = """
import json, sys, time, pillion
run = pillion.init(id="trainer", quiet=True)
times = []
for index in range(2000):
    before = time.perf_counter()
    run.log({"loss": float(index)})
    times.append(time.perf_counter() - before)
    time.sleep(0.0005)
run.flush(timeout_s=60)
counts = run.counts
print(json.dumps({"median_s": sorted(times)[1000], "acked": counts.acked,
                  "refused": counts.refused}))
run.finish()
"""


def rss_bytes(pid: int) -> int:
    """Return how much memory a process holds."""
    for line in Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("a process has a size")


@pytest.mark.parametrize("delay_ms", DELAYS_MS)
def test_slow_syncs_are_shared_and_memory_stays_bounded(tmp_path: Path, delay_ms: int) -> None:
    """With each sync delayed, commits are far fewer than batches, and all is acked and kept."""
    sidecar = SidecarProcess(tmp_path, "--wandb-mode", "disabled")
    try:
        sidecar.start()
        assert sidecar.process is not None
        writers = [RawWriter(sidecar, "run", f"w{number}") for number in range(WRITERS)]
        for writer in writers:
            writer.start()
        before_bytes = rss_bytes(sidecar.process.pid)
        strace = Strace(
            sidecar.process.pid,
            journal_files(sidecar.data_dir),
            tmp_path / "trace",
            f"fdatasync:delay_exit={delay_ms * 1000}",
        )
        trainer = subprocess.run(
            [sys.executable, "-c", TRAINER],
            env=environment(PILLION_ADDRESS=sidecar.address),
            capture_output=True,
            check=True,
            timeout=WAIT_S,
        )
        before = calls_in(tmp_path / "trace")["fdatasync"]
        for writer in writers:
            writer.send(1, BATCHES)
            assert writer.acked == BATCHES
        syncs = strace.detach()["fdatasync"] - before
        told = json.loads(trainer.stdout)
        assert (told["acked"], told["refused"]) == (2000, 0)
        assert told["median_s"] < 0.001  # log() knows nothing of the disk
        assert syncs < WRITERS * BATCHES
        assert rss_bytes(sidecar.process.pid) - before_bytes < 64 * 1024 * 1024
        assert sidecar.stop()[0] == 0
    finally:
        sidecar.close()
