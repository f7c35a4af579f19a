"""The W&B sink: makes of each run one offline run of the real SDK, ready for `wandb sync`.

The SDK buffers, never fsyncs, and what it has not written dies with its process. So a run that has
not ended has no durable cursor: a new worker deletes what was written of it and has it handed over
from its first entry again. When a run ends, its file is read back and compared with what was handed
over, row by row; then `wandb_folders.py` makes it and the cursor durable and shows it.

A run that goes on after its end is written anew, from its first entry: `start` or `apply` raises
SinkError, and `position` is 0. What the journal no longer has then comes from the store. The
earlier folder stays until the new one is complete.

This and `wandb_file.py` alone import wandb. Only offline runs are written so far.
"""

import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from pillion_sidecar.errors import SettingsError, SinkError
from pillion_sidecar.records import (
    ConfigUpdate,
    ConsoleLines,
    Frame,
    Offset,
    Record,
    RunFinish,
    RunId,
    RunStart,
    SummaryUpdate,
)
from pillion_sidecar.sinks.wandb_file import RecordReader
from pillion_sidecar.sinks.wandb_folders import RunFolders
from pillion_sidecar.sinks.wandb_run import WandbRun

WRITE_INTERVAL_S = 0.5
"""How long wandb-core may hold back what it was given; the worker flushes once a second."""
PROJECT_LENGTH_MAX = 128
"""What the SDK takes; more is cut off."""

_PROJECT_CHARACTERS = str.maketrans(dict.fromkeys("/\\#?%:", "-"))


class WandbSink:
    """See `Sink`. For one thread of a process of its own, whose `WANDB_*` environment it sets.

    `position` and `row_count` of a run that has not ended tell what was read back from its file;
    that is not durable, see above. After an error that leaves the SDK unusable, `flush` raises what
    is no SinkError: the process is to be replaced.
    """

    def __init__(self, directory: Path) -> None:
        """Go on with what is in the directory. Raises SettingsError if wandb is not installed."""
        directory = directory.resolve()
        self._wandb = _import_wandb(directory)
        self._folders = RunFolders(directory)
        self._live: dict[RunId, WandbRun] = {}
        self._reopened: dict[RunId, Offset] = {}
        """Where the end was of runs that are written anew."""
        self._failure: Exception | None = None
        """Why this process is of no more use."""

    def start(self, offset: Offset, start: RunStart, *, anew: bool = False) -> None:
        run_id = start.run_id
        if anew:
            self._forget(run_id)
        elif self._has(run_id, offset):
            return
        with self._starting_over(run_id):
            run = self._live.get(run_id)
            if run is None:
                run = self._live[run_id] = self._open(start)
                run.define_steps()
            run.join(start)
            run.cover(offset)

    def apply(self, run_id: RunId, offset: Offset, records: Sequence[Record]) -> None:
        if self._has(run_id, offset):
            return
        run = self._live.get(run_id)
        assert run is not None, "records come after the start of their run"
        with self._starting_over(run_id):
            for record in records:
                match record:
                    case Frame():
                        run.log(record)
                    case ConfigUpdate():
                        run.update_config(record.values)
                    case SummaryUpdate():
                        run.update_summary(record.values)
                    case ConsoleLines():
                        run.print(record.lines)
                    # A lost range is counted by the store; W&B has no place for it.
            run.cover(offset)

    def finish(self, offset: Offset, finish: RunFinish) -> None:
        run_id = finish.run_id
        if self._has(run_id, offset):
            return
        run = self._live.get(run_id)
        assert run is not None, "a run ends after its start"
        with self._starting_over(run_id):
            run.summary.update(finish.summary)
            run.cover(offset)
            if offset > run.earlier_end:
                self._deliver(run_id, offset, run, run.end(finish))

    def position(self, run_id: RunId) -> Offset:
        if (run := self._live.get(run_id)) is not None:
            return run.confirmed
        finished = self._folders.finished.get(run_id)
        return finished.offset if finished else Offset(0)

    def row_count(self, run_id: RunId) -> int:
        if (run := self._live.get(run_id)) is not None:
            return run.confirmed_row_count
        finished = self._folders.finished.get(run_id)
        return finished.row_count if finished else 0

    def flush(self) -> None:
        for run in self._live.values():
            run.confirm()
        waiting = next((run for run in self._live.values() if run.is_waiting), None)
        if waiting is not None:
            try:
                waiting.wandb_run.status()  # asks wandb-core
            except Exception as error:  # noqa: BLE001 - it has died with what it was given
                self._failure = error
        if self._failure is not None:
            raise RuntimeError("W&B's SDK is of no more use in this process") from self._failure

    def close(self) -> None:
        # Offline this touches nothing but files under `partial`, which nobody will read. It frees
        # the run ids, which the SDK lets a process use only once at a time.
        self._live.clear()
        with suppress(Exception):  # wandb-core may be gone already
            self._wandb.teardown()

    def _has(self, run_id: RunId, offset: Offset) -> bool:
        """Tell whether an entry is in the finished run; raise SinkError if it opens it again."""
        finished = self._folders.finished.get(run_id)
        if finished is not None and offset > finished.offset:
            self._forget(run_id)
            raise SinkError(
                f"Run {run_id} goes on after its end; W&B's file of it is written anew.",
                reason="RUN_REOPENED",
            )
        return finished is not None

    def _forget(self, run_id: RunId) -> None:
        """Have the run written anew. What is shown of it stays until that is complete."""
        if (run := self._live.pop(run_id, None)) is not None:
            self._give_up(run)
        if (finished := self._folders.finished.pop(run_id, None)) is not None:
            self._reopened[run_id] = finished.offset

    @contextmanager
    def _starting_over(self, run_id: RunId) -> Iterator[None]:
        """Give up what was written of a run if a call fails: the SDK may have taken half of it."""
        try:
            yield
        except Exception as error:  # the SDK lets through whatever happens to it
            if (run := self._live.pop(run_id, None)) is not None:
                self._give_up(run)
            if isinstance(error, SinkError):
                raise
            raise SinkError(
                f"W&B's SDK failed on run {run_id}: {error!r}. The run is handed over again.",
                reason="WANDB_FAILED",
            ) from error

    def _give_up(self, run: WandbRun) -> None:
        try:
            run.wandb_run.finish()  # frees the run id
        except Exception as error:  # noqa: BLE001 - as above
            self._failure = error
        self._folders.discard(run.root)

    def _open(self, start: RunStart) -> WandbRun:
        root = self._folders.make_root(start.run_id)
        try:
            run = self._wandb.init(
                id=start.run_id,
                project=start.project.translate(_PROJECT_CHARACTERS)[:PROJECT_LENGTH_MAX],
                name=start.name,
                group=start.group or None,
                job_type=start.job_type or None,
                notes=start.notes or None,
                reinit="create_new",
                mode="offline",
                settings=self._settings(root, start),
            )
        except Exception as error:
            # A failed init keeps its run id for the life of the process, unless it was refused
            # before it began.
            if not isinstance(error, ValueError | self._wandb.errors.UsageError):
                self._failure = error
            self._folders.discard(root)
            raise
        return WandbRun(
            root=root,
            wandb_run=run,
            reader=RecordReader(Path(run.settings.sync_file)),
            earlier_end=self._reopened.get(start.run_id, Offset(0)),
        )

    def _deliver(self, run_id: RunId, offset: Offset, run: WandbRun, folder: Path) -> None:
        try:
            self._folders.deliver(run_id, folder, offset, run.row_count)
        except OSError as error:
            if run_id in self._folders.finished:
                # Delivered but not shown: that is for a new worker.
                self._failure = error
                del self._live[run_id]
            raise
        del self._live[run_id]
        self._reopened.pop(run_id, None)

    def _settings(self, root: Path, start: RunStart) -> Any:
        """Return settings by which nothing of this process is recorded as the run's."""
        return self._wandb.Settings(
            root_dir=root,
            host=start.environment.host or "unknown",
            program=start.environment.program or "unknown",
            console="off",
            silent=True,
            symlink=False,
            save_code=False,
            disable_code=True,
            disable_git=True,
            label_disable=True,
            sagemaker_disable=True,
            stop_fn=_ignore_stop,
            x_disable_machine_info=True,
            x_disable_meta=True,
            x_disable_stats=True,
            x_save_requirements=False,
            x_transaction_log_flush_interval=WRITE_INTERVAL_S,
        )


def _import_wandb(directory: Path) -> Any:
    """Import wandb so that it takes nothing from the environment and leaves nothing outside."""
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        del os.environ[name]  # a user's, meant for runs of another kind
    for name in ("WANDB_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_DATA_DIR"):
        os.environ[name] = str(directory / "sdk")
    os.environ["WANDB_ERROR_REPORTING"] = "false"
    try:
        import wandb  # noqa: PLC0415 - after the environment is set
    except ImportError:
        raise SettingsError(
            "wandb is not installed. Run `pip install -e '.[sidecar]'` in Pillion's checkout."
        ) from None
    # Below this the SDK logs every config value into the run's debug.log.
    logging.getLogger("wandb").setLevel(logging.WARNING)
    return wandb


def _ignore_stop() -> None:
    """Do nothing when Stop is pressed in W&B's page; by default that interrupts this process."""
