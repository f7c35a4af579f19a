"""A scene: one sidecar and the writers of `load.py` that log to it. Faults happen to it.

It starts and finds processes, waits, and has `oracle.py` judge in the end. What is done to it is
said elsewhere: in `matrix.py`, and by each test.
"""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
from faults.oracle import Account, Verdict, judge, read_store, read_wandb
from processes import WAIT_S, SidecarProcess, environment, pids_below

from pillion.v1 import record_pb2
from pillion.v1 import telemetry_service_pb2 as pb2
from pillion_sidecar.errors import PillionError
from pillion_sidecar.sinks.wandb_file import read_wandb_file

POLL_S = 0.02
SETTLE_S = 400.0
"""How long delivery may take in the end: W&B's SDK takes its time, again after each death."""
ROWS_PER_S = 50.0
"""What a trainer logs: more than most do, so that each fault hits rows on their way."""
LOAD = Path(__file__).with_name("load.py")


class Trainer:
    """One writer as a process, and its account as far as it has been written."""

    def __init__(self, process: "subprocess.Popen[bytes]", account_path: Path) -> None:
        self.process = process
        self._file = account_path.open("rb")
        self._rest = b""
        self._account = Account()

    @property
    def account(self) -> Account:
        """What it has noted so far."""
        *lines, self._rest = (self._rest + self._file.read()).split(b"\n")
        for line in lines:
            self._account.take(line)
        return self._account

    @property
    def run_id(self) -> str:
        """Its run."""
        return self.account.run_id

    def wait_acked(self, row_count: int) -> None:
        """Wait until so many rows are acked."""
        wait_until(lambda: self.account.acked >= row_count, f"{row_count} rows are acked")

    def wait_logged(self, row_count: int) -> None:
        """Wait until so many rows are logged."""
        wait_until(lambda: len(self.account.rows) >= row_count, f"{row_count} rows are logged")

    def wait_fresh(self, since_s: float) -> float:
        """Wait until a row is acked that was logged after a moment; tell how long that took."""
        wait_until(lambda: self.account.fresh_ack_s(since_s) is not None, "a fresh row is acked")
        seconds = self.account.fresh_ack_s(since_s)
        assert seconds is not None
        return seconds

    def end(self, how: str) -> int:
        """Have it end as `load.py` knows to; return its exit code."""
        assert self.process.stdin is not None
        self.process.stdin.write(how.encode() + b"\n")
        self.process.stdin.flush()
        return self.process.wait(WAIT_S)

    def kill(self) -> None:
        """End it with SIGKILL."""
        self.process.kill()
        self.process.wait()

    def close(self) -> None:
        """Let go of it."""
        if self.process.poll() is None:
            self.kill()
        for file in (self.process.stdin, self.process.stdout, self._file):
            assert file is not None
            file.close()


class Scene:
    """One sidecar and its trainers. `start` and `add_trainer` set it up."""

    def __init__(
        self, directory: Path, *flags: str, data: Path | None = None, listen: str = ""
    ) -> None:
        """Set a scene in a directory; the sidecar's data may be elsewhere, as on a small disk."""
        self.directory = directory
        self.sidecar = SidecarProcess(data or directory, *flags, listen=listen)
        self.trainers: list[Trainer] = []
        self.problems: list[str] = []
        """What broke a promise that no row tells of, such as a wrong exit code."""
        self.damaged_row_count = 0
        """Rows that a fault has destroyed on the disk: so many must be declared as lost."""
        self.variables = {"PILLION_SPOOL_DIR": str(directory / "spool")}
        """The environment of the sidecar and of the trainers."""
        self._has_wandb = "disabled" not in flags

    def start(self, *wrapper: str) -> None:
        """Start the sidecar, or start it again. Raises StartError."""
        self.sidecar.start(*wrapper, **self.variables)

    def add_trainer(
        self, run_id: str = "", *, rows_per_s: float = ROWS_PER_S, address: str = ""
    ) -> Trainer:
        """Start a trainer and wait until it logs."""
        writer = len(self.trainers)
        path = self.directory / f"account-{writer}"
        path.touch()
        variables = self.variables | {
            "PILLION_ADDRESS": address or self.sidecar.address,
            "PILLION_TOKEN": dict(self.sidecar.token()).get("authorization", "").split(" ")[-1],
        }
        process = start_load(
            "pillion", run_id or f"run-{writer}", writer, path, rows_per_s, **variables
        )
        self.trainers.append(Trainer(process, path))
        return self.trainers[-1]

    def worker(self, sink: str) -> int:
        """Return the process that drives a sink."""
        return int(wait_until(lambda: self.processes().get(sink), f"there is a {sink} worker"))

    def processes(self) -> dict[str, int]:
        """Return the sidecar's process and its workers', those that hold a sink's lock."""
        process = self.sidecar.process
        if process is None or process.poll() is not None:
            return {}
        found = {"sidecar": process.pid}
        locks = {self.sidecar.data_dir / f"sink-{sink}.lock": sink for sink in ("store", "wandb")}
        for pid in pids_below(process.pid):
            try:
                files = {each.resolve() for each in Path(f"/proc/{pid}/fd").iterdir()}
            except OSError:  # it is just ending
                continue
            found |= {sink: pid for lock, sink in locks.items() if lock in files}
        return found

    def wandb_core(self) -> int:
        """Return the process of W&B's SDK that writes its files."""

        def find() -> int:
            for pid in pids_below(self.worker("wandb")):
                if is_called(pid, "wandb-core"):
                    return pid
            return 0

        return int(wait_until(find, "there is a wandb-core"))

    def status(self) -> dict[str, Any]:
        """Return the status of each run; nothing while the sidecar is away."""
        try:
            runs = self.sidecar.call("GetStatus", pb2.GetStatusRequest()).runs
        except grpc.RpcError:
            return {}
        return {run.run_id: run for run in runs}

    def wait_delivered(self, sink: str, trainer: Trainer, row_count: int) -> float:
        """Wait until a sink has confirmed so many rows; tell how long that took."""
        began_s = time.monotonic()

        def is_delivered() -> bool:
            run = self.status().get(trainer.run_id)
            sinks = {each.sink: each.delivered_row_count for each in run.sinks} if run else {}
            return bool(sinks.get(sink, 0) >= row_count)

        wait_until(is_delivered, f"{row_count} rows are in {sink}")
        return time.monotonic() - began_s

    def wait_ended(self, trainer: Trainer, state: str = "") -> float:
        """Wait until a run has ended (in this state); tell how long that took."""
        began_s = time.monotonic()

        def is_ended() -> bool:
            run = self.status().get(trainer.run_id)
            name = record_pb2.RunState.Name(run.state).removeprefix("RUN_STATE_") if run else ""
            return name == state if state else name not in {"", "UNSPECIFIED", "RUNNING"}

        wait_until(is_ended, f"run {trainer.run_id} has ended")
        return time.monotonic() - began_s

    def finish(self) -> None:
        """Have all trainers that still run finish."""
        for trainer in self.trainers:
            if trainer.process.poll() is None:
                trainer.end("finish")

    def settle(self) -> Verdict:
        """Wait until every run has ended and is in every sink, then judge them all."""
        verdict = Verdict()
        try:
            wait_until(
                lambda: all(map(self._is_settled, self._runs())), "all is delivered", SETTLE_S
            )
        except TimeoutError as error:
            waiting = [run_id for run_id in self._runs() if not self._is_settled(run_id)]
            status = self.status()
            verdict.problems += [f"{error}: {status.get(run_id, run_id)}" for run_id in waiting]
        for run_id, accounts in self._runs().items():
            rows, declared = read_store(self._store_url, run_id)
            sinks = {"store": rows}
            if self._has_wandb:
                sinks["wandb"] = read_wandb(self._wandb_dir, run_id)
            verdict.add(judge(accounts, sinks, declared=declared))
        if verdict.declared != self.damaged_row_count:
            verdict.problems.append(
                f"{self.damaged_row_count} rows were destroyed, {verdict.declared} are declared"
            )
        verdict.problems += self.problems
        return verdict

    def close(self) -> None:
        """End everything somehow."""
        for trainer in self.trainers:
            trainer.close()
        self.sidecar.close()

    @property
    def _store_url(self) -> str:
        return f"sqlite:///{self.sidecar.data_dir}/store.db"

    @property
    def _wandb_dir(self) -> Path:
        return self.sidecar.data_dir / "wandb" / "wandb"

    def _runs(self) -> dict[str, list[Account]]:
        runs: dict[str, list[Account]] = {}
        for trainer in self.trainers:
            runs.setdefault(trainer.run_id, []).append(trainer.account)
        return runs

    def _is_settled(self, run_id: str) -> bool:
        run = self.status().get(run_id)
        if run is None:  # it was killed before anybody heard of it
            spool = self.directory / "spool"
            is_awaited = any(each.acked for each in self._runs()[run_id])
            return not is_awaited and not any(spool.glob(f"{run_id}.*"))
        if run.state == record_pb2.RUN_STATE_RUNNING or any(
            sink.lag_row_count or sink.last_error for sink in run.sinks
        ):
            return False
        if not self._has_wandb:
            return True
        try:
            row_count = len(read_store(self._store_url, run_id)[0])
            paths = self._wandb_dir.glob(f"offline-run-*-{run_id}/*.wandb")
            files = [read_wandb_file(path) for path in paths]
        except (PillionError, OSError):  # just being replaced
            return False
        return [(len(file.rows), file.exit_code is None) for file in files] == [(row_count, False)]


def start_load(
    library: str, run_id: str, writer: int, account: Path, rows_per_s: float, **variables: str
) -> "subprocess.Popen[bytes]":
    """Start a writer and wait until it logs. What it says goes to `ACCOUNT.errors`."""
    with Path(f"{account}.errors").open("wb") as errors:
        process = subprocess.Popen(
            [
                sys.executable,
                str(LOAD),
                library,
                run_id,
                str(writer),
                str(account),
                str(rows_per_s),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            cwd=account.parent,
            env=environment(**variables),
        )
    assert process.stdout is not None
    if process.stdout.readline() != b"ready\n":
        process.wait()
        raise RuntimeError(Path(f"{account}.errors").read_text(encoding="utf-8"))
    return process


def wait_until(is_true: Callable[[], Any], what: str, timeout_s: float = WAIT_S) -> Any:
    """Wait until something is true, and return it. Raises TimeoutError if it never is."""
    deadline_s = time.monotonic() + timeout_s
    pause = threading.Event()
    while not (result := is_true()):
        if time.monotonic() > deadline_s:
            raise TimeoutError(f"not within {timeout_s:.0f} s: {what}")
        pause.wait(POLL_S)
    return result


def is_called(pid: int, name: str) -> bool:
    """Tell whether a process has this name."""
    try:
        return Path(f"/proc/{pid}/comm").read_text(encoding="utf-8").strip() == name
    except OSError:
        return False


def stop_for(pid: int, seconds: float) -> float:
    """Stop a process for a while; return when it went on."""
    os.kill(pid, signal.SIGSTOP)
    threading.Event().wait(seconds)
    os.kill(pid, signal.SIGCONT)
    return time.monotonic()


@contextmanager
def small_disk(directory: Path, size_bytes: int) -> Iterator[Path]:
    """Mount a disk of this size in a directory; needs root."""
    directory.mkdir(parents=True, exist_ok=True)
    options = f"size={size_bytes},mode=0700"
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(directory)], check=True)
    try:
        yield directory
    finally:
        subprocess.run(["umount", "--lazy", str(directory)], check=True)


def fill(directory: Path) -> Path:
    """Write a file until the disk is full; deleting it frees the disk."""
    path = directory / "filler"
    with path.open("wb", buffering=0) as file:
        for size in (1 << 20, 1 << 12):
            try:
                while file.write(bytes(size)) == size:
                    pass
            except OSError:
                continue
    return path
