"""`wandb sync` as a process: how it is started, watched, and what it says went wrong.

Its exit code is 0 whatever happened, so what it prints is read, and its log.
"""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from pillion_sidecar.wandb_keys import netrc_in_memory

POLL_S = 1.0
"""How often who waits for it is asked whether to go on."""
OUTPUT_BYTES_MAX = 1 << 16
"""Of what it prints that is read."""
MISTAKES_MAX, MISTAKE_CHARACTERS_MAX = 3, 300
"""Of what went wrong that is told."""

_PLACES = ("WANDB_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_DATA_DIR")
_MISTAKE = re.compile(r"^(?:wandb: ERROR|Error:) +(?:\[\S*\] +)?(.*\S)", re.MULTILINE)
_PASSING = ("api: HTTP error", "sender: sendAlert")
"""Errors in its log that lose nothing: one that is tried again, and an alert."""
# By itself it would try for days to reach a server that is away, and keep the run for itself.
_ENDING_WITH_US = """\
import ctypes, os, signal, sys
pr_set_pdeathsig = 1
ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)
if os.getppid() == int(sys.argv[1]):
    os.execv(sys.argv[2], sys.argv[2:])
"""
_STATUS = re.compile(r"(?<!\d)([45]\d\d)(?!\d)")
_URL = re.compile(r"https?://\S+/runs/\S+")


class WandbSync:
    """One run of `wandb sync`."""

    def __init__(self, directory: Path, base_url: str, key: str, program: str) -> None:
        """Prepare it.

        Args:
            directory: Where it may leave what it likes.
            base_url: The server.
            key: The process finds it in a file that is in memory only.
            program: What W&B is to show as the run's program; else it would be `wandb sync`.
        """
        self._directory = directory
        self._base_url, self._key = base_url, key
        self._output = directory / "output"
        # None of the user's settings, which are meant for runs of another kind.
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("WANDB_", "PILLION_"))}
        self._environment = {
            **kept,
            **dict.fromkeys(_PLACES, str(directory)),
            "WANDB_BASE_URL": base_url,
            "WANDB_ERROR_REPORTING": "false",
            "WANDB_PROGRAM": program or "unknown",
        }

    def run(
        self, folder: Path, entity: str, descriptors: Sequence[int], on_wait: Callable[[], None]
    ) -> None:
        """Upload a folder; return when the process has ended. It is killed if `on_wait` raises.

        Args:
            folder: The run's.
            entity: Where it goes.
            descriptors: Which the process holds open while it lives.
            on_wait: Called every `POLL_S`.
        """
        with (
            self._output.open("wb") as output,
            netrc_in_memory(self._base_url, self._key) as (netrc, descriptor),
        ):
            process = subprocess.Popen(
                [
                    *(sys.executable, "-c", _ENDING_WITH_US, str(os.getpid())),
                    *(sys.executable, "-m", "wandb", "sync", str(folder), "--entity", entity),
                ],
                cwd=self._directory,
                env={**self._environment, "NETRC": netrc},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                pass_fds=[*descriptors, descriptor],
            )
        try:
            while process.poll() is None:
                with suppress(subprocess.TimeoutExpired):
                    process.wait(POLL_S)
                    return
                on_wait()
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()

    def mistakes(self) -> list[str]:
        """Return what went wrong; of artifacts and files only its log tells that."""
        found = _MISTAKE.findall(self._printed()) or [
            text for text in self._logged_errors() if not text.startswith(_PASSING)
        ]
        return [text[:MISTAKE_CHARACTERS_MAX] for text in found[:MISTAKES_MAX]]

    def refusal(self) -> tuple[int | None, str] | None:
        """Return with which status, and words, rows were refused; None: they were not."""
        for text in self._logged_errors():
            if text.startswith("filestream: fatal error"):
                status = _STATUS.search(text)
                said = text.rpartition("failed to upload: ")[2]
                return int(status[1]) if status else None, said[:MISTAKE_CHARACTERS_MAX]
        return None

    def url(self) -> str:
        """Return the run's page at W&B, as it has said it; else nothing."""
        found = _URL.search(self._printed())
        return found[0] if found else ""

    def _logged_errors(self) -> Iterator[str]:
        for path in self._directory.glob("wandb/logs/debug-sync*.log"):
            for line in path.read_text(errors="replace").splitlines():
                entry = json.loads(line)
                if entry["level"].startswith("ERROR"):  # `ERROR+4` is a fatal one
                    yield entry["msg"]

    def _printed(self) -> str:
        return self._output.read_bytes()[-OUTPUT_BYTES_MAX:].decode(errors="replace")
