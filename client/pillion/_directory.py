"""A directory for a run's own files, as `Run.dir` gives it. The sidecar never looks into it."""

import tempfile
from pathlib import Path
from urllib.parse import quote

from pillion.spool import spool_directory

SUFFIX = ".files"

_NAME_CHARACTERS_MAX = 120
"""Of a run's id: a file's name has 255 at most."""


def make_run_directory(run_id: str) -> Path:
    """Make it, unless it is there, and return it; a temporary one where it cannot be made."""
    name = quote(run_id, safe="", errors="replace")[:_NAME_CHARACTERS_MAX]
    try:
        spool = spool_directory()
        spool.mkdir(mode=0o700, parents=True, exist_ok=True)  # `parents` are everybody's
        directory = spool / f"{name}{SUFFIX}"
        directory.mkdir(mode=0o700, exist_ok=True)
    except (OSError, RuntimeError):
        return Path(tempfile.mkdtemp(prefix="pillion-", suffix=SUFFIX))
    return directory
