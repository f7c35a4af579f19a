"""F6: a sync that fails is never acked and never tried again; the sidecar ends and starts clean."""

from pathlib import Path

import grpc
import pytest
from faults.raw import RawWriter
from faults.strace import Strace, journal_files
from processes import WAIT_S, SidecarProcess

EXIT_DISK = 74
BATCHES = 6


def go_through(writer: RawWriter) -> None:
    """Log a run, batch by batch."""
    writer.start()
    writer.send(1, BATCHES, at_once=False)
    writer.finish(BATCHES)


@pytest.mark.parametrize("number", [1, 2, 4])
def test_failed_sync_ends_the_sidecar_and_a_restart_goes_on(tmp_path: Path, number: int) -> None:
    """EIO at the N-th sync: exit code 74, nothing acked behind it; all is there afterwards."""
    sidecar = SidecarProcess(tmp_path, "--wandb-mode", "disabled")
    try:
        sidecar.start()
        assert sidecar.process is not None
        strace = Strace(
            sidecar.process.pid,
            journal_files(sidecar.data_dir),
            tmp_path / "trace",
            f"fdatasync,fsync:error=EIO:when={number}",
        )
        writer = RawWriter(sidecar, "run")
        with pytest.raises(grpc.RpcError):
            go_through(writer)
        assert sidecar.process.wait(WAIT_S) == EXIT_DISK
        strace.detach()
        # The start takes the first sync, and what is trimmed meanwhile may take one too.
        assert writer.acked <= max(0, number - 2)
        assert "could not be written" in sidecar.output()
        sidecar.start()
        last = writer.start()
        assert last >= writer.acked
        writer.send(last + 1, BATCHES)
        writer.finish(BATCHES)
        writer.check(BATCHES)
        assert sidecar.stop()[0] == 0
    finally:
        sidecar.close()
