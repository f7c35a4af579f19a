"""Turns queued rows and updates into numbered batches. Runs in the sender thread only.

Consecutive rows with the same keys and types share a `MetricFrame`, stored by column: 9 bytes per
point, and a small fraction of a microsecond to build.
"""

import itertools
from collections.abc import Iterable, Iterator
from typing import Any

from pillion._batch import Batch, Row, Update
from pillion._counts import Refused
from pillion._file import Files, Held
from pillion._file_encoding import FileEncoder
from pillion._histogram import Histogram
from pillion._notice import warn
from pillion.plain import to_text
from pillion.redaction import redact
from pillion.v1 import record_pb2, telemetry_service_pb2
from pillion.values import to_key_values

BATCH_BYTES_MAX = 512 * 1024
"""About where a batch is closed. A message may be twice that, so a little more is no matter."""
RECORD_BYTES_MAX = 1024 * 1024 - 1024
"""What the sidecar takes in one message, less the room for its envelope."""
KEY_BYTES_MAX = 1024
KEYS_MAX = 100_000
"""Metrics of one writer. Values of others are left out: a million of them would cost every sink."""

_INT64_MIN, _INT64_MAX = -(2**63), 2**63 - 1
_NUMBERS = frozenset({float, int, bool})
_TEXT = frozenset({str})
_MERGED = frozenset({"config_update", "summary_update"})


class Encoder:
    """Makes batches of one writer; counts what can't be kept.

    A batch gets its number when it is asked for, so whoever takes batches from `encode` one by one,
    and each only when there is room for it, keeps the numbers without a gap.
    """

    def __init__(
        self,
        run_id: str,
        writer_id: str,
        refused: Refused | None = None,
        held: Held | None = None,
    ) -> None:
        """Begin with batch 1.

        Args:
            run_id: The run.
            writer_id: The writer.
            refused: What was refused before it came here.
            held: Where files give their room back.
        """
        self._run_id, self._writer_id = run_id, writer_id
        self._refused = refused or Refused()
        self._files = FileEncoder(held or Held(), self._refused)
        self._keys: set[str] = set()
        self.last_sequence = 0
        self.row_count = 0
        """Rows in the batches made so far."""
        self.refused_row_count = 0
        """Rows of which nothing could be kept."""
        self.refused_value_count = 0
        """Values that were left out of rows."""

    def encode(self, items: Iterable[Row | Update]) -> Iterator[Batch]:
        """Yield batches that hold these items in order."""
        records: list[record_pb2.Record] = []
        row_count = size_bytes = 0
        for record, rows in self._records(items):
            record_bytes = record.ByteSize()
            if records and size_bytes + record_bytes > BATCH_BYTES_MAX:
                yield self._batch(records, row_count)
                records, row_count, size_bytes = [], 0, 0
            if record_bytes > RECORD_BYTES_MAX:
                self._refuse(rows)
                continue
            records.append(record)
            row_count += rows
            size_bytes += record_bytes
        if records:
            yield self._batch(records, row_count)

    def lost(self, first_sequence: int, last_sequence: int, row_count: int) -> Batch:
        """Return the batch that stands for batches that can no longer be had."""
        lost = record_pb2.LostRange(
            first_sequence=first_sequence, last_sequence=last_sequence, row_count=row_count
        )
        return self._message(last_sequence, 0, [record_pb2.Record(lost_range=lost)])

    def _batch(self, records: list[record_pb2.Record], row_count: int) -> Batch:
        self.last_sequence += 1
        self.row_count += row_count
        return self._message(self.last_sequence, row_count, records)

    def _message(self, sequence: int, row_count: int, records: list[record_pb2.Record]) -> Batch:
        batch = record_pb2.Batch(
            run_id=self._run_id,
            writer_id=self._writer_id,
            sequence=sequence,
            records=records,
            refused_row_count=self._refused.rows + self.refused_row_count,
            refused_value_count=self._refused.values + self.refused_value_count,
        )
        request = telemetry_service_pb2.LogMetricsRequest(batch=batch)
        return Batch(sequence, row_count, request.SerializeToString())

    def _records(self, items: Iterable[Row | Update]) -> Iterator[tuple[record_pb2.Record, int]]:
        """Yield records, each with its number of rows."""
        for signature, group in itertools.groupby(items, _signature):
            if signature is None:
                for update in group:
                    assert isinstance(update, Update)
                    yield _update_record(update), 0
                continue
            keys, types = signature
            if Files in types:
                for row in group:
                    yield from self._row_with_files(keys, row)
                continue
            if not _NUMBERS.issuperset(types):
                for part in _parts(group):
                    for frame in self._frames(keys, types, part):
                        yield record_pb2.Record(metric_frame=frame), len(frame.steps)
                continue
            # Never more than half a batch per frame, so that batches fill well.
            rows_max = max(1, BATCH_BYTES_MAX // 2 // (16 + 10 * len(keys)))
            rows = list(group)
            for start in range(0, len(rows), rows_max):
                part = rows[start : start + rows_max]
                for frame in self._frames(keys, types, part):
                    yield record_pb2.Record(metric_frame=frame), len(frame.steps)

    def _row_with_files(
        self, keys: tuple[Any, ...], row: Any
    ) -> Iterator[tuple[record_pb2.Record, int]]:
        """Yield the pieces of a row's files, then the row."""
        step, time_unix_nano, values = row
        columns: dict[Any, Any] = {}
        for key, value in zip(keys, values.values(), strict=True):
            if type(value) is Files:
                group = yield from self._files.encode(value)
                if group is None:
                    self.refused_value_count += 1
                    continue
                columns[key] = group
            else:
                columns[key] = value
        types = tuple(map(type, columns.values()))
        for frame in self._frames(tuple(columns), types, [(step, time_unix_nano, columns)]):
            yield record_pb2.Record(metric_frame=frame), 1

    def _frames(
        self, keys: tuple[Any, ...], types: tuple[type, ...], rows: list[Any]
    ) -> Iterator[record_pb2.MetricFrame]:
        """Yield the frames that hold these rows: one, unless a row among them is odd."""
        try:
            frame = self._frame(keys, types, rows)
        except Exception:  # noqa: BLE001 - what a user logged must not cost the rows around it
            if len(rows) == 1:
                self.refused_row_count += 1
                return
            for row in rows:
                yield from self._frames(keys, types, [row])
        else:
            if frame is not None:
                yield frame

    def _frame(
        self, keys: tuple[Any, ...], types: tuple[type, ...], rows: list[Any]
    ) -> record_pb2.MetricFrame | None:
        steps, times, values = zip(*rows, strict=True)
        frame = record_pb2.MetricFrame(steps=steps, times_unix_nano=times)
        columns = zip(*[row.values() for row in values], strict=True)
        seen: set[str] = set()
        left_out = 0
        for name, kind, column in zip(keys, types, columns, strict=True):
            key = to_text(name)
            if not key or key in seen or not self._is_taken(key):
                left_out += len(rows)
                continue
            seen.add(key)
            message = frame.columns.add(key=key)
            if kind is float:
                message.doubles.values.extend(column)
            elif kind is bool:
                message.bools.values.extend(column)
            elif kind is str:
                message.texts.values.extend(column)
            elif kind is Histogram:
                for histogram in column:
                    message.histograms.values.add(edges=histogram.edges, counts=histogram.counts)
            elif kind is record_pb2.MediaGroup:
                message.media.values.extend(column)
            elif min(column) >= _INT64_MIN and max(column) <= _INT64_MAX:
                message.int64s.values.extend(column)
            elif len(rows) > 1:
                raise OverflowError("one by one: the others are kept as they are")
            else:  # beyond 64 bits a double is the nearest that a metric can be
                message.doubles.values.append(_to_double(column[0]))
        self.refused_value_count += left_out
        if not frame.columns:
            self.refused_row_count += len(rows)
            return None
        return frame

    def _is_taken(self, key: str) -> bool:
        """Tell whether a metric may have this name, and is one of the first `KEYS_MAX`."""
        if key in self._keys:
            return True
        if len(key.encode()) > KEY_BYTES_MAX or len(self._keys) > KEYS_MAX:
            return False
        if len(self._keys) == KEYS_MAX:
            self._keys.add("")  # no metric's name: so that this is told once
            warn(
                "pillion: run %s has %d metrics, the most that are taken; values of others are "
                "left out and counted.",
                *(self._run_id, KEYS_MAX),
            )
            return False
        self._keys.add(key)
        return True

    def _refuse(self, row_count: int) -> None:
        """Count a record that no message can hold: rows, or one update."""
        self.refused_row_count += row_count
        if row_count == 0:
            self.refused_value_count += 1


def _parts(rows: Iterable[Any]) -> Iterator[list[Any]]:
    """Cut rows with texts and histograms so that a frame takes half a batch."""
    part: list[Any] = []
    size_bytes = 0
    for row in rows:
        row_bytes = sum(_size_of(value) for value in row[2].values())
        if part and size_bytes + row_bytes > BATCH_BYTES_MAX // 2:
            yield part
            part, size_bytes = [], 0
        part.append(row)
        size_bytes += row_bytes
    yield part


def _size_of(value: Any) -> int:
    """Return about what a value takes in a frame."""
    if type(value) is str:
        return len(value.encode()) + 4
    return 10 * (len(value.edges) + len(value.counts)) if type(value) is Histogram else 10


def _signature(item: Row | Update) -> tuple[tuple[str, ...], tuple[type, ...]] | None:
    if type(item) is Update:
        return None
    values = item[2]  # type: ignore[misc]
    keys = tuple(values)
    if not _TEXT.issuperset(map(type, keys)):  # a stranger's key may not even know `==`
        keys = tuple(map(to_text, keys))
    return keys, tuple(map(type, values.values()))


def _update_record(update: Update) -> record_pb2.Record:
    if update.kind not in _MERGED:
        fields: dict[str, Any] = {update.kind: update.values}
        return record_pb2.Record(**fields)
    record = record_pb2.Record()
    values = redact(update.values) if update.kind == "config_update" else update.values
    getattr(record, update.kind).values.CopyFrom(to_key_values(values))
    return record


def _to_double(value: int) -> float:
    try:
        return float(value)
    except OverflowError:
        return float("inf") if value > 0 else float("-inf")
