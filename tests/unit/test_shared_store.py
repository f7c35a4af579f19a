"""Several sidecars share one store in PostgreSQL: each has its runs, and nothing is doubled."""

import hashlib
import os
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from postgresql import PostgresqlServer, postgresql_server

from pillion_sidecar.artifact_records import Artifact, ArtifactFile
from pillion_sidecar.blobs import Blobs
from pillion_sidecar.errors import DiskError, SinkError
from pillion_sidecar.garbage import collect
from pillion_sidecar.journal import Journal
from pillion_sidecar.records import (
    Environment,
    Frame,
    Offset,
    Record,
    RunFinish,
    RunId,
    RunStart,
    RunState,
    WriterId,
)
from pillion_sidecar.settings import load
from pillion_sidecar.sidecar_id import make_id, owner_of
from pillion_sidecar.sinks.store import StoreSink
from pillion_sidecar.store import Store
from pillion_sidecar.store_artifacts import find, known_versions

A_RUN, B_RUN = RunId("of-a"), RunId("of-b")


class Sharing:
    """One store, and the sinks and readers of several sidecars."""

    def __init__(self, server: PostgresqlServer, directory: Path) -> None:
        self.server, self.url = server, server.new_url()
        self._directory = directory
        self._opened = ExitStack()

    def sink(self, owner: str) -> StoreSink:
        """Open one sidecar's sink."""
        sink = StoreSink(self.url, Blobs(self._directory / owner), owner=owner)
        return self._opened.enter_context(closing(sink))

    def store(self, owner: str = "") -> Store:
        """Open one sidecar's reader."""
        return self._opened.enter_context(closing(Store(self.url, owner=owner)))

    def close(self) -> None:
        """Close all that was opened."""
        self._opened.close()


@pytest.fixture
def sharing(postgresql: PostgresqlServer, tmp_path: Path) -> Iterator[Sharing]:
    """Make a store that is shared."""
    with closing(Sharing(postgresql, tmp_path)) as sharing:
        yield sharing


def start_of(run_id: RunId, **changed: str) -> RunStart:
    """Make a start that says little."""
    start = RunStart(run_id, WriterId("w"), "p", "", "", "", (), "", {}, Environment(), 1)
    return replace(start, **changed)  # type: ignore[arg-type]


def rows_of(first: int, count: int = 1) -> list[Record]:
    """Make rows whose ordinals, steps and values are one number."""
    numbers = np.arange(first, first + count)
    return [Frame(first, numbers, numbers, {"a": numbers.astype(float)})]


def values_of(store: Store, run_id: RunId) -> list[float]:
    """Read a run's one metric."""
    return [float(values["a"]) for _, _, _, values in store.rows(run_id)]  # type: ignore[arg-type]


def test_rows_of_several_writers_at_once_keep_their_order(sharing: Sharing) -> None:
    """Small segments and full ones of two sidecars take turns; ids come from the database."""
    sinks = {A_RUN: sharing.sink("a"), B_RUN: sharing.sink("b")}
    for run_id, sink in sinks.items():
        sink.start(Offset(1), start_of(run_id))
    first = 0
    for number, count in enumerate([1, 700, 1, 2_000, 3, 1_021, 5]):
        for run_id, sink in sinks.items():
            sink.apply(run_id, Offset(2 + number), rows_of(first, count))
        first += count
    for run_id in sinks:
        assert values_of(sharing.store(), run_id) == list(range(first))


def test_a_run_of_another_sidecar_is_refused_and_stays_as_it_is(sharing: Sharing) -> None:
    """Cursors are offsets of a journal, and each sidecar has its own."""
    ours, other = sharing.sink("a"), sharing.sink("b")
    ours.start(Offset(7), start_of(A_RUN, name="ours"))
    with pytest.raises(SinkError, match="of another sidecar, a") as refused:
        other.start(Offset(9), start_of(A_RUN, name="other"))
    assert refused.value.reason == "RUN_ELSEWHERE"
    assert (other.position(A_RUN), other.row_count(A_RUN), ours.position(A_RUN)) == (0, 0, 7)
    run = sharing.store("b").run(A_RUN)
    assert run is not None
    assert (run.name, run.owner) == ("ours", "a")
    assert sharing.store("b").owner_of(A_RUN) == "a"


def test_a_sidecar_counts_only_its_own_cursors_and_versions(sharing: Sharing) -> None:
    """When it has lost its journal it goes on behind what it had itself, not behind others."""
    sharing.sink("a").start(Offset(500), start_of(A_RUN))
    sharing.sink("b").start(Offset(3), start_of(B_RUN))
    assert sharing.store("b").cursors(beyond=Offset(2)) == {B_RUN: (3, 0, "wandb")}
    assert sharing.store("c").cursors(beyond=Offset(0)) == {}


def test_artifacts_of_one_name_are_counted_per_sidecar(sharing: Sharing) -> None:
    """The files are with the sidecar that took them, so each tells of its own."""
    for owner, run_id in (("a", A_RUN), ("b", B_RUN)):
        sink = sharing.sink(owner)
        sink.start(Offset(1), start_of(run_id))
        file = ArtifactFile("f", owner.encode() * 32, 1)
        version = Artifact(
            *(run_id, "p", "model", "model", 0, ("latest",), {}, owner, (file,), 1, ()),
            sha256=owner.encode() * 32,
        )
        sink.apply(run_id, Offset(2), [version])
    for owner in ("a", "b"):
        store = sharing.store(owner)
        with store.snapshot() as connection:
            (found,) = find(connection, store.owner)
            assert (found.artifact.description, found.artifact.version) == (owner, 0)
            assert known_versions(connection, owner) == [("p", "model", 0, owner.encode() * 32)]


def test_garbage_is_what_the_own_runs_do_not_need(sharing: Sharing, tmp_path: Path) -> None:
    """Retention gives up own versions, and what others name keeps no file here."""
    settings = load(data_dir=tmp_path / "data", store=sharing.url)
    settings.data_dir.mkdir()
    make_id(settings)
    Journal(settings.journal_path, on_commit=lambda: None, on_fatal=lambda _: None).close()
    mine, blobs = owner_of(settings), Blobs(settings.blobs_dir)
    contents = {
        owner: [f"{owner}{number}".encode() for number in range(2)] for owner in (mine, "b")
    }
    for (owner, files), run_id in zip(contents.items(), (A_RUN, B_RUN), strict=True):
        sink = sharing.sink(owner)
        sink.start(Offset(1), start_of(run_id))
        versions: list[Record] = []
        for number, content in enumerate(files):
            digest = hashlib.sha256(content).digest()
            blobs.put(digest, content)
            os.utime(blobs.path(digest), (0, 0))
            file = ArtifactFile("f", digest, len(content))
            place = (run_id, "p", "model", "model", number, ("latest",), {}, owner, (file,), 1, ())
            versions.append(Artifact(*place, sha256=digest))
        sink.apply(run_id, Offset(2), versions)
        sink.finish(Offset(3), RunFinish(run_id, WriterId("w"), RunState.FINISHED, 0, "", {}, 9))
    collect(settings, 1, is_dry=False)
    left = {
        owner: [blobs.path(hashlib.sha256(each).digest()).exists() for each in files]
        for owner, files in contents.items()
    }
    assert left == {mine: [False, True], "b": [False, False]}
    with sharing.store().snapshot() as connection:
        kept = [each.artifact.version for owner in contents for each in find(connection, owner)]
    assert kept == [1, 1, 0]


def test_what_a_former_writer_commits_late_is_not_written_twice(sharing: Sharing) -> None:
    """A worker that was killed may have a commit under way; its successor finds it out."""
    former, successor = sharing.sink("a"), sharing.sink("a")
    former.start(Offset(1), start_of(A_RUN))
    former.apply(A_RUN, Offset(2), rows_of(0))
    successor.apply(A_RUN, Offset(3), rows_of(1))
    with pytest.raises(SinkError, match="meanwhile"):
        former.apply(A_RUN, Offset(3), rows_of(1))
    former.apply(A_RUN, Offset(3), rows_of(1))
    former.apply(A_RUN, Offset(4), rows_of(2))
    assert values_of(sharing.store(), A_RUN) == [0.0, 1.0, 2.0]


def test_a_call_that_loses_its_connection_counts_for_nothing_and_can_be_repeated(
    sharing: Sharing,
) -> None:
    """The sink connects again by itself, and so do readers."""
    sink, store = sharing.sink("a"), sharing.store("a")
    sink.start(Offset(1), start_of(A_RUN))
    assert store.runs()
    with sharing.server.connect() as connection:
        ours = "application_name = 'pillion' AND pid <> pg_backend_pid()"
        connection.execute(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {ours}")
    with pytest.raises(SinkError, match="tried again"):
        sink.apply(A_RUN, Offset(2), rows_of(0))
    sink.apply(A_RUN, Offset(2), rows_of(0))
    assert values_of(store, A_RUN) == [0.0]


def test_sinks_and_readers_go_on_when_the_server_is_back(tmp_path: Path) -> None:
    """While it is away each call says so, without a password."""
    with postgresql_server() as server, closing(Sharing(server, tmp_path)) as sharing:
        sink, store = sharing.sink("a"), sharing.store("a")
        sink.start(Offset(1), start_of(A_RUN))
        server.stop()
        for _ in range(2):
            with pytest.raises(SinkError, match="tried again"):
                sink.apply(A_RUN, Offset(2), rows_of(0))
            with pytest.raises(DiskError, match="PostgreSQL runs"):
                store.runs()
        server.start()
        sink.apply(A_RUN, Offset(2), rows_of(0))
        assert values_of(store, A_RUN) == [0.0]


def test_a_text_may_have_any_character(sharing: Sharing) -> None:
    """A NUL too, which PostgreSQL does not take by itself."""
    sink = sharing.sink("a")
    sink.start(Offset(1), start_of(A_RUN, name="a\0b\\0", notes="\\", project="µ\0"))
    (run,) = sharing.store().runs("µ\0")
    assert (run.name, run.notes, run.project) == ("a\0b\\0", "\\", "µ\0")


def test_a_reader_sees_one_state_however_long_it_reads(sharing: Sharing) -> None:
    """What is committed meanwhile comes with the next question; nothing can be written."""
    sink, store = sharing.sink("a"), sharing.store()
    sink.start(Offset(1), start_of(A_RUN))
    sink.apply(A_RUN, Offset(2), rows_of(0, 1_000))
    rows = store.rows(A_RUN)
    next(rows)
    sink.apply(A_RUN, Offset(3), rows_of(1_000, 100))  # folds under its eyes
    assert sum(1 for _ in rows) == 999
    assert len(store.series(A_RUN, "a")) == 1_100
    with store.snapshot() as connection, pytest.raises(Exception, match="read-only"):
        connection.exec_driver_sql("DELETE FROM runs")
