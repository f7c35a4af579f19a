"""Hugging Face's Trainer, and what is built on it, such as TRL's SFTTrainer.

    import pillion.integrations.transformers

    Trainer(..., args=TrainingArguments(..., report_to="pillion"))

Importing this module is what makes `report_to="pillion"` known. For choices of its own, or a run of
your own, `Trainer(callbacks=[PillionCallback(run)])`. Only the first process of a distributed
training logs.
"""

import math
import os
import tempfile
import time
from collections.abc import Callable
from numbers import Real
from pathlib import Path
from typing import Any, Protocol

import torch
from transformers import TrainerCallback
from transformers.integrations import integration_utils

import pillion
from pillion._notice import warn
from pillion._variables import known, variable
from pillion.integrations._hyperparameters import (
    describe_dataset,
    hyperparameters,
    parameter_counts,
    size_of,
)
from pillion.integrations._step_times import StepTimes
from pillion.integrations.hardware import (
    describe_machine,
    half_precision_flops,
    memory_peak_bytes,
)

LOG_MODEL = ("end", "checkpoint", "best")
_LOG_MODEL_WORDS = {*LOG_MODEL, "true", "1", "false", "0", "none"}


class Section(Protocol):
    """The config or the summary of a run."""

    def update(self, values: dict[str, Any], /) -> None:
        """Set the values given, keep the others."""


class Run(Protocol):
    """What is used of a run, as `pillion.init` returns it."""

    @property
    def id(self) -> str:
        """What tells the run from all others."""

    @property
    def name(self) -> str:
        """What people call it."""

    @property
    def config(self) -> Section:
        """What was decided before the training."""

    @property
    def summary(self) -> Section:
        """What came out of it."""

    @property
    def should_stop(self) -> bool:
        """Whether somebody asks it to stop."""

    def log(self, data: dict[str, Any], /, step: int | None = None) -> None:
        """Send one row; never raises, never blocks."""


class PillionCallback(TrainerCallback):  # type: ignore[misc]
    """Logs what the Trainer logs, how long its steps take, what it was given and what came of it.

    Rows go out at `state.global_step`: `train/loss`, `train/learning_rate`, `train/grad_norm`,
    `train/epoch`, `train/global_step`, `eval/loss`, … and, of each logging interval, with
    evaluations and checkpoints left out:

    - `train/step_time_s` (mean), and of it `train/data_time_s`, `train/forward_backward_time_s` and
      `train/optimizer_time_s`; the last two not where work is queued on a GPU.
    - `train/samples_per_second` (full batches are assumed) and, where
      `include_num_input_tokens_seen` is on, `train/tokens_per_second`.
    - `train/gpu_memory_peak_gib`, since the training's beginning.
    - `train/model_flops_utilization`: the operations that the model needs, as transformers counts
      them but without gradients of frozen weights, of those that the GPU could do.

    The config gets the training arguments by their names, and in groups of their own architecture,
    PEFT, precision, quantization, datasets, hardware and libraries. The summary gets `final_loss`,
    `best_val_loss`, `total_steps`, `training_time_hours`, `hardware`, `dataset_size`,
    `quality_score` and the Trainer's totals; `dataset_size` is how many samples are trained on.
    Values that are no numbers are left out of rows.
    """

    def __init__(
        self,
        run: Run | None = None,
        *,
        log_model: str | None = None,
        quality_metric: str | None = None,
        peak_flops_per_s: float | None = None,
        describes: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Begin with nothing: the run is started with the training.

        Args:
            run: Where to log. Default: the current run, else one that is started as
                `TrainingArguments` and the environment say; it ends with the process.
            log_model: What becomes an artifact: `end`: the model that was trained; `checkpoint`:
                each checkpoint; `best`: each that is the best so far by `metric_for_best_model`.
                Default: `$PILLION_LOG_MODEL`, `$WANDB_LOG_MODEL`, else nothing.
            quality_metric: The metric whose last value is the summary's `quality_score`, such as
                `eval_accuracy`. Default: one that is called `quality_score`.
            peak_flops_per_s: What one device can do in the training's precision. Default: what is
                known of it, in bf16 and fp16.
            describes: Whether the config is filled.
            clock: Shows seconds.
        """
        said = log_model or known("log_model", _LOG_MODEL_WORDS, "'end', 'checkpoint' or 'best'")
        said = "end" if said in {"true", "1"} else said  # as W&B's variable once was
        if said not in _LOG_MODEL_WORDS | {""}:
            raise ValueError(f"log_model is {said!r}; take 'end', 'checkpoint' or 'best'.")
        self._given, self._log_model, self._describes = run, said, describes
        self._quality_metric = quality_metric
        self._run: Any = run
        self._peak_flops_per_s = peak_flops_per_s
        self._clock, self._times = clock, StepTimes(clock)
        self._began_s: float | None = None
        self._tokens_before, self._flos_before = 0, 0.0
        self._trained_share = 1.0
        self._datasets: dict[str, Any] = {}
        self._summary: dict[str, Any] = {}
        self._numbers: dict[str, Any] = {}
        """What was logged last of each, for checkpoints."""

    def on_train_begin(
        self,
        args: Any,
        state: Any,
        _control: Any,
        model: Any = None,
        train_dataloader: Any = None,
        eval_dataloader: Any = None,
        **_: Any,
    ) -> None:
        """Start the run where there is none, describe the training, and start measuring."""
        self._datasets = _datasets(train=train_dataloader, eval=eval_dataloader)
        if state.is_world_process_zero:
            self._start(args, state, model)
        device = getattr(args, "device", None)
        self._times.is_queued = getattr(device, "type", "cpu") != "cpu"
        if self._peak_flops_per_s is None and self._times.is_queued and (args.bf16 or args.fp16):
            self._peak_flops_per_s = half_precision_flops(describe_machine()["device"])
        self._began_s = self._clock()
        self._start_interval(state)
        self._times.skip()

    def on_step_begin(self, _args: Any, _state: Any, _control: Any, **_: Any) -> None:
        """Note that the step's batches are here."""
        self._times.end_part("data")

    def on_pre_optimizer_step(self, _args: Any, _state: Any, _control: Any, **_: Any) -> None:
        """Note that the gradients are here."""
        self._times.end_part("forward_backward")

    def on_optimizer_step(self, _args: Any, _state: Any, _control: Any, **_: Any) -> None:
        """Note that the weights are changed."""
        self._times.end_part("optimizer")

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Count the step and its time, from the end of what came before it; stop if asked to.

        Of several processes all must stop at one step, or those that go on wait for the others for
        ever. So they ask the first of them at each logging step, which waits for the GPU anyway.
        """
        self._times.end_step()
        should_stop = self._run is not None and self._run.should_stop
        if args.world_size > 1:
            is_due = state.global_step % max(1, state.logging_steps) == 0
            should_stop = is_due and _as_the_first_says(should_stop, args.device)
        if should_stop:
            control.should_training_stop = True

    def on_evaluate(
        self, _args: Any, state: Any, _control: Any, eval_dataloader: Any = None, **_: Any
    ) -> None:
        """Note on what, and leave the evaluation out of the next step's time."""
        found = _datasets(eval=eval_dataloader)
        if found and not found.keys() <= self._datasets.keys() and state.is_world_process_zero:
            self._datasets |= found
            self._describe_datasets()
        self._times.skip()

    def on_save(self, args: Any, state: Any, _control: Any, **_: Any) -> None:
        """Note the checkpoint, log it if it is wanted, and leave its writing out of the times."""
        if state.is_world_process_zero and self._run is not None:
            folder = Path(args.output_dir).absolute() / f"checkpoint-{state.global_step}"
            self._run.summary.update(
                {"last_checkpoint": str(folder), "last_checkpoint_step": state.global_step}
            )
            best = getattr(state, "best_model_checkpoint", None)
            is_best = best is not None and Path(best).absolute() == folder
            if self._log_model == "checkpoint" or (self._log_model == "best" and is_best):
                self._run.log_checkpoint(
                    folder, state.global_step, self._numbers, ["best"] if is_best else None
                )
        self._times.skip()

    def on_log(
        self,
        args: Any,
        state: Any,
        _control: Any,
        logs: dict[str, Any] | None = None,
        **_: Any,
    ) -> None:
        """Send what the Trainer logs: totals to the summary, all else as a row."""
        if not state.is_world_process_zero:
            return
        if self._run is None:  # an evaluation without a training
            self._start(args, state, None)
        numbers = {key: value for key, value in (logs or {}).items() if isinstance(value, Real)}
        if "train_loss" in numbers:
            self._run.summary.update(
                {key: value for key, value in numbers.items() if key not in ("epoch", "step")}
            )
            return
        row: dict[str, Any] = {
            _key(key): value for key, value in numbers.items() if not key.startswith("train_")
        }
        self._note(numbers)
        if "loss" in numbers:
            row |= self._throughput(args, state)
            self._start_interval(state)
        if row:
            row["train/global_step"] = state.global_step
            self._numbers |= row
            self._run.log(row, step=state.global_step)

    def on_train_end(
        self,
        args: Any,
        state: Any,
        _control: Any,
        model: Any = None,
        processing_class: Any = None,
        **_: Any,
    ) -> None:
        """Sum up; and log the model if it is wanted."""
        if not state.is_world_process_zero or self._run is None:
            return
        self.sum_up(state)
        if self._log_model == "end" and model is not None:
            self._log_trained(args, model, processing_class)

    def sum_up(self, state: Any) -> None:
        """Tell the summary how far it came; to be called of a training that an exception ends."""
        if self._run is None:
            return
        self._summary["total_steps"] = state.global_step
        if self._began_s is not None:
            self._summary["training_time_hours"] = (self._clock() - self._began_s) / 3600
        self._run.summary.update(self._summary)
        self._began_s = None

    def _start(self, args: Any, state: Any, model: Any) -> None:
        """Have a run, and tell it what the training is, as far as that can be read."""
        if self._given is None:
            self._run = pillion.run or pillion.init(
                project=variable("project") or getattr(args, "project", None) or "huggingface",
                name=state.trial_name or getattr(args, "run_name", None),
                group=getattr(args, "run_name", None) if state.trial_name else None,
                model=getattr(getattr(model, "config", None), "name_or_path", None),
                dataset=describe_dataset(self._datasets.get("train")).get("name"),
            )
        try:
            self._describe(args, model)
        except Exception as error:  # noqa: BLE001 - a stranger's model must not end its training
            warn("pillion: the training is not described in full: %r.", error)
        if self._summary:
            self._run.summary.update(self._summary)  # at once: it may be killed

    def _describe(self, args: Any, model: Any) -> None:
        """Tell the run what the training is."""
        if (size := size_of(self._datasets.get("train"))) is not None:
            self._summary["dataset_size"] = size
        if model is None:
            return
        self._summary["hardware"] = describe_machine()["device"]
        if self._describes:
            self._describe_datasets()
        trained, total = parameter_counts(model)
        self._trained_share = trained / max(1, total)
        if self._describes:
            self._run.config.update(hyperparameters(args, model))

    def _describe_datasets(self) -> None:
        described = {name: describe_dataset(each) for name, each in self._datasets.items()}
        if self._describes and self._run is not None and described:
            self._run.config.update({"dataset": described})

    def _note(self, numbers: dict[str, Any]) -> None:
        """Keep for the summary what is its; tell it at once where the training has ended."""
        found: dict[str, Any] = {}
        if "loss" in numbers:
            found["final_loss"] = numbers["loss"]
        if "eval_loss" in numbers:
            best = self._summary.get("best_val_loss", math.inf)
            found["best_val_loss"] = min(best, numbers["eval_loss"])
        for name in (self._quality_metric, "quality_score", "eval_quality_score"):
            if name in numbers:
                found.setdefault("quality_score", numbers[name])
        self._summary |= found
        if found and self._began_s is None:
            self._run.summary.update(found)

    def _throughput(self, args: Any, state: Any) -> dict[str, float]:
        """Return the interval's means and rates; nothing where no time has passed."""
        rates = self._times.means()
        if not rates:
            return {}
        busy_s = self._times.busy_s
        samples_per_step = (
            args.train_batch_size * args.gradient_accumulation_steps * args.world_size
        )
        rates["train/samples_per_second"] = self._times.steps * samples_per_step / busy_s
        tokens = state.num_input_tokens_seen - self._tokens_before
        if tokens > 0:
            rates["train/tokens_per_second"] = tokens / busy_s
        if self._times.is_queued and (peak_bytes := memory_peak_bytes()) is not None:
            rates["train/gpu_memory_peak_gib"] = peak_bytes / 2**30
        flos = getattr(state, "total_flos", 0.0) - self._flos_before
        if flos > 0 and self._peak_flops_per_s:
            # Forward, activations' gradients, weights' gradients: two operations per weight each.
            needed = flos * (4 + 2 * self._trained_share) / 6
            possible = busy_s * self._peak_flops_per_s * args.world_size
            rates["train/model_flops_utilization"] = needed / possible
        return rates

    def _start_interval(self, state: Any) -> None:
        self._times.begin()
        self._tokens_before = state.num_input_tokens_seen
        self._flos_before = getattr(state, "total_flos", 0.0)

    def _log_trained(self, args: Any, model: Any, processing_class: Any) -> None:
        artifact = pillion.Artifact(
            f"model-{self._run.id}", "model", metadata={"metrics": self._numbers}
        )
        with tempfile.TemporaryDirectory(dir=_existing(args.output_dir)) as folder:
            model.save_pretrained(folder)
            if processing_class is not None:
                processing_class.save_pretrained(folder)
            artifact.add_dir(folder)
            self._run.log_artifact(artifact, aliases=["final"])  # staged when this returns


def _as_the_first_says(should_stop: bool, device: Any) -> bool:
    """Return what the first process passes; every process must call this at the same step."""
    distributed = torch.distributed
    if not (distributed.is_available() and distributed.is_initialized()):
        return False  # as on TPUs: there is nobody to agree with
    said = torch.tensor(int(should_stop), device=device)
    distributed.broadcast(said, src=0)
    return bool(said.item())


def _datasets(**loaders: Any) -> dict[str, Any]:
    found = {name: getattr(loader, "dataset", None) for name, loader in loaders.items()}
    return {name: dataset for name, dataset in found.items() if dataset is not None}


def _existing(directory: str) -> str | None:
    return directory if os.path.isdir(directory) else None  # noqa: PTH112 - a text is given


def _key(key: str) -> str:
    """Return the name people know: `loss` is `train/loss`, `eval_loss` is `eval/loss`."""
    for prefix in ("eval", "test"):
        if key.startswith(f"{prefix}_"):
            return f"{prefix}/{key.removeprefix(f'{prefix}_')}"
    return f"train/{key}"


integration_utils.INTEGRATION_TO_CALLBACK["pillion"] = PillionCallback
