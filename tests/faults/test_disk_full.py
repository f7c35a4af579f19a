"""F5: on a small disk intake is refused before it is full, delivery goes on, and it recovers."""

import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import grpc
import pytest
from faults.raw import RawWriter
from processes import SidecarProcess

from pillion.v1 import telemetry_service_pb2 as pb2

DISK_BYTES = 64 << 20
RESERVE_BYTES = 8 << 20


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """Mount a small disk."""
    place = tmp_path / "disk"
    place.mkdir()
    options = f"size={DISK_BYTES},mode=0700"
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)], check=True)
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


@pytest.fixture
def small(disk: Path) -> Iterator[SidecarProcess]:
    """Return a sidecar on the small disk, not started yet."""
    sidecar = SidecarProcess(
        disk, "--wandb-mode", "disabled", "--disk-reserve-bytes", str(RESERVE_BYTES)
    )
    yield sidecar
    sidecar.close()


def free_bytes(disk: Path) -> int:
    """Return how much room there is."""
    status = subprocess.run(
        ["stat", "--file-system", "--format=%a %S", str(disk)],
        capture_output=True,
        check=True,
        text=True,
    )
    blocks, size = map(int, status.stdout.split())
    return blocks * size


def fill(disk: Path, leave_bytes: int) -> Path:
    """Have somebody else take the disk's room."""
    path = disk / "filler"
    with path.open("ab") as file:
        file.write(bytes(max(0, free_bytes(disk) - leave_bytes)))
    return path


def refusal(act: Callable[[], Any]) -> grpc.RpcError:
    """Return the refusal that this gets."""
    with pytest.raises(grpc.RpcError) as refused:
        act()
    assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "Free some room" in refused.value.details()
    return refused.value


def test_intake_is_refused_before_the_disk_is_full_and_goes_on_by_itself(
    small: SidecarProcess, disk: Path, wait_until: Callable[..., Any]
) -> None:
    """What was acked is delivered meanwhile, runs can end, and with room it goes on at once."""
    small.start()
    writer, ending = RawWriter(small, "run", padding=60_000), RawWriter(small, "ending")
    writer.start()
    ending.start()
    ending.send(1, 2)
    filler = fill(disk, RESERVE_BYTES + (4 << 20))

    def pour() -> None:
        for sequence in range(writer.acked + 1, writer.acked + 1000):
            writer.send(sequence, sequence)

    def is_new_run_refused(number: int) -> bool:
        """Tell it; what the sinks have taken meanwhile may have made room."""
        refusal(pour)
        assert free_bytes(disk) > RESERVE_BYTES // 8, "refused too late"
        try:
            RawWriter(small, f"another-{number}").start()
        except grpc.RpcError as error:
            return error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        return False

    assert any(map(is_new_run_refused, range(100)))
    assert ending.start() == 2  # a writer that lives may ask
    ending.finish(2)
    ending.check(2)
    writer.check(writer.acked)
    status = small.call("GetStatus", pb2.GetStatusRequest()).runs
    assert all(sink.lag_row_count == 0 for run in status for sink in run.sinks)
    filler.unlink()
    kept = writer.acked
    writer.send(kept + 1, kept + 3)
    writer.finish(kept + 3)
    writer.check(kept + 3)
    assert small.stop()[0] == 0


@pytest.mark.parametrize("leave_bytes", [0, 64 << 10, 1 << 20])
@pytest.mark.parametrize("is_killed", [False, True])
def test_start_on_a_full_disk_works(
    small: SidecarProcess, disk: Path, is_killed: bool, leave_bytes: int
) -> None:
    """It serves what there is, refuses intake, and goes on when there is room."""
    small.start()
    writer = RawWriter(small, "run")
    writer.start()
    writer.send(1, 4)
    writer.check(4)
    if is_killed:
        small.kill()
        # What a worker does that sees it in time; then there is no log that could be used again.
        with closing(sqlite3.connect(small.data_dir / "store.db")) as store:
            store.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    else:
        assert small.stop()[0] == 0
    filler = fill(disk, leave_bytes)
    small.start()
    assert writer.start() == 4
    refusal(lambda: writer.send(5, 5))
    writer.check(4)
    filler.unlink()
    writer.send(5, 6)
    writer.finish(6)
    writer.check(6)
    assert small.stop()[0] == 0
