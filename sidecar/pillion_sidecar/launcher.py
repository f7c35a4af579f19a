"""`pillion run`: runs any command as a run, from a sidecar that is there to its true exit code.

The command comes first: whatever is wrong with the telemetry, it is run, and what it printed and
how it ended wait in the spool. This process is a writer of the run like any other; a `pillion.init`
inside the command joins as another.
"""

import os
import signal
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import pillion
from pillion._environment import speak_for
from pillion_sidecar.command import (
    ENDING_SIGNALS,
    CommandError,
    TakenSignals,
    open_standard_streams,
    run_command,
    take_signals,
)
from pillion_sidecar.console_lines import ConsoleLines, LineSplitter
from pillion_sidecar.errors import PillionError
from pillion_sidecar.memory_kills import MemoryKills
from pillion_sidecar.settings import Settings
from pillion_sidecar.sidecar_process import ensure_sidecar

_SIGNALLED = 128
_STOPPED_CODES = {_SIGNALLED + number for number in ENDING_SIGNALS}


@dataclass(frozen=True, slots=True)
class Ending:
    """How a command ended."""

    exit_code: int
    """As shells have it: 128 and the signal's number for one that was killed."""
    state: str
    reason: str
    is_started: bool = True
    """Whether the command could be run at all."""


def run_as_run(
    arguments: Sequence[str], settings: Settings, options: Mapping[str, Any], *, quiet: bool
) -> int:
    """Run a command as a run; return its exit code.

    Args:
        arguments: The command and its arguments.
        settings: Of the sidecar that is used, or started if there is none.
        options: What `pillion.init` takes: `project`, `name`, `id` …
        quiet: Print nothing but what the command does, and warnings.
    """
    open_standard_streams()
    signals = take_signals()
    settings = _with_sidecar(settings, signals)
    speak_for(arguments)
    run = _start_run(settings, options)
    if number := signals.ending():
        ending = Ending(_SIGNALLED + number, "STOPPED", f"Stopped by {_name(number)}.")
    else:
        if not quiet and run is not None:
            _say(f"pillion: run {run.name} ({run.id}) of project {run.project}: {arguments[0]}")
        ending = _run(arguments, settings, run, signals)
    signals.give_back()
    if not ending.is_started:
        _say(f"pillion: {ending.reason}")
    if run is not None:
        with suppress(KeyboardInterrupt):  # a second Ctrl-C: what is left waits in the spool
            run.finish(ending.exit_code, state=ending.state, reason=ending.reason)
        if not quiet:
            reason = f": {ending.reason}" if ending.reason and ending.is_started else ""
            _say(f"pillion: run {run.name} ({run.id}) {ending.state.lower()}{reason}")
            _say(f"pillion: look with `pillion runs`, `pillion console {run.id}`")
    return ending.exit_code


def ending_of(code: int, *, ran_out_of_memory: bool) -> Ending:
    """Tell how a command ended by its exit code, negative for the signal that killed it."""
    if code < 0:
        number, exit_code = -code, _SIGNALLED - code
        if number in ENDING_SIGNALS:
            return Ending(exit_code, "STOPPED", f"Stopped by {_name(number)}.")
        memory = ": memory ran out" * (ran_out_of_memory and number == signal.SIGKILL)
        return Ending(exit_code, "CRASHED", f"Killed by {_name(number)}{memory}.")
    if code == 0:
        return Ending(0, "FINISHED", "")
    if code in _STOPPED_CODES:
        return Ending(code, "STOPPED", f"Stopped by {_name(code - _SIGNALLED)}.")
    memory = "; memory ran out in its control group" * ran_out_of_memory
    return Ending(code, "FAILED", f"Exit code {code}{memory}.")


def _with_sidecar(settings: Settings, signals: TakenSignals) -> Settings:
    """Look for a sidecar, or start one; return the settings with the address where it listens."""
    try:
        address, _ = ensure_sidecar(settings, is_given_up=signals.ending)
    except PillionError as error:
        _say(f"pillion: {str(error).rstrip('.')}. The command is run all the same.")
        return settings
    return settings.model_copy(update={"listen": address})


def _start_run(settings: Settings, options: Mapping[str, Any]) -> pillion.Run | None:
    """Start the run; None if it is refused for good."""
    try:
        return pillion.init(address=settings.listen, token=_token(settings), quiet=True, **options)
    except (pillion.RefusedError, ValueError) as error:
        _say(f"pillion: nothing of this is kept: {error} The command is run all the same.")
        return None


def _run(
    arguments: Sequence[str], settings: Settings, run: pillion.Run | None, signals: TakenSignals
) -> Ending:
    console = _Console(run)
    kills = MemoryKills(os.getpid())
    try:
        code = run_command(arguments, _environment(settings, run), signals, console.on_output)
    except CommandError as error:
        return Ending(error.code, "FAILED", str(error), is_started=False)
    console.end()
    return ending_of(code, ran_out_of_memory=kills.have_risen())


class _Console:
    """Takes what the command prints, as lines of the run."""

    def __init__(self, run: pillion.Run | None) -> None:
        self._splitters = {number: LineSplitter() for number in (0, 1, 2)}
        self._lines = ConsoleLines(run.log_console if run else lambda *_: None)

    def on_output(self, stream: int, data: bytes) -> None:
        with suppress(Exception):  # nothing that is wrong here may hold the command up
            self._lines.add(self._splitters[stream].feed(data), stream)

    def end(self) -> None:
        for stream, splitter in self._splitters.items():
            self._lines.add(splitter.end(), stream)
        self._lines.end()


def _environment(settings: Settings, run: pillion.Run | None) -> dict[str, str]:
    """Return the command's environment: ours, and how to join the run."""
    environment = dict(os.environ)
    if run is not None:
        environment |= {"PILLION_ADDRESS": settings.listen, "PILLION_RUN_ID": run.id}
        if token := _token(settings):
            environment["PILLION_TOKEN"] = token
    return environment


def _token(settings: Settings) -> str | None:
    """Return the token that a sidecar on TCP asks for: the one set, else its own on this host."""
    if settings.address.path is not None:
        return None
    with suppress(OSError, ValueError):
        return os.environ.get("PILLION_TOKEN") or settings.token_path.read_text("ascii").strip()
    return None


def _name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _say(line: str) -> None:
    with suppress(OSError):  # a closed terminal must not keep the command from being run
        print(line, file=sys.stderr, flush=True)
