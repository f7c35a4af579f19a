"""An offline run of W&B's SDK: what its file has of it is read back while it grows.

The SDK tells of no row whether it is written.
"""

import time
import zlib
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pillion_sidecar.errors import SinkError
from pillion_sidecar.records import Offset, RunFinish
from pillion_sidecar.sinks import wandb_links
from pillion_sidecar.sinks.wandb_artifacts import ArtifactLane
from pillion_sidecar.sinks.wandb_file import RecordReader
from pillion_sidecar.sinks.wandb_run import WandbRun, exit_code_of, text_of
from pillion_sidecar.sinks.wandb_values import WandbValues

END_WAIT_S, END_POLL_S = 30.0, 0.005
"""How long a run's end may take to be in its file; the SDK's `finish` may return before."""


class OfflineRun(WandbRun):
    """See `WandbRun`. What is confirmed was read back from the run's file; that is not durable."""

    def __init__(
        self,
        root: Path,
        sdk_run: Any,
        earlier_end: Offset,
        values: WandbValues,
        artifacts: ArtifactLane,
    ) -> None:
        super().__init__(earlier_end, values, artifacts)
        self.root, self.sdk_run = root, sdk_run
        self._reader = RecordReader(Path(sdk_run.settings.sync_file))
        self._unconfirmed: deque[int] = deque()
        """The ordinals of rows that were handed over and not read back."""
        self._printed: deque[int] = deque()
        """Checksums of texts that were printed and not read back."""
        self._artifacts_seen: set[tuple[str, str]] = set()
        """Name and digest of artifacts that were read back."""
        self._is_faithful = True
        """Whether rows and texts in the file are what was handed over, as far as it was read."""
        self._exit_code: int | None = None
        """The exit code in the file."""

    @property
    def confirmed_row_count(self) -> int:
        """How many rows were read back."""
        return self.row_count - len(self._unconfirmed)

    @property
    def is_waiting(self) -> bool:
        """Whether something was handed over and not read back."""
        return bool(self._unconfirmed or self._printed or not self._has_artifacts)

    @property
    def _has_artifacts(self) -> bool:
        """Whether all artifacts that the SDK was given were read back."""
        return self._artifacts_seen.issuperset(self.artifacts.given)

    def confirm(self) -> None:
        """Read what the file has gained, and move the cursor."""
        for record in self._reader.read():
            kind = record.WhichOneof("record_type")
            if kind == "history" and self._unconfirmed:
                self._is_faithful &= self._unconfirmed.popleft() == record.history.step.num
            elif kind == "output_logger" and self._printed:
                text = record.output_logger.line.encode()
                self._is_faithful &= self._printed.popleft() == zlib.crc32(text)
            elif kind == "artifact":
                self._artifacts_seen.add((record.artifact.name, record.artifact.digest))
            elif kind in ("history", "output_logger"):
                self._is_faithful = False
            elif kind == "exit":
                self._exit_code = record.exit.exit_code
        if self._is_faithful:
            self._confirm_up_to(
                self.confirmed_row_count,
                self.print_count - len(self._printed),
                self.artifacts.done_count if self._has_artifacts else 0,
            )

    def end(self, finish: RunFinish) -> Path:
        """End the run in W&B and return its folder. Raises SinkError if something is missing."""
        exit_code = exit_code_of(finish)
        # Stands against values that were logged since.
        self.summary.update(finish.summary)
        self.update_summary(self._summary_at_end({}))
        self.sdk_run.finish(exit_code=exit_code)
        deadline_s = time.monotonic() + END_WAIT_S
        self.confirm()
        while self._exit_code is None and time.monotonic() < deadline_s:
            time.sleep(END_POLL_S)
            self.confirm()
        if self.is_waiting or self._exit_code != exit_code or not self._is_faithful:
            raise SinkError(
                f"W&B's file is not what the SDK was given: {len(self._unconfirmed)} of "
                f"{self.row_count} rows are missing, or console lines, an artifact, the end, or "
                "there are others. It is written anew.",
                reason="WANDB_FILE_WRONG",
            )
        folder = Path(self.sdk_run.settings.sync_dir)
        wandb_links.leave(folder, self.artifacts.links)
        return folder

    def _log_row(self, ordinal: int, row: dict[str, Any]) -> None:
        self._give_row(ordinal, row)
        self._unconfirmed.append(ordinal)

    def _print_lines(self, lines: Sequence[str]) -> None:
        text = text_of(lines)
        self.sdk_run.write_logs(text)
        self._printed.append(zlib.crc32(text.encode()))
