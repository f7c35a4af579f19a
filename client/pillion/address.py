"""Where a sidecar listens: `unix:PATH` or `HOST:PORT`, and the default.

Shared by the client and the sidecar. The sidecar's UNIX socket has no password: the rights of its
directory are the check, so both ends look at them before they use it.
"""

import os
import stat
import tempfile
from dataclasses import dataclass
from pathlib import Path

UNIX_PATH_BYTES_MAX = 107
"""What the kernel takes; its own error does not say so."""
_SYSTEM_PARENTS = {Path("/"), Path("/run"), Path("/usr"), Path("/var")}
"""What lies directly in these is the machine's."""


class AddressError(ValueError):
    """An address is malformed, or its directory is not safe to use."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where a sidecar listens. Exactly one of `path` and `host` is set."""

    path: Path | None = None
    host: str = ""
    port: int = 0

    @classmethod
    def parse(cls, text: str) -> "Address":
        """Read `unix:PATH` or `HOST:PORT`; an IPv6 host stands in brackets."""
        if text.startswith("unix:") and text.rstrip("/.") != "unix:":
            try:
                path = Path(text.removeprefix("unix:").removeprefix("//")).expanduser().absolute()
            except RuntimeError as error:  # ~somebody whom nobody knows
                raise AddressError(f"{text!r} is no address: {error}") from error
            if len(os.fsencode(path)) > UNIX_PATH_BYTES_MAX:
                raise AddressError(
                    f"The socket path {path} is longer than {UNIX_PATH_BYTES_MAX} bytes, the most "
                    "that Linux takes. Choose a shorter one."
                )
            return cls(path=path)
        host, separator, port = text.rpartition(":")
        if not (separator and host and "/" not in host and port.isdecimal() and int(port) < 2**16):
            raise AddressError(f"{text!r} is no address. Write unix:PATH or HOST:PORT.")
        return cls(host=host, port=int(port))

    @property
    def is_loopback(self) -> bool:
        """Whether only this host can reach it."""
        return self.path is not None or self.host in {"127.0.0.1", "[::1]", "localhost"}

    def __str__(self) -> str:
        """Write it as gRPC and `parse` read it."""
        return f"unix:{self.path}" if self.path else f"{self.host}:{self.port}"

    def check_directory(self) -> None:
        """Raise `AddressError` unless only this user (or root) can put a socket there."""
        if self.path is None:
            return
        directory = self.path.parent
        try:
            status = directory.lstat()
        except OSError as error:
            raise AddressError(f"The socket's directory {directory}: {error.strerror}.") from error
        if not stat.S_ISDIR(status.st_mode):
            raise AddressError(f"The socket's directory {directory} is no directory of its own.")
        if status.st_uid not in {os.getuid(), 0}:
            raise AddressError(f"The socket's directory {directory} belongs to another user.")
        if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            step = f"Make it safe with `chmod 0700 {directory}`, or choose another directory."
            raise AddressError(
                f"The socket's directory {directory} can be written by other users. "
                f"{step if is_of_one_user(directory) else 'Choose another directory.'}"
            )


def is_of_one_user(directory: Path) -> bool:
    """Tell whether a directory may be closed to others: it is this user's own, and no system's.

    To close `/tmp` or `/var/log`, which root owns, would break the machine.
    """
    status, place = directory.stat(), directory.resolve()
    is_shared = bool(status.st_mode & (stat.S_ISVTX | stat.S_ISGID))
    return status.st_uid == os.getuid() and not is_shared and place.parent not in _SYSTEM_PARENTS


def default_address() -> Address:
    """Return the socket that a sidecar of this user takes if nothing else is said.

    `$XDG_RUNTIME_DIR/pillion`, else a directory of the user's own under the temporary one.
    """
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    if runtime and Path(runtime).is_dir():
        return Address(path=Path(runtime) / "pillion" / "sidecar.sock")
    return Address(path=Path(tempfile.gettempdir()) / f"pillion-{os.getuid()}" / "sidecar.sock")
