"""Writes copies of `.wandb` files without what a server has already, for a later upload.

`wandb sync` sends a file from its first row, behind the rows that the server has, and raises its
alerts again. The format is described in `wandb_file.py`, which reads it.
"""

import zlib
from pathlib import Path
from typing import BinaryIO

from pillion_sidecar.sinks.wandb_file import (
    BLOCK_BYTES,
    CHUNK_HEADER,
    FILE_HEADER,
    FIRST,
    FULL,
    LAST,
    MIDDLE,
    RecordReader,
)


def write_rest(
    source: Path, target: Path, *, entity: str, after_step: int, with_alerts: bool
) -> None:
    """Copy a file without its rows up to a step. Raises as `RecordReader.read`.

    The summary stays whole: it stands in records of its own. Artifacts are given the entity, since
    `wandb sync --entity` sends the run there, but artifacts to the key's own.
    """
    with target.open("wb") as file:
        file.write(FILE_HEADER)
        for record in RecordReader(source).read():
            match record.WhichOneof("record_type"):
                case "history" if record.history.step.num <= after_step:
                    continue
                case "alert" if not with_alerts:
                    continue
                case "artifact":
                    record.artifact.entity = entity
            write_record(file, record.SerializeToString())


def write_record(file: BinaryIO, data: bytes) -> None:
    """Append a record to a file that is positioned at its end."""
    alone_or_first, last_or_middle = (FULL, FIRST), (LAST, MIDDLE)
    kinds = alone_or_first
    while True:
        room = BLOCK_BYTES - file.tell() % BLOCK_BYTES
        if room < CHUNK_HEADER.size:
            file.write(bytes(room))
            room = BLOCK_BYTES
        part, data = data[: room - CHUNK_HEADER.size], data[room - CHUNK_HEADER.size :]
        kind = kinds[bool(data)]
        crc = zlib.crc32(part, zlib.crc32(bytes([kind])))
        file.write(CHUNK_HEADER.pack(crc, len(part), kind) + part)
        if not data:
            return
        kinds = last_or_middle
