"""Files of rows, as their pieces come: the store's writer puts them into the blob store.

Most come whole in one call. Of others the pieces wait in the store, in the transaction that moves
the cursor, so that no restart loses one; with the last piece the file is kept and they go. What is
never completed goes with the end of its run.
"""

import logging
from collections.abc import Iterable, Sequence

import sqlalchemy as sa

from pillion_sidecar.blobs import Blobs
from pillion_sidecar.errors import DiskError, LimitError, PeerError, SinkError
from pillion_sidecar.records import BlobChunk, RunId
from pillion_sidecar.store_tables import chunks

INCOMPLETE_MAX = 16
"""Files of one run of which pieces wait; then those of the oldest go."""

log = logging.getLogger(__name__)


class ChunkWriter:
    """Writes through a connection, whose transactions are the caller's."""

    def __init__(self, connection: sa.Connection, blobs: Blobs) -> None:
        self._connection, self._blobs = connection, blobs

    def append(self, run_id: RunId, new: Iterable[BlobChunk]) -> None:
        """Take pieces of a run's files, in the order in which they came."""
        files: dict[str, list[BlobChunk]] = {}
        for chunk in new:
            files.setdefault(chunk.sha256, []).append(chunk)
        for sha256, pieces in files.items():
            if self._blobs.renew(bytes.fromhex(sha256)):
                continue
            known = pieces if is_whole(pieces) else self._with_known(run_id, sha256, pieces)
            if is_whole(known):
                self._keep(run_id, sha256, b"".join(piece.data for piece in known))

    def forget(self, run_id: RunId) -> None:
        """Delete the pieces that wait: the run has ended."""
        self._connection.execute(chunks.delete().where(chunks.c.run_id == run_id))

    def _with_known(self, run_id: RunId, sha256: str, pieces: list[BlobChunk]) -> list[BlobChunk]:
        """Have pieces wait; return all that there are of their file."""
        of_file = (chunks.c.run_id == run_id) & (chunks.c.sha256 == sha256)
        query = chunks.select().where(of_file).order_by(chunks.c.offset_bytes)
        known = {
            row.offset_bytes: BlobChunk(row.sha256, row.offset_bytes, row.size_bytes, row.data)
            for row in self._connection.execute(query)
        }
        new = [piece for piece in pieces if piece.offset_bytes not in known]
        if not known:
            self._make_room(run_id)
        if new:
            rows = [
                {
                    "run_id": run_id,
                    "sha256": piece.sha256,
                    "offset_bytes": piece.offset_bytes,
                    "size_bytes": piece.size_bytes,
                    "data": piece.data,
                }
                for piece in {piece.offset_bytes: piece for piece in new}.values()
            ]
            self._connection.execute(chunks.insert(), rows)
        known |= {piece.offset_bytes: piece for piece in new}
        return [known[offset] for offset in sorted(known)]

    def _make_room(self, run_id: RunId) -> None:
        oldest = sa.func.min(chunks.c.chunk_id)
        query = sa.select(chunks.c.sha256).where(chunks.c.run_id == run_id)
        query = query.group_by(chunks.c.sha256).order_by(oldest.desc()).offset(INCOMPLETE_MAX - 1)
        outdated = self._connection.scalars(query).all()
        if outdated:
            of_run = chunks.c.run_id == run_id
            self._connection.execute(chunks.delete().where(of_run, chunks.c.sha256.in_(outdated)))
            log.warning("files were never completed", extra={"run_id": run_id})

    def _keep(self, run_id: RunId, sha256: str, data: bytes) -> None:
        try:
            self._blobs.put(bytes.fromhex(sha256), data)
        except PeerError:  # who sent it has made a mistake; its rows say what was meant
            log.warning("a file is not what it was announced", extra={"run_id": run_id})
        except (LimitError, DiskError) as error:
            raise SinkError(str(error), reason="STORE_BUSY") from error
        of_file = (chunks.c.run_id == run_id) & (chunks.c.sha256 == sha256)
        self._connection.execute(chunks.delete().where(of_file))


def is_whole(pieces: Sequence[BlobChunk]) -> bool:
    """Tell whether pieces make up a file."""
    end = 0
    for piece in pieces:
        if piece.offset_bytes != end:
            return False
        end += len(piece.data)
    return bool(pieces) and end == pieces[0].size_bytes
