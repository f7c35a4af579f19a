"""How live runs' systems do: told by a process of its own, and journaled as rows of the runs.

That process, `sampler.py`, is told which runs have writers on this host. What it sends is one row
of metrics `system/...` per run and look, by a writer without a name, beside the trainer's rows: it
bears the step of the latest of these, or of one a little before while batches are sent again, and
moves no writer's numbers. A run that has ended gets none, and none makes a run look alive.

Used from the event loop only.
"""

import asyncio
import logging
from collections.abc import Iterable
from dataclasses import astuple
from typing import Any

from pillion.v1 import record_pb2
from pillion_sidecar.journal import Journal
from pillion_sidecar.liveness import Liveness
from pillion_sidecar.records import CheckedBatch, RunId, RunStart, WriterId
from pillion_sidecar.settings import Settings
from pillion_sidecar.sidecar_id import owner_of
from pillion_sidecar.store import Store
from pillion_sidecar.supervisor import Supervisor

LOOK_INTERVAL_S = 1.0
"""How often it is seen which runs live."""

log = logging.getLogger(__name__)


class Sampling:
    """See the module."""

    def __init__(self, settings: Settings, journal: Journal, liveness: Liveness) -> None:
        """Prepare it.

        Args:
            settings: Say how often, and where logs go.
            journal: Keeps the rows.
            liveness: Knows which runs have writers, and where.
        """
        self._settings, self._journal, self._liveness = settings, journal, liveness
        self._steps: dict[RunId, int] = {}
        """The step of the last row of runs that live."""
        self._asked: dict[RunId, WriterId] = {}
        """Which writer samples a run that cannot be seen from here."""
        self._told: dict[str, Any] = {}
        """The runs that the process that runs now was told of last."""
        self._is_started = self._is_stopped = False
        self._supervisor = Supervisor(
            {
                "sink": "system",  # for the log
                "interval_s": settings.system_interval_s,
                "log_format": settings.log_format,
                "log_level": settings.log_level,
            },
            settings.data_dir / "logs" / "sampler.log",
            on_start=self._begin,
            on_message=self._take_in,
            module="pillion_sidecar.sampler",
        )

    @property
    def interval_s(self) -> float:
        """How often runs are sampled; 0: never."""
        return self._settings.system_interval_s

    def recover(self, run_ids: Iterable[RunId]) -> None:
        """Look in the store up to which step runs have come that go on."""
        if self.interval_s and (run_ids := list(run_ids)):
            store = Store(self._settings.store_url, owner=owner_of(self._settings))
            for run_id in run_ids:
                run = store.run(run_id)
                if run is not None and run.last_step is not None:
                    self._steps[run_id] = run.last_step
            store.close()

    def asked_of(self, start: RunStart) -> float:
        """Return how often a writer that starts is to sample its run itself; 0: not at all.

        That is asked of one writer of a run, the first that lives, if none can be seen from here:
        others would give the same metrics other values, of other processes and hosts.
        """
        run_id, writer_id, process = start.run_id, start.writer_id, start.environment.process
        if not self.interval_s or process is None or run_id in self._liveness.visible():
            return 0.0
        asked = self._asked.get(run_id, writer_id)
        if asked != writer_id and self._liveness.knows(run_id, asked):
            return 0.0
        self._asked[run_id] = writer_id
        return self.interval_s

    def heard(self, batch: CheckedBatch) -> None:
        """Note a batch that was handed to the journal."""
        if self.interval_s and batch.last_step is not None:
            self._steps[batch.run_id] = batch.last_step

    async def run(self) -> None:
        """Go on telling the process which runs live here; it is started for the first of them."""
        while self.interval_s:
            runs = self._runs()
            if runs and not self._is_started:
                self._is_started = True
                self._supervisor.start()
            if runs != self._told and self._supervisor.tell({"watch": runs}):
                self._told = runs
            for run_id in [*self._steps.keys() | self._asked.keys()]:
                if not self._liveness.is_live(run_id):
                    self._steps.pop(run_id, None)
                    self._asked.pop(run_id, None)
            await asyncio.sleep(LOOK_INTERVAL_S)

    async def stop(self) -> None:
        """End the process; nothing that it says is taken from now on."""
        self._is_stopped = True
        await self._supervisor.stop()

    def _runs(self) -> dict[str, Any]:
        return {
            run_id: {
                "processes": [list(astuple(each)) for each, _ in writers],
                "launchers": [list(astuple(each)) for each in self._liveness.launchers(run_id)],
                "gpus": sorted({(gpu.index, gpu.uuid) for _, gpus in writers for gpu in gpus}),
            }
            for run_id, writers in self._liveness.visible().items()
        }

    def _begin(self) -> None:
        self._told = {}

    def _take_in(self, message: dict[str, Any]) -> None:
        self._supervisor.works()
        sample = message.get("sample")
        if sample is None or self._is_stopped:
            return
        run_id = RunId(sample["run_id"])
        if self._liveness.is_live(run_id):
            batch = sample_batch(
                *(run_id, self._steps.get(run_id, 0)),
                *(sample["time_unix_nano"], sample["values"]),
            )
            asyncio.wrap_future(self._journal.sample(batch)).add_done_callback(_settle)


def sample_batch(
    run_id: RunId, step: int, time_unix_nano: int, values: dict[str, float]
) -> CheckedBatch:
    """Return a sample as what a writer could have said."""
    batch = record_pb2.Batch(run_id=run_id)
    frame = batch.records.add().metric_frame
    frame.steps.append(step)
    frame.times_unix_nano.append(time_unix_nano)
    for key, value in sorted(values.items()):
        frame.columns.add(key=key).doubles.values.append(value)
    payload = batch.SerializeToString(deterministic=True)
    return CheckedBatch(run_id, WriterId(""), 0, payload, row_count=1, keys=frozenset(values))


def _settle(done: asyncio.Future[None]) -> None:
    """Miss a sample where the run is gone or the disk is full: that is told elsewhere."""
    if not done.cancelled() and (error := done.exception()):
        log.debug("a sample was not kept", extra={"error": error})
