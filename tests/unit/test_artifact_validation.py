"""What an artifact may be announced as: nothing in it leads out of where it will be written."""

import hashlib
from collections.abc import Callable
from typing import Any

import pytest

from pillion.v1 import record_pb2
from pillion.values import to_key_values
from pillion_sidecar.artifact_validation import FILES_MAX, check_artifact
from pillion_sidecar.errors import PeerError
from pillion_sidecar.validation_values import check_reference

SHA256 = hashlib.sha256(b"x").digest()


def file(name: str = "a.bin", **changed: Any) -> record_pb2.ArtifactFile:
    """Return a file as it should be, but for what is changed."""
    fields = {"sha256": SHA256, "size_bytes": 1} | changed
    return record_pb2.ArtifactFile(name=name, **fields)


def artifact(*files: record_pb2.ArtifactFile, **changed: Any) -> record_pb2.Artifact:
    """Return an artifact as it should be, but for what is changed."""
    fields = {"run_id": "run", "name": "weights", "type": "model"} | changed
    return record_pb2.Artifact(files=files or [file()], **fields)


BAD_FILE_NAMES = [
    *("", ".", "..", "../x", "a/../b", "a/..", "/etc/passwd", "/", "a/", "a//b", "./a", "a/./b"),
    *("..\\x", "a\\b", "C:\\x", "\\\\host\\share", "a\0b", "\0", "a\nb", "a\x7fb", "a\x1bb"),
    *("x" * 256, "a/" + "x" * 300, "é" * 128, "/".join(["x" * 200] * 6)),
]


@pytest.mark.parametrize("name", BAD_FILE_NAMES)
def test_a_name_that_could_lead_elsewhere_is_refused(name: str) -> None:
    """Relative, without `..`, and no longer than what a filesystem takes."""
    with pytest.raises(PeerError, match="no name of a file") as refusal:
        check_artifact(artifact(file(name)))
    assert refusal.value.reason == "FILE_NAME"


@pytest.mark.parametrize(
    "name",
    ["a", ".hidden", "...", "a b", "a:b", "-rf", "ä/ö", "x" * 255, "a/b/c.bin", "~", "$HOME"],
)
def test_a_name_that_only_looks_odd_is_taken(name: str) -> None:
    """What a filesystem takes is a name."""
    assert check_artifact(artifact(file(name))).files[0].name == name


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: artifact(name=""), "ARTIFACT_NAME"),
        (lambda: artifact(name="a/b"), "ARTIFACT_NAME"),
        (lambda: artifact(name=".."), "ARTIFACT_NAME"),
        (lambda: artifact(name="a:b"), "ARTIFACT_NAME"),
        (lambda: artifact(name="x" * 129), "ARTIFACT_NAME"),
        (lambda: artifact(type=""), "ARTIFACT_NAME"),
        (lambda: artifact(type="a b"), "ARTIFACT_NAME"),
        (lambda: artifact(aliases=["v3"]), "ARTIFACT_NAME"),
        (lambda: artifact(aliases=["a:b"]), "ARTIFACT_NAME"),
        (lambda: artifact(aliases=[""]), "ARTIFACT_NAME"),
        (lambda: artifact(aliases=[f"a{i}" for i in range(65)]), "ARTIFACT_LARGE"),
        (lambda: artifact(run_id="../run"), "INVALID"),
        (lambda: record_pb2.Artifact(run_id="run", name="a", type="b"), "ARTIFACT_EMPTY"),
        (lambda: artifact(file("a"), file("a")), "FILE_REPEATED"),
        (lambda: artifact(file("a"), file("a/b")), "FILE_REPEATED"),
        (lambda: artifact(*[file(str(i)) for i in range(FILES_MAX + 1)]), "ARTIFACT_LARGE"),
        (lambda: artifact(file(size_bytes=-1)), "ARTIFACT_LARGE"),
        (lambda: artifact(file(size_bytes=2**60)), "ARTIFACT_LARGE"),
        (lambda: artifact(file(sha256=b"")), "FILE_DIGEST"),
        (lambda: artifact(file(sha256=b"x" * 31)), "FILE_DIGEST"),
        (lambda: artifact(file("a"), file("b", size_bytes=2)), "FILE_DIGEST"),
        (lambda: artifact(file(reference_uri="no uri")), "FILE_REFERENCE"),
        (lambda: artifact(file(reference_uri="s3://x\0y")), "FILE_REFERENCE"),
        (lambda: artifact(registry_links=["x"] * 17), "ARTIFACT_LARGE"),
    ],
)
def test_what_cannot_be_kept_is_refused_with_a_reason(
    make: Callable[[], record_pb2.Artifact], reason: str
) -> None:
    """Each with its own, and a sentence."""
    with pytest.raises(PeerError) as refusal:
        check_artifact(make())
    assert refusal.value.reason == reason
    assert str(refusal.value).endswith(".")


def test_a_reference_needs_no_digest_and_hides_a_password() -> None:
    """It may be large and far away; what it says is shown to everybody."""
    referred = file(sha256=b"", size_bytes=0, reference_uri="https://me:secret@host/w.bin")
    metadata = to_key_values({"step": 3, "api_key": "0123456789abcdef"})
    taken = check_artifact(artifact(referred, metadata=metadata))
    assert "secret" not in taken.files[0].reference_uri
    assert taken.metadata["step"] == 3
    assert taken.metadata["api_key"] != "0123456789abcdef"


def test_what_only_the_sidecar_gives_is_not_taken_from_a_caller() -> None:
    """Version, project and digest."""
    taken = check_artifact(artifact(version="v7", project="p", sha256=SHA256))
    assert (taken.version, taken.project, taken.sha256) == (-1, "", b"")


@pytest.mark.parametrize("text", ["", ":v1", "a/b:v1", "../x", "a:b:c", "a:b/c"])
def test_what_is_no_artifact_is_not_looked_for(text: str) -> None:
    """A reference is `NAME:VERSION` or `NAME:ALIAS`."""
    with pytest.raises(PeerError, match="is no artifact"):
        check_reference(text)
    assert check_reference("a") == ("a", "latest")
    assert check_reference("a:v0") == ("a", "v0")
