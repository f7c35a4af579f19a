"""Faults at random: kills, stops, a full disk, a cut network, over all processes.

What happens is decided by the seed alone; when exactly it hits is the machine's. Trainers that
died are followed by others, some of which go on with the same run.
"""

import os
import random
import signal
import threading
import time
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from faults.proxy import Proxy
from faults.scene import Scene, Trainer, fill, stop_for

TRAINER_COUNT = 4
ROWS_PER_S = 60.0
PAUSE_S_MAX = 0.4
"""Between two faults, at random."""


class RandomFaults:
    """Does one fault after the other to a scene. Whatever it does, it leaves the scene running."""

    def __init__(
        self,
        scene: Scene,
        seed: int,
        *,
        rows_per_s: float = ROWS_PER_S,
        proxy: Proxy | None = None,
        disk: Path | None = None,
    ) -> None:
        """Start the sidecar and the trainers.

        Args:
            scene: Where it happens; not started yet.
            seed: Decides what is done.
            rows_per_s: What each trainer logs.
            proxy: The way that trainers take, to be cut; None: none is.
            disk: The small disk that holds the data, to be filled; None: none is.
        """
        self._scene = scene
        self._rows_per_s, self._proxy, self._disk = rows_per_s, proxy, disk
        self.spares_sidecar = False
        """Whether sidecar and workers are left alive, so that their memory can be watched."""
        self._random = random.Random(seed)
        self._run_count = 0
        self.recoveries_s: list[float] = []
        """How long it took after each fault until every trainer had a fresh row acked."""
        self.done: dict[str, int] = {}
        """How often each was done."""
        self.trail: list[str] = []
        """When each was, to lay beside the sidecar's and the workers' logs."""
        scene.start()
        self._trainers = [self._add_trainer() for _ in range(TRAINER_COUNT)]
        for trainer in self._trainers:
            trainer.wait_acked(1)

    def strike(self, *, is_awaited: bool) -> None:
        """Do a fault; then wait until fresh rows are acked, or let the next one come at once."""
        faults = {self.kill_trainer: 3}
        if not self.spares_sidecar:
            faults |= {self.kill_sidecar: 3, self.restart_sidecar: 1, self.stop_sidecar: 1}
            faults |= {self.kill_store_worker: 2, self.kill_wandb_worker: 2}
            faults |= {self.kill_wandb_core: 2}
        if self._proxy is not None:
            faults[self.cut_network] = 2
        if self._disk is not None:
            faults[self.fill_disk] = 1
        (fault,) = self._random.choices(list(faults), list(faults.values()))
        pause_s = self._random.uniform(0, PAUSE_S_MAX)
        self.done[fault.__name__] = self.done.get(fault.__name__, 0) + 1
        self.trail.append(f"{datetime.now(UTC).time()} {fault.__name__}")
        fault()
        if is_awaited:
            since_s = time.monotonic()
            for trainer in self._trainers:
                trainer.wait_fresh(since_s)
            self.recoveries_s.append(time.monotonic() - since_s)
        threading.Event().wait(pause_s)

    def kill_trainer(self) -> None:
        """SIGKILL one; another takes its place, with its run or one of its own."""
        index = self._random.randrange(TRAINER_COUNT)
        goes_on = self._random.random() < 0.5
        former = self._trainers[index]
        former.kill()
        self._trainers[index] = self._add_trainer(former.run_id if goes_on else "")

    def kill_sidecar(self) -> None:
        """SIGKILL it, and start it again."""
        self._scene.sidecar.kill()
        self._scene.start()

    def restart_sidecar(self) -> None:
        """SIGTERM it, and start it again."""
        code, output = self._scene.sidecar.stop()
        if code:
            self._scene.problems.append(f"exit code {code} after SIGTERM: {output}")
        self._scene.start()

    def stop_sidecar(self) -> None:
        """SIGSTOP it for a moment."""
        assert self._scene.sidecar.process is not None
        stop_for(self._scene.sidecar.process.pid, PAUSE_S_MAX)

    def kill_store_worker(self) -> None:
        """SIGKILL the process that drives the store."""
        self._kill(self._scene.worker("store"))

    def kill_wandb_worker(self) -> None:
        """SIGKILL the process that drives W&B's SDK."""
        self._kill(self._scene.worker("wandb"))

    def kill_wandb_core(self) -> None:
        """SIGKILL W&B's own process."""
        self._kill(self._scene.wandb_core())

    def cut_network(self) -> None:
        """Break all connections for a moment."""
        assert self._proxy is not None
        self._proxy.cut()
        threading.Event().wait(PAUSE_S_MAX)
        self._proxy.heal()

    def fill_disk(self) -> None:
        """Fill the disk for a moment."""
        assert self._disk is not None
        filler = fill(self._disk)
        threading.Event().wait(PAUSE_S_MAX)
        filler.unlink()

    def _kill(self, pid: int) -> None:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)

    def _add_trainer(self, run_id: str = "") -> Trainer:
        self._run_count += 1
        run_id = run_id or f"random-{self._run_count}"
        address = self._proxy.address if self._proxy else ""
        return self._scene.add_trainer(run_id, rows_per_s=self._rows_per_s, address=address)
