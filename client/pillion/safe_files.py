"""Writes the files of an artifact below a directory, and nowhere else.

Each component is opened by itself and never through a link, so that neither a name nor a link that
lies there leads out. A file appears whole, under its name, when its digest was compared.
"""

import hashlib
import os
import secrets
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from pillion.artifact_names import file_name_problem

PIECE_BYTES = 1024 * 1024


class UnsafeNameError(ValueError):
    """A name could lead out of the directory."""


class MismatchError(ValueError):
    """What was to be written is not what was announced."""


def has_file(root: Path, name: str, sha256: bytes, size_bytes: int) -> bool:
    """Tell whether a file is there, whole."""
    try:
        folder_fd = _open_folder(root, name, make=False)
    except OSError:
        return False
    try:
        fd = os.open(_base(name), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=folder_fd)
    except OSError:
        return False
    finally:
        os.close(folder_fd)
    with open(fd, "rb", buffering=0) as file:  # noqa: PTH123 - opened above, with care
        if os.fstat(fd).st_size != size_bytes:
            return False
        digest = hashlib.sha256()
        while data := file.read(PIECE_BYTES):
            digest.update(data)
    return digest.digest() == sha256


def write_file(root: Path, name: str, sha256: bytes, pieces: Iterable[bytes]) -> None:
    """Write a file.

    Args:
        root: The directory, which may be a link to one; made if it is not there.
        name: The file's name within it, with `/` between components.
        sha256: What its bytes have to make.
        pieces: Its bytes.

    Raises:
        UnsafeNameError: The name could lead elsewhere.
        MismatchError: The bytes are others.
        OSError: It cannot be written; a link lies where a folder should be.
    """
    root.mkdir(parents=True, exist_ok=True)
    folder_fd = _open_folder(root, name, make=True)
    partial = f".{secrets.token_hex(8)}.partial"
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        digest = hashlib.sha256()
        with open(os.open(partial, flags, 0o666, dir_fd=folder_fd), "wb") as file:  # noqa: PTH123
            for data in pieces:
                digest.update(data)
                file.write(data)
        _check_digest(name, digest.digest(), sha256)
        os.rename(partial, _base(name), src_dir_fd=folder_fd, dst_dir_fd=folder_fd)
    except BaseException:
        with suppress(OSError):
            os.unlink(partial, dir_fd=folder_fd)
        raise
    finally:
        os.close(folder_fd)


def _check_digest(name: str, found: bytes, wanted: bytes) -> None:
    if found != wanted:
        raise MismatchError(f"what came of {name} has another digest than it should have")


def _base(name: str) -> str:
    return name.rpartition("/")[2]


def _open_folder(root: Path, name: str, *, make: bool) -> int:
    """Open the folder of a file, component by component, through no link."""
    if problem := file_name_problem(name):
        raise UnsafeNameError(problem)
    fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    for part in name.split("/")[:-1]:
        try:
            if make:
                with suppress(FileExistsError):
                    os.mkdir(part, dir_fd=fd)
            flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
            below = os.open(part, flags, dir_fd=fd)
        finally:
            os.close(fd)
        fd = below
    return fd
