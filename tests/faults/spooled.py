"""Reads what trainers left in a spool directory: the oracle where no sidecar was there."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pillion.spool import End, Kind, SpoolReader, spool_files
from pillion.v1 import telemetry_service_pb2 as pb2
from pillion_sidecar.records import Frame, decode_batch


@dataclass(frozen=True, slots=True)
class Spooled:
    """One file, decoded."""

    kinds: list[Kind]
    start: Any
    """The StartRunRequest."""
    sequences: list[int]
    rows: list[tuple[int, dict[str, Any]]]
    """Step and values, in order."""
    finish: Any
    """The FinishRunRequest; None if there is none."""
    end: End | None


def read_spool(directory: Path) -> list[Spooled]:
    """Read all files, also those whose owner lives."""
    return [_read(path) for path in spool_files(directory)]


def _read(path: Path) -> Spooled:
    reader = SpoolReader(path, os.open(path, os.O_RDONLY))
    records = list(reader.records())
    reader.close()
    start = finish = None
    rows: list[tuple[int, dict[str, Any]]] = []
    sequences = []
    for record in records:
        match record.kind:
            case Kind.START:
                start = pb2.StartRunRequest.FromString(record.payload)
            case Kind.FINISH:
                finish = pb2.FinishRunRequest.FromString(record.payload)
            case Kind.BATCH:
                batch = pb2.LogMetricsRequest.FromString(record.payload).batch
                sequences.append(batch.sequence)
                for frame in decode_batch(batch.SerializeToString(), 0):
                    if isinstance(frame, Frame):
                        rows += [(step, values) for _, step, _, values in frame.rows()]
    return Spooled([r.kind for r in records], start, sequences, rows, finish, reader.end)
