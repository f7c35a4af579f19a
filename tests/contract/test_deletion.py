"""A run is deleted wholly, whatever happens in between, and its id may be taken once more.

The way is the real one, from the journal by way of a courier to the store, in either database; only
the processes are left out.
"""

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa
from postgresql import PostgresqlServer

from pillion._batch import Row
from pillion._encoding import Encoder
from pillion_sidecar.anomaly_marks import Marks, make_marks
from pillion_sidecar.artifact_records import Artifact, ArtifactFile
from pillion_sidecar.blobs import Blobs
from pillion_sidecar.courier import Courier
from pillion_sidecar.deletions import Deletions
from pillion_sidecar.delivery import Delivery
from pillion_sidecar.errors import LimitError, StateError
from pillion_sidecar.garbage import collect
from pillion_sidecar.journal import Journal
from pillion_sidecar.journal_reader import JournalReader
from pillion_sidecar.notices import Notices
from pillion_sidecar.pages import Pages
from pillion_sidecar.records import (
    Alert,
    AlertLevel,
    BlobChunk,
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
from pillion_sidecar.settings import Settings
from pillion_sidecar.sinks.anomalies import AnomalySink
from pillion_sidecar.sinks.store import StoreSink
from pillion_sidecar.store import Store
from pillion_sidecar.store_tables import artifact_files, artifacts, metadata
from pillion_sidecar.validation import check_log

RUN, OTHER_RUN, FOREIGN_RUN = map(RunId, ("run", "other-run", "foreign-run"))
WRITER = WriterId("w")
WAIT_S = 120.0
KEPT = {"store_version", "meta", artifacts.name, artifact_files.name, "artifact_aliases"}
"""Tables in which nothing is a run's own."""


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Tell where the store is."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/store.db"
    server: PostgresqlServer = request.getfixturevalue("postgresql")
    return server.new_url()


def start_of(run_id: RunId) -> RunStart:
    """Make a start that says little."""
    return RunStart(run_id, WRITER, "p", run_id, "", "", (), "", {}, Environment(), 1)


def finish_of(run_id: RunId) -> RunFinish:
    """Make an end that says little."""
    return RunFinish(run_id, WRITER, RunState.FINISHED, 0, "", {}, 2)


def fill(sink: StoreSink, run_id: RunId, offset: int, *, version: int = 0) -> None:
    """Write something of every kind into the store, at this cursor."""
    sink.start(Offset(offset - 2), start_of(run_id))
    steps = np.arange(5)
    pieces = ConsoleLines(ConsoleStream.STDOUT, 1, ("x",))
    alert = Alert("t", "", AlertLevel.WARN, 1)
    chunk = BlobChunk("ab" * 32, 0, 9, b"123")
    file = ArtifactFile("f", b"\1" * 32, 3)
    files, aliases = (file,), ("latest",)
    made = Artifact(run_id, "p", "a", "model", version, aliases, {}, "", files, 1)
    frames = [Frame(0, steps, steps, {"a": steps / 2}), Frame(5, steps, steps, {"b": steps})]
    sink.apply(run_id, Offset(offset - 1), [*frames, pieces, alert, chunk, made])
    sink.apply(run_id, Offset(offset), [chunk])


def rows_of(url: str) -> dict[str, int]:
    """Count the rows of each table."""
    engine = sa.create_engine(url)
    with engine.connect() as connection:
        counts = {
            table.name: connection.scalar(sa.select(sa.func.count()).select_from(table)) or 0
            for table in metadata.sorted_tables
        }
    engine.dispose()
    return counts


def test_all_of_a_run_is_deleted_from_the_store_and_nothing_else(url: str, tmp_path: Path) -> None:
    """Of no table is anything left but artifacts; a run of another cursor or owner stays."""
    with closing(StoreSink(url, Blobs(tmp_path / "blobs"), owner="me")) as sink:
        fill(sink, OTHER_RUN, 3)
        before = rows_of(url)
        fill(sink, RUN, 13)
        filled = rows_of(url)
        own = filled.keys() - KEPT
        assert {name for name in own if filled[name] <= before[name]} == set()
        sink.delete(RUN, Offset(12))
        with closing(StoreSink(url, Blobs(tmp_path / "blobs"), owner="you")) as foreign:
            foreign.delete(RUN, Offset(13))
        assert rows_of(url) == filled
        sink.delete(RUN, Offset(13))
        after = rows_of(url)
        assert {name: after[name] for name in own} == {name: before[name] for name in own}
        assert {name: after[name] for name in KEPT} == {name: filled[name] for name in KEPT}
        assert sink.position(RUN) == 0
        fill(sink, RUN, 23)
        with closing(Store(url)) as store:
            assert store.cursor(OTHER_RUN) is None  # it is somebody's
            assert len(store.series(RUN, "a")) == 5


def test_artifacts_of_a_deleted_run_are_kept_for_its_upload(url: str, tmp_path: Path) -> None:
    """While its offline folder waits, retention gives none up; then it goes by the usual rules."""
    settings = Settings(data_dir=tmp_path, listen=f"unix:{tmp_path}/s", store=url)
    Journal(settings.journal_path, on_commit=lambda: None, on_fatal=lambda _: None).close()
    folder = tmp_path / "wandb" / "wandb" / f"offline-run-20260101_000000-{RUN}"
    folder.mkdir(parents=True)
    with closing(StoreSink(url, Blobs(settings.blobs_dir))) as sink:
        fill(sink, RUN, 3)
        fill(sink, OTHER_RUN, 13, version=1)
        for run_id, cursor in ((RUN, 3), (OTHER_RUN, 13)):
            sink.delete(run_id, Offset(cursor))
    assert collect(settings, 1, is_dry=True).versions == []
    (folder / f"run-{RUN}.wandb.synced").touch()
    (gone,) = collect(settings, 1, is_dry=True).versions
    assert (gone.artifact.version, gone.artifact.run_id) == (0, RUN)


class Sidecar:
    """What deletes runs in a sidecar, with its workers' part done here, when it is asked for."""

    def __init__(self, directory: Path, url: str) -> None:
        self.settings = Settings(data_dir=directory, listen=f"unix:{directory}/s", store=url)
        self.journal = Journal(
            self.settings.journal_path, on_commit=lambda: None, on_fatal=lambda _: None
        )
        self.blobs = Blobs(directory / "blobs")
        self.store = StoreSink(url, self.blobs)
        self.delivery = Delivery(self.settings, {}, {RUN: "", OTHER_RUN: ""})
        self.deletions = Deletions(
            *(self.settings, self.journal, self.delivery),
            *(Pages(self.settings.pages_path), Notices()),
        )

    def log(self, loss: float, *, is_finished: bool = True) -> None:
        """Log a row."""
        self.journal.start(start_of(RUN)).result(WAIT_S)
        for made in Encoder(RUN, WRITER).encode([Row(1, 1, {"loss": loss})]):
            self.journal.append(check_log(made.message)).result(WAIT_S)
        if is_finished:
            self.journal.finish(finish_of(RUN), last_sequence=None).result(WAIT_S)

    @contextmanager
    def courier(self) -> Iterator[Courier]:
        """Make a courier to the store, as a worker that starts does."""
        with JournalReader(self.settings.journal_path) as reader:
            yield Courier(reader, self.store)

    def deliver(self, courier: Courier) -> None:
        """Have all that is journaled delivered, and that reported."""
        courier.look()
        while courier.deliver():
            pass
        for change in courier.changes():
            self.delivery._sinks["store"]._take_in(change)

    def cursor(self) -> Offset | None:
        """Tell what the store has."""
        with closing(Store(self.settings.store_url)) as store:
            return store.cursor(RUN)

    def close(self) -> None:
        """End it, or have it be killed: that leaves the same."""
        self.store.close()
        self.journal.close()


@pytest.fixture
def make(url: str, tmp_path: Path) -> Iterator[Callable[[], Sidecar]]:
    """Return a function that makes one after the other on the same data."""
    made: list[Sidecar] = []

    def start() -> Sidecar:
        for former in made:
            former.close()
        made[:] = [Sidecar(tmp_path, url)]
        return made[0]

    yield start
    for last in made:
        last.close()


def within(steps: Coroutine[Any, Any, None]) -> None:
    """Do what has to be done in an event loop."""
    asyncio.run(asyncio.wait_for(steps, WAIT_S))


def test_a_deletion_that_a_crash_interrupts_is_ended_by_the_next_sidecar(
    make: Callable[[], Sidecar],
) -> None:
    """Until the store has done its part nobody can take the id; then a new run begins under it."""
    sidecar = make()
    sidecar.log(0.5)
    with sidecar.courier() as courier:
        sidecar.deliver(courier)
        cursor = sidecar.cursor()
        assert cursor
    sidecar.journal.delete(RUN, cursor).result(WAIT_S)  # and no further
    assert sidecar.cursor() == cursor

    async def ended(sidecar: Sidecar) -> None:
        with pytest.raises(LimitError, match="being deleted") as refused:
            sidecar.log(0.25)
        assert refused.value.reason == "RUN_DELETING"
        with sidecar.courier() as courier:
            sidecar.deliver(courier)
            courier.delete(RUN, cursor)
            sidecar.deletions.note_deleted(RUN, Offset(cursor - 1))  # of another deletion
            sidecar.deletions.note_deleted(RUN, cursor)
            assert await sidecar.deletions.delete(RUN)
            assert sidecar.cursor() is None
            sidecar.log(0.25)
            sidecar.deliver(courier)
            courier.delete(RUN, cursor)  # told twice

    sidecar = make()
    within(ended(sidecar))
    assert sidecar.journal.pending_deletions() == {}
    with closing(Store(sidecar.settings.store_url)) as store:
        assert [row[1:] for row in store.rows(RUN)] == [(1, 1, {"loss": 0.25})]


def test_what_has_not_ended_or_not_arrived_stays(
    make: Callable[[], Sidecar], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each refusal has its reason; what only the store knows can be deleted all the same."""
    monkeypatch.setattr("pillion_sidecar.deletions.DELIVERED_TIMEOUT_S", 0.0)
    monkeypatch.setattr("pillion_sidecar.deletions.STORE_TIMEOUT_S", 0.0)

    async def refused(sidecar: Sidecar, run_id: RunId = RUN) -> str:
        with pytest.raises(StateError) as refusal:
            await sidecar.deletions.delete(run_id)
        return refusal.value.reason

    async def tried(sidecar: Sidecar) -> None:
        assert await refused(sidecar) == "RUN_UNKNOWN"
        sidecar.log(0.5, is_finished=False)
        assert await refused(sidecar) == "RUN_LIVE"
        sidecar.journal.finish(finish_of(RUN), last_sequence=None).result(WAIT_S)
        assert await refused(sidecar) == "RUN_UNDELIVERED"
        fill(sidecar.store, OTHER_RUN, 3)
        with closing(StoreSink(sidecar.settings.store_url, sidecar.blobs, owner="you")) as foreign:
            fill(foreign, FOREIGN_RUN, 6)
        assert await refused(sidecar, FOREIGN_RUN) == "RUN_ELSEWHERE"
        assert not await sidecar.deletions.delete(OTHER_RUN)
        assert sidecar.journal.pending_deletions() == {OTHER_RUN: 3}

    sidecar = make()
    within(tried(sidecar))
    with JournalReader(sidecar.settings.journal_path) as reader:
        assert [run.run_id for run in reader.runs()] == [RUN]


def test_what_was_told_of_a_run_is_told_of_its_successor_too(tmp_path: Path) -> None:
    """The search for anomalies forgets a run, unless it has come back."""
    marks = tmp_path / "anomalies.db"
    make_marks(marks, list)
    journal = Journal(tmp_path / "journal.db", on_commit=lambda: None, on_fatal=lambda _: None)
    journal.start(start_of(RUN)).result(WAIT_S)
    journal.finish(finish_of(RUN), last_sequence=None).result(WAIT_S)
    with JournalReader(tmp_path / "journal.db") as reader, closing(AnomalySink(marks)) as sink:
        courier = Courier(reader, sink)
        courier.look()
        while courier.deliver():
            pass
        (_, last), *_ = reader.runs_behind(Offset(0))
        sink.flush()
        courier.delete(RUN, Offset(last - 1))
        assert sink.position(RUN) == last
        courier.delete(RUN, last)
        assert sink.position(RUN) == 0
        sink.flush()
    journal.close()
    with closing(Marks(marks)) as kept:
        assert kept.cursor(RUN) == 0
