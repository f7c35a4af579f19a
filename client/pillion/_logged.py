"""What `log_artifact` and `use_artifact` return: something to wait on, and something to read."""

import sys
import threading
import time
from pathlib import Path

from pillion._download import DownloadError, download
from pillion.address import Address

BAR_WIDTH, BAR_INTERVAL_S = 30, 0.2

__all__ = ["DownloadError", "LoggedArtifact", "UsedArtifact"]


class LoggedArtifact:
    """An artifact on its way to the sidecar. Whatever happens to it, nothing is raised."""

    def __init__(self, name: str, type: str) -> None:
        self.name, self.type = name, type
        self.version = ""
        """`v0`, `v1` …, once the sidecar has it."""
        self.error = ""
        """Why it will not arrive, for people."""
        self.problem = ""
        """What keeps it for now."""
        self.size_bytes = 0
        """Of its files together."""
        self.sent_bytes = 0
        """Of those that travelled: what the sidecar has already need not."""
        self._ended = threading.Event()

    @property
    def is_done(self) -> bool:
        """Whether the sidecar has it, whole and on disk."""
        return bool(self.version)

    def wait(self, timeout: float | None = None) -> str:
        """Wait until the sidecar has it; return its version, or an empty text if it has not.

        Shows a bar where a person waits: on a terminal.

        Args:
            timeout: How many seconds; None: as long as it takes. In a forked child, and once the
                run has ended, what was not sent is left to the sidecar, and nothing is waited for.
        """
        if sys.stderr is None or not sys.stderr.isatty():
            self._ended.wait(timeout)
            return self.version
        deadline_s = time.monotonic() + timeout if timeout is not None else None
        while not self._ended.is_set():
            left_s = deadline_s - time.monotonic() if deadline_s is not None else BAR_INTERVAL_S
            if left_s <= 0:
                break
            self._ended.wait(min(BAR_INTERVAL_S, left_s))
            self._show()
        sys.stderr.write("\n")
        return self.version

    def end(self, *, version: str = "", error: str = "") -> None:
        """Tell how it has ended; neither: it is left to the sidecar."""
        self.version, self.error = version, error
        self._ended.set()

    def __repr__(self) -> str:
        stands = self.version or self.error or self.problem or "on its way"
        return f"<pillion.LoggedArtifact {self.name}: {stands}>"

    def _show(self) -> None:
        part = self.sent_bytes / self.size_bytes if self.size_bytes else 0.0
        part = 1.0 if self.is_done else min(part, 1.0)
        bar = ("#" * round(part * BAR_WIDTH)).ljust(BAR_WIDTH, ".")
        stands = self.version or self.error or self.problem or f"{self.sent_bytes / 1e6:,.1f} MB"
        sys.stderr.write(f"\r\033[K{self.name} [{bar}] {stands[:60]}")
        sys.stderr.flush()


class UsedArtifact:
    """An artifact that the run reads."""

    def __init__(
        self, name: str, project: str, address: str, token: str, *, may_connect: bool
    ) -> None:
        self.name, self.project = name, project
        self._address, self._token, self._may_connect = address, token, may_connect

    def download(self, root: str | Path | None = None) -> str:
        """Write its files below a directory, each compared with its digest; return the directory.

        Files that are there already, whole, are not read again.

        Args:
            root: Where. Default: `./artifacts/NAME-VERSION`.

        Raises:
            DownloadError: No sidecar answers, or there is no such artifact, or no room.
        """
        if not self._may_connect:
            raise DownloadError("A forked process cannot reach the sidecar; download before.")
        return download(
            Address.parse(self._address),
            self._token,
            self.name,
            self.project,
            Path(root) if root is not None else None,
        )
