"""An artifact as users put it together: names and where the files are. Nothing is read yet."""

import glob
import os
import re
import shutil
import stat
import tempfile
import time
import weakref
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import IO, Any

from pillion._messages import Start
from pillion._notice import warn
from pillion.artifact_names import (
    NAME_CHARACTERS_MAX,
    alias_problem,
    file_name_problem,
    name_problem,
)
from pillion.plain import to_plain_dict, to_text
from pillion.staging import Manifest, StagedFile

FILES_MAX = 10_000
DESCRIPTION_CHARACTERS_MAX = 16_384

_SHA256 = re.compile(r"[0-9a-f]{64}")
_URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]{0,31}:\S+")
_ODD = re.compile(r"[^A-Za-z0-9_.-]+")


class Artifact:
    """Named files, to be logged by `Run.log_artifact`; then they become a version of it.

    Its methods raise ValueError for what can never be logged: a name that is none, a file that is
    not there.
    """

    def __init__(
        self,
        name: str,
        type: str,
        description: str | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        """Begin one without files.

        Args:
            name: Its name in the project: letters, digits, `.`, `_` and `-`.
            type: What it is: `model`, `checkpoint`, `dataset` …
            description: What it is, for people.
            metadata: What else is known of it; nested as you like.
        """
        for text in (name, type):
            if problem := name_problem(text):
                raise ValueError(problem)
        self.name, self.type = name, type
        self.description = to_text(description or "")[:DESCRIPTION_CHARACTERS_MAX]
        self.metadata: dict[str, Any] = dict(metadata or {})
        self._files: dict[str, tuple[Path | None, StagedFile]] = {}
        self._links: list[str] = []

    def add_file(self, path: str | os.PathLike[str], name: str | None = None) -> None:
        """Add a file, under its own name or another; `/` separates folders in a name."""
        source = Path(path)
        if not _is_regular(source):
            raise ValueError(f"There is no file {source}.")
        self._add(name or source.name, source, StagedFile(""))

    @contextmanager
    def new_file(
        self, name: str, mode: str = "x", encoding: str | None = None
    ) -> Iterator[IO[Any]]:
        """Open a new file to be written; it is added when it is closed."""
        folder = Path(tempfile.mkdtemp(prefix="pillion-artifact-"))
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        path = folder / "file"
        with path.open(mode, encoding=encoding) as file:
            yield file
        self.add_file(path, name)

    def add_dir(self, path: str | os.PathLike[str], name: str | None = None) -> None:
        """Add all files below a directory, links to files included; `name` is a folder for them."""
        root = Path(path)
        if not root.is_dir():
            raise ValueError(f"There is no directory {root}.")
        for source in _files_below(root):
            within = to_text(source.relative_to(root).as_posix())
            self._add(f"{name.rstrip('/')}/{within}" if name else within, source, StagedFile(""))

    def add_reference(
        self,
        uri: str,
        name: str | None = None,
        size_bytes: int | None = None,
        sha256: str | None = None,
    ) -> None:
        """Add a file that stays where it is and is not read, by its URI.

        Args:
            uri: Where it is: `s3://…`, `file:///…`.
            name: Default: what stands behind the last `/`.
            size_bytes: Its length, if known.
            sha256: Its digest in hexadecimal, if known.
        """
        uri = to_text(uri)
        if not _URI.fullmatch(uri):
            raise ValueError(f"{uri[:80]!r} is no URI.")
        if sha256 and not _SHA256.fullmatch(sha256):
            raise ValueError(f"sha256 is {sha256[:80]!r}; it has 64 hexadecimal digits.")
        if size_bytes is not None and not 0 <= size_bytes < 2**50:
            raise ValueError(f"size_bytes is {size_bytes}.")
        within = name or uri.rstrip("/").rpartition("/")[2]
        self._add(
            within,
            None,
            StagedFile("", size_bytes=size_bytes or 0, sha256=sha256 or "", reference_uri=uri),
        )

    def link(self, target_path: str) -> None:
        """Have it linked to a collection of W&B's registry: `wandb-registry-model/NAME`."""
        self._links.append(to_text(target_path)[:256])

    def __repr__(self) -> str:
        return f"<pillion.Artifact {self.name!r} of type {self.type!r}, {len(self._files)} files>"

    def to_manifest(
        self, start: Start, aliases: Iterable[str]
    ) -> tuple[Manifest, list[Path | None]]:
        """Return what is logged, and where each file is. Raises ValueError if there is none."""
        from pillion.redaction import redact  # noqa: PLC0415 - some regular expressions

        if not self._files:
            raise ValueError(f"The artifact {self.name} has no files.")
        manifest = Manifest(
            run_id=start.run_id,
            writer_id=start.writer_id,
            name=self.name,
            type=self.type,
            description=self.description,
            metadata=redact(to_plain_dict(self.metadata)),
            aliases=[*aliases],
            registry_links=[*self._links],
            time_unix_nano=time.time_ns(),
            start=asdict(replace(start, config=redact(start.config))),
            files=[replace(file) for _, file in self._files.values()],
        )
        return manifest, [source for source, _ in self._files.values()]

    def _add(self, name: str, source: Path | None, file: StagedFile) -> None:
        if problem := file_name_problem(name):
            raise ValueError(problem)
        if name in self._files:
            raise ValueError(f"{name!r} is in the artifact {self.name} already.")
        if len(self._files) >= FILES_MAX:
            raise ValueError(
                f"An artifact has {FILES_MAX:,} files at most. Put small files into an archive, or "
                "log several artifacts."
            )
        file.name = name
        self._files[name] = (source and source.absolute(), file)


def artifact_of(
    path: str | os.PathLike[str], name: str | None, type: str | None, run_id: str
) -> Artifact:
    """Make an artifact of a file or directory, of those of a pattern, or of a URI's reference."""
    text = to_text(os.fspath(path))
    base = _ODD.sub("_", text.rstrip("/").rpartition("/")[2]) or "file"
    artifact = Artifact(name or f"run-{run_id}-{base}"[:NAME_CHARACTERS_MAX], type or "unspecified")
    if Path(path).is_dir():
        artifact.add_dir(path)
    elif "://" in text:
        artifact.add_reference(text)
    elif glob.has_magic(text) and not Path(path).exists():
        matches = sorted(glob.glob(text, recursive=True))  # noqa: PTH207 - it may be absolute
        found = [each for each in matches if _is_regular(Path(each))]
        root = os.path.commonpath(map(os.path.dirname, found)) if found else ""
        for each in found:
            artifact.add_file(each, Path(os.path.relpath(each, root or None)).as_posix())
    else:
        artifact.add_file(path)
    return artifact


def checked_aliases(aliases: str | Iterable[str] | None) -> list[str]:
    """Return aliases that can be given. Raises ValueError for one that is none.

    `latest` needs not be said: it is always the version that was logged last.
    """
    given = [aliases] if isinstance(aliases, str) else list(aliases or ())
    for alias in given:
        if problem := alias_problem(alias):
            raise ValueError(problem)
    return list(dict.fromkeys(given))


def _files_below(root: Path) -> list[Path]:
    """List regular files below a directory, each directory once, however it is linked to."""
    found: list[Path] = []
    seen: set[tuple[int, int]] = set()
    left_out = 0
    for folder, folders, files in os.walk(root, followlinks=True):
        status = Path(folder).stat()
        if (status.st_dev, status.st_ino) in seen:
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        folders.sort()
        for name in sorted(files):
            path = Path(folder) / name
            if _is_regular(path):
                found.append(path)
            else:
                left_out += 1
    if left_out:
        warn("pillion: %d entries of %s are no files, and are left out.", left_out, root)
    return found


def _is_regular(path: Path) -> bool:
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except (OSError, ValueError):
        return False
