"""Checks of what callers send: what is taken, what is refused, and that nothing gets past them."""

from collections.abc import Callable
from typing import Any

import pytest
from google.protobuf.internal.encoder import _VarintBytes
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pillion.redaction import REDACTED
from pillion.v1 import record_pb2
from pillion.v1 import telemetry_service_pb2 as pb2
from pillion.values import Value, to_key_values
from pillion_sidecar.environment import GitState
from pillion_sidecar.errors import PeerError
from pillion_sidecar.records import (
    ConfigUpdate,
    Environment,
    RunState,
    decode_batch,
    decode_start,
    encode_start,
)
from pillion_sidecar.validation import (
    ALERT_BYTES_MAX,
    COUNT_MAX,
    LINES_MAX,
    TAGS_MAX,
    check_finish,
    check_log,
    check_run_id,
    check_start,
)
from pillion_sidecar.validation_values import (
    BINS_MAX,
    BLOB_BYTES_MAX,
    FILES_MAX,
    KEY_BYTES_MAX,
    TEXT_BYTES_MAX,
    VALUES_DEPTH_MAX,
)

Change = Callable[[pb2.LogMetricsRequest], Any]


def request_of(*changes: Change) -> bytes:
    """Make a good batch of two rows, spoil it, and encode it."""
    request = pb2.LogMetricsRequest()
    batch = request.batch
    batch.run_id, batch.writer_id, batch.sequence = "run", "w", 1
    frame = batch.records.add().metric_frame
    frame.steps[:] = [1, 2]
    frame.times_unix_nano[:] = [3, 4]
    frame.columns.add(key="loss").doubles.values[:] = [0.5, 0.25]
    frame.columns.add(key="count").int64s.values[:] = [1, 2]
    frame.columns.add(key="is_best").bools.values[:] = [True, False]
    for change in changes:
        change(request)
    return request.SerializeToString()


def frame(request: pb2.LogMetricsRequest) -> record_pb2.MetricFrame:
    """Return the good batch's frame."""
    return request.batch.records[0].metric_frame


def only(**record: Any) -> Change:
    """Replace all records by one."""

    def change(request: pb2.LogMetricsRequest) -> None:
        del request.batch.records[:]
        request.batch.records.add(**record)

    return change


def config_of(values: dict[str, Value]) -> Change:
    """Replace all records by a config update."""
    return only(config_update=record_pb2.ConfigUpdate(values=to_key_values(values)))


def lines_of(line: str = "", count: int | None = None) -> Change:
    """Replace all records by lines of a console; without a line by none."""
    lines = [line] * (count or len(line[:1]))
    return only(console_lines=record_pb2.ConsoleLines(lines=lines))


def lost_of(first: int, last: int, row_count: int = 0, sequence: int | None = None) -> Change:
    """Replace all records by a lost range."""

    def change(request: pb2.LogMetricsRequest) -> None:
        lost = record_pb2.LostRange(first_sequence=first, last_sequence=last, row_count=row_count)
        only(lost_range=lost)(request)
        request.batch.sequence = last if sequence is None else sequence

    return change


def nested(depth: int, *, in_lists: bool) -> Value:
    """Nest a value."""
    value: Value = 1
    for _ in range(depth):
        value = [value] if in_lists else {"k": value}
    return value


# Batches.


def test_good_batch_is_taken() -> None:
    """What is journaled decodes to what was sent, and its rows are counted."""
    batch = check_log(request_of())
    assert (batch.run_id, batch.writer_id, batch.first_sequence, batch.sequence) == (
        "run",
        "w",
        1,
        1,
    )
    assert (batch.row_count, batch.keys) == (
        2,
        {c.key for c in frame(pb2.LogMetricsRequest.FromString(request_of())).columns},
    )
    (decoded,) = decode_batch(batch.payload, 10)
    assert [(ordinal, step, time) for ordinal, step, time, _ in decoded.rows()] == [
        *((10, 1, 3), (11, 2, 4))
    ]


def test_same_batch_has_the_same_payload() -> None:
    """However a batch is put on the wire, a repeated one is known by its bytes."""
    head = pb2.LogMetricsRequest(batch=record_pb2.Batch(run_id="run")).SerializeToString()
    tail = pb2.LogMetricsRequest.FromString(request_of())
    tail.batch.run_id = ""
    split = tail.SerializeToString() + head  # two parts of one message, which decoders merge
    assert check_log(split) == check_log(request_of())


def test_fields_of_a_newer_client_are_kept() -> None:
    """What this version does not know goes to disk as it came."""
    unknown = b"\xa2\x06\x03new"  # field 100
    batch = pb2.LogMetricsRequest.FromString(request_of()).batch.SerializeToString() + unknown
    raw = b"\x0a" + bytes([len(batch)]) + batch
    assert check_log(raw).payload.endswith(unknown)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param(lambda r: r.batch.ClearField("run_id"), "run_id", id="no-run"),
        pytest.param(lambda r: setattr(r.batch, "run_id", "../x"), "run_id", id="run-is-a-path"),
        pytest.param(lambda r: setattr(r.batch, "run_id", "a\n"), "run_id", id="run-with-newline"),
        pytest.param(lambda r: setattr(r.batch, "run_id", "a" * 65), "run_id", id="run-too-long"),
        pytest.param(lambda r: setattr(r.batch, "writer_id", "é"), "writer_id", id="writer"),
        pytest.param(lambda r: setattr(r.batch, "sequence", 0), "sequence", id="sequence-0"),
        pytest.param(lambda r: setattr(r.batch, "sequence", 2**63), "sequence", id="sequence-huge"),
        pytest.param(lambda r: r.batch.ClearField("records"), "nothing in this batch", id="empty"),
        pytest.param(lambda r: r.ClearField("batch"), "run_id", id="no-batch"),
        pytest.param(lambda r: frame(r).ClearField("steps"), "at least one row", id="no-rows"),
        pytest.param(lambda r: frame(r).steps.append(3), "2 times for 3 steps", id="times-short"),
        pytest.param(
            lambda r: frame(r).times_unix_nano.append(3), "3 times for 2 steps", id="times-long"
        ),
        pytest.param(
            lambda r: frame(r).ClearField("columns"), "at least one value", id="no-columns"
        ),
        pytest.param(
            lambda r: frame(r).columns[0].doubles.values.append(1.0), "'loss'.*3 values", id="long"
        ),
        pytest.param(
            lambda r: frame(r).columns[1].int64s.values.pop(), "'count'.*1 values", id="short"
        ),
        pytest.param(lambda r: frame(r).columns.add(key="x"), "'x'.*0 values", id="column-empty"),
        pytest.param(
            lambda r: setattr(frame(r).columns[0], "key", ""), "a key is empty", id="key-empty"
        ),
        pytest.param(
            lambda r: setattr(frame(r).columns[0], "key", "count"), "there twice", id="key-twice"
        ),
        pytest.param(
            lambda r: setattr(frame(r).columns[0], "key", "k" * (KEY_BYTES_MAX + 1)),
            "longer than 1024 bytes",
            id="key-long",
        ),
        pytest.param(
            lambda r: setattr(frame(r).columns[0], "key", "é" * (KEY_BYTES_MAX // 2 + 1)),
            "longer than 1024 bytes",
            id="key-long-in-bytes",
        ),
        pytest.param(config_of({"": 1}), "a key is empty", id="config-key-empty"),
        pytest.param(config_of({"a": [{"": 1}]}), "a key is empty", id="config-key-in-list"),
        pytest.param(
            config_of({"k": nested(VALUES_DEPTH_MAX + 1, in_lists=True)}), "deep", id="deep-lists"
        ),
        pytest.param(lost_of(2, 1), "first_sequence", id="lost-backwards"),
        pytest.param(lost_of(0, 1), "first_sequence", id="lost-from-0"),
        pytest.param(lost_of(1, 2, row_count=COUNT_MAX + 1), "row_count", id="lost-rows-huge"),
        pytest.param(lost_of(1, 2, sequence=3), "last lost number", id="lost-other-sequence"),
        pytest.param(
            lambda r: setattr(r.batch, "refused_row_count", COUNT_MAX + 1),
            "refused_row_count",
            id="refused-rows-huge",
        ),
        pytest.param(
            lambda r: setattr(r.batch, "refused_value_count", COUNT_MAX + 1),
            "refused_value_count",
            id="refused-values-huge",
        ),
        pytest.param(lines_of(), "1 to", id="no-lines"),
        pytest.param(lines_of("x", count=LINES_MAX + 1), "1 to", id="lines-many"),
        pytest.param(lines_of("x" * (TEXT_BYTES_MAX + 1)), "longer than", id="line-long"),
        pytest.param(
            lambda r: r.batch.records.add().lost_range.MergeFrom(
                record_pb2.LostRange(first_sequence=1, last_sequence=1)
            ),
            "alone in its batch",
            id="lost-in-company",
        ),
    ],
)
def test_bad_batch_is_refused_and_says_where(change: Change, message: str) -> None:
    """A batch that can never be taken is the caller's fault, and the refusal names the place."""
    with pytest.raises(PeerError, match=message):
        check_log(request_of(change))


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda r: setattr(r.batch, "run_id", "a" * 64), id="run-id"),
        pytest.param(lambda r: setattr(r.batch, "run_id", "0.a_B-"), id="run-id-letters"),
        pytest.param(lambda r: setattr(r.batch, "sequence", 2**63 - 1), id="sequence"),
        pytest.param(lambda r: setattr(frame(r).columns[0], "key", "k" * KEY_BYTES_MAX), id="key"),
        pytest.param(
            lambda r: setattr(frame(r).columns[0], "key", "é" * (KEY_BYTES_MAX // 2)), id="key-utf8"
        ),
        pytest.param(config_of({"k": nested(VALUES_DEPTH_MAX, in_lists=True)}), id="depth"),
        pytest.param(config_of({"k": int("9" * 4000)}), id="integer"),
        pytest.param(config_of({"k": -int("9" * 4000)}), id="negative-integer"),
        pytest.param(config_of({"a": {"k": 1}, "k": 1}), id="key-on-two-levels"),
        pytest.param(lost_of(1, 2**63 - 1, row_count=COUNT_MAX), id="lost"),
        pytest.param(lines_of("", count=LINES_MAX), id="lines"),
        pytest.param(lines_of("x" * TEXT_BYTES_MAX), id="line"),
    ],
)
def test_bounds_are_inclusive(change: Change) -> None:
    """What lies exactly at a bound is taken."""
    check_log(request_of(change))


@pytest.mark.parametrize(
    "text", ["", "-", "+1", "1.0", "1e9", "0x1", " 1", "1\n", "\u0661", "9" * 4001, "--1", "1_0"]
)
def test_big_integer_is_decimal_text(text: str) -> None:
    """Whatever Python's `int` would take beside digits is refused."""
    values = record_pb2.KeyValueList()
    values.values.add(key="seed").value.big_int_value = text
    with pytest.raises(PeerError, match="big_int_value"):
        check_log(request_of(only(config_update=record_pb2.ConfigUpdate(values=values))))


@pytest.mark.parametrize("where", ["config_update", "summary_update"])
def test_repeated_key_is_refused(where: str) -> None:
    """A mapping that says two things of one key says none."""
    values = record_pb2.KeyValueList()
    for _ in range(2):
        values.values.add(key="seed").value.int_value = 1
    with pytest.raises(PeerError, match="there twice") as refusal:
        check_log(request_of(only(**{where: {"values": values}})))
    assert refusal.value.reason == "KEY_REPEATED"


def test_record_without_content_is_refused() -> None:
    """Also a record of a kind that only a newer version knows."""
    with pytest.raises(PeerError, match="without content") as refusal:
        check_log(request_of(lambda request: request.batch.records.add()))
    assert refusal.value.reason == "RECORD_UNSUPPORTED"


@settings(max_examples=150, deadline=None)
@given(raw=st.binary(max_size=200))
@example(raw=b"")
def test_no_bytes_get_past_the_checks(raw: bytes) -> None:
    """Whatever comes is a good batch or the caller's fault, never another error."""
    with pytest.raises(PeerError):
        check_log(raw)


@settings(max_examples=150, deadline=None)
@given(place=st.integers(0, len(request_of()) - 1), byte=st.integers(0, 255))
def test_no_changed_byte_gets_past_the_checks(place: int, byte: int) -> None:
    """A good batch with a changed byte is refused, or still one that sinks can decode."""
    raw = bytearray(request_of())
    raw[place] = byte
    try:
        batch = check_log(bytes(raw))
    except PeerError:
        return
    frames = decode_batch(batch.payload, 0)
    assert sum(len(frame) for frame in frames) == batch.row_count  # type: ignore[arg-type]


def test_message_nested_beyond_the_decoder_is_refused() -> None:
    """Where protobuf itself gives up, that is the caller's fault too."""
    raw = b""
    for field in (1, 4, 2, 1, 1, 2, *(5, 1) * 60)[::-1]:  # of the request, the batch, … 60 lists
        raw = bytes([field << 3 | 2]) + _VarintBytes(len(raw)) + raw
    with pytest.raises(PeerError) as refusal:
        check_log(raw)
    assert refusal.value.reason == "MALFORMED"


# Starts.


def test_start_without_anything_gets_defaults() -> None:
    """Ids, name, project and time are made where they are left out."""
    first, second = check_start(pb2.StartRunRequest()), check_start(pb2.StartRunRequest())
    assert first.run_id != second.run_id
    assert first.writer_id != second.writer_id
    assert (first.project, first.name) == ("uncategorized", first.run_id)
    assert 0 < first.time_unix_nano <= second.time_unix_nano
    assert first.environment == Environment()


def test_start_is_taken_as_it_is() -> None:
    """All fields arrive; a tag that is there twice counts once."""
    request = pb2.StartRunRequest(
        run_id="r",
        writer_id="w",
        project="p",
        name="n",
        group="g",
        job_type="train",
        tags=["b", "a", "b"],
        notes="text",
        config=to_key_values({"seed": 2**70, "opt": {"lr": 0.1}}),
        environment=record_pb2.Environment(host="h"),
    )
    request.start_time.FromNanoseconds(123_456_789_012)
    start = check_start(request)
    assert (start.run_id, start.writer_id, start.project, start.name) == ("r", "w", "p", "n")
    assert (start.group, start.job_type, start.notes) == ("g", "train", "text")
    assert start.tags == ("b", "a")
    assert start.config == {"seed": 2**70, "opt": {"lr": 0.1}}
    assert start.environment == Environment(host="h")
    assert start.time_unix_nano == 123_456_789_012
    assert decode_start(encode_start(start)) == start


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"run_id": ".hidden"}, "run_id"),
        ({"writer_id": "a b"}, "writer_id"),
        *(
            ({field: "x" * (KEY_BYTES_MAX + 1)}, field)
            for field in ("project", "name", "group", "job_type")
        ),
        ({"notes": "x" * (TEXT_BYTES_MAX + 1)}, "notes"),
        ({"tags": ["x" * (KEY_BYTES_MAX + 1)]}, "tags"),
        ({"tags": map(str, range(TAGS_MAX + 1))}, "257 of them"),
        ({"config": {"values": [{"key": ""}]}}, "config: a key is empty"),
    ],
)
def test_bad_start_is_refused_and_says_where(fields: dict[str, Any], message: str) -> None:
    """A start that can never be taken is the caller's fault."""
    with pytest.raises(PeerError, match=message):
        check_start(pb2.StartRunRequest(**fields))


@pytest.mark.parametrize(
    "seconds",
    [
        pytest.param(32_503_680_000, id="year-3000"),
        pytest.param(2**60, id="no-timestamp"),
        pytest.param(-1, id="year-1969"),
    ],
)
def test_start_time_that_cannot_be_kept_is_refused(seconds: int) -> None:
    """A time that 64 bits of nanoseconds do not hold is the caller's fault."""
    request = pb2.StartRunRequest()
    request.start_time.seconds = seconds
    with pytest.raises(PeerError, match="start_time"):
        encode_start(check_start(request))


def test_how_far_a_writer_lets_its_run_go_is_taken() -> None:
    """The mode that was said, else the farthest; no other number."""
    said = [check_start(pb2.StartRunRequest(wandb_mode=mode)).wandb.mode for mode in (0, 1, 2, 3)]  # type: ignore[arg-type]
    assert [mode.name for mode in said] == ["ONLINE", "ONLINE", "OFFLINE", "DISABLED"]
    with pytest.raises(PeerError, match="wandb_mode"):
        check_start(pb2.StartRunRequest(wandb_mode=4))  # type: ignore[arg-type]


# Ends.


def test_an_end_is_when_the_writer_says_it_was() -> None:
    """A run that is told later has ended before."""
    request = pb2.FinishRunRequest(run_id="r", writer_id="w")
    request.end_time.FromNanoseconds(123_456_789_012)
    assert check_finish(request).time_unix_nano == 123_456_789_012
    request.end_time.seconds = -1
    with pytest.raises(PeerError, match="end_time"):
        check_finish(request)


@pytest.mark.parametrize(
    ("fields", "state"),
    [
        ({}, RunState.FINISHED),
        ({"exit_code": 1}, RunState.FAILED),
        ({"exit_code": -9}, RunState.FAILED),
        ({"exit_code": 130, "state": "RUN_STATE_STOPPED"}, RunState.STOPPED),
        ({"exit_code": 1, "state": "RUN_STATE_FINISHED"}, RunState.FINISHED),
        ({"exit_code": -9, "state": "RUN_STATE_CRASHED"}, RunState.CRASHED),
    ],
)
def test_state_follows_from_the_exit_code_unless_said(
    fields: dict[str, Any], state: RunState
) -> None:
    """What the caller says stands; else 0 is FINISHED and all else FAILED."""
    finish = check_finish(pb2.FinishRunRequest(run_id="r", writer_id="w", **fields))
    assert (finish.state, finish.exit_code) == (state, fields.get("exit_code", 0))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"run_id": ""}, "run_id"),
        ({"writer_id": ""}, "writer_id"),
        ({"state": "RUN_STATE_RUNNING"}, "state"),
        ({"state": 99}, "state"),
        ({"refused_row_count": COUNT_MAX + 1}, "refused_row_count"),
        ({"refused_value_count": 2**64 - 1}, "refused_value_count"),
        ({"reason": "x" * (TEXT_BYTES_MAX + 1)}, "reason"),
        ({"summary": {"values": [{"key": ""}]}}, "summary"),
    ],
)
def test_bad_end_is_refused_and_says_where(fields: dict[str, Any], message: str) -> None:
    """Nobody says of itself that it lives on, or more than can be counted."""
    good = {"run_id": "r", "writer_id": "w"}
    with pytest.raises(PeerError, match=message):
        check_finish(pb2.FinishRunRequest(**good | fields))


@pytest.mark.parametrize("text", ["", "-a", "_a", ".", "a/b", "a\x00", "a" * 65, "ab c"])
def test_run_id_is_a_plain_name(text: str) -> None:
    """An id can be a file's name, a part of a URL and an argument, as it is."""
    with pytest.raises(PeerError, match="run_id"):
        check_run_id(text)


# Rich values, definitions, alerts, and what describes a run.


def test_secrets_are_left_out_before_anything_is_journaled() -> None:
    """Of config, arguments and a remote's address; a client need not be ours."""
    key, request = "0123456789abcdef" * 2 + "01234567", pb2.StartRunRequest(run_id="r")
    request.config.CopyFrom(to_key_values({"lr": 1, "api_key": "x", "nest": {"url": key}}))
    request.environment.arguments[:] = ["train.py", "--api-key", "x", f"KEY={key}"]
    request.environment.git.remote_url = "https://me:x@host/repo.git"
    start = check_start(request)
    assert start.config == {"lr": 1, "api_key": REDACTED, "nest": {"url": REDACTED}}
    assert start.environment.arguments == ("train.py", "--api-key", REDACTED, f"KEY={REDACTED}")
    assert start.environment.git == GitState(remote_url="https://host/repo.git")
    (update,) = decode_batch(check_log(request_of(config_of({"token": "x"}))).payload, 0)
    assert update == ConfigUpdate({"token": REDACTED})


@pytest.mark.parametrize(
    ("said", "name"),
    [
        ({}, "r"),
        ({"model": "meta-llama/Llama-3-8b", "use_case": "chat"}, "Llama-3-8b_chat_19700101-000001"),
        ({"model": "./out/"}, "out_19700101-000001"),
        ({"use_case": "chat"}, "chat_19700101-000001"),
        ({"model": "m", "name": "mine"}, "mine"),
    ],
)
def test_a_run_without_a_name_is_named_after_its_labels(said: dict[str, str], name: str) -> None:
    """Model, use case and time; without labels by its id."""
    request = pb2.StartRunRequest(run_id="r", **said)  # type: ignore[arg-type]
    request.start_time.FromSeconds(1)
    start = check_start(request)
    assert (start.name, start.is_name_given) == (name, "name" in said)


def column_of(**values: Any) -> Change:
    """Add a column to the good batch's frame."""
    return lambda request: frame(request).columns.add(key="rich", **values)


def texts_of(*texts: str) -> Change:
    """Add a column of texts."""
    return column_of(texts=record_pb2.TextValues(values=texts))


def histograms_of(edges: list[float], counts: list[float]) -> Change:
    """Add a column of histograms."""
    histogram = record_pb2.Histogram(edges=edges, counts=counts)
    return column_of(histograms=record_pb2.HistogramValues(values=[histogram] * 2))


def media_of(count: int = 1, **changed: Any) -> Change:
    """Add a column of files."""
    fields = {"media_type": "image/png", "sha256": bytes(32), "size_bytes": 5} | changed
    group = record_pb2.MediaGroup(items=[record_pb2.Media(**fields)] * count)
    return column_of(media=record_pb2.MediaValues(values=[group] * 2))


def chunk_of(data: bytes, **changed: Any) -> Change:
    """Replace all records by a piece of a file."""
    fields = {"sha256": bytes(32), "size_bytes": len(data), "data": data} | changed
    return only(blob_chunk=record_pb2.BlobChunk(**fields))


def alert_of(title: str, text: str = "") -> Change:
    """Replace all records by an alert."""
    return only(alert=record_pb2.Alert(title=title, text=text))


@pytest.mark.parametrize(
    "change",
    [
        texts_of("", "x" * TEXT_BYTES_MAX),
        histograms_of([0, 1, 1], [2, 3]),
        media_of(FILES_MAX),
        media_of(size_bytes=0, attributes=to_key_values({"caption": "x"})),
        chunk_of(b"abc", size_bytes=5, offset_bytes=2),
        chunk_of(b""),
        alert_of("title", "text"),
        only(metric_definition=record_pb2.MetricDefinition(name="*", summaries=[1, 77])),
    ],
)
def test_rich_values_are_taken(change: Change) -> None:
    """Up to their bounds."""
    assert check_log(request_of(change)).payload


@pytest.mark.parametrize(
    "change",
    [
        texts_of("one"),
        texts_of("", "x" * (TEXT_BYTES_MAX + 1)),
        histograms_of([0, 1], []),
        histograms_of([0, 1], [1, 2]),
        histograms_of([1, 0], [1]),
        histograms_of([0, float("nan")], [1]),
        histograms_of([0.0] * (BINS_MAX + 2), [0.0] * (BINS_MAX + 1)),
        media_of(FILES_MAX + 1),
        media_of(0),
        media_of(media_type="../image"),
        media_of(sha256=b"short"),
        media_of(size_bytes=BLOB_BYTES_MAX + 1),
        media_of(size_bytes=-1),
        chunk_of(b"abc", size_bytes=2),
        chunk_of(b"abc", offset_bytes=-1),
        chunk_of(b"", size_bytes=1),
        chunk_of(b"abc", sha256=b""),
        alert_of(""),
        alert_of("x" * (KEY_BYTES_MAX + 1)),
        alert_of("x", "x" * (ALERT_BYTES_MAX + 1)),
        only(metric_definition=record_pb2.MetricDefinition()),
        only(metric_definition=record_pb2.MetricDefinition(name="x", summaries=[1] * 17)),
    ],
)
def test_rich_values_beyond_their_bounds_are_refused(change: Change) -> None:
    """With the whole batch, as the caller's mistake."""
    with pytest.raises(PeerError):
        check_log(request_of(change))
