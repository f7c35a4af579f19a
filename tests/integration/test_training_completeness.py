"""Whatever is trained, and however it ends, its run tells all of it, in the store and at W&B."""

import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from processes import SidecarProcess

pytest.importorskip("peft", reason="needs the extra [trainer]")

import torch

from pillion.api import Client, StoredRun
from pillion_sidecar.sinks.wandb_file import WandbFile, read_wandb_file
from pillion_trainer import TrainingConfig
from pillion_trainer.cli import main
from pillion_trainer.guard import GuardCallback

pytestmark = [
    pytest.mark.timeout(600),
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
]

STEPS = 3
STEPS_BEFORE = 1
"""So many steps are done when something ends the training in the next one."""

NO_HYPERPARAMETERS = {"output_dir", "resume_from", "log_model", "project", "name", "group", "tags"}
ROW = {
    *("train/loss", "train/learning_rate", "train/grad_norm", "train/epoch", "train/global_step"),
    *("train/step_time_s", "train/samples_per_second", "train/tokens_per_second"),
}
SUMMARY = {"final_loss", "total_steps", "training_time_hours", "hardware", "dataset_size"}

FIXED = {"max_steps": STEPS, "sequence_length": 32, "eval_interval_steps": 0}
OPTIONS = st.fixed_dictionaries(
    {
        "learning_rate": st.floats(1e-5, 1e-2),
        "optimizer": st.sampled_from(["adamw_torch", "sgd", "adafactor"]),
        "scheduler": st.sampled_from(["linear", "cosine", "constant"]),
        "warmup_steps": st.integers(0, 2),
        "weight_decay": st.floats(0, 0.5),
        "max_grad_norm": st.floats(0.1, 2),
        "batch_size": st.integers(1, 4),
        "gradient_accumulation_steps": st.integers(1, 2),
        "precision": st.sampled_from(["fp32", "bf16"]),
        "seed": st.integers(0, 2**32 - 1),
        "eval_share": st.sampled_from([0.0, 0.05]),
    }
)
LORA = st.fixed_dictionaries(
    {
        "method": st.sampled_from(["lora", "dora"]),
        "lora_r": st.integers(1, 8),
        "lora_alpha": st.floats(1, 64),
        "lora_dropout": st.floats(0, 0.5),
        "target_modules": st.sampled_from(["q_proj,v_proj", "up_proj"]),
    }
)
IA3 = st.just({"method": "ia3"})


@dataclass(frozen=True)
class Ending:
    """What ends a training at a step, and what the run then says."""

    act: Callable[[], None]
    state: str
    exit_code: int
    reason: str


def broken() -> None:
    """Fail as a library might."""
    raise RuntimeError("the loader is gone")


def out_of_memory() -> None:
    """Fail as an allocation does."""
    raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 byte")


ENDINGS = {
    "exception": Ending(broken, "FAILED", 1, "RuntimeError: the loader is gone"),
    "memory": Ending(out_of_memory, "FAILED", 1, "The machine's memory ran out with batch_size"),
    "ctrl-c": Ending(
        lambda: signal.raise_signal(signal.SIGINT), "STOPPED", 130, "Stopped by SIGINT"
    ),
    "sigterm": Ending(
        lambda: signal.raise_signal(signal.SIGTERM), "STOPPED", 143, "Stopped by SIGTERM"
    ),
}


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """Models this small are slower on more threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def wandb_sidecar(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SidecarProcess]:
    """Return a sidecar that writes W&B's offline files."""
    sidecar = SidecarProcess(tmp_path_factory.mktemp("sidecar"), "--wandb-mode", "offline")
    yield sidecar.start()
    sidecar.close()


@dataclass
class Trainings:
    """Trains in this process, and looks at what is kept of it."""

    sidecar: SidecarProcess
    client: Client
    base: Path
    folder: Path
    count: int = 0

    def run(self, options: dict[str, Any], ending: Ending | None = None) -> tuple[str, int]:
        """Train; return the run's id and the exit code."""
        self.count += 1
        run_id = f"run-{self.count}"
        flags = [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
        given = ["--run-id", run_id, "--address", self.sidecar.address, "--quiet"]
        given += ["--model", str(self.base), "--output-dir", str(self.folder / run_id)]

        def end(_self: Any, _args: Any, state: Any, _control: Any, **_: Any) -> None:
            if ending is not None and state.global_step == STEPS_BEFORE:
                ending.act()

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(GuardCallback, "on_step_begin", end)
            return run_id, main([*given, *flags])

    def kept(self, run_id: str, wait_until: Callable[..., Any]) -> tuple[StoredRun, WandbFile]:
        """Return the run as the store has it, and W&B's file of it."""
        pattern = f"offline-run-*-{run_id}/*.wandb"
        folder = self.sidecar.data_dir / "wandb" / "wandb"
        path = wait_until(lambda: next(folder.glob(pattern), None))
        return self.client.run(run_id), read_wandb_file(path)


@pytest.fixture(scope="module")
def trainings(
    wandb_sidecar: SidecarProcess, small_base: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Trainings]:
    """Return what trains."""
    folder = tmp_path_factory.mktemp("trainings")
    with Client(wandb_sidecar.address) as client:
        yield Trainings(wandb_sidecar, client, small_base, folder)


few = settings(
    max_examples=4,
    deadline=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
"""Each example is a training: a few, and none to make a failing one smaller."""


@few
@given(options=OPTIONS, adapter=st.one_of(LORA, IA3))
def test_a_training_that_is_done_tells_all_of_it(
    trainings: Trainings,
    wait_until: Callable[..., Any],
    options: dict[str, Any],
    adapter: dict[str, Any],
) -> None:
    """Each hyperparameter, each metric of each row and the whole summary, at both places."""
    given_options = FIXED | options | adapter
    run_id, exit_code = trainings.run(given_options)
    run, file = trainings.kept(run_id, wait_until)
    assert (exit_code, run.state, run.exit_code, run.reason) == (0, "FINISHED", 0, "")
    check_hyperparameters(run, file, given_options)
    assert run.summary.keys() >= SUMMARY | {"adapter_size_bytes", "adapter"}
    assert run.summary["total_steps"] == STEPS
    assert ("best_val_loss" in run.summary) == (options["eval_share"] > 0)
    rows = check_rows(run, file)
    losses = [row for row in rows if "train/loss" in row]
    assert len(losses) == STEPS
    assert run.summary["final_loss"] == losses[-1]["train/loss"]
    assert any("eval/loss" in row for row in rows) == (options["eval_share"] > 0)
    assert {artifact.type for artifact in run.artifacts} == {"base-model", "model"}


@few
@given(options=OPTIONS, adapter=LORA)
@pytest.mark.parametrize("name", ENDINGS)
def test_a_training_that_ends_otherwise_tells_how_and_all_until_then(
    trainings: Trainings,
    wait_until: Callable[..., Any],
    name: str,
    options: dict[str, Any],
    adapter: dict[str, Any],
) -> None:
    """The same hyperparameters, the rows so far, and a summary as far as there is one."""
    ending, given_options = ENDINGS[name], FIXED | options | adapter
    run_id, exit_code = trainings.run(given_options, ending)
    run, file = trainings.kept(run_id, wait_until)
    assert exit_code == run.exit_code == file.exit_code == ending.exit_code
    assert run.state == ending.state
    assert run.reason.startswith(ending.reason)
    check_hyperparameters(run, file, given_options)
    assert run.summary.keys() >= SUMMARY
    rows = check_rows(run, file)
    # The step in which somebody asks to stop is the last one; a failure ends it at once.
    steps = STEPS_BEFORE + (ending.state == "STOPPED")
    assert run.summary["total_steps"] == len([row for row in rows if "train/loss" in row]) == steps


def test_a_mistake_that_is_found_late_tells_what_was_asked_for(
    trainings: Trainings, wait_until: Callable[..., Any]
) -> None:
    """The run has begun; there is no model to describe yet."""
    run_id, exit_code = trainings.run(FIXED | {"target_modules": "nonesuch"})
    run, file = trainings.kept(run_id, wait_until)
    assert exit_code == run.exit_code == file.exit_code == 2
    assert run.state == "FAILED"
    assert run.reason.startswith("target_modules is 'nonesuch'")


def check_hyperparameters(run: StoredRun, file: WandbFile, options: dict[str, Any]) -> None:
    """Judge each one: of the training and of the adapter, at both places, as it was given."""
    config = TrainingConfig.from_dict(
        options | {"model": run.config["model"], "target_modules": _names(options)}
    )
    asked_for = config.as_dict()
    names = {each.name for each in fields(TrainingConfig)} - NO_HYPERPARAMETERS
    for name in sorted(name for name in names if not name.startswith("lora_")):
        if asked_for[name] is not None:
            assert run.config[name] == asked_for[name], name
    group = "ia3" if config.method == "ia3" else "lora"
    adapter: Any = run.config[group]
    assert adapter["target_modules"]
    if group == "lora":
        for name in ("r", "lora_alpha", "lora_dropout"):
            assert adapter[name] == asked_for[f"lora_{name.removeprefix('lora_')}"], name
        assert adapter["use_dora"] == (config.method == "dora")
        assert adapter["target_modules"] == sorted(asked_for["target_modules"])
    for name in ("architecture", "dataset", "hardware", "libraries", "base_model"):
        assert run.config[name], name
    assert 0 < run.config["trainable_share"] < 1  # type: ignore[operator]
    assert run.config["steps_planned"] == STEPS
    for name, value in run.config.items():
        assert file.config[name] == value, name


def check_rows(run: StoredRun, file: WandbFile) -> list[dict[str, Any]]:
    """Judge that each row of a step has what is measured of it; return all rows."""
    rows = [dict(row) for row in run.rows()]
    for row in rows:
        assert "train/loss" not in row or row.keys() >= ROW
    assert len(file.rows) == len(rows)
    assert {key for row in file.rows for key in row} >= ROW
    for name in SUMMARY & run.summary.keys():
        assert file.summary[name] == run.summary[name], name
    return rows


def _names(options: dict[str, Any]) -> list[str] | None:
    names = options.get("target_modules")
    return names.split(",") if names else None
