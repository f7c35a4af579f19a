"""What several writers log comes back from the store as the journal has ordered it, exactly.

The way is the real one: encoder, checks, journal, courier, store; into either database.
"""

import math
from collections.abc import Callable
from contextlib import closing
from itertools import count
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from postgresql import PostgresqlServer

from pillion._batch import Row
from pillion._encoding import Encoder
from pillion.v1 import telemetry_service_pb2 as pb2
from pillion_sidecar.blobs import Blobs
from pillion_sidecar.columns import Logged
from pillion_sidecar.courier import Courier
from pillion_sidecar.journal import Journal
from pillion_sidecar.journal_reader import JournalReader
from pillion_sidecar.metric_answers import read_metrics
from pillion_sidecar.records import (
    Alert,
    AlertLevel,
    ConsoleLines,
    ConsoleStream,
    Environment,
    Frame,
    Offset,
    RunFinish,
    RunId,
    RunStart,
    RunState,
    WriterId,
)
from pillion_sidecar.sinks.store import StoreSink
from pillion_sidecar.store import Store
from pillion_sidecar.validation import check_log

WAIT_S = 120.0
INT64 = st.integers(-(2**63), 2**63 - 1)
WRITERS = ("rank-0", "rank-1", "rank-2")

Values = dict[str, float | int | bool]
Batch = tuple[str, list[tuple[int, Values]]]
"""Who logs, and what at which steps."""

values = st.dictionaries(
    st.sampled_from(["loss", "eval/acc", "µ"]),
    st.one_of(st.floats(), INT64, st.booleans()),
    min_size=1,
)
steps = st.one_of(st.integers(-3, 5), INT64)
batches = st.lists(
    st.tuples(st.sampled_from(WRITERS), st.lists(st.tuples(steps, values), min_size=1, max_size=5)),
    max_size=8,
)
REPEATS: list[Batch] = [
    ("rank-0", [(5, {"loss": math.nan}), (5, {"loss": math.nan}), (1, {"loss": math.inf})]),
    ("rank-1", [(5, {"loss": -math.inf}), (9, {"µ": 2**63 - 1})]),
    ("rank-0", [(-(2**63), {"loss": True}), (2, {"loss": -0.0, "µ": 2**53 + 1})]),
]
"""Steps that repeat, go back and have gaps; types that change; what is not finite."""


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Tell where the store is."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/store.db"
    server: PostgresqlServer = request.getfixturevalue("postgresql")
    return server.new_url()


def test_rows_come_back_in_the_order_of_the_journal(url: str, tmp_path: Path) -> None:
    """Rows by ordinal, each writer's in its own order; a series by ordinal, whatever its steps."""
    path, numbers = tmp_path / "journal.db", count()
    journal = Journal(path, on_commit=lambda: None, on_fatal=lambda _: None)
    sink = StoreSink(url, Blobs(tmp_path / "blobs"))
    with (
        closing(journal),
        closing(sink),
        closing(Store(url)) as store,
        closing(JournalReader(path)) as reader,
    ):
        courier = Courier(reader, sink)

        @settings(max_examples=25, deadline=None)
        @given(logged=batches, pauses=st.sets(st.integers(0, 8)))
        @example(logged=REPEATS, pauses={1})
        def check(logged: list[Batch], pauses: set[int]) -> None:
            run_id = RunId(f"run-{next(numbers)}")
            encoders = {}
            for writer in WRITERS:
                fields = ("p", "", "", "", (), "", {}, Environment(), 1)
                journal.start(RunStart(run_id, WriterId(writer), *fields)).result(WAIT_S)
                encoders[writer] = Encoder(run_id, writer)
            for number, (writer, rows) in enumerate(logged):
                for made in encoders[writer].encode([Row(step, 0, row) for step, row in rows]):
                    journal.append(check_log(made.message)).result(WAIT_S)
                if number in pauses:
                    deliver(courier)
            deliver(courier)
            expected = [(step, row) for _, rows in logged for step, row in rows]
            found = [(step, row) for _, step, _, row in store.rows(run_id)]
            assert repr(found) == repr(expected)
            for key in ("loss", "eval/acc", "µ"):
                having = [
                    (n, step, row[key]) for n, (step, row) in enumerate(expected) if key in row
                ]
                series = store.series(run_id, key)
                assert series.ordinals.tolist() == [ordinal for ordinal, _, _ in having]
                assert series.steps.tolist() == [step for _, step, _ in having]
                np.testing.assert_array_equal(
                    series.values, common([value for *_, value in having])
                )

        check()


def deliver(courier: Courier) -> None:
    """Hand over all that the journal has."""
    courier.look()
    while courier.deliver():
        courier.flush()
    assert [change for change in courier.changes() if change.get("error")] == []


def common(logged: list[Logged]) -> np.ndarray:
    """Return values in the type that holds all, as a series has them."""
    types = {type(value) for value in logged}
    order: list[Callable[..., object]] = [float, int, bool]
    kind = next((each for each in order if each in types), float)
    return np.array(logged, {float: np.float64, int: np.int64, bool: np.bool_}[kind])  # type: ignore[index]


def test_both_databases_answer_alike(tmp_path: Path, postgresql: PostgresqlServer) -> None:
    """Runs by pages and projects, what became of them, and points: all, every n-th, or a few."""
    urls = [f"sqlite:///{tmp_path}/store.db", postgresql.new_url()]
    answers = []
    for url in urls:
        with closing(StoreSink(url, Blobs(tmp_path / "blobs"))) as sink:
            for offset, name in enumerate(("B", "a", "µ", "a\0"), start=1):
                fields = ("p", name, "", "", (), "", {}, Environment(), 1)
                sink.start(Offset(offset), RunStart(RunId(f"run-{offset}"), WriterId("w"), *fields))
            sink.start(Offset(5), RunStart(RunId("run-1"), WriterId("v"), *fields))
            numbers = np.arange(3_000)
            waves = {"wave": np.sin(numbers / 50), "n": numbers, "odd": numbers % 2 == 1}
            waves["wave"][::700] = math.nan
            pieces = [ConsoleLines(ConsoleStream.STDOUT, n, ("x", "")) for n in range(40)]
            alert = Alert("t", "a\0", AlertLevel.WARN, 4)
            sink.apply(
                RunId("run-1"), Offset(6), [Frame(0, numbers, numbers // 2, waves), *pieces, alert]
            )
            end = RunFinish(RunId("run-1"), WriterId("w"), RunState.FAILED, 1, "why", {}, 9)
            sink.finish(Offset(7), end)
            sink.start(Offset(8), RunStart(RunId("run-1"), WriterId("w"), *fields))
        with closing(Store(url)) as store:
            answers.append(
                [
                    repr(store.runs("p", limit=3)),
                    repr(store.runs(before=store.runs(limit=2)[-1].page_key)),
                    (store.keys(RunId("run-1")), list(store.console(RunId("run-1")))),
                    next(store.console(RunId("run-1"), 3)),  # and no more of them
                    (store.alerts(RunId("run-1")), store.events(RunId("run-1"))),
                    *(points_of(store, **how) for how in ({}, {"stride": 7}, {"max_points": 40})),
                ]
            )
    in_file, in_postgresql = answers
    assert in_file == in_postgresql
    kinds = [event.kind for event in in_file[4][1]]
    assert kinds == ["started", "joined", "ended", "resumed"]


def points_of(store: Store, **how: int) -> list[bytes]:
    """Read the points of a run, as they are sent."""
    request = pb2.ReadMetricsRequest(run_id="run-1", **how)  # type: ignore[arg-type]
    return sorted(each.SerializeToString() for each in read_metrics(store, request))
