"""What lies in a spool directory, for people: `pillion spool ls | send | rm`.

Sends files through the RPCs, as their writers would have, to whatever sidecar is meant. A file
whose writer lives is left alone. What a sidecar takes by itself, from its own directory, is
`adoption.py`'s.
"""

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from google.protobuf.message import DecodeError
from rich.table import Table

from pillion._logged import LoggedArtifact
from pillion._uploads import Uploads
from pillion.spool import (
    SUFFIX,
    SUFFIX_DAMAGED,
    End,
    Kind,
    Record,
    SpoolFormatError,
    SpoolReader,
)
from pillion.staging import SUFFIX as STAGED
from pillion.staging import Staged, StagingError
from pillion.v1 import record_pb2
from pillion.v1 import telemetry_service_pb2 as pb2
from pillion_sidecar.asking import Asker
from pillion_sidecar.errors import SettingsError, StateError
from pillion_sidecar.rendering import user_text
from pillion_sidecar.safety import bytes_text

POLL_S = 0.2
_SUFFIXES = (SUFFIX, SUFFIX + SUFFIX_DAMAGED, STAGED)

VANISHED = "Its process vanished without finishing; what it had spooled was sent later."


@dataclass(frozen=True, slots=True)
class SpooledFile:
    """A file in a spool directory."""

    path: Path
    run_id: str
    """Empty if it cannot be read."""
    size_bytes: int
    state: str
    """`waiting`, `writing` (its writer lives), `damaged`, or why it cannot be read."""

    def as_json(self) -> dict[str, Any]:
        """Return it for `--json`."""
        return {
            "path": str(self.path),
            "run_id": self.run_id or None,
            "size_bytes": self.size_bytes,
            "state": self.state,
        }


def look(directory: Path) -> list[SpooledFile]:
    """List the files of a directory, damaged ones too."""
    try:
        paths = sorted(directory.iterdir())
    except FileNotFoundError:
        return []
    except OSError as error:
        raise SettingsError(f"{directory} cannot be read: {error.strerror}.") from error
    return [look_at(path) for path in paths if path.name.endswith(_SUFFIXES)]


def look_at(path: Path) -> SpooledFile:
    """Look at one file, or at a staged artifact."""
    if path.is_dir():
        return _look_at_staged(path)
    run_id = ""
    try:
        size_bytes = path.stat(follow_symlinks=False).st_size
        reader = SpoolReader.adopt(path)
    except (OSError, SpoolFormatError) as error:
        reason = error.strerror if isinstance(error, OSError) else None
        return SpooledFile(path, "", 0, reason or "no spool file of this version")
    if reader is None:
        return SpooledFile(path, _run_id_of(path), size_bytes, "writing")
    try:
        first = next(reader.records(), None)
        if first is not None and first.kind is Kind.START:
            run_id = pb2.StartRunRequest.FromString(first.payload).run_id
    except (OSError, DecodeError):
        run_id = ""
    finally:
        reader.close()
    return SpooledFile(
        path, run_id, size_bytes, "damaged" if path.name.endswith(SUFFIX_DAMAGED) else "waiting"
    )


def files_table(files: list[SpooledFile]) -> Table:
    """Show files to people."""
    table = Table("FILE", "RUN", "SIZE", "STATE", box=None, pad_edge=False, header_style="bold")
    for file in files:
        run, size = user_text(file.run_id or "-"), bytes_text(file.size_bytes)
        table.add_row(user_text(file.path.name), run, size, user_text(file.state))
    return table


def find(names: list[Path], directory: Path) -> list[Path]:
    """Return the files that are meant: paths, or names in the directory."""
    paths = [name if name.exists() or name.is_absolute() else directory / name for name in names]
    for name, path in zip(names, paths, strict=True):
        if not path.is_file() and not path.name.endswith(STAGED):
            raise StateError(f"There is no file {name}, here or in {directory}.")
    return paths


def send(path: Path, ask: Asker, on_bytes: Callable[[int], None]) -> str:
    """Send a file to the sidecar, and delete it when all of it is on that one's disk.

    Args:
        path: The file.
        ask: The sidecar.
        on_bytes: Called with the size of each record when it is sent.

    Returns:
        The run.

    Raises:
        StateError: It cannot be sent as it is; it stays.
        AskError: The sidecar refused it, or went away; it stays.
    """
    if path.is_dir():
        return _send_staged(path, ask, on_bytes)
    try:
        reader = SpoolReader.adopt(path)
    except (OSError, SpoolFormatError) as error:
        raise StateError(f"{path} cannot be read: {error}.") from error
    if reader is None:
        raise StateError(f"{path} is in use: its writer lives, or a sidecar is taking it.")
    try:
        writer = _Writer(reader, ask)
        for batch_bytes in writer.send():
            on_bytes(batch_bytes)
        if reader.end is End.DAMAGED:
            reader.set_aside()
        else:
            reader.remove()
    except (SpoolFormatError, DecodeError, OSError) as error:
        raise StateError(f"{path} is damaged or not complete, and stays: {error}.") from error
    finally:
        reader.close()
    return writer.run_id


def delete(path: Path) -> None:
    """Delete a file, or a staged artifact, for good."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _look_at_staged(path: Path) -> SpooledFile:
    size_bytes = sum(each.lstat().st_size for each in path.glob("*"))
    try:
        staged = Staged.adopt(path)
    except (OSError, StagingError) as error:
        return SpooledFile(path, "", size_bytes, str(error))
    if staged is None:
        return SpooledFile(path, path.name.partition(".")[0], size_bytes, "writing")
    staged.close()
    return SpooledFile(path, staged.manifest.run_id, size_bytes, "waiting")


def _send_staged(path: Path, ask: Asker, on_bytes: Callable[[int], None]) -> str:
    """Send a staged artifact as its trainer would have. Raises as `send`."""
    ask.check_is_sidecar()
    try:
        staged = Staged.adopt(path)
    except (OSError, StagingError) as error:
        raise StateError(f"{path} cannot be read: {error}.") from error
    if staged is None:
        raise StateError(f"{path} is in use: its writer lives, or a sidecar is taking it.")
    run_id, logged = staged.manifest.run_id, LoggedArtifact(staged.manifest.name, "")
    uploads = Uploads(ask.address, ask.token, keeps_refused=True)
    uploads.put(staged, logged)
    sent_bytes = 0
    while not uploads.idle.wait(POLL_S) and not logged.problem:
        on_bytes(logged.sent_bytes - sent_bytes)
        sent_bytes = logged.sent_bytes
    uploads.leave()
    if not logged.version:
        why = logged.error or logged.problem
        raise StateError(f"{path} is not taken, and stays: {why}")
    return run_id


class _Writer:
    """The writer of a file, in whose place it is sent."""

    def __init__(self, reader: SpoolReader, ask: Asker) -> None:
        self._reader, self._ask = reader, ask
        self._records = reader.records()
        first = next(self._records, None)
        if first is None or first.kind is not Kind.START:
            raise SpoolFormatError("it does not begin with the start of a writer")
        start = pb2.StartRunRequest.FromString(first.payload)
        start.environment.ClearField("process")  # which is gone, but this end of it has just begun
        self.run_id, self._writer_id = start.run_id, start.writer_id
        self._last_sequence = ask.call("StartRun", start).last_sequence
        self._sent_bytes: list[int] = [first.size_bytes]
        self._finish: pb2.FinishRunRequest | None = None
        self._is_child = False

    def send(self) -> Iterator[int]:
        """Send everything; yield sizes as it goes on."""
        acked = self._last_sequence
        for response in self._ask.log_metrics(self._batches()):
            acked = response.acked_sequence
            while self._sent_bytes:
                yield self._sent_bytes.pop()
        if self._reader.end is None or acked < self._last_sequence:
            raise SpoolFormatError("it could not be read to its end")
        self._ask.call("FinishRun", self._finish or self._assumed())
        yield sum(self._sent_bytes)

    def _batches(self) -> Iterator[bytes]:
        for record in self._records:
            self._sent_bytes.append(record.size_bytes)
            if record.kind is Kind.FINISH:
                self._finish = pb2.FinishRunRequest.FromString(record.payload)
            elif record.kind is Kind.CHILD:
                self._is_child = True
            elif record.kind is Kind.BATCH:
                yield from self._new(record)
        if self._finish is not None and self._finish.last_sequence > self._last_sequence:
            yield self._lost(self._finish.last_sequence)

    def _new(self, record: Record) -> Iterator[bytes]:
        """Yield a batch that the sidecar does not have, and before it what is missing between."""
        sequence = pb2.LogMetricsRequest.FromString(record.payload).batch.sequence
        if sequence <= self._last_sequence:
            return
        if sequence > self._last_sequence + 1:  # what came before was another journal's
            yield self._lost(sequence - 1)
        self._last_sequence = sequence
        yield record.payload

    def _lost(self, last_sequence: int) -> bytes:
        lost = record_pb2.LostRange(
            first_sequence=self._last_sequence + 1, last_sequence=last_sequence
        )
        self._last_sequence = last_sequence
        batch = record_pb2.Batch(
            run_id=self.run_id,
            writer_id=self._writer_id,
            sequence=last_sequence,
            records=[record_pb2.Record(lost_range=lost)],
        )
        return pb2.LogMetricsRequest(batch=batch).SerializeToString()

    def _assumed(self) -> pb2.FinishRunRequest:
        """Return the end of a writer that did not tell any."""
        finish = pb2.FinishRunRequest(
            run_id=self.run_id, writer_id=self._writer_id, last_sequence=self._last_sequence
        )
        if not self._is_child or self._reader.end is End.DAMAGED:
            finish.state, finish.reason = record_pb2.RUN_STATE_CRASHED, VANISHED
        return finish


def _run_id_of(path: Path) -> str:
    """Return the run by the name of a file that cannot be looked into now."""
    return path.name.removesuffix(SUFFIX).rpartition(".")[0]
