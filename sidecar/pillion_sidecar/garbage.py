"""What lies in the data directory and nothing needs: found, told, and removed by `pillion gc`.

Works beside a running sidecar: uploads and other writers of blobs wait while it looks. A file is
needed if the journal or the store names it, or if it is so young that what names it may be on its
way. A version of an artifact may be given up by the retention setting only; never while W&B may
still want its files, and not if somebody has given it an alias.
"""

import json
import re
import sqlite3
import time
from collections.abc import Iterable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path

import sqlalchemy as sa

from pillion.v1 import record_pb2
from pillion_sidecar.artifact_records import LATEST
from pillion_sidecar.blobs import Blobs
from pillion_sidecar.errors import DiskError, SettingsError
from pillion_sidecar.journal_reader import EntryKind, JournalReader
from pillion_sidecar.records import Offset, RunId, RunState
from pillion_sidecar.settings import Settings
from pillion_sidecar.sidecar_id import owner_of
from pillion_sidecar.sinks.wandb_folders import is_synced, offline_folders
from pillion_sidecar.store import Store
from pillion_sidecar.store_artifacts import StoredArtifact, find, has_artifacts
from pillion_sidecar.store_database import open_for_writing
from pillion_sidecar.store_tables import (
    artifact_aliases,
    artifact_files,
    artifact_runs,
    artifacts,
    chunks,
    columns,
    runs,
    segments,
    signatures,
)

BLOB_AGE_MIN_S = 3600.0
"""A younger blob is kept: the row that names it may still be on its way."""
CACHE_AGE_MIN_S = 86_400.0
"""W&B's own files are left alone till they are so old: a worker may use them."""
ALONE_TIMEOUT_S = 10.0
ENTRIES_BYTES = 16 * 1024 * 1024
"""Of the journal that is read at once."""

_STEP_ALIAS = re.compile(r"step-[0-9]+")


@dataclass(slots=True)
class Garbage:
    """What nothing needs."""

    versions: list[StoredArtifact] = field(default_factory=list)
    """Of artifacts: those that retention gives up."""
    blobs: list[tuple[bytes, int]] = field(default_factory=list)
    """Digest and length."""
    caches: list[tuple[Path, int]] = field(default_factory=list)
    """Of W&B's SDK."""

    @property
    def size_bytes(self) -> int:
        """How much room it takes."""
        return sum(size for _, size in (*self.blobs, *self.caches))


def collect(settings: Settings, keep_last: int, *, is_dry: bool) -> Garbage:
    """Find what nothing needs, and remove it unless `is_dry`.

    Args:
        settings: Where the data is.
        keep_last: So many versions of each artifact are kept; 0: all.
        is_dry: Only tell.

    Raises:
        SettingsError: There is no data directory here.
        LimitError: Something is being sent all the time.
        DiskError: Something cannot be read.
    """
    if not settings.journal_path.exists():
        raise SettingsError(
            f"There is no journal in {settings.data_dir}; check the data directory."
        )
    blobs = Blobs(settings.blobs_dir)
    caches = [file for path in settings.wandb_dirs for file in _old_files(path / "sdk")]
    garbage = Garbage(caches=caches)
    with blobs.alone(ALONE_TIMEOUT_S):
        # In this order: what is named later than it was listed is not in the list.
        listed = list(blobs.listed(BLOB_AGE_MIN_S))
        try:
            with JournalReader(settings.journal_path) as journal:
                known = _Journal(journal)
        except sqlite3.Error as error:
            raise DiskError(
                f"The journal {settings.journal_path} cannot be read: {error}. Nothing was "
                "removed. Start the sidecar: it salvages what can be read, or says what to do."
            ) from error
        owner = owner_of(settings)
        with closing(Store(settings.store_url)) as store, store.snapshot() as connection:
            unsynced = {
                run_id
                for directory in settings.wandb_dirs
                for run_id, folder in offline_folders(directory).items()
                if not is_synced(folder)
            }
            if not has_artifacts(connection):
                raise SettingsError(
                    "The store is of an older version. Start a sidecar, which brings it up to "
                    "date; then call this again."
                )
            busy = known.undelivered | unsynced | _live(connection)
            garbage.versions = list(_outdated(connection, owner, keep_last, busy))
            gone = {version.artifact_id for version in garbage.versions}
            named = known.digests | set(_named(connection, owner, gone))
        garbage.blobs = [(sha256, size) for sha256, size in listed if sha256 not in named]
        if not is_dry:
            _forget(settings.store_url, garbage.versions)
            for sha256, _ in garbage.blobs:
                blobs.path(sha256).unlink(missing_ok=True)
    if not is_dry:
        for path, _ in garbage.caches:
            with suppress(OSError):
                path.unlink()
    return garbage


class _Journal:
    """What the journal says of files."""

    def __init__(self, journal: JournalReader) -> None:
        self.digests: set[bytes] = set()
        """Of files that an entry names."""
        self.undelivered: set[str] = set()
        """Runs that some sink may not have whole."""
        for run in journal.runs():
            if run.trimmed_offset < run.last_offset:
                self.undelivered.add(run.run_id)
                self._read(journal, run.run_id)

    def _read(self, journal: JournalReader, run_id: RunId) -> None:
        after = Offset(0)
        while entries := journal.entries(run_id, after, ENTRIES_BYTES):
            after = entries[-1].offset
            for entry in entries:
                if entry.payload is not None and entry.kind is EntryKind.ARTIFACT:
                    files = record_pb2.Artifact.FromString(entry.payload).files
                    self.digests.update(file.sha256 for file in files)
                elif entry.payload is not None and entry.kind is EntryKind.BATCH:
                    self.digests.update(_in_batch(record_pb2.Batch.FromString(entry.payload)))


def _in_batch(batch: record_pb2.Batch) -> Iterator[bytes]:
    for record in batch.records:
        if record.HasField("blob_chunk"):
            yield record.blob_chunk.sha256
        for column in record.metric_frame.columns:
            for group in column.media.values:
                yield from (item.sha256 for item in group.items)


def _live(connection: sa.Connection) -> set[str]:
    query = sa.select(runs.c.run_id).where(runs.c.state == RunState.RUNNING)
    return set(connection.scalars(query))


def _outdated(
    connection: sa.Connection, owner: str, keep_last: int, busy: set[str]
) -> Iterator[StoredArtifact]:
    """Yield versions that retention gives up."""
    if keep_last <= 0:
        return
    everything = find(connection, owner)
    everything.sort(key=lambda each: (each.artifact.project, each.artifact.name))
    named = groupby(everything, lambda each: (each.artifact.project, each.artifact.name))
    for _, versions in named:
        by_age = sorted(versions, key=lambda each: -each.artifact.version)
        for each in by_age[keep_last:]:
            aliases = set(each.artifact.aliases) - {LATEST}
            is_named = any(not _STEP_ALIAS.fullmatch(alias) for alias in aliases)
            if LATEST in each.artifact.aliases or is_named:
                continue
            if each.artifact.run_id in busy:  # though it may be deleted here
                continue
            makers = sa.select(artifact_runs.c.run_id).where(
                artifact_runs.c.artifact_id == each.artifact_id
            )
            if busy.isdisjoint(connection.scalars(makers)):
                yield each


def _named(connection: sa.Connection, owner: str, gone: set[int]) -> Iterator[bytes]:
    """Yield the digests of the owner's files that the store names.

    Without those of versions that are given up.
    """
    files = sa.select(artifact_files.c.artifact_id, artifact_files.c.sha256)
    files = files.join(artifacts).where(artifacts.c.owner == owner)
    for artifact_id, sha256 in connection.execute(files):
        if artifact_id not in gone:
            yield sha256
    yield from map(bytes.fromhex, connection.scalars(sa.select(chunks.c.sha256).distinct()))
    query = sa.select(signatures.c.signature_id, signatures.c.metrics)
    query = query.join(runs).where(runs.c.owner == owner)
    for signature_id, metrics in connection.execute(query).all():
        positions = [index for index, (_, kind) in enumerate(metrics) if kind == "m"]
        if positions:
            data = (
                sa.select(columns.c.data)
                .join(segments)
                .where(segments.c.signature_id == signature_id, columns.c.position.in_(positions))
            )
            for blob in connection.scalars(data):
                yield from _in_media(blob)


def _in_media(blob: bytes) -> Iterator[bytes]:
    """Yield the digests in a column of files: lines of JSON, see `store_tables.py`."""
    for line in blob.splitlines():
        yield from map(bytes.fromhex, _digests(json.loads(line)))


def _digests(value: object) -> Iterator[str]:
    match value:
        case {"sha256": str(digest)}:
            yield digest
        case list():
            for element in value:
                yield from _digests(element)
        case dict():
            yield from _digests(list(value.values()))


def _forget(store_url: str, versions: Iterable[StoredArtifact]) -> None:
    """Take versions out of the store; which run has made them stays known."""
    gone = [version.artifact_id for version in versions]
    if not gone:
        return
    engine = open_for_writing(store_url)
    try:
        for artifact_id in gone:
            with engine.begin() as connection:
                for table in (artifact_aliases, artifact_files, artifacts):
                    connection.execute(table.delete().where(table.c.artifact_id == artifact_id))
    finally:
        engine.dispose()


def _old_files(directory: Path) -> Iterator[tuple[Path, int]]:
    """Yield the files below a directory that nobody has written to for long, with their sizes."""
    oldest_s = time.time() - CACHE_AGE_MIN_S
    for path in sorted(directory.rglob("*")):
        with suppress(OSError):
            status = path.lstat()
            if path.is_file() and not path.is_symlink() and status.st_mtime < oldest_s:
                yield path, status.st_size
