"""Several fine-tunes on one machine: created, started in order, looked at, cancelled, waited for.

Each job is a process of its own, `python -m pillion_trainer`, in a session of its own, that logs by
itself; nothing here stands between a job and its sidecar. What is known of a job comes from its
process and, for steps and metrics, from the sidecar. Loads neither torch nor transformers.

A job belongs to itself: if this process dies, those that run go on, and their runs tell of them.
Those that were queued never start.
"""

import atexit
import os
import re
import subprocess
import sys
import threading
import uuid
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from pillion._gpus import gpus as gpus_here
from pillion.address import Address
from pillion.plain import Value
from pillion.system import is_system
from pillion_trainer.config import ConfigurationError, TrainingConfig
from pillion_trainer.jobs import (
    Ending,
    Job,
    JobState,
    JobStatus,
    ending_of,
    kill_group,
    start_process,
)

CANCEL_GRACE_S = 60.0
"""How long a job that is cancelled may take to save and end before it is killed."""

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,47}")
"""With what is added it is the id of a run, of 64 characters at most."""


@dataclass(slots=True)
class _Entry:
    """A job and how far it has come; guarded by the orchestrator's lock."""

    job: Job
    create_time: datetime
    state: JobState = JobState.CREATED
    ending: Ending | None = None
    start_time: datetime | None = None
    end_time: datetime | None = None
    gpu: str = ""
    process: "subprocess.Popen[bytes] | None" = None
    killer: threading.Timer | None = None
    """Set once it is cancelled."""


class TrainingOrchestrator:
    """Runs fine-tunes, each in a process of its own, a few at a time. Safe for threads.

    As a context manager it waits for all that was started; if the block ends with an exception,
    Ctrl-C included, it cancels them first. Without `with`, jobs go on when this process ends, which
    then says which, and which never start.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str] = "jobs",
        *,
        address: str | None = None,
        token: str | None = None,
        max_parallel: int | None = None,
        gpus: Sequence[str] | None = None,
        cancel_grace_s: float = CANCEL_GRACE_S,
    ) -> None:
        """Begin without jobs; nothing is started or asked yet.

        Args:
            folder: Where each job gets a folder `RUN_ID`, with its configuration and its log.
            address: The sidecar that jobs log to. Default: as `pillion.init` finds it.
            token: What a TCP sidecar asks for. Default: `$PILLION_TOKEN`.
            max_parallel: So many jobs run at a time, the others wait. Default: one per GPU, at
                least one.
            gpus: What is given to jobs as CUDA_VISIBLE_DEVICES, each to one job at a time as long
                as there are as many as jobs. Default: those that this process may use.
            cancel_grace_s: How long a cancelled job may take to end before it is killed.

        Raises:
            ConfigurationError: `max_parallel` or `address` is none.
        """
        if max_parallel is not None and max_parallel < 1:
            raise ConfigurationError(f"max_parallel is {max_parallel}: give 1 or more")
        if address is not None:
            try:
                Address.parse(address)
            except ValueError as error:
                raise ConfigurationError(f"address is {address!r}: {error}") from error
        self._folder = Path(folder).expanduser().absolute()
        self._address, self._token = address, token
        self._cancel_grace_s = cancel_grace_s
        places = list(_visible_gpus() if gpus is None else gpus)
        count = max_parallel or len(places) or 1
        self._free = deque(places[n % len(places)] if places else "" for n in range(count))
        self._queue: deque[_Entry] = deque()
        self._entries: dict[str, _Entry] = {}
        self._changed = threading.Condition()
        """Guards all of the above; told when a job has ended."""
        self._client: Any = None
        atexit.register(self._say_what_is_left)

    def create_job(
        self,
        config: TrainingConfig | Mapping[str, Any],
        job_id: str | None = None,
        *,
        environment: Mapping[str, str] | None = None,
    ) -> Job:
        """Check a configuration and make a job of it, to be started by `start`.

        Args:
            config: A configuration, or a mapping of options by their names.
            job_id: How it is called here; its run is called so too, unless the config has a name,
                and has an id that begins so. Default: one that is made.
            environment: More variables for its process; these win over what is set here.

        Raises:
            ConfigurationError: All mistakes of the configuration and of the id.
        """
        mistakes: list[str] = []
        options: dict[str, Any] = {}
        try:
            given = (
                config if isinstance(config, TrainingConfig) else TrainingConfig.from_dict(config)
            )
            options = given.as_dict()
        except ConfigurationError as error:
            mistakes += error.mistakes
        with self._changed:
            job_id = job_id if job_id is not None else f"job-{uuid.uuid4().hex[:8]}"
            mistakes += self._mistakes_of(job_id, options.get("output_dir"))
            if mistakes:
                raise ConfigurationError(*mistakes)
            run_id = f"{job_id}-{uuid.uuid4().hex[:8]}"
            folder = self._folder / run_id
            options["name"] = options["name"] or job_id
            options["output_dir"] = options["output_dir"] or str(folder / "adapter")
            job = Job(
                job_id, run_id, TrainingConfig.from_dict(options), folder, dict(environment or {})
            )
            self._entries[job_id] = _Entry(job, _now())
        return job

    def start(self, job_id: str) -> None:
        """Start a job, or queue it until others have ended. Raises LookupError, ValueError."""
        with self._changed:
            entry = self._entry(job_id)
            if entry.state is not JobState.CREATED:
                raise ValueError(
                    f"The job {job_id} is {entry.state} already. Create another to train again."
                )
            entry.state = JobState.QUEUED
            self._queue.append(entry)
            self._start_next()

    def status(self, job_id: str) -> JobStatus:
        """Return how a job is. Asks the sidecar, if there is one. Raises LookupError."""
        with self._changed:
            entry = replace(self._entry(job_id))
        return self._status_of(entry)

    def jobs(self) -> list[JobStatus]:
        """Return how all jobs are, in the order in which they were created."""
        with self._changed:
            entries = [replace(entry) for entry in self._entries.values()]
        return [self._status_of(entry) for entry in entries]

    def cancel(self, job_id: str) -> None:
        """Have a job end: it saves and ends STOPPED; one that does not in time is killed.

        Does not wait for that. One that has not started never will; one that has ended stays so.
        Raises LookupError.
        """
        with self._changed:
            self._cancel(self._entry(job_id))

    def wait(self, job_id: str, timeout: float | None = None) -> JobStatus:
        """Wait for a job's end; return how it is then.

        Args:
            job_id: The job.
            timeout: How many seconds; None: as long as it takes.

        Raises:
            TimeoutError: It has not ended by then.
            ValueError: It was not started.
            LookupError: There is no such job.
        """
        with self._changed:
            entry = self._entry(job_id)
            if entry.state is JobState.CREATED:
                raise ValueError(f"The job {job_id} was not started: nothing would end it.")
            if not self._changed.wait_for(lambda: entry.state.is_end, timeout):
                raise TimeoutError(f"The job {job_id} is {entry.state} after {timeout:g} s.")
            entry = replace(entry)
        return self._status_of(entry)

    def close(self) -> None:
        """Wait for all jobs that were started, and let go of the sidecar."""
        with self._changed:
            self._changed.wait_for(lambda: not self._going_on())
            client, self._client = self._client, None
        if client is not None:
            client.close()

    def _say_what_is_left(self) -> None:
        """Say at the end of this process what becomes of jobs that nobody has waited for."""
        with self._changed:
            running, waiting = self._running_and_waiting()
        if running:
            _say(f"this process ends, and these go on: {running}; SIGTERM has one save and end")
        if waiting:
            _say(f"this process ends, and these never start: {waiting}")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            if kind is None:
                self.close()
                return
        except BaseException:
            self._stop_all()
            raise
        self._stop_all()

    def _stop_all(self) -> None:
        """Cancel all and wait; a second Ctrl-C has them end without saving."""
        try:
            with self._changed:
                running, waiting = self._running_and_waiting()
                if running:
                    _say(f"these save and stop: {running}; with another Ctrl-C without saving")
                if waiting:
                    _say(f"these never start: {waiting}")
                for entry in self._going_on():
                    self._cancel(entry)
            self.close()
        except KeyboardInterrupt:
            with self._changed:
                for entry in self._going_on():
                    if entry.process is not None:
                        entry.process.terminate()
            raise

    def _going_on(self) -> list[_Entry]:
        states = {JobState.QUEUED, JobState.RUNNING}
        return [entry for entry in self._entries.values() if entry.state in states]

    def _running_and_waiting(self) -> tuple[str, str]:
        """Return what runs, with pid and run, and what is queued, for people; the lock is held."""
        entries = self._going_on()
        running = [
            f"{entry.job.id} (pid {entry.process.pid}, run {entry.job.run_id})"
            for entry in entries
            if entry.process is not None
        ]
        return ", ".join(running), ", ".join(each.job.id for each in entries if not each.process)

    def _entry(self, job_id: str) -> _Entry:
        if job_id not in self._entries:
            known = ", ".join(self._entries) or "none"
            raise LookupError(f"There is no job {job_id!r}. Those there are: {known}.")
        return self._entries[job_id]

    def _mistakes_of(self, job_id: str, output_dir: str | None) -> list[str]:
        mistakes = []
        if not _ID.fullmatch(job_id):
            mistakes.append(
                f"job_id is {job_id[:80]!r}: give 1 to 48 letters, digits, '.', '_' and '-', the "
                "first a letter or digit"
            )
        if job_id in self._entries:
            mistakes.append(f"job_id is {job_id!r}, which there is already: give another")
        for other in self._entries.values():
            is_going_on = output_dir is not None and not other.state.is_end
            if (
                is_going_on
                and other.job.output_dir == Path(output_dir or "").expanduser().absolute()
            ):
                mistakes.append(
                    f"output_dir is {output_dir!r}, which is the job {other.job.id}'s: give another"
                )
        return mistakes

    def _start_next(self) -> None:
        """Start what is queued as long as there are places; the lock is held."""
        while self._queue and self._free:
            entry = self._queue.popleft()
            entry.gpu = self._free.popleft()
            try:
                entry.process = start_process(entry.job, entry.gpu, self._address, self._token)
            except (OSError, ValueError) as error:  # no room, no such character in this locale
                self._free.append(entry.gpu)
                self._end(entry, Ending(JobState.FAILED, None, f"It could not be started: {error}"))
                continue
            entry.state, entry.start_time = JobState.RUNNING, _now()
            name = f"pillion-job-{entry.job.id}"
            threading.Thread(target=self._watch, args=(entry,), name=name, daemon=True).start()

    def _watch(self, entry: _Entry) -> None:
        """Wait for a job's process, then start the next one; a thread of its own for each."""
        assert entry.process is not None
        code = entry.process.wait()
        if code < 0:
            kill_group(entry.process)  # what it had started is left behind
        ending = ending_of(code, entry.job.log_file)
        with self._changed:
            if ending.state is JobState.CRASHED and entry.killer is not None:
                told = f"Killed, since it had not ended {self._cancel_grace_s:g} s after a SIGTERM."
                ending = replace(ending, reason=told)
            self._free.append(entry.gpu)
            self._end(entry, ending)
            self._start_next()

    def _end(self, entry: _Entry, ending: Ending) -> None:
        """Note a job's end; the lock is held."""
        if entry.killer is not None:
            entry.killer.cancel()
        entry.state, entry.ending, entry.end_time = ending.state, ending, _now()
        self._changed.notify_all()

    def _cancel(self, entry: _Entry) -> None:
        """See `cancel`; the lock is held."""
        if entry.state in {JobState.CREATED, JobState.QUEUED}:
            if entry in self._queue:
                self._queue.remove(entry)
            self._end(entry, Ending(JobState.STOPPED, None, "Cancelled before it had started."))
        elif entry.state is JobState.RUNNING and entry.killer is None:
            assert entry.process is not None
            entry.killer = threading.Timer(self._cancel_grace_s, kill_group, [entry.process])
            entry.killer.daemon = True
            entry.killer.start()
            entry.process.terminate()

    def _status_of(self, entry: _Entry) -> JobStatus:
        """Put together what the process and the sidecar tell; `entry` is a copy."""
        run = self._run_of(entry) if entry.start_time is not None else None
        ending = entry.ending
        reason = ending.reason if ending else ""
        if ending and run is not None and run.state != "RUNNING":
            reason = run.reason or reason
        config = entry.job.config
        planned = run.config.get("steps_planned") if run is not None else None
        return JobStatus(
            job_id=entry.job.id,
            state=entry.state,
            reason=reason,
            exit_code=ending.exit_code if ending else None,
            step=run.last_step if run is not None else None,
            steps=planned if isinstance(planned, int) else config.max_steps or None,
            metrics=_metrics_of(run) if run is not None else {},
            run_id=entry.job.run_id,
            run_url=run.url if run is not None else "",
            create_time=entry.create_time,
            start_time=entry.start_time,
            end_time=entry.end_time,
            gpu=entry.gpu,
            output_dir=entry.job.output_dir,
            log_file=entry.job.log_file,
        )

    def _run_of(self, entry: _Entry) -> Any:
        """Return the job's run as the sidecar has it; None: none answers, or it has no such run."""
        from pillion.api import Client, QueryError  # noqa: PLC0415 - gRPC, when it is needed

        try:
            with self._changed:
                if self._client is None:
                    self._client = Client(self._address, self._token)
                client = self._client
            return client.run(entry.job.run_id)
        except (QueryError, ValueError):
            return None


def _metrics_of(run: Any) -> dict[str, Value]:
    """Return a run's summary without how machine and processes do, which is asked for by name."""
    return {name: value for name, value in run.summary.items() if not is_system(name)}


def _say(line: str) -> None:
    print(f"orchestrator: {line}", file=sys.stderr, flush=True)


def _visible_gpus() -> list[str]:
    """Return what this process may use, as CUDA_VISIBLE_DEVICES names it."""
    said = os.environ.get("CUDA_VISIBLE_DEVICES")
    if said is not None:
        return [name for each in said.split(",") if (name := each.strip())]
    return [gpu["uuid"] for gpu in gpus_here()]


def _now() -> datetime:
    return datetime.now(UTC)
