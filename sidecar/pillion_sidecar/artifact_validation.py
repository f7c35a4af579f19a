"""Checks of artifacts that callers announce, before anything of them is kept.

Raises `PeerError`, saying what is wrong and where. Names of files are checked as if they were to be
written below a directory, which they are when an artifact is downloaded.
"""

import re
import time
from collections.abc import Iterable
from dataclasses import replace

from pillion.artifact_names import alias_problem, file_name_problem, name_problem
from pillion.redaction import redact, redact_text
from pillion.v1 import record_pb2
from pillion_sidecar.artifact_records import Artifact, decode_artifact
from pillion_sidecar.errors import PeerError
from pillion_sidecar.validation import check_run_id
from pillion_sidecar.validation_values import (
    KEY_BYTES_MAX,
    SHA256_BYTES,
    TEXT_BYTES_MAX,
    check_key_values,
    check_text,
)

FILES_MAX = 10_000
"""Of one artifact; its manifest is one message of 1 MiB, which may be fewer."""
ARTIFACT_BYTES_MAX = 2**50
ALIASES_MAX = 64
LINKS_MAX = 16
URI_BYTES_MAX = 4096

_URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]{0,31}:[^\x00-\x20\x7f]+")


def check_artifact(message: record_pb2.Artifact) -> Artifact:
    """Check an artifact that is announced; what the sidecar gives it is still missing."""
    run_id = check_run_id(message.run_id)
    if problem := name_problem(message.name):
        raise PeerError(f"name: {problem}", "ARTIFACT_NAME")
    if not message.type:
        raise PeerError(
            "type: say whether it is a `model`, a `checkpoint`, a `dataset` or what else.",
            "ARTIFACT_NAME",
        )
    if problem := name_problem(message.type):
        raise PeerError(f"type: {problem}", "ARTIFACT_NAME")
    _check_aliases(message.aliases)
    check_text(message.description, "description", TEXT_BYTES_MAX)
    check_key_values(message.metadata, "metadata")
    if len(message.registry_links) > LINKS_MAX:
        raise PeerError(f"registry_links: at most {LINKS_MAX} are taken.", "ARTIFACT_LARGE")
    for link in message.registry_links:
        check_text(link, "registry_links", KEY_BYTES_MAX)
    _check_files(message.files)
    now = record_pb2.Artifact()
    now.CopyFrom(message)
    now.run_id, now.time_unix_nano = run_id, message.time_unix_nano or time.time_ns()
    for field in ("version", "project", "sha256", "file_count", "size_bytes"):
        now.ClearField(field)
    artifact = decode_artifact(now)
    files = tuple(
        replace(file, reference_uri=redact_text(file.reference_uri)) for file in artifact.files
    )
    return replace(artifact, files=files, metadata=redact(artifact.metadata))


def _check_aliases(aliases: Iterable[str]) -> None:
    known = list(aliases)
    if len(known) > ALIASES_MAX:
        raise PeerError(f"aliases: at most {ALIASES_MAX} are taken.", "ARTIFACT_LARGE")
    for alias in known:
        if problem := alias_problem(alias):
            raise PeerError(f"aliases: {problem}", "ARTIFACT_NAME")


def _check_files(files: Iterable[record_pb2.ArtifactFile]) -> None:
    known = list(files)
    if not known:
        raise PeerError("files: an artifact has at least one file.", "ARTIFACT_EMPTY")
    if len(known) > FILES_MAX or sum(file.size_bytes for file in known) > ARTIFACT_BYTES_MAX:
        raise PeerError(
            f"files: {len(known):,} files; at most {FILES_MAX:,}, of {ARTIFACT_BYTES_MAX:,} bytes "
            "together, are taken. Put small files into an archive, or log several artifacts.",
            "ARTIFACT_LARGE",
        )
    names: set[str] = set()
    folders: set[str] = set()
    sizes: dict[bytes, int] = {}
    for file in known:
        if problem := file_name_problem(file.name):
            raise PeerError(f"files: {problem}", "FILE_NAME")
        if file.name in names:
            raise PeerError(f"files: {file.name!r} is there twice.", "FILE_REPEATED")
        names.add(file.name)
        parts = file.name.split("/")
        folders.update("/".join(parts[:count]) for count in range(1, len(parts)))
        _check_content(file)
        if not file.reference_uri and sizes.setdefault(file.sha256, file.size_bytes) != (
            file.size_bytes
        ):
            raise PeerError(
                f"files[{file.name!r}]: another file has its digest and another length.",
                "FILE_DIGEST",
            )
    for name in sorted(names & folders):
        raise PeerError(f"files: {name!r} is a file, and a folder of others.", "FILE_REPEATED")


def _check_content(file: record_pb2.ArtifactFile) -> None:
    where = f"files[{file.name!r}]"
    if file.reference_uri:
        check_text(file.reference_uri, f"{where}.reference_uri", URI_BYTES_MAX)
        if not _URI.fullmatch(file.reference_uri):
            raise PeerError(f"{where}: {file.reference_uri[:80]!r} is no URI.", "FILE_REFERENCE")
    digest_is_whole = len(file.sha256) == SHA256_BYTES
    if not digest_is_whole and not (file.reference_uri and not file.sha256):
        raise PeerError(
            f"{where}.sha256: {len(file.sha256)} bytes; a digest has {SHA256_BYTES}.",
            "FILE_DIGEST",
        )
    if not 0 <= file.size_bytes <= ARTIFACT_BYTES_MAX:
        raise PeerError(f"{where}.size_bytes: {file.size_bytes}.", "ARTIFACT_LARGE")
