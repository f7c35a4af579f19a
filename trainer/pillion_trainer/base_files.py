"""Which weights an adapter was trained on: the base model's files, told by their digests.

The digest of a base is that of the list of its weight files, as `sha256sum *.safetensors |
sha256sum` gives it in the model's folder. Large files are read once: their digests are kept in the
user's cache folder, by path, size and time.
"""

import hashlib
import json
import os
import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pillion_trainer.base_model import default_cache_dir

PATTERNS = ("*.safetensors", "*.bin", "*.pt", "*.gguf")
"""The first of which there is a file tells the weights; the same ones in two forms count once."""

NO_WEIGHTS = ("adapter_", "training_args", "optimizer", "scheduler", "rng_state")
"""What files of other kinds begin with."""

CACHE_FILE = "digests.json"
CACHED_MAX = 10_000

_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class WeightFile:
    """A file of weights; `uri` tells where it is."""

    name: str
    uri: str
    size_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class BaseFiles:
    """A base model as it was loaded."""

    name: str
    commit: str
    """Of a model from the hub; empty for one in a folder."""
    files: tuple[WeightFile, ...]

    @property
    def sha256(self) -> str:
        """The digest of all weights; empty where the files could not be found or read."""
        if not self.files:
            return ""
        listed = "".join(f"{each.sha256}  {each.name}\n" for each in self.files)
        return hashlib.sha256(listed.encode()).hexdigest()

    def as_dict(self) -> dict[str, Any]:
        """Return what identifies it, for the configuration of a run."""
        return {"name": self.name, "commit": self.commit, "sha256": self.sha256}


def base_files(name: str, model: Any) -> BaseFiles:
    """Return the files of a model that `from_pretrained` gave.

    Never raises: of a base that cannot be read its name and commit are left.

    Args:
        name: What people call it.
        model: The model, or one of peft's around it.
    """
    config = model.config
    source = str(getattr(config, "name_or_path", "") or "")
    commit = str(getattr(config, "_commit_hash", None) or "")
    files: tuple[WeightFile, ...] = ()
    with suppress(OSError, ValueError):
        folder = _folder_of(source, commit)
        if folder is not None:
            digests = _Digests(default_cache_dir() / CACHE_FILE)
            files = tuple(
                WeightFile(
                    path.name,
                    _uri(path, source, commit),
                    path.stat().st_size,
                    digests.of(path),
                )
                for path in _weights(folder)
            )
            digests.keep()
    return BaseFiles(name, commit, files)


def _folder_of(source: str, commit: str) -> Path | None:
    """Return where a model's files lie here: its folder, or the hub's snapshot of it."""
    if Path(source).is_dir():
        return Path(source).absolute()
    from transformers.utils import cached_file  # noqa: PLC0415 - not needed for folders

    found = cached_file(source, "config.json", revision=commit or None, local_files_only=True)
    return Path(found).parent if found else None


def _weights(folder: Path) -> list[Path]:
    for pattern in PATTERNS:
        found = [
            path
            for path in sorted(folder.glob(pattern))
            if path.is_file() and not path.name.startswith(NO_WEIGHTS)
        ]
        if found:
            return found
    return []


def _uri(path: Path, source: str, commit: str) -> str:
    if Path(source).is_dir():
        return path.as_uri()
    return f"https://huggingface.co/{source}/resolve/{commit or 'main'}/{path.name}"


class _Digests:
    """SHA-256 of files, read once for as long as size and time of a file are the same."""

    def __init__(self, cache: Path) -> None:
        self._cache = cache
        self._known: dict[str, list[Any]] = {}
        self._is_changed = False
        with suppress(OSError, ValueError):
            known = json.loads(cache.read_text(encoding="utf-8"))
            if isinstance(known, dict):
                self._known = known

    def of(self, path: Path) -> str:
        """Return the digest. Raises OSError."""
        real = path.resolve()
        if real.parent.name == "blobs" and _SHA256.fullmatch(real.name):
            return real.name  # the hub's cache names large files so
        status = real.stat()
        stamp = [status.st_size, status.st_mtime_ns]
        entry = self._known.get(str(real))
        if isinstance(entry, list) and entry[:2] == stamp and len(entry) == len(stamp) + 1:
            return str(entry[2])
        with real.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        self._known.pop(str(real), None)
        self._known[str(real)] = [*stamp, digest]  # the latest is the last
        self._is_changed = True
        return digest

    def keep(self) -> None:
        """Write what is new; of two processes at once the later one wins, which costs a reading."""
        if not self._is_changed:
            return
        kept = dict(list(self._known.items())[-CACHED_MAX:])
        with suppress(OSError):
            self._cache.parent.mkdir(parents=True, exist_ok=True)
            partial = self._cache.with_suffix(f".{os.getpid()}.partial")
            partial.write_text(json.dumps(kept), encoding="utf-8")
            partial.replace(self._cache)
