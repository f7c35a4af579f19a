"""Forked children: their parent's run never notices, and what they log is in the spool.

torch is the real one. Workers started by `spawn` have an interpreter, a sidecar's connection and a
run of their own; each costs seconds, so there are fewer of them here. For as many as with `fork`:

    PILLION_SOAK=1 pytest tests/faults/test_forks.py
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from faults.spooled import Spooled, read_spool

from pillion.spool import End, Kind
from pillion.v1 import record_pb2
from pillion.v1 import telemetry_service_pb2 as pb2
from pillion_sidecar.store import Store

FORK_EPOCHS = 50
SPAWN_EPOCHS = FORK_EPOCHS if "PILLION_SOAK" in os.environ else 3
WORKERS, BATCHES = 4, 8
LIMIT_S = 200 * SPAWN_EPOCHS  # workers that are spawned import torch, four at a time
LEFT = "left"
"""A directory from which no sidecar takes anything: what is left there is looked at."""

TRAINING = """
import multiprocessing, os, sys, threading, time, warnings
import pillion

class Numbers:
    def __len__(self): return 64
    def __getitem__(self, index):
        if os.environ["CHILDREN_LOG"] == "fork":
            pillion.log({"index": index}, step=index)
        return float(index)

def main(method, epochs):
    import torch
    from torch.utils.data import DataLoader
    exits = []
    join = multiprocessing.process.BaseProcess.join
    def noting(process, timeout=None):
        join(process, timeout)
        if process.exitcode is not None: exits.append(process.exitcode)
    multiprocessing.process.BaseProcess.join = noting
    run = pillion.init(id="loading", quiet=True)
    assert run.flush(60)
    step = 0
    for epoch in range(epochs):
        for batch in DataLoader(Numbers(), batch_size=8, num_workers=4,
                                multiprocessing_context=method):
            run.log({"sum": batch.sum(), "epoch": epoch}, step=step)
            step += 1
    assert run.flush(60), run.counts
    print(step, run.counts.acked, run.counts.refused, len(exits), set(exits), flush=True)

if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
"""


@pytest.fixture
def train(sidecar: Any, run_python: Callable[..., Any], tmp_path: Path) -> Callable[..., list[str]]:
    """Return a function that trains with a data loader and returns what the trainer counted."""
    (tmp_path / "train.py").write_text(TRAINING, encoding="utf-8")
    code = "import os, sys; os.execv(sys.executable, [sys.executable, 'train.py', *sys.argv[1:]])"

    def run(method: str, epochs: int, children_log: str = "") -> list[str]:
        trainer = run_python(
            code,
            *(method, str(epochs)),
            PILLION_ADDRESS=sidecar.address,
            PILLION_SPOOL_DIR=str(tmp_path / LEFT),
            CHILDREN_LOG=children_log,
        )
        output, errors = trainer.communicate(timeout=LIMIT_S)
        assert trainer.returncode == 0, errors
        return str(output).split(maxsplit=4)

    return run


def steps_of(sidecar: Any, run_id: str) -> list[int]:
    """Return the steps that the store has, in order."""
    run = sidecar.call("GetRun", pb2.GetRunRequest(run_id=run_id)).run
    assert run.state == record_pb2.RUN_STATE_FINISHED
    store = Store(f"sqlite:///{sidecar.data_dir}/store.db")
    try:
        return [step for _, step, _, _ in store.rows(run_id)]
    finally:
        store.close()


@pytest.mark.timeout(LIMIT_S + 300)
@pytest.mark.parametrize(("method", "epochs"), [("fork", FORK_EPOCHS), ("spawn", SPAWN_EPOCHS)])
def test_data_loader_beside_a_run(
    sidecar: Any, train: Callable[..., list[str]], tmp_path: Path, method: str, epochs: int
) -> None:
    """Four workers per epoch while every step is logged: no hang, no bad exit, no lost ack."""
    logged, acked, refused, exit_count, exits = train(method, epochs)
    assert (int(logged), int(acked), int(refused)) == (epochs * BATCHES, epochs * BATCHES, 0)
    assert int(exit_count) >= epochs * WORKERS
    assert exits.strip() == "{0}"
    assert steps_of(sidecar, "loading") == [*range(epochs * BATCHES)]
    assert read_spool(tmp_path / LEFT) == []


@pytest.mark.timeout(LIMIT_S + 300)
def test_data_loader_whose_workers_log(
    sidecar: Any, train: Callable[..., list[str]], tmp_path: Path
) -> None:
    """Each worker leaves a whole file of its own: a start, that it was a child, rows and an end."""
    epochs = 5
    _, acked, refused, _, exits = train("fork", epochs, "fork")
    assert (int(acked), int(refused), exits.strip()) == (epochs * BATCHES, 0, "{0}")
    files = read_spool(tmp_path / LEFT)
    assert len({spooled.start.writer_id for spooled in files}) == len(files) == epochs * WORKERS
    for spooled in files:
        check_child(spooled, "loading")
    indices = sorted(int(values["index"]) for spooled in files for _, values in spooled.rows)
    assert indices == sorted([*range(64)] * epochs)


def check_child(spooled: Spooled, run_id: str) -> None:
    """Check that a file is that of a forked child that ended well."""
    assert spooled.start.run_id == run_id
    assert spooled.end is End.WHOLE
    assert spooled.kinds[:2] == [Kind.START, Kind.CHILD]
    assert spooled.kinds[-1] is Kind.FINISH
    assert (spooled.finish.exit_code, spooled.finish.state) == (0, 0)


CHILDREN = """
import os, sys, threading, time, pillion
run = pillion.init(id="forking", quiet=True)
assert run.flush(60)
is_over = threading.Event()
def work():  # keeps every lock of the client busy while the process is forked
    while not is_over.wait(0.001):
        run.log({"noise": 1.0}); run.counts; run.config["x"] = 1; run.flush(0)
threads = [threading.Thread(target=work) for _ in range(3)]
for thread in threads: thread.start()
children = []
for number in range(50):
    child = os.fork()
    if child == 0:
        run.log({"child": number}, step=number)
        END
    children.append(child)
codes = {os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children}
is_over.set()
for thread in threads: thread.join()
assert run.flush(60), run.counts
counts = run.counts
print(codes, counts.queued + counts.unacked + counts.spooled, counts.refused, flush=True)
"""


@pytest.mark.parametrize(
    ("how", "code"),
    [
        pytest.param("sys.exit(3)", 3, id="exit"),
        pytest.param("raise KeyError", 1, id="exception"),
        pytest.param("run.finish(); os._exit(0)", 0, id="finish"),
    ],
)
def test_fork_while_other_threads_hold_the_locks(
    sidecar: Any, run_python: Callable[..., Any], tmp_path: Path, how: str, code: int
) -> None:
    """Fifty children at the worst of times: each logs, ends as it would, and hangs nowhere."""
    trainer = run_python(
        CHILDREN.replace("END", how),
        PILLION_ADDRESS=sidecar.address,
        PILLION_SPOOL_DIR=str(tmp_path / LEFT),
    )
    output, errors = trainer.communicate(timeout=300)
    assert trainer.returncode == 0, errors
    assert output == f"{{{code}}} 0 0\n"
    files = read_spool(tmp_path / LEFT)
    for spooled in files:
        check_child(spooled, "forking")
    assert sorted(step for spooled in files for step, _ in spooled.rows) == [*range(50)]
    run = sidecar.call("GetRun", pb2.GetRunRequest(run_id="forking")).run
    assert run.state == record_pb2.RUN_STATE_FINISHED


def test_child_that_is_killed_leaves_what_it_logged(
    sidecar: Any, run_python: Callable[..., Any], tmp_path: Path
) -> None:
    """Without an end, which for a child is none of the run's; a grandchild is a writer again."""
    code = (
        "import os, signal, pillion\n"
        "run = pillion.init(id='forking', quiet=True)\n"
        "def log(step):\n"
        "    run.log({'step': step}, step=step)\n"
        "    while not run.counts.spooled: pass\n"
        "if os.fork() == 0:\n"
        "    log(1)\n"
        "    if os.fork() == 0: log(2); os.kill(os.getpid(), signal.SIGKILL)\n"
        "    os.wait(); os.kill(os.getpid(), signal.SIGKILL)\n"
        "os.wait(); assert run.flush(60) and not run.counts.spooled\n"
    )
    trainer = run_python(
        code, PILLION_ADDRESS=sidecar.address, PILLION_SPOOL_DIR=str(tmp_path / LEFT)
    )
    _, errors = trainer.communicate(timeout=300)
    assert trainer.returncode == 0, errors
    files = read_spool(tmp_path / LEFT)
    assert sorted(step for spooled in files for step, _ in spooled.rows) == [1, 2]
    assert {spooled.finish for spooled in files} == {None}
    assert len({spooled.start.writer_id for spooled in files}) == 2
    processes = {spooled.start.environment.process.pid for spooled in files}
    assert len(processes | {trainer.pid}) == 3


def test_children_of_multiprocessing_end_their_own_runs(
    sidecar: Any, run_python: Callable[..., Any], tmp_path: Path
) -> None:
    """Though they leave without the interpreter's end, with all that they logged."""
    code = (
        "import multiprocessing, pillion\n"
        "def work(how):\n"
        "    run = pillion.init(id=f'child-{how}', quiet=True)\n"
        "    run.log({'loss': 1.0})\n"
        "    assert how != 'failing'\n"
        "run = pillion.init(id='parent', quiet=True)\n"
        "for how in ('good', 'failing'):\n"
        "    child = multiprocessing.get_context('fork').Process(target=work, args=[how])\n"
        "    child.start(); child.join()\n"
    )
    trainer = run_python(
        code, PILLION_ADDRESS=sidecar.address, PILLION_SPOOL_DIR=str(tmp_path / LEFT)
    )
    _, errors = trainer.communicate(timeout=300)
    assert trainer.returncode == 0, errors
    ends = {each.start.run_id: each.finish.exit_code for each in read_spool(tmp_path / LEFT)}
    assert ends == {"child-good": 0, "child-failing": 1}
    assert sidecar.call("GetRun", pb2.GetRunRequest(run_id="parent")).run.exit_code == 0
