"""A run of W&B's SDK while the W&B sink writes it: what it is given, and how far that is confirmed.

What both kinds share; `wandb_offline.py` and `wandb_online.py` know when something is confirmed.
Imports no wandb: it is handed the SDK's run.
"""

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

from pillion.values import Value
from pillion_sidecar.records import Frame, Offset, RunFinish, RunStart, RunState

TAG_LENGTH_MAX = 64
"""What W&B takes; more is cut off."""

_EXIT_CODES = {RunState.FINISHED: 0, RunState.STOPPED: 255}
"""What stands for an unknown exit code, else 1: W&B shows 255, its own for Ctrl-C, as killed."""
_ARTIFACT_SIGNS = ("wandb-artifact://", "artifactVersion")


class WandbRun(ABC):
    """One run; `confirmed` is up to which entry all is where it belongs."""

    sdk_run: Any
    """The SDK's run, as soon as it is open."""

    def __init__(self, earlier_end: Offset) -> None:
        self.earlier_end = earlier_end
        """Up to here all was delivered once before; an end in there is not the run's."""
        self.last_ordinal = -1
        self.row_count = 0
        self.print_count = 0
        self.summary: dict[str, Value] = {}
        """What was set explicitly."""
        self.confirmed = Offset(0)
        self._entries: deque[tuple[Offset, int, int]] = deque()
        """Entries that are not confirmed; with each, how many rows and texts there are up to it."""

    @property
    @abstractmethod
    def confirmed_row_count(self) -> int:
        """How many rows are confirmed."""

    def define_steps(self) -> None:
        """Have W&B draw everything over the user's step; its own is the row's ordinal."""
        self.sdk_run.define_metric("global_step")
        self.sdk_run.define_metric("*", step_metric="global_step")

    def join(self, start: RunStart) -> None:
        """Take what another writer adds."""
        self.update_config(start.config)
        known = self.sdk_run.tags or ()
        tags = tuple(dict.fromkeys([*known, *(tag[:TAG_LENGTH_MAX] for tag in start.tags if tag)]))
        if tags != known:
            self.sdk_run.tags = tags

    def update_config(self, values: Mapping[str, Value]) -> None:
        """Merge config values."""
        self.sdk_run.config.update(inert(values), allow_val_change=True)

    def update_summary(self, values: Mapping[str, Value]) -> None:
        """Set summary values."""
        self.summary.update(values)
        self.sdk_run.summary.update(inert(values))

    def log(self, frame: Frame) -> None:
        """Take rows; those that were handed over before are passed by."""
        for ordinal, step, time_unix_nano, values in frame.rows():
            if ordinal <= self.last_ordinal:
                continue  # handed over again, after another entry had failed
            row = {"global_step": step, **values, "_timestamp": time_unix_nano / 1e9}
            self.last_ordinal = ordinal
            self.row_count += 1
            self._log_row(ordinal, row)

    def print(self, lines: Sequence[str]) -> None:
        """Take console lines."""
        self.print_count += 1
        self._print_lines(lines)

    def cover(self, offset: Offset) -> None:
        """Take it that all up to this entry was handed over."""
        self._entries.append((offset, self.row_count, self.print_count))

    @abstractmethod
    def _log_row(self, ordinal: int, row: dict[str, Any]) -> None: ...

    @abstractmethod
    def _print_lines(self, lines: Sequence[str]) -> None: ...

    def _confirm_up_to(self, row_count: int, print_count: int) -> None:
        """Move the cursor: so many rows and texts are where they belong."""
        while self._entries:
            offset, rows_before, prints_before = self._entries[0]
            if rows_before > row_count or prints_before > print_count:
                break
            self.confirmed = offset
            self._entries.popleft()


def exit_code_of(finish: RunFinish) -> int:
    """Return the exit code to give to W&B."""
    return finish.exit_code or _EXIT_CODES.get(finish.state, 1)


def text_of(lines: Sequence[str]) -> str:
    """Return lines as the SDK takes them."""
    return "".join(f"{line}\n" for line in lines)


def inert(value: Any) -> Any:
    """Return config or summary values so that the SDK takes them as they are.

    It refuses bytes, and looks up what reads like an artifact on its server, in the very call.
    """
    match value:
        case bytes():
            return value.decode(errors="backslashreplace")
        case str() if value.startswith(_ARTIFACT_SIGNS):
            return f" {value}"
        case list():
            return [inert(element) for element in value]
        case Mapping():
            return {key: inert(element) for key, element in value.items()}
    return value
