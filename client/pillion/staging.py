"""Staged artifacts: files that wait in the spool directory until a sidecar has them.

A trainer stages what it logs before `log_artifact` returns, so that the files may change or go. Its
client sends them from here; if the trainer is gone first, a sidecar of the same user, or `pillion
spool send`, takes them over. Loads no protobuf.

**Layout.** One directory per artifact, `RUN_ID.RANDOM.artifact`, mode 0700, in `spool_directory()`:

    manifest.json   what is logged, see `Staged`
    0, 1, 2 …       the files, under their places in the manifest

It is made under another name (`….new`), locked, filled, and only then named. So a directory whose
name ends in `.artifact` is whole.

**Lock.** Its owner holds `flock(LOCK_EX)` on the directory as long as it lives: one whose lock can
be taken has no owner any more. A forked child closes its copies at once.

**Durability.** A killed process loses nothing; a crash of the machine may, as nothing is synced.
"""

import errno
import fcntl
import json
import os
import secrets
import shutil
import stat
import time
from collections.abc import Iterable, Iterator
from contextlib import closing, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote

FORMAT = 1
SUFFIX, SUFFIX_NEW = ".artifact", ".new"
MANIFEST = "manifest.json"
MANIFEST_BYTES_MAX = 16 * 1024 * 1024
ROOM_LEFT_BYTES = 1024 * 1024 * 1024
"""Nothing is copied that would leave less room than that on the spool's disk."""
PIECE_BYTES = 1024 * 1024
CLOCK_TICK_S = 0.02
"""What a filesystem's clock may lag behind: two writes within a tick have one time."""
ATTEMPTS_MAX = 3
"""How often a file is copied that changes meanwhile."""

_NAME_CHARACTERS_MAX = 120
_FICLONE = 0x40049409
"""Of linux/fs.h: share another file's blocks until one of the two is written to."""


class StagingError(Exception):
    """A file cannot be staged, or what was staged cannot be read; the message says why."""


@dataclass(slots=True)
class StagedFile:
    """One file of an artifact."""

    name: str
    """Within the artifact."""
    place: int | None = None
    """The name of its copy in the directory; None if it is only referred to."""
    size_bytes: int = 0
    sha256: str = ""
    """In hexadecimal; empty: not known yet."""
    reference_uri: str = ""
    mtime_ns: int | None = None
    """Of a hard link to the user's file: when that was changed last, as far as was known."""


@dataclass(slots=True)
class Manifest:
    """What is logged."""

    run_id: str
    writer_id: str
    name: str
    type: str
    description: str
    metadata: dict[str, Any]
    aliases: list[str]
    registry_links: list[str]
    time_unix_nano: int
    start: dict[str, Any]
    """The writer's `Start`, for a run of which nothing else was ever sent or spooled."""
    files: list[StagedFile] = field(default_factory=list)


class Staged:
    """A staged artifact. Its lock is held until `remove` or `close`."""

    def __init__(self, path: Path, fd: int, manifest: Manifest) -> None:
        self.path, self.manifest = path, manifest
        self._fd = fd

    @classmethod
    def create(
        cls, directory: Path, manifest: Manifest, sources: Iterable[Path | None], *, link: bool
    ) -> Self:
        """Stage an artifact: when this returns, the files may change or go.

        Args:
            directory: The spool directory.
            manifest: What is logged; sizes and places of its files are filled in.
            sources: For each file where it is; None: it is only referred to.
            link: Link to files instead of copying them. One that is changed in place, not replaced,
                is then refused later.

        Raises:
            StagingError: A file is none, or changes all the time.
            OSError: A file cannot be read, or there is no room.
        """
        path, fd = _make(directory, manifest.run_id)
        staged = cls(path, fd, manifest)
        try:
            for place, (file, source) in enumerate(zip(manifest.files, sources, strict=True)):
                if source is not None:
                    file.place = place
                    _stage(source, staged.path_of(file), file, link=link)
            text = json.dumps({"format": FORMAT} | asdict(manifest), default=_text)
            (path / MANIFEST).write_text(text, encoding="utf-8")
            staged.path = path.with_name(path.name.removesuffix(SUFFIX_NEW))
            path.rename(staged.path)
        except BaseException:
            staged.path = path
            staged.remove()
            raise
        return staged

    @classmethod
    def adopt(cls, path: Path) -> Self | None:
        """Take over what was staged; None if its owner lives, or another was faster.

        Raises:
            StagingError: It is none of ours, or of a newer version.
            OSError: It cannot be opened.
        """
        fd = _lock(path)
        if fd is None:
            return None
        try:
            return cls(path, fd, _manifest(path))
        except BaseException:
            _release(fd)
            raise

    def path_of(self, file: StagedFile) -> Path:
        """Tell where the copy of a file is."""
        return self.path / str(file.place)

    def pieces(self, file: StagedFile, bytes_max: int = PIECE_BYTES) -> Iterator[bytes]:
        """Yield a file's bytes. Raises StagingError if it is not what was staged."""
        path = self.path_of(file)
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        except FileNotFoundError:
            raise StagingError(f"{path}, which was staged of {file.name}, is gone") from None
        with open(fd, "rb", buffering=0) as content:  # noqa: PTH123 - opened above, with care
            left_bytes = file.size_bytes
            self._check(fd, file)
            while left_bytes:
                data = content.read(min(bytes_max, left_bytes))
                if not data:
                    break
                yield data
                left_bytes -= len(data)
            self._check(fd, file)

    def remove(self) -> None:
        """Delete it: the sidecar has it, or never takes it."""
        shutil.rmtree(self.path, ignore_errors=True)
        self.close()

    def close(self) -> None:
        """Let the lock go: it is now whoever's takes it."""
        if self._fd >= 0:
            _release(self._fd)
            self._fd = -1

    @staticmethod
    def _check(fd: int, file: StagedFile) -> None:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise StagingError(f"What was staged of {file.name} is no regular file")
        is_changed = file.mtime_ns is not None and status.st_mtime_ns != file.mtime_ns
        if is_changed or status.st_size != file.size_bytes:
            raise StagingError(
                f"{file.name} was changed in place after it had been logged by a link. Log it with "
                "policy='copy', or write a new file each time"
            )


def staged_artifacts(directory: Path) -> list[Path]:
    """List what is staged in a spool directory, by name; none if it does not exist."""
    try:
        return sorted(path for path in directory.iterdir() if path.name.endswith(SUFFIX))
    except FileNotFoundError:
        return []


def clean(directory: Path) -> None:
    """Delete what was being staged when its trainer was killed."""
    with suppress(OSError):  # there is no directory, or it is a file
        for path in directory.glob(f"*{SUFFIX}{SUFFIX_NEW}"):
            fd = _lock(path)
            if fd is not None:
                shutil.rmtree(path, ignore_errors=True)
                _release(fd)


_owned: set[int] = set()
"""Descriptors that hold this process's own locks."""


def _close_in_child() -> None:
    for fd in _owned:
        os.close(fd)
    _owned.clear()


os.register_at_fork(after_in_child=_close_in_child)


def _make(directory: Path, run_id: str) -> tuple[Path, int]:
    """Make a new directory and lock it."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    run = quote(run_id, safe="", errors="replace")[:_NAME_CHARACTERS_MAX]
    while True:
        path = directory / f"{run}.{secrets.token_hex(8)}{SUFFIX}{SUFFIX_NEW}"
        path.mkdir(mode=0o700)
        fd = _lock(path)
        if fd is not None:  # else somebody took it for one whose owner is gone
            return path, fd


def _lock(path: Path) -> int | None:
    """Open a directory and lock it; None if somebody else has the lock, or it is gone."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        is_there = os.fstat(fd).st_nlink > 0
    except BlockingIOError:
        is_there = False
    if not is_there:
        os.close(fd)
        return None
    _owned.add(fd)
    return fd


def _release(fd: int) -> None:
    _owned.discard(fd)
    with suppress(OSError):
        fcntl.flock(fd, fcntl.LOCK_UN)  # also if a child just being forked has a copy
    os.close(fd)


def _stage(source: Path, target: Path, file: StagedFile, *, link: bool) -> None:
    """Link or copy one file, so that it is of one moment."""
    for _ in range(ATTEMPTS_MAX):
        fd = os.open(source, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        with open(fd, "rb", buffering=0) as content:  # noqa: PTH123 - opened above, with care
            before = os.fstat(fd)
            if not stat.S_ISREG(before.st_mode):
                raise StagingError(f"{source} is no regular file")
            if time.time() - before.st_mtime < CLOCK_TICK_S:
                time.sleep(CLOCK_TICK_S)  # else a write now would leave no trace in the time
                if not _is_same(before, os.fstat(fd)):
                    continue
            file.size_bytes = before.st_size
            if link and _is_linked(source, target, before):
                file.mtime_ns = before.st_mtime_ns
                return
            _copy(content.fileno(), target, before.st_size)
            after = os.fstat(fd)
        if _is_same(before, after):
            return
    raise StagingError(f"{source} was changed each time it was copied. Log it when it is complete")


def _is_same(before: os.stat_result, after: os.stat_result) -> bool:
    return (before.st_size, before.st_mtime_ns) == (after.st_size, after.st_mtime_ns)


def _is_linked(source: Path, target: Path, wanted: os.stat_result) -> bool:
    """Make a hard link to a file; tell whether that could be done."""
    try:
        os.link(source.resolve(), target)
    except OSError:  # another filesystem, or another user's file
        return False
    found = target.lstat()
    if (found.st_dev, found.st_ino) == (wanted.st_dev, wanted.st_ino):
        return True
    target.unlink()  # it was replaced meanwhile
    return False


def _copy(source_fd: int, target: Path, size_bytes: int) -> None:
    """Copy a file: at once where the filesystem can share blocks, else byte by byte."""
    target.unlink(missing_ok=True)
    fd = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with open(fd, "wb", buffering=0) as copy:  # noqa: PTH123 - opened above, with its rights
        try:
            fcntl.ioctl(fd, _FICLONE, source_fd)
        except OSError:
            disk = os.fstatvfs(fd)
            if disk.f_bavail * disk.f_frsize - size_bytes < ROOM_LEFT_BYTES:
                raise OSError(
                    errno.ENOSPC,
                    f"the spool's disk has no room for {size_bytes:,} bytes beside the "
                    f"{ROOM_LEFT_BYTES:,} that stay free",
                    str(target.parent.parent),
                ) from None
            with closing(os.fdopen(os.dup(source_fd), "rb", buffering=0)) as content:
                content.seek(0)
                shutil.copyfileobj(content, copy, PIECE_BYTES)


def _manifest(path: Path) -> Manifest:
    try:
        fd = os.open(path / MANIFEST, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        with open(fd, "rb") as file:  # noqa: PTH123 - opened above, with care
            fields = json.loads(file.read(MANIFEST_BYTES_MAX))
        if fields.pop("format") > FORMAT:
            raise StagingError(f"{path} is of a newer version; upgrade Pillion")
        files = [StagedFile(**each) for each in fields.pop("files")]
        return Manifest(**fields, files=files)
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise StagingError(f"{path} is no staged artifact: {error}") from error


def _text(value: Any) -> str:
    """Return what JSON has no place for."""
    if isinstance(value, bytes):
        return value.decode(errors="backslashreplace")
    return str(value)
