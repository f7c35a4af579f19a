"""A file of a row, as the caller hands it over: read or copied at once, encoded in the sender.

What the caller may change later is copied when the object is made, which may take its time; logging
it then costs no more than logging a number. Nothing here raises: what cannot be taken has a
`problem`, and is refused and counted where it is logged.
"""

import threading
from collections.abc import Callable
from os import PathLike, fspath
from pathlib import Path
from typing import Any

from pillion.plain import Value, to_plain, to_text

FILE_BYTES_MAX = 32 * 1024 * 1024
"""A file of a row. What is larger belongs into an artifact."""
SOURCE_BYTES_MAX = 128 * 1024 * 1024
"""What a file is made of: an image's pixels, an audio's samples."""
HELD_BYTES_MAX = 256 * 1024 * 1024
"""What waits in a writer's queue to be encoded, together."""
FILES_MAX = 256
"""Files of one row under one name."""

TOO_LARGE = (
    f"it has more than {FILE_BYTES_MAX >> 20} MiB; log it as an artifact, with run.log_artifact"
)


class NotTakenError(Exception):
    """Why something cannot be taken; never leaves the client."""


class File:
    """One file. Its bytes are had from `encode`, which only the sender's thread calls."""

    def __init__(self, capture: Callable[[], tuple[str, int, Callable[[], bytes]]]) -> None:
        """Take what `capture` returns: the media type, the bytes held, and what encodes them."""
        self.problem = ""
        """Why it cannot be taken, for people; empty if it can."""
        self.media_type, self.held_bytes = "", 0
        self.attributes: dict[str, Value] = {}
        try:
            self.media_type, self.held_bytes, self._make = capture()
        except NotTakenError as error:
            self.problem = str(error)
        except Exception as error:  # noqa: BLE001 - a stranger's methods may raise anything
            self.problem = f"it cannot be read: {to_text(error)}"
        if not self.problem and self.held_bytes > SOURCE_BYTES_MAX:
            self.problem, self._make = TOO_LARGE, bytes

    def describe(self, **attributes: Any) -> None:
        """Note what else is known of it; None for what is not."""
        self.attributes |= {
            name: to_plain(value) for name, value in attributes.items() if value is not None
        }

    def encode(self) -> bytes:
        """Make the bytes. May raise anything."""
        data = self._make()
        if len(data) > FILE_BYTES_MAX:
            raise NotTakenError(TOO_LARGE)
        return data


class Files(tuple[File, ...]):
    """The files of one row under one name."""

    __slots__ = ()


class Held:
    """How much waits to be encoded. Any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._bytes = 0

    def take(self, size_bytes: int) -> bool:
        """Take room if there is some; tell whether there was."""
        with self._lock:
            if self._bytes + size_bytes > HELD_BYTES_MAX:
                return False
            self._bytes += size_bytes
            return True

    def give(self, size_bytes: int) -> None:
        """Give room back."""
        with self._lock:
            self._bytes -= size_bytes


def bytes_of(source: Any) -> bytes | None:
    """Return what bytes, or the file at a path, hold; None if it is neither."""
    if isinstance(source, bytes | bytearray | memoryview):
        if len(source) > FILE_BYTES_MAX:
            raise NotTakenError(TOO_LARGE)
        return bytes(source)
    if isinstance(source, str | PathLike):
        path = Path(fspath(source))
        if path.stat().st_size > FILE_BYTES_MAX:
            raise NotTakenError(TOO_LARGE)
        return path.read_bytes()
    return None


def array_of(source: Any) -> Any:
    """Return an array of numpy's that stands for an array or a tensor; may wait for its device."""
    if hasattr(source, "detach"):
        source = source.detach().cpu().numpy()
    if not hasattr(source, "dtype") or not hasattr(source, "tobytes"):
        raise NotTakenError(f"a {type(source).__name__} is none")
    return source
