"""Is my data safe? What a real sidecar says of itself, in states that are easy to bring about."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from processes import SidecarProcess

import pillion
from pillion.spool import Spool
from pillion.v1 import telemetry_service_pb2 as pb2


@pytest.fixture
def sidecar(tmp_path: Path) -> Iterator[SidecarProcess]:
    """Return a sidecar that is not started yet."""
    sidecar = SidecarProcess(tmp_path, "--wandb-mode", "disabled")
    yield sidecar
    sidecar.close()


def status_of(sidecar: SidecarProcess) -> pb2.GetStatusResponse:
    """Ask."""
    response = sidecar.call("GetStatus", pb2.GetStatusRequest())
    assert isinstance(response, pb2.GetStatusResponse)
    return response


def log_rows(sidecar: SidecarProcess, run_id: str = "r", count: int = 3) -> None:
    """Log a few rows and finish."""
    with pillion.init(id=run_id, address=sidecar.address, quiet=True) as run:
        for value in range(count):
            run.log({"loss": value})


def test_nothing_is_behind_after_a_restart_without_news(sidecar: SidecarProcess) -> None:
    """What a worker has not told yet is not called undelivered, however soon somebody asks."""
    sidecar.start()
    log_rows(sidecar)
    assert sidecar.stop()[0] == 0
    sidecar.start()
    assert status_of(sidecar).sentence == "All 3 rows of 1 run are on disk; the store has all."


def test_disk_and_workers_are_told(sidecar: SidecarProcess, wait_until: Callable[..., Any]) -> None:
    """How much room there is, which processes deliver, and how often they were started again."""
    sidecar.start()
    log_rows(sidecar)
    status = status_of(sidecar)
    assert status.disk.free_bytes > status.disk.reserve_bytes > 0
    assert status.disk.journal_bytes > 0
    assert status.is_safe
    (worker,) = wait_until(lambda: [one for one in status_of(sidecar).workers if one.pid])
    os.kill(worker.pid, signal.SIGKILL)
    log_rows(sidecar, "s")

    def again() -> Any:
        (one,) = status_of(sidecar).workers
        return one if one.pid not in {0, worker.pid} and not one.last_error else None

    assert wait_until(again).restart_count == 1


def test_a_disk_without_room_is_told_first(sidecar: SidecarProcess) -> None:
    """Intake is refused, and scripts get another exit code; what there is is asked for as ever."""
    sidecar.start(PILLION_DISK_RESERVE_BYTES=str(2**60))
    status = status_of(sidecar)
    assert status.sentence.startswith("Nothing new is taken in, since the disk has ")
    assert not status.is_safe
    command = [sys.executable, "-m", "pillion_sidecar", "status", "--address", sidecar.address]
    assert subprocess.run(command, capture_output=True, check=False).returncode == 4


def test_what_a_writer_refused_and_lost_is_told(sidecar: SidecarProcess) -> None:
    """As it says itself with its end, and by the range that it gave up."""
    sidecar.start()
    sidecar.call("StartRun", pb2.StartRunRequest(run_id="r", writer_id="w"))
    request = pb2.LogMetricsRequest()
    request.batch.run_id, request.batch.writer_id, request.batch.sequence = "r", "w", 4
    lost = request.batch.records.add().lost_range
    lost.first_sequence, lost.last_sequence, lost.row_count = 1, 4, 7
    sidecar.log(request)
    sidecar.call(
        "FinishRun",
        pb2.FinishRunRequest(
            run_id="r", writer_id="w", last_sequence=4, refused_row_count=2, refused_value_count=1
        ),
    )
    status = status_of(sidecar)
    assert status.sentence.startswith(
        "7 rows were dropped and 2 rows were refused and 1 value was refused; "
    )
    run = status.runs[0]
    assert (run.dropped_row_count, run.refused_row_count, run.refused_value_count) == (7, 2, 1)
    assert not status.is_safe


def test_what_waits_in_the_spool_is_told(
    sidecar: SidecarProcess, tmp_path: Path, wait_until: Callable[..., Any]
) -> None:
    """A file that a living trainer holds counts too; then nobody says "all"."""
    directory = tmp_path / "spool"
    sidecar.start(PILLION_SPOOL_DIR=str(directory))
    log_rows(sidecar)
    spool = Spool.create(directory, "s", "w", 2**20)
    wait_until(lambda: status_of(sidecar).spool.file_count == 1)  # looked at once a second
    status = status_of(sidecar)
    assert status.spool.directory == str(directory)
    assert status.spool.size_bytes == spool.size_bytes
    assert status.sentence.startswith(
        "3 rows of 1 run are on disk; 1 spool file (8 bytes) waits to be taken in; "
    )
    spool.remove()
    wait_until(lambda: status_of(sidecar).sentence.startswith("All 3 rows"))
