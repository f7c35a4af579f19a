"""Liveness: who counts as gone, by process and by lease."""

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace

import pytest

from pillion.process import ProcessIdentity, process_identity
from pillion_sidecar.environment import Gpu
from pillion_sidecar.liveness import LEASE_S, Liveness
from pillion_sidecar.records import Environment, RunId, WriterId

RUN, WRITER = RunId("run"), WriterId("w")
ELSEWHERE = Environment(host="elsewhere")


class FakeClock:
    """Monotonic time that passes when it is told to."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        """Return the time."""
        return self.now_s


@pytest.fixture
def clock() -> FakeClock:
    """Make a clock."""
    return FakeClock()


@pytest.fixture
def liveness(clock: FakeClock) -> Liveness:
    """Look after writers by that clock."""
    return Liveness(monotonic=clock)


@pytest.fixture
def child() -> Iterator[subprocess.Popen[bytes]]:
    """Start a process that waits until its input ends."""
    with subprocess.Popen(
        [sys.executable, "-c", "input()"], stdin=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        yield process
        process.kill()


def environment_of(process: subprocess.Popen[bytes]) -> Environment:
    """Tell where a process runs, as its client would."""
    identity = process_identity(process.pid)
    assert identity is not None
    return Environment(process=identity)


def end(process: subprocess.Popen[bytes]) -> None:
    """Kill a process and wait until it is a zombie."""
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)


def test_visible_writer_is_gone_when_its_process_is(
    liveness: Liveness, clock: FakeClock, child: subprocess.Popen[bytes]
) -> None:
    """Where the process can be seen, time says nothing and its death everything."""
    liveness.add(RUN, WRITER, environment_of(child))
    clock.now_s += 10 * LEASE_S
    assert liveness.gone() == []
    end(child)
    assert liveness.gone() == [
        (RUN, WRITER, f"Its process {child.pid} vanished without finishing.")
    ]


def test_process_with_a_reused_number_is_another(
    liveness: Liveness, child: subprocess.Popen[bytes]
) -> None:
    """A process that has the number but not the start time is not the writer."""
    identity = environment_of(child).process
    assert identity is not None
    former = replace(identity, start_time_ticks=identity.start_time_ticks - 1)
    liveness.add(RUN, WRITER, Environment(process=former))
    assert [writer[:2] for writer in liveness.gone()] == [(RUN, WRITER)]


def test_processes_that_can_be_seen_are_told_by_their_runs(
    liveness: Liveness, child: subprocess.Popen[bytes]
) -> None:
    """With the GPUs that each may use, as long as they have not ended."""
    gpu = Gpu("H100", 80, 0, "GPU-a")
    environment = replace(environment_of(child), gpus=(gpu,))
    liveness.add(RUN, WRITER, environment)
    liveness.add(RUN, WriterId("v"), ELSEWHERE)
    liveness.add(RunId("other"), WRITER, ELSEWHERE)
    assert liveness.visible() == {RUN: [(environment.process, (gpu,))]}
    assert liveness.launchers(RUN) == []
    command = replace(environment, client_version="1", python_version="")
    liveness.add(RUN, WRITER, command)
    assert liveness.launchers(RUN) == [environment.process]
    assert liveness.launchers(RunId("other")) == []
    liveness.remove(RUN, WRITER)
    assert liveness.visible() == {}


@pytest.mark.parametrize("other", [{"boot_id": "another"}, {"pid_namespace": 1}])
def test_process_elsewhere_is_judged_by_its_lease(
    liveness: Liveness, clock: FakeClock, other: dict[str, str | int]
) -> None:
    """A number of another host or namespace means nothing here."""
    here = process_identity(os.getpid())
    assert here is not None
    foreign: ProcessIdentity = replace(here, pid=2**22 + 1, **other)  # type: ignore[arg-type]
    liveness.add(RUN, WRITER, Environment(process=foreign))
    assert liveness.gone() == []
    clock.now_s += LEASE_S + 1
    assert liveness.gone() == [(RUN, WRITER, f"Nothing was heard of it for {LEASE_S:.0f} s.")]


def test_lease_is_renewed_by_every_sign_of_life(liveness: Liveness, clock: FakeClock) -> None:
    """A writer is gone only after it was silent for a whole lease."""
    liveness.add(RUN, WRITER, ELSEWHERE)
    clock.now_s += LEASE_S
    assert liveness.gone() == []
    liveness.stream_closed(liveness.stream_opened(RUN, WRITER))
    clock.now_s += LEASE_S
    liveness.add(RUN, WRITER, ELSEWHERE)  # it started once more
    clock.now_s += LEASE_S
    assert liveness.gone() == []
    clock.now_s += 1
    assert [writer[:2] for writer in liveness.gone()] == [(RUN, WRITER)]


def test_open_stream_keeps_a_writer_alive(liveness: Liveness, clock: FakeClock) -> None:
    """A lease runs from the end of the last stream, not of the first."""
    liveness.add(RUN, WRITER, ELSEWHERE)
    first = liveness.stream_opened(RUN, WRITER)
    second = liveness.stream_opened(RUN, WRITER)  # before the first was known to be dead
    clock.now_s += 2 * LEASE_S
    liveness.stream_closed(first)
    clock.now_s += 2 * LEASE_S
    assert liveness.gone() == []
    liveness.stream_closed(second)
    assert liveness.gone() == []
    clock.now_s += LEASE_S + 1
    assert [writer[:2] for writer in liveness.gone()] == [(RUN, WRITER)]


def test_open_stream_of_a_dead_process_is_read_to_its_end(
    liveness: Liveness, child: subprocess.Popen[bytes]
) -> None:
    """What a writer sent before it died is taken in before its run ends."""
    liveness.add(RUN, WRITER, environment_of(child))
    stream = liveness.stream_opened(RUN, WRITER)
    end(child)
    assert liveness.gone() == []
    liveness.stream_closed(stream)
    assert [writer[:2] for writer in liveness.gone()] == [(RUN, WRITER)]


def test_writer_that_ended_is_looked_after_no_longer(liveness: Liveness, clock: FakeClock) -> None:
    """After its end nothing is said of a writer, and nothing fails that names it."""
    liveness.add(RUN, WRITER, ELSEWHERE)
    stream = liveness.stream_opened(RUN, WRITER)
    liveness.remove(RUN, WRITER)
    liveness.remove(RUN, WRITER)
    liveness.stream_closed(stream)
    clock.now_s += 2 * LEASE_S
    assert liveness.gone() == []


def test_writer_that_is_gone_is_told_until_it_is_removed(
    liveness: Liveness, clock: FakeClock
) -> None:
    """If its end could not be journaled, it is tried again."""
    liveness.add(RUN, WRITER, ELSEWHERE)
    clock.now_s += LEASE_S + 1
    assert liveness.gone() == liveness.gone() != []


def test_writer_that_comes_back_in_another_process_is_seen_there(
    liveness: Liveness, child: subprocess.Popen[bytes]
) -> None:
    """A writer that starts again is looked after where it says it is now."""
    here = process_identity(os.getpid())
    assert here is not None
    liveness.add(RUN, WRITER, environment_of(child))
    end(child)
    liveness.add(RUN, WRITER, Environment(process=here))
    assert liveness.gone() == []


def test_stream_of_a_writer_that_had_ended_begins_a_lease(
    liveness: Liveness, clock: FakeClock
) -> None:
    """Batches that come late reopen a run; somebody must end it again."""
    stream = liveness.stream_opened(RUN, WRITER)
    clock.now_s += 2 * LEASE_S
    assert liveness.gone() == []
    liveness.stream_closed(stream)
    clock.now_s += LEASE_S + 1
    assert [writer[:2] for writer in liveness.gone()] == [(RUN, WRITER)]


@pytest.mark.parametrize(
    ("metadata", "is_known"),
    [
        ([("pillion-run-id", RUN), ("pillion-writer-id", WRITER)], True),
        ([("pillion-run-id", RUN), ("pillion-writer-id", "another")], False),
        ([("pillion-writer-id", WRITER)], False),
        ([("pillion-run-id", b"run"), ("pillion-writer-id", WRITER)], False),
        ([], False),
    ],
)
def test_call_names_its_writer(
    liveness: Liveness, metadata: list[tuple[str, str | bytes]], is_known: bool
) -> None:
    """Only a writer that has started is kept alive by what a call says of itself."""
    liveness.add(RUN, WRITER, ELSEWHERE)
    assert liveness.known_in(metadata) == ({(RUN, WRITER)} if is_known else set())


def test_stream_that_outlived_an_end_takes_nothing_from_the_next(
    liveness: Liveness, clock: FakeClock
) -> None:
    """A writer that ended and came back is judged by the streams it opened since."""
    liveness.add(RUN, WRITER, ELSEWHERE)
    former = liveness.stream_opened(RUN, WRITER)
    liveness.remove(RUN, WRITER)
    liveness.add(RUN, WRITER, ELSEWHERE)
    liveness.stream_closed(former)
    liveness.stream_opened(RUN, WRITER)
    clock.now_s += 2 * LEASE_S
    assert liveness.gone() == []


def test_time_without_a_writer_is_told(liveness: Liveness, clock: FakeClock) -> None:
    """It begins anew when one comes, and runs when the last one has ended."""
    clock.now_s += 5
    assert liveness.idle_s() == 5
    liveness.add(RUN, WRITER, ELSEWHERE)
    clock.now_s += 5
    assert liveness.idle_s() == 0
    liveness.remove(RUN, WRITER)
    assert liveness.idle_s() == 0
    clock.now_s += 5
    assert liveness.idle_s() == 5


def test_a_run_is_live_while_one_of_its_writers_is(liveness: Liveness) -> None:
    """Only then somebody can be asked to stop."""
    assert not liveness.is_live(RUN)
    liveness.add(RUN, WRITER, ELSEWHERE)
    liveness.add(RUN, WriterId("v"), ELSEWHERE)
    liveness.remove(RUN, WRITER)
    assert liveness.is_live(RUN)
    liveness.remove(RUN, WriterId("v"))
    assert not liveness.is_live(RUN)
