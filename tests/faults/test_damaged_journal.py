"""F4: bits flip in the journal: what was on them is missing and named, and nothing else."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from faults.raw import ROWS_PER_BATCH, RawWriter
from processes import WAIT_S, SidecarProcess

from pillion.v1 import telemetry_service_pb2 as pb2
from pillion_sidecar.journal import Journal
from pillion_sidecar.records import Environment, RunId, RunStart, WriterId
from pillion_sidecar.validation import check_log

EXIT_DISK = 74
FLAGS = ("--wandb-mode", "disabled", "--drain-timeout-s", "5")
"""Nothing more can be delivered of what cannot be read."""
BATCHES = 40
PAGE_BYTES = 4096


@pytest.fixture
def backlog(make_sidecar: Callable[..., SidecarProcess], tmp_path: Path) -> RawWriter:
    """Return a writer whose batches are journaled, and with no sink yet; nothing runs."""
    sidecar = make_sidecar(*FLAGS)
    sidecar.kill()
    writer = RawWriter(sidecar, "run", padding=700)
    path = sidecar.data_dir / "journal.db"
    journal = Journal(path, on_commit=lambda: None, on_fatal=lambda _: None)
    ids = RunId(writer.run_id), WriterId(writer.writer_id)
    journal.start(RunStart(*ids, "demo", "run", "", "", (), "", {}, Environment(), 1))
    for sequence in range(1, BATCHES + 1):
        appended = journal.append(check_log(writer.batch(sequence).SerializeToString()))
    assert appended.result(WAIT_S) == BATCHES
    journal.close()
    return writer


def place_of(writer: RawWriter, sequence: int, content: bytes) -> int:
    """Return where in the journal's file a batch is."""
    payload = check_log(writer.batch(sequence).SerializeToString()).payload
    return content.index(payload)


def status_of(writer: RawWriter) -> Any:
    """Return how the run stands."""
    (run,) = writer.sidecar.call("GetStatus", pb2.GetStatusRequest(run_id=writer.run_id)).runs
    return run


def test_flipped_bit_in_a_batch_loses_that_batch_alone_and_names_it(backlog: RawWriter) -> None:
    """Its rows are dropped by run, writer and number; the writer goes on; a restart is no news."""
    sidecar = backlog.sidecar
    path = sidecar.data_dir / "journal.db"
    content = bytearray(path.read_bytes())
    content[place_of(backlog, 7, bytes(content)) + 40] ^= 4
    path.write_bytes(content)
    for _ in range(2):
        sidecar.start()
        assert backlog.start() == BATCHES
        backlog.check(BATCHES, without=[7])
        assert status_of(backlog).dropped_row_count == ROWS_PER_BATCH
        assert sidecar.stop()[0] == 0
    sidecar.start()
    backlog.send(BATCHES + 1, BATCHES + 2)
    backlog.finish(BATCHES + 2)
    backlog.check(BATCHES + 2, without=[7])
    stored = sidecar.call("GetRun", pb2.GetRunRequest(run_id="run")).run
    assert stored.lost_row_count == ROWS_PER_BATCH


def test_destroyed_page_ends_the_sidecar_and_the_next_start_keeps_all_else(
    backlog: RawWriter,
) -> None:
    """A worker finds it, the sidecar ends with 74, and what is missing is named and counted."""
    sidecar = backlog.sidecar
    path = sidecar.data_dir / "journal.db"
    content = bytearray(path.read_bytes())
    page = place_of(backlog, 20, bytes(content)) // PAGE_BYTES * PAGE_BYTES
    content[page : page + PAGE_BYTES] = b"\xff" * PAGE_BYTES
    path.write_bytes(content)
    sidecar.start()
    assert sidecar.process is not None
    assert sidecar.process.wait(WAIT_S) == EXIT_DISK
    assert "is damaged" in sidecar.output()
    sidecar.start()
    named = re.findall(
        r"writer_id=w\s+first_sequence=(\d+)\s+last_sequence=(\d+)", sidecar.output()
    )
    lost = [one for first, last in named for one in range(int(first), int(last) + 1)]
    assert 20 in lost
    assert len(lost) < 10  # a page holds a few
    assert backlog.start() == BATCHES
    backlog.check(BATCHES, without=lost)
    assert status_of(backlog).dropped_row_count == ROWS_PER_BATCH * len(lost)
    backlog.send(BATCHES + 1, BATCHES + 2)
    backlog.finish(BATCHES + 2)
    backlog.check(BATCHES + 2, without=lost)
    assert list(sidecar.data_dir.glob("journal.db-damaged-*"))
    assert sidecar.stop()[0] == 0


def test_journal_that_is_deleted_while_it_is_in_use_ends_the_sidecar(
    make_sidecar: Callable[..., SidecarProcess],
) -> None:
    """Nothing is acked into a file that the next start will not find."""
    sidecar = make_sidecar(*FLAGS)
    writer = RawWriter(sidecar, "run")
    writer.start()
    writer.send(1, 2)
    for path in sidecar.data_dir.glob("journal.db*"):
        path.unlink()
    with pytest.raises(grpc.RpcError, match="deleted or replaced"):
        writer.send(3, 3)
    assert sidecar.process is not None
    assert sidecar.process.wait(WAIT_S) == EXIT_DISK
    assert writer.acked == 2
