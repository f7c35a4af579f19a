"""The encoder: rows and updates into batches, and what the sidecar makes of them again."""

import hashlib
import math
import random
import struct
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pillion import Histogram, Html, _encoding
from pillion._batch import Row, Update
from pillion._counts import Refused
from pillion._encoding import BATCH_BYTES_MAX, KEY_BYTES_MAX, RECORD_BYTES_MAX, Encoder
from pillion._file import HELD_BYTES_MAX, File, Files, Held
from pillion.plain import to_plain_dict
from pillion.v1 import telemetry_service_pb2
from pillion_sidecar import columns
from pillion_sidecar.records import (
    BlobChunk,
    CheckedBatch,
    ConfigUpdate,
    Frame,
    LostRange,
    SummaryUpdate,
    decode_batch,
)
from pillion_sidecar.service import MESSAGE_BYTES_MAX as TAKEN_BYTES_MAX
from pillion_sidecar.validation import check_log

INT64 = st.integers(-(2**63), 2**63 - 1)
KEYS = st.sampled_from(["loss", "lr", "train/acc", "é", "k" * KEY_BYTES_MAX])
ROWS = st.builds(
    Row,
    INT64,
    INT64,
    st.dictionaries(KEYS, st.floats() | INT64 | st.booleans() | st.text(), min_size=1),
)
UPDATES = st.builds(
    Update,
    st.sampled_from(["config_update", "summary_update"]),
    st.dictionaries(KEYS, st.integers() | st.text(), min_size=1),
)


def encode(encoder: Encoder, items: Iterable[Row | Update]) -> list[CheckedBatch]:
    """Encode, and have the sidecar check each message."""
    batches = list(encoder.encode(items))
    checked = [check_log(batch.message) for batch in batches]
    for batch, taken in zip(batches, checked, strict=True):
        assert (batch.sequence, batch.row_count) == (taken.sequence, taken.row_count)
        assert (taken.run_id, taken.writer_id) == ("run", "w")
        assert len(batch.message) <= TAKEN_BYTES_MAX
    return checked


def decode(batches: Iterable[CheckedBatch]) -> list[Row | Update]:
    """Decode what was journaled into what was logged."""
    items: list[Row | Update] = []
    ordinal = 0
    for batch in batches:
        for record in decode_batch(batch.payload, ordinal):
            match record:
                case Frame():
                    for found, step, time, values in record.rows():
                        assert found == ordinal
                        ordinal += 1
                        items.append(Row(step, time, values))
                case ConfigUpdate():
                    items.append(Update("config_update", dict(record.values)))
                case SummaryUpdate():
                    items.append(Update("summary_update", dict(record.values)))
    return items


def exactly(items: Iterable[Row | Update]) -> list[object]:
    """Return something that is equal for the same values of the same types only."""
    return [(*item[:-1], [(k, *_exactly(v)) for k, v in item[-1].items()]) for item in items]


def _exactly(value: object) -> tuple[type, object]:
    if isinstance(value, float):
        return float, "nan" if math.isnan(value) else struct.pack("<d", value)
    return type(value), value


@pytest.fixture
def encoder() -> Encoder:
    """Make the encoder of a new writer."""
    return Encoder("run", "w")


@settings(max_examples=100, deadline=None)
@given(st.lists(ROWS | UPDATES, max_size=30), st.integers(0, 30))
def test_everything_comes_back_exactly_and_in_order(items: list[Row | Update], cut: int) -> None:
    """Whatever was logged, in however many goes it was encoded."""
    encoder = Encoder("run", "w")
    batches = [batch for part in (items[:cut], items[cut:]) for batch in encode(encoder, part)]
    assert exactly(decode(batches)) == exactly(items)
    assert [batch.sequence for batch in batches] == list(range(1, len(batches) + 1))
    assert encoder.last_sequence == len(batches)
    assert encoder.row_count == sum(type(item) is Row for item in items)
    assert (encoder.refused_row_count, encoder.refused_value_count) == (0, 0)


def test_nothing_makes_no_batch(encoder: Encoder) -> None:
    """An empty queue takes no number."""
    assert encode(encoder, []) == []
    assert encoder.last_sequence == 0


def test_many_rows_fill_their_batches(encoder: Encoder) -> None:
    """No batch is beyond its bound, and only the last is much below it."""
    rows = [Row(step, step, {f"m{key}": step / 7 for key in range(9)}) for step in range(20_000)]
    batches = list(encoder.encode(rows))
    assert len(batches) > 3
    assert all(len(b.message) > BATCH_BYTES_MAX * 0.4 for b in batches[:-1])
    assert all(len(b.message) < BATCH_BYTES_MAX + 1024 for b in batches)
    assert exactly(decode(check_log(b.message) for b in batches)) == exactly(rows)


def test_rows_with_the_same_keys_share_a_frame(encoder: Encoder) -> None:
    """A change of keys, of their order or of a type begins another."""
    values: list[dict[str, Any]] = [
        *({"a": 1.0, "b": 1}, {"a": 2.0, "b": 2}),
        *({"b": 3, "a": 3.0}, {"a": 4.0, "b": 4.0}, {"a": 5.0, "b": True}),
        *({"a": 6.0, "b": 6}, {"a": 7.0, "b": 7}),
    ]
    (batch,) = encode(encoder, [Row(0, 0, row) for row in values])
    frames = [record for record in decode_batch(batch.payload, 0) if isinstance(record, Frame)]
    assert [len(frame) for frame in frames] == [2, 1, 1, 1, 2]


@pytest.mark.parametrize("key_count", [1, 1000])
def test_widest_row_that_fits_is_kept(encoder: Encoder, key_count: int) -> None:
    """A row of a thousand metrics with long names takes most of a message, and is kept."""
    row = Row(1, 2, {f"{number:04}" + "k" * 1000: 0.5 for number in range(key_count)})
    assert exactly(decode(encode(encoder, [row, row]))) == exactly([row, row])


def test_row_beyond_every_message_is_refused_and_counted(encoder: Encoder) -> None:
    """The rows around it are kept, and the numbers have no gap."""
    small = Row(1, 2, {"a": 0.5})
    wide = Row(1, 2, {f"{number:05}" + "k" * 1000: 0.5 for number in range(1100)})
    assert exactly(decode(encode(encoder, [small, wide, small]))) == exactly([small, small])
    assert (encoder.refused_row_count, encoder.row_count) == (1, 2)


def test_update_beyond_every_message_is_refused_and_counted(encoder: Encoder) -> None:
    """It is a value, not a row."""
    small, large = Row(1, 2, {"a": 0.5}), Update("config_update", {"x": "x" * RECORD_BYTES_MAX})
    assert exactly(decode(encode(encoder, [small, large, small]))) == exactly([small, small])
    assert (encoder.refused_row_count, encoder.refused_value_count) == (0, 1)


@pytest.mark.parametrize(
    "key", ["", "k" * (KEY_BYTES_MAX + 1), "é" * (KEY_BYTES_MAX // 2 + 1)], ids=len
)
def test_key_that_is_none_costs_its_value_alone(encoder: Encoder, key: str) -> None:
    """The rest of the row is kept; a row that holds nothing else is refused."""
    rows = [Row(0, 0, {key: 1.0, "a": 2.0}), Row(1, 1, {key: 1.0, "a": 2.0}), Row(2, 2, {key: 1.0})]
    kept = [Row(0, 0, {"a": 2.0}), Row(1, 1, {"a": 2.0})]
    assert exactly(decode(encode(encoder, rows))) == exactly(kept)
    assert (encoder.refused_row_count, encoder.row_count) == (1, 2)
    assert encoder.refused_value_count == 3


@pytest.mark.parametrize(
    ("key", "name"), [(1, "1"), (None, "None"), ("\udcff", "\\udcff"), (("a", 1), "('a', 1)")]
)
def test_key_of_any_kind_becomes_text(encoder: Encoder, key: Any, name: str) -> None:
    """Nobody's rows are lost for an odd name."""
    rows = [Row(step, 0, {"a": 1.0, key: 2.0}) for step in range(3)]
    kept = [Row(step, 0, {"a": 1.0, name: 2.0}) for step in range(3)]
    assert exactly(decode(encode(encoder, rows))) == exactly(kept)


def test_keys_that_read_the_same_are_one(encoder: Encoder) -> None:
    """The first of them stands, the other is counted."""
    assert decode(encode(encoder, [Row(0, 0, {"1": 1.0, 1: 2.0})])) == [  # type: ignore[dict-item]
        Row(0, 0, {"1": 1.0})
    ]
    assert encoder.refused_value_count == 1


@pytest.mark.parametrize("odd", [Row(True, 0, {"a": 1.0}), Row(2**63, 0, {"a": 1.0})])
def test_odd_row_costs_no_other(encoder: Encoder, odd: Row) -> None:
    """A row that cannot be encoded is refused by itself."""
    rows = [Row(step, 0, {"a": 1.0}) for step in range(5)]
    assert decode(encode(encoder, [*rows[:2], odd, *rows[2:]])) == rows
    assert (encoder.refused_row_count, encoder.row_count) == (1, 5)


def test_refused_value_is_counted_once(encoder: Encoder) -> None:
    """Also beside an odd row, for which the frame is taken apart."""
    rows = [Row(step, 0, {"": 1.0, "a": 1.0}) for step in (1, 2**63, 2)]
    assert len(decode(encode(encoder, rows))) == 2
    assert (encoder.refused_row_count, encoder.refused_value_count) == (1, 2)


@pytest.mark.parametrize(
    ("value", "kept"),
    [
        (2**63, float(2**63)),
        (-(2**63) - 1, float(-(2**63))),
        (10**400, math.inf),
        (-(10**400), -math.inf),
    ],
)
def test_integer_beyond_64_bits_is_the_nearest_double(
    encoder: Encoder, value: int, kept: float
) -> None:
    """It is the nearest that a metric can be."""
    assert decode(encode(encoder, [Row(0, 0, {"a": value})])) == [Row(0, 0, {"a": kept})]


def test_integer_is_exact_whatever_its_neighbours_are(encoder: Encoder) -> None:
    """An integer that 64 bits hold is kept as it is, also in company."""
    rows = [Row(0, 0, {"seed": 2**53 + 1}), Row(1, 1, {"seed": 2**64})]
    assert decode(encode(encoder, rows))[0] == rows[0]


def _nested(depth: int) -> dict[str, Any]:
    value: dict[str, Any] = {}
    for _ in range(depth):
        value = {"k": value}
    return value


@pytest.mark.parametrize(
    "values",
    [
        pytest.param({"n": 10**5000}, id="integer"),
        pytest.param(_nested(100), id="depth"),
        pytest.param({"": 1}, id="key-empty"),
        pytest.param({"k" * (KEY_BYTES_MAX + 1): 1}, id="key-long"),
    ],
)
def test_update_that_the_sidecar_refuses_costs_no_rows(
    encoder: Encoder, values: dict[str, Any]
) -> None:
    """What a user sets in the config does not cost the rows that were logged around it."""
    row = Row(0, 0, {"a": 1.0})
    items = [row, Update("config_update", to_plain_dict(values)), row]
    assert [item for item in decode(encode(encoder, items)) if type(item) is Row] == [row, row]


def test_lost_range_is_taken_by_the_sidecar(encoder: Encoder) -> None:
    """It has the last lost number, no rows, and takes no number of its own."""
    encode(encoder, [Row(0, 0, {"a": 1.0})])
    batch = encoder.lost(2, 5, 7)
    taken = check_log(batch.message)
    assert (batch.sequence, batch.row_count) == (5, 0)
    assert (taken.first_sequence, taken.sequence, taken.row_count) == (2, 5, 0)
    assert decode_batch(taken.payload, 0) == [LostRange(2, 5, 7)]
    assert encoder.last_sequence == 1


def test_console_lines_are_a_record_of_their_own_in_order() -> None:
    """What was printed between two rows stays between them, with its stream and time."""
    row = Row(1, 2, {"a": 0.5})
    lines = Update("console_lines", {"stream": 2, "time_unix_nano": 3, "lines": ["one", "two"]})
    (batch,) = Encoder("run", "w").encode([row, lines, row])
    records = telemetry_service_pb2.LogMetricsRequest.FromString(batch.message).batch.records
    assert [record.WhichOneof("kind") for record in records] == [
        *("metric_frame", "console_lines", "metric_frame")
    ]
    found = records[1].console_lines
    assert (found.stream, found.time_unix_nano) == (2, 3)
    assert list(found.lines) == ["one", "two"]
    assert batch.row_count == 2


def test_metrics_of_a_writer_are_bounded(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Values of more are left out and counted, with one warning; those that are known go on."""
    monkeypatch.setattr(_encoding, "KEYS_MAX", 5)
    encoder = Encoder("run", "w")
    encode(encoder, [Row(0, 0, {f"m{index}": 1.0}) for index in range(8)])
    assert (encoder.row_count, encoder.refused_row_count) == (5, 3)
    (batch,) = encode(
        encoder, [Row(1, 0, {"m0": 2.0, "m7": 2.0}), Row(1, 0, {"m0": 2.0, "m7": 2.0})]
    )
    assert exactly(decode([batch])) == exactly([Row(1, 0, {"m0": 2.0})] * 2)
    assert (encoder.refused_row_count, encoder.refused_value_count) == (3, 5)
    assert caplog.text.count("the most that are taken") == 1


def test_a_million_metrics_are_a_hundred_thousand() -> None:
    """At the real bound, as a loop that makes up names logs them."""
    encoder = Encoder("run", "w")
    for start in range(0, 1_000_000, 5_000):
        row = {f"metric/{index}": 1.0 for index in range(start, start + 5_000)}
        list(encoder.encode([Row(0, 0, row)]))
    assert encoder.row_count == _encoding.KEYS_MAX // 5_000
    assert encoder.refused_value_count == 1_000_000 - _encoding.KEYS_MAX


def test_batch_says_what_was_refused_so_far() -> None:
    """By the queue before, and by the encoder itself; it only grows."""
    refused = Refused(rows=3, values=4)
    encoder = Encoder("run", "w", refused)
    told = []
    for row in ({"a": 1.0, "": 1.0}, {"": 1.0}, {"a": 1.0}):
        for batch in encoder.encode([Row(0, 0, row)]):
            message = telemetry_service_pb2.LogMetricsRequest.FromString(batch.message).batch
            told.append((message.refused_row_count, message.refused_value_count))
    assert told == [(3, 5), (4, 6)]


# Texts, histograms and files.


class Broken(File):
    """Fails when it is encoded."""

    def __init__(self) -> None:
        super().__init__(lambda: ("image/png", 7, lambda: 1 // 0))  # type: ignore[arg-type,return-value]


def test_rich_values_share_a_row_with_numbers(encoder: Encoder) -> None:
    """Each comes back as it was; a file's pieces come before the row that names it."""
    data = random.Random(0).randbytes(1_200_000)
    files = Files([Html(data, caption="x"), Html("")])
    histogram = Histogram(np_histogram=([3, 4], [0, 1, 2]))
    row = Row(5, 6, {"loss": 0.5, "text": "µ", "weights": histogram, "files": files})
    batches = encode(encoder, [row, row._replace(values={"loss": 1.0})])
    assert len(batches) == 3
    records = [record for batch in batches for record in decode_batch(batch.payload, 0)]
    chunks = [record for record in records if isinstance(record, BlobChunk)]
    assert b"".join(chunk.data for chunk in chunks) == data
    digests = [hashlib.sha256(each).hexdigest() for each in (data, b"")]
    assert [chunk.sha256 for chunk in chunks] == [*digests[:1] * 3, digests[1]]
    (found,) = records[4].rows()  # type: ignore[union-attr]
    assert found == (
        *(0, 5, 6),
        {
            "loss": 0.5,
            "text": "µ",
            "weights": columns.Histogram((0, 1, 2), (3, 4)),
            "files": (
                columns.Media("text/html", digests[0], len(data), {"caption": "x"}),
                columns.Media("text/html", digests[1], 0, {}),
            ),
        },
    )
    assert encoder.row_count == 2


def test_a_file_that_cannot_be_encoded_costs_itself_alone() -> None:
    """It is counted, and gives its room back; the row, and those around it, are kept."""
    held = Held()
    encoder = Encoder("run", "w", held=held)
    assert held.take(14)
    broken = Files([Broken()])
    rows = [Row(n, 0, {"a": n, "file": broken} if n else {"file": broken}) for n in range(2)]
    batches = encode(encoder, [*rows, Row(2, 0, {"a": 2})])
    assert decode(batches) == [Row(1, 0, {"a": 1}), Row(2, 0, {"a": 2})]
    assert (encoder.refused_row_count, encoder.refused_value_count) == (1, 2)
    assert held.take(HELD_BYTES_MAX)


def test_long_texts_fill_their_batches(encoder: Encoder) -> None:
    """No message is too large, and short texts share a frame."""
    rows = [Row(n, 0, {"text": "x" * 60_000, "also": "y"}) for n in range(40)]
    rows += [Row(n, 0, {"text": "x", "also": "y"}) for n in range(1000)]
    batches = encode(encoder, rows)
    assert decode(batches) == rows
    assert len(batches) < 10
