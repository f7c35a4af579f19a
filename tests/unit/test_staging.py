"""Staging: what is logged stays as it was, whatever becomes of the files and of the trainer."""

import fcntl
import itertools
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from pillion import staging
from pillion.staging import Manifest, Staged, StagedFile, StagingError, clean, staged_artifacts


@pytest.fixture
def spool(tmp_path: Path) -> Path:
    """Tell where the spool directory is."""
    return tmp_path / "spool"


def stage(spool: Path, *sources: Path, link: bool = False) -> Staged:
    """Stage files."""
    files = [StagedFile(source.name) for source in sources]
    manifest = Manifest(
        "run", "w", "weights", "model", "", {"nan": float("nan")}, [], [], 1, {}, files
    )
    return Staged.create(spool, manifest, sources, link=link)


def content(staged: Staged, place: int = 0) -> bytes:
    """Read a staged file."""
    return b"".join(staged.pieces(staged.manifest.files[place]))


@pytest.mark.parametrize("link", [False, True], ids=["copy", "link"])
def test_a_staged_file_outlives_its_source(tmp_path: Path, spool: Path, *, link: bool) -> None:
    """It may be deleted, or replaced by another one."""
    source = tmp_path / "model.bin"
    for change in (source.unlink, lambda: source.with_suffix(".new").rename(source)):
        source.write_bytes(b"as it was")
        source.with_suffix(".new").write_bytes(b"another one")
        staged = stage(spool, source, link=link)
        change()
        assert content(staged) == b"as it was"
        staged.remove()
    assert staged_artifacts(spool) == []


def test_a_copy_is_not_changed_with_its_source(tmp_path: Path, spool: Path) -> None:
    """Overwritten in place, as some save checkpoints."""
    source = tmp_path / "model.bin"
    source.write_bytes(b"as it was")
    staged = stage(spool, source)
    with source.open("r+b") as file:
        file.write(b"otherwise")
    assert content(staged) == b"as it was"


def test_a_linked_file_that_is_changed_in_place_is_told(tmp_path: Path, spool: Path) -> None:
    """Never is something else sent under its name."""
    source = tmp_path / "model.bin"
    source.write_bytes(b"as it was")
    os.utime(source, ns=(1, 1))
    staged = stage(spool, source, link=True)
    with source.open("r+b") as file:
        file.write(b"otherwise")
    with pytest.raises(StagingError, match="policy='copy'"):
        content(staged)


def test_where_no_link_can_be_made_files_are_copied(
    tmp_path: Path, spool: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another filesystem, as a scratch disk is."""

    def refuse(*_: Any) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    source = tmp_path / "model.bin"
    source.write_bytes(b"x" * 3_000_000)
    staged = stage(spool, source, link=True)
    source.write_bytes(b"y")
    assert content(staged) == b"x" * 3_000_000


@pytest.mark.parametrize("link", [False, True], ids=["copy", "link"])
def test_a_file_that_changes_while_it_is_staged_is_refused(
    tmp_path: Path, spool: Path, *, link: bool
) -> None:
    """Of one that is rewritten in place all the time: no mixture of moments is ever sent."""
    source = tmp_path / "model.bin"
    source.write_bytes(b"a" * 1_024_000)
    stop = threading.Event()

    def rewrite() -> None:
        with source.open("r+b", buffering=0) as file:
            for letter in itertools.cycle(b"ba"):
                file.seek(0)
                for _ in range(1000):
                    if stop.is_set():
                        return
                    file.write(bytes([letter]) * 1024)

    writer = threading.Thread(target=rewrite)
    writer.start()
    try:
        for _ in range(10):
            with suppress(StagingError):
                staged = stage(spool, source, link=link)
                staged_bytes = content(staged)  # at rest for a moment: half of one, half of another
                staged.remove()
                assert staged_bytes.count(b"ab") + staged_bytes.count(b"ba") <= 1
    finally:
        stop.set()
        writer.join()


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_what_is_no_file_is_refused_and_leaves_nothing(
    tmp_path: Path, spool: Path, make: Callable[[Path], Any]
) -> None:
    """Nor does it block."""
    good, odd = tmp_path / "good", tmp_path / "odd"
    good.write_bytes(b"x")
    make(odd)
    with pytest.raises((StagingError, OSError)):
        stage(spool, good, odd)
    with pytest.raises(OSError, match="No such file"):
        stage(spool, tmp_path / "missing")
    assert list(spool.iterdir()) == []


def test_nothing_is_copied_that_would_fill_the_disk(
    tmp_path: Path, spool: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Training needs it too."""
    monkeypatch.setattr(staging, "ROOM_LEFT_BYTES", 2**60)
    source = tmp_path / "model.bin"
    source.write_bytes(b"x")
    with pytest.raises(OSError, match="no room"):
        stage(spool, source)
    assert list(spool.iterdir()) == []


def test_what_is_staged_has_one_owner(tmp_path: Path, spool: Path) -> None:
    """It is taken over only when that one has let go; then it is as it was left."""
    source = tmp_path / "model.bin"
    source.write_bytes(b"x")
    staged = stage(spool, source)
    (path,) = staged_artifacts(spool)
    assert Staged.adopt(path) is None
    staged.close()
    adopted = Staged.adopt(path)
    assert adopted is not None
    assert Staged.adopt(path) is None
    assert repr(adopted.manifest) == repr(staged.manifest)
    assert content(adopted) == b"x"
    adopted.remove()
    assert Staged.adopt(path) is None


def test_a_forked_child_does_not_hold_its_parents_lock(tmp_path: Path, spool: Path) -> None:
    """Else nobody could take over what a killed trainer staged, while a worker of it lives."""
    source = tmp_path / "model.bin"
    source.write_bytes(b"x")
    staged = stage(spool, source)
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(writing)
        os.read(reading, 1)
        os._exit(0)
    staged.close()
    adopted = Staged.adopt(staged.path)
    os.close(writing)
    os.close(reading)
    os.waitpid(pid, 0)
    assert adopted is not None
    adopted.close()


def test_what_was_being_staged_by_a_killed_trainer_is_deleted(tmp_path: Path, spool: Path) -> None:
    """But not what is being staged."""
    half, busy = (spool / f"run.{name}.artifact.new" for name in ("half", "busy"))
    for path in (half, busy):
        path.mkdir(parents=True)
        (path / "0").write_bytes(b"x")
    fd = os.open(busy, os.O_RDONLY)
    fcntl.flock(fd, fcntl.LOCK_EX)
    clean(spool)
    assert list(spool.iterdir()) == [busy]
    os.close(fd)
    clean(tmp_path / "nowhere")


@pytest.mark.parametrize("text", ["", "{}", "[]", "no JSON", '{"format": 99}', '{"format": "x"}'])
def test_what_is_no_staged_artifact_is_refused(spool: Path, text: str) -> None:
    """It stays, for people to look at."""
    path = spool / "run.x.artifact"
    path.mkdir(parents=True)
    (path / "manifest.json").write_text(text)
    with pytest.raises(StagingError):
        Staged.adopt(path)
    assert path.exists()


def test_staging_loads_no_protobuf() -> None:
    """A training loop calls it."""
    code = "import sys, pillion.staging; print({'grpc', 'google.protobuf'} & set(sys.modules))"
    output = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert output.stdout.strip() == "set()"
