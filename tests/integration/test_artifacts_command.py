"""`pillion artifacts` and `pillion gc`: beside a sidecar and without one."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from artifact_calls import exchange, manifest_of, pieces_of, read, send, sha256
from processes import SidecarProcess, environment

from pillion.staging import Manifest, Staged, StagedFile
from pillion.v1 import record_pb2
from pillion.v1 import telemetry_service_pb2 as pb2

FILES = {"model.bin": os.urandom(2_000_000), "a/b/c.txt": b"x", "empty": b""}


@pytest.fixture
def pillion(sidecar: SidecarProcess) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Return a function that runs a command on the sidecar's data."""
    sidecar.call("StartRun", pb2.StartRunRequest(run_id="run", writer_id="w", project="demo"))
    variables = {"PILLION_ADDRESS": sidecar.address, "PILLION_DATA_DIR": str(sidecar.data_dir)}

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "pillion_sidecar", *arguments]
        return subprocess.run(
            command,
            env=environment(**variables),
            cwd=sidecar.data_dir.parent,
            capture_output=True,
            text=True,
            check=False,
        )

    return run


@pytest.fixture(params=[True, False], ids=["with-sidecar", "without"])
def ending(request: pytest.FixtureRequest, sidecar: SidecarProcess) -> Callable[[], Any]:
    """Return what ends the sidecar, or leaves it there."""
    return (lambda: None) if request.param else sidecar.stop


def test_artifacts_are_listed_shown_and_got(
    sidecar: SidecarProcess, pillion: Callable[..., Any], ending: Callable[[], Any]
) -> None:
    """The same with a sidecar and without; what is there already is not read again."""
    send(sidecar, FILES, aliases=["best"])
    far = record_pb2.Artifact(run_id="run", name="far", type="dataset")
    far.files.add(name="x.bin", reference_uri="s3://bucket/x.bin", size_bytes=7)
    exchange(sidecar, far, [])
    pillion("artifacts", "ls")  # waits until the store has them
    ending()
    listed = json.loads(pillion("artifacts", "ls", "--json").stdout)["artifacts"]
    assert [(each["name"], each["version"]) for each in listed] == [
        ("far", "v0"),
        ("weights", "v0"),
    ]
    shown = json.loads(pillion("artifacts", "show", "weights:best", "--json").stdout)
    assert {f["name"]: f["sha256"] for f in shown["files"]} == {
        name: sha256(data).hex() for name, data in FILES.items()
    }
    assert "a/b/c.txt" in pillion("artifacts", "show", "weights").stdout
    for _ in range(2):
        got = pillion("artifacts", "get", "weights:v0", "--output", "out")
        assert got.returncode == 0, got.stderr
    out = sidecar.data_dir.parent / "out"
    assert {name: (out / name).read_bytes() for name in FILES} == FILES
    assert "s3://bucket/x.bin" in pillion("artifacts", "get", "far:v0").stderr
    missing = pillion("artifacts", "get", "nothing:v0")
    assert (missing.returncode, "no artifact nothing" in missing.stderr) == (1, True)


def test_no_link_leads_out_of_where_files_are_got(
    sidecar: SidecarProcess, pillion: Callable[..., Any], tmp_path: Path
) -> None:
    """Neither one that stands for a folder, nor one in a file's own place."""
    send(sidecar, {"a/b.txt": b"new", "c.txt": b"new"})
    outside, out = tmp_path / "outside", tmp_path / "out"
    outside.mkdir()
    (outside / "c.txt").write_text("precious")
    out.mkdir()
    (out / "c.txt").symlink_to(outside / "c.txt")
    (out / "a").symlink_to(outside)
    got = pillion("artifacts", "get", "weights", "--output", str(out))
    assert got.returncode == 1
    assert "out cannot be written" in got.stderr
    (out / "a").unlink()
    assert pillion("artifacts", "get", "weights", "--output", str(out)).returncode == 0
    assert (out / "c.txt").read_text() == "new"
    assert not (out / "c.txt").is_symlink()
    assert (outside / "c.txt").read_text() == "precious"
    assert [path.name for path in outside.iterdir()] == ["c.txt"]


def blobs(sidecar: SidecarProcess) -> Iterator[tuple[Path, bytes]]:
    """Yield what is kept, made old enough to be removed."""
    for path in (sidecar.data_dir / "blobs" / "sha256").glob("*/*"):
        os.utime(path, (time.time() - 7200,) * 2)
        yield path, bytes.fromhex(path.parent.name + path.name)


def test_gc_removes_what_nothing_needs_and_nothing_else(
    sidecar: SidecarProcess, pillion: Callable[..., Any], wait_until: Callable[..., Any]
) -> None:
    """Of a broken upload, and of versions that retention gives up, once their run has ended."""
    for number in range(4):
        data = {"shared": b"shared", "own": bytes([number]) * 100_000}
        send(sidecar, data, aliases=["best"] if number == 1 else [f"step-{number}"])
    torn = {"whole": b"whole", "missing": b"never sent"}
    with pytest.raises(Exception, match="ended before all"):
        exchange(sidecar, manifest_of(torn), pieces_of(b"whole"))
    assert len(list(blobs(sidecar))) == 6
    told = json.loads(pillion("gc", "--dry-run", "--artifact-keep-last", "1", "--json").stdout)
    assert (told["versions"], told["blob_count"], told["blob_bytes"]) == ([], 1, 5)
    assert len(list(blobs(sidecar))) == 6
    sidecar.call("FinishRun", pb2.FinishRunRequest(run_id="run", writer_id="w"))

    def found() -> Any:
        return json.loads(pillion("gc", "--dry-run", "--artifact-keep-last", "1", "--json").stdout)[
            "versions"
        ]

    versions = ["demo/weights:v0", "demo/weights:v2"]
    assert wait_until(lambda: sorted(found()) == versions)
    removed = pillion("gc", "--artifact-keep-last", "1")
    assert removed.returncode == 0, removed.stderr
    assert "2 versions" in removed.stdout
    kept = {digest for _, digest in blobs(sidecar)}
    assert kept == {sha256(b"shared"), sha256(b"\1" * 100_000), sha256(b"\3" * 100_000)}
    left = json.loads(pillion("artifacts", "ls", "--json").stdout)["artifacts"]
    assert [each["version"] for each in left] == ["v3", "v1"]
    again, missing = send(sidecar, {"shared": b"shared", "own": b"\2" * 100_000})
    assert (again.version, missing) == ("v2", [sha256(b"\2" * 100_000)])


def test_staged_artifacts_are_listed_and_sent_by_hand(
    sidecar: SidecarProcess, pillion: Callable[..., Any], tmp_path: Path
) -> None:
    """From a directory that no sidecar looks into; what is refused stays, and is told."""
    source, elsewhere = tmp_path / "model.bin", tmp_path / "elsewhere"
    source.write_bytes(b"staged")
    for run_id in ("run", "nobody"):
        fields = (run_id, "w", "weights", "model", "", {}, ["best"], [], 1, {})
        manifest = Manifest(*fields, [StagedFile("model.bin")])  # type: ignore[arg-type]
        Staged.create(elsewhere, manifest, [source], link=False).close()
    where = ("--spool-dir", str(elsewhere))
    files = json.loads(pillion("spool", "ls", *where, "--json").stdout)["files"]
    assert [(each["run_id"], each["state"]) for each in files] == [
        ("nobody", "waiting"),
        ("run", "waiting"),
    ]
    sent = pillion("spool", "send", "--all", *where)
    assert (sent.returncode, "There is no run nobody" in sent.stderr) == (1, True)
    assert read(sidecar, "weights:best", "model.bin") == b"staged"
    (left,) = elsewhere.iterdir()
    assert left.name.startswith("nobody.")
    assert pillion("spool", "rm", left.name, "--yes", *where).returncode == 0
    assert list(elsewhere.iterdir()) == []
