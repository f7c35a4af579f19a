"""Artifacts in the store: versions, aliases, and which run has made or read what."""

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from postgresql import PostgresqlServer

from pillion_sidecar.artifact_records import Artifact, ArtifactFile, ArtifactUse
from pillion_sidecar.blobs import Blobs
from pillion_sidecar.records import Environment, Offset, RunId, RunStart, WriterId
from pillion_sidecar.sinks.store import StoreSink
from pillion_sidecar.store import Store
from pillion_sidecar.store_artifacts import find, id_of, links_of, one, readers

MAKER, READER = RunId("maker"), RunId("reader")
FILE = ArtifactFile("a", b"x" * 32, 1)


def version(number: int, *aliases: str) -> Artifact:
    """Make a version of the artifact."""
    return Artifact(
        *(MAKER, "p", "weights", "model", number, aliases, {}, "", (FILE,), number, ()),
        sha256=bytes([number]) * 32,
    )


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Tell where the store is."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/store.db"
    server: PostgresqlServer = request.getfixturevalue("postgresql")
    return server.new_url()


@pytest.fixture
def sink(url: str, tmp_path: Path) -> Iterator[StoreSink]:
    """Open a store with two runs."""
    with closing(StoreSink(url, Blobs(tmp_path))) as sink:
        for run_id in (MAKER, READER):
            start = RunStart(run_id, WriterId("w"), "p", "", "", "", (), "", {}, Environment(), 1)
            sink.start(Offset(1), start)
        yield sink


def read(url: str, reference: str) -> Artifact | None:
    """Read a version."""
    with closing(Store(url)) as store, store.snapshot() as connection:
        name, version = reference.split(":")
        artifact_id = id_of(connection, owner="", project="p", name=name, version=version)
        found = None if artifact_id is None else one(connection, artifact_id)
        return None if found is None else found.artifact


def test_an_alias_moves_to_the_version_that_has_it_last(sink: StoreSink, url: str) -> None:
    """And what is logged again takes new metadata, if there is any."""
    sink.apply(MAKER, Offset(2), [version(0, "latest", "best"), version(1, "latest")])
    assert read(url, "weights:best") == version(0, "best")
    assert read(url, "weights:latest") == version(1, "latest")
    again = replace(version(0, "latest"), metadata={"step": 3})
    sink.apply(MAKER, Offset(3), [again])
    sink.apply(MAKER, Offset(4), [version(0, "latest")])
    found = read(url, "weights:v0")
    assert found is not None
    assert (found.aliases, found.metadata) == (("best", "latest"), {"step": 3})
    assert read(url, "weights:v2") is None


@pytest.mark.parametrize("use_is_first", [False, True])
def test_a_use_means_the_version_of_its_time(
    sink: StoreSink, url: str, *, use_is_first: bool
) -> None:
    """Also if the reader's entries come to the store before the maker's."""
    calls = [
        lambda: sink.apply(MAKER, Offset(2), [version(0, "latest", "best")]),
        lambda: sink.apply(
            READER, Offset(2), [ArtifactUse("weights:latest", 1), ArtifactUse("weights:best", 2)]
        ),
    ]
    for call in reversed(calls) if use_is_first else calls:
        call()
    sink.apply(MAKER, Offset(3), [version(1, "latest", "best")])
    sink.apply(READER, Offset(3), [ArtifactUse("elsewhere:v7", 3)])
    with closing(Store(url)) as store, store.snapshot() as connection:
        artifact_id = id_of(connection, owner="", project="p", name="weights", version="v0")
        assert artifact_id is not None
        assert readers(connection, artifact_id, 10) == [READER]
        uses = [use.artifact for use in links_of(connection, READER, Offset(9))]  # type: ignore[union-attr]
        assert uses == ["weights:v0", "elsewhere:v7"]
        assert [each.artifact.version for each in find(connection, "", limit=10)] == [1, 0]
        assert len(links_of(connection, MAKER, Offset(2))) == 1
