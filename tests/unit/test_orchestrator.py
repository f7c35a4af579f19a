"""Rules of the orchestrator, with processes that end when the test says how."""

import os
import re
import subprocess
import sys
import threading
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pillion.api import Client
from pillion_trainer import ConfigurationError, JobState, TrainingConfig, TrainingOrchestrator, jobs
from pillion_trainer.jobs import toml_of

PROCESS = """
import os, signal, sys
if "STUBBORN" in os.environ:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
print(os.environ.get("CUDA_VISIBLE_DEVICES"), os.environ.get("WANDB_API_KEY"), flush=True)
with open(os.environ["GATE"]) as gate:
    said = gate.read()
print(f"trainer: {said} was said", flush=True)
sys.exit(int(said))
"""
WAIT_S = 120.0


class Gates:
    """Where the processes of jobs wait to be told their exit code."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def of(self, job_id: str, **more: str) -> dict[str, str]:
        """Make one; return the variables that lead a process to it."""
        gate = self._folder / f"gate-{job_id}"
        os.mkfifo(gate)
        return {"GATE": str(gate)} | more

    def reached(self, job_id: str) -> Any:
        """Wait until the process is there; return what it reads."""
        return (self._folder / f"gate-{job_id}").open("w", encoding="ascii")

    def open(self, job_id: str, code: int = 0) -> None:
        """Have the process end."""
        with self.reached(job_id) as gate:
            gate.write(str(code))


@pytest.fixture
def gates(tmp_path: Path) -> Gates:
    """Return the gates of a test's jobs."""
    return Gates(tmp_path)


@pytest.fixture
def make(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., TrainingOrchestrator]]:
    """Return a function that makes orchestrators; there is no sidecar."""
    monkeypatch.setattr(jobs, "COMMAND", (sys.executable, "-c", PROCESS))
    monkeypatch.setenv("WANDB_API_KEY", "0123456789")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    made: list[TrainingOrchestrator] = []

    def make(**options: Any) -> TrainingOrchestrator:
        address = f"unix:{tmp_path}/nobody.sock"
        made.append(TrainingOrchestrator(tmp_path / "jobs", address=address, **options))
        return made[-1]

    yield make
    for orchestrator in made:
        for status in orchestrator.jobs():
            orchestrator.cancel(status.job_id)
        orchestrator.close()


def started(orchestrator: TrainingOrchestrator, gates: Gates, *job_ids: str, **more: str) -> None:
    """Create and start jobs."""
    for job_id in job_ids:
        orchestrator.create_job({}, job_id, environment=gates.of(job_id, **more))
        orchestrator.start(job_id)


def states(orchestrator: TrainingOrchestrator) -> str:
    """Return the states of all jobs."""
    return " ".join(status.state for status in orchestrator.jobs())


def test_jobs_run_one_after_the_other_in_the_order_of_their_starts(
    make: Callable[..., TrainingOrchestrator], gates: Gates
) -> None:
    """Without GPUs one at a time; the next begins as one ends, however it ends."""
    orchestrator = make()
    orchestrator.create_job({}, "idle")
    started(orchestrator, gates, "a", "b", "c")
    assert states(orchestrator) == "CREATED RUNNING QUEUED QUEUED"
    gates.open("a", 1)
    assert orchestrator.wait("a", WAIT_S).state is JobState.FAILED
    assert states(orchestrator) == "CREATED FAILED RUNNING QUEUED"
    gates.open("b")
    assert orchestrator.wait("b", WAIT_S).state is JobState.FINISHED
    gates.open("c")
    orchestrator.close()
    assert states(orchestrator) == "CREATED FAILED FINISHED FINISHED"


def test_each_job_has_a_gpu_of_its_own(
    make: Callable[..., TrainingOrchestrator], gates: Gates
) -> None:
    """As many at a time as there are GPUs; a job gets the one that became free."""
    orchestrator = make(gpus=["0", "GPU-ab"])
    started(orchestrator, gates, "a", "b", "c")
    assert states(orchestrator) == "RUNNING RUNNING QUEUED"
    gates.open("b")
    orchestrator.wait("b", WAIT_S)
    assert [status.gpu for status in orchestrator.jobs()] == ["0", "GPU-ab", "GPU-ab"]
    gates.open("a")
    gates.open("c")
    for job_id, gpu in {"a": "0", "b": "GPU-ab", "c": "GPU-ab"}.items():
        log = orchestrator.wait(job_id, WAIT_S).log_file.read_text(encoding="utf-8")
        assert log.startswith(f"{gpu} None\n"), "its GPU, and no key of W&B's"


def test_a_jobs_end_says_how_its_process_ended(
    make: Callable[..., TrainingOrchestrator], gates: Gates
) -> None:
    """State, exit code as shells count, and what it printed last; times and places too."""
    orchestrator = make(max_parallel=4)
    started(orchestrator, gates, "done", "mistaken", "stopped", "asked")
    for job_id, code in {"done": 0, "mistaken": 2, "stopped": 143}.items():
        gates.open(job_id, code)
    with gates.reached("asked"):
        orchestrator.cancel("asked")
        orchestrator.cancel("asked")
        ended = {
            job: orchestrator.wait(job, WAIT_S) for job in ("done", "mistaken", "stopped", "asked")
        }
    told = {job: (status.state, status.exit_code, status.reason) for job, status in ended.items()}
    assert told == {
        "done": ("FINISHED", 0, ""),
        "mistaken": ("FAILED", 2, "2 was said"),
        "stopped": ("STOPPED", 143, "Stopped by SIGTERM."),
        "asked": ("STOPPED", 143, "Stopped by SIGTERM."),
    }
    done = ended["done"]
    assert done.start_time is not None
    assert done.end_time is not None
    assert done.create_time <= done.start_time <= done.end_time
    assert done.output_dir == done.log_file.parent / "adapter"
    assert done.run_id.startswith("done-")
    assert (done.steps, done.step, done.metrics, done.run_url) == (120, None, {}, "")


def test_a_job_that_does_not_stop_is_killed(
    make: Callable[..., TrainingOrchestrator], gates: Gates
) -> None:
    """After the grace; what it leaves unsaid is said here."""
    orchestrator = make(cancel_grace_s=0.1)
    started(orchestrator, gates, "deaf", STUBBORN="1")
    with gates.reached("deaf"):
        orchestrator.cancel("deaf")
        status = orchestrator.wait("deaf", WAIT_S)
    assert (status.state, status.exit_code) == ("CRASHED", 137)
    assert status.reason == "Killed, since it had not ended 0.1 s after a SIGTERM."


def test_a_job_that_waits_is_cancelled_at_once(
    make: Callable[..., TrainingOrchestrator], gates: Gates
) -> None:
    """It never begins, and the others are not held up."""
    orchestrator = make()
    started(orchestrator, gates, "a", "b", "c")
    orchestrator.cancel("b")
    assert orchestrator.wait("b").reason == "Cancelled before it had started."
    gates.open("a")
    gates.open("c")
    assert orchestrator.wait("c", WAIT_S).state is JobState.FINISHED
    assert not orchestrator.status("b").log_file.exists()


def test_a_process_that_cannot_be_started_fails_its_job_alone(
    make: Callable[..., TrainingOrchestrator], gates: Gates, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And its place is free again."""
    orchestrator = make()
    with monkeypatch.context() as context:
        context.setattr(jobs, "COMMAND", ("/nonexistent/python",))
        started(orchestrator, gates, "a")
    status = orchestrator.wait("a")
    assert status.state is JobState.FAILED
    assert status.reason.startswith("It could not be started: ")
    started(orchestrator, gates, "b")
    gates.open("b")
    assert orchestrator.wait("b", WAIT_S).state is JobState.FINISHED


def test_the_block_waits_or_cancels(
    make: Callable[..., TrainingOrchestrator], gates: Gates, capsys: pytest.CaptureFixture[str]
) -> None:
    """A plain end waits for all that was started; an exception has them end first, and says so."""
    with make() as orchestrator:
        started(orchestrator, gates, "a")
        opener = threading.Thread(target=gates.open, args=("a",))
        opener.start()
    opener.join()
    assert states(orchestrator) == "FINISHED"
    assert capsys.readouterr().err == ""
    another = make()

    def break_off() -> None:
        with another:
            started(another, gates, "b", "c")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        break_off()
    assert states(another) == "STOPPED STOPPED"
    stops, never = capsys.readouterr().err.splitlines()
    assert stops.startswith("orchestrator: these save and stop: b (pid ")
    assert never == "orchestrator: these never start: c"


def test_how_the_machine_does_is_no_metric_of_a_job(
    make: Callable[..., TrainingOrchestrator], gates: Gates, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run's summary begins with it; who wants it asks for the run."""
    summary = {"system/cpu": 1.0, "train/loss": 2.0, "note": "systematic"}
    run = SimpleNamespace(state="RUNNING", config={}, summary=summary, last_step=1, url="")
    monkeypatch.setattr(Client, "run", lambda _client, _run_id: run)
    orchestrator = make()
    started(orchestrator, gates, "a")
    assert orchestrator.status("a").metrics == {"train/loss": 2.0, "note": "systematic"}
    gates.open("a")


def test_a_process_that_ends_says_what_becomes_of_its_jobs(tmp_path: Path, gates: Gates) -> None:
    """Without `with`: those that run go on, by their pid and run; those that wait never start."""
    code = (
        "import sys\n"
        "from pillion_trainer import TrainingOrchestrator, jobs\n"
        f"jobs.COMMAND = (sys.executable, '-c', {PROCESS!r})\n"
        "folder, *gates = sys.argv[1:]\n"
        "orchestrator = TrainingOrchestrator(folder, max_parallel=1)\n"
        "for name, gate in zip('ab', gates):\n"
        "    job = orchestrator.create_job({}, name, environment={'GATE': gate})\n"
        "    orchestrator.start(job.id)\n"
    )
    places = [gates.of(name)["GATE"] for name in ("a", "b")]
    ended = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "jobs"), *places],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        check=True,
        text=True,
        timeout=300,
    )
    with gates.reached("a"):  # it goes on, and ends by what it reads
        goes_on, never = ended.stderr.splitlines()
    (run,) = [each.name for each in (tmp_path / "jobs").iterdir()]
    assert re.search(rf"these go on: a \(pid \d+, run {run}\)", goes_on)
    assert never.endswith("these never start: b")


def test_all_mistakes_are_told_before_there_is_a_job(
    make: Callable[..., TrainingOrchestrator],
) -> None:
    """Those of the configuration, of the id, and what another job has already."""
    orchestrator = make()
    with pytest.raises(ConfigurationError) as caught:
        orchestrator.create_job({"lora_r": 0, "learning_rat": 1}, "../x")
    told = [mistake.split(":")[0] for mistake in caught.value.mistakes]
    assert told == ["learning_rat is no option", "lora_r is 0", "job_id is '../x'"]
    orchestrator.create_job({"output_dir": "out"}, "first")
    with pytest.raises(ConfigurationError) as caught:
        orchestrator.create_job({"output_dir": "./out"}, "first")
    assert [mistake.split(",")[0] for mistake in caught.value.mistakes] == [
        "job_id is 'first'",
        "output_dir is './out'",
    ]
    assert [status.job_id for status in orchestrator.jobs()] == ["first"]
    for options in ({"max_parallel": 0}, {"address": "nowhere"}):
        with pytest.raises(ConfigurationError):
            TrainingOrchestrator(**options)


def test_what_makes_no_sense_is_refused(
    make: Callable[..., TrainingOrchestrator], gates: Gates
) -> None:
    """A job that is none, that was started already, that nothing would end, or that goes on."""
    orchestrator = make()
    for act in (orchestrator.start, orchestrator.status, orchestrator.cancel, orchestrator.wait):
        with pytest.raises(LookupError, match="There is no job 'x'"):
            act("x")
    orchestrator.create_job({}, "idle")
    with pytest.raises(ValueError, match="was not started"):
        orchestrator.wait("idle")
    started(orchestrator, gates, "a")
    with pytest.raises(ValueError, match="RUNNING already"):
        orchestrator.start("a")
    with pytest.raises(TimeoutError, match="RUNNING after 0 s"):
        orchestrator.wait("a", 0)


def test_a_job_is_called_as_it_was_asked_for(
    make: Callable[..., TrainingOrchestrator],
) -> None:
    """Its run has the job's id as its name unless it has one; ids are made where none is given."""
    orchestrator = make()
    assert orchestrator.create_job({}, "first").config.name == "first"
    named = orchestrator.create_job(TrainingConfig(name="mine"))
    assert named.config.name == "mine"
    assert named.id.startswith("job-")
    assert named.run_id.startswith(f"{named.id}-")


def test_any_thread_may_use_it(
    make: Callable[..., TrainingOrchestrator], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Jobs that several threads create, start and look at all end; three at once at most."""
    monkeypatch.setattr(jobs, "COMMAND", (sys.executable, "-S", "-c", "pass"))
    orchestrator = make(max_parallel=3)
    most: list[int] = []

    def use(number: int) -> None:
        for each in range(5):
            job = orchestrator.create_job({}, f"job-{number}-{each}")
            orchestrator.start(job.id)
            most.append(states(orchestrator).split().count("RUNNING"))

    threads = [threading.Thread(target=use, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    orchestrator.close()
    assert states(orchestrator) == " ".join(["FINISHED"] * 20)
    assert max(most) <= 3


@given(
    name=st.text(min_size=1),
    tags=st.lists(st.text(min_size=1)),
    learning_rate=st.floats(min_value=1e-300, max_value=1e300, exclude_min=True),
)
def test_a_configuration_comes_back_from_its_file(
    name: str, tags: list[str], learning_rate: float
) -> None:
    """Whatever texts and numbers are in it."""
    config = TrainingConfig(name=name, tags=tuple(tags), learning_rate=learning_rate)
    assert TrainingConfig.from_dict(tomllib.loads(toml_of(config))) == config
