"""A long load: the journal keeps what is under way, and every sink has everything, once."""

import os
import signal
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest
from processes import SidecarProcess, pids_below

import pillion
from pillion.v1 import telemetry_service_pb2 as pb2
from pillion_sidecar.journal_reader import JournalReader
from pillion_sidecar.records import RunId
from pillion_sidecar.sinks.wandb_file import read_wandb_file
from pillion_sidecar.store import Store

ROUNDS, ROWS_PER_ROUND = 8, 250
LINE = "x" * 10_000
LINES_PER_ROUND = 100
"""A megabyte: what fills the journal."""
JOURNAL_BYTES_MAX = 6 * 1024 * 1024
"""Some rounds of them: one may come while another is being deleted."""
ROUNDS_PER_KILL = 4

WaitUntil = Callable[[Callable[[], Any]], Any]


def test_the_journal_stays_small_and_every_sink_has_everything_once(
    make_sidecar: Callable[..., SidecarProcess], wait_until: WaitUntil
) -> None:
    """Also when workers are killed, and W&B's file is written anew of what is long trimmed."""
    sidecar = make_sidecar("--wandb-mode", "offline")
    journal = sidecar.data_dir / "journal.db"
    run = pillion.init(project="p", id="long", address=sidecar.address, quiet=True)
    steps, peak_bytes = [], 0
    with closing(JournalReader(journal)) as reader:
        for number in range(ROUNDS):
            for step in range(number * ROWS_PER_ROUND, (number + 1) * ROWS_PER_ROUND):
                steps.append(step)
                run.log({"loss": step / 4, "n": step}, step=step)
            for _ in range(LINES_PER_ROUND // 10):
                run.log_console([LINE] * 10, 1)
            run.log_console([f"round {number}"], 2)
            assert run.flush(60.0)
            peak_bytes = max(peak_bytes, journal.stat().st_size)
            if number % ROUNDS_PER_KILL == ROUNDS_PER_KILL - 1:
                assert sidecar.process is not None
                # Both workers, or only wandb-core, whose file dies with what was trimmed of it.
                workers = [pid for pid in pids_below(sidecar.process.pid) if is_worker(pid)]
                cores = [pid for worker in workers for pid in pids_below(worker)]
                for pid in workers if number // ROUNDS_PER_KILL % 2 else cores:
                    with suppress(ProcessLookupError):  # it went with the one before
                        os.kill(pid, signal.SIGKILL)
            wait_until(lambda: is_trimmed(reader))
    with closing(Store(f"sqlite:///{sidecar.data_dir}/store.db")) as store:
        assert [row[1] for row in store.rows(RunId("long"))] == steps
    assert peak_bytes <= JOURNAL_BYTES_MAX
    run.finish()
    folders = sidecar.data_dir / "wandb" / "wandb"
    wait_until(lambda: list(folders.glob("offline-run-*")))
    status = pb2.GetStatusRequest(run_id="long")
    wait_until(
        lambda: (
            [sink.lag_row_count for sink in sidecar.call("GetStatus", status).runs[0].sinks]
            == [0, 0]
        )
    )
    sidecar.stop()
    (path,) = folders.glob("*/*.wandb")
    file = read_wandb_file(path)
    assert [(row["_step"], row["global_step"], row["loss"]) for row in file.rows] == [
        (step, step, step / 4) for step in steps
    ]
    printed = [line for number in range(ROUNDS) for line in console_of(number)]
    assert file.console == printed
    with closing(Store(f"sqlite:///{sidecar.data_dir}/store.db")) as store:
        lines = [line for piece in store.console(RunId("long")) for line in piece.lines]
        assert lines == printed
        assert [row[3]["n"] for row in store.rows(RunId("long"))] == steps


@pytest.mark.parametrize("restarts", [False, True])
def test_a_run_that_goes_on_after_it_was_trimmed_is_one_complete_file(
    make_sidecar: Callable[..., SidecarProcess], wait_until: WaitUntil, restarts: bool
) -> None:
    """Its end was delivered, its entries are gone, and a writer comes back."""
    sidecar = make_sidecar("--wandb-mode", "offline")
    with pillion.init(id="long", address=sidecar.address, quiet=True, config={"a": 1}) as run:
        run.log({"n": 1}, step=1)
        run.summary["best"] = 7
    with closing(JournalReader(sidecar.data_dir / "journal.db")) as reader:
        wait_until(lambda: is_trimmed(reader))
    folders = sidecar.data_dir / "wandb" / "wandb"
    (before,) = folders.iterdir()
    if restarts:
        sidecar.stop()
        sidecar.start()
        assert list(folders.iterdir()) == [before]
    with pillion.init(id="long", address=sidecar.address, quiet=True, config={"b": 2}) as run:
        run.log({"n": 2}, step=2)
    wait_until(lambda: rows_in(folders) == [2])
    sidecar.stop()
    (path,) = folders.glob("*/*.wandb")
    file = read_wandb_file(path)
    assert [(row["_step"], row["n"]) for row in file.rows] == [(0, 1), (1, 2)]
    assert (file.config["a"], file.config["b"], file.summary["best"]) == (1, 2, 7)
    assert file.exit_code == 0


def rows_in(folders: Path) -> list[int]:
    """Return how many rows each run's file has; a folder may just be taking another's place."""
    with suppress(FileNotFoundError):
        return [len(read_wandb_file(path).rows) for path in folders.glob("*/*.wandb")]
    return []


def is_trimmed(reader: JournalReader) -> bool:
    """Tell whether nothing is left of the run."""
    run = reader.run(RunId("long"))
    return run is not None and run.trimmed_offset == run.last_offset


def console_of(number: int) -> list[str]:
    """Return what a round prints."""
    return [LINE] * LINES_PER_ROUND + [f"round {number}"]


def is_worker(pid: int) -> bool:
    """Tell whether a process is a sink's worker."""
    with suppress(OSError):  # it has just ended
        return b"pillion_sidecar.worker" in Path(f"/proc/{pid}/cmdline").read_bytes()
    return False
