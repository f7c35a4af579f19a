"""The client in real training processes: with a sidecar, without one, and when one comes late."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pillion.spool import Kind, SpoolReader, spool_files
from pillion.v1 import record_pb2
from pillion.v1 import telemetry_service_pb2 as pb2
from pillion.values import from_key_values
from pillion_sidecar.store import Store

OLDEST = Path(__file__).parents[2] / ".venv-oldest" / "bin" / "python"

TRAINING = """
import json, math, sys
import pillion
assert not [name for name in sys.modules if name.split(".")[0] in ("grpc", "google")]
with pillion.init(project="p", name="n", id=sys.argv[1], config={"lr": 0.1, "seed": 2**64 - 1},
                  tags=["a", "b"], quiet=True) as run:
    for step in range(1000):
        row = {"loss": 1.0 / (step + 1), "step_count": step, "is_even": step % 2 == 0}
        if step % 100 == 0:
            row["eval"] = {"loss": math.nan}
        run.log(row, step=step)
    run.config.update({"late": [1, 2, {"deep": None}]})
    run.summary["best"] = 0.001
print(json.dumps([name for name in sys.modules if name.split(".")[0] in ("wandb", "numpy")]))
"""


def stored(sidecar: Any, run_id: str) -> list[Any]:
    """Return the run's rows as the store has them, without their times."""
    sidecar.call("GetRun", pb2.GetRunRequest(run_id=run_id))  # waits until they are there
    store = Store(f"sqlite:///{sidecar.data_dir}/store.db")
    rows = [(ordinal, step, values) for ordinal, step, _, values in store.rows(run_id)]
    store.close()
    return rows


@pytest.mark.parametrize("python", [sys.executable, str(OLDEST)], ids=["newest", "oldest"])
def test_a_training_loop_is_kept_whole(
    sidecar: Any, run_python: Callable[..., Any], python: str
) -> None:
    """Rows, config, summary, tags and state arrive; the trainer loads no wandb and no numpy.

    With the newest grpcio and protobuf, and with the oldest that are promised.
    """
    client = str(Path(__file__).parents[2] / "client")
    trainer = run_python(
        TRAINING, "kept", python=python, PILLION_ADDRESS=sidecar.address, PYTHONPATH=client
    )
    output, errors = trainer.communicate(timeout=300)
    assert (trainer.returncode, errors) == (0, "")
    assert json.loads(output) == []
    run = sidecar.call("GetRun", pb2.GetRunRequest(run_id="kept")).run
    assert run.state == record_pb2.RUN_STATE_FINISHED
    assert (run.project, run.name, list(run.tags)) == ("p", "n", ["a", "b"])
    assert from_key_values(run.config) == {
        "lr": 0.1,
        "seed": 2**64 - 1,
        "late": [1, 2, {"deep": None}],
    }
    summary = from_key_values(run.summary)
    assert summary["best"] == 0.001
    assert summary["step_count"] == 999
    rows = stored(sidecar, "kept")
    assert [(ordinal, step) for ordinal, step, _ in rows] == [(n, n) for n in range(1000)]
    for _, step, values in rows:
        assert values["loss"] == 1.0 / (step + 1)
        assert values["step_count"] == step
        assert values["is_even"] is (step % 2 == 0)
        assert ("eval/loss" in values) is (step % 100 == 0)


def test_training_goes_on_without_a_sidecar_and_rows_wait_for_one(
    make_sidecar: Callable[..., Any], run_python: Callable[..., Any], tmp_path: Path
) -> None:
    """One warning, no error; a sidecar that comes later gets everything from the start."""
    first = make_sidecar("--wandb-mode", "disabled")
    first.stop()
    code = (
        "import sys, pillion\n"
        "run = pillion.init(id='early', quiet=True)\n"
        "for step in range(500): run.log({'loss': float(step)})\n"
        "print('trained', flush=True); sys.stdin.readline()\n"
        "assert run.flush(60), run.counts\n"
        "run.finish()\n"
    )
    trainer = run_python(code, PILLION_ADDRESS=first.address)
    assert trainer.stdout.readline() == "trained\n"
    first.start()
    _, errors = trainer.communicate("go on\n", timeout=300)
    assert trainer.returncode == 0
    assert len(errors.splitlines()) == 1
    assert "Training goes on" in errors
    assert [values["loss"] for _, _, values in stored(first, "early")] == [*map(float, range(500))]


@pytest.mark.parametrize(
    ("ending", "exit_code", "state"),
    [
        ("", 0, "FINISHED"),
        ("run.finish()", 0, "FINISHED"),
        ("run.finish(3)", 0, "FAILED"),
        ("sys.exit(0)", 0, "FINISHED"),
        ("sys.exit(5)", 5, "FAILED"),
        ("exit(5)", 5, "FAILED"),
        ("raise RuntimeError('out of luck')", 1, "FAILED"),
        ("os.kill(os.getpid(), signal.SIGINT); signal.pause()", 130, "STOPPED"),
    ],
)
def test_how_a_process_ends_is_how_its_run_ends(
    sidecar: Any, run_python: Callable[..., Any], ending: str, exit_code: int, state: str
) -> None:
    """Without `finish`, the interpreter's own end tells: plain, `sys.exit`, exception, Ctrl-C."""
    code = (
        "import os, signal, sys, pillion\n"
        "run = pillion.init(id='ending', quiet=True)\n"
        f"run.log({{'loss': 1.0}})\n{ending}\n"
    )
    trainer = run_python(code, PILLION_ADDRESS=sidecar.address)
    trainer.communicate(timeout=300)
    assert trainer.returncode in {exit_code, exit_code - 128 - 2 * (exit_code - 128)}
    run = sidecar.call("GetRun", pb2.GetRunRequest(run_id="ending")).run
    assert record_pb2.RunState.Name(run.state) == f"RUN_STATE_{state}"
    assert run.row_count == 1
    if "luck" in ending:
        assert run.reason == "RuntimeError: out of luck"


def test_a_forked_child_leaves_its_parents_run_alone(
    sidecar: Any, run_python: Callable[..., Any], wait_until: Callable[..., Any]
) -> None:
    """A child never touches gRPC; what it logs comes by the spool, and its end ends nothing."""
    code = (
        "import os, pillion\n"
        "run = pillion.init(id='forking', quiet=True)\n"
        "run.log({'loss': 1.0}); run.flush()\n"
        "for _ in range(20):\n"
        "    pid = os.fork()\n"
        "    if pid == 0:\n"
        "        run.log({'loss': 0.0}); run.finish(); raise SystemExit(7)\n"
        "    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7\n"
        "    run.log({'loss': 2.0})\n"
        "assert run.flush(60)\n"
    )
    trainer = run_python(code, PILLION_ADDRESS=sidecar.address)
    _, errors = trainer.communicate(timeout=300)
    assert trainer.returncode == 0, errors
    losses = [values["loss"] for _, _, values in stored(sidecar, "forking")]
    assert [loss for loss in losses if loss != 0.0] == [1.0] + [2.0] * 20
    assert losses.count(0.0) <= 20  # children's, as far as their files were taken over already
    request = pb2.GetRunRequest(run_id="forking")  # open again while a child's file is taken over
    finished = record_pb2.RUN_STATE_FINISHED
    wait_until(lambda: sidecar.call("GetRun", request).run.state == finished)


def test_init_refuses_what_the_sidecar_refuses(
    sidecar: Any, run_python: Callable[..., Any]
) -> None:
    """A run that can never be taken is told at once, not after hours of training."""
    code = (
        "import pillion\n"
        "pillion.init(id='twice', quiet=True).finish()\n"
        "try: pillion.init(id='twice', resume='never', quiet=True)\n"
        "except pillion.RefusedError as error: print(error)\n"
        "try: pillion.init(id='no/slash', quiet=True)\n"
        "except pillion.RefusedError as error: print(error)\n"
    )
    trainer = run_python(code, PILLION_ADDRESS=sidecar.address)
    output, errors = trainer.communicate(timeout=300)
    assert trainer.returncode == 0, errors
    assert "exists already" in output
    assert "run_id" in output


def test_a_sidecar_that_lost_its_journal_is_told_and_gets_the_rest(
    make_sidecar: Callable[..., Any], run_python: Callable[..., Any]
) -> None:
    """Rows that only the former journal had are declared as lost; the writer goes on."""
    sidecar = make_sidecar("--wandb-mode", "disabled")
    code = (
        "import sys, pillion\n"
        "run = pillion.init(id='orphan', quiet=True)\n"
        "for step in range(10): run.log({'loss': float(step)}, step=step)\n"
        "assert run.flush(60); print('acked', flush=True); sys.stdin.readline()\n"
        "for step in range(10, 20): run.log({'loss': float(step)}, step=step)\n"
        "assert run.flush(60)\n"
    )
    trainer = run_python(code, PILLION_ADDRESS=sidecar.address)
    assert trainer.stdout.readline() == "acked\n"
    sidecar.kill()
    for path in sidecar.data_dir.glob("*.db*"):
        path.unlink(missing_ok=True)  # the worker deletes some itself when it ends
    sidecar.start()
    _, errors = trainer.communicate("go on\n", timeout=300)
    assert trainer.returncode == 0, errors
    assert "journal was replaced" in errors
    assert [step for _, step, _ in stored(sidecar, "orphan")] == [*range(10, 20)]
    assert sidecar.call("GetRun", pb2.GetRunRequest(run_id="orphan")).run.lost_row_count == 10


def test_the_base_install_alone_tells_what_the_command_needs(tmp_path: Path) -> None:
    """With only grpcio and protobuf, `pillion` says what to install, from a checkout too."""
    root = Path(__file__).parents[2]
    refused = subprocess.run(
        [str(OLDEST), "-m", "pillion_sidecar"],
        env={"PYTHONPATH": f"{root / 'client'}:{root / 'sidecar'}"},
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
    )
    assert refused.returncode == 1
    assert "pip install -e '.[sidecar]'" in refused.stderr


def test_a_child_that_outlives_a_killed_trainer_does_not_keep_its_run(
    sidecar: Any, run_python: Callable[..., Any], wait_until: Callable[..., Any]
) -> None:
    """A forked worker holds the trainer's stream open; the run ends as CRASHED all the same."""
    code = (
        "import os, signal, sys, pillion\n"
        "run = pillion.init(id='orphaned', quiet=True)\n"
        "run.log({'loss': 1.0}); run.flush()\n"
        "if os.fork() == 0: signal.pause()\n"
        "print('forked', flush=True); signal.pause()\n"
    )
    trainer = run_python(code, PILLION_ADDRESS=sidecar.address)
    assert trainer.stdout.readline() == "forked\n"
    children = Path(f"/proc/{trainer.pid}/task/{trainer.pid}/children").read_text().split()
    trainer.kill()
    get = pb2.GetRunRequest(run_id="orphaned")
    try:
        wait_until(lambda: sidecar.call("GetRun", get).run.state == record_pb2.RUN_STATE_CRASHED)
    finally:
        for child in children:
            os.kill(int(child), signal.SIGKILL)


def test_a_broken_standard_error_never_reaches_the_trainer(
    sidecar: Any, run_python: Callable[..., Any]
) -> None:
    """Closed, full, or with a logging handler that raises: training goes on."""
    code = (
        "import logging, os, sys, pillion\n"
        "class Bad(logging.Handler):\n"
        "    def handle(self, record): raise RuntimeError\n"
        "logging.getLogger('pillion').addHandler(Bad())\n"
        "sys.stderr = open('/dev/full', 'w', buffering=1)\n"
        "run = pillion.init(id='silent')\n"
        "run.log({'loss': 1.0}); run.log({'no number': b'text'})\n"
        "run.finish()\n"
        "run.log({'loss': 2.0}); print('done', flush=True); os._exit(0)\n"
    )
    trainer = run_python(code, PILLION_ADDRESS=sidecar.address)
    output, _ = trainer.communicate(timeout=300)
    assert output == "done\n"
    assert [values for _, _, values in stored(sidecar, "silent")] == [{"loss": 1.0}]


def test_a_run_that_a_forked_child_starts_is_spooled(
    sidecar: Any, run_python: Callable[..., Any], tmp_path: Path
) -> None:
    """Its `init` neither hangs nor touches gRPC, though the sidecar is there."""
    code = (
        "import os, pillion\n"
        "parent = pillion.init(id='parent', quiet=True)\n"
        "if os.fork() == 0:\n"
        "    run = pillion.init(id='child')\n"
        "    run.log({'loss': 1.0}); run.finish(3)\n"
        "    print(run.counts.spooled, flush=True); os._exit(0)\n"
        "os.wait()\n"
    )
    trainer = run_python(
        code, PILLION_ADDRESS=sidecar.address, PILLION_SPOOL_DIR=str(tmp_path / "left")
    )
    output, errors = trainer.communicate(timeout=300)
    assert output == "1\n"
    assert "of a forked process" in errors
    (path,) = spool_files(tmp_path / "left")
    reader = SpoolReader.adopt(path)
    assert reader is not None
    kinds = [record.kind for record in reader.records()]
    reader.close()
    assert kinds == [Kind.START, Kind.CHILD, Kind.BATCH, Kind.FINISH]
    assert [run.run_id for run in sidecar.call("ListRuns", pb2.ListRunsRequest()).runs] == [
        "parent"
    ]


def test_odd_arguments_neither_stop_training_nor_the_end(
    sidecar: Any, run_python: Callable[..., Any]
) -> None:
    """None where wandb takes None, names of any length, an exit code that is text."""
    code = (
        "import pillion\n"
        "run = pillion.init(id='odd', tags=None, notes=None, name='n' * 9999, quiet=True)\n"
        "run.log({'loss': 1.0}); run.finish('oh no')\n"
    )
    trainer = run_python(code, PILLION_ADDRESS=sidecar.address)
    _, errors = trainer.communicate(timeout=300)
    assert (trainer.returncode, errors) == (0, "")
    run = sidecar.call("GetRun", pb2.GetRunRequest(run_id="odd")).run
    assert (run.state, run.exit_code) == (record_pb2.RUN_STATE_FAILED, 1)
    assert run.row_count == 1


def test_first_init_of_a_process_joins_the_run_of_its_environment(
    sidecar: Any, run_python: Callable[..., Any]
) -> None:
    """As `pillion run` asks; a later one starts a run of its own, a child process joins too."""
    code = (
        "import multiprocessing, sys, pillion\n"
        "first = pillion.init(config={'lr': 1}, quiet=True); first.log({'loss': 1.0})\n"
        "second = pillion.init(quiet=True)\n"
        "third = pillion.init(id='mine', quiet=True)\n"
        "assert (first.id, third.id) == ('joined', 'mine')\n"
        "assert second.id not in ('joined', 'mine')\n"
        "if len(sys.argv) == 1:\n"
        "    import subprocess\n"
        "    command = [sys.executable, '-c', open('code.py').read(), 'child']\n"
        "    subprocess.run(command, check=True)\n"
    )
    starter = run_python(
        "import subprocess, sys\n"
        "open('code.py', 'w').write(sys.argv[1])\n"
        "sys.exit(subprocess.run([sys.executable, 'code.py']).returncode)",
        code,
        PILLION_ADDRESS=sidecar.address,
        PILLION_RUN_ID="joined",
    )
    _, errors = starter.communicate(timeout=300)
    assert starter.returncode == 0, errors
    run = sidecar.call("GetRun", pb2.GetRunRequest(run_id="joined")).run
    assert (run.state, run.row_count) == (record_pb2.RUN_STATE_FINISHED, 2)
    assert from_key_values(run.config) == {"lr": 1}


def test_what_was_refused_is_told_to_the_sidecar(
    sidecar: Any, run_python: Callable[..., Any]
) -> None:
    """With the batches and with the end, so that it can be asked for where the run is."""
    code = (
        "import pillion\n"
        "run = pillion.init(id='refusing', quiet=True)\n"
        "run.log({'loss': 1.0, 'odd': b'text'}); run.log({'odd': b'text'})\n"
    )
    trainer = run_python(code, PILLION_ADDRESS=sidecar.address)
    trainer.communicate(timeout=300)
    (status,) = sidecar.call("GetStatus", pb2.GetStatusRequest(run_id="refusing")).runs
    assert (status.refused_row_count, status.refused_value_count) == (1, 2)
