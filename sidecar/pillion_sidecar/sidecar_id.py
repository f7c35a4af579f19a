"""Which sidecar this is, where several share a store.

A sidecar's runs are marked with the id of its data directory, so that no other one goes on with
them: cursors are offsets in a journal, and each has its own. The id is made once and outlives the
journal. A store in a file is one sidecar's alone and has no marks.
"""

import os
import platform
import re
import secrets
from contextlib import suppress

from pillion_sidecar.settings import Settings
from pillion_sidecar.store_database import is_shared

_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9.-]+")


def make_id(settings: Settings) -> None:
    """Make the id, if one is needed and there is none: the host's name, for people, and chance."""
    if not is_shared(settings.store_url):
        return
    host = _NOT_IN_NAMES.sub("-", platform.node())[:40] or "localhost"
    with suppress(FileExistsError):
        descriptor = os.open(settings.id_path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(f"{host}-{secrets.token_hex(8)}\n")


def owner_of(settings: Settings) -> str:
    """Return the mark of this data directory's runs and artifacts; empty if there is none.

    Raises:
        SettingsError: The setting `store` is no URL of a store.
    """
    if not is_shared(settings.store_url):
        return ""
    try:
        return settings.id_path.read_text(encoding="ascii").strip()
    except OSError:  # of someone who only reads
        return ""
