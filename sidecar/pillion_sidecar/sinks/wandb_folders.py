"""Where the W&B sink keeps its runs' folders, and how they get there in spite of crashes.

    DIRECTORY/partial/RUN.RANDOM/wandb/offline-run-TIME-RUN/   of a run that is being written
    DIRECTORY/partial/RUN.RANDOM/wandb/run-TIME-RUN/           of one that is sent to a server
    DIRECTORY/finished/RUN.json                                the cursor of one that has ended
    DIRECTORY/aside/RUN.json                                   rows and artifacts never taken
    DIRECTORY/alerts/RUN.json                                  marks of alerts that were sent to one
    DIRECTORY/wandb/offline-run-TIME-RUN/                      its folder, where `wandb sync` looks

`deliver` fsyncs the folder, then writes RUN.json: that is the commit, from here on the run is
delivered. Then the folder moves to `wandb`, in place of the run's earlier one. After a crash, what
is committed is moved by the next process that opens the directory, and all else under `partial` is
deleted. The cursor is no part of the folder, so that who deletes a folder once it is uploaded
(`wandb clean`) does not have the run delivered a second time.

One process at a time; it knows nothing of wandb but the names of its files.
"""

import json
import shutil
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

from pillion_sidecar.durable_files import sync, write_durably
from pillion_sidecar.records import Offset, RunId


@dataclass(frozen=True, slots=True)
class Finished:
    """A run that was delivered to its end; RUN.json."""

    offset: Offset
    row_count: int
    written: str
    """Where its folder was written, relative to the directory; empty: it was sent to a server."""


class RunFolders:
    """See the module. `finished` holds every run that is delivered."""

    def __init__(self, directory: Path) -> None:
        """Open the directory, or make it, and end what a crash has interrupted."""
        self._directory = directory
        self._partial = directory / "partial"
        self._shown = directory / "wandb"
        self._cursors = directory / "finished"
        for path in (self._partial, self._shown, self._cursors):
            path.mkdir(parents=True, exist_ok=True)
        self.finished = finished_runs(directory)
        for run_id, finished in self.finished.items():
            folder = directory / finished.written
            if finished.written and folder.exists():
                self._show(run_id, folder)
        for root in self._partial.iterdir():
            # A wandb-core that is just dying may still write there: then next time.
            self.discard(root)

    def make_root(self, run_id: RunId) -> Path:
        """Return a new directory in which the SDK may write the run; no one has written there."""
        return Path(tempfile.mkdtemp(prefix=f"{run_id}.", dir=self._partial))

    def discard(self, root: Path) -> None:
        """Delete what was written there."""
        shutil.rmtree(root, ignore_errors=True)

    def deliver(self, run_id: RunId, folder: Path, offset: Offset, row_count: int) -> None:
        """Make a complete folder durable and with it the cursor, then show it.

        Raises OSError. The run is in `finished` from the commit on; if showing it failed then, that
        is done when the directory is opened next.
        """
        for path in folder.rglob("*"):
            if path.is_file():
                sync(path)
        for path in (folder, *folder.parents):
            sync(path)
            if path == self._partial:
                break
        self._commit(run_id, Finished(offset, row_count, str(folder.relative_to(self._directory))))
        self._show(run_id, folder)

    def conclude(self, run_id: RunId, offset: Offset, row_count: int) -> None:
        """Make the cursor of a run durable that a server has to its end. Raises OSError."""
        self._commit(run_id, Finished(offset, row_count, ""))

    def _commit(self, run_id: RunId, finished: Finished) -> None:
        write_durably(self._cursors / f"{run_id}.json", json.dumps(asdict(finished)))
        self.finished[run_id] = finished

    def _show(self, run_id: RunId, folder: Path) -> None:
        root = folder.parent.parent
        for earlier in self._shown.glob("offline-run-*"):
            if run_id_of(earlier) == run_id:
                earlier.rename(root / earlier.name)
                sync(self._shown)  # never both, not even after a power loss
        folder.rename(self._shown / folder.name)
        sync(self._shown)
        self.discard(root)


def finished_runs(directory: Path) -> dict[RunId, Finished]:
    """Return the runs that are delivered, by what is committed in the directory."""
    return {
        RunId(path.stem): Finished(**json.loads(path.read_bytes()))
        for path in (directory / "finished").glob("*.json")
    }


def offline_folders(directory: Path) -> dict[RunId, Path]:
    """Return the folders of offline runs that have ended."""
    folders = sorted((directory / "wandb").glob("offline-run-*"))
    return {run_id_of(folder): folder for folder in folders}


def run_id_of(folder: Path) -> RunId:
    """Return whose folder it is, by its name."""
    return RunId(folder.name.split("-", 3)[3])


def is_synced(folder: Path) -> bool:
    """Tell whether a folder was uploaded, as `wandb sync` tells it."""
    return any(folder.glob("*.wandb.synced"))
