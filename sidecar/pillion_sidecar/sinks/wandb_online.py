"""An online run of W&B's SDK: what of it has arrived is asked of the server, again and again.

The SDK takes rows and tells of none whether it was sent. If the server refuses one post, wandb-core
gives the run's upload up for good and still takes rows. So what counts is the last row that the
server has; wandb-core's log says at once that an upload has died, and why. Then the run is given
up, and opened again: `resume` goes on behind that row.

Whatever may wait for the network is done by an executor, one thing at a time; all else, and every
change of what is kept here, by the sink's thread, which calls `tick` again and again.
"""

import re
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future
from contextlib import suppress
from enum import Enum, auto
from pathlib import Path
from typing import Any

from pillion_sidecar.errors import SinkError
from pillion_sidecar.records import Offset, RunFinish, RunStart
from pillion_sidecar.sinks import Trouble
from pillion_sidecar.sinks.wandb_artifacts import ArtifactLane
from pillion_sidecar.sinks.wandb_care import Care
from pillion_sidecar.sinks.wandb_marks import AlertMarks
from pillion_sidecar.sinks.wandb_run import WandbRun, exit_code_of, inert, text_of
from pillion_sidecar.sinks.wandb_server import RemoteRun, WandbServer
from pillion_sidecar.sinks.wandb_values import WandbValues

ROWS_WAITING_MAX = 20_000
"""Rows that are not confirmed; with more the run takes nothing until some are."""
FINISH_TIMEOUT_S = 60.0
"""How long the SDK may take to end a run whose rows have all arrived."""
END_POLLS_MAX, END_POLL_S = 40, 0.25
"""How often, and after what pause, the server is asked whether it has a run's end."""
STALL_INTERVALS = 60
"""An upload from which nothing has arrived for so long, while the server answers, is dead."""
LOG_BYTES_MAX = 1 << 20
"""Of wandb-core's log that is read at once."""

_FATAL = re.compile(rb"filestream: fatal error[^\n]{0,2000}")
_STATUS = re.compile(rb"(?<![0-9])([45][0-9][0-9])(?![0-9])")
_PLAIN = (bool, int, float, str)


class Phase(Enum):
    """Where the run is."""

    OPENING = auto()
    LIVE = auto()
    ENDING = auto()
    ENDED = auto()
    FAILED = auto()


class OnlineRun(WandbRun):
    """See `WandbRun`. Is opened as soon as it is made; takes entries while it `is_taking`."""

    def __init__(
        self,
        start: RunStart,
        server: WandbServer,
        open_sdk: Callable[[str, str], Any],
        *,
        values: WandbValues,
        artifacts: ArtifactLane,
        marks: AlertMarks,
        care: Care,
        executor: Executor,
        interval_s: float,
        earlier_end: Offset,
        after: "Future[Any] | None",
    ) -> None:
        """Begin to open the run.

        Args:
            start: Its first writer's.
            server: Where it goes.
            open_sdk: Opens the SDK's run for an entity and a project.
            values: Makes the SDK's values.
            artifacts: Gives the SDK artifacts.
            marks: Of alerts that were sent.
            care: What is known of earlier refusals.
            executor: Does what may wait.
            interval_s: How often rows are sent, and asked for.
            earlier_end: See `WandbRun`.
            after: What has to end before: the SDK knows each id once.
        """
        super().__init__(earlier_end, values, artifacts, marks)
        self.phase = Phase.OPENING
        self.failure: SinkError | None = None
        """Why it has failed."""
        self.is_leaked = False
        """Whether the SDK keeps the run's id for the life of the process."""
        self.url = ""
        self.should_stop = False
        """Whether Stop was pressed in W&B's page."""
        self.care = care
        self._start, self._server, self._open_sdk = start, server, open_sdk
        self._executor, self._interval_s = executor, interval_s
        self._place = ("", "")
        """Entity and project at the server."""
        self._remote = RemoteRun(-1, 0, "")
        self._pending: deque[tuple[int, dict[str, Any]]] = deque()
        """Rows that the SDK was not given yet."""
        self._under_way: deque[int] = deque()
        """Ordinals of rows that the SDK was given and the server does not have."""
        self._last_values: dict[str, Any] = {}
        self._line_count = 0
        self._finish: RunFinish | None = None
        self._end_offset = Offset(0)
        self._trouble = ""
        """Why the server could not be asked."""
        self._core_log: Path | None = None
        self._core_log_offset = 0
        self._asked_s = self._moved_s = time.monotonic()
        self._task: Future[Callable[[], None]] | None = executor.submit(self._open, after)

    @property
    def is_taking(self) -> bool:
        """Whether it can be handed more."""
        waiting_count = len(self._pending) + len(self._under_way)
        return (
            self.phase is Phase.LIVE and self._finish is None and waiting_count < ROWS_WAITING_MAX
        )

    @property
    def confirmed_row_count(self) -> int:
        """How many rows the server has."""
        aside_count = sum(ordinal <= self.last_ordinal for ordinal in self.care.aside)
        return self.row_count - len(self._pending) - len(self._under_way) - aside_count

    @property
    def trouble(self) -> Trouble:
        """What keeps it."""
        told = filter(None, [self._trouble, self.care.note, self.artifacts.trouble])
        return Trouble(" ".join(told), self.care.reason)

    def end(self, offset: Offset, finish: RunFinish) -> None:
        """Have the run end once all has arrived; then it is ENDED, and confirmed up to here."""
        self.summary.update(finish.summary)
        self._finish = finish
        self._end_offset = offset

    def tick(self) -> None:
        """Go on with what can be gone on with."""
        if self._task is not None and self._task.done():
            task, self._task = self._task, None
            try:
                task.result()()
            except Exception as error:  # noqa: BLE001 - the SDK lets through whatever happens to it
                self._fail(error)
        if self.phase is Phase.LIVE:
            try:
                self._look_at_upload()
            except SinkError as error:
                self._fail(error)
        if self.phase is Phase.LIVE:
            self.artifacts.tick(self.sdk_run)
            self._note_confirmed()
        if self.phase is not Phase.LIVE or self._task is not None:
            return
        now_s = time.monotonic()
        if self._pending or self._under_way:
            if now_s - self._asked_s >= self._interval_s:
                self._task = self._executor.submit(self._ask)
        elif self._finish is not None and self.artifacts.is_idle:
            self.phase = Phase.ENDING
            self._task = self._executor.submit(self._end, self._finish)

    def give_up(self) -> "Future[Any]":
        """Let go of the SDK's run, which frees its id; what is not there is handed over anew."""
        self.phase = Phase.FAILED
        return self._executor.submit(self._release, self._task)

    # What the executor does. Each returns what is then done by the sink's thread.

    def _open(self, after: "Future[Any] | None") -> Callable[[], None]:
        if after is not None:
            after.result()
        start = self._start
        entity, project = self._server.claim(start.wandb.entity, start.project, start.run_id)
        remote = self._server.run(entity, project, start.run_id)
        try:
            sdk_run = self._open_sdk(entity, project)
        except Exception:
            self.is_leaked = True
            raise

        def opened() -> None:
            self.sdk_run, self._place = sdk_run, (entity, project)
            self.url = sdk_run.url or ""
            # A run that has rows begins behind the last of them.
            last_ordinal = max(remote.last_ordinal, (sdk_run.starting_step or 0) - 1)
            self._remote = RemoteRun(last_ordinal, remote.line_count, remote.state)
            self._core_log = Path(sdk_run.settings.log_internal)
            self._moved_s = time.monotonic()
            self.phase = Phase.LIVE
            self.care.opened()
            self.begin(start)
            self._note_confirmed()

        return opened

    def _ask(self) -> Callable[[], None]:
        try:
            remote = self._server.run(*self._place, self._start.run_id)
        except SinkError as error:
            trouble = error

            def troubled() -> None:
                self._asked_s = self._moved_s = time.monotonic()
                self._trouble = str(trouble)
                if trouble.reason != "WANDB_AWAY":
                    raise trouble

            return troubled
        return lambda: self._take_in(remote)

    def _end(self, finish: RunFinish) -> Callable[[], None]:
        self.sdk_run.summary.update(inert(self._summary_at_end(self._last_values)))
        self.sdk_run.finish(exit_code=exit_code_of(finish))
        for _ in range(END_POLLS_MAX):
            remote = self._server.run(*self._place, self._start.run_id)
            if remote.has_ended:
                break
            time.sleep(END_POLL_S)
        else:
            raise SinkError(
                "W&B has all rows of the run, but not its end. It is sent again.",
                reason="WANDB_END_MISSING",
            )

        def ended() -> None:
            self.phase = Phase.ENDED
            self.cover(self._end_offset)

        return ended

    def _release(self, task: "Future[Any] | None") -> None:
        if task is not None:
            with suppress(Exception):  # it is given up anyway
                task.result()()
        if hasattr(self, "sdk_run"):
            self.sdk_run.finish()

    # What the sink's thread does.

    def _take_in(self, remote: RemoteRun) -> None:
        """Take in how much the server has."""
        self._asked_s = time.monotonic()
        self._trouble = ""
        if remote.last_ordinal > self._remote.last_ordinal:
            self._moved_s = self._asked_s
            self.care.arrived()
        elif self._asked_s - self._moved_s > STALL_INTERVALS * self._interval_s:
            raise self._death(None, "nothing has arrived for long, though W&B's server answers")
        self._remote = remote
        while self._under_way and self._under_way[0] <= remote.last_ordinal:
            self._under_way.popleft()
        self._feed()
        self._note_confirmed()

    def _feed(self) -> None:
        """Give the SDK as many rows as may be under way."""
        while self._pending and len(self._under_way) < self.care.window:
            ordinal, row = self._pending.popleft()
            if ordinal not in self.care.aside:  # its values would spoil the summary too
                self._last_values.update(
                    (key, value)
                    for key, value in row.items()
                    if isinstance(value, _PLAIN) and key != "_timestamp"
                )
            if ordinal > self._remote.last_ordinal and ordinal not in self.care.aside:
                if not self._under_way:
                    self._moved_s = time.monotonic()
                self._give_row(ordinal, row)
                self._under_way.append(ordinal)
            else:
                self._give_files(ordinal, row)  # who sent the row may have died before they arrived

    def _note_confirmed(self) -> None:
        if self.phase is Phase.OPENING:
            return
        waiting_count = len(self._pending) + len(self._under_way)
        self._confirm_up_to(
            self.row_count - waiting_count, self.print_count, self.artifacts.done_count
        )

    def _look_at_upload(self) -> None:
        """Raise if wandb-core has given the upload up."""
        if self._core_log is None or not self._core_log.exists():
            return
        with self._core_log.open("rb") as file:
            file.seek(self._core_log_offset)
            text = file.read(LOG_BYTES_MAX)
        found = _FATAL.search(text)
        self._core_log_offset += text.rfind(b"\n") + 1
        if found:
            status = _STATUS.search(found[0])
            raise self._death(int(status[1]) if status else None, found[0].decode(errors="replace"))

    def _death(self, status: int | None, what: str) -> SinkError:
        said = f"W&B's server has refused data of the run ({status or what})."
        self.care.died(status, said, [*self._under_way])
        return SinkError(f"{said} It is tried again.", reason="WANDB_UPLOAD_DIED")

    def _fail(self, error: Exception) -> None:
        is_opening, self.phase = self.phase is Phase.OPENING, Phase.FAILED
        if isinstance(error, SinkError):
            self.failure = error
        else:
            self.failure = SinkError(
                f"W&B's SDK failed on run {self._start.run_id}: {error!r}. It is tried again.",
                reason="WANDB_FAILED",
            )
        if is_opening:
            self.care.not_opened(self.failure)

    def _log_row(self, ordinal: int, row: dict[str, Any]) -> None:
        self._pending.append((ordinal, row))
        self._feed()

    def cover(self, offset: Offset) -> None:
        """See `WandbRun`."""
        super().cover(offset)
        self._note_confirmed()

    def _print_lines(self, lines: Sequence[str]) -> None:
        # After a resume the server's last lines may be missing from what it told: then a few come
        # twice, or not at all.
        first_new = max(0, self._remote.line_count - self._line_count)
        self._line_count += len(lines)
        if first_new < len(lines):
            self.sdk_run.write_logs(text_of(lines[first_new:]))
