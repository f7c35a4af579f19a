"""Later upload: an offline run's folder to W&B, by `wandb sync`, and each row exactly once.

What wandb 0.31 does alone is not enough. Repeated after it was interrupted, it sends all rows
again, behind those that the server has. And it takes a run for synced, with exit code 0, though the
server has refused its rows or an artifact's files are gone. So the server is asked before, and what
it has is left out of the copy that is uploaded. It is asked afterwards, and the upload's log is
read: only if all is there, the folder is marked, as `wandb sync` marks it. That mark is believed,
whoever has set it. A row that is never taken is looked for, as `wandb_care.py` does it.

Imports wandb, so it is for the command line's process, never for the sidecar's.
"""

import fcntl
import functools
import os
import shutil
import time
from bisect import bisect_right
from collections.abc import Callable, Container, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path

from pillion_sidecar.errors import DiskError, SinkError
from pillion_sidecar.records import RunId
from pillion_sidecar.sinks import wandb_links
from pillion_sidecar.sinks.wandb_care import WINDOW_MAX, Care
from pillion_sidecar.sinks.wandb_copy import write_rest
from pillion_sidecar.sinks.wandb_file import RecordReader
from pillion_sidecar.sinks.wandb_folders import is_synced, run_id_of
from pillion_sidecar.sinks.wandb_server import RemoteRun, WandbServer
from pillion_sidecar.sync_process import WandbSync

AWAY_MAX_S = 30.0
"""An upload is given up when the server could not be asked for so long."""
WINDOW_GROWTH = 8
"""So many times as many rows are tried after some that were few enough."""
END_POLLS_MAX, END_POLL_S = 40, 0.25
"""How often, and after what pause, the server is asked whether it has all."""

_NEXT_STEPS = {
    "WANDB_KEY_REFUSED": "Run `wandb login --relogin`, set another WANDB_API_KEY, or give the "
    "sidecar one with `pillion configure --api-key-file FILE`.",
    "WANDB_AWAY": "Sync again when it is back: what has arrived is not sent twice.",
}
"""What to do after an error of the server, where that is not the same as for online runs."""


class SyncState(StrEnum):
    """What came of it."""

    SYNCED = "synced"
    """It is at W&B now."""
    PRESENT = "present"
    """It was synced before."""
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one folder."""

    run_id: RunId
    state: SyncState
    sentence: str
    """For people; of a failure with the next step."""
    reason: str = ""
    """For programs: why it failed."""
    row_count: int = 0
    url: str = ""


Progress = Callable[[int, int], None]
"""Called with how many rows have arrived, and how many there are."""


def sync_folder(
    folder: Path,
    base_url: str,
    key: str,
    entity: str = "",
    on_progress: Progress = lambda *_: None,
    *,
    program: str = "",
) -> Outcome:
    """Upload a folder, or go on with an upload that was interrupted. Blocks; may be called again.

    Args:
        folder: As `offline_folders` returns it.
        base_url: The server.
        key: Whose runs they will be.
        entity: The user or team; empty: the one that the run names, else the key's own.
        on_progress: See `Progress`; called by this thread.
        program: What the run's trainer ran; else W&B would show `wandb sync` itself.
    """
    run_id = run_id_of(folder)
    try:
        with _locked(folder) as lock:
            is_present = is_synced(folder)
            if is_present and not wandb_links.waiting(folder):
                return Outcome(run_id, SyncState.PRESENT, f"Run {run_id} was synced before.")
            server = WandbServer(base_url, key)
            upload = _Upload(folder, server, entity, on_progress)
            if is_present:
                outcome = Outcome(run_id, SyncState.PRESENT, f"Run {run_id} was synced before.")
            else:
                prepare = functools.partial(WandbSync, base_url=base_url, key=key, program=program)
                outcome = upload.run(prepare, lock)
            trouble = wandb_links.make(folder, base_url, key, upload.place)
            return replace(outcome, sentence=f"{outcome.sentence} {trouble}".rstrip())
    except SinkError as error:
        sentence = str(error)
        if next_step := _NEXT_STEPS.get(error.reason):
            sentence = f"{sentence.partition('. ')[0]}. {next_step}"
        return Outcome(run_id, SyncState.FAILED, sentence, error.reason)
    except DiskError as error:
        return Outcome(run_id, SyncState.FAILED, str(error), error.reason)
    except OSError as error:
        sentence = f"Run {run_id} cannot be uploaded: {error}. Check {folder}."
        return Outcome(run_id, SyncState.FAILED, sentence, "SYNC_DISK")


class _Upload:
    """One upload of one folder, which the caller has locked."""

    def __init__(
        self, folder: Path, server: WandbServer, entity: str, on_progress: Progress
    ) -> None:
        self._folder, self._server, self._on_progress = folder, server, on_progress
        self._run_id = run_id_of(folder)
        self._path = next(folder.glob("*.wandb"), folder / "run.wandb")
        self._inode = self._path.stat().st_ino
        self._steps: list[int] = []
        self._project = ""
        for record in RecordReader(self._path).read():
            match record.WhichOneof("record_type"):
                case "run":
                    self._project, entity = record.run.project, entity or record.run.entity
                case "history":
                    self._steps.append(record.history.step.num)
        self._entity = entity
        self._care = Care.load(folder.parent.parent / "aside" / f"{self._run_id}.json")
        self._away_since_s: float | None = None

    @property
    def place(self) -> str:
        """Where the run is at the server: `ENTITY/PROJECT`."""
        self._entity = self._entity or self._server.viewer().name
        return f"{self._entity}/{self._project}"

    def run(self, prepare: Callable[[Path], WandbSync], lock: int) -> Outcome:
        """Do it. Raises SinkError, DiskError, OSError."""
        self._entity = self._entity or self._server.viewer().name
        # Here and not in a temporary directory: after a kill the next attempt tidies up.
        staging = self._folder / "sync"
        is_whole, url = False, ""
        while not is_whole:
            shutil.rmtree(staging, ignore_errors=True)
            staging.mkdir()
            try:
                process = prepare(staging)
                is_whole = self._attempt(process, staging, lock)
                url = process.url() or url
            finally:
                shutil.rmtree(staging, ignore_errors=True)
        if self._path.stat().st_ino != self._inode:
            raise SinkError(
                f"Run {self._run_id} has gone on meanwhile. Sync it again.", reason="SYNC_OUTDATED"
            )
        self._path.with_name(f"{self._path.name}.synced").touch()
        self._care.arrived()
        row_count = len(self._steps) - len(self._care.aside)
        rows = f"{row_count:,} row{'s' * (row_count != 1)}"
        said = [f"Run {self._run_id} is at W&B, with {rows}.", self._care.note, url]
        sentence = " ".join(filter(None, said))
        return Outcome(self._run_id, SyncState.SYNCED, sentence, row_count=row_count, url=url)

    def _attempt(self, process: WandbSync, staging: Path, lock: int) -> bool:
        """Upload as many rows as may go at once; tell whether that was all. Raises SinkError."""
        remote, care = self._ask(), self._care
        there_count = bisect_right(self._steps, remote.last_ordinal)
        left = [step for step in self._steps[there_count:] if step not in care.aside]
        batch = left[: care.window]
        folder = self._stage(staging, remote, set(batch))
        # The lock too, so that who comes after a kill waits for the end of this process.
        process.run(folder, self._entity, [lock], self._watch)
        if (refusal := process.refusal()) is not None:
            status, said = refusal
            last_ordinal, care.retry_at_s = self._ask().last_ordinal, 0.0
            care.died(status, said, [step for step in batch if step > last_ordinal])
            if care.retry_at_s:  # no row is to blame
                raise self._failure(said)
            return False
        self._verify(process.mistakes(), batch)
        care.window = min(WINDOW_MAX, care.window * WINDOW_GROWTH)
        return len(batch) == len(left)

    def _ask(self) -> RemoteRun:
        remote = self._server.run(self._entity, self._project, self._run_id)
        self._on_progress(bisect_right(self._steps, remote.last_ordinal), len(self._steps))
        return remote

    def _stage(self, staging: Path, remote: RemoteRun, steps: Container[int]) -> Path:
        """Lay out what is uploaded: the folder without what is there, and with these rows only."""
        folder = staging / self._folder.name  # by its name it is known as an offline run
        folder.mkdir()
        (folder / "files").symlink_to(self._folder / "files")
        write_rest(
            self._path,
            folder / self._path.name,
            entity=self._entity,
            after_step=remote.last_ordinal,
            wants_row=lambda step: step in steps,
            with_alerts=not remote.state,  # else an earlier attempt may have raised them
        )
        return folder

    def _watch(self) -> None:
        """Show how far it has come. Raises SinkError once the server is away for long."""
        try:
            self._ask()
            self._away_since_s = None
        except SinkError:
            self._away_since_s = self._away_since_s or time.monotonic()
            if time.monotonic() - self._away_since_s > AWAY_MAX_S:
                raise

    def _verify(self, mistakes: list[str], steps: Sequence[int]) -> None:
        """Raise SinkError if something went wrong, or if the server lacks a row or the end."""
        for _ in range(0 if mistakes else END_POLLS_MAX):
            remote = self._ask()
            has_rows = remote.last_ordinal >= max(steps, default=-1)
            if has_rows and remote.has_ended:
                return
            time.sleep(END_POLL_S)
        said = " ".join(mistakes) or "not everything has arrived, and `wandb sync` does not say why"
        raise self._failure(said)

    def _failure(self, said: str) -> SinkError:
        return SinkError(
            f"W&B does not have all of run {self._run_id}: {said.removesuffix('.')}. Mend that, or "
            f"check that there is an entity {self._entity} and that the key may write there. Then "
            "sync it again: what has arrived is not sent twice.",
            reason="WANDB_REFUSED",
        )


@contextmanager
def _locked(folder: Path) -> Iterator[int]:
    """Hold the folder. Raises SinkError if somebody else uploads it."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SinkError(
                f"Run {run_id_of(folder)} is being synced by another process. Wait for that.",
                reason="SYNC_BUSY",
            ) from None
        yield descriptor
    finally:
        os.close(descriptor)
