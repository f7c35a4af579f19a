"""Takes over the artifacts that trainers have staged and are too dead to send.

As `adoption.py` does with spool files, from the same directory, in a thread of its own: a large
checkpoint keeps nobody's rows waiting. A file is digested, compared with what its trainer knew of
it, and put into the blob store; then the artifact is journaled, and what was staged is deleted.
"""

import hashlib
import logging
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from pillion._messages import Start, start_request
from pillion.artifact_messages import to_artifact
from pillion.staging import Manifest, Staged, StagedFile, StagingError, clean, staged_artifacts
from pillion_sidecar.artifact_validation import check_artifact
from pillion_sidecar.blobs import Blobs
from pillion_sidecar.errors import DiskError, LimitError, PillionError
from pillion_sidecar.journal import Journal
from pillion_sidecar.metrics import ADOPTED_FILES
from pillion_sidecar.records import RunId, RunStart
from pillion_sidecar.validation import check_start

SCAN_INTERVAL_S = 1.0

log = logging.getLogger(__name__)


class StagedAdoption:
    """Watches one spool directory. Its public methods may be called from any thread."""

    def __init__(
        self,
        directory: Path,
        journal: Journal,
        blobs: Blobs,
        on_started: Callable[[RunStart], Any],
        complete: Callable[[RunStart], RunStart] = lambda start: start,
    ) -> None:
        """Make one.

        Args:
            directory: Where the artifacts are; it need not exist.
            journal: Where they go.
            blobs: Where their files go.
            on_started: Called in this thread with a writer of whom nothing else is known: somebody
                has to see that it has gone.
            complete: Puts into a start what its writer leaves to the sidecar.
        """
        self._directory, self._journal, self._blobs = directory, journal, blobs
        self._on_started, self._complete = on_started, complete
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="staged-adoption", daemon=True)
        self._troubles: dict[Path, str] = {}
        self._refused: set[Path] = set()
        """What can never be taken as it is."""
        self.is_busy = False
        """Whether an artifact is being taken."""
        self.file_count = self.size_bytes = 0
        """What waits there: artifacts, and the length of their files."""

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread; what is being taken is begun anew by the next sidecar."""
        self._stopping.set()
        if self._thread.ident is not None:
            self._thread.join()

    @property
    def trouble(self) -> str:
        """What keeps an artifact from being taken, for people; empty if nothing does."""
        return next(iter(self._troubles.values()), "")

    # The rest runs in the thread.

    def _watch(self) -> None:
        while not self._stopping.is_set():
            try:
                self.scan()
            except DiskError:
                return  # the sidecar ends
            except Exception:  # the thread's outermost frame
                log.exception("staged artifacts not looked at")
            self._stopping.wait(SCAN_INTERVAL_S)

    def scan(self) -> None:
        """Look once, and take what can be taken."""
        clean(self._directory)
        try:
            paths = staged_artifacts(self._directory)
        except OSError:
            return  # `adoption.py` tells
        self._refused.intersection_update(paths)
        for path in self._troubles.keys() - set(paths):
            self._troubles.pop(path)
        self.file_count, self.size_bytes = len(paths), sum(map(_size_bytes, paths))
        for path in paths:
            if path in self._refused or self._stopping.is_set():
                continue
            try:
                self._adopt(path)
            except InterruptedError:
                return
            except DiskError as error:
                if error.reason != "BLOBS_FAILED":
                    raise
                self._note(path, str(error))
            except LimitError as error:
                self._note(path, str(error))
            except (StagingError, PillionError, OSError) as error:
                self._refused.add(path)
                self._note(path, str(error))

    def _adopt(self, path: Path) -> None:
        if path.stat(follow_symlinks=False).st_uid != os.geteuid():
            raise StagingError("it belongs to another user")
        staged = Staged.adopt(path)
        if staged is None:
            return
        self.is_busy = True
        try:
            if not self._journal.knows(RunId(staged.manifest.run_id)).result():
                self._start(staged.manifest)
            self._take(staged)
        finally:
            self.is_busy = False
            staged.close()

    def _start(self, manifest: Manifest) -> None:
        """Start the run of a trainer that was killed before anything of it was sent or spooled."""
        try:
            request = start_request(Start(**manifest.start), "allow")
        except (TypeError, ValueError, KeyError) as error:
            raise StagingError(f"its run is not known, and its manifest malformed: {error}") from (
                error
            )
        start = self._complete(check_start(request))
        self._journal.start(start).result()
        self._on_started(start)

    def _take(self, staged: Staged) -> None:
        with self._blobs.held():
            for file in staged.manifest.files:
                if file.place is not None:
                    self._keep(staged, file)
            try:
                message = to_artifact(staged.manifest)
            except (TypeError, ValueError) as error:
                raise StagingError(f"its manifest is malformed: {error}") from error
            artifact = check_artifact(message)
            kept = self._journal.log_artifact(artifact).result()
        name = f"{kept.name}:{kept.version_name}"
        log.info("staged artifact taken", extra={"artifact": name, "run_id": kept.run_id})
        self._troubles.pop(staged.path, None)
        staged.remove()
        ADOPTED_FILES.inc()

    def _keep(self, staged: Staged, file: StagedFile) -> None:
        """Put a file into the blob store, unless it is there."""
        digest = hashlib.sha256()
        for data in self._pieces(staged, file):
            digest.update(data)
        if file.sha256 not in {"", digest.hexdigest()}:
            raise StagingError(f"{file.name} is not what its trainer had staged")
        file.sha256 = digest.hexdigest()
        if self._blobs.has(digest.digest()):
            return
        self._blobs.check_room(file.size_bytes)
        with self._blobs.writer(digest.digest(), file.size_bytes) as writer:
            for data in self._pieces(staged, file):
                writer.append(data)
            writer.commit()

    def _pieces(self, staged: Staged, file: StagedFile) -> Iterator[bytes]:
        for data in staged.pieces(file):
            if self._stopping.is_set():
                raise InterruptedError
            yield data

    def _note(self, path: Path, why: str) -> None:
        text = f"{path} is not taken: {why.rstrip('.')}."
        if self._troubles.get(path) != text:
            log.warning("staged artifact not taken", extra={"path": path, "error": why})
        self._troubles[path] = text


def _size_bytes(path: Path) -> int:
    total_bytes = 0
    with suppress(OSError), os.scandir(path) as entries:  # its owner may get rid of it meanwhile
        for entry in entries:
            total_bytes += entry.stat(follow_symlinks=False).st_size
    return total_bytes
