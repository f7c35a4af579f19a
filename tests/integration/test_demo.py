"""The main job, as `make demo` runs it: real fine-tunes, a real sidecar, real files."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from pillion_sidecar.records import RunState
from pillion_sidecar.sinks.wandb_file import read_wandb_file
from pillion_sidecar.store import Store
from pillion_sidecar.stored_run import StoredRun

pytestmark = pytest.mark.timeout(1200)

COMMAND = [sys.executable, "-m", "pillion_sidecar"]


@pytest.fixture(scope="module")
def variables(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Return an environment of its own, as on a fresh machine, but with a W&B key."""
    home = tmp_path_factory.mktemp("home")
    kept = {key: value for key, value in os.environ.items() if not key.startswith("PILLION_")}
    return kept | {
        "HOME": str(home),
        "XDG_DATA_HOME": str(home / "data"),
        "XDG_CACHE_HOME": str(home / "cache"),
        "XDG_RUNTIME_DIR": "",
        "TMPDIR": str(tmp_path_factory.mktemp("t", numbered=False)),
        "WANDB_API_KEY": "0123456789012345678901234567890123456789",
    }


@pytest.fixture(scope="module")
def demo(variables: Mapping[str, str]) -> str:
    """Run the demo to its end; return what it printed."""
    done = subprocess.run(
        [*COMMAND, "demo"], env=variables, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def store(variables: Mapping[str, str]) -> Iterator[Store]:
    """Return the store in the default data directory."""
    opened = Store(f"sqlite:///{data_dir(variables)}/store.db")
    yield opened
    opened.close()


def data_dir(variables: Mapping[str, str]) -> Path:
    """Return the default data directory: there is one for this host."""
    (directory,) = Path(variables["XDG_DATA_HOME"], "pillion").iterdir()
    return directory


def ended(store: Store, state: RunState) -> list[StoredRun]:
    """Return the runs that ended so."""
    return [run for run in store.runs() if run.state is state]


def test_three_variants_learn_are_kept_and_compared(
    demo: str, variables: Mapping[str, str], store: Store
) -> None:
    """Loss falls; rows stand in the store and in W&B's files alike; the comparison is printed."""
    runs = ended(store, RunState.FINISHED)
    assert len(runs) == 3
    for run in runs:
        loss = store.series(run.run_id, "train/loss").values
        assert loss[-10:].mean() < 0.85 * loss[:10].mean()
        pattern = f"offline-run-*-{run.run_id}/*.wandb"
        (path,) = (data_dir(variables) / "wandb" / "wandb").glob(pattern)
        written = [
            {key: value for key, value in row.items() if not key.startswith("_")}
            for row in read_wandb_file(path).rows
        ]
        stored = [{"global_step": step, **values} for _, step, _, values in store.rows(run.run_id)]
        assert written == stored
        assert (data_dir(variables) / "demo" / run.run_id / "adapter_model.safetensors").exists()
    assert len({run.config["learning_rate"] for run in runs}) == 3
    assert "Best by eval/loss: r16-lr1e-2" in demo
    base, tuned = demo.partition("The base model:\n")[2].split("With the adapter:\n")
    assert "wind:" in base
    assert "| sea: " in tuned, "the adapter knows the pages of the logbook"
    assert "| sea: " not in base
    for words in ("train/loss", "train/tokens_per_second", "lora.r", "learning_rate"):
        assert words in demo


def test_the_commands_answer_afterwards_without_a_sidecar(
    demo: str, variables: Mapping[str, str]
) -> None:
    """`pillion runs` and `pillion compare`, exactly as the demo's last lines say."""
    (line,) = (line for line in demo.splitlines() if line.startswith("Look further"))
    compare = line.split(" · ")[1].split()[1:]
    for arguments in (["runs", "--json"], [*compare, "--json"]):
        done = subprocess.run(
            [*COMMAND, *arguments], env=variables, capture_output=True, text=True, check=True
        )
        assert len(json.loads(done.stdout)["runs"]) == 3


def test_no_key_is_left_anywhere(demo: str, variables: Mapping[str, str]) -> None:
    """The W&B key of the environment is in nothing that the demo printed or left behind."""
    key = variables["WANDB_API_KEY"]
    assert key not in demo
    for path in Path(variables["HOME"]).rglob("*"):
        assert not path.is_file() or key.encode() not in path.read_bytes(), path


def test_ctrl_c_ends_cleanly_and_keeps_what_was_logged(
    demo: str, variables: Mapping[str, str], store: Store
) -> None:
    """In mid-training: exit code 130, every run STOPPED with its rows, no process left."""
    process = subprocess.Popen(
        [*COMMAND, "demo"],
        env=variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    while "listens at" not in process.stdout.readline():
        assert process.poll() is None
    pause = threading.Event()
    while len([run for run in ended(store, RunState.RUNNING) if run.row_count > 0]) < 3:
        assert process.poll() is None
        pause.wait(0.05)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 130, output
    stopped = ended(store, RunState.STOPPED)
    assert [run.reason for run in stopped] == ["Stopped by SIGINT."] * 3
    assert all(run.row_count > 0 for run in stopped)
    assert not list(Path(variables["TMPDIR"]).rglob("*.sock"))
