"""The kill matrix: each fault as a function of a scene, and the same fault for plain wandb.

A fault sets its scene, does its harm, and returns the recovery time: from the end of the harm until
what is logged then is acked (or, where a sink or a trainer was hit, until it is there, or its run
has ended). `play` and `play_wandb` run one of them and have the oracle judge.
"""

import os
import signal
import sqlite3
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from faults.oracle import Verdict, judge, read_wandb
from faults.proxy import Proxy
from faults.scene import (
    ROWS_PER_S,
    WAIT_S,
    Scene,
    Trainer,
    fill,
    is_called,
    small_disk,
    start_load,
    stop_for,
    wait_until,
)
from processes import StartError, pids_below

from pillion_sidecar.server import EXIT_DISK

ROW_COUNT = 100
"""Rows that are acked before a fault, and that plain wandb has logged before it."""
PAUSE_S = 5.0
"""How long what is stopped, cut or full stays so."""
DISK_BYTES, RESERVE_BYTES = 24 * 1024 * 1024, 4 * 1024 * 1024
HANG_S = 20.0
"""After so long a training loop counts as hung."""
SLOW_SYNC_US = 300_000
KILLS_AT = (10, 40, 50, 65, 90)
"""The sidecar is killed at its n-th write or sync, one start after the other."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One row of the matrix."""

    name: str
    act: Callable[[Scene], float]
    act_on_wandb: "Callable[[WandbScene], None] | None" = None
    is_disk_small: bool = False
    is_on_tcp: bool = False


@dataclass(slots=True)
class Outcome:
    """What came of a fault."""

    verdict: Verdict
    recovery_s: float | None = None
    """None if it did not recover."""
    seconds: float = 0.0
    remarks: Sequence[str] = ()


def play(fault: Fault) -> Outcome:
    """Do a fault to a scene of its own, and judge."""
    began_s = time.monotonic()
    with ExitStack() as stack:
        directory = stack.enter_context(_directory())
        disk = directory / "disk"
        if fault.is_disk_small:
            stack.enter_context(small_disk(disk, DISK_BYTES))
        scene = Scene(directory, data=disk, listen="127.0.0.1:0" if fault.is_on_tcp else "")
        scene.variables["PILLION_DISK_RESERVE_BYTES"] = str(RESERVE_BYTES)
        stack.callback(scene.close)
        recovery_s = None
        try:
            recovery_s = fault.act(scene)
            scene.finish()
        except (StartError, TimeoutError, subprocess.TimeoutExpired) as error:
            scene.problems.append(str(error))
        verdict = scene.settle()
    return Outcome(verdict, recovery_s, time.monotonic() - began_s)


# What is done to the trainer.


def kill_trainer(scene: Scene) -> float:
    """SIGKILL, as by the kernel when memory is out."""
    trainer = _loaded(scene)
    trainer.kill()
    return scene.wait_ended(trainer, "CRASHED")


def terminate_trainer(scene: Scene) -> float:
    """SIGTERM, as by a scheduler."""
    trainer = _loaded(scene)
    trainer.process.terminate()
    trainer.process.wait(WAIT_S)
    return scene.wait_ended(trainer)


def exit_trainer(scene: Scene) -> float:
    """`os._exit`: no handler of Python's is run."""
    trainer = _loaded(scene)
    trainer.end("os._exit")
    return scene.wait_ended(trainer, "CRASHED")


# What is done to the sidecar.


def kill_sidecar(scene: Scene) -> float:
    """SIGKILL; a supervisor starts it again at once."""
    trainer = _loaded(scene)
    scene.sidecar.kill()
    since_s = time.monotonic()
    scene.start()
    return trainer.wait_fresh(since_s)


def stop_sidecar(scene: Scene) -> float:
    """SIGSTOP for 5 s."""
    trainer = _loaded(scene)
    assert scene.sidecar.process is not None
    return trainer.wait_fresh(stop_for(scene.sidecar.process.pid, PAUSE_S))


def restart_sidecar(scene: Scene) -> float:
    """SIGTERM under load, and a new start."""
    trainer = _loaded(scene)
    code, output = scene.sidecar.stop()
    if code:
        scene.problems.append(f"exit code {code} after SIGTERM: {output}")
    since_s = time.monotonic()
    scene.start()
    return trainer.wait_fresh(since_s)


def kill_sidecar_at_writes(scene: Scene) -> float:
    """SIGKILL at the n-th write or sync of the journal, for some n."""
    trainer = None
    since_s = 0.0
    for when in KILLS_AT:
        with suppress(StartError):  # it may have come no further
            scene.start(*_injecting(scene, "pwrite64,fdatasync", f"signal=KILL:when={when}"))
        trainer = trainer or scene.add_trainer()
        assert scene.sidecar.process is not None
        scene.sidecar.process.wait(WAIT_S)
        since_s = time.monotonic()
    scene.start()
    assert trainer is not None
    return trainer.wait_fresh(since_s)


# What is done to the workers.


def kill_store_worker(scene: Scene) -> float:
    """SIGKILL of the process that drives the store."""
    return _kill_for_sink(scene, "store", lambda: scene.worker("store"))


def kill_wandb_worker(scene: Scene) -> float:
    """SIGKILL of the process that drives W&B's SDK."""
    return _kill_for_sink(scene, "wandb", lambda: scene.worker("wandb"))


def kill_wandb_core(scene: Scene) -> float:
    """SIGKILL of the process of W&B's own that writes its files."""
    return _kill_for_sink(scene, "wandb", scene.wandb_core)


# What is done to the disk.


def fill_disk(scene: Scene) -> float:
    """The disk of the data directory is full for 5 s."""
    trainer = _loaded(scene)
    filler = fill(scene.sidecar.data_dir.parent)
    threading.Event().wait(PAUSE_S)
    filler.unlink()
    return trainer.wait_fresh(time.monotonic())


def fail_sync(scene: Scene) -> float:
    """The disk refuses to sync, once; the sidecar must end, and is started again."""
    scene.start(*_injecting(scene, "fdatasync", "error=EIO:when=20"))
    trainer = scene.add_trainer()
    assert scene.sidecar.process is not None
    code = scene.sidecar.process.wait(WAIT_S)
    if code != EXIT_DISK:
        scene.problems.append(f"exit code {code} after a failed sync, not {EXIT_DISK}")
    since_s = time.monotonic()
    scene.start()
    return trainer.wait_fresh(since_s)


def slow_sync(scene: Scene) -> float:
    """Every sync takes 0.3 s."""
    scene.start(*_injecting(scene, "fdatasync", f"delay_exit={SLOW_SYNC_US}"))
    trainer = scene.add_trainer()
    trainer.wait_acked(ROW_COUNT)
    return trainer.wait_fresh(time.monotonic())


def flip_bit(scene: Scene) -> float:
    """A bit of a batch that no sink has yet turns over while the sidecar is down."""
    trainer = _undelivered(scene)
    journal = sqlite3.connect(scene.sidecar.data_dir / "journal.db", isolation_level=None)
    offset, payload, row_count = journal.execute(
        "SELECT offset, payload, row_count FROM entries WHERE row_count > 0"
        " ORDER BY offset DESC LIMIT 1"
    ).fetchone()
    flipped = bytes([payload[0] ^ 1, *payload[1:]])
    journal.execute("UPDATE entries SET payload = ? WHERE offset = ?", (flipped, offset))
    journal.close()
    since_s = time.monotonic()
    scene.start()
    scene.damaged_row_count = row_count
    return trainer.wait_fresh(since_s)


def tear_log(scene: Scene) -> float:
    """Power fails in the middle of a write: the journal's log ends in half a page of rubbish."""
    trainer = _undelivered(scene)
    with (scene.sidecar.data_dir / "journal.db-wal").open("ab") as file:
        file.write(os.urandom(2000))
    since_s = time.monotonic()
    scene.start()
    return trainer.wait_fresh(since_s)


# What is done to the way between them.


def start_late(scene: Scene) -> float:
    """No sidecar when training starts; one comes later."""
    trainer = scene.add_trainer()
    trainer.wait_logged(ROW_COUNT)
    since_s = time.monotonic()
    scene.start()
    return trainer.wait_fresh(since_s)


def start_too_late(scene: Scene) -> float:
    """No sidecar until the trainer has ended: it comes to what that has left."""
    trainer = scene.add_trainer()
    trainer.wait_logged(ROW_COUNT)
    trainer.end("finish")
    scene.start()
    return scene.wait_ended(trainer, "FINISHED")


def cut_network(scene: Scene) -> float:
    """TCP between trainer and sidecar breaks, and stays so for 5 s."""
    scene.start()
    proxy = Proxy(scene.sidecar.address)
    trainer = scene.add_trainer(address=proxy.address)
    trainer.wait_acked(ROW_COUNT)
    proxy.cut()
    threading.Event().wait(PAUSE_S)
    proxy.heal()
    fresh_s = trainer.wait_fresh(time.monotonic())
    trainer.end("finish")
    proxy.close()
    return fresh_s


def kill_everything(scene: Scene) -> float:
    """One of three trainers, the sidecar, both workers and wandb-core, all at once."""
    killed, *others = [_loaded(scene), scene.add_trainer(), scene.add_trainer()]
    for trainer in others:
        trainer.wait_acked(ROW_COUNT)
    pids = [scene.worker("store"), scene.worker("wandb"), scene.wandb_core()]
    killed.process.kill()
    assert scene.sidecar.process is not None
    for pid in (*pids, scene.sidecar.process.pid):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    scene.sidecar.process.wait()
    killed.process.wait()
    since_s = time.monotonic()
    scene.start()
    return max(trainer.wait_fresh(since_s) for trainer in others)


def _loaded(scene: Scene) -> Trainer:
    """Start the sidecar if it is not there, and a trainer; wait until rows are acked."""
    if scene.sidecar.process is None:
        scene.start()
    trainer = scene.add_trainer()
    trainer.wait_acked(ROW_COUNT)
    return trainer


def _undelivered(scene: Scene) -> Trainer:
    """Kill a sidecar that has acked rows which are in no sink."""
    trainer = _loaded(scene)
    for sink in ("store", "wandb"):
        os.kill(scene.worker(sink), signal.SIGSTOP)
    trainer.wait_acked(trainer.account.acked + ROW_COUNT)
    scene.sidecar.kill()
    return trainer


def _kill_for_sink(scene: Scene, sink: str, find: Callable[[], int]) -> float:
    trainer = _loaded(scene)
    scene.wait_delivered(sink, trainer, 1)
    pid = find()
    os.kill(pid, signal.SIGKILL)
    return scene.wait_delivered(sink, trainer, len(trainer.account.rows) + 1)


def _injecting(scene: Scene, calls: str, what: str) -> list[str]:
    """Return the command that runs the sidecar and does something to its journal's calls."""
    journal = scene.sidecar.data_dir / "journal.db"
    return [
        *("strace", "--daemonize", "--follow-forks", "--quiet=all", "--output=/dev/null"),
        *(f"--trace={calls}", f"--trace-path={journal}", f"--trace-path={journal}-wal"),
        f"--inject={calls}:{what}",
    ]


# Plain wandb, under the same.


class WandbScene:
    """A training loop with plain wandb, offline."""

    def __init__(self, directory: Path, data: Path) -> None:
        """Start it, and wait until it has logged."""
        self.data = data
        self.remarks: list[str] = []
        """What became of the training, where it did not go on."""
        path = directory / "account"
        path.touch()
        variables = {"WANDB_DIR": str(data), "WANDB_ERROR_REPORTING": "false"}
        process = start_load("wandb", "peer", 0, path, ROWS_PER_S, **variables)
        self.trainer = Trainer(process, path)
        self.trainer.wait_logged(ROW_COUNT)

    def core(self) -> int:
        """Return wandb-core's process."""
        return next(p for p in pids_below(self.trainer.process.pid) if is_called(p, "wandb-core"))

    def go_on(self) -> None:
        """Let it log on for as many rows; note if it does not."""
        wanted = len(self.trainer.account.rows) + ROW_COUNT

        def is_over() -> bool:
            return self.trainer.process.poll() is not None or (
                len(self.trainer.account.rows) >= wanted
            )

        try:
            wait_until(is_over, "it logs on", HANG_S)
        except TimeoutError:
            self.remarks.append(f"`log()` did not return within {HANG_S:.0f} s")
            self.trainer.kill()
            return
        if (code := self.trainer.process.poll()) is not None:
            self.remarks.append(f"`log()` raised, and training ended with exit code {code}")


def play_wandb(fault: Fault) -> Outcome:
    """Do a fault to plain wandb; count what its files hold afterwards."""
    assert fault.act_on_wandb is not None
    began_s = time.monotonic()
    with ExitStack() as stack:
        directory = stack.enter_context(_directory())
        disk = directory / "disk"
        disk.mkdir()
        if fault.is_disk_small:
            stack.enter_context(small_disk(disk, DISK_BYTES))
        scene = WandbScene(directory, disk)
        stack.callback(scene.trainer.close)
        cores = pids_below(scene.trainer.process.pid)
        fault.act_on_wandb(scene)
        if scene.trainer.process.poll() is None and (code := scene.trainer.end("finish")):
            scene.remarks.append(f"training ended with exit code {code}")
        wait_until(lambda: not any(is_called(pid, "wandb-core") for pid in cores), "it has ended")
        rows = read_wandb(disk / "wandb", "peer")
        verdict = judge([scene.trainer.account], {"wandb": rows}, has_acks=False)
    return Outcome(verdict, None, time.monotonic() - began_s, scene.remarks)


def kill_wandb_trainer(scene: WandbScene) -> None:
    """SIGKILL of the training process."""
    scene.trainer.kill()


def terminate_wandb_trainer(scene: WandbScene) -> None:
    """SIGTERM to the training process."""
    scene.trainer.process.terminate()
    scene.trainer.process.wait(WAIT_S)


def exit_wandb_trainer(scene: WandbScene) -> None:
    """`os._exit` in the training process."""
    scene.trainer.end("os._exit")


def kill_wandb_s_core(scene: WandbScene) -> None:
    """SIGKILL of wandb-core; training goes on."""
    os.kill(scene.core(), signal.SIGKILL)
    scene.go_on()


def stop_wandb_s_core(scene: WandbScene) -> None:
    """SIGSTOP of wandb-core for 5 s."""
    stop_for(scene.core(), PAUSE_S)
    scene.go_on()


def fill_wandb_s_disk(scene: WandbScene) -> None:
    """The disk of its folder is full for 5 s."""
    filler = fill(scene.data)
    threading.Event().wait(PAUSE_S)
    filler.unlink()
    scene.go_on()


@contextmanager
def _directory() -> Iterator[Path]:
    """Give a directory that is deleted however a sidecar has just ended there."""
    with tempfile.TemporaryDirectory(prefix="pillion-fault-", ignore_cleanup_errors=True) as path:
        yield Path(path)


FAULTS = (
    Fault("trainer: SIGKILL", kill_trainer, kill_wandb_trainer),
    Fault("trainer: SIGTERM", terminate_trainer, terminate_wandb_trainer),
    Fault("trainer: `os._exit`", exit_trainer, exit_wandb_trainer),
    Fault("sidecar: SIGKILL", kill_sidecar, kill_wandb_s_core),
    Fault("sidecar: SIGSTOP for 5 s", stop_sidecar, stop_wandb_s_core),
    Fault("sidecar: SIGTERM and a new start", restart_sidecar),
    Fault("sidecar: SIGKILL at the n-th write or sync, 5 times", kill_sidecar_at_writes),
    Fault("store worker: SIGKILL", kill_store_worker),
    Fault("W&B worker: SIGKILL", kill_wandb_worker),
    Fault("wandb-core: SIGKILL", kill_wandb_core, kill_wandb_s_core),
    Fault("disk: full for 5 s", fill_disk, fill_wandb_s_disk, is_disk_small=True),
    Fault("disk: a sync fails", fail_sync),
    Fault("disk: every sync takes 0.3 s", slow_sync),
    Fault("journal: a flipped bit", flip_bit),
    Fault("journal: a torn log", tear_log),
    Fault("no sidecar at the start", start_late),
    Fault("no sidecar until the trainer has ended", start_too_late),
    Fault("network: cut for 5 s", cut_network, is_on_tcp=True),
    Fault("trainer, sidecar, workers and wandb-core at once: SIGKILL", kill_everything),
)
"""All rows, in the table's order."""
