"""A run as the training loop sees it: `log` costs about a microsecond and never raises.

`log` copies the row, reads the clock and appends to a bounded queue; values that are no plain
numbers are read first (`_row.py`), which costs more. The threads of `_sender.py` and `_link.py` do
the rest. At the bound rows are refused and counted, never waited for.

In a forked child the run is another writer's: it sleeps until the child logs, and then spools.
"""

import operator
import os
import sys
import time
import uuid
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self

from pillion._alerts import Alerts
from pillion._artifact import Artifact
from pillion._artifacts import checkpoint_of, failed
from pillion._batch import Update, row_of
from pillion._config import Config, Summary
from pillion._counts import Counts
from pillion._definitions import NAME_CHARACTERS_MAX, Definitions, summaries_of
from pillion._directory import make_run_directory
from pillion._environment import environment
from pillion._link import Link
from pillion._logged import LoggedArtifact, UsedArtifact
from pillion._messages import Finish, Start
from pillion._notice import printable, warn
from pillion._row import PLAIN_TYPES, read_row
from pillion._sampler import Sampler
from pillion._soft import missing
from pillion._watch import Watch
from pillion.artifact_names import alias_problem, name_problem, version_number
from pillion.plain import Value, to_text
from pillion.spool import spool_directory

ROWS_MAX = 100_000
"""Rows that wait to be encoded. Only a sidecar that is away for long, or a loop that does nothing
but log, ever gets there."""

START_WAIT_S = 5.0
"""How long `init` waits for the sidecar's answer before training goes on without it."""

FINISH_WAIT_S = 10.0
"""How long `finish` waits for what is left to be on the sidecar's disk, or in the spool."""

ARTIFACTS_WAIT_S = 3.0
"""How much of that the end of the run waits for artifacts, so that they come before it."""

REASON_CHARACTERS_MAX = 4096

_STATES = {"FINISHED", "STOPPED", "FAILED", "CRASHED"}
_EXIT_CODE_MIN, _EXIT_CODE_MAX = -(2**31), 2**31 - 1
_CLOSED = -1
_FINALIZER_PRIORITY = 100
_STEP_MIN, _STEP_MAX = -(2**63), 2**63 - 1


class RefusedError(RuntimeError):
    """The sidecar will never take this run as it was asked for; the message says why."""


class Run:
    """One execution that logs. Made by `pillion.init`. All methods may be used by any thread."""

    def __init__(self, link: Link, start: Start, *, is_quiet: bool) -> None:
        self._start = start
        self._is_quiet = is_quiet
        self._rows_max = ROWS_MAX
        """`_CLOSED` when nothing more is taken, so that `log` needs no check of its own."""
        self._finish_deadline_s = 0.0
        self._waiting_end: Finish | None = None
        """The end, while it waits for artifacts to be sent."""
        self._next_step = 0
        """Of a row without a step: behind the largest that was used."""
        self._is_asleep = False
        """Inherited by a forked child that has not logged yet."""
        self._uncommitted: tuple[dict[str, Any], int | None] | None = None
        """What waits for a row that is committed, and that row's step."""
        self.is_inherited = False
        """Whether it is a parent's run in a forked child."""
        self._alerts = Alerts()
        self._definitions = Definitions()
        self._directory = ""
        self._watches: dict[int, Watch] = {}
        self._attach(link)
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
        return self._link.name or str(self._start.fields["name"]) or self.id

    @property
    def project(self) -> str:
        """The project it is filed under."""
        return self._link.project or str(self._start.fields["project"]) or "uncategorized"

    @property
    def group(self) -> str:
        """The name it shares with runs that belong to it."""
        return str(self._start.fields["group"])

    @property
    def job_type(self) -> str:
        """Its role in the group."""
        return str(self._start.fields["job_type"])

    @property
    def tags(self) -> tuple[str, ...]:
        """The labels it was started with."""
        return tuple(self._start.fields["tags"])

    @property
    def notes(self) -> str:
        """The free text it was started with."""
        return str(self._start.fields["notes"])

    @property
    def url(self) -> str:
        """Its page at W&B; empty offline, and until the sidecar has told."""
        return self._link.url

    @property
    def step(self) -> int:
        """The step of the next row that is committed without one."""
        _, step = self._uncommitted or ({}, None)
        return self._next_step if step is None else step

    @property
    def dir(self) -> str:
        """A directory for the run's own files; nothing in it is uploaded by itself.

        `RUN_ID.files` in the spool directory, made when it is first asked for, and left to its
        user; a temporary one where that cannot be made. `log_artifact` and `save` log what is in
        it.
        """
        if not self._directory:
            self._directory = str(make_run_directory(self.id))
        return self._directory

    @property
    def should_stop(self) -> bool:
        """Whether somebody asks it to stop, as by the Stop button of W&B's page. It need not."""
        return bool(self._link.stop_reason)

    @property
    def stop_reason(self) -> str:
        """Who asks it to stop, and why; empty: nobody does."""
        return self._link.stop_reason

    @property
    def counts(self) -> Counts:
        """How many rows are where, exactly."""
        return self._link.counts()

    def log(
        self, data: Mapping[str, Any], step: int | None = None, commit: bool | None = None
    ) -> None:
        """Log one row of metrics. Raises nothing, never blocks, touches no network and no disk.

        Args:
            data: Names and numbers; nested mappings are flattened with `/`. One-element tensors
                and arrays are read at once, so they may change afterwards. One on a CUDA device is
                copied behind the work that makes it, and not waited for. Beside numbers: texts, and
                pillion's `Histogram`, `Table`, `Image`, `Audio`, `Video` and `Html`, or a list of
                such files.
            step: The x-axis; may repeat and go back. Default: one more than the largest that this
                writer has used; of a run that is resumed at least the number of its rows.
            commit: False: keep the values, and the step if one is given, for the next row that is
                committed; what is given there counts before what was kept.

        What is none of these is left out and counted, and told of a few names once each, with what
        to do instead; a row for which there is no room is left out and counted, too. Only what ends
        a program passes: a KeyboardInterrupt, a SystemExit or any other BaseException that is no
        Exception, whether a signal's handler or a logged object raised it.
        """
        try:
            row: dict[str, Any] = dict(data)
            is_plain = PLAIN_TYPES.issuperset(map(type, row.values()))
            if not is_plain:
                row = read_row(row, self._refused)
            if step is not None and (type(step) is not int or not _STEP_MIN <= step <= _STEP_MAX):
                step = min(max(operator.index(step), _STEP_MIN), _STEP_MAX)
            if commit is False or self._uncommitted is not None:
                kept, kept_step = self._uncommitted or ({}, None)
                step, is_plain = kept_step if step is None else step, False
                row = kept | row
                if commit is False:
                    self._uncommitted = row, step
                    return
                self._uncommitted = None
            if step is None:
                step = self._next_step
            if step >= self._next_step:  # no call in between, so under the GIL no other thread
                self._next_step = step + 1 if step < _STEP_MAX else step
            if (len(self._queue) >= self._rows_max and not self._is_awoken()) or not row:
                self._refused.rows += 1
                self._warn_of_refusal(step)
                return
            time_ns = time.time_ns()
            if is_plain:
                self._queue.append((step, time_ns, row))
            elif queued := row_of(step, time_ns, dict(row), self._link.held, self._refused):
                self._queue.append(queued)
            else:
                self._refused.rows += 1
        except Exception:  # noqa: BLE001 - telemetry never hurts training
            self._refused.rows += 1
            try:  # noqa: SIM105 - at the end of the stack there is no room for another call
                self._warn_of_refusal(step)
            except Exception:  # noqa: BLE001, S110
                pass

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

    def define_metric(
        self,
        name: str,
        step_metric: str | None = None,
        *,
        summary: str | None = None,
        goal: str | None = None,
        overwrite: bool | None = None,
        **_more: Any,
    ) -> None:
        """Say how a metric is to be read. Raises nothing, and never blocks.

        What is said of a metric later adds to what was said before.

        Args:
            name: The metric; a trailing `*` stands for every name that begins so.
            step_metric: The metric that is its x-axis. Default: the step.
            summary: What the run's summary keeps of it, separated by commas: `min`, `max`, `mean`,
                `last`, `first` or `none`. Default: the last value.
            goal: With the summary `best`: `minimize` or `maximize`.
            overwrite: Forget what was said of it before.
        """
        summaries = summaries_of(summary, goal)
        metric, axis = (to_text(each or "")[:NAME_CHARACTERS_MAX] for each in (name, step_metric))
        if metric:
            fields = self._definitions.add(metric, axis, summaries, overwrite=bool(overwrite))
            self._change("metric_definition", fields)

    def watch(
        self,
        models: Any,
        criterion: Any = None,  # noqa: ARG002 - W&B's
        log: Literal["gradients", "parameters", "all"] | None = "gradients",
        log_freq: int = 1000,
        **_more: Any,
    ) -> None:
        """Log histograms of a PyTorch model as it trains: `gradients/NAME`, `parameters/NAME`.

        What is no model is told, and not watched.

        Args:
            models: A `torch.nn.Module`, or several.
            criterion: Not needed.
            log: What is looked at; `all` is both.
            log_freq: At every how many forward passes. The histograms join the row that is
                committed next.
        """
        for model in models if isinstance(models, list | tuple) else [models]:
            if log is not None and id(model) not in self._watches:
                keep = partial(self.log, commit=False)
                try:
                    self._watches[id(model)] = Watch(model, keep, log, log_freq)
                except Exception as error:  # noqa: BLE001 - telemetry never hurts training
                    warn(
                        "pillion: a model of type %s is not watched (%s); give a torch.nn.Module.",
                        *(type(model).__name__, to_text(error)),
                    )

    def unwatch(self, models: Any = None) -> None:
        """End what `watch` does, of some models or of all."""
        if models is None:
            watched = [*self._watches]
        else:
            watched = list(map(id, models if isinstance(models, list | tuple) else [models]))
        for key in watched:
            if (watch := self._watches.pop(key, None)) is not None:
                watch.close()

    def alert(
        self,
        title: str,
        text: str = "",
        level: str = "INFO",
        wait_s: float | None = None,
        *,
        wait_duration: Any = None,
    ) -> None:
        """Tell people something. Raises nothing, and never blocks.

        Args:
            title: One line.
            text: The whole message.
            level: `INFO`, `WARN` or `ERROR`.
            wait_s: How long after one of this title another is left out. Default: 60.
            wait_duration: The same, as W&B calls it; a timedelta will do.

        Of a run no more than 20 are raised in a minute.
        """
        try:
            wait = wait_duration if wait_s is None else wait_s
            fields = self._alerts.admit(title, text, level, wait)
        except Exception:  # noqa: BLE001 - telemetry never hurts training
            self._refused.values += 1
            return
        if fields is not None:
            self._change("alert", fields)

    def log_artifact(
        self,
        artifact_or_path: Artifact | str | os.PathLike[str],
        name: str | None = None,
        type: str | None = None,
        aliases: str | Iterable[str] | None = None,
        policy: str = "copy",
    ) -> LoggedArtifact:
        """Log files as a version of an artifact; only bytes that the sidecar lacks travel.

        Returns when the files are staged in the spool directory: from then on they may change, be
        rotated away, and the process be killed. They are copied, which costs nothing where the
        filesystem shares blocks, else the time of a copy; or linked to. A thread of its own sends
        them. What fails then is told by what is returned, and never raised.

        Args:
            artifact_or_path: An `Artifact`; or a file, a directory or a URI, to make one of.
            name: Its name, if made of a path. Default: `run-ID-FILE`.
            type: What it is, if made of a path: `model`, `dataset` …
            aliases: Other names of this version; `latest` is always one.
            policy: `copy`; or `link`, which needs no room for files on the spool's filesystem, but
                refuses those that are then changed in place.

        Raises:
            ValueError: An argument can never be logged: a name that is none, no such file.
        """
        return self._artifacts.log(artifact_or_path, name, type, aliases, policy)

    def log_checkpoint(
        self,
        path: str | os.PathLike[str],
        step: int | None = None,
        metrics: Mapping[str, Any] | None = None,
        aliases: str | Iterable[str] | None = None,
        *,
        name: str | None = None,
        policy: str = "copy",
    ) -> LoggedArtifact:
        """Log a checkpoint: as `log_artifact`, of type `checkpoint`, with the alias `step-STEP`.

        Args:
            path: Its file or directory.
            step: The training step that it is of.
            metrics: How good it is; kept with it.
            aliases: More names of this version, such as `best`.
            name: Its name. Default: `checkpoint-RUN`.
            policy: As for `log_artifact`.

        Raises:
            ValueError: As `log_artifact`.
        """
        checkpoint, step_alias = checkpoint_of(
            path, name or f"checkpoint-{self.id}", step, dict(metrics or {})
        )
        given = [aliases] if isinstance(aliases, str) else list(aliases or ())
        return self._artifacts.log(checkpoint, None, None, given + step_alias, policy)

    def use_artifact(self, artifact: str, type: str | None = None) -> UsedArtifact:  # noqa: ARG002
        """Say that the run reads an artifact; `download` of what is returned gets its files.

        Args:
            artifact: `NAME:VERSION` or `NAME:ALIAS`, in the run's project.
            type: Not needed.

        Raises:
            ValueError: This is no name of an artifact.
        """
        name, _, version = artifact.partition(":")
        problem = name_problem(name)
        if not problem and version and version_number(version) is None:
            problem = alias_problem(version)
        if problem:
            raise ValueError(f"{artifact[:80]!r} is no artifact: {problem}")
        use: dict[str, Any] = {"artifact": artifact, "time_unix_nano": time.time_ns()}
        self._change("artifact_use", use)
        return self._link.used_artifact(artifact, self.project)

    def save(
        self, path: str | os.PathLike[str], policy: str = "copy", **_more: Any
    ) -> LoggedArtifact:
        """Log a file, a directory or the files of a pattern as an artifact of type `file`.

        See `log_artifact`; but nothing is raised where there is nothing to be logged.
        """
        try:
            return self._artifacts.log(path, None, "file", None, policy)
        except ValueError as error:
            return failed(LoggedArtifact(to_text(path), "file"), str(error))

    def flush(self, timeout_s: float = FINISH_WAIT_S) -> bool:
        """Wait until all that was logged is on the sidecar's disk; tell whether it is."""
        if self not in open_runs or self._link.is_child:
            return False
        return self._link.flush(timeout_s)

    def finish(self, exit_code: int = 0, *, state: str = "", reason: str = "") -> None:
        """End the run. Waits `FINISH_WAIT_S` at most; never for W&B.

        Without a sidecar the run ends in the spool, and whoever takes that over ends it.

        Args:
            exit_code: 0: FINISHED, else FAILED, unless `state` says otherwise.
            state: `FINISHED`, `STOPPED`, `FAILED` or `CRASHED`; anything else is as if nothing was
                said.
            reason: Why, for people; cut at 4,096 characters.
        """
        if self not in open_runs or self._is_asleep:
            return
        self.begin_finish(exit_code, state=state, reason=reason)
        if self._waiting_end is not None:
            self._artifacts.wait(min(ARTIFACTS_WAIT_S, self._finish_deadline_s - time.monotonic()))
            self._begin_end(self._waiting_end)
        is_kept = self._link.wait_ended(self._finish_deadline_s - time.monotonic())
        if self in open_runs:  # a signal's handler may wait for the same
            open_runs.discard(self)
            self._artifacts.wait(self._finish_deadline_s - time.monotonic())
            self._say_left(self._artifacts.close())
            self._say_end(is_kept)

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
        if self._uncommitted is not None:
            self.log({})
        self._rows_max = _CLOSED
        self._sampler.close()
        self._finish_deadline_s = time.monotonic() + FINISH_WAIT_S
        self._waiting_end = finish
        self.unwatch()
        if not self._link.is_connected or self._artifacts.wait(0.0):
            self._begin_end(finish)

    def _begin_end(self, finish: Finish) -> None:
        """Have the writer end, once: artifacts that come later are of a run that has ended."""
        self._waiting_end = None
        self._link.begin_finish(finish)

    def abandon(self) -> None:
        """Take nothing more: the sidecar does not want this run."""
        open_runs.discard(self)
        self._rows_max = _CLOSED
        self._sampler.close()

    def enter_child(self) -> None:
        """Become another writer, in a child that was just forked. Takes none of the old locks.

        What the parent had in hand is the parent's. Threads are started by the first `log`.
        """
        if self._rows_max == _CLOSED and not self._is_asleep:  # it is about to end, or has
            open_runs.discard(self)
            return
        fields = {**self._start.fields, "environment": environment()}
        self._start = replace(
            self._start, writer_id=uuid.uuid4().hex, resume="allow", fields=fields
        )
        self._attach(Link(self._link.address, "", self._start, is_child=True))
        self._rows_max, self._is_asleep, self.is_inherited = _CLOSED, True, True

    if not TYPE_CHECKING:  # so that type checkers go on to find mistakes

        def __getattr__(self, name: str) -> Any:
            return missing("run", name)

    def _label(self, **_: Any) -> None:
        """Say what kind of code logs, as transformers does: W&B's, and of no use here."""

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
        if self._link.is_child:
            self._say(
                f"pillion: run {self.name} ({self.id}) of a forked process: what it logs is "
                "spooled, and taken by the sidecar when the process has ended"
            )
            return
        self._link.attempted.wait(START_WAIT_S)
        if self._link.refusal:
            self.abandon()
            raise RefusedError(self._link.refusal)
        if self._link.is_started:
            self._next_step = max(self._next_step, self._link.next_ordinal)
            self._say(f"pillion: run {self.name} ({self.id}) of project {self.project}")
            self._say(f"pillion: kept by the sidecar at {self._link.address}")
            self._say(f"pillion: look with `pillion runs`, `pillion compare {self.id} …`")
        else:
            warn(
                "pillion: no sidecar answers at %s (%s). Training goes on; what is logged waits "
                "on this host's disk until one does. Start one with `pillion serve`.",
                self._link.address,
                self._link.problem or f"no answer in {START_WAIT_S:.0f} s",
            )

    def _attach(self, link: Link) -> None:
        """Log to this link from now on."""
        self._artifacts = link.artifacts()
        self._waiting_end = None
        self._link, self._queue, self._refused = link, link.rows, link.refused
        self._sampler = Sampler(link.rows, ROWS_MAX, lambda: max(0, self._next_step - 1))
        link.on_system_interval = self._sampler.sample_every
        self._uncommitted = None

    def _is_awoken(self) -> bool:
        """Begin to log in a forked child, if this is one that has not yet; tell whether it was."""
        if not self._is_asleep:
            return False
        self._link.open()
        if (multiprocessing := sys.modules.get("multiprocessing.util")) is not None:
            # Its children leave by `os._exit`, after this.
            multiprocessing.Finalize(None, self.finish, exitpriority=_FINALIZER_PRIORITY)
        self._rows_max, self._is_asleep = ROWS_MAX, False
        return True

    def _change(self, kind: str, values: dict[str, Value]) -> None:
        """Queue what is said beside rows, in order with them."""
        if len(self._queue) >= self._rows_max and not self._is_awoken():
            self._refused.values += len(values)
        else:
            self._queue.append(Update(kind, values))

    def _warn_of_refusal(self, step: Any) -> None:
        if self._refused.rows == 1:
            warn(
                "pillion: a row of run %s was refused: %s. More are only counted.",
                self.id,
                "the run has ended"
                if self._rows_max == _CLOSED
                else "the queue is full"
                if len(self._queue) >= self._rows_max
                else "there is nothing in it that can be kept"
                if step is None or _is_integer(step)
                else f"its step is of type {type(step).__name__}; give an integer, as by int(...)",
            )

    def _say_left(self, count: int) -> None:
        if count:
            warn(
                "pillion: %d artifacts of run %s wait in %s; a sidecar of this user takes them "
                "from there.",
                *(count, self.id, spool_directory()),
            )

    def _say_end(self, is_kept: bool) -> None:
        counts, link = self.counts, self._link
        if is_kept and link.spool_path:
            if not self.is_inherited:
                warn(
                    "pillion: run %s ended without a sidecar (%s). %d of its rows wait in %s; a "
                    "sidecar of this user takes them from there, or `pillion spool send` does.",
                    *(self.id, link.problem or "it was too slow", counts.spooled, link.spool_path),
                )
        elif is_kept:
            self._say(
                f"pillion: run {self.name} ({self.id}) {link.final_state.lower()}: "
                f"{counts.acked:,} rows on the sidecar's disk"
            )
            if link.url:
                self._say(f"pillion: at W&B: {link.url}")
        elif not counts.queued + counts.unacked + counts.spooled:
            warn(
                "pillion: all %d rows of run %s are on the sidecar's disk, but its end could not "
                "be told (%s): it will be shown as CRASHED.",
                *(counts.acked, self.id, link.problem or "it was too slow"),
            )
        else:
            warn(
                "pillion: run %s ended with %d of its rows not on the sidecar's disk (%s).",
                self.id,
                counts.queued + counts.unacked + counts.spooled,
                link.refusal or link.problem or "it was too slow",
            )
        if counts.refused or counts.refused_values or counts.dropped:
            warn(
                "pillion: run %s: %d rows and %d values were refused, %d rows dropped.",
                *(self.id, counts.refused, counts.refused_values, counts.dropped),
            )

    def _say(self, line: str) -> None:
        if not self._is_quiet:
            with suppress(Exception):  # a closed or full standard error is not training's trouble
                print(printable(line), file=sys.stderr)


open_runs: set[Run] = set()
"""Runs of this process that have not been finished."""


def _is_integer(step: Any) -> bool:
    try:
        operator.index(step)
    except Exception:  # noqa: BLE001 - a stranger's methods may raise anything
        return False
    return True


def exit_code_of(code: Any) -> int:
    """Return the exit code that the interpreter makes of `SystemExit.code`."""
    if code is None:
        return 0
    return code & 0xFF if isinstance(code, int) else 1  # a process's parent sees eight bits
