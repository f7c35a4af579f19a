"""Taking over what dead trainers have staged: whole, once, and nothing else."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pillion.staging import Manifest, Staged, StagedFile, staged_artifacts
from pillion.v1 import record_pb2
from pillion_sidecar.artifact_records import Artifact, decode_artifact
from pillion_sidecar.blobs import Blobs
from pillion_sidecar.journal import Journal
from pillion_sidecar.journal_reader import EntryKind, JournalReader
from pillion_sidecar.records import Environment, RunId, RunStart, WriterId
from pillion_sidecar.staged_adoption import StagedAdoption

RUN = RunId("run")
START = {"run_id": "other", "writer_id": "v", "resume": "never", "config": {"lr": 0.1}}
START |= {"fields": {"project": "p", "time_unix_nano": 1, "environment": {"host": "h"}}}


class Place:
    """A spool directory, and a sidecar's journal and blobs."""

    def __init__(self, path: Path) -> None:
        self.path, self.spool = path, path / "spool"
        self.started: list[RunStart] = []
        self.journal = Journal(path / "journal.db", on_commit=lambda: None, on_fatal=lambda _: None)
        self.blobs = Blobs(path / "blobs")
        start = RunStart(RUN, WriterId("w"), "p", "n", "", "", (), "", {}, Environment(), 1)
        self.journal.start(start).result()
        self.adoption = StagedAdoption(self.spool, self.journal, self.blobs, self.started.append)

    def stage(self, content: bytes, name: str = "model.bin", **changed: Any) -> Staged:
        """Stage an artifact of one file, as a trainer."""
        source = self.path / "source"
        source.write_bytes(content)
        fields: dict[str, Any] = {"run_id": RUN, "writer_id": "w", "name": "weights"}
        fields |= {"type": "model", "description": "", "metadata": {}, "aliases": ["best"]}
        fields |= {"registry_links": [], "time_unix_nano": 1, "start": {}} | changed
        manifest = Manifest(**fields, files=[StagedFile(name)])
        return Staged.create(self.spool, manifest, [source], link=False)

    def journaled(self, run_id: RunId = RUN) -> list[Artifact]:
        """Return the artifacts of a run that are on disk."""
        with JournalReader(self.path / "journal.db") as reader:
            entries = reader.entries(run_id, 0, 1 << 30)  # type: ignore[arg-type]
        return [
            decode_artifact(record_pb2.Artifact.FromString(entry.payload or b""))
            for entry in entries
            if entry.kind is EntryKind.ARTIFACT
        ]


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    """Make one."""
    place = Place(tmp_path)
    yield place
    place.journal.close()


def test_what_a_dead_trainer_has_staged_is_taken_once(place: Place) -> None:
    """Not before it has let go; then its files are blobs, and nothing stays."""
    staged = place.stage(b"weights" * 100_000)
    place.adoption.scan()
    assert place.journaled() == []
    assert (place.adoption.file_count, place.adoption.trouble) == (1, "")
    staged.close()
    for _ in range(2):
        place.adoption.scan()
    (kept,) = place.journaled()
    assert (kept.name, kept.version, kept.aliases) == ("weights", 0, ("best", "latest"))
    assert place.blobs.path(kept.files[0].sha256).read_bytes() == b"weights" * 100_000
    assert staged_artifacts(place.spool) == []


def test_a_run_of_which_nothing_else_is_known_is_started(place: Place) -> None:
    """Its trainer was killed before it could say so; somebody is told to see to its end."""
    place.stage(b"x", run_id="other", start=START).close()
    place.adoption.scan()
    (start,) = place.started
    assert (start.run_id, start.project, start.config) == ("other", "p", {"lr": 0.1})
    assert [kept.project for kept in place.journaled(RunId("other"))] == ["p"]


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"name": "../x"}, "no name of a file"),
        ({"aliases": ["v1"]}, "name of a version"),
        ({"aliases": [7]}, "malformed"),
        ({"metadata": {"a": {1: [object()]}}, "type": ""}, "type"),
        ({"run_id": "other", "start": {"x": 1}}, "malformed"),
        ({"run_id": "../other", "start": START | {"run_id": "../other"}}, "run_id"),
    ],
)
def test_what_can_never_be_taken_stays_and_is_told(
    place: Place, changed: dict[str, Any], why: str
) -> None:
    """Nothing of it is journaled, and others behind it are taken."""
    place.stage(b"x", **changed).close()
    place.stage(b"good").close()
    for _ in range(2):
        place.adoption.scan()
    assert len(place.journaled()) == 1
    assert why in place.adoption.trouble
    assert len(staged_artifacts(place.spool)) == 1


def test_a_file_that_is_not_what_its_trainer_staged_is_not_taken(place: Place) -> None:
    """Neither cut short, nor a link to something else."""
    for change in (lambda copy: copy.write_bytes(b"xx"), lambda copy: copy.unlink()):
        staged = place.stage(b"x")
        change(staged.path / "0")
        staged.close()
    staged = place.stage(b"x")
    (staged.path / "0").unlink()
    (staged.path / "0").symlink_to(place.path / "source")
    staged.close()
    place.adoption.scan()
    assert place.journaled() == []
    assert len(staged_artifacts(place.spool)) == 3
