"""Where a key of W&B is found: the environment, then the netrc file as `wandb login` leaves it.

And how a process that uploads is given one. No key is ever logged, nor named in an error.
"""

import ctypes
import netrc
import os
from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

DEFAULT_BASE_URL = "https://api.forge.coreweave.com"
"""The server that the SDK takes if none is named."""

_EARLIER_HOST = "api.wandb.ai"
_HOSTS_WITH_AN_EARLIER_ONE = ("api.forge.coreweave.com", "forge.coreweave.com")
"""W&B's own server has moved here; keys of before are filed under the earlier host."""


def find_key(base_url: str, environ: Mapping[str, str], netrc_path: Path) -> str | None:
    """Return the key for a server, or None: `WANDB_API_KEY` before the netrc file.

    Args:
        base_url: The server; empty: W&B's own.
        environ: The environment of whom the key is for.
        netrc_path: As `netrc_path_of` returns it. One that cannot be read holds no key.
    """
    if key := environ.get("WANDB_API_KEY", "").strip():
        return key
    try:
        entries = netrc.netrc(netrc_path).hosts
    except (OSError, netrc.NetrcParseError, UnicodeError):
        return None
    host = urlsplit(base_url or DEFAULT_BASE_URL).netloc
    hosts = (host, _EARLIER_HOST) if host in _HOSTS_WITH_AN_EARLIER_ONE else (host,)
    # Not the file's `default` entry: that is for anonymous FTP.
    return next((entries[name][2] for name in hosts if name in entries), None) or None


def netrc_path_of(environ: Mapping[str, str]) -> Path:
    """Return where the netrc file is: `$NETRC`, else `.netrc` in the home directory."""
    if named := environ.get("NETRC"):
        return Path(named).expanduser()
    return Path(environ.get("HOME") or Path.home()) / ".netrc"


def take_key_out(environ: MutableMapping[str, str]) -> None:
    """Take the key out of an environment, so that nobody inherits it.

    What the kernel shows of this process's own is the memory that it was started with: there it
    is overwritten.
    """
    key = environ.get("WANDB_API_KEY")
    if key and environ is os.environ:
        libc = ctypes.CDLL(None)
        libc.getenv.restype = ctypes.c_void_p
        if place := libc.getenv(b"WANDB_API_KEY"):
            ctypes.memset(place, 0, len(os.fsencode(key)))
    environ.pop("WANDB_API_KEY", None)


@contextmanager
def netrc_in_memory(base_url: str, key: str) -> Iterator[tuple[str, int]]:
    """Yield a netrc file with a key for a child: its `NETRC`, and the descriptor to inherit.

    The key is in no environment, which crash reports and `ps` show, and on no disk; it goes with
    those who have it open.
    """
    descriptor = os.memfd_create("netrc")
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        if key:
            file.write(f"machine {urlsplit(base_url).netloc} login user password {key}\n")
            file.flush()
        yield f"/dev/fd/{descriptor}", descriptor


@dataclass(frozen=True, slots=True)
class Account:
    """A server, and a key that it takes."""

    base_url: str
    key: str = field(repr=False)
