"""A run as the training loop sees it: `log` costs about a microsecond and never raises.

`log` copies the row, reads the clock and appends to a bounded queue; values that are no plain
numbers are read first, which costs more. The threads of `_link.py` do
the rest. At the bound rows are refused and counted, never waited for.
"""

import itertools
import operator
import sys
import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

from pillion._batch import Update
from pillion._config import Config, Summary
from pillion._link import Counts, Finish, Link, Start, warn
from pillion.plain import DEPTH_MAX, VALUES_MAX, Value, to_number, to_text

ROWS_MAX = 100_000
"""Rows that wait to be encoded. Only a sidecar that is away for long, or a loop that does nothing
but log, ever gets there."""

START_WAIT_S = 5.0
"""How long `init` waits for the sidecar's answer before training goes on without it."""

FINISH_WAIT_S = 10.0
"""How long `finish` waits for what is left to be on the sidecar's disk."""

REASON_CHARACTERS_MAX = 4096

_STATES = {"FINISHED", "STOPPED", "FAILED"}
_EXIT_CODE_MIN, _EXIT_CODE_MAX = -(2**31), 2**31 - 1
_PLAIN_TYPES = frozenset({float, int, bool})
_CLOSED = -1
_STEP_MIN, _STEP_MAX = -(2**63), 2**63 - 1


class RefusedError(RuntimeError):
    """The sidecar will never take this run as it was asked for; the message says why."""


class Run:
    """One execution that logs. Made by `pillion.init`. All methods may be used by any thread."""

    def __init__(self, address: str, token: str, start: Start, *, is_quiet: bool) -> None:
        self._start = start
        self._is_quiet = is_quiet
        self._queue: deque[Any] = deque()
        self._rows_max = ROWS_MAX
        """`_CLOSED` when nothing more is taken, so that `log` needs no check of its own."""
        self._refused_row_count = self._refused_value_count = 0
        self._finish_deadline_s = 0.0
        self._steps = itertools.count()
        self._uncommitted: dict[str, Any] = {}
        self._link = Link(address, token, start, self._queue)
        self.config = Config(self._change, start.config)
        self.summary = Summary(self._change)
        open_runs.add(self)

    @property
    def id(self) -> str:
        """Its id, unique in the sidecar."""
        return self._start.run_id

    @property
    def name(self) -> str:
        """Its name for people."""
        return str(self._start.fields["name"])

    @property
    def project(self) -> str:
        """The project it is filed under."""
        return str(self._start.fields["project"])

    @property
    def counts(self) -> Counts:
        """How many rows are where, exactly."""
        counts = self._link.counts()
        return Counts(
            counts.queued, counts.unacked, counts.acked, counts.refused + self._refused_row_count
        )

    def log(
        self, data: Mapping[str, Any], step: int | None = None, commit: bool | None = None
    ) -> None:
        """Log one row of metrics. Never raises, never blocks, touches no network and no disk.

        Args:
            data: Names and numbers; nested mappings are flattened with `/`. One-element tensors
                and arrays are read at once, so they may change afterwards; one on a GPU is waited
                for, as `.item()` does.
            step: The x-axis; may repeat and go back. Default: this writer's own count of rows.
            commit: False: keep the values for the next row that is committed.

        What is not a number is left out and counted; so is a row for which there is no room.
        """
        try:
            row = dict(data)
            if not _PLAIN_TYPES.issuperset(map(type, row.values())):
                row = self._read(row)
            if commit is False or self._uncommitted:
                row = self._uncommitted = {**self._uncommitted, **row}
                if commit is False:
                    return
                self._uncommitted = {}
            if step is None:
                step = next(self._steps)
            elif type(step) is not int or not _STEP_MIN <= step <= _STEP_MAX:
                step = min(max(operator.index(step), _STEP_MIN), _STEP_MAX)
            if len(self._queue) >= self._rows_max or not row:
                self._refuse()
                return
            self._queue.append((step, time.time_ns(), row))
        except Exception:  # noqa: BLE001 - telemetry never hurts training
            self._refuse()

    def log_console(self, lines: list[str], stream: int = 0) -> None:
        """Log lines that were printed, without their line ends; for `pillion run`.

        Args:
            lines: At most 64 KiB each in UTF-8, and 512 KiB together.
            stream: 1: standard output, 2: standard error, 0: not known.
        """
        self._change(
            "console_lines",
            {"stream": stream, "time_unix_nano": time.time_ns(), "lines": [*lines]},
        )

    def flush(self, timeout_s: float = FINISH_WAIT_S) -> bool:
        """Wait until all that was logged is on the sidecar's disk; tell whether it is."""
        return self in open_runs and self._link.flush(timeout_s)

    def finish(self, exit_code: int = 0, *, state: str = "", reason: str = "") -> None:
        """End the run. Waits `FINISH_WAIT_S` at most; never for W&B.

        Args:
            exit_code: 0: FINISHED, else FAILED, unless `state` says otherwise.
            state: `FINISHED`, `STOPPED` or `FAILED`; anything else is as if nothing was said.
            reason: Why, for people; cut at 4,096 characters.
        """
        if self not in open_runs:
            return
        self.begin_finish(exit_code, state=state, reason=reason)
        open_runs.discard(self)
        self._say_end(self._link.wait_ended(self._finish_deadline_s - time.monotonic()))

    def begin_finish(self, exit_code: int = 0, *, state: str = "", reason: str = "") -> None:
        """Begin what `finish` does, and do not wait: several runs can so end at the same time."""
        if self._rows_max == _CLOSED:
            return
        if not isinstance(exit_code, int):
            exit_code = exit_code_of(exit_code)
        finish = Finish(
            min(max(exit_code, _EXIT_CODE_MIN), _EXIT_CODE_MAX),
            state if state in _STATES else "",
            to_text(reason)[:REASON_CHARACTERS_MAX],
        )
        if self._uncommitted:
            self.log({})
        self._rows_max = _CLOSED
        self._finish_deadline_s = time.monotonic() + FINISH_WAIT_S
        self._link.begin_finish(finish)

    def abandon(self) -> None:
        """Take nothing more, in a forked child: the parent's run is the parent's."""
        open_runs.discard(self)
        self._rows_max = _CLOSED

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        if kind is None:
            self.finish()
        elif issubclass(kind, KeyboardInterrupt):
            self.finish(130, state="STOPPED", reason="Stopped by SIGINT.")
        elif issubclass(kind, SystemExit) and isinstance(error, SystemExit):
            self.finish(exit_code_of(error.code))
        else:
            self.finish(1, reason=f"{kind.__name__}: {to_text(error)}")

    def __repr__(self) -> str:
        return f"<pillion.Run {self.project}/{self.id} {self.name!r}>"

    def open(self) -> None:
        """Start the threads, and wait a little for the sidecar's answer.

        Raises:
            RefusedError: It will never take this run.
        """
        self._link.open()
        self._link.attempted.wait(START_WAIT_S)
        if self._link.refusal:
            self.abandon()
            raise RefusedError(self._link.refusal)
        if self._link.is_started:
            if self._link.next_ordinal:
                self._steps = itertools.count(self._link.next_ordinal)
            self._say(f"pillion: run {self.name} ({self.id}) of project {self.project}")
            self._say(f"pillion: kept by the sidecar at {self._link.address}")
            self._say(f"pillion: look with `pillion runs`, `pillion compare {self.id} …`")
        else:
            warn(
                "pillion: no sidecar answers at %s (%s). Training goes on; what is logged waits "
                "in memory until one does. Start one with `pillion serve`.",
                self._link.address,
                self._link.problem or f"no answer in {START_WAIT_S:.0f} s",
            )

    def _change(self, kind: str, values: dict[str, Value]) -> None:
        """Queue a change of config or summary, in order with the rows."""
        if len(self._queue) >= self._rows_max:
            self._refused_value_count += len(values)
        else:
            self._link.update(Update(kind, values))

    def _read(self, row: Mapping[Any, Any]) -> dict[str, float | int | bool]:
        """Make a row plain: the slow way, for rows that hold more than numbers."""
        plain: dict[str, float | int | bool] = {}
        for key, value in _flat(row, "", DEPTH_MAX, [VALUES_MAX]):
            number = value if type(value) in _PLAIN_TYPES else to_number(value)
            if number is None:
                self._refused_value_count += 1
            else:
                plain[key] = number
        return plain

    def _refuse(self) -> None:
        self._refused_row_count += 1
        if self._refused_row_count == 1:
            warn(
                "pillion: a row of run %s was refused: %s. More are only counted.",
                self.id,
                "the run has ended"
                if self._rows_max == _CLOSED
                else "the queue is full"
                if len(self._queue) >= self._rows_max
                else "there is no number in it, or its step is none",
            )

    def _say_end(self, is_kept: bool) -> None:
        counts = self.counts
        if is_kept:
            self._say(
                f"pillion: run {self.name} ({self.id}) {self._link.final_state.lower()}: "
                f"{counts.acked:,} rows on the sidecar's disk"
            )
        elif not counts.queued + counts.unacked:
            warn(
                "pillion: all %d rows of run %s are on the sidecar's disk, but its end could not "
                "be told (%s): it will be shown as CRASHED.",
                *(counts.acked, self.id, self._link.problem or "it was too slow"),
            )
        else:
            warn(
                "pillion: run %s ended with %d of its rows not on the sidecar's disk (%s).",
                self.id,
                counts.queued + counts.unacked,
                self._link.refusal or self._link.problem or "it was too slow",
            )
        value_count = self._refused_value_count + self._link.refused_value_count
        if counts.refused or value_count:
            warn(
                "pillion: run %s: %d rows and %d values were refused.",
                *(self.id, counts.refused, value_count),
            )

    def _say(self, line: str) -> None:
        if not self._is_quiet:
            with suppress(Exception):  # a closed or full standard error is not training's trouble
                print(line, file=sys.stderr)


open_runs: set[Run] = set()
"""Runs of this process that have not been finished."""


def exit_code_of(code: Any) -> int:
    """Return the exit code that the interpreter makes of `SystemExit.code`."""
    if code is None:
        return 0
    return code & 0xFF if isinstance(code, int) else 1  # a process's parent sees eight bits


def _flat(
    row: Mapping[Any, Any], prefix: str, depth: int, room: list[int]
) -> Iterator[tuple[str, Any]]:
    """Yield what nested mappings hold; one that cannot be read, or is too much, as it is."""
    for key, value in row.items():
        name = f"{prefix}{to_text(key)}"
        room[0] -= 1
        if type(value) in _PLAIN_TYPES:
            yield name, value
            continue
        nested = None
        try:
            if depth and isinstance(value, Mapping) and len(value) <= room[0]:
                nested = list(_flat(value, f"{name}/", depth - 1, room))
        except Exception:  # noqa: BLE001 - a stranger's methods may raise anything
            nested = None
        if nested is None:
            yield name, value
        else:
            yield from nested
