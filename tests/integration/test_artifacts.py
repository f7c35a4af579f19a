"""Artifacts at a real sidecar: what is kept, what is asked for, what is refused, what is left."""

import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from artifact_calls import exchange, file_of, manifest_of, pieces_of, read, send, sha256
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from processes import SidecarProcess

from pillion.v1 import record_pb2
from pillion.v1 import telemetry_service_pb2 as pb2

DATA = os.urandom(2_500_000)
FILES = {"model.bin": DATA, "tokenizer/vocab.txt": b"a b c", "empty": b""}


@pytest.fixture(scope="module")
def sidecar(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SidecarProcess]:
    """Return a running sidecar without W&B, for all tests of this module."""
    sidecar = SidecarProcess(tmp_path_factory.mktemp("sidecar"), "--wandb-mode", "disabled").start()
    for run_id in ("run", "other-run", "reader"):
        project = "other" if run_id == "other-run" else "demo"
        start = pb2.StartRunRequest(run_id=run_id, writer_id="w", project=project)
        sidecar.call("StartRun", start)
    yield sidecar
    sidecar.close()


def listed(sidecar: SidecarProcess, **asked: Any) -> list[record_pb2.Artifact]:
    """Ask for artifacts."""
    return list(sidecar.call("ListArtifacts", pb2.ListArtifactsRequest(**asked)).artifacts)


def reason_of(error: grpc.RpcError) -> str:
    """Return the reason that an error carries."""
    status = rpc_status.from_call(error)
    assert status is not None
    info = error_details_pb2.ErrorInfo()
    assert status.details[0].Unpack(info)
    return info.reason


def blobs(sidecar: SidecarProcess) -> set[bytes]:
    """Return the digests of what is kept, and see that nothing else lies there."""
    root = sidecar.data_dir / "blobs"
    assert list((root / "partial").iterdir()) == []
    return {bytes.fromhex(p.parent.name + p.name) for p in (root / "sha256").glob("*/*")}


def test_an_artifact_comes_back_as_it_was_sent(sidecar: SidecarProcess) -> None:
    """Every byte, from anywhere in a file; by version and by alias."""
    kept, missing = send(sidecar, FILES, name="whole", aliases=["best"], description="d")
    assert (kept.version, kept.project, list(kept.aliases)) == ("v0", "demo", ["best", "latest"])
    assert sorted(missing) == sorted(sha256(data) for data in FILES.values())
    assert (kept.file_count, kept.size_bytes) == (3, sum(map(len, FILES.values())))
    for name, data in FILES.items():
        assert read(sidecar, "whole:best", name) == data
    assert read(sidecar, "whole:v0", "model.bin", offset_bytes=2_400_000) == DATA[2_400_000:]
    (shown,) = listed(sidecar, name="whole", version="latest")
    assert {file.name: file.sha256 for file in shown.files} == {
        name: sha256(data) for name, data in FILES.items()
    }


def test_only_what_is_missing_is_asked_for(sidecar: SidecarProcess) -> None:
    """The next version shares what did not change; the same files are the same version."""
    first, _ = send(sidecar, {"a": DATA[:9], "b": b"old"}, name="shared")
    second, missing = send(sidecar, {"a": DATA[:9], "b": b"new"}, name="shared")
    assert missing == [sha256(b"new")]
    again, missing = send(sidecar, {"a": DATA[:9], "b": b"old"}, name="shared", aliases=["first"])
    assert missing == []
    assert [first.version, second.version, again.version] == ["v0", "v1", "v0"]
    versions = {a.version: list(a.aliases) for a in listed(sidecar, name="shared")}
    assert versions == {"v1": [], "v0": ["first", "latest"]}


def test_versions_count_per_project_and_name(sidecar: SidecarProcess) -> None:
    """Another project's artifact of the same name is another one, and then has to be named."""
    for run_id in ("run", "other-run"):
        kept, _ = send(sidecar, {"a": run_id.encode()}, name="both", run_id=run_id)
        assert kept.version == "v0"
    assert read(sidecar, "both:v0", "a", project="other") == b"other-run"
    with pytest.raises(grpc.RpcError, match="Name one"):
        read(sidecar, "both:v0", "a")


def test_who_has_read_an_artifact_is_known(sidecar: SidecarProcess) -> None:
    """By the version that the name meant then."""
    send(sidecar, {"a": b"1"}, name="read")
    use = record_pb2.ArtifactUse(artifact="read:latest", time_unix_nano=1)
    batch = record_pb2.Batch(
        run_id="reader", writer_id="w", sequence=1, records=[record_pb2.Record(artifact_use=use)]
    )
    sidecar.log(pb2.LogMetricsRequest(batch=batch))
    request = pb2.ListArtifactsRequest(name="read", version="v0")
    assert sidecar.call("ListArtifacts", request).reader_run_ids == ["reader"]
    assert [a.name for a in listed(sidecar, run_id="reader")] == ["read"]


def test_artifacts_are_listed_by_pages(sidecar: SidecarProcess) -> None:
    """The latest first; none twice and none left out."""
    for number in range(5):
        send(sidecar, {"a": bytes([number])}, name="paged")
    request = pb2.ListArtifactsRequest(name="paged", page_size=2)
    seen = []
    while True:
        page = sidecar.call("ListArtifacts", request)
        seen += [artifact.version for artifact in page.artifacts]
        request.page_token = page.next_page_token
        if not request.page_token:
            break
    assert seen == ["v4", "v3", "v2", "v1", "v0"]


def lying(data: bytes, told: bytes, size_bytes: int) -> Iterator[pb2.LogArtifactRequest]:
    """Send other bytes than were announced."""
    chunk = record_pb2.BlobChunk(sha256=sha256(told), size_bytes=size_bytes, data=data)
    yield pb2.LogArtifactRequest(chunk=chunk)


TOLD = b"what was announced"
AS_TOLD = manifest_of({"a": TOLD}, name="refused")


@pytest.mark.parametrize(
    ("manifest", "pieces", "reason"),
    [
        (AS_TOLD, lambda: lying(TOLD[:-1] + b"x", TOLD, len(TOLD)), "BLOB_MISMATCH"),
        (AS_TOLD, lambda: lying(TOLD + b"x", TOLD, len(TOLD)), "BLOB_MISMATCH"),
        (AS_TOLD, lambda: lying(TOLD[:-1], TOLD, len(TOLD)), "ARTIFACT_INCOMPLETE"),
        (AS_TOLD, lambda: lying(TOLD, TOLD, len(TOLD) + 1), "CHUNK_UNEXPECTED"),
        (AS_TOLD, lambda: pieces_of(b"something else"), "CHUNK_UNEXPECTED"),
        (AS_TOLD, lambda: iter([]), "ARTIFACT_INCOMPLETE"),
        (AS_TOLD, lambda: iter([pb2.LogArtifactRequest(manifest=AS_TOLD)]), "MALFORMED"),
        (
            record_pb2.Artifact(
                run_id="run", name="a", type="b", files=[file_of("../../escaped", TOLD)]
            ),
            lambda: pieces_of(TOLD),
            "FILE_NAME",
        ),
        (manifest_of({"a": DATA[:5]}, run_id="nobody"), lambda: pieces_of(DATA[:5]), "RUN_UNKNOWN"),
    ],
    ids=["digest", "longer", "shorter", "size", "not-asked", "nothing", "twice", "name", "run"],
)
def test_what_is_not_as_announced_is_refused_and_leaves_nothing(
    sidecar: SidecarProcess,
    manifest: record_pb2.Artifact,
    pieces: Callable[[], Iterator[pb2.LogArtifactRequest]],
    reason: str,
) -> None:
    """Neither an artifact nor a torn file; what was there stays."""
    send(sidecar, {"a": b"stays"}, name="stays")
    before = len(listed(sidecar))
    with pytest.raises(grpc.RpcError) as refused:
        exchange(sidecar, manifest, pieces())
    assert reason_of(refused.value) == reason
    assert len(listed(sidecar)) == before
    assert sha256(TOLD) not in blobs(sidecar)
    assert not list(sidecar.data_dir.parent.rglob("*escaped*"))


def test_a_writer_may_have_four_uploads_open(sidecar: SidecarProcess) -> None:
    """The fifth is refused; those that are open go on, and when one ends there is room."""
    call = "/pillion.v1.TelemetryService/LogArtifact"
    data = b"one of several"
    with sidecar.channel() as channel:
        log_artifact = channel.stream_stream(
            call,
            request_serializer=pb2.LogArtifactRequest.SerializeToString,
            response_deserializer=pb2.LogArtifactResponse.FromString,
        )
        hold = threading.Event()

        def requests() -> Iterator[pb2.LogArtifactRequest]:
            yield pb2.LogArtifactRequest(manifest=manifest_of({"a": data}, name="several"))
            hold.wait(300)
            yield from pieces_of(data)

        streams = [log_artifact(requests(), timeout=300) for _ in range(4)]
        assert all(next(stream).missing.sha256 == [sha256(data)] for stream in streams)
        with pytest.raises(grpc.RpcError) as refused:
            exchange(sidecar, manifest_of({"a": b"fifth"}), pieces_of(b"fifth"))
        assert reason_of(refused.value) == "UPLOADS_MANY"
        hold.set()
        assert [next(stream).artifact.version for stream in streams] == ["v0"] * 4
    assert send(sidecar, {"a": b"fifth"}, name="several")[0].version == "v1"


def test_an_upload_that_breaks_off_leaves_whole_files_only(sidecar: SidecarProcess) -> None:
    """The next try is asked for the rest."""
    whole, torn = os.urandom(1000), os.urandom(3_000_000)
    manifest = manifest_of({"whole": whole, "torn": torn}, name="broken")
    pieces = [*pieces_of(whole), next(pieces_of(torn))]
    with pytest.raises(grpc.RpcError):
        exchange(sidecar, manifest, pieces)
    kept, missing = send(sidecar, {"whole": whole, "torn": torn}, name="broken")
    assert (kept.version, missing) == ("v0", [sha256(torn)])
    assert {sha256(whole), sha256(torn)} <= blobs(sidecar)


def test_artifacts_outlive_a_killed_sidecar(make_sidecar: Any, tmp_path: Path) -> None:
    """Versions go on where they were, also in a new journal; torn files are gone."""
    sidecar = make_sidecar("--wandb-mode", "disabled")
    start = pb2.StartRunRequest(run_id="run", writer_id="w", project="demo")
    sidecar.call("StartRun", start)
    send(sidecar, {"a": b"0"})
    assert listed(sidecar)  # the store has it
    sidecar.kill()
    (tmp_path / "data" / "blobs" / "partial" / "torn").write_bytes(b"half of")
    for journal in (tmp_path / "data").glob("journal.db*"):
        journal.unlink(missing_ok=True)  # the worker deletes some itself when it ends
    sidecar.start()
    sidecar.call("StartRun", start)
    kept, missing = send(sidecar, {"a": b"0", "b": b"1"})
    assert (kept.version, missing) == ("v1", [sha256(b"1")])
    assert len(blobs(sidecar)) == 2


def test_nothing_is_taken_in_when_the_disk_would_be_full(make_sidecar: Any) -> None:
    """What is reserved for delivery stays free: refused before a byte is written."""
    sidecar = make_sidecar("--wandb-mode", "disabled")
    sidecar.call("StartRun", pb2.StartRunRequest(run_id="run", writer_id="w"))
    huge = record_pb2.Artifact(run_id="run", name="huge", type="model")
    huge.files.add(name="a", sha256=sha256(b"huge"), size_bytes=2**49)
    with pytest.raises(grpc.RpcError) as refused:
        exchange(sidecar, huge, [])
    assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert reason_of(refused.value) == "DISK_FULL"
