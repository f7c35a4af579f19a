"""A sidecar that is away, dies, freezes or is never there: trainers go on, and nothing is lost.

Where a sidecar comes back, what its store holds is the oracle; where none does, the spool is.
"""

import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from faults.spooled import Spooled, read_spool

from pillion.spool import End, Kind
from pillion.v1 import record_pb2
from pillion.v1 import telemetry_service_pb2 as pb2
from pillion_sidecar.store import Store

WITHOUT_WANDB = ("--wandb-mode", "disabled")

# Does what its standard input tells it, line by line, and says when that is done.
TRAINER = """
import sys, threading, pillion
from pillion import _sender, _unacked
run = pillion.init(id="run", config={"seed": 2**64 - 1}, quiet=True)
step, pause = 0, threading.Event()
def log(count, **more):
    global step
    for step in range(step, step + count): run.log({"loss": float(step), **more}, step=step)
    step += 1
def until(is_true):
    while not is_true(): pause.wait(0.01)
def sum_of(*names):
    counts = run.counts  # all of one moment
    return sum(getattr(counts, name) for name in names)
def in_memory():
    return sum_of("queued", "unacked")
for line in sys.stdin:
    print(eval(line), flush=True)
"""


class Trainer:
    """A trainer process that is told what to do."""

    def __init__(self, process: Any) -> None:
        self.process = process

    def do(self, expression: str) -> str:
        """Have it evaluate something; return what it prints of that."""
        self.process.stdin.write(expression + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline().strip()
        if not line:
            pytest.fail(f"the trainer ended: {self.process.communicate()[1]}")
        return str(line)

    def end(self) -> str:
        """Let it come to its end; return what it printed to standard error."""
        _, errors = self.process.communicate(timeout=300)
        assert self.process.returncode == 0, errors
        return str(errors)


@pytest.fixture
def start(run_python: Callable[..., Any]) -> Callable[..., Trainer]:
    """Return a function that starts a trainer; `address` first, then variables."""
    return lambda address, **more: Trainer(run_python(TRAINER, PILLION_ADDRESS=address, **more))


@pytest.fixture
def nowhere(tmp_path: Path) -> str:
    """Return an address at which nobody listens."""
    return f"unix:{tmp_path}/s.sock"


def steps_of(sidecar: Any) -> list[int]:
    """Return the steps that the store has, in order."""
    sidecar.call("GetRun", pb2.GetRunRequest(run_id="run"))  # waits until they are there
    store = Store(f"sqlite:///{sidecar.data_dir}/store.db")
    try:
        return [step for _, step, _, _ in store.rows("run")]
    finally:
        store.close()


def only(directory: Path) -> Spooled:
    """Return the only spool file."""
    (spooled,) = read_spool(directory)
    return spooled


def test_what_was_spooled_is_sent_in_order_when_the_sidecar_is_back(
    make_sidecar: Callable[..., Any], start: Callable[..., Trainer], tmp_path: Path
) -> None:
    """Killed in mid-run, twice: every row once, in order; memory is freed, the file goes."""
    sidecar = make_sidecar(*WITHOUT_WANDB)
    trainer = start(sidecar.address)
    trainer.do("log(500)")
    for _ in range(2):
        sidecar.kill()
        trainer.do("log(500)")
        trainer.do("until(lambda: run.counts.spooled and not in_memory())")
        assert only(tmp_path / "spool").rows
        sidecar.start()
        trainer.do("log(500)")
        assert trainer.do("run.flush(60)") == "True"
        trainer.do("until(lambda: run._link._unacked.spool is None)")
        assert read_spool(tmp_path / "spool") == []
    assert trainer.do("run.counts.acked") == "2500"
    errors = trainer.end()
    assert steps_of(sidecar) == [*range(2500)]
    assert errors.count("no connection") == 2


def test_killed_trainer_without_a_sidecar_leaves_its_rows(
    nowhere: str, start: Callable[..., Trainer], tmp_path: Path
) -> None:
    """All that is older than the flush interval, from the first row on, and the start; no end."""
    trainer = start(nowhere)
    trainer.do("log(1000)")
    trainer.do("until(lambda: run.counts.spooled == 1000)")
    trainer.process.kill()
    trainer.process.wait()
    spooled = only(tmp_path / "spool")
    assert spooled.start.run_id == "run"
    assert spooled.rows == [(step, {"loss": float(step)}) for step in range(1000)]
    assert spooled.sequences == [*range(1, len(spooled.sequences) + 1)]
    assert (spooled.finish, spooled.end) == (None, End.WHOLE)


def test_start_is_spooled_before_anything_is_logged(
    nowhere: str, start: Callable[..., Trainer], tmp_path: Path, wait_until: Callable[..., Any]
) -> None:
    """A run that dies before its first row was a run all the same."""
    trainer = start(nowhere)
    trainer.do("1")
    wait_until(lambda: [each.kinds for each in read_spool(tmp_path / "spool")] == [[Kind.START]])


def test_end_without_a_sidecar_is_spooled_and_said(
    nowhere: str, start: Callable[..., Trainer], tmp_path: Path
) -> None:
    """With all rows before it, on disk; one line says where."""
    trainer = start(nowhere)
    trainer.do("log(1000)")
    trainer.do("run.finish(3)")
    spooled = only(tmp_path / "spool")
    assert len(spooled.rows) == 1000
    assert spooled.finish.exit_code == 3
    assert spooled.finish.last_sequence == spooled.sequences[-1]
    assert spooled.kinds[-1] == Kind.FINISH
    assert str(tmp_path / "spool") in trainer.end().splitlines()[-1]


def test_frozen_sidecar_costs_neither_rows_nor_memory(
    make_sidecar: Callable[..., Any], start: Callable[..., Trainer]
) -> None:
    """It holds the connection and says nothing: what it does not ack is spooled in the meantime."""
    sidecar = make_sidecar(*WITHOUT_WANDB)
    trainer = start(sidecar.address)
    trainer.do("run.flush(60)")
    sidecar.freeze()
    trainer.do("log(1000)")
    trainer.do("until(lambda: run.counts.spooled == 1000)")
    assert trainer.do("in_memory()") == "0"
    sidecar.process.send_signal(signal.SIGCONT)
    assert trainer.do("run.flush(60)") == "True"
    trainer.end()
    assert steps_of(sidecar) == [*range(1000)]


def test_batch_that_the_spool_lost_is_declared(
    make_sidecar: Callable[..., Any], start: Callable[..., Trainer], tmp_path: Path
) -> None:
    """A damaged record costs its own rows, counted here and there; the writer goes on."""
    sidecar = make_sidecar(*WITHOUT_WANDB)
    trainer = start(sidecar.address)
    sidecar.kill()
    for _ in range(3):
        trainer.do("log(100)")
        trainer.do("until(lambda: run.counts.spooled == step)")
    (path,) = (tmp_path / "spool").iterdir()
    spooled = only(tmp_path / "spool")
    data = bytearray(path.read_bytes())
    data[data.rindex(b"loss", 0, len(data) - 1000)] ^= 1
    path.write_bytes(data)  # the same inode: what the trainer has open
    damaged = only(tmp_path / "spool")
    assert damaged.end is End.DAMAGED
    assert len(spooled.rows) == 300
    sidecar.start()
    assert trainer.do("run.flush(60)") == "True"
    # A batch of 100 rows, or a part of them where the sender came in the middle.
    acked, dropped = (int(trainer.do(f"run.counts.{name}")) for name in ("acked", "dropped"))
    assert acked + dropped == 300
    assert 0 < dropped <= 100
    trainer.end()
    assert len(steps_of(sidecar)) == acked
    run = sidecar.call("GetRun", pb2.GetRunRequest(run_id="run")).run
    assert (run.state, run.lost_row_count) == (record_pb2.RUN_STATE_FINISHED, dropped)


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """Mount a file system of 256 KiB."""
    directory = tmp_path / "tiny"
    directory.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "none", directory], check=True)
    yield directory
    subprocess.run(["umount", "--lazy", directory], check=True)


@pytest.fixture
def read_only(tmp_path: Path) -> Iterator[Path]:
    """Mount a file system that cannot be written, as some homes are."""
    directory = tmp_path / "read-only"
    directory.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "ro,size=4k", "none", directory], check=True)
    yield directory
    subprocess.run(["umount", "--lazy", directory], check=True)


def test_full_disk_fills_memory_and_what_was_spooled_stays(
    make_sidecar: Callable[..., Any], start: Callable[..., Trainer], tiny_disk: Path
) -> None:
    """One warning, no exception, every row in one count; all of it is sent in the end."""
    sidecar = make_sidecar(*WITHOUT_WANDB)
    trainer = start(sidecar.address, PILLION_SPOOL_DIR=str(tiny_disk / "spool"))
    sidecar.kill()
    trainer.do("until(lambda: run._link.problem)")
    for _ in range(4):
        trainer.do("log(10_000)")
        trainer.do("until(lambda: not run.counts.queued)")
    counts = trainer.do("run.counts")
    assert "refused=0" in counts
    assert trainer.do("sum_of('spooled', 'unacked')") == "40000"
    assert trainer.do("run.counts.spooled > 0 and run.counts.unacked > 0") == "True"
    assert only(tiny_disk / "spool").end is End.WHOLE
    sidecar.start()
    assert trainer.do("run.flush(60)") == "True"
    assert trainer.end().count("cannot be spooled") == 1
    assert steps_of(sidecar) == [*range(40_000)]


def test_nothing_to_spool_to_fills_memory_then_refuses_and_counts(
    make_sidecar: Callable[..., Any], start: Callable[..., Trainer], read_only: Path
) -> None:
    """Up to the bound, exactly; then the queue, and then rows are refused, and told at the end.

    Batches stay without a gap: the sidecar takes all that was not refused.
    """
    sidecar = make_sidecar(*WITHOUT_WANDB)
    trainer = start(sidecar.address, PILLION_SPOOL_DIR=str(read_only / "spool"))
    sidecar.kill()
    trainer.do("until(lambda: run._link.problem)")
    trainer.do("setattr(_unacked, 'BYTES_MAX', 3 * 2**20)")
    trainer.do("setattr(run, '_rows_max', 10_000)")
    for _ in range(100):
        trainer.do("log(10_000, **dict.fromkeys('abcdefgh', 0.5))")
    trainer.do("until(lambda: run.counts.queued <= 10_000 + 8192)")
    assert trainer.do("run.counts.unacked_bytes <= 3 * 2**20") == "True"
    assert trainer.do("run.counts.refused > 0 and run.counts.spooled == 0") == "True"
    assert trainer.do("sum_of('queued', 'unacked', 'acked', 'refused')") == "1000000"
    sidecar.start()
    assert trainer.do("run.flush(60)") == "True"
    refused = int(trainer.do("run.counts.refused"))
    errors = trainer.end()
    assert errors.count("cannot be spooled") == 1
    assert f"{refused} rows" in errors
    steps = steps_of(sidecar)
    assert len(steps) == 1_000_000 - refused
    assert steps == sorted(set(steps))


def test_cap_of_the_spool_is_the_users(
    nowhere: str, start: Callable[..., Trainer], tmp_path: Path
) -> None:
    """What does not fit below it waits in memory; the file is whole."""
    trainer = start(nowhere, PILLION_SPOOL_BYTES_MAX="100000")
    for _ in range(4):
        trainer.do("log(5_000)")
        trainer.do("until(lambda: not run.counts.queued)")
    assert trainer.do("run.counts.spooled > 0 and run.counts.unacked > 0") == "True"
    (path,) = (tmp_path / "spool").iterdir()
    assert path.stat().st_size <= 100_000
    trainer.process.kill()


@pytest.mark.parametrize("directory", ["/proc/nothing", "/dev/null/below", "/dev/full"])
def test_hopeless_spool_directory_never_reaches_the_trainer(
    nowhere: str, start: Callable[..., Trainer], directory: str
) -> None:
    """It logs, ends, and is told in one warning."""
    trainer = start(nowhere, PILLION_SPOOL_DIR=directory)
    trainer.do("log(100)")
    trainer.do("until(lambda: not run.counts.queued)")
    assert trainer.do("run.counts.unacked") == "100"
    trainer.do("setattr(pillion._run, 'FINISH_WAIT_S', 0.5)")
    errors = trainer.end()
    assert errors.count("cannot be spooled") == 1
    assert "100 of its rows not on the sidecar's disk" in errors


def test_only_its_user_can_read_what_is_spooled(
    nowhere: str, start: Callable[..., Trainer], tmp_path: Path
) -> None:
    """Whatever the umask is."""
    former = os.umask(0)
    try:
        trainer = start(nowhere, PILLION_SPOOL_DIR=str(tmp_path / "a" / "b"))
        trainer.do("log(1)")
        trainer.do("until(lambda: run.counts.spooled)")
    finally:
        os.umask(former)
    (path,) = (tmp_path / "a" / "b").iterdir()
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
