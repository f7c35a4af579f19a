"""Rules of the bridge from the Hugging Face Trainer to a run."""

import multiprocessing
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

torch: Any = pytest.importorskip("torch", reason="needs the extra [trainer]")
pytest.importorskip("transformers", reason="needs the extra [trainer]")

from pillion.integrations.transformers import PillionCallback  # noqa: E402
from pillion_trainer.guard import GuardCallback, TrainingDivergedError  # noqa: E402
from pillion_trainer.stopping import StopRequest  # noqa: E402

ARGS = SimpleNamespace(
    train_batch_size=4, gradient_accumulation_steps=2, world_size=1, output_dir="/out"
)


class FakeRun:
    """Keeps what crosses the seam."""

    def __init__(self) -> None:
        self.id = self.name = "fake"
        self.config: dict[str, Any] = {}
        self.summary: dict[str, Any] = {}
        self.rows: list[tuple[int, dict[str, Any]]] = []
        self.checkpoints: list[int] = []
        self.should_stop = False

    def log_checkpoint(self, _path: Any, step: int, *_: Any) -> None:
        """Keep of which step it is."""
        self.checkpoints.append(step)

    def log(self, metrics: dict[str, Any], *, step: int) -> None:
        """Keep the row."""
        self.rows.append((step, dict(metrics)))


class FakeClock:
    """Shows the time it is set to."""

    now_s = 0.0

    def __call__(self) -> float:
        """Return the time."""
        return self.now_s


def state(
    step: int, *, tokens: int = 0, is_zero: bool = True, flos: float = 0.0, best: str | None = None
) -> Any:
    """Return what the Trainer would pass as its state."""
    return SimpleNamespace(
        global_step=step,
        num_input_tokens_seen=tokens,
        is_world_process_zero=is_zero,
        total_flos=flos,
        best_model_checkpoint=best,
        logging_steps=2,
    )


def test_train_and_eval_metrics_get_the_names_people_know() -> None:
    """`loss` is `train/loss`, `eval_loss` is `eval/loss`, at the Trainer's step."""
    run = FakeRun()
    callback = PillionCallback(run)
    callback.on_log(ARGS, state(3), None, {"loss": 1.5, "learning_rate": 1e-3, "epoch": 0.5})
    callback.on_log(ARGS, state(4), None, {"eval_loss": 1.25, "epoch": 0.75})
    assert run.rows == [
        (
            3,
            {
                "train/loss": 1.5,
                "train/learning_rate": 1e-3,
                "train/epoch": 0.5,
                "train/global_step": 3,
            },
        ),
        (4, {"eval/loss": 1.25, "train/epoch": 0.75, "train/global_step": 4}),
    ]


def test_only_numbers_are_logged() -> None:
    """Strings, which transformers 5 may hand over, are left out."""
    run = FakeRun()
    PillionCallback(run).on_log(ARGS, state(1), None, {"eval_loss": 2.0, "eval_note": "2.0"})
    assert run.rows == [(1, {"eval/loss": 2.0, "train/global_step": 1})]


def test_totals_go_to_the_summary_and_make_no_row() -> None:
    """What the Trainer reports once at the end is no series."""
    run = FakeRun()
    totals = {"train_runtime": 12.0, "train_loss": 0.5, "total_flos": 1e9, "epoch": 3.0}
    PillionCallback(run).on_log(ARGS, state(9), None, totals)
    assert run.rows == []
    assert run.summary == {"train_runtime": 12.0, "train_loss": 0.5, "total_flos": 1e9}


def test_other_processes_log_nothing() -> None:
    """In a distributed training only the first process speaks."""
    run = FakeRun()
    callback = PillionCallback(run)
    callback.on_log(ARGS, state(1, is_zero=False), None, {"loss": 1.0})
    callback.on_log(ARGS, state(1, is_zero=False), None, {"train_loss": 1.0})
    callback.on_save(ARGS, state(1, is_zero=False), None)
    assert (run.rows, run.summary) == ([], {})


def test_throughput_is_measured_per_interval_without_evaluation_and_checkpoints() -> None:
    """Two steps of 2 s, with 10 s of evaluation and 5 s of saving between them, are 4 s."""
    run, clock = FakeRun(), FakeClock()
    callback = PillionCallback(run, clock=clock)
    callback.on_train_begin(ARGS, state(0), None)
    clock.now_s = 2.0
    callback.on_step_end(ARGS, state(1), None)
    clock.now_s = 12.0
    callback.on_evaluate(ARGS, state(1), None)
    clock.now_s = 17.0
    callback.on_save(ARGS, state(1), None)
    clock.now_s = 19.0
    callback.on_step_end(ARGS, state(2), None)
    callback.on_log(ARGS, state(2, tokens=800), None, {"loss": 1.0})
    assert run.rows[0][1] == {
        "train/loss": 1.0,
        "train/step_time_s": 2.0,
        "train/samples_per_second": 4.0,
        "train/tokens_per_second": 200.0,
        "train/global_step": 2,
    }
    clock.now_s = 20.0
    callback.on_step_end(ARGS, state(3), None)
    callback.on_log(ARGS, state(3, tokens=900), None, {"loss": 1.0})
    assert run.rows[1][1]["train/tokens_per_second"] == 100.0


def test_the_last_checkpoint_is_noted_in_the_summary() -> None:
    """Where to resume from can be read from the run."""
    run = FakeRun()
    PillionCallback(run).on_save(ARGS, state(50), None)
    assert run.summary == {"last_checkpoint": "/out/checkpoint-50", "last_checkpoint_step": 50}


def test_a_step_is_split_where_its_parts_can_be_seen() -> None:
    """Data, forward and backward, the optimizer; what is queued on a device is not seen."""
    for is_queued in (False, True):
        run, clock = FakeRun(), FakeClock()
        callback = PillionCallback(run, clock=clock)
        callback.on_train_begin(ARGS, state(0), None)
        callback._times.is_queued = is_queued
        for now_s, event in (
            (1.0, callback.on_step_begin),
            (4.0, callback.on_pre_optimizer_step),
            (4.5, callback.on_optimizer_step),
            (5.0, callback.on_step_end),
        ):
            clock.now_s = now_s
            event(ARGS, state(1), None)
        callback.on_log(ARGS, state(1), None, {"loss": 1.0})
        seen = {"train/data_time_s": 1.0, "train/step_time_s": 5.0}
        if not is_queued:
            seen |= {"train/forward_backward_time_s": 3.0, "train/optimizer_time_s": 0.5}
        assert {key: value for key, value in run.rows[0][1].items() if "time_s" in key} == seen


def test_utilization_counts_no_gradients_of_frozen_weights() -> None:
    """Of 6 operations per weight and token a frozen one needs 4."""
    run, clock = FakeRun(), FakeClock()
    callback = PillionCallback(run, clock=clock, peak_flops_per_s=100.0)
    callback.on_train_begin(ARGS, state(0, flos=0.0), None)
    callback._trained_share = 0.5
    clock.now_s = 2.0
    callback.on_step_end(ARGS, state(1), None)
    callback.on_log(ARGS, state(1, flos=60.0), None, {"loss": 1.0})
    assert run.rows[0][1]["train/model_flops_utilization"] == pytest.approx(60 * 5 / 6 / 200)


def test_what_came_of_the_training_is_summed_up() -> None:
    """At its end; an evaluation that comes later still counts."""
    run, clock = FakeRun(), FakeClock()
    callback = PillionCallback(run, clock=clock, quality_metric="eval_accuracy")
    callback.on_train_begin(ARGS, state(0), None, train_dataloader=SimpleNamespace(dataset="x" * 8))
    for logs in ({"loss": 2.0}, {"eval_loss": 1.5, "eval_accuracy": 0.5}, {"loss": 1.0}):
        callback.on_log(ARGS, state(1), None, logs)
    clock.now_s = 1800.0
    callback.on_train_end(ARGS, state(2), None)
    assert run.summary == {
        "final_loss": 1.0,
        "best_val_loss": 1.5,
        "quality_score": 0.5,
        "total_steps": 2,
        "training_time_hours": 0.5,
        "dataset_size": 8,
    }
    callback.on_log(ARGS, state(2), None, {"eval_loss": 1.25, "eval_accuracy": 0.75})
    assert (run.summary["best_val_loss"], run.summary["quality_score"]) == (1.25, 0.75)


@pytest.mark.parametrize(
    ("log_model", "logged"), [("checkpoint", [50, 60]), ("best", [60]), ("end", []), (None, [])]
)
def test_checkpoints_become_artifacts_by_choice(log_model: str | None, logged: list[int]) -> None:
    """Each, or each that is the best so far."""
    run = FakeRun()
    callback = PillionCallback(run, log_model=log_model)
    callback.on_save(ARGS, state(50), None)
    callback.on_save(ARGS, state(60, best="/out/checkpoint-60"), None)
    assert run.checkpoints == logged


def test_a_choice_that_is_none_is_refused() -> None:
    """Saying which there are."""
    with pytest.raises(ValueError, match="take 'end', 'checkpoint' or 'best'"):
        PillionCallback(log_model="sometimes")


@pytest.mark.parametrize("loss", [float("nan"), float("inf")])
def test_a_loss_that_is_no_number_ends_the_training(loss: float) -> None:
    """It fails at the row that shows it, saying what to change."""
    with pytest.raises(TrainingDivergedError, match="at step 7: give a smaller learning_rate"):
        GuardCallback(StopRequest()).on_log(ARGS, state(7), None, {"loss": loss})


@dataclass
class Config:
    """What a model of one's own may have."""

    width: int = 8


class Model(torch.nn.Module):  # type: ignore[misc]
    """A model with a config that is no transformers'."""

    config = Config()


class Odd(torch.nn.Module):  # type: ignore[misc]
    """A model that cannot be described."""

    @property
    def config(self) -> Any:
        """Raise what only this model raises."""
        raise KeyError("width")


def test_any_model_is_described_as_far_as_it_can_be(caplog: pytest.LogCaptureFixture) -> None:
    """A config may be a dataclass; what raises is told, and the training goes on."""
    arguments = SimpleNamespace(**vars(ARGS), bf16=False, fp16=False, to_dict=lambda: {"lr": 1})
    run = FakeRun()
    PillionCallback(run).on_train_begin(arguments, state(0), None, model=Model())
    assert run.config["architecture"] == {"class": "Model", "width": 8}
    assert (run.config["lr"], caplog.records) == (1, [])
    PillionCallback(FakeRun()).on_train_begin(arguments, state(0), None, model=Odd())
    (told,) = caplog.records
    assert "not described in full: KeyError('width')" in told.getMessage()


def test_training_stops_if_somebody_asks_it_to() -> None:
    """As by the Stop button of W&B's page; not before."""
    run, control = FakeRun(), SimpleNamespace(should_training_stop=False)
    callback = PillionCallback(run)
    callback.on_step_end(ARGS, state(1), control)
    assert not control.should_training_stop
    run.should_stop = True
    callback.on_step_end(ARGS, state(2), control)
    assert control.should_training_stop


def test_processes_stop_at_the_same_step(tmp_path: Path) -> None:
    """Only the first is asked to, at step 3; with rows at every second step both stop at 4."""
    context = multiprocessing.get_context("fork")  # torch and transformers are loaded here
    stopped = context.Queue()
    arguments = (f"file://{tmp_path}/meeting", stopped)
    processes = [
        context.Process(target=_process, args=(rank, *arguments), daemon=True) for rank in range(2)
    ]
    for process in processes:
        process.start()
    found = dict(stopped.get(timeout=300) for _ in processes)
    for process in processes:
        process.join(60)
    assert found == {0: 4, 1: 4}


def _process(rank: int, meeting: str, stopped: Any) -> None:
    """Train in one of two processes, and put at which step it stops."""
    torch.distributed.init_process_group("gloo", init_method=meeting, rank=rank, world_size=2)
    run, control = FakeRun(), SimpleNamespace(should_training_stop=False)
    callback = PillionCallback(run if rank == 0 else None)
    arguments = SimpleNamespace(world_size=2, device="cpu")
    step = 0
    while not control.should_training_stop:
        step += 1
        run.should_stop = step >= 3
        callback.on_step_end(arguments, state(step), control)
        torch.distributed.all_reduce(torch.ones(1))  # as each step's gradients are
    stopped.put((rank, step))
    torch.distributed.destroy_process_group()
