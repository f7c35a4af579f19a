"""What a git checkout says of itself: read from its files, without git."""

import re
from pathlib import Path

from pillion.plain import to_text
from pillion.redaction import redact_text

TEXT_CHARACTERS_MAX = 1024
"""Of a branch's name, or a remote's address."""
FILE_BYTES_MAX = 16 * 1024 * 1024
"""Of a file that is read; `packed-refs` may be large."""

_COMMIT = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?")
_REMOTE = re.compile(r'^\s*\[remote "(.*)"\]\s*$')
_URL = re.compile(r"^\s*url\s*=\s*(.+?)\s*$")


def git_state(directory: Path) -> dict[str, str] | None:
    """Return the fields of `GitState` for the checkout that a directory is in; None if in none."""
    for parent in (directory, *directory.parents):
        folder = _git_folder(parent / ".git")
        if folder is not None:
            return _state(folder)
    return None


def _git_folder(path: Path) -> Path | None:
    """Return where a checkout keeps its state: a folder, or where a file points to."""
    if path.is_file():
        pointer = _read(path).strip()
        if not pointer.startswith("gitdir: "):
            return None
        path = path.parent / pointer.removeprefix("gitdir: ")
    return path if (path / "HEAD").is_file() else None


def _state(folder: Path) -> dict[str, str] | None:
    common = folder / (_read(folder / "commondir").strip() or ".")
    head = _read(folder / "HEAD").strip()
    branch = ""
    if head.startswith("ref: "):
        reference = head.removeprefix("ref: ")
        branch = reference.removeprefix("refs/heads/")
        head = _read(common / reference).strip() or _packed(common, reference)
    if not _COMMIT.fullmatch(head):
        head = ""
    return {
        "commit": head,
        "branch": to_text(branch)[:TEXT_CHARACTERS_MAX],
        "remote_url": redact_text(_remote_url(common))[:TEXT_CHARACTERS_MAX],
    }


def _packed(common: Path, reference: str) -> str:
    for line in _read(common / "packed-refs").splitlines():
        commit, _, name = line.partition(" ")
        if name == reference:
            return commit
    return ""


def _remote_url(common: Path) -> str:
    """Return the address of `origin`, else of the first remote."""
    urls: dict[str, str] = {}
    remote = None
    for line in _read(common / "config").splitlines():
        if line.lstrip().startswith("["):
            section = _REMOTE.match(line)
            remote = section[1] if section else None
        elif remote is not None and (found := _URL.match(line)):
            urls.setdefault(remote, found[1])
    return urls.get("origin") or next(iter(urls.values()), "")


def _read(path: Path) -> str:
    """Return what a file says; nothing if there is none."""
    try:
        if path.stat().st_size > FILE_BYTES_MAX:
            return ""
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
