"""How long a sidecar takes to start with 1 GiB in its journal that no sink has yet.

    .venv/bin/python benchmarks/restart.py [GIB]

For large batches and for small ones: from the start of the process until it listens, and until a
new batch is acked. The store's worker begins to deliver at the same time, as it does in earnest.
"""

import os
import random
import shutil
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from faults.raw import RawWriter
from processes import SidecarProcess

from pillion.v1 import record_pb2
from pillion_sidecar.journal import Journal
from pillion_sidecar.records import (
    CheckedBatch,
    Environment,
    RunId,
    RunStart,
    WriterId,
)

RUNS = 50


def batch(run_id: RunId, sequence: int, size_bytes: int, noise: random.Random) -> CheckedBatch:
    """Make a batch of about so many bytes."""
    row_count = max(1, size_bytes // 18)
    frame = record_pb2.MetricFrame(steps=range(row_count), times_unix_nano=[1] * row_count)
    frame.columns.add(key="loss").doubles.values.extend(noise.random() for _ in range(row_count))
    message = record_pb2.Batch(run_id=run_id, writer_id="w", sequence=sequence)
    message.records.add().metric_frame.CopyFrom(frame)
    return CheckedBatch(
        run_id, WriterId("w"), sequence, message.SerializeToString(), row_count, keys={"loss"}
    )


def fill(path: Path, total_bytes: int, batch_bytes: int) -> int:
    """Journal so many bytes in batches of this size; return how many those are."""
    journal = Journal(path, on_commit=lambda: None, on_fatal=print)
    runs = [RunId(f"run-{number}") for number in range(RUNS)]
    for run_id in runs:
        fields = ("bench", run_id, "", "", (), "", {}, Environment(), 1)
        journal.start(RunStart(run_id, WriterId("w"), *fields)).result()
    noise = random.Random(1)
    templates = [batch(run_id, 1, batch_bytes, noise) for run_id in runs]
    count = total_bytes // batch_bytes
    for number in range(count):
        template = templates[number % RUNS]
        done = journal.append(
            CheckedBatch(
                *(template.run_id, template.writer_id, number // RUNS + 1, template.payload),
                row_count=template.row_count,
                keys=template.keys,
            )
        )
        if number % 512 == 511:
            done.result()
    done.result()
    journal.close()
    return count


def cpu_s(sidecar: SidecarProcess) -> float:
    """Return what a sidecar has computed so far, which a busy machine does not change."""
    assert sidecar.process is not None
    fields = Path(f"/proc/{sidecar.process.pid}/stat").read_text(encoding="ascii").split()
    return (int(fields[13]) + int(fields[14])) / os.sysconf("SC_CLK_TCK")


def main() -> None:
    """Measure and print."""
    total_bytes = int(float(sys.argv[1] if len(sys.argv) > 1 else 1) * 2**30)
    for batch_bytes in (512 * 1024, 2 * 1024):
        directory = Path(tempfile.mkdtemp(prefix="pillion-restart-", dir="/var/tmp"))
        sidecar = SidecarProcess(directory, "--wandb-mode", "disabled")
        try:
            sidecar.start()
            sidecar.stop()
            began_s = time.perf_counter()
            sidecar.start()
            empty_s, empty_cpu_s = time.perf_counter() - began_s, cpu_s(sidecar)
            sidecar.stop()
            count = fill(sidecar.data_dir / "journal.db", total_bytes, batch_bytes)
            began_s = time.perf_counter()
            sidecar.start()
            listening_s = time.perf_counter() - began_s
            writer = RawWriter(sidecar, "fresh")
            writer.start()
            writer.send(1, 1)
            acked_s = time.perf_counter() - began_s
            print(
                f"{count:,} batches of {batch_bytes // 1024} KiB: listens after "
                f"{listening_s:.2f} s, acks after {acked_s:.2f} s, {cpu_s(sidecar):.2f} s of CPU; "
                f"empty, it listens after {empty_s:.2f} s and {empty_cpu_s:.2f} s of CPU",
                flush=True,
            )
            sidecar.kill()
        finally:
            sidecar.close()
            shutil.rmtree(directory, ignore_errors=True)  # its worker is just dying


if __name__ == "__main__":
    main()
