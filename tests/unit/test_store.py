"""The store: how rows are laid down, what is read back, and what a failed call leaves."""

import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pillion.process import ProcessIdentity
from pillion_sidecar import store_sqlite
from pillion_sidecar.errors import SinkError
from pillion_sidecar.records import (
    Alert,
    AlertLevel,
    ConfigUpdate,
    ConsoleLines,
    ConsoleStream,
    Environment,
    Frame,
    Offset,
    Record,
    RunFinish,
    RunId,
    RunStart,
    RunState,
    SummaryUpdate,
    WriterId,
)
from pillion_sidecar.sinks import store_segments
from pillion_sidecar.sinks.store import StoreSink
from pillion_sidecar.store import CONSOLE_RECORDS, Store
from pillion_sidecar.store_tables import EventKind

RUN = RunId("run")


class Files:
    """A store in a directory, with its writer and its reader."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "store.db"
        self.url = f"sqlite:///{self.path}"
        self.sink = StoreSink(self.url)
        self.store = Store(self.url)

    def sql(self, statement: str) -> list[tuple[Any, ...]]:
        """Look into the tables."""
        with closing(sqlite3.connect(self.path)) as db:
            return db.execute(statement).fetchall()

    def reopen(self) -> None:
        """Close the writer and open it anew."""
        self.sink.close()
        self.sink = StoreSink(self.url)

    def close(self) -> None:
        """Close both."""
        self.store.close()
        self.sink.close()


@pytest.fixture
def files(tmp_path: Path) -> Iterator[Files]:
    """Make a store in a directory of its own."""
    files = Files(tmp_path)
    yield files
    files.close()


def test_console_lines_come_back_as_they_came(files: Files) -> None:
    """Stream, time and lines, in order, by run; also after the writer was opened anew."""
    printed = [
        ConsoleLines(ConsoleStream(number % 3), number - 5, (f"{number}\nx", ""))
        for number in range(2 * CONSOLE_RECORDS)
    ]
    files.sink.start(Offset(1), start_of())
    files.sink.start(Offset(2), start_of("other"))
    files.sink.apply(RUN, Offset(3), printed[:7])
    files.sink.apply(RunId("other"), Offset(4), printed[:1])
    files.reopen()
    files.sink.apply(RUN, Offset(5), printed[7:])
    assert list(files.store.console(RUN)) == printed
    assert list(files.store.console(RunId("other"))) == printed[:1]
    assert list(files.store.console(RunId("unknown"))) == []


def start_of(run_id: str = RUN, **changed: Any) -> RunStart:
    """Make a start that says little but what is given."""
    fields: dict[str, Any] = {
        "run_id": RunId(run_id),
        "writer_id": WriterId("w"),
        "project": "demo",
        "name": run_id,
        "group": "",
        "job_type": "",
        "tags": (),
        "notes": "",
        "config": {},
        "environment": Environment(),
        "time_unix_nano": 1_000,
    }
    return RunStart(**fields | changed)


def frame_of(first_ordinal: int, **columns: Any) -> Frame:
    """Make rows; steps are ordinals times ten."""
    ordinals = np.arange(first_ordinal, first_ordinal + len(next(iter(columns.values()))))
    arrays = {key: np.array(values) for key, values in columns.items()}
    return Frame(first_ordinal, ordinals * 10, ordinals + 1_000, arrays)


def test_small_segments_are_folded_into_one_when_they_reach_1024_rows(files: Files) -> None:
    """Until then each call adds one; then they and the new rows are one, even after reopening."""
    values = np.random.default_rng(0).normal(size=1_124)
    files.sink.start(Offset(1), start_of())
    for call in range(11):
        if call == 7:
            files.reopen()
        assert files.sql("SELECT row_count FROM segments") == [(100,)] * call
        part = values[call * 100 : call * 100 + 100]
        files.sink.apply(RUN, Offset(2 + call), [frame_of(call * 100, a=part, b=-part)])
    assert files.sql("SELECT first_ordinal, last_ordinal, row_count FROM segments") == [
        (0, 1_099, 1_100)
    ]
    files.sink.apply(RUN, Offset(20), [frame_of(1_100, a=values[1_100:], b=-values[1_100:])])
    assert files.sql("SELECT row_count FROM segments ORDER BY segment_id") == [(1_100,), (24,)]
    assert files.sql("SELECT count(*) FROM columns") == [(4,)]
    np.testing.assert_array_equal(files.store.series(RUN, "b").values, -values)


def test_many_rows_are_one_segment_at_once_together_with_the_small_ones(files: Files) -> None:
    """A frame of 1,024 rows or more is written full, and takes small ones before it in."""
    files.sink.start(Offset(1), start_of())
    files.sink.apply(RUN, Offset(2), [frame_of(0, a=[0.5] * 4_000)])
    files.sink.apply(RUN, Offset(3), [frame_of(4_000, a=[0.5] * 3)])
    files.sink.apply(RUN, Offset(4), [frame_of(4_003, a=[0.5] * 1_024)])
    assert files.sql("SELECT row_count FROM segments ORDER BY segment_id") == [(4_000,), (1_027,)]


def test_rows_with_the_same_keys_in_one_call_share_one_segment(files: Files) -> None:
    """Even when others lie between them; keys, their order and their types all count."""
    files.sink.start(Offset(1), start_of())
    frames = [
        frame_of(0, a=[0.0], b=[0.0]),
        frame_of(1, b=[1.0], a=[1.0]),
        frame_of(2, a=[2.0], b=[2.0]),
        frame_of(3, a=[3], b=[3.0]),
        frame_of(4, a=[4.0], b=[4.0]),
    ]
    files.sink.apply(RUN, Offset(2), frames)
    assert files.sql("SELECT first_ordinal, last_ordinal, row_count FROM segments") == [
        (0, 4, 3),
        (1, 1, 1),
        (3, 3, 1),
    ]


def test_metrics_logged_together_share_their_axes(files: Files) -> None:
    """Ordinals, steps and times are kept, and read, once for all metrics of a frame."""
    files.sink.start(Offset(1), start_of())
    files.sink.apply(RUN, Offset(2), [frame_of(0, a=[1.0, 2.0], b=[3.0, 4.0], c=[True, False])])
    assert files.sql("SELECT count(*) FROM segments") == [(1,)]
    series = files.store.read_series(RUN)
    assert series["a"].steps is series["b"].steps is series["c"].steps
    assert series["a"].steps.tolist() == [0, 10]


def test_a_column_knows_its_range_without_its_nans(files: Files) -> None:
    """Least and largest number and the count of NaN; no range where there is no number."""
    nan, inf = float("nan"), float("inf")
    files.sink.start(Offset(1), start_of())
    frame = frame_of(0, a=[nan, 2.0, -inf], b=[nan] * 3, c=[3, -4, 5], d=[True, False, True])
    files.sink.apply(RUN, Offset(2), [frame])
    assert files.sql("SELECT minimum, maximum, nan_count FROM columns ORDER BY position") == [
        (-inf, 2.0, 1),
        (None, None, 3),
        (-4.0, 5.0, 0),
        (0.0, 1.0, 0),
    ]


NAMES = ("a", "b", "c")
SCALARS = st.one_of(st.floats(), st.integers(-(2**63), 2**63 - 1), st.booleans())
CALLS = st.lists(
    st.lists(st.dictionaries(st.sampled_from(NAMES), SCALARS), min_size=1, max_size=4), max_size=12
)


@settings(max_examples=60, deadline=None)
@given(calls=CALLS, reopened=st.sets(st.integers(0, 12)))
def test_folding_changes_nothing_that_is_read(
    tmp_path_factory: pytest.TempPathFactory,
    calls: list[list[dict[str, float | int | bool]]],
    reopened: set[int],
) -> None:
    """Rows and series are those logged, and small segments stay few, wherever folds happen."""
    files = Files(tmp_path_factory.mktemp("store"))
    logged = [row for call in calls for row in call]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store_segments, "SEGMENT_ROWS", 3)
        files.sink.start(Offset(1), start_of())
        ordinal = 0
        for number, call in enumerate(calls):
            if number in reopened:
                files.reopen()
            frames = [
                Frame(
                    ordinal + i,
                    np.array([-ordinal - i]),
                    np.array([ordinal + i]),
                    {key: np.array([value]) for key, value in row.items()},
                )
                for i, row in enumerate(call)
            ]
            files.sink.apply(RUN, Offset(2 + number), frames)
            ordinal += len(call)
    expected = [(i, -i, i, repr(row)) for i, row in enumerate(logged)]
    assert [(*place, repr(row)) for *place, row in files.store.rows(RUN)] == expected
    series = files.store.read_series(RUN)
    assert set(series) == {key for row in logged for key in row}
    for key, points in series.items():
        column = np.array([row[key] for row in logged if key in row])
        assert points.ordinals.tolist() == [i for i, row in enumerate(logged) if key in row]
        np.testing.assert_array_equal(points.values, column, strict=True)
    small = "SELECT sum(row_count) FROM segments WHERE row_count < 3 GROUP BY signature_id"
    assert all(rows < 3 for (rows,) in files.sql(small))
    files.close()


def test_a_metric_whose_type_changes_comes_in_the_type_that_holds_all(files: Files) -> None:
    """Of one type it keeps it to the last digit; integers become float64 among floats."""
    big = 2**63 - 1
    files.sink.start(Offset(1), start_of())
    files.sink.apply(
        RUN, Offset(2), [frame_of(0, mixed=[1, 2], int=[big, -big], flag=[True, True])]
    )
    files.sink.apply(RUN, Offset(3), [frame_of(2, mixed=[0.5]), frame_of(3, flag=[2])])
    files.sink.apply(RUN, Offset(4), [frame_of(4, mixed=[3], int=[0], flag=[False])])
    series = files.store.read_series(RUN)
    assert series["int"].values.dtype == np.int64
    assert series["int"].values.tolist() == [big, -big, 0]
    assert series["mixed"].values.dtype == np.float64
    assert series["mixed"].values.tolist() == [1.0, 2.0, 0.5, 3.0]
    assert series["mixed"].ordinals.tolist() == [0, 1, 2, 4]
    assert series["mixed"].steps.tolist() == [0, 10, 20, 40]
    assert series["flag"].values.dtype == np.int64
    assert series["flag"].values.tolist() == [1, 1, 2, 0]


def test_several_metrics_are_read_by_name(files: Files) -> None:
    """Few or many of them, unknown ones left out; of an unknown run there are none."""
    wide = {f"m{number}": [float(number)] for number in range(700)}
    files.sink.start(Offset(1), start_of())
    files.sink.apply(RUN, Offset(2), [frame_of(0, **wide)])
    assert files.store.keys(RUN) == list(wide)
    assert list(files.store.read_series(RUN, ["m7", "none"])) == ["m7"]
    many = files.store.read_series(RUN, [f"m{number}" for number in range(100, 700)])
    assert {key: series.values.tolist() for key, series in many.items()} == {
        key: value for key, value in wide.items() if int(key[1:]) >= 100
    }
    assert len(files.store.series(RUN, "none")) == 0
    assert files.store.read_series(RunId("other")) == {}
    assert files.store.keys(RunId("other")) == []
    assert files.store.run(RunId("other")) is None
    assert list(files.store.rows(RunId("other"))) == []


def test_the_summary_is_each_metric_s_last_value_under_what_was_set(files: Files) -> None:
    """Last by ordinal, in the type it was logged; what was set explicitly stands above it."""
    files.sink.start(Offset(1), start_of())
    first = [frame_of(0, a=[1.0, 2.0], n=[7, 8]), frame_of(2, a=[3.0]), frame_of(3, ok=[True])]
    files.sink.apply(RUN, Offset(2), first)
    assert files.store.run(RUN).summary == {"a": 3.0, "n": 8, "ok": True}  # type: ignore[union-attr]
    files.sink.apply(RUN, Offset(3), [SummaryUpdate({"ok": "set", "best": 1})])
    files.sink.apply(RUN, Offset(4), [frame_of(4, a=[4.0], n=[9]), frame_of(5, ok=[False])])
    summary = files.store.run(RUN).summary  # type: ignore[union-attr]
    assert summary == {"a": 4.0, "n": 9, "ok": "set", "best": 1}
    assert type(summary["n"]) is int


def test_a_run_knows_its_figures_and_where_it_stands(files: Files) -> None:
    """Rows, the largest step even if later ones go back, times, the end, the cursor."""
    process = ProcessIdentity("boot", 2**64 - 1, 42, 12_345)
    environment = Environment("node", process, "train.py", "3.11.7", "Linux", "0.1")
    files.sink.start(Offset(1), start_of(environment=environment, notes="n", group="g"))
    run = files.store.run(RUN)
    assert run is not None
    assert (run.row_count, run.last_step, run.end_time_unix_nano, run.cursor) == (0, None, None, 1)
    assert (run.environment, run.notes, run.group) == (environment, "n", "g")
    files.sink.apply(RUN, Offset(2), [frame_of(9, a=[1.0, 2.0])])
    files.sink.apply(RUN, Offset(3), [frame_of(3, a=[1.0])])
    finish = RunFinish(RUN, WriterId("w"), RunState.FINISHED, 0, "", {}, 5_000)
    files.sink.finish(Offset(4), finish)
    run = files.store.run(RUN)
    assert run is not None
    assert (run.row_count, run.last_step, run.cursor) == (3, 100, 4)
    assert (run.state, run.exit_code) == (RunState.FINISHED, 0)
    assert (run.start_time_unix_nano, run.end_time_unix_nano) == (1_000, 5_000)


def test_what_is_found_after_the_end_leaves_state_and_events_alone(files: Files) -> None:
    """Nobody sees the run live again for a moment; a trainer that comes back does make it live."""
    alert = Alert("nan in loss", "", AlertLevel.ERROR, 1_002)
    finish = RunFinish(RUN, WriterId("w"), RunState.CRASHED, 1, "gone", {"a": 1}, 5_000)
    files.sink.start(Offset(1), start_of())
    files.sink.apply(RUN, Offset(2), [frame_of(0, loss=[1.0, 2.0])])
    files.sink.finish(Offset(3), finish)
    found: list[Record] = [frame_of(2, **{"anomaly/nan": [1]}), alert, SummaryUpdate({"a": 1})]
    files.sink.apply(RUN, Offset(4), found)
    run = files.store.run(RUN)
    assert run is not None
    assert (run.state, run.exit_code, run.end_time_unix_nano) == (RunState.CRASHED, 1, 5_000)
    files.sink.finish(Offset(5), finish)
    kinds = [event.kind for event in files.store.events(RUN)]
    assert kinds == [EventKind.STARTED, EventKind.ENDED]
    files.sink.apply(RUN, Offset(6), [frame_of(3, loss=[1.0], **{"anomaly/nan": [1]}), alert])
    run = files.store.run(RUN)
    assert run is not None
    assert run.state is RunState.RUNNING
    files.sink.finish(Offset(7), finish)
    kinds = [event.kind for event in files.store.events(RUN)]
    assert kinds == [EventKind.STARTED, EventKind.ENDED, EventKind.ENDED]


def test_runs_come_latest_first_in_pages_that_neither_repeat_nor_skip(files: Files) -> None:
    """Even for runs of the same moment, and while later ones start; by project or all."""
    for number, time in enumerate([3, 1, 2, 2, 2]):
        project = "even" if number % 2 == 0 else "odd"
        start = start_of(f"r{number}", time_unix_nano=time, project=project)
        files.sink.start(Offset(1 + number), start)
    names = [run.run_id for run in files.store.runs()]
    assert names == ["r0", "r4", "r3", "r2", "r1"]
    assert [run.run_id for run in files.store.runs("even")] == ["r0", "r4", "r2"]
    assert files.store.runs("none") == []
    page = files.store.runs(limit=2)
    files.sink.start(Offset(9), start_of("late", time_unix_nano=9))
    read = [run.run_id for run in page]
    while page:
        page = files.store.runs(limit=2, before=page[-1].page_key)
        read += [run.run_id for run in page]
    assert read == names


def test_readers_see_whole_changes_while_the_writer_works(files: Files) -> None:
    """A read that has begun goes on with what it began with; a later one has all."""
    files.sink.start(Offset(1), start_of())
    files.sink.apply(RUN, Offset(2), [frame_of(0, a=[0.0] * 1_000)])
    rows = files.store.rows(RUN)
    next(rows)
    files.sink.apply(RUN, Offset(3), [frame_of(1_000, a=[1.0] * 100)])  # folds under its eyes
    assert sum(1 for _ in rows) == 999
    assert len(files.store.series(RUN, "a")) == 1_100


def test_a_call_that_found_the_store_locked_counts_for_nothing_and_can_be_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It raises SinkError, and the same call takes effect once when the lock has gone."""
    monkeypatch.setattr(store_sqlite, "BUSY_TIMEOUT_S", 0.0)
    files = Files(tmp_path)
    files.sink.start(Offset(1), start_of())
    with closing(sqlite3.connect(files.path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(SinkError):
            files.sink.apply(RUN, Offset(2), [frame_of(0, a=[1.0])])
        other.execute("ROLLBACK")
    assert files.sink.position(RUN) == 1
    files.sink.apply(RUN, Offset(2), [frame_of(0, a=[1.0])])
    assert (files.sink.position(RUN), files.sink.row_count(RUN)) == (2, 1)
    assert len(list(files.store.rows(RUN))) == 1
    files.close()


def test_a_call_that_found_the_disk_full_counts_for_nothing_and_can_be_repeated(
    files: Files,
) -> None:
    """It raises SinkError, also when rows were written and the rest had no room."""
    files.sink.start(Offset(1), start_of())
    files.sink.apply(RUN, Offset(2), [frame_of(0, a=[1.0])])
    with files.sink._connection.begin():
        pages = files.sink._connection.exec_driver_sql("PRAGMA page_count").scalar_one()
        files.sink._connection.exec_driver_sql(f"PRAGMA max_page_count = {pages + 4}")
    call: list[Record] = [ConfigUpdate({"lr": 1}), frame_of(1, b=[2.0] * 4_000)]
    with pytest.raises(SinkError):
        files.sink.apply(RUN, Offset(3), call)
    assert (files.sink.position(RUN), files.sink.row_count(RUN)) == (2, 1)
    assert files.store.keys(RUN) == ["a"]
    with files.sink._connection.begin():
        files.sink._connection.exec_driver_sql("PRAGMA max_page_count = 100000")
    files.sink.apply(RUN, Offset(3), call)
    assert (files.sink.position(RUN), files.sink.row_count(RUN)) == (3, 4_001)
    assert files.store.keys(RUN) == ["a", "b"]


_WRITER = """
import sys
import numpy as np
from pillion_sidecar.records import Frame, RunId
from pillion_sidecar.sinks.store import StoreSink

sink = StoreSink(sys.argv[1])
offset = sink.position(RunId("run"))
while True:
    offset += 1
    ordinals = np.arange(100) + 100 * offset
    columns = {"a": ordinals / 3, "b": ordinals % 2 == 0}
    sink.apply(RunId("run"), offset, [Frame(100 * offset, ordinals, ordinals, columns)])
    print(offset, flush=True)
"""


def test_rows_are_there_exactly_once_when_the_writer_is_killed_again_and_again(
    files: Files,
) -> None:
    """What a call returned for is there, the call it died in is there as a whole or not at all."""
    files.sink.start(Offset(1), start_of())
    files.sink.close()
    for calls in (1, 14, 25, 33):
        command = [sys.executable, "-c", _WRITER, files.url]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
            assert writer.stdout is not None
            returned = [int(writer.stdout.readline()) for _ in range(calls)]
            writer.send_signal(signal.SIGKILL)
        files.sink = StoreSink(files.url)
        position = files.sink.position(RUN)
        files.sink.close()
        assert position >= returned[-1]
        ordinals = range(200, 100 * position + 100)
        assert list(files.store.rows(RUN)) == [
            (n, n, n, {"a": n / 3, "b": n % 2 == 0}) for n in ordinals
        ]
    files.sink = StoreSink(files.url)
