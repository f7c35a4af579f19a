"""What every sink keeps to. One suite; a sink joins with a harness of its own in `HARNESSES`.

A `Delivery` drives the sink as the worker does, so what a sink may ask of the worker it may ask
here. What a sink has no place for is said by its harness, with the reason.
"""

import hashlib
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from itertools import chain, count, groupby, pairwise
from pathlib import Path
from typing import Any, ClassVar, Protocol
from unittest import mock

import numpy as np
import pytest
from faults.oracle import nested
from hypothesis import example, given, settings
from hypothesis import strategies as st
from postgresql import PostgresqlServer

from pillion._png import encode_png
from pillion.process import process_identity
from pillion_sidecar import columns
from pillion_sidecar import replay as replay_module
from pillion_sidecar.blobs import Blobs
from pillion_sidecar.columns import Logged, Media, to_column
from pillion_sidecar.environment import GitState, Gpu, Package
from pillion_sidecar.errors import SinkError
from pillion_sidecar.records import (
    Alert,
    AlertLevel,
    BlobChunk,
    ConfigUpdate,
    ConsoleLines,
    ConsoleStream,
    Environment,
    Frame,
    LostRange,
    MetricDefinition,
    Offset,
    Record,
    RunFinish,
    RunId,
    RunStart,
    RunState,
    RunUpdate,
    Summarizing,
    SummaryUpdate,
    WriterId,
)
from pillion_sidecar.sinks import Sink, wandb, wandb_trainer
from pillion_sidecar.sinks.memory import MemorySink
from pillion_sidecar.sinks.store import StoreSink
from pillion_sidecar.sinks.wandb import WandbSink
from pillion_sidecar.sinks.wandb_file import RecordReader, read_wandb_file
from pillion_sidecar.store import Store

RUN, OTHER_RUN = RunId("run"), RunId("other-run")
INT64 = st.integers(-(2**63), 2**63 - 1)

Entry = RunStart | RunFinish | Sequence[Record]
WaitUntil = Callable[[Callable[[], Any]], Any]


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
    rows: list[tuple[int, int, int, dict[str, Logged]]]
    console: list[str]
    notes: str = ""
    alerts: Sequence[Alert] = ()


class Harness(Protocol):
    """Opens one kind of sink and looks into it."""

    is_durable: ClassVar[bool]
    """Whether what has ended outlives the sink, and what lies before the cursor is ignored."""
    may_fall_back: ClassVar[bool]
    """Whether the cursor goes back to 0, as the contract lets it: of a run that has not ended when
    the sink is opened again, and with a SinkError of one that goes on after its end."""
    is_replayed: ClassVar[bool]
    """Whether it is given from the store what the journal no longer has."""
    comparable: ClassVar[Callable[[Any], Any]]
    """Makes rows and config comparable, as exactly as the sink keeps them."""

    def __init__(self, directory: Path, wait_until: WaitUntil, /) -> None:
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
    may_fall_back: ClassVar[bool] = False
    is_replayed: ClassVar[bool] = True
    comparable = staticmethod(repr)

    def __init__(self, _directory: Path, _wait_until: WaitUntil) -> None:
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
            console=[line for piece in run.console for line in piece.lines],
            notes=run.start.notes,
            alerts=run.alerts,
        )


class StoreHarness:
    """Reads with the store's own reads; it is a file of SQLite's."""

    is_durable: ClassVar[bool] = True
    may_fall_back: ClassVar[bool] = False
    is_replayed: ClassVar[bool] = False
    comparable = staticmethod(repr)

    def __init__(self, directory: Path, _wait_until: WaitUntil) -> None:
        self.url = f"sqlite:///{directory}/store.db"
        self.blobs = Blobs(directory / "blobs")

    def open(self) -> Sink:
        """See `Harness`."""
        return StoreSink(self.url, self.blobs)

    def settle(self, sink: Sink) -> None:
        """See `Harness`."""
        sink.flush()

    def see(self, run_id: RunId) -> Seen:
        """See `Harness`."""
        store = Store(self.url)
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
            console=[line for piece in store.console(run_id) for line in piece.lines],
            notes=run.notes,
            alerts=store.alerts(run_id),
        )
        store.close()
        return seen


class PostgresqlHarness(StoreHarness):
    """The same in PostgreSQL, a schema per test."""

    def __init__(self, directory: Path, wait_until: WaitUntil, server: PostgresqlServer) -> None:
        super().__init__(directory, wait_until)
        self.url = server.new_url()


STORES = [StoreHarness, PostgresqlHarness]


def as_json(value: Any) -> Any:
    """Make values comparable of which one went through W&B's JSON: 2.0 is 2 there, -0.0 is 0.

    Bytes are text. NaN is made equal to NaN, and True not to 1.
    """
    match value:
        case bytes():
            return value.decode(errors="backslashreplace")
        case bool():
            return repr(value)
        case float() if math.isnan(value):
            return "nan"
        case list() | tuple():
            return [as_json(element) for element in value]
        case Mapping():
            return {key: as_json(element) for key, element in value.items()}
    return value


class WandbHarness:
    """Reads the `.wandb` files of the real SDK: the one that is being written, else the shown."""

    is_durable: ClassVar[bool] = True
    may_fall_back: ClassVar[bool] = True
    is_replayed: ClassVar[bool] = True
    comparable = staticmethod(as_json)

    def __init__(self, directory: Path, wait_until: WaitUntil) -> None:
        self._directory, self._wait_until = directory, wait_until
        self._marks = count()

    def open(self) -> Sink:
        """See `Harness`."""
        self._sink = WandbSink(self._directory, blobs=Blobs(self._directory / "blobs"))
        return self._sink

    def settle(self, sink: Sink) -> None:
        """See `Harness`. Nothing tells when config or summary is written, but a mark behind it."""
        mark = next(self._marks)
        for run in self._sink._live.values():
            run.sdk_run.config.update({"_mark": mark}, allow_val_change=True)
            path = Path(run.sdk_run.settings.sync_file)
            self._wait_until(lambda path=path: read_wandb_file(path).config.get("_mark") == mark)
        sink.flush()

    def see(self, run_id: RunId) -> Seen:
        """See `Harness`."""
        live = self._sink._live.get(run_id)
        shown = self._directory.glob("wandb/*/*.wandb")
        paths = [Path(live.sdk_run.settings.sync_file)] if live else shown
        found = ((path, read_wandb_file(path)) for path in paths)
        ((path, file),) = (each for each in found if each[1].run_id == run_id)
        # While a run is live, W&B's summary follows its rows; what was set is put right at its end.
        logged = dict.fromkeys(chain(*file.rows), mock.ANY) if live else {}
        return Seen(
            project=file.project,
            name=file.name,
            tags=file.tags,
            config=without_wandbs_own(file.config),
            summary=without_wandbs_own(file.summary | logged),
            # Of an end W&B keeps the exit code, and nothing of what was lost.
            state=RunState.RUNNING if file.exit_code is None else mock.ANY,
            exit_code=file.exit_code,
            reason=mock.ANY,
            lost_row_count=mock.ANY,
            rows=[
                (
                    row["_step"],
                    row["global_step"],
                    pytest.approx(row["_timestamp"] * 1e9, rel=1e-15),  # a double, in seconds
                    {
                        key: from_wandb(value, path.parent / "files")
                        for key, value in nested(without_wandbs_own(row)).items()
                    },
                )
                for row in file.rows
            ],
            console=file.console,
            notes=file.notes,
            alerts=[
                Alert(title, text, AlertLevel[level], mock.ANY)
                for title, text, level in file.alerts
            ],
        )


def from_wandb(value: Any, folder: Path) -> Any:
    """Return what was logged for a value in W&B's form; files are read from the run's folder."""
    if not isinstance(value, dict):
        return value
    if value["_type"] == "histogram":
        return columns.Histogram(tuple(value["bins"]), tuple(value["values"]))
    names = value.get("filenames") or [value["path"]]
    captions = value.get("captions") or [value.get("caption")]
    files = []
    for name, caption in zip(names, captions, strict=True):
        data = (folder / name).read_bytes()
        digest = hashlib.sha256(data).hexdigest()
        attributes = {} if caption is None else {"caption": caption}
        files.append(Media(f"image/{Path(name).suffix[1:]}", digest, len(data), attributes))
    return tuple(files)


def without_wandbs_own(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the user logged or set."""
    return {k: v for k, v in values.items() if not k.startswith("_") and k != "global_step"}


HARNESSES: list[type[Harness]] = [MemoryHarness, *STORES, WandbHarness]
DURABLE = [harness for harness in HARNESSES if harness.is_durable]

every_sink = pytest.mark.parametrize("harness_class", HARNESSES)
REPLAYED = [harness for harness in HARNESSES if harness.is_replayed]
every_durable_sink = pytest.mark.parametrize("harness_class", DURABLE)
every_replayed_sink = pytest.mark.parametrize("harness_class", REPLAYED)


class Delivery:
    """Drives a sink as the worker does, with a run's entries as they would lie in the journal.

    Should the sink refuse to go on with a run that has ended, it gets what lies behind its cursor
    once more, if it may fall back. Any other SinkError fails the test.
    """

    def __init__(self, harness: Harness) -> None:
        self._harness = harness
        self.sink = harness.open()
        self._entries: dict[RunId, dict[Offset, Entry]] = {}

    def start(self, offset: int, start: RunStart) -> None:
        """Hand over a start."""
        self._go_on(start.run_id, Offset(offset), start)

    def apply(self, run_id: RunId, offset: int, records: Sequence[Record]) -> None:
        """Hand over records."""
        self._go_on(run_id, Offset(offset), records)

    def finish(self, offset: int, finish: RunFinish) -> None:
        """Hand over an end."""
        self._go_on(finish.run_id, Offset(offset), finish)

    def hand_over(self, run_id: RunId, *, behind: int) -> None:
        """Hand over once more what lies behind an offset."""
        for offset, entry in self._entries[run_id].items():
            if offset > behind:
                self._call(run_id, offset, entry)

    def settle(self) -> None:
        """Have the sink confirm all that it was handed."""
        self._harness.settle(self.sink)
        for run_id, entries in self._entries.items():
            assert self.sink.position(run_id) == max(entries)

    def reopen(self) -> None:
        """Replace the sink as a new worker does; nothing is handed over yet."""
        self.sink.close()
        self.sink = self._harness.open()

    def _go_on(self, run_id: RunId, offset: Offset, entry: Entry) -> None:
        entries = self._entries.setdefault(run_id, {})
        has_ended = bool(entries) and isinstance(entries[max(entries)], RunFinish)
        entries[offset] = entry
        try:
            self._call(run_id, offset, entry)
        except SinkError:
            if not (self._harness.may_fall_back and has_ended):
                raise
            assert self.sink.position(run_id) < offset
            self.hand_over(run_id, behind=self.sink.position(run_id))

    def _call(self, run_id: RunId, offset: Offset, entry: Entry) -> None:
        match entry:
            case RunStart():
                self.sink.start(offset, entry)
            case RunFinish():
                self.sink.finish(offset, entry)
            case records:
                self.sink.apply(run_id, offset, records)


@pytest.fixture(scope="module", autouse=True)
def surroundings() -> Iterator[None]:
    """Have W&B write without delay, and put back the environment that its sink has changed."""
    with pytest.MonkeyPatch.context() as patch, mock.patch.dict(os.environ):
        patch.setattr(wandb, "WRITE_INTERVAL_S", 0.01)
        yield


@pytest.fixture
def harness(
    harness_class: type[Harness],
    tmp_path: Path,
    wait_until: WaitUntil,
    request: pytest.FixtureRequest,
) -> Harness:
    """Set up the sink under test in a directory of its own."""
    if issubclass(harness_class, PostgresqlHarness):
        return harness_class(tmp_path, wait_until, request.getfixturevalue("postgresql"))
    return harness_class(tmp_path, wait_until)


@pytest.fixture
def delivery(harness: Harness) -> Iterator[Delivery]:
    """Open the sink under test, to be driven as the worker does."""
    delivery = Delivery(harness)
    yield delivery
    delivery.sink.close()


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


def console_of(*lines: str, stream: ConsoleStream = ConsoleStream.STDOUT) -> ConsoleLines:
    """Make what a trainer printed."""
    return ConsoleLines(stream, 1_000, lines)


@every_sink
def test_a_started_run_is_running_as_its_first_writer_said(
    harness: Harness, delivery: Delivery
) -> None:
    """All that the first writer says is taken."""
    config = {"lr": 1e-3, "layers": [1, {"n": 2}], "seed": 2**80, "key": b"\x00\xff", "none": None}
    delivery.start(5, start_of(tags=("a", "b"), config=config))
    delivery.settle()
    seen = harness.see(RUN)
    assert (seen.project, seen.name, seen.tags) == ("demo", "first", ("a", "b"))
    assert harness.comparable(seen.config) == harness.comparable(config)
    assert (seen.state, seen.exit_code, seen.reason) == (RunState.RUNNING, None, "")
    assert (seen.rows, seen.summary, seen.lost_row_count) == ([], {}, 0)


@every_sink
def test_a_second_writer_merges_config_and_adds_tags(harness: Harness, delivery: Delivery) -> None:
    """Of a writer that joins, only config and tags count; the rest stays the first one's."""
    delivery.start(1, start_of(tags=("a", "b"), config={"x": 1, "y": {"z": 1}}))
    joining = start_of(
        writer="w2", name="second", project="elsewhere", tags=("b", "c"), config={"y": 2, "w": 3}
    )
    delivery.start(2, joining)
    delivery.settle()
    seen = harness.see(RUN)
    assert (seen.project, seen.name, seen.tags) == ("demo", "first", ("a", "b", "c"))
    assert seen.config == {"x": 1, "y": 2, "w": 3}


@every_sink
def test_records_are_taken_in_order(harness: Harness, delivery: Delivery) -> None:
    """Of values for one key the last stands; rows keep the order of their ordinals."""
    delivery.start(1, start_of(config={"lr": 1}))
    records: list[Record] = [
        ConfigUpdate({"lr": 2, "new": True}),
        frame_of(0, 3.0, 2.0),
        SummaryUpdate({"best": 1}),
        frame_of(2, 1.0),
        ConfigUpdate({"lr": 3}),
        SummaryUpdate({"best": 2}),
    ]
    delivery.apply(RUN, 2, records)
    delivery.settle()
    seen = harness.see(RUN)
    assert seen.config == {"lr": 3, "new": True}
    assert seen.summary["best"] == 2
    assert seen.rows == [
        (0, 0, 1_000, {"loss": 3.0}),
        (1, 10, 1_001, {"loss": 2.0}),
        (2, 20, 1_002, {"loss": 1.0}),
    ]


@every_sink
def test_a_finished_run_has_its_end_and_last_summary(harness: Harness, delivery: Delivery) -> None:
    """State, exit code and reason are kept; the summary is merged over what was set before."""
    delivery.start(1, start_of())
    delivery.apply(RUN, 2, [SummaryUpdate({"best": 1, "at": 5, "deep": {"x": 2**70}})])
    delivery.finish(3, finish_of(summary={"best": 2}))
    delivery.settle()
    seen = harness.see(RUN)
    assert (seen.state, seen.exit_code, seen.reason) == (RunState.FAILED, 3, "out of memory")
    assert seen.summary == {"best": 2, "at": 5, "deep": {"x": 2**70}}


@every_sink
def test_a_summary_set_explicitly_stands_against_logged_values(
    harness: Harness, delivery: Delivery
) -> None:
    """Whether a row comes before or after, what was set stays."""
    delivery.start(1, start_of())
    delivery.apply(RUN, 2, [frame_of(0, 3.0), SummaryUpdate({"loss": 0.5})])
    delivery.apply(RUN, 3, [frame_of(1, 2.0)])
    delivery.settle()
    assert harness.see(RUN).summary == {"loss": 0.5}
    delivery.finish(4, finish_of())
    delivery.settle()
    assert harness.see(RUN).summary == {"loss": 0.5}


@every_sink
@pytest.mark.parametrize("comes_back", ["start", "apply"])
def test_a_finished_run_is_open_again_when_a_writer_comes_back(
    harness: Harness, delivery: Delivery, comes_back: str
) -> None:
    """A start, and late records too, make it RUNNING, with no trace of the end."""
    delivery.start(1, start_of())
    delivery.apply(RUN, 2, [frame_of(0, 3.0)])
    delivery.finish(3, finish_of())
    if comes_back == "start":
        delivery.start(4, start_of(writer="w2"))
    else:
        delivery.apply(RUN, 4, [frame_of(1, 2.0)])
    delivery.settle()
    seen = harness.see(RUN)
    assert (seen.state, seen.exit_code, seen.reason) == (RunState.RUNNING, None, "")
    assert len(seen.rows) == (1 if comes_back == "start" else 2)


@every_sink
def test_the_cursor_is_the_last_offset_taken(harness: Harness, delivery: Delivery) -> None:
    """Start, apply and finish each move it; an unknown run has none."""
    assert delivery.sink.position(RUN) == 0
    calls: dict[int, Callable[[], None]] = {
        3: lambda: delivery.start(3, start_of()),
        7: lambda: delivery.apply(RUN, 7, [frame_of(0, 1.0)]),
        8: lambda: delivery.apply(RUN, 8, []),
        12: lambda: delivery.finish(12, finish_of()),
    }
    for offset, call in calls.items():
        call()
        delivery.settle()
        assert delivery.sink.position(RUN) == offset


@every_sink
def test_runs_have_cursors_and_rows_of_their_own(harness: Harness, delivery: Delivery) -> None:
    """What one run is given moves nothing of another."""
    delivery.start(1, start_of())
    delivery.start(2, start_of(OTHER_RUN))
    delivery.apply(RUN, 3, [frame_of(0, 1.0, 2.0)])
    delivery.apply(OTHER_RUN, 4, [frame_of(0, 3.0)])
    delivery.apply(RUN, 5, [frame_of(2, 4.0)])
    delivery.finish(6, finish_of(OTHER_RUN))
    delivery.settle()
    assert (delivery.sink.position(RUN), delivery.sink.position(OTHER_RUN)) == (5, 6)
    assert (delivery.sink.row_count(RUN), delivery.sink.row_count(OTHER_RUN)) == (3, 1)
    assert harness.see(RUN).state == RunState.RUNNING
    assert [row[3]["loss"] for row in harness.see(OTHER_RUN).rows] == [3.0]


@every_sink
def test_rows_are_counted(harness: Harness, delivery: Delivery) -> None:
    """An unknown run has none, and only rows count."""
    assert delivery.sink.row_count(RUN) == 0
    delivery.start(1, start_of())
    delivery.apply(RUN, 2, [frame_of(0, 1.0, 2.0), ConfigUpdate({"x": 1}), frame_of(5, 3.0)])
    delivery.apply(RUN, 3, [LostRange(4, 6, 100)])
    delivery.settle()
    assert delivery.sink.row_count(RUN) == 3


@every_sink
def test_lost_rows_are_summed_up(harness: Harness, delivery: Delivery) -> None:
    """Every lost range of the run counts, across calls."""
    delivery.start(1, start_of())
    delivery.apply(RUN, 2, [LostRange(4, 6, 100), LostRange(8, 8, 11)])
    delivery.apply(RUN, 3, [LostRange(9, 9, 1)])
    delivery.settle()
    assert harness.see(RUN).lost_row_count == 112


@every_sink
def test_console_lines_are_kept_in_order(harness: Harness, delivery: Delivery) -> None:
    """As they were printed, empty ones too, among rows and in slices of their own."""
    delivery.start(1, start_of())
    delivery.apply(RUN, 2, [console_of("one", "", "µ \x1b[31mred\x1b[0m"), frame_of(0, 1.0)])
    delivery.apply(RUN, 3, [console_of("a\rb", stream=ConsoleStream.STDERR), console_of("")])
    delivery.settle()
    printed = ["one", "", "µ \x1b[31mred\x1b[0m", "a\rb", ""]
    assert harness.see(RUN).console == printed
    delivery.finish(4, finish_of())
    delivery.settle()
    assert harness.see(RUN).console == printed


@every_durable_sink
def test_a_run_that_has_ended_outlives_its_sink(harness: Harness, delivery: Delivery) -> None:
    """Position and data are there when it is opened again, and a replay changes nothing."""
    delivery.start(1, start_of(config={"lr": 1}))
    delivery.apply(RUN, 2, [frame_of(0, 1.0), LostRange(1, 1, 5), SummaryUpdate({"x": 1})])
    delivery.start(3, start_of(OTHER_RUN))
    delivery.finish(4, finish_of())
    delivery.settle()
    before = harness.see(RUN)
    delivery.reopen()
    assert (delivery.sink.position(RUN), delivery.sink.row_count(RUN)) == (4, 1)
    assert harness.see(RUN) == before
    delivery.hand_over(RUN, behind=0)
    assert (delivery.sink.position(RUN), delivery.sink.row_count(RUN)) == (4, 1)
    assert harness.see(RUN) == before


@every_durable_sink
def test_a_run_that_has_not_ended_goes_on_at_its_cursor(
    harness: Harness, delivery: Delivery
) -> None:
    """Opened again, a sink that is handed what lies behind the cursor has everything once."""
    delivery.start(1, start_of(config={"lr": 1}))
    delivery.apply(RUN, 2, [frame_of(0, 1.0), LostRange(1, 1, 5), SummaryUpdate({"x": 1})])
    delivery.settle()
    before = harness.see(RUN)
    delivery.reopen()
    position, row_count = delivery.sink.position(RUN), delivery.sink.row_count(RUN)
    assert (position, row_count) == ((0, 0) if harness.may_fall_back else (2, 1))
    delivery.hand_over(RUN, behind=position)
    delivery.settle()
    assert harness.see(RUN) == before
    delivery.apply(RUN, 5, [frame_of(1, 2.0)])
    delivery.settle()
    assert [row[3]["loss"] for row in harness.see(RUN).rows] == [1.0, 2.0]


@every_durable_sink
def test_what_lies_before_the_cursor_is_ignored(harness: Harness, delivery: Delivery) -> None:
    """A replay of all calls changes nothing, the end of the run included."""
    delivery.start(1, start_of(tags=("a",), config={"lr": 1}))
    delivery.apply(RUN, 2, [frame_of(0, 1.0), console_of("x"), LostRange(1, 1, 5)])
    delivery.apply(RUN, 3, [ConfigUpdate({"lr": 2}), SummaryUpdate({"best": 1})])
    delivery.finish(4, finish_of(summary={"best": 2}))
    delivery.settle()
    before = harness.see(RUN)
    delivery.hand_over(RUN, behind=0)
    delivery.settle()
    assert harness.see(RUN) == before
    assert (delivery.sink.position(RUN), delivery.sink.row_count(RUN)) == (4, 1)


@every_sink
@pytest.mark.parametrize("has_ended", [False, True])
def test_a_run_is_changed_from_outside(
    harness: Harness, delivery: Delivery, has_ended: bool
) -> None:
    """Name, notes, tags and config, live or ended; an end stays one."""
    delivery.start(1, start_of(tags=("a", "b"), config={"x": 1}))
    delivery.apply(RUN, 2, [frame_of(0, 3.0)])
    if has_ended:
        delivery.finish(3, finish_of())
    update = RunUpdate(
        *(RUN, None, "renamed", "new notes"),
        add_tags=("c",),
        remove_tags=("a",),
        config={"y": {"z": 2}},
    )
    delivery.apply(RUN, 4, [update, RunUpdate(RUN, add_tags=("d",))])
    if has_ended:
        delivery.finish(5, finish_of())
    delivery.settle()
    seen = harness.see(RUN)
    assert (seen.project, seen.name, seen.notes) == ("demo", "renamed", "new notes")
    assert (seen.tags, seen.config) == (("b", "c", "d"), {"x": 1, "y": {"z": 2}})
    assert seen.state == (RunState.FAILED if has_ended else RunState.RUNNING)


@every_sink
def test_alerts_are_kept(harness: Harness, delivery: Delivery) -> None:
    """In the order in which they came."""
    alerts = [Alert(f"title {number}", "text", AlertLevel.WARN, number) for number in range(4)]
    delivery.start(1, start_of())
    delivery.apply(RUN, 2, [alerts[0], frame_of(0, 3.0), alerts[1]])
    delivery.apply(RUN, 3, alerts[2:])
    delivery.settle()
    assert harness.see(RUN).alerts == alerts


def png_of(shade: int) -> bytes:
    """Make a small image."""
    return encode_png(np.full((2, 3, 1), shade, np.uint8))


def media_of(data: bytes) -> Media:
    """Describe an image."""
    return Media("image/png", hashlib.sha256(data).hexdigest(), len(data), {"caption": "x"})


IMAGES = [png_of(1), png_of(2)]
RICH: list[Record] = [
    *(BlobChunk(media_of(data).sha256, 0, len(data), data) for data in IMAGES),
    Frame(
        0,
        np.array([3, 1]),
        np.array([1_000, 1_001]),
        {
            "loss": np.array([0.5, math.nan]),
            "text": to_column(["", "two\nlines \u2028 and µ"]),
            "weights": to_column([columns.Histogram((0.0, 0.5, 2.0), (3.0, 4.0))] * 2),
            "../images/x": to_column([tuple(map(media_of, IMAGES[:n])) for n in (1, 2)]),
        },
    ),
    frame_of(2, 1.0),
    Frame(3, np.array([4]), np.array([1_003]), {"text": to_column(["three"])}),
]


@every_sink
def test_rich_values_come_back_in_their_rows(harness: Harness, delivery: Delivery) -> None:
    """Texts, histograms and files, beside numbers and across calls, as they were."""
    delivery.start(1, start_of())
    delivery.apply(RUN, 2, RICH[:3])
    delivery.apply(RUN, 3, RICH[3:])
    delivery.finish(4, finish_of())
    delivery.settle()
    rows = [row for frame in RICH if isinstance(frame, Frame) for row in frame.rows()]
    assert harness.comparable(harness.see(RUN).rows) == harness.comparable(rows)


@pytest.mark.parametrize("harness_class", STORES)
def test_the_store_keeps_files_however_their_pieces_come(
    harness: StoreHarness, delivery: Delivery
) -> None:
    """In one call or several, across a restart, twice; not what is otherwise than announced."""
    whole, parts, wrong, late = (bytes([n]) * 100_000 for n in range(4))

    def pieces(data: bytes, announced: bytes = b"") -> list[Record]:
        digest = hashlib.sha256(announced or data).hexdigest()
        return [
            BlobChunk(digest, n, len(data), data[n:][:40_000]) for n in range(0, len(data), 40_000)
        ]

    def has(data: bytes) -> bool:
        path = blobs.path(hashlib.sha256(data).digest())
        return path.exists() and path.read_bytes() == data

    blobs = harness.blobs
    delivery.start(1, start_of())
    delivery.apply(RUN, 2, [*pieces(whole), *pieces(parts)[:1], *pieces(wrong, b"another")])
    delivery.apply(RUN, 3, [*pieces(parts)[:2], *pieces(late)[1:]])
    assert (has(whole), has(parts), has(wrong)) == (True, False, False)
    delivery.reopen()
    delivery.apply(RUN, 4, pieces(parts)[2:])
    assert has(parts)
    delivery.apply(RUN, 5, [*pieces(parts), *RICH[:3]])
    delivery.finish(6, finish_of())
    delivery.apply(RUN, 7, pieces(late)[:1])
    assert not has(late)
    with closing(Store(harness.url)) as store:
        assert [len(chunk.data) for chunk in store.chunks(RUN)] == [40_000]


SUMMARIZED = [*STORES, WandbHarness]


@pytest.mark.parametrize("harness_class", SUMMARIZED)
def test_metrics_are_summarized_as_they_were_defined(harness: Harness, delivery: Delivery) -> None:
    """Over signatures, types and calls, NaN left out; a name counts before what it begins with."""
    kinds = tuple(kind for kind in Summarizing if kind is not Summarizing.NONE)
    defined = [
        MetricDefinition("loss", "epoch", kinds),
        MetricDefinition("a/*", summaries=(Summarizing.NONE,)),
        MetricDefinition("a/b*", summaries=(Summarizing.MAX,)),
        MetricDefinition("plain", "epoch", (Summarizing.MIN,)),
        MetricDefinition("plain", "epoch"),
    ]

    def frame(ordinal: int, **values: Any) -> Frame:
        columns = {key.replace("_", "/"): to_column([value]) for key, value in values.items()}
        return Frame(ordinal, np.array([0]), np.array([0]), columns)

    first = [frame(0, loss=math.nan, a_b=1, a_c=1, plain=3), frame(1, loss=4.0, text="x")]
    delivery.start(1, start_of())
    delivery.apply(RUN, 2, [*defined, *first])
    delivery.apply(RUN, 3, [frame(2, loss=1, a_b=7), frame(3, loss=-2.5, a_b=5, a_c=1)])
    delivery.finish(4, finish_of())
    delivery.settle()
    loss = {"min": -2.5, "max": 4.0, "mean": 2.5 / 3, "last": -2.5, "first": 4.0}
    expected = {"loss": loss, "a/b": {"max": 7}, "plain": 3, "text": "x"}
    assert harness.see(RUN).summary == expected
    delivery.reopen()
    delivery.apply(RUN, 5, [SummaryUpdate({"loss": 5}), frame(4, a_b=8)])
    delivery.finish(6, finish_of())
    delivery.settle()
    assert harness.see(RUN).summary == expected | {"loss": 5, "a/b": {"max": 8}}


MIXED: list[Record] = [
    Frame(0, np.array([3, 1]), np.array([1_000, 1_001]), {"loss": np.array([0.5, math.nan])}),
    Frame(
        2, np.array([-1]), np.array([1_002]), {"n": np.array([2**63 - 1]), "ok": np.array([True])}
    ),
    Frame(5, np.array([9]), np.array([1_003]), {"loss": np.array([2])}),
    Frame(6, np.array([9]), np.array([1_004]), {"loss": np.array([-math.inf]), "n": np.array([1])}),
]
"""Rows of several signatures, of types that change, and with a hole in their ordinals."""


@every_replayed_sink
@pytest.mark.parametrize("has_ended", [False, True])
@pytest.mark.parametrize("state", ["unknown", "live", "ended"])
def test_a_run_is_replayed_from_the_store_in_place_of_what_is_there(
    harness: Harness,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    state: str,
    has_ended: bool,
) -> None:
    """In slices of any size it becomes what it was: rows, config, summary, console and end."""
    monkeypatch.setattr(replay_module, "SLICE_ROWS", 2)
    monkeypatch.setattr(replay_module, "CONSOLE_RECORDS", 1)
    url = f"sqlite:///{tmp_path}/replayed.db"
    written = StoreSink(url)
    delivery = Delivery(harness)
    if state != "unknown":
        delivery.start(10, start_of())
        delivery.apply(RUN, 11, [frame_of(0, 7.0, 8.0), console_of("earlier")])
    if state == "ended":
        delivery.finish(12, finish_of())
    written.start(Offset(10), start_of(tags=("a",), config={"lr": 1}))
    written.apply(RUN, Offset(11), [*MIXED[:2], console_of("one"), SummaryUpdate({"best": 1})])
    written.start(Offset(12), start_of(writer="w2", tags=("b",), config={"lr": 2}))
    written.apply(RUN, Offset(13), [console_of("two", ""), *MIXED[2:], LostRange(4, 6, 100)])
    if has_ended:
        written.finish(Offset(14), finish_of(summary={"loss": 7}))
    replaying = replay_module.replay(
        *(Store(url), delivery.sink, RUN),
        begin=Offset(10),
        trimmed=Offset(13),
        target=Offset(14 if has_ended else 13),
    )
    offsets = list(replaying)
    assert offsets == [10] * (len(offsets) - 1) + [14 if has_ended else 13]
    harness.settle(delivery.sink)
    seen = harness.see(RUN)
    rows = [row for frame in MIXED for row in frame.rows()]  # type: ignore[union-attr]
    assert harness.comparable(seen.rows) == harness.comparable(rows)
    assert (seen.console, seen.tags, seen.config) == (["one", "two", ""], ("a", "b"), {"lr": 2})
    assert (delivery.sink.position(RUN), delivery.sink.row_count(RUN)) == (offsets[-1], 5)
    assert seen.summary["best"] == 1
    assert seen.lost_row_count == 100
    if has_ended:
        assert (seen.state, seen.exit_code, seen.summary["loss"]) == (RunState.FAILED, 3, 7)
    else:
        assert seen.state is RunState.RUNNING
        delivery.sink.apply(RUN, Offset(15), [frame_of(7, 4.0), console_of("three")])
        delivery.sink.finish(Offset(16), finish_of())
        seen = harness.see(RUN)
        assert ([row[0] for row in seen.rows], seen.console[-1]) == ([0, 1, 2, 5, 6, 7], "three")
    delivery.sink.close()


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


EDGES: list[Logged] = [
    (-(2**63), -(2**63), {"loss": math.nan, "µ": 2**63 - 1}),
    (2**63 - 1, 2**63 - 1, {"loss": -math.inf, "µ": -(2**63)}),
    (7, 1_700_000_000_123_456_789, {"loss": -0.0, "µ": 2**53 + 1}),
    (7, 0, {"loss": 5e-324, "µ": 0}),
    (-5, 1, {}),
    (-5, 1, {"loss": True, "µ": 0.1}),
]


@every_sink
def test_rows_come_back_exactly_once_and_in_order(harness: Harness, delivery: Delivery) -> None:
    """Whatever is logged, in whatever slices it comes, with holes in the ordinals between them."""
    numbers = count()

    @settings(max_examples=40, deadline=None)
    @given(rows=logged_rows, cuts=st.sets(st.integers(0, 30)), hole=st.integers(0, 5))
    @example(rows=EDGES, cuts={2}, hole=3)
    def check(rows: list[Logged], cuts: set[int], hole: int) -> None:
        run_id = RunId(f"run-{next(numbers)}")
        delivery.start(1, start_of(run_id))
        expected = []
        bounds = sorted({0, len(rows), *(cut for cut in cuts if cut < len(rows))})
        for number, (first, end) in enumerate(pairwise(bounds)):
            ordinal = first + number * hole
            delivery.apply(run_id, 2 + number, frames_of(rows[first:end], ordinal))
            expected += [(ordinal + i, *row) for i, row in enumerate(rows[first:end])]
        delivery.settle()
        assert harness.comparable(harness.see(run_id).rows) == harness.comparable(expected)
        assert delivery.sink.row_count(run_id) == len(rows)
        delivery.finish(100, finish_of(run_id))
        assert harness.comparable(harness.see(run_id).rows) == harness.comparable(expected)

    check()


TABLE = "application/vnd.pillion.table+json"
FILES: list[tuple[str, bytes, str]] = [
    (TABLE, b'{"columns": ["a", "b"], "data": [[1, "x"], [null, 2.5]]}', "table-file"),
    ("text/html", "<b>µ</b>".encode(), "html-file"),
    ("audio/wav", b"RIFF....WAVE", "audio-file"),
    ("video/mp4", b"....ftyp", "video-file"),
]
"""A file's type and bytes, and what W&B calls it."""


def test_wandb_is_given_files_as_its_own(tmp_path: Path, wait_until: WaitUntil) -> None:
    """By type, in one row; what the SDK does not take stands there as a text."""
    harness = WandbHarness(tmp_path, wait_until)
    delivery = Delivery(harness)
    odd = [("image/svg+xml", b"<svg/>", ""), ("image/png", b"no image", ""), ("what/ever", b"", "")]
    described = [
        Media(kind, hashlib.sha256(data).hexdigest(), len(data), {})
        for kind, data, _ in [*FILES, *odd]
    ]
    chunks: list[Record] = [
        BlobChunk(media.sha256, 0, len(data), data)
        for media, (_, data, _) in zip(described, [*FILES, *odd], strict=True)
    ]
    lost = Media("text/html", "ab" * 32, 1, {})
    counts, edges = tuple(map(float, range(1024))), tuple(map(float, range(1025)))
    values = [*((media,) for media in described), (lost,), columns.Histogram(edges, counts)]
    row = {f"v{index}": to_column([value]) for index, value in enumerate(values)}
    delivery.start(1, start_of())
    delivery.apply(RUN, 2, [*chunks, Frame(0, np.array([0]), np.array([0]), row)])
    delivery.finish(3, finish_of())
    (path,) = tmp_path.glob("wandb/*/*.wandb")
    seen = nested(read_wandb_file(path).rows[0])
    for index, (kind, data, name) in enumerate(FILES):
        assert seen[f"v{index}"]["_type"] == name
        written = (path.parent / "files" / seen[f"v{index}"]["path"]).read_bytes()
        assert (json.loads(written) == json.loads(data)) if kind == TABLE else (written == data)
    for index in range(len(FILES), len(values) - 1):
        assert "does not take" in seen[f"v{index}"]
    folded = seen[f"v{len(values) - 1}"]
    assert (len(folded["values"]), sum(folded["values"])) == (512, sum(counts))
    assert (folded["bins"][:2], folded["bins"][-1]) == ([0, 2], 1024)


def samples_in(path: Path) -> set[str]:
    """Return what was sampled of the machine."""
    records = RecordReader(path).read()
    kinds = ((record, record.WhichOneof("record_type")) for record in records)
    return {item.key for record, kind in kinds if kind == "stats" for item in record.stats.item}


def test_wandb_is_told_of_the_trainer(
    tmp_path: Path, wait_until: WaitUntil, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its machine, code, packages and labels; only what lives here is sampled."""
    environment = Environment(
        host="node-1",
        process=process_identity(os.getpid()),
        program="train.py",
        python_version="3.11.9",
        arguments=("--lr", "1"),
        git=GitState("c" * 40, "main", "https://host/x.git"),
        packages=(Package("torch", "2.0"), Package("µ", "1")),
        gpus=(Gpu("H100", 80 << 30, 3, "GPU-1"),),
        cpu_count=4,
        memory_bytes=1 << 30,
    )
    labels = {"model": "m", "dataset": "d", "use_case": "u", "config": {"use_case": "mine"}}
    monkeypatch.setattr(wandb_trainer, "SAMPLING_INTERVAL_S", 0.1)
    delivery = Delivery(WandbHarness(tmp_path, wait_until))
    delivery.start(1, start_of(environment=environment, **labels))
    delivery.start(2, start_of(OTHER_RUN))
    settings = [delivery.sink._live[run].sdk_run.settings for run in (RUN, OTHER_RUN)]  # type: ignore[attr-defined]
    assert [each.x_disable_stats for each in settings] == [False, True]
    assert (settings[0].x_stats_pid, settings[0].x_stats_gpu_device_ids) == (os.getpid(), [3])
    written = Path(settings[0].sync_file)
    wait_until(lambda: "proc.memory.rssMB" in samples_in(written))
    delivery.finish(3, finish_of())
    (path,) = tmp_path.glob("wandb/*/*.wandb")
    (run,) = (r.run for r in RecordReader(path).read() if r.WhichOneof("record_type") == "run")
    assert (run.host, run.git.commit, run.git.remote_url) == (
        "node-1",
        "c" * 40,
        "https://host/x.git",
    )
    config = read_wandb_file(path).config
    assert [config[key] for key in ("model_name", "dataset_name", "use_case")] == ["m", "d", "mine"]
    files = path.parent / "files"
    assert (files / "requirements.txt").read_text() == "torch==2.0\nµ==1\n"
    metadata = json.loads((files / "wandb-metadata.json").read_text())
    assert metadata["args"] == ["--lr", "1"]
    assert (metadata["python"], metadata["gpu"], metadata["cpu_count"]) == ("3.11.9", "H100", 4)
    delivery.sink.close()


COMMAND = Environment(host="node-1", program="python", client_version="1")


@pytest.mark.parametrize(
    ("first", "project"),
    [
        (
            start_of(writer="w2", project="theirs", environment=Environment(python_version="3")),
            "theirs",
        ),
        ([RunUpdate(RUN, project="theirs")], "theirs"),
        ([frame_of(0, 1.0)], "uncategorized"),
        (finish_of(), "uncategorized"),
    ],
    ids=lambda first: type(first).__name__,
)
def test_wandb_waits_for_the_project_of_a_command(
    tmp_path: Path, wait_until: WaitUntil, first: Entry, project: str
) -> None:
    """What it prints meanwhile is kept; one that has named its project does not wait."""
    harness = WandbHarness(tmp_path, wait_until)
    sink = harness.open()
    entries: list[Entry] = [
        start_of(project="uncategorized", environment=COMMAND),
        [console_of("early")],
        *((first,) if not isinstance(first, RunFinish) else ()),
        [console_of("late")],
        finish_of(),
    ]
    sink.start(Offset(1), start_of(OTHER_RUN, project="named", environment=COMMAND))
    assert OTHER_RUN in harness._sink._live
    for _ in range(2):  # from the start once more, when it is known
        with suppress(SinkError):
            for offset, entry in enumerate(entries, start=2):
                match entry:
                    case RunStart():
                        sink.start(Offset(offset), entry)
                    case RunFinish():
                        sink.finish(Offset(offset), entry)
                    case records:
                        sink.apply(RUN, Offset(offset), records)
    seen = harness.see(RUN)
    assert (seen.project, seen.console, seen.exit_code) == (project, ["early", "late"], 3)
    sink.close()


def test_wandb_does_not_wait_for_ever(tmp_path: Path, wait_until: WaitUntil) -> None:
    """A command that is no trainer's is opened as it is."""
    harness = WandbHarness(tmp_path, wait_until)
    sink = harness.open()
    start = start_of(project="uncategorized", environment=COMMAND)
    sink.start(Offset(1), start)
    sink.flush()
    assert sink.position(RUN) == 0
    with mock.patch("pillion_sidecar.sinks.wandb_command.WAIT_S", 0.0):
        sink.flush()
    with pytest.raises(SinkError):
        sink.position(RUN)
    sink.start(Offset(1), start)
    assert RUN in harness._sink._live
    sink.close()
