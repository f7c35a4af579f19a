"""The W&B sink with the real SDK: what it is handed is read back from the files it leaves."""

import itertools
import logging
import math
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pillion_sidecar.errors import SettingsError, SinkError
from pillion_sidecar.records import (
    ConfigUpdate,
    Environment,
    Frame,
    Offset,
    Record,
    RunFinish,
    RunId,
    RunStart,
    RunState,
    WriterId,
)
from pillion_sidecar.sinks import wandb
from pillion_sidecar.sinks.wandb import WandbSink
from pillion_sidecar.sinks.wandb_file import WandbFile, read_wandb_file

RUN = RunId("run")

Entry = RunStart | RunFinish | list[Record]
OpenSink = Callable[[], WandbSink]


@pytest.fixture
def open_sink(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[OpenSink]:
    """Give what opens a sink on the test's directory, as a new worker does after the last one."""
    environment = dict(os.environ)
    monkeypatch.setattr(wandb, "WRITE_INTERVAL_S", 0.01)
    sinks: list[WandbSink] = []

    def open_sink() -> WandbSink:
        if sinks:
            sinks[-1].close()
        sinks.append(WandbSink(tmp_path))
        return sinks[-1]

    yield open_sink
    for sink in sinks[-1:]:
        sink.close()
    os.environ.clear()
    os.environ.update(environment)


@pytest.fixture
def sink(open_sink: OpenSink) -> WandbSink:
    """Open a sink."""
    return open_sink()


def start_of(run_id: RunId = RUN, *, writer: str = "w1", **changed: Any) -> RunStart:
    """Make a start that says little but what is given."""
    fields: dict[str, Any] = {
        "run_id": run_id,
        "writer_id": WriterId(writer),
        "project": "demo",
        "name": "first",
        "group": "",
        "job_type": "",
        "tags": (),
        "notes": "",
        "config": {},
        "environment": Environment(host="node-1", program="train.py"),
        "time_unix_nano": 1_000,
    }
    return RunStart(**fields | changed)


def finish_of(run_id: RunId = RUN, **changed: Any) -> RunFinish:
    """Make the end of a run that went well."""
    fields: dict[str, Any] = {
        "run_id": run_id,
        "writer_id": WriterId("w1"),
        "state": RunState.FINISHED,
        "exit_code": 0,
        "reason": "",
        "summary": {},
        "time_unix_nano": 2_000,
    }
    return RunFinish(**fields | changed)


def frame_of(first_ordinal: int, *losses: float) -> Frame:
    """Make rows of one metric."""
    ordinals = np.arange(first_ordinal, first_ordinal + len(losses))
    return Frame(first_ordinal, ordinals * 10, ordinals * 10**9, {"loss": np.array(losses)})


def hand_over(sink: WandbSink, *entries: Entry, run_id: RunId = RUN) -> int:
    """Hand over a journal's entries, numbered from 1, as the worker does; return the errors."""
    error_count, handed = 0, sink.position(run_id)
    while handed < len(entries):
        entry, offset = entries[handed], Offset(handed + 1)
        try:
            match entry:
                case RunStart():
                    sink.start(offset, entry)
                case RunFinish():
                    sink.finish(offset, entry)
                case records:
                    sink.apply(run_id, offset, records)
        except SinkError:
            error_count += 1
            handed = sink.position(run_id)
        else:
            handed = offset
    return error_count


def settle(sink: WandbSink, offset: int, run_id: RunId = RUN) -> None:
    """Flush until the sink has confirmed the entry; if it never does, the test runs out of time."""
    while sink.position(run_id) < offset:
        sink.flush()


def shown(directory: Path) -> dict[str, WandbFile]:
    """Read what `wandb sync` would find, by run."""
    folders = list((directory / "wandb").iterdir())
    files = {}
    for folder in folders:
        file = read_wandb_file(next(folder.glob("*.wandb")))
        assert folder.name.startswith("offline-run-")
        assert folder.name.endswith(f"-{file.run_id}")
        files[file.run_id] = file
    assert len(files) == len(folders)
    return files


def test_a_step_that_the_user_logs_stands(sink: WandbSink, tmp_path: Path) -> None:
    """His own `global_step` is not overwritten; W&B's own step and time are."""
    values = {"global_step": 42, "_step": 9, "_timestamp": 5}
    columns = {key: np.array([value]) for key, value in values.items()}
    frame = Frame(0, np.array([1]), np.array([3 * 10**9]), columns)
    hand_over(sink, start_of(), [frame], finish_of())
    (row,) = shown(tmp_path)["run"].rows
    assert (row["global_step"], row["_step"], row["_timestamp"]) == (42, 0, 3)


def test_a_run_is_described_as_its_writers_said(sink: WandbSink, tmp_path: Path) -> None:
    """All is taken of the first writer, of later ones config and tags; config may change."""
    first = start_of(
        project="team/demo?",
        group="sweep",
        job_type="train",
        tags=("a", "b" * 70, ""),
        notes="two\nlines",
        config={"lr": 0.1, "deep": {"x": [1, None, {"y": True}]}, "seed": 2**80, "raw": b"\xff"},
    )
    second = start_of(writer="w2", name="second", tags=("a", "c"), config={"w2": 1})
    hand_over(
        sink,
        first,
        second,
        [ConfigUpdate({"lr": 0.2, "deep": {"x": "é"}}), ConfigUpdate({"new": math.inf})],
        finish_of(),
    )
    file = shown(tmp_path)["run"]
    assert (file.project, file.name, file.group) == ("team-demo-", "first", "sweep")
    assert (file.job_type, file.notes, file.host) == ("train", "two\nlines", "node-1")
    assert file.tags == ("a", "b" * 64, "c")
    file.config.pop("_wandb")
    assert file.config == {
        "lr": 0.2,
        "deep": {"x": "é"},
        "seed": 2**80,
        "raw": "\\xff",
        "w2": 1,
        "new": math.inf,
    }


def test_config_that_reads_like_an_artifact_is_not_looked_up(
    sink: WandbSink, tmp_path: Path
) -> None:
    """The SDK would ask W&B's server for it, within the call; it arrives as plain text."""
    text = "wandb-artifact://entity/project/data:v0"
    config = {"data": text, "deep": {"data": [text, {"data": text}]}}
    config["dict"] = {"_type": "artifactVersion", "id": "x"}
    assert hand_over(sink, start_of(config=config), finish_of()) == 0
    file = shown(tmp_path)["run"]
    assert file.config["data"] == f" {text}"
    assert file.config["deep"] == {"data": [f" {text}", {"data": f" {text}"}]}


@pytest.mark.parametrize(
    ("state", "exit_code", "expected"),
    [
        (RunState.FINISHED, 0, 0),
        (RunState.FINISHED, None, 0),
        (RunState.FAILED, 3, 3),
        (RunState.FAILED, 0, 1),
        (RunState.CRASHED, None, 1),
        (RunState.CRASHED, -9, -9),
        (RunState.STOPPED, 0, 255),
    ],
)
def test_only_a_run_that_finished_looks_so_in_wandb(
    sink: WandbSink, tmp_path: Path, state: RunState, exit_code: int | None, expected: int
) -> None:
    """A known exit code is kept; 0 is only for runs that ended well."""
    hand_over(sink, start_of(), finish_of(state=state, exit_code=exit_code))
    assert shown(tmp_path)["run"].exit_code == expected


def test_several_runs_at_once_do_not_mix(sink: WandbSink, tmp_path: Path) -> None:
    """Each gets its own rows and its own end, however their entries alternate."""
    runs = [RunId(f"run-{number}") for number in range(5)]
    for number, run_id in enumerate(runs):
        sink.start(Offset(1 + number), start_of(run_id, name=run_id))
    for ordinal in range(20):
        for number, run_id in enumerate(runs):
            frame = frame_of(ordinal, number + ordinal / 100)
            sink.apply(run_id, Offset(100 + 10 * ordinal + number), [frame])
    for number, run_id in enumerate(runs[1:]):
        sink.finish(Offset(1000 + number), finish_of(run_id, exit_code=number))
    files = shown(tmp_path)
    assert files.keys() == set(runs[1:])
    for number, run_id in enumerate(runs[1:], start=1):
        losses = [row["loss"] for row in files[run_id].rows]
        assert losses == [number + ordinal / 100 for ordinal in range(20)]
        assert files[run_id].exit_code == number - 1


def test_the_position_is_what_was_read_back(sink: WandbSink) -> None:
    """Rows that were only handed over do not count."""
    assert (sink.position(RUN), sink.row_count(RUN)) == (0, 0)
    sink.start(Offset(3), start_of())
    sink.apply(RUN, Offset(7), [frame_of(0, 1.0, 2.0)])
    assert (sink.position(RUN), sink.row_count(RUN)) == (0, 0)
    settle(sink, 7)
    assert (sink.position(RUN), sink.row_count(RUN)) == (7, 2)


def test_a_run_that_has_not_ended_is_never_shown(open_sink: OpenSink, tmp_path: Path) -> None:
    """Closing ends no run; the next worker deletes what was written and begins at 0."""
    sink = open_sink()
    hand_over(sink, start_of(), [frame_of(0, 1.0, 2.0)])
    settle(sink, 2)
    sink = open_sink()
    assert (sink.position(RUN), sink.row_count(RUN)) == (0, 0)
    assert not shown(tmp_path)
    assert not list((tmp_path / "partial").iterdir())
    hand_over(sink, start_of(), [frame_of(0, 1.0, 2.0)], [frame_of(2, 3.0)], finish_of())
    assert [row["loss"] for row in shown(tmp_path)["run"].rows] == [1.0, 2.0, 3.0]


ENTRIES_OF_A_RUN_OPENED_TWICE: tuple[Entry, ...] = (
    start_of(tags=("a",), config={"lr": 1}),
    [frame_of(0, 1.0, 2.0)],
    finish_of(state=RunState.FAILED, exit_code=3, summary={"best": 1}),
    start_of(writer="w2", tags=("b",), config={"lr": 2}),
    [frame_of(2, 3.0)],
    finish_of(),
    [frame_of(3, 4.0)],
    finish_of(),
)


@pytest.mark.parametrize("restarts_after", [None, 3, 4, 5, 6, 7])
def test_a_run_opened_again_ends_as_one_complete_file(
    open_sink: OpenSink, tmp_path: Path, restarts_after: int | None
) -> None:
    """A start or late rows after the end: it is written anew, and the earlier file replaced."""
    entries = ENTRIES_OF_A_RUN_OPENED_TWICE
    sink = open_sink()
    for count in range(1, len(entries) + 1):
        error_count = hand_over(sink, *entries[:count])
        assert (count in (4, 7)) <= error_count
        rows = shown(tmp_path)["run"].rows if count >= 3 else []
        assert len(rows) == [0, 0, 0, 2, 2, 2, 3, 3, 4][count]
        if count == restarts_after:
            sink = open_sink()
            assert sink.position(RUN) == (6 if count >= 6 else 3)
    file = shown(tmp_path)["run"]
    assert [row["loss"] for row in file.rows] == [1.0, 2.0, 3.0, 4.0]
    assert (file.config["lr"], file.tags, file.exit_code) == (2, ("a", "b"), 0)
    assert file.summary["best"] == 1
    assert not list((tmp_path / "partial").iterdir())
    assert open_sink().position(RUN) == 8


def test_rows_handed_over_twice_count_once(sink: WandbSink, tmp_path: Path) -> None:
    """After an error the worker goes on at the cursor, which lies behind what was handed over."""
    hand_over(sink, start_of(), [frame_of(0, 1.0, 2.0)])
    assert sink.position(RUN) == 0
    sink.start(Offset(1), start_of())
    sink.apply(RUN, Offset(3), [frame_of(0, 1.0, 2.0), frame_of(2, 3.0)])
    sink.finish(Offset(4), finish_of())
    assert [row["loss"] for row in shown(tmp_path)["run"].rows] == [1.0, 2.0, 3.0]


def test_a_file_that_is_not_what_was_handed_over_is_not_delivered(
    sink: WandbSink, tmp_path: Path
) -> None:
    """Should the SDK drop or invent a row, the run is given up and written anew."""
    hand_over(sink, start_of(), [frame_of(0, 1.0)])
    sink._live[RUN].sdk_run.log({"loss": 9.0}, step=5, commit=True)
    with pytest.raises(SinkError, match="not what the SDK was given"):
        sink.finish(Offset(3), finish_of())
    assert (sink.position(RUN), sink.row_count(RUN)) == (0, 0)
    assert not shown(tmp_path)
    hand_over(sink, start_of(), [frame_of(0, 1.0)], finish_of())
    assert [row["loss"] for row in shown(tmp_path)["run"].rows] == [1.0]


def test_a_run_that_the_sdk_refuses_stops_no_other(sink: WandbSink, tmp_path: Path) -> None:
    """The error says so for this run; the process stays of use."""
    sink.start(Offset(1), start_of(RunId("other")))
    with pytest.raises(SinkError, match="Run ID cannot contain"):
        sink.start(Offset(2), start_of(RunId("a:b")))
    sink.flush()
    sink.finish(Offset(3), finish_of(RunId("other")))
    assert shown(tmp_path).keys() == {"other"}
    assert not list((tmp_path / "partial").iterdir())


def test_a_missing_sdk_is_named_with_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without wandb the sink says how to get it."""
    monkeypatch.setattr(os, "environ", dict(os.environ))
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(SettingsError, match=r"pip install -e '\.\[sidecar\]'"):
        WandbSink(tmp_path)


def run_worker(
    work: Callable[[Path], None], directory: Path, **environment: str
) -> subprocess.CompletedProcess[bytes]:
    """Do some work in a process that ends as a worker does; it prints what it fails with."""
    script = f"""
import os, pathlib, test_wandb_sink
try:
    test_wandb_sink.{work.__name__}(pathlib.Path.cwd())
except BaseException as error:
    print(type(error).__name__, flush=True)
os._exit(0)
"""
    return subprocess.run(
        [sys.executable, "-c", script],
        check=False,
        cwd=directory,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parent)} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def be_killed_amid_rows(directory: Path) -> None:
    """Be a worker that is killed when some of its rows are written and some are not."""
    wandb.WRITE_INTERVAL_S = 0.05
    sink = WandbSink(directory)
    sink.start(Offset(1), start_of(config={"secret": "c4n4ry"}))
    for ordinal in itertools.count():
        sink.apply(RUN, Offset(2 + ordinal), [frame_of(ordinal, ordinal / 4)])
        if ordinal % 50 == 0:
            sink.flush()
        if sink.row_count(RUN) > 100:
            os.kill(os.getpid(), signal.SIGKILL)


def lose_rows_with_wandb_core(directory: Path) -> None:
    """Be a worker whose wandb-core dies with rows, and that has nothing more to hand over."""
    wandb.WRITE_INTERVAL_S = 60.0
    sink = WandbSink(directory)
    hand_over(sink, start_of(), [frame_of(0, 1.0)])
    kill_wandb_core()
    while True:
        sink.flush()


def hand_over_to_a_dead_wandb_core(directory: Path) -> None:
    """Be a worker whose wandb-core dies when all was written, and that has more rows."""
    sink = WandbSink(directory)
    hand_over(sink, start_of(), [frame_of(0, 1.0)])
    settle(sink, 2)
    kill_wandb_core()
    with suppress(SinkError):
        for ordinal in itertools.count(1):
            sink.apply(RUN, Offset(2 + ordinal), [frame_of(ordinal, 1.0)])
    assert sink.position(RUN) == 0
    sink.flush()


def kill_wandb_core() -> None:
    """Kill the wandb-core of this process, and wait until it is dead."""
    children = " ".join(path.read_text() for path in Path("/proc/self/task").glob("*/children"))
    (pid,) = map(int, children.split())
    os.kill(pid, signal.SIGKILL)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)


def test_rows_of_a_killed_worker_arrive_exactly_once(open_sink: OpenSink, tmp_path: Path) -> None:
    """SIGKILL in mid-run, twice: its successors begin at 0, and one folder has each row once."""
    for _ in range(2):
        assert run_worker(be_killed_amid_rows, tmp_path).returncode == -signal.SIGKILL
        assert not shown(tmp_path)
        assert len(list((tmp_path / "partial").iterdir())) == 1
    sink = open_sink()
    assert (sink.position(RUN), sink.row_count(RUN)) == (0, 0)
    frames = [[frame_of(ordinal, ordinal / 4)] for ordinal in range(500)]
    hand_over(sink, start_of(), *frames, finish_of())
    rows = shown(tmp_path)["run"].rows
    assert [(row["_step"], row["loss"]) for row in rows] == [(i, i / 4) for i in range(500)]
    assert open_sink().position(RUN) == 502


@pytest.mark.parametrize("work", [lose_rows_with_wandb_core, hand_over_to_a_dead_wandb_core])
def test_a_worker_without_wandb_core_ends_and_the_next_writes_all_anew(
    open_sink: OpenSink, tmp_path: Path, work: Callable[[Path], None]
) -> None:
    """What was handed over is gone with it: `flush` raises what is no SinkError."""
    assert run_worker(work, tmp_path).stdout == b"RuntimeError\n"
    hand_over(open_sink(), start_of(), [frame_of(0, 1.0)], [frame_of(1, 2.0)], finish_of())
    assert [row["loss"] for row in shown(tmp_path)["run"].rows] == [1.0, 2.0]


def test_nothing_of_the_workers_own_is_recorded_printed_or_left_behind(
    open_sink: OpenSink, tmp_path: Path
) -> None:
    """Its host, folder and environment are not the run's; config is in the run's file alone."""
    home = tmp_path / "home"
    home.mkdir()
    theirs = {"WANDB_PROJECT": "their-project", "WANDB_TAGS": "their-tag", "WANDB_MODE": "disabled"}
    theirs |= {"HOME": str(home), "WANDB_API_KEY": "k3y" * 14}
    assert run_worker(be_killed_amid_rows, tmp_path, **theirs).stdout == b""
    assert not list(home.iterdir())
    partial = tmp_path / "partial"
    (path,) = partial.rglob("*.wandb")
    file = read_wandb_file(path)
    assert (file.project, file.tags, file.host) == ("demo", (), "node-1")
    assert str(tmp_path).encode() not in path.read_bytes()
    assert f'"{socket.gethostname()}"'.encode() not in path.read_bytes()
    for other in tmp_path.rglob("*"):
        content = other.read_bytes() if other.is_file() else b""
        assert b"k3yk3y" not in content, other
        assert other == path or b"c4n4ry" not in content, other
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    hand_over(open_sink(), start_of(), finish_of())
    assert handlers == [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    assert not logging.getLogger("wandb").isEnabledFor(logging.INFO)
