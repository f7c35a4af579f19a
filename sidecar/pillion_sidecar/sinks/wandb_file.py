"""Reads `.wandb` files: the log that W&B's SDK writes of each run, also while it grows.

Nothing here writes. Importing this does not import wandb, whose protobuf messages the records are;
using it does. The format is LevelDB's log as wandb-core 0.31 writes it: 7 bytes that name the
format, then chunks in blocks of 32 KiB, which are counted from the file's first byte:

    crc32 u32 | length u16 | kind u8 | that many bytes          little-endian; crc over kind + bytes

A record is one chunk of kind 1 (full), or one of kind 2 (first), any of 3 (middle) and one of 4
(last). No chunk crosses a block's end; where fewer than 7 bytes are left of a block, they are
skipped. A file with one record, `Record(num=5)`:

    3a 57 26 42  e1 be  00         ":W&B", magic 0xBEE1, version 0
    a2 cd 30 46  02 00  01         crc32 of 01 08 05; length 2; full
    08 05                          the record: field 1 (num) is 5
"""

import json
import struct
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from pillion_sidecar.errors import DiskError

BLOCK_BYTES = 32 * 1024
FILE_HEADER = bytes.fromhex("3a572642 e1be 00")
CHUNK_HEADER = struct.Struct("<IHB")
FULL, FIRST, MIDDLE, LAST = 1, 2, 3, 4


@dataclass
class WandbFile:
    """What a file says of its run, read to its end. A row is what one `log` committed."""

    run_id: str = ""
    project: str = ""
    name: str = ""
    group: str = ""
    job_type: str = ""
    notes: str = ""
    tags: tuple[str, ...] = ()
    host: str = ""
    config: dict[str, Any] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    rows: list[dict[str, Any]] = field(default_factory=list)
    console: list[str] = field(default_factory=list)
    """Lines that were printed."""
    alerts: list[tuple[str, str, str]] = field(default_factory=list)
    """Title, text and level of each."""
    artifacts: list[Any] = field(default_factory=list)
    """The messages by which they were logged."""
    exit_code: int | None = None


def read_wandb_file(path: Path) -> WandbFile:
    """Read all complete records of a file. Raises as `RecordReader.read`."""
    file = WandbFile()
    for record in RecordReader(path).read():
        match record.WhichOneof("record_type"):
            case "run":
                _take_run(file, record.run)
            case "config":
                merge_items(file.config, record.config)
            case "summary":
                merge_items(file.summary, record.summary)
            case "history":
                file.rows.append(decode_items(record.history.item))
            case "output_logger":
                file.console += record.output_logger.line.removesuffix("\n").split("\n")
            case "alert":
                alert = record.alert
                file.alerts.append((alert.title, alert.text, alert.level))
            case "artifact":
                file.artifacts.append(record.artifact)
            case "exit":
                file.exit_code = record.exit.exit_code
    return file


def put_items(values: dict[str, Any], items: Iterable[Any]) -> None:
    """Put items where their keys say, in nested mappings."""
    for item in items:
        *path, key = item.nested_key or [item.key]
        parent = values
        for name in path:
            parent = parent.setdefault(name, {})
        parent[key] = json.loads(item.value_json)


def decode_items(items: Iterable[Any]) -> dict[str, Any]:
    """Decode a history record's items. NaN and the infinities stand there as Python writes them."""
    return {".".join(item.nested_key) or item.key: json.loads(item.value_json) for item in items}


def merge_items(values: dict[str, Any], record: Any) -> None:
    """Do to a config or a summary what a record says."""
    put_items(values, record.update)
    for item in record.remove:
        *path, key = item.nested_key or [item.key]
        parent = values
        for name in path:
            parent = parent.get(name, {})
        parent.pop(key, None)


class RecordReader:
    """Reads one file's records, each once, however far the file has grown between two reads."""

    def __init__(self, path: Path) -> None:
        # Here, since wandb takes 0.8 s to import and looks at the environment meanwhile.
        from wandb.proto import wandb_internal_pb2  # noqa: PLC0415

        self._decode = wandb_internal_pb2.Record.FromString
        self._path = path
        self._offset = 0
        """Where the first record begins that has not been read."""

    def read(self) -> Iterator[Any]:
        """Yield the `wandb_internal_pb2.Record`s that are complete and were not yielded before.

        A torn end, as of a record that is being written, is left for the next read. Raises
        DiskError where the file is damaged, and OSError.
        """
        with self._path.open("rb") as file:
            if not self._offset:
                header = file.read(len(FILE_HEADER))
                if header != FILE_HEADER[: len(header)]:
                    raise DiskError(f"{self._path} is no .wandb file that wandb 0.31 writes.")
                if len(header) < len(FILE_HEADER):
                    return
                self._offset = file.tell()
            file.seek(self._offset)
            while (data := self._read_record(file)) is not None:
                self._offset = file.tell()
                yield self._decode(data)

    def _read_record(self, file: BinaryIO) -> bytes | None:
        parts: list[bytes] = []
        while (chunk := self._read_chunk(file)) is not None:
            kind, data = chunk
            if (kind in (FULL, FIRST)) == bool(parts):
                raise self._damage("a record's chunks are out of order", file.tell())
            parts.append(data)
            if kind in (FULL, LAST):
                return b"".join(parts)
        return None

    def _read_chunk(self, file: BinaryIO) -> tuple[int, bytes] | None:
        offset = file.tell()
        room = BLOCK_BYTES - offset % BLOCK_BYTES
        if room < CHUNK_HEADER.size:
            offset = file.seek(offset + room)
            room = BLOCK_BYTES
        header = file.read(CHUNK_HEADER.size)
        if len(header) < CHUNK_HEADER.size or not any(header):  # zeros: what a power loss leaves
            return None
        crc, length, kind = CHUNK_HEADER.unpack(header)
        if length > room - len(header) or kind not in (FULL, FIRST, MIDDLE, LAST):
            raise self._damage("a chunk's header is wrong", offset)
        data = file.read(length)
        if len(data) < length:
            return None
        if zlib.crc32(data, zlib.crc32(bytes([kind]))) != crc:
            raise self._damage("a chunk's checksum is wrong", offset)
        return kind, data

    def _damage(self, what: str, offset: int) -> DiskError:
        return DiskError(f"{self._path} is damaged near byte {offset}: {what}. Check the disk.")


def _take_run(file: WandbFile, run: Any) -> None:
    file.run_id, file.project, file.name = run.run_id, run.project, run.display_name
    file.group, file.job_type, file.notes = run.run_group, run.job_type, run.notes
    file.tags, file.host = tuple(run.tags), run.host
    merge_items(file.config, run.config)
