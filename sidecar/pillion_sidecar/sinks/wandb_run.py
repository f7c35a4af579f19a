"""A run of W&B's SDK while the W&B sink writes it: what it was given, and what its file has of it.

The SDK tells of no row whether it is written, so the file is read back while it grows. Imports no
wandb: it is handed the SDK's run.
"""

import time
import zlib
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pillion.values import Value
from pillion_sidecar.errors import SinkError
from pillion_sidecar.records import Frame, Offset, RunFinish, RunStart, RunState
from pillion_sidecar.sinks.wandb_file import RecordReader

END_WAIT_S, END_POLL_S = 30.0, 0.005
"""How long a run's end may take to be in its file; the SDK's `finish` may return before."""
TAG_LENGTH_MAX = 64
"""What W&B takes; more is cut off."""

_EXIT_CODES = {RunState.FINISHED: 0, RunState.STOPPED: 255}
"""What stands for an unknown exit code, else 1: W&B shows 255, its own for Ctrl-C, as killed."""
_ARTIFACT_SIGNS = ("wandb-artifact://", "artifactVersion")


@dataclass(slots=True)
class WandbRun:
    """One run; `confirmed` is how far its file has been read back."""

    root: Path
    wandb_run: Any
    reader: RecordReader
    earlier_end: Offset
    """Up to here all was delivered once before; an end in there is not the run's."""
    last_ordinal: int = -1
    row_count: int = 0
    summary: dict[str, Value] = field(default_factory=dict)
    unconfirmed: deque[int] = field(default_factory=deque)
    """The ordinals of rows that were handed over and not read back."""
    print_count: int = 0
    printed: deque[int] = field(default_factory=deque)
    """Checksums of texts that were printed and not read back."""
    entries: deque[tuple[Offset, int, int]] = field(default_factory=deque)
    """Entries that are not confirmed; with each, how many rows and texts there are up to it."""
    confirmed: Offset = field(default=Offset(0))
    is_faithful: bool = True
    """Whether rows and texts in the file are those that were handed over, as far as it was read."""
    exit_code: int | None = None
    """The exit code in the file."""

    @property
    def confirmed_row_count(self) -> int:
        return self.row_count - len(self.unconfirmed)

    @property
    def is_waiting(self) -> bool:
        """Whether something was handed over and not read back."""
        return bool(self.unconfirmed or self.printed)

    def define_steps(self) -> None:
        """Have W&B draw everything over the user's step; its own is the row's ordinal."""
        self.wandb_run.define_metric("global_step")
        self.wandb_run.define_metric("*", step_metric="global_step")

    def join(self, start: RunStart) -> None:
        self.update_config(start.config)
        known = self.wandb_run.tags or ()
        tags = tuple(dict.fromkeys([*known, *(tag[:TAG_LENGTH_MAX] for tag in start.tags if tag)]))
        if tags != known:
            self.wandb_run.tags = tags

    def update_config(self, values: Mapping[str, Value]) -> None:
        self.wandb_run.config.update(_inert(values), allow_val_change=True)

    def update_summary(self, values: Mapping[str, Value]) -> None:
        self.summary.update(values)
        self.wandb_run.summary.update(_inert(values))

    def log(self, frame: Frame) -> None:
        for ordinal, step, time_unix_nano, values in frame.rows():
            if ordinal <= self.last_ordinal:
                continue  # handed over again, after another entry had failed
            row = {"global_step": step, **values, "_timestamp": time_unix_nano / 1e9}
            self.wandb_run.log(row, step=ordinal, commit=True)
            self.unconfirmed.append(ordinal)
            self.row_count += 1
            self.last_ordinal = ordinal

    def print(self, lines: Sequence[str]) -> None:
        text = "".join(f"{line}\n" for line in lines)
        self.wandb_run.write_logs(text)
        self.printed.append(zlib.crc32(text.encode()))
        self.print_count += 1

    def cover(self, offset: Offset) -> None:
        self.entries.append((offset, self.row_count, self.print_count))

    def confirm(self) -> None:
        """Read what the file has gained, and move the cursor."""
        for record in self.reader.read():
            kind = record.WhichOneof("record_type")
            if kind == "history" and self.unconfirmed:
                self.is_faithful &= self.unconfirmed.popleft() == record.history.step.num
            elif kind == "output_logger" and self.printed:
                text = record.output_logger.line.encode()
                self.is_faithful &= self.printed.popleft() == zlib.crc32(text)
            elif kind in ("history", "output_logger"):
                self.is_faithful = False
            elif kind == "exit":
                self.exit_code = record.exit.exit_code
        print_count = self.print_count - len(self.printed)
        while self.is_faithful and self.entries:
            offset, rows_before, prints_before = self.entries[0]
            if rows_before > self.confirmed_row_count or prints_before > print_count:
                break
            self.confirmed = offset
            self.entries.popleft()

    def end(self, finish: RunFinish) -> Path:
        """End the run in W&B and return its folder. Raises SinkError if something is missing."""
        exit_code = finish.exit_code or _EXIT_CODES.get(finish.state, 1)
        self.update_summary(self.summary)  # stands against values logged since
        self.wandb_run.finish(exit_code=exit_code)
        deadline_s = time.monotonic() + END_WAIT_S
        self.confirm()
        while self.exit_code is None and time.monotonic() < deadline_s:
            time.sleep(END_POLL_S)
            self.confirm()
        if self.is_waiting or self.exit_code != exit_code or not self.is_faithful:
            raise SinkError(
                f"W&B's file is not what the SDK was given: {len(self.unconfirmed)} of "
                f"{self.row_count} rows are missing, or console lines, or the end, or there are "
                "others. It is written anew.",
                reason="WANDB_FILE_WRONG",
            )
        return Path(self.wandb_run.settings.sync_dir)


def _inert(value: Any) -> Any:
    """Return config or summary values so that the SDK takes them as they are.

    It refuses bytes, and looks up what reads like an artifact on its server, in the very call.
    """
    match value:
        case bytes():
            return value.decode(errors="backslashreplace")
        case str() if value.startswith(_ARTIFACT_SIGNS):
            return f" {value}"
        case list():
            return [_inert(element) for element in value]
        case Mapping():
            return {key: _inert(element) for key, element in value.items()}
    return value
