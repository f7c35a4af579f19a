"""Workers that are killed or freeze: nothing is lost or doubled, and no other process falls."""

import asyncio
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from faults import load
from faults.oracle import Account, judge, read_account, read_store, read_wandb
from processes import WAIT_S, SidecarProcess, environment, pids_below

from pillion._batch import Row
from pillion._encoding import Encoder
from pillion.v1 import record_pb2
from pillion.v1 import telemetry_service_pb2 as pb2
from pillion_sidecar import supervisor
from pillion_sidecar.delivery import Delivery
from pillion_sidecar.journal import Journal
from pillion_sidecar.journal_reader import JournalReader
from pillion_sidecar.records import (
    Environment,
    Offset,
    RunFinish,
    RunId,
    RunStart,
    RunState,
    WriterId,
)
from pillion_sidecar.server import EXIT_DISK
from pillion_sidecar.settings import Settings
from pillion_sidecar.sinks.wandb_file import read_wandb_file
from pillion_sidecar.validation import check_log

TRAINERS, ROWS_PER_S = 4, 100
KILLS = 12
ROWS_PER_KILL_MAX = 150
"""Acked by all trainers together between two kills, at most."""

DAMAGED_BATCHES = 20
DAMAGED_AT, DAMAGED_BYTES = 4 * 1024 * 1024, 64 * 1024
"""Amid the payloads that were copied from the log into the database."""

BEATS_MISSED_AT_START = 240
"""It may take long to import what a worker needs, where all is busy."""

WaitUntil = Callable[[Callable[[], Any]], Any]


def worker_pid(data_dir: Path, sink: str, wait_until: WaitUntil, parent: int) -> int:
    """Return the process that drives a sink: the one that has its lock open."""
    lock = data_dir / f"sink-{sink}.lock"

    def find() -> int:
        for pid in pids_below(parent):
            try:
                if any(each.resolve() == lock for each in Path(f"/proc/{pid}/fd").iterdir()):
                    return pid
            except OSError:  # it is just ending
                continue
        return 0

    return int(wait_until(find))


class Trainers:
    """Processes of `load.py`, a run each."""

    def __init__(self, directory: Path, sidecar: SidecarProcess) -> None:
        self._accounts = [directory / f"account-{number}" for number in range(TRAINERS)]
        self._processes = [
            subprocess.Popen(
                [
                    *(sys.executable, load.__file__, "pillion", f"run-{number}", str(number)),
                    *(str(account), str(ROWS_PER_S)),
                ],
                stdin=subprocess.PIPE,
                env=environment(PILLION_ADDRESS=sidecar.address),
            )
            for number, account in enumerate(self._accounts)
        ]

    def accounts(self) -> list[Account]:
        """Return what they have noted so far."""
        return [read_account(path) for path in self._accounts if path.exists()]

    def acked(self) -> int:
        """Return how many rows are acked."""
        return sum(account.acked for account in self.accounts())

    def finish(self) -> None:
        """Have all end well."""
        for process in self._processes:
            assert process.stdin is not None
            process.stdin.write(b"finish\n")
            process.stdin.close()
        assert [process.wait(WAIT_S) for process in self._processes] == [0] * TRAINERS

    def close(self) -> None:
        """End those that are left."""
        for process in self._processes:
            assert process.stdin is not None
            process.stdin.close()
            process.kill()
            process.wait()


@pytest.fixture
def sidecar(make_sidecar: Callable[..., SidecarProcess]) -> SidecarProcess:
    """Return a running sidecar that writes W&B's files."""
    return make_sidecar("--wandb-mode", "offline")


@pytest.fixture
def trainers(tmp_path: Path, sidecar: SidecarProcess) -> Iterator[Trainers]:
    """Start four trainers."""
    trainers = Trainers(tmp_path, sidecar)
    yield trainers
    trainers.close()


def test_every_row_arrives_once_whatever_dies_of_delivery(
    sidecar: SidecarProcess, trainers: Trainers, wait_until: WaitUntil
) -> None:
    """SIGKILL to the workers and to wandb-core, again and again, at random rows of four runs.

    A fifth run, that W&B's sink can never finish, keeps none of them.
    """
    (sidecar.data_dir / "wandb" / "finished" / "stuck.json.new").mkdir(parents=True)
    sidecar.call("StartRun", pb2.StartRunRequest(run_id="stuck", writer_id="w"))
    sidecar.call("FinishRun", pb2.FinishRunRequest(run_id="stuck", writer_id="w"))
    assert sidecar.process is not None
    chance = random.Random(3)
    for _ in range(KILLS):
        goal = trainers.acked() + chance.randint(1, ROWS_PER_KILL_MAX)
        wait_until(lambda goal=goal: trainers.acked() >= goal)
        victim = chance.choice(["store", "wandb", "wandb-core"])
        sink = victim.removesuffix("-core")
        pid = worker_pid(sidecar.data_dir, sink, wait_until, sidecar.process.pid)
        if victim == "wandb-core":
            cores = pids_below(pid)
            pid = chance.choice(cores) if cores else pid  # it may not have started one yet
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue  # it went with the one before
    trainers.finish()

    def status() -> Any:
        return sidecar.call("GetStatus", pb2.GetStatusRequest())

    def lags() -> dict[str, int]:
        runs = (run for run in status().runs if run.run_id != "stuck")
        return {run.run_id: sum(sink.lag_row_count for sink in run.sinks) for run in runs}

    folders = sidecar.data_dir / "wandb" / "wandb"
    wait_until(lambda: len(list(folders.glob("offline-run-*"))) == TRAINERS)
    wait_until(lambda: not any(lags().values()))

    def errors() -> dict[str, str]:
        stuck = next(run for run in status().runs if run.run_id == "stuck")
        return {sink.sink: sink.last_error for sink in stuck.sinks}

    wait_until(lambda: "IsADirectoryError" in errors()["wandb"])
    assert not errors()["store"]
    sidecar.stop()
    for number, account in enumerate(trainers.accounts()):
        stored, declared = read_store(f"sqlite:///{sidecar.data_dir}/store.db", f"run-{number}")
        in_wandb = read_wandb(folders, f"run-{number}")
        verdict = judge([account], {"store": stored, "wandb": in_wandb}, declared=declared)
        verdict.check()
        assert verdict.delivered == verdict.logged > 0


def test_a_worker_that_finds_the_journal_damaged_stops_the_sidecar(
    make_sidecar: Callable[..., SidecarProcess], wait_until: WaitUntil
) -> None:
    """Pages that only a worker reads: exit code 74, and the next start keeps what is readable."""
    sidecar = make_sidecar("--wandb-mode", "disabled", "--drain-timeout-s", "5")
    assert sidecar.process is not None
    sidecar.call("StartRun", pb2.StartRunRequest(run_id=RUN, writer_id="w"))
    worker = sidecar.worker("store")
    os.kill(worker, signal.SIGSTOP)
    for sequence in range(1, DAMAGED_BATCHES + 1):
        batch = record_pb2.Batch(run_id=RUN, writer_id="w", sequence=sequence)
        batch.records.add(console_lines=record_pb2.ConsoleLines(lines=["x" * 60_000] * 10))
        frame = record_pb2.MetricFrame(steps=[sequence], times_unix_nano=[sequence])
        frame.columns.add(key="n").int64s.values.append(sequence)
        batch.records.add(metric_frame=frame)
        sidecar.log(pb2.LogMetricsRequest(batch=batch))
    path = sidecar.data_dir / "journal.db"
    assert path.stat().st_size > DAMAGED_AT + DAMAGED_BYTES
    with path.open("r+b") as file:
        file.seek(DAMAGED_AT)
        file.write(b"\xff" * DAMAGED_BYTES)
    os.kill(worker, signal.SIGCONT)
    assert sidecar.process.wait(WAIT_S) == EXIT_DISK
    sidecar.start()

    def sinks_lag() -> bool:
        status = sidecar.call("GetStatus", pb2.GetStatusRequest(run_id=RUN))
        return any(sink.lag_row_count for sink in status.runs[0].sinks)

    wait_until(lambda: not sinks_lag())
    sidecar.stop()
    rows, lost = read_store(f"sqlite:///{sidecar.data_dir}/store.db", RUN)
    assert 0 < lost < DAMAGED_BATCHES
    assert len(rows) == DAMAGED_BATCHES - lost
    kept = [row.values["n"] for row in rows]
    assert kept == sorted(set(kept))
    assert {1, DAMAGED_BATCHES} < set(kept)


RUN = RunId("run")


class Log:
    """A journal with one run, and a trainer's hand to log into it."""

    def __init__(self, path: Path) -> None:
        self.journal = Journal(path, on_commit=lambda: None, on_fatal=lambda _: None)
        start = RunStart(
            RUN, WriterId("w"), "demo", "", "", "", (), "", {}, Environment(), time_unix_nano=1
        )
        self.journal.start(start).result(WAIT_S)
        self._encoder = Encoder(RUN, WriterId("w"))
        self._reader = JournalReader(path)

    def log(self, *steps: int) -> None:
        """Log a row per step."""
        for made in self._encoder.encode([Row(step, step, {"x": step}) for step in steps]):
            self.journal.append(check_log(made.message)).result(WAIT_S)

    def finish(self) -> None:
        """End the run."""
        finish = RunFinish(RUN, WriterId("w"), RunState.FINISHED, 0, "", {}, time_unix_nano=2)
        self.journal.finish(finish, last_sequence=None).result(WAIT_S)

    def end(self) -> list[tuple[RunId, Offset]]:
        """Return where the run ends."""
        return self._reader.runs_behind(Offset(0))

    def close(self) -> None:
        """Close the journal."""
        self._reader.close()
        self.journal.close()


@pytest.mark.parametrize("victim", ["store", "wandb", "wandb-core"])
def test_what_is_frozen_is_killed_and_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wait_until: WaitUntil, victim: str
) -> None:
    """A stopped worker says nothing; one whose wandb-core is stopped waits for it for ever."""
    monkeypatch.setattr(supervisor, "BEAT_INTERVAL_S", 0.5)
    monkeypatch.setattr(supervisor, "BEATS_MISSED_MAX", BEATS_MISSED_AT_START)
    log = Log(tmp_path / "journal.db")
    settings = Settings(data_dir=tmp_path, listen=f"unix:{tmp_path}/s.sock", anomalies=False)
    delivery = Delivery(settings, {"wandb": None}, {RUN: "wandb"})

    async def deliver() -> None:
        for sink in delivery.sinks:
            assert await delivery.wait_for(sink, log.end(), WAIT_S)

    async def scenario() -> None:
        log.log(1, 2)
        delivery.start()
        await deliver()
        before = {worker.sink: worker for worker in delivery.workers}
        sink = victim.removesuffix("-core")
        frozen = replaced = before[sink].pid
        if victim == "wandb-core":
            (frozen,) = pids_below(replaced)
        os.kill(frozen, signal.SIGSTOP)
        log.log(3)
        delivery.wake()
        with monkeypatch.context() as patch:
            patch.setattr(supervisor, "BEATS_MISSED_MAX", 20)
            await asyncio.to_thread(
                wait_until, lambda: replaced not in {worker.pid for worker in delivery.workers}
            )
        await deliver()
        for worker in delivery.workers:
            is_victim = worker.sink == sink
            assert worker.restart_count == (1 if is_victim else 0)
            assert (worker.pid == before[worker.sink].pid) == (not is_victim)
        wait_until(lambda: not is_alive(frozen))
        log.finish()
        delivery.wake()
        await deliver()
        await delivery.stop()

    asyncio.run(scenario())
    log.close()
    (path,) = tmp_path.glob("wandb/wandb/*/*.wandb")
    assert [row["x"] for row in read_wandb_file(path).rows] == [1, 2, 3]
    rows, _ = read_store(f"sqlite:///{tmp_path}/store.db", RUN)
    assert [row.values["x"] for row in rows] == [1, 2, 3]


def is_alive(pid: int) -> bool:
    """Tell whether a process runs, or could."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in "ZX"
