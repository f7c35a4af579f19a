"""What every sink keeps to. One suite; a sink joins with a harness of its own in `HARNESSES`."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pillion_sidecar.records import (
    ConfigUpdate,
    Environment,
    Frame,
    LostRange,
    Offset,
    Record,
    RunFinish,
    RunId,
    RunStart,
    RunState,
    SummaryUpdate,
    WriterId,
)
from pillion_sidecar.sinks import Sink
from pillion_sidecar.sinks.memory import MemorySink
from pillion_sidecar.sinks.store import StoreSink
from pillion_sidecar.store import Store

RUN, OTHER_RUN = RunId("run"), RunId("other-run")
INT64 = st.integers(-(2**63), 2**63 - 1)


@dataclass(frozen=True)
class Seen:
    """A run as a sink's users see it."""

    project: str
    name: str
    tags: tuple[str, ...]
    config: Mapping[str, Any]
    summary: Mapping[str, Any]
    state: RunState
    exit_code: int | None
    reason: str
    lost_row_count: int
    rows: list[tuple[int, int, int, dict[str, float | int | bool]]]


class Harness(Protocol):
    """Opens one kind of sink and looks into it."""

    is_durable: ClassVar[bool]
    """Whether data and cursor outlive the sink, and what lies before the cursor is ignored."""

    def __init__(self, directory: Path, /) -> None:
        """Keep everything in this directory."""

    def open(self) -> Sink:
        """Open a sink; if one was closed here, go on with what it had."""

    def settle(self, sink: Sink) -> None:
        """Have the sink confirm all that it was handed."""

    def see(self, run_id: RunId) -> Seen:
        """Read what the sink has of a run that is settled."""


class MemoryHarness:
    """Opens the one sink that it has."""

    is_durable: ClassVar[bool] = False

    def __init__(self, _directory: Path) -> None:
        self._sink = MemorySink()

    def open(self) -> Sink:
        """See `Harness`."""
        return self._sink

    def settle(self, sink: Sink) -> None:
        """See `Harness`."""
        sink.flush()

    def see(self, run_id: RunId) -> Seen:
        """See `Harness`."""
        run = self._sink.runs[run_id]
        return Seen(
            project=run.start.project,
            name=run.start.name,
            tags=tuple(run.tags),
            config=run.config,
            summary=run.summary,
            state=run.state,
            exit_code=run.finish.exit_code if run.finish else None,
            reason=run.finish.reason if run.finish else "",
            lost_row_count=run.lost_row_count,
            rows=run.rows,
        )


class StoreHarness:
    """Reads with the store's own reads."""

    is_durable: ClassVar[bool] = True

    def __init__(self, directory: Path) -> None:
        self._url = f"sqlite:///{directory}/store.db"

    def open(self) -> Sink:
        """See `Harness`."""
        return StoreSink(self._url)

    def settle(self, sink: Sink) -> None:
        """See `Harness`."""
        sink.flush()

    def see(self, run_id: RunId) -> Seen:
        """See `Harness`."""
        store = Store(self._url)
        run = store.run(run_id)
        assert run is not None
        seen = Seen(
            project=run.project,
            name=run.name,
            tags=run.tags,
            config=run.config,
            summary=run.summary,
            state=run.state,
            exit_code=run.exit_code,
            reason=run.reason,
            lost_row_count=run.lost_row_count,
            rows=list(store.rows(run_id)),
        )
        store.close()
        return seen


HARNESSES: list[type[Harness]] = [MemoryHarness, StoreHarness]
DURABLE = [harness for harness in HARNESSES if harness.is_durable]

every_sink = pytest.mark.parametrize("harness_class", HARNESSES)
every_durable_sink = pytest.mark.parametrize("harness_class", DURABLE)


@pytest.fixture
def harness(harness_class: type[Harness], tmp_path: Path) -> Harness:
    """Set up the sink under test in a directory of its own."""
    return harness_class(tmp_path)


@pytest.fixture
def sink(harness: Harness) -> Iterator[Sink]:
    """Open the sink under test."""
    sink = harness.open()
    yield sink
    sink.close()


def start_of(run_id: RunId = RUN, *, writer: str = "w1", **changed: Any) -> RunStart:
    """Make a start that says little but what is given."""
    fields: dict[str, Any] = {
        "run_id": run_id,
        "writer_id": WriterId(writer),
        "project": "demo",
        "name": "first",
        "group": "",
        "job_type": "train",
        "tags": (),
        "notes": "",
        "config": {},
        "environment": Environment(host="node-1"),
        "time_unix_nano": 1_000,
    }
    return RunStart(**fields | changed)


def finish_of(run_id: RunId = RUN, **changed: Any) -> RunFinish:
    """Make the end of a run that failed."""
    fields: dict[str, Any] = {
        "run_id": run_id,
        "writer_id": WriterId("w1"),
        "state": RunState.FAILED,
        "exit_code": 3,
        "reason": "out of memory",
        "summary": {},
        "time_unix_nano": 2_000,
    }
    return RunFinish(**fields | changed)


def frame_of(first_ordinal: int, *losses: float) -> Frame:
    """Make rows of one metric."""
    ordinals = np.arange(first_ordinal, first_ordinal + len(losses))
    return Frame(first_ordinal, ordinals * 10, ordinals + 1_000, {"loss": np.array(losses)})


@every_sink
def test_a_started_run_is_running_as_its_first_writer_said(harness: Harness, sink: Sink) -> None:
    """All that the first writer says is taken."""
    config = {"lr": 1e-3, "layers": [1, {"n": 2}], "seed": 2**80, "key": b"\x00\xff", "none": None}
    sink.start(Offset(5), start_of(tags=("a", "b"), config=config))
    harness.settle(sink)
    seen = harness.see(RUN)
    assert (seen.project, seen.name, seen.tags) == ("demo", "first", ("a", "b"))
    assert seen.config == config
    assert (seen.state, seen.exit_code, seen.reason) == (RunState.RUNNING, None, "")
    assert (seen.rows, seen.summary, seen.lost_row_count) == ([], {}, 0)


@every_sink
def test_a_second_writer_merges_config_and_adds_tags(harness: Harness, sink: Sink) -> None:
    """Of a writer that joins, only config and tags count; the rest stays the first one's."""
    sink.start(Offset(1), start_of(tags=("a", "b"), config={"x": 1, "y": {"z": 1}}))
    joining = start_of(
        writer="w2", name="second", project="elsewhere", tags=("b", "c"), config={"y": 2, "w": 3}
    )
    sink.start(Offset(2), joining)
    harness.settle(sink)
    seen = harness.see(RUN)
    assert (seen.project, seen.name, seen.tags) == ("demo", "first", ("a", "b", "c"))
    assert seen.config == {"x": 1, "y": 2, "w": 3}


@every_sink
def test_records_are_taken_in_order(harness: Harness, sink: Sink) -> None:
    """Of values for one key the last stands; rows keep the order of their ordinals."""
    sink.start(Offset(1), start_of(config={"lr": 1}))
    records: list[Record] = [
        ConfigUpdate({"lr": 2, "new": True}),
        frame_of(0, 3.0, 2.0),
        SummaryUpdate({"best": 1}),
        frame_of(2, 1.0),
        ConfigUpdate({"lr": 3}),
        SummaryUpdate({"best": 2}),
    ]
    sink.apply(RUN, Offset(2), records)
    harness.settle(sink)
    seen = harness.see(RUN)
    assert seen.config == {"lr": 3, "new": True}
    assert seen.summary["best"] == 2
    assert seen.rows == [
        (0, 0, 1_000, {"loss": 3.0}),
        (1, 10, 1_001, {"loss": 2.0}),
        (2, 20, 1_002, {"loss": 1.0}),
    ]


@every_sink
def test_a_finished_run_has_its_end_and_last_summary(harness: Harness, sink: Sink) -> None:
    """State, exit code and reason are kept; the summary is merged over what was set before."""
    sink.start(Offset(1), start_of())
    sink.apply(RUN, Offset(2), [SummaryUpdate({"best": 1, "at": 5})])
    sink.finish(Offset(3), finish_of(summary={"best": 2}))
    harness.settle(sink)
    seen = harness.see(RUN)
    assert (seen.state, seen.exit_code, seen.reason) == (RunState.FAILED, 3, "out of memory")
    assert seen.summary == {"best": 2, "at": 5}


@every_sink
def test_a_summary_set_explicitly_stands_against_logged_values(
    harness: Harness, sink: Sink
) -> None:
    """Whether a row comes before or after, what was set stays."""
    sink.start(Offset(1), start_of())
    sink.apply(RUN, Offset(2), [frame_of(0, 3.0), SummaryUpdate({"loss": 0.5})])
    sink.apply(RUN, Offset(3), [frame_of(1, 2.0)])
    harness.settle(sink)
    assert harness.see(RUN).summary["loss"] == 0.5


@every_sink
@pytest.mark.parametrize("comes_back", ["start", "apply"])
def test_a_finished_run_is_open_again_when_a_writer_comes_back(
    harness: Harness, sink: Sink, comes_back: str
) -> None:
    """A start, and late records too, make it RUNNING, with no trace of the end."""
    sink.start(Offset(1), start_of())
    sink.apply(RUN, Offset(2), [frame_of(0, 3.0)])
    sink.finish(Offset(3), finish_of())
    if comes_back == "start":
        sink.start(Offset(4), start_of(writer="w2"))
    else:
        sink.apply(RUN, Offset(4), [frame_of(1, 2.0)])
    harness.settle(sink)
    seen = harness.see(RUN)
    assert (seen.state, seen.exit_code, seen.reason) == (RunState.RUNNING, None, "")
    assert len(seen.rows) == (1 if comes_back == "start" else 2)


@every_sink
def test_the_cursor_is_the_last_offset_taken(harness: Harness, sink: Sink) -> None:
    """Start, apply and finish each move it; an unknown run has none."""
    assert sink.position(RUN) == 0
    calls: dict[int, Callable[[], None]] = {
        3: lambda: sink.start(Offset(3), start_of()),
        7: lambda: sink.apply(RUN, Offset(7), [frame_of(0, 1.0)]),
        8: lambda: sink.apply(RUN, Offset(8), []),
        12: lambda: sink.finish(Offset(12), finish_of()),
    }
    for offset, call in calls.items():
        call()
        harness.settle(sink)
        assert sink.position(RUN) == offset


@every_sink
def test_runs_have_cursors_and_rows_of_their_own(harness: Harness, sink: Sink) -> None:
    """What one run is given moves nothing of another."""
    sink.start(Offset(1), start_of())
    sink.start(Offset(2), start_of(OTHER_RUN))
    sink.apply(RUN, Offset(3), [frame_of(0, 1.0, 2.0)])
    sink.apply(OTHER_RUN, Offset(4), [frame_of(0, 3.0)])
    sink.apply(RUN, Offset(5), [frame_of(2, 4.0)])
    sink.finish(Offset(6), finish_of(OTHER_RUN))
    harness.settle(sink)
    assert (sink.position(RUN), sink.position(OTHER_RUN)) == (5, 6)
    assert (sink.row_count(RUN), sink.row_count(OTHER_RUN)) == (3, 1)
    assert harness.see(RUN).state == RunState.RUNNING
    assert [row[3]["loss"] for row in harness.see(OTHER_RUN).rows] == [3.0]


@every_sink
def test_rows_are_counted(harness: Harness, sink: Sink) -> None:
    """An unknown run has none, and only rows count."""
    assert sink.row_count(RUN) == 0
    sink.start(Offset(1), start_of())
    sink.apply(RUN, Offset(2), [frame_of(0, 1.0, 2.0), ConfigUpdate({"x": 1}), frame_of(5, 3.0)])
    sink.apply(RUN, Offset(3), [LostRange(4, 6, 100)])
    harness.settle(sink)
    assert sink.row_count(RUN) == 3


@every_sink
def test_lost_rows_are_summed_up(harness: Harness, sink: Sink) -> None:
    """Every lost range of the run counts, across calls."""
    sink.start(Offset(1), start_of())
    sink.apply(RUN, Offset(2), [LostRange(4, 6, 100), LostRange(8, 8, 11)])
    sink.apply(RUN, Offset(3), [LostRange(9, 9, 1)])
    harness.settle(sink)
    assert harness.see(RUN).lost_row_count == 112


@every_durable_sink
def test_a_reopened_sink_goes_on_at_its_cursor(harness: Harness) -> None:
    """Position and data outlive the sink, of runs that have ended and of those that have not."""
    sink = harness.open()
    sink.start(Offset(1), start_of(config={"lr": 1}))
    sink.apply(RUN, Offset(2), [frame_of(0, 1.0), LostRange(1, 1, 5), SummaryUpdate({"x": 1})])
    sink.start(Offset(3), start_of(OTHER_RUN))
    sink.finish(Offset(4), finish_of(OTHER_RUN))
    harness.settle(sink)
    before = harness.see(RUN), harness.see(OTHER_RUN)
    sink.close()

    sink = harness.open()
    assert (sink.position(RUN), sink.row_count(RUN)) == (2, 1)
    assert (sink.position(OTHER_RUN), sink.row_count(OTHER_RUN)) == (4, 0)
    assert (harness.see(RUN), harness.see(OTHER_RUN)) == before
    sink.apply(RUN, Offset(5), [frame_of(1, 2.0)])
    harness.settle(sink)
    assert [row[3]["loss"] for row in harness.see(RUN).rows] == [1.0, 2.0]
    sink.close()


@every_durable_sink
def test_what_lies_before_the_cursor_is_ignored(harness: Harness, sink: Sink) -> None:
    """A replay of all calls changes nothing, the end of the run included."""
    calls: list[Callable[[], None]] = [
        lambda: sink.start(Offset(1), start_of(tags=("a",), config={"lr": 1})),
        lambda: sink.apply(RUN, Offset(2), [frame_of(0, 1.0), LostRange(1, 1, 5)]),
        lambda: sink.apply(RUN, Offset(3), [ConfigUpdate({"lr": 2}), SummaryUpdate({"best": 1})]),
        lambda: sink.finish(Offset(4), finish_of(summary={"best": 2})),
    ]
    for call in calls:
        call()
    harness.settle(sink)
    before = harness.see(RUN)
    for call in calls:
        call()
    harness.settle(sink)
    assert harness.see(RUN) == before
    assert (sink.position(RUN), sink.row_count(RUN)) == (4, 1)


Logged = tuple[int, int, dict[str, float | int | bool]]

logged_rows: st.SearchStrategy[list[Logged]] = st.lists(
    st.tuples(
        INT64,
        INT64,
        st.dictionaries(
            st.sampled_from(["loss", "eval/acc", "µ", "x" * 100]),
            st.one_of(st.floats(), INT64, st.booleans()),
        ),
    ),
    max_size=30,
)


def frames_of(rows: Sequence[Logged], first_ordinal: int) -> list[Frame]:
    """Group rows as a trainer's sender does: consecutive ones with the same keys and types."""

    def signature(row: Logged) -> list[tuple[str, type]]:
        return [(key, type(value)) for key, value in row[2].items()]

    frames = []
    for _, group in groupby(rows, signature):
        steps, times, values = zip(*group, strict=True)
        columns = {key: np.array([row[key] for row in values]) for key in values[0]}
        frames.append(
            Frame(first_ordinal, np.array(steps, np.int64), np.array(times, np.int64), columns)
        )
        first_ordinal += len(steps)
    return frames


def exactly(row: tuple[Any, ...]) -> tuple[Any, ...]:
    """Make rows comparable bit by bit: NaN equals NaN, -0.0 and 0 and False differ."""
    *places, values = row
    return *places, [(key, repr(value)) for key, value in values.items()]


@every_sink
@settings(max_examples=40, deadline=None)
@given(rows=logged_rows, cuts=st.sets(st.integers(0, 30)), hole=st.integers(0, 5))
def test_rows_come_back_exactly_once_and_in_order(
    harness_class: type[Harness],
    tmp_path_factory: pytest.TempPathFactory,
    rows: list[Logged],
    cuts: set[int],
    hole: int,
) -> None:
    """Whatever is logged, in whatever slices it comes, with holes in the ordinals between them."""
    harness = harness_class(tmp_path_factory.mktemp("sink"))
    sink = harness.open()
    sink.start(Offset(1), start_of())
    expected = []
    bounds = sorted({0, len(rows), *(cut for cut in cuts if cut < len(rows))})
    for number, (first, end) in enumerate(pairwise(bounds)):
        ordinal = first + number * hole
        sink.apply(RUN, Offset(2 + number), frames_of(rows[first:end], ordinal))
        expected += [(ordinal + i, *row) for i, row in enumerate(rows[first:end])]
    harness.settle(sink)
    assert [exactly(row) for row in harness.see(RUN).rows] == [exactly(row) for row in expected]
    assert sink.row_count(RUN) == len(rows)
    sink.close()
