"""Starts a sidecar in the background, as `pillion serve` is started by hand.

Of several who start one at the same time all get the same. It has a session of its own, so that
neither Ctrl-C nor the end of the terminal reaches it, and logs to `logs/sidecar.log` in its data
directory.
"""

import os
import select
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pillion_sidecar import logs
from pillion_sidecar.asking import Asker
from pillion_sidecar.errors import SettingsError
from pillion_sidecar.server import EXIT_HELD
from pillion_sidecar.settings import Settings

IDLE_END_S = 300.0
"""When a sidecar that was started for somebody ends by itself: so long after the last writer."""
READY_TIMEOUT_S = 30.0
"""How long it may take from its start until it listens."""
POLL_S = 0.1


@dataclass(frozen=True, slots=True)
class SidecarProcess:
    """A sidecar that was started here."""

    process: subprocess.Popen[bytes]
    address: str
    """Where it listens; empty if it does not: it has ended, or is too slow."""


def ensure_sidecar(
    settings: Settings, *, is_given_up: Callable[[], object] = lambda: False
) -> tuple[str, SidecarProcess | None]:
    """Return the address of the sidecar that is here, or of one that is started.

    Args:
        settings: Where it listens and keeps its data.
        is_given_up: Asked now and then; true: nobody waits any more.

    Raises:
        SettingsError: There is none, and none can be started.
        AskError: The one that is here cannot be asked.
    """
    deadline_s = time.monotonic() + READY_TIMEOUT_S
    while not _is_serving(settings):
        sidecar = start_sidecar(settings, is_given_up=is_given_up)
        if sidecar.address:
            return sidecar.address, sidecar
        # The one that is in its way may be just starting, or ending.
        is_passing = sidecar.process.poll() == EXIT_HELD and _is_held_for(settings)
        if not is_passing or time.monotonic() > deadline_s or is_given_up():
            raise SettingsError(f"no sidecar could be started; {log_path_of(settings)} says why")
        time.sleep(POLL_S)
    return settings.listen, None


def start_sidecar(
    settings: Settings, *, is_given_up: Callable[[], object] = lambda: False
) -> SidecarProcess:
    """Start one and wait until it listens or has ended.

    Raises:
        SettingsError: Its log cannot be written.
    """
    log_path = log_path_of(settings)
    try:
        log_path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        logs.cut(log_path)
        log_file = log_path.open("ab")
    except OSError as error:
        raise SettingsError(f"{log_path} cannot be written: {error.strerror}") from error
    is_mode_given = "wandb_mode" in settings.model_fields_set  # else what was configured counts
    ready, ready_theirs = os.pipe()
    with log_file:
        process = subprocess.Popen(
            [
                # Without -P a module in the current directory could take another's place.
                *(sys.executable, "-P", "-m", "pillion_sidecar", "serve"),
                *("--data-dir", str(settings.data_dir), "--listen", settings.listen),
                *("--ready-fd", str(ready_theirs), "--end-when-idle-s", str(IDLE_END_S)),
                *(("--wandb-mode", settings.wandb_mode) if is_mode_given else ()),
            ],
            stdin=subprocess.DEVNULL,
            stdout=log_file,
            stderr=log_file,
            pass_fds=[ready_theirs],
            start_new_session=True,
        )
    os.close(ready_theirs)
    with os.fdopen(ready, "rb", buffering=0) as file:
        deadline_s = time.monotonic() + READY_TIMEOUT_S
        while time.monotonic() < deadline_s and not is_given_up():
            if select.select([file], [], [], POLL_S)[0]:
                address = file.read(4096).decode().strip()
                if not address:
                    process.wait()
                return SidecarProcess(process, address)
    return SidecarProcess(process, "")


def log_path_of(settings: Settings) -> Path:
    """Return where a sidecar that was started here logs."""
    return settings.data_dir / "logs" / "sidecar.log"


def _is_serving(settings: Settings) -> bool:
    if settings.address.path is None and not (
        os.environ.get("PILLION_TOKEN") or settings.token_path.exists()
    ):
        return False  # none has ever listened on TCP with this data directory
    with Asker(settings) as ask:
        if ask.is_silent:
            raise SettingsError(f"the sidecar at {settings.listen} does not answer")
        return ask.is_sidecar


def _is_held_for(settings: Settings) -> bool:
    """Tell whether the sidecar that has the data directory is one for this address."""
    try:
        holder = (settings.data_dir / "lock").read_text(encoding="utf-8")
    except OSError:
        return False
    return holder.strip().partition(" ")[2] in {"", settings.listen}
