"""Reading points: against a plain list of what was logged, whatever the segments look like."""

import math
import sqlite3
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pillion.v1 import record_pb2
from pillion.v1 import telemetry_service_pb2 as pb2
from pillion_sidecar import metric_answers, segment_reading, series_reading, shape_reading
from pillion_sidecar.columns import Histogram, Media, decode_column, to_column
from pillion_sidecar.errors import PeerError, StateError
from pillion_sidecar.metric_answers import GLOBS_MAX, KEYS_MAX, MESSAGE_BYTES_MAX, read_metrics
from pillion_sidecar.records import Environment, Frame, Offset, RunId, RunStart, WriterId
from pillion_sidecar.sinks import store_segments
from pillion_sidecar.sinks.store import StoreSink
from pillion_sidecar.store import Store
from pillion_sidecar.validation_values import KEY_BYTES_MAX

RUN = RunId("run")
Points: TypeAlias = dict[str, list[tuple[int, int, int, Any]]]
"""Of each metric (ordinal, step, time, value), by ordinal."""


@dataclass
class Shelf:
    """A store with one run, and what is in it."""

    path: Path
    sink: StoreSink
    store: Store
    offset: int = 1
    ordinal: int = 0

    def log(self, *frames: dict[str, Sequence[Any]], step: int = 0, gap: int = 0) -> Points:
        """Keep frames in one call; return their points."""
        kept: Points = defaultdict(list)
        records = []
        for values in frames:
            self.ordinal += gap
            ordinals = np.arange(self.ordinal, self.ordinal + len(next(iter(values.values()))))
            steps, times = ordinals * 2 + step, ordinals * 1_000
            columns = {key: to_column(list(column)) for key, column in values.items()}
            records.append(Frame(self.ordinal, steps, times, columns))
            for key, column in values.items():
                axes = (ordinals.tolist(), steps.tolist(), times.tolist(), column)
                kept[key] += zip(*axes, strict=True)
            self.ordinal += len(ordinals)
        self.offset += 1
        self.sink.apply(RUN, Offset(self.offset), records)
        return kept

    def read(self, **fields: Any) -> Points:
        """Read points back; each metric's sorted by ordinal."""
        points: Points = defaultdict(list)
        for message in read_metrics(self.store, pb2.ReadMetricsRequest(run_id=RUN, **fields)):
            assert message.ByteSize() <= MESSAGE_BYTES_MAX
            frame = message.frame
            for column in frame.columns:
                values = decode_column(column).tolist()
                axes = (message.ordinals, frame.steps, frame.times_unix_nano, values)
                points[column.key] += zip(*axes, strict=True)
        return {key: sorted(each, key=lambda point: point[0]) for key, each in points.items()}


def shelf_in(directory: Path) -> Shelf:
    """Make a store with a run."""
    url = f"sqlite:///{directory}/store.db"
    sink = StoreSink(url)
    start = RunStart(
        run_id=RUN,
        writer_id=WriterId("w"),
        time_unix_nano=1,
        project="p",
        name="n",
        group="",
        job_type="",
        tags=(),
        notes="",
        config={},
        environment=Environment(),
    )
    sink.start(Offset(1), start)
    return Shelf(directory / "store.db", sink, Store(url))


@pytest.fixture
def shelf(tmp_path: Path) -> Iterator[Shelf]:
    """Make a store with a run."""
    shelf = shelf_in(tmp_path)
    yield shelf
    shelf.store.close()
    shelf.sink.close()


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have segments and pieces of a few rows, so that few points meet every boundary."""
    monkeypatch.setattr(store_segments, "SEGMENT_ROWS", 8)
    monkeypatch.setattr(series_reading, "ROWS_AT_ONCE", 16)
    monkeypatch.setattr(series_reading, "VALUES_AT_ONCE", 24)
    monkeypatch.setattr(segment_reading, "SEGMENTS_AT_ONCE", 4)
    monkeypatch.setattr(shape_reading, "SEGMENTS_AT_ONCE", 2)


values = st.one_of(
    st.floats(allow_nan=False, width=32).map(float),
    st.sampled_from([math.inf, -math.inf, 0.0, 1.0]),
)
frames = st.tuples(
    st.sampled_from([("a",), ("a", "b"), ("b", "c"), ("c",)]),
    st.integers(1, 20),
    st.sampled_from(["float", "int", "big", "bool", "nan"]),
)
calls = st.lists(
    st.tuples(st.lists(frames, min_size=1, max_size=3), st.integers(0, 3)), min_size=1, max_size=12
)


def fill(shelf: Shelf, made: Any, seed: int) -> Points:
    """Log what was drawn; return it."""
    rng = np.random.default_rng(seed)
    draw = {
        "float": lambda: float(rng.integers(-9, 9)) / 2,
        "int": lambda: int(rng.integers(-9, 9)),
        "big": lambda: int(rng.integers(2**62, 2**62 + 3)),
        "bool": lambda: bool(rng.integers(2)),
        "nan": lambda: float(rng.choice([math.nan, math.inf, -1.5, 2.0])),
    }
    logged: Points = defaultdict(list)
    for drawn, gap in made:
        call = [{key: [draw[kind]() for _ in range(n)] for key in keys} for keys, n, kind in drawn]
        for key, points in shelf.log(*call, gap=gap).items():
            logged[key] += points
    return logged


def exact(points: Points) -> dict[str, list[tuple[Any, ...]]]:
    """Return points so that types count and NaN equals itself."""
    return {
        key: [(*axes, type(value), repr(value)) for *axes, value in each]
        for key, each in points.items()
        if each
    }


@settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    made=calls,
    seed=st.integers(0, 2**32),
    stride=st.integers(1, 5),
    bounds=st.tuples(st.integers(-5, 200), st.integers(0, 400)),
    min_ordinal=st.integers(0, 60),
)
def test_points_are_exactly_those_that_were_logged(
    tmp_path_factory: pytest.TempPathFactory,
    made: Any,
    seed: int,
    stride: int,
    bounds: tuple[int, int],
    min_ordinal: int,
) -> None:
    """All of them; every n-th; in a range of steps or times; from an ordinal on; in their types."""
    shelf = shelf_in(tmp_path_factory.mktemp("store"))
    logged = fill(shelf, made, seed)
    low, high = bounds[0], bounds[0] + bounds[1]
    assert exact(shelf.read()) == exact(logged)
    expected = {
        key: [p for p in points if low <= p[1] <= high and p[0] >= min_ordinal][::stride]
        for key, points in logged.items()
    }
    fields = {"stride": stride, "min_ordinal": min_ordinal}
    assert exact(shelf.read(min_step=low, max_step=high, **fields)) == exact(expected)
    request = pb2.ReadMetricsRequest(**fields)
    request.min_time.FromNanoseconds(low * 500)
    request.max_time.FromNanoseconds(high * 500)
    times = {"min_time": request.min_time, "max_time": request.max_time}
    assert exact(shelf.read(**times, **fields)) == exact(expected)
    shelf.store.close()
    shelf.sink.close()


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    made=calls,
    seed=st.integers(0, 2**32),
    max_points=st.integers(4, 40),
    bounds=st.one_of(st.none(), st.tuples(st.integers(-5, 200), st.integers(0, 400))),
)
def test_fewer_points_keep_the_shape(
    tmp_path_factory: pytest.TempPathFactory,
    made: Any,
    seed: int,
    max_points: int,
    bounds: tuple[int, int] | None,
) -> None:
    """The ends, and of each bucket the least and the largest, the first of equal ones; no more."""
    shelf = shelf_in(tmp_path_factory.mktemp("store"))
    logged = fill(shelf, made, seed)
    fields = {} if bounds is None else {"min_step": bounds[0], "max_step": sum(bounds)}
    if bounds is not None:
        inside = range(bounds[0], sum(bounds) + 1)
        logged = {key: [p for p in each if p[1] in inside] for key, each in logged.items()}
    expected = {key: shape_of(each, max_points) for key, each in logged.items()}
    assert exact(shelf.read(max_points=max_points, **fields)) == exact(expected)
    assert all(len(each) <= max(max_points, 0) for each in expected.values())
    shelf.store.close()
    shelf.sink.close()


def shape_of(points: list[Any], max_points: int) -> list[Any]:
    """Choose as the contract says, one point at a time."""
    if len(points) <= max_points:
        return points
    first, last, count = points[0][0], points[-1][0], (max_points - 2) // 2
    buckets = defaultdict(list)
    for point in points:
        buckets[(point[0] - first) * count // (last - first + 1)].append(point)
    kept = {points[0][0]: points[0], last: points[-1]}
    for each in buckets.values():
        numbers = [point for point in each if not math.isnan(point[3])]
        for point in (
            [min(numbers, key=lambda p: p[3]), max(numbers, key=lambda p: p[3])]
            if numbers
            else each[:1]
        ):
            kept[point[0]] = point
    return [kept[ordinal] for ordinal in sorted(kept)]


def test_the_larger_of_two_integers_that_are_one_double_is_kept(shelf: Shelf) -> None:
    """What is known of their segments tells them not apart."""
    values = [n % 5 for n in range(800)]
    values[100], values[200] = 2**53, 2**53 + 1
    logged: list[Any] = []
    for start in range(0, 800, 8):
        logged += shelf.log({"a": values[start : start + 8]})["a"]
    kept = shelf.read(max_points=6)["a"]
    assert kept == shape_of(logged, 6)
    assert 2**53 + 1 in [point[3] for point in kept]


def test_segments_that_cannot_hold_an_extreme_are_not_decoded(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is known of each segment chooses those that are."""
    logged = shelf.log({"a": [float(n % 50) for n in range(8)]})
    for start in range(8, 800, 8):
        logged["a"] += shelf.log({"a": [float(n % 50) for n in range(start, start + 8)]})["a"]
    decoded: list[int] = []
    column = shape_reading._Column
    add_to = column.add_to

    def count(self: Any, extremes: Any, found: Sequence[Any], *rest: Any) -> None:
        decoded.append(len(found))
        add_to(self, extremes, found, *rest)

    monkeypatch.setattr(column, "add_to", count)
    assert shelf.read(max_points=6)["a"] == shape_of(logged["a"], 6)
    assert sum(decoded) <= 8


def test_what_is_no_number_comes_as_it_was_logged(shelf: Shelf) -> None:
    """Texts, histograms and files; left out where few points are to show a shape."""
    media = Media("image/png", "ab" * 32, 7, {"width": 3})
    rich = {
        "text": [f"é{n}" for n in range(20)],
        "histogram": [Histogram((0.0, 1.0, 2.0), (1.0, float(n))) for n in range(20)],
        "media": [(media,) for _ in range(20)],
        "a": [float(n) for n in range(20)],
    }
    logged = shelf.log(rich)
    assert shelf.read() == logged
    assert shelf.read(keys=["text", "h*"], stride=7) == {
        key: logged[key][::7] for key in ("text", "histogram")
    }
    assert set(shelf.read(max_points=10)) == {"a"}


def test_no_message_is_larger_than_the_bound(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows are parted, and a row of many metrics too."""
    monkeypatch.setattr(metric_answers, "MESSAGE_BYTES_MAX", 200)
    logged = shelf.log({f"k{number}": ["x" * 90] * 3 for number in range(5)})
    assert shelf.read() == logged


def test_rows_that_come_while_it_reads_are_not_in_it(shelf: Shelf) -> None:
    """Segments that are folded meanwhile lose no row and repeat none."""
    logged = [point for n in range(60) for point in shelf.log({"a": [float(n)]})["a"]]
    read: list[int] = []
    for number, message in enumerate(read_metrics(shelf.store, pb2.ReadMetricsRequest(run_id=RUN))):
        read += message.ordinals
        shelf.log({"a": [float(number)]})
    assert read == [point[0] for point in logged]


def test_a_reader_that_stops_taking_holds_no_snapshot(shelf: Shelf) -> None:
    """Else the store's log could not be cut as long as it waits."""
    shelf.log({"a": [1.0] * 100})
    reading = read_metrics(shelf.store, pb2.ReadMetricsRequest(run_id=RUN))
    next(reading)
    shelf.log({"a": [1.0] * 100})
    with closing(sqlite3.connect(shelf.path)) as db:
        (is_kept_from_it, *_) = db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    assert not is_kept_from_it
    assert sum(len(message.ordinals) for message in reading) < 100


@pytest.mark.parametrize(
    ("keys", "chosen"),
    [
        (["train/*"], {"train/loss", "train/acc"}),
        (["*loss", "lr"], {"train/loss", "eval/loss", "lr"}),
        (["eval/l?ss"], {"eval/loss"}),
        (["[el]*"], {"eval/loss", "lr"}),
        (["odd[0]"], {"odd[0]"}),
        (["nothing*"], set()),
        (["LR*"], set()),
        ([], {"train/loss", "train/acc", "eval/loss", "lr", "odd[0]"}),
        (["system/*"], {"system/threads"}),
        (
            ["*"],
            {"train/loss", "train/acc", "eval/loss", "lr", "odd[0]", "system/threads"},
        ),
    ],
)
def test_metrics_are_chosen_by_name_or_glob(
    shelf: Shelf, keys: list[str], chosen: set[str]
) -> None:
    """A name that is one counts as a name; globs tell case apart; nothing leaves the system out."""
    for key in ("train/loss", "train/acc", "eval/loss", "lr", "odd[0]", "system/threads"):
        shelf.log({key: [1.0]})
    assert set(shelf.read(keys=keys)) == chosen


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"run_id": ""}, "run_id"),
        ({"keys": ["los"]}, "has no metric 'los'. It has loss."),
        ({"keys": ["los["]}, "a [ is never closed"),
        ({"keys": ["los[!]"]}, "a [ is never closed"),
        ({"keys": ["[]los"]}, "a [ is never closed"),
        ({"keys": ["[" * (KEY_BYTES_MAX + 1)]}, "more than 1,024 bytes"),
        ({"keys": ["é" * (KEY_BYTES_MAX // 2 + 1)]}, "more than 1,024 bytes"),
        ({"keys": ["k"] * (KEYS_MAX + 1)}, "are too many"),
        ({"keys": ["k*"] * (GLOBS_MAX + 1)}, "are too many"),
        ({"min_step": 3, "max_step": 2}, "min_step is behind max_step"),
        ({"min_time": {"seconds": 3}, "max_time": {"seconds": 2}}, "min_time is behind max_time"),
        ({"min_time": {"seconds": 2**62}}, "that is no time"),
        ({"max_points": 3}, "max_points: 3 is not possible. Take 4 to"),
        ({"max_points": -1}, "max_points"),
        ({"stride": -1}, "stride"),
        ({"stride": 2, "max_points": 9}, "Take one of them"),
        ({"min_ordinal": -1}, "min_ordinal"),
    ],
)
def test_what_cannot_be_read_is_refused_with_a_sentence(
    shelf: Shelf, fields: dict[str, Any], words: str
) -> None:
    """It says what is wrong and what to do."""
    shelf.log({"loss": [1.0]})
    request = pb2.ReadMetricsRequest(**{"run_id": RUN} | fields)
    with pytest.raises(PeerError, match=r"\.$") as refused:
        list(read_metrics(shelf.store, request))
    assert words in str(refused.value)


def test_an_unknown_run_is_refused(shelf: Shelf) -> None:
    """It says how to find those there are."""
    with pytest.raises(StateError, match="There is no run nobody"):
        list(read_metrics(shelf.store, pb2.ReadMetricsRequest(run_id="nobody")))


def test_encoded_columns_come_back() -> None:
    """Packed by hand, as protobuf would."""
    for column in (["d", 1.5, -2.5], ["q", 2**62, -1], ["?", True, False]):
        encoded = metric_answers.encode_column("k", np.array(column[1:]))
        assert (
            decode_column(record_pb2.MetricColumn.FromString(encoded.SerializeToString())).tolist()
            == column[1:]
        )
