"""F2: the sidecar is killed at a system call on the journal's files, each in turn.

What it acked is kept, what it did not ack is sent again, and nothing is there twice. `make test`
takes a sample of the calls, `PILLION_EVERY_CALL=1` takes all of them.
"""

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import grpc
import pytest
from faults.raw import RawWriter
from faults.strace import WRITING, Strace, calls_in, command, journal_files
from processes import WAIT_S, SidecarProcess, StartError

BATCHES = 8
SAMPLE = 6
"""So many calls are tried of each phase unless all are."""
OFTEN = "import pillion_sidecar.journal as journal\njournal.CARRY_OVER_BYTES = 100_000\n"
"""Has the log carried over into the database every few commits."""


@pytest.fixture
def often(tmp_path: Path) -> dict[str, str]:
    """Return what makes a sidecar carry its log over often."""
    (tmp_path / "often").mkdir()
    (tmp_path / "often" / "sitecustomize.py").write_text(OFTEN)
    paths = [str(tmp_path / "often"), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {"PYTHONPATH": ":".join(paths)}


def chosen(calls: list[tuple[str, int]]) -> list[tuple[str, int]]:
    """Return all calls, or a sample of them that is spread evenly and has the last."""
    if os.environ.get("PILLION_EVERY_CALL") or len(calls) <= SAMPLE:
        return calls
    return [calls[(len(calls) - 1) * number // (SAMPLE - 1)] for number in range(SAMPLE)]


def each(counts: dict[str, int]) -> list[tuple[str, int]]:
    """Return each counted call as its kind and number."""
    return [(call, number) for call in WRITING for number in range(1, counts.get(call, 0) + 1)]


def load(writer: RawWriter) -> None:
    """Go through a run's life: a start, batches one by one, batches at once, an end."""
    writer.start()
    writer.send(1, 3, at_once=False)
    writer.send(4, BATCHES)
    writer.finish(BATCHES)


def go_on(writer: RawWriter) -> None:
    """Do what a client does after its sidecar came back, then look at what there is."""
    last = writer.start()
    assert last >= writer.acked, "an acked batch is gone"
    if last < BATCHES:
        writer.send(last + 1, BATCHES)
    writer.send(1, BATCHES)  # sent twice, kept once
    writer.finish(BATCHES)
    writer.check(BATCHES)


@pytest.mark.timeout(1800)
def test_kill_at_each_call_of_a_load_loses_and_doubles_nothing(
    tmp_path: Path, often: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Appends, commits, syncs and carrying the log over: none may be the wrong one to die at."""
    sidecar = SidecarProcess(tmp_path, "--wandb-mode", "disabled")
    trace, files = tmp_path / "trace", journal_files(sidecar.data_dir)
    try:
        sidecar.start(**often)
        assert sidecar.process is not None
        # The second run finds the files as the later ones do.
        for name in ("first", "counted"):
            strace = Strace(sidecar.process.pid, files, trace)
            load(RawWriter(sidecar, name, padding=10_000))
            counts = strace.detach()
        assert min(counts["pwrite64"], counts["fdatasync"]) > BATCHES
        calls = chosen(each(counts))
        for call, number in calls:
            writer = RawWriter(sidecar, f"{call}-{number}", padding=10_000)
            strace = Strace(sidecar.process.pid, files, trace, f"{call}:signal=KILL:when={number}")
            # It may go through: what had queued up shared commits, and there were fewer calls.
            with suppress(grpc.RpcError):
                load(writer)
                sidecar.kill()
            sidecar.process.wait(WAIT_S)
            strace.detach()
            sidecar.start(**often)
            go_on(writer)
        with capsys.disabled():
            print(f"\n{len(calls)} of {sum(counts.values())} calls: {dict(counts)}")
    finally:
        sidecar.close()


@pytest.mark.timeout(1800)
def test_kill_at_each_call_of_a_start_leaves_a_journal_that_starts(
    tmp_path: Path, make_sidecar: Callable[..., SidecarProcess]
) -> None:
    """While it is made for the first time, and while one with a log is opened again."""
    for phase in ("made", "opened"):
        counting = SidecarProcess(tmp_path / f"{phase}-counted", "--wandb-mode", "disabled")
        trace = tmp_path / "trace"
        try:
            if phase == "opened":
                prepare(counting)
            counting.start(*traced(counting, trace))
            counting.kill()
        finally:
            counting.close()
        for call, number in chosen(each(calls_in(trace))):
            sidecar = SidecarProcess(
                tmp_path / f"{phase}-{call}-{number}", "--wandb-mode", "disabled"
            )
            writer = RawWriter(sidecar, "before")
            try:
                if phase == "opened":
                    writer = prepare(sidecar)
                fault = f"{call}:signal=KILL:when={number}"
                try:
                    sidecar.start(*traced(sidecar, trace, fault))
                except StartError:
                    pass
                else:
                    sidecar.kill()
                sidecar.start()
                go_on(writer)
            finally:
                sidecar.close()


def prepare(sidecar: SidecarProcess) -> RawWriter:
    """Leave a journal with batches in its log."""
    sidecar.data_dir.parent.mkdir(exist_ok=True)
    sidecar.start()
    writer = RawWriter(sidecar, "before")
    writer.start()
    writer.send(1, 4)
    sidecar.kill()
    return writer


def traced(sidecar: SidecarProcess, trace: Path, *injections: str) -> list[str]:
    """Return the command that has a sidecar traced from its beginning, as a process of its own."""
    sidecar.data_dir.parent.mkdir(exist_ok=True)
    strace, *options = command(journal_files(sidecar.data_dir), trace, *injections)
    return [strace, "-D", *options]
