"""Writes copies of `.wandb` files without what a server has already, for a later upload.

`wandb sync` sends a file from its first row, behind the rows that the server has, and raises its
alerts again. The format is described in `wandb_file.py`, which reads it.
"""

import json
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

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
    source: Path,
    target: Path,
    *,
    entity: str,
    after_step: int,
    wants_row: Callable[[int], bool],
    with_alerts: bool,
) -> None:
    """Copy a file without its rows up to a step, and without others that are not wanted.

    A row that is not wanted is not in the summary either, which its values may have spoilt; rows up
    to the step are. Artifacts are given the entity, since `wandb sync --entity` sends only the run
    there. Raises as `RecordReader.read`.
    """
    with target.open("wb") as file:
        file.write(FILE_HEADER)
        for record in RecordReader(source).read():
            match record.WhichOneof("record_type"):
                case "history":
                    step = record.history.step.num
                    if step <= after_step or not wants_row(step):
                        continue
                case "summary":
                    step = _step_in(record.summary)
                    if step is not None and step > after_step and not wants_row(step):
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


def _step_in(summary: Any) -> int | None:
    """Return of which row a summary is; None: it is not of a row."""
    for item in summary.update:
        if (list(item.nested_key) or [item.key]) == ["_step"]:
            return int(json.loads(item.value_json))
    return None
