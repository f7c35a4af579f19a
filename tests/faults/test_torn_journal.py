"""F3, F4: the journal's log is cut or garbled: what is left is whole, and writers are told."""

import random
from collections.abc import Callable
from pathlib import Path

import pytest
from faults.raw import ROWS_PER_BATCH, RawWriter
from processes import SidecarProcess

from pillion.v1 import record_pb2
from pillion.v1 import telemetry_service_pb2 as pb2

BATCHES = 12


@pytest.mark.parametrize("tail", ["cut", "zeros", "garbage", "one bit"])
def test_log_that_lost_its_end_gives_no_number_twice(
    make_sidecar: Callable[..., SidecarProcess], tail: str
) -> None:
    """The writer is told how far its batches are there; new rows come behind what sinks have."""
    sidecar = make_sidecar("--wandb-mode", "disabled")
    writer = RawWriter(sidecar, "run")
    writer.start()
    writer.send(1, BATCHES, at_once=False)
    writer.check(BATCHES)
    sidecar.kill()
    tear(sidecar.data_dir / "journal.db-wal", tail)
    sidecar.start()
    last = writer.start()
    assert 0 < last < writer.acked == BATCHES
    assert "the journal has lost its end" in sidecar.output()
    before = writer.stored()
    assert [row.step for row in before] == list(range(BATCHES * ROWS_PER_BATCH))
    sidecar.log(lost(writer, last + 1, BATCHES))
    writer.send(BATCHES + 1, BATCHES + 3)
    writer.finish(BATCHES + 3)
    writer.check(BATCHES + 3)  # the store had what the journal lost
    (run,) = sidecar.call("GetStatus", pb2.GetStatusRequest(run_id="run")).runs
    assert run.dropped_row_count == (BATCHES - last) * ROWS_PER_BATCH  # as its writer says
    assert sidecar.stop()[0] == 0


def tear(log: Path, tail: str) -> None:
    """Damage the second half of a log."""
    content = log.read_bytes()
    half = len(content) // 2
    log.write_bytes(
        {
            "cut": content[:half],
            "zeros": content[:half] + bytes(len(content) - half),
            "garbage": content[:half] + random.Random(7).randbytes(len(content) - half),
            "one bit": content[:half] + bytes([content[half] ^ 1]) + content[half + 1 :],
        }[tail]
    )


def lost(writer: RawWriter, first: int, last: int) -> pb2.LogMetricsRequest:
    """Make the batch by which a writer gives up others."""
    record = record_pb2.Record()
    record.lost_range.first_sequence, record.lost_range.last_sequence = first, last
    record.lost_range.row_count = (last - first + 1) * ROWS_PER_BATCH
    batch = record_pb2.Batch(
        run_id=writer.run_id, writer_id=writer.writer_id, sequence=last, records=[record]
    )
    return pb2.LogMetricsRequest(batch=batch)
