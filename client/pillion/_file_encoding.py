"""Turns a row's files into pieces and their descriptions. Runs in the sender thread only."""

import hashlib
from collections.abc import Generator
from typing import TypeAlias

from pillion._batch import held_bytes
from pillion._counts import Refused
from pillion._file import Files, Held
from pillion._notice import warn
from pillion.v1 import record_pb2
from pillion.values import to_key_values

CHUNK_BYTES = 512 * 1024 - 1024
"""Of a file in one record, so that it fills a batch."""

Pieces: TypeAlias = Generator[tuple[record_pb2.Record, int], None, record_pb2.MediaGroup | None]


class FileEncoder:
    """Encodes files of one writer."""

    def __init__(self, held: Held, refused: Refused) -> None:
        self._held, self._refused = held, refused

    def encode(self, files: Files) -> Pieces:
        """Yield the records that hold the files' bytes; return what names them in their row.

        None: one of them cannot be encoded, and nothing was yielded of it.
        """
        group = record_pb2.MediaGroup()
        try:
            for file in files:
                data = file.encode()
                sha256 = hashlib.sha256(data).digest()
                yield from _pieces(sha256, data)
                group.items.add(
                    media_type=file.media_type,
                    sha256=sha256,
                    size_bytes=len(data),
                    attributes=to_key_values(file.attributes),
                )
        except Exception as error:  # noqa: BLE001 - what a user logged must not cost its row
            if not self._refused.is_file_told:
                self._refused.is_file_told = True
                warn("pillion: a file was refused: %s. More are only counted.", error)
            return None
        finally:
            self._held.give(held_bytes(files))
        return group


def _pieces(sha256: bytes, data: bytes) -> Generator[tuple[record_pb2.Record, int]]:
    for offset in range(0, len(data) or 1, CHUNK_BYTES):
        chunk = record_pb2.BlobChunk(
            sha256=sha256,
            offset_bytes=offset,
            size_bytes=len(data),
            data=data[offset : offset + CHUNK_BYTES],
        )
        yield record_pb2.Record(blob_chunk=chunk), 0
