"""Versions of artifacts: the same files are one, and no number is given twice."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pillion.v1 import record_pb2
from pillion_sidecar import salvage
from pillion_sidecar.artifact_records import Artifact, ArtifactFile, decode_artifact
from pillion_sidecar.errors import StateError
from pillion_sidecar.journal import Journal
from pillion_sidecar.journal_reader import EntryKind, JournalReader
from pillion_sidecar.records import Environment, RunFinish, RunId, RunStart, RunState, WriterId

RUN, WRITER = RunId("run"), WriterId("w")
WAIT_S = 120.0


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Tell where the journal is."""
    return tmp_path / "journal.db"


@pytest.fixture
def journal(path: Path) -> Iterator[Journal]:
    """Open a new journal with one run."""
    journal = open_journal(path)
    journal.start(RunStart(RUN, WRITER, "p", "n", "", "", (), "", {}, Environment(), 1))
    yield journal
    journal.close()


def open_journal(path: Path) -> Journal:
    """Open a journal that tells nobody of its commits."""
    return Journal(path, on_commit=lambda: None, on_fatal=lambda _: None)


def log(journal: Journal, content: str, name: str = "weights", **changed: Any) -> Artifact:
    """Log an artifact of one file."""
    file = ArtifactFile("a", hashlib.sha256(content.encode()).digest(), len(content))
    fields: dict[str, Any] = {"run_id": RUN, "project": "", "version": -1, "aliases": ()}
    fields |= {"metadata": {}, "description": "", "time_unix_nano": 1} | changed
    artifact = Artifact(name=name, type="model", files=(file,), **fields)
    return journal.log_artifact(artifact).result(WAIT_S)


def test_the_same_files_are_the_same_version(journal: Journal) -> None:
    """Others are the next one; each name counts by itself."""
    versions = [log(journal, content).version for content in ("x", "y", "x", "z", "y")]
    assert versions == [0, 1, 0, 2, 1]
    assert log(journal, "y", "other").version == 0
    assert log(journal, "x", aliases=("best", "latest")).aliases == ("best", "latest")


def test_an_artifact_of_a_run_that_has_ended_comes_before_its_end(
    journal: Journal, path: Path
) -> None:
    """What comes after an end would open the run again."""
    finish = RunFinish(RUN, WRITER, RunState.FAILED, 3, "why", {}, 5)
    journal.finish(finish, last_sequence=None)
    log(journal, "x", project="ignored")
    with JournalReader(path) as reader:
        entries = reader.entries(RUN, 0, 1 << 30)  # type: ignore[arg-type]
    kinds = [EntryKind.START, EntryKind.END, EntryKind.ARTIFACT, EntryKind.END]
    assert [entry.kind for entry in entries] == kinds
    assert entries[1].payload == entries[3].payload
    kept = decode_artifact(record_pb2.Artifact.FromString(entries[2].payload or b""))
    assert (kept.project, kept.version, kept.aliases) == ("p", 0, ("latest",))


def test_an_artifact_of_a_run_that_is_not_known_is_refused(journal: Journal) -> None:
    """Nobody could find it."""
    with pytest.raises(StateError, match="no run nobody"):
        log(journal, "x", run_id="nobody")


def test_versions_are_not_given_again_after_damage(journal: Journal, path: Path) -> None:
    """Neither by a salvaged journal, nor by a new one that is told of what there is."""
    assert [log(journal, content).version for content in ("x", "y")] == [0, 1]
    journal.close()
    salvage.salvage(path)
    again = open_journal(path)
    assert [log(again, content).version for content in ("y", "z")] == [1, 2]
    known = ("p", "weights", 7, b"digest")
    again.know_versions([known, known]).result(WAIT_S)
    assert log(again, "new").version == 8
    again.close()
