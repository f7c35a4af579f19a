"""One fine-tune from beginning to end: base, data, LoRA, Trainer, adapter, what is logged of it.

Uses the run it is given; starting and finishing that run is the caller's (`cli.py`).
"""

import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from enum import Enum
from pathlib import Path
from typing import Any

import torch
from transformers import (
    PrinterCallback,
    ProgressCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    default_data_collator,
    set_seed,
)

from pillion.integrations.hardware import describe_libraries, describe_machine
from pillion.integrations.transformers import PillionCallback, Run
from pillion_trainer.base_files import base_files
from pillion_trainer.checks import Checked, check, method_in_words, output_dir_of
from pillion_trainer.config import TrainingConfig
from pillion_trainer.dataset import Dataset, Padding, make_dataset
from pillion_trainer.guard import GuardCallback
from pillion_trainer.lineage import TRAINING_FILE, log_adapter, log_base, write_training_file
from pillion_trainer.models import CHECKPOINTING, load_model, with_adapter
from pillion_trainer.stopping import StopRequest


@dataclass(frozen=True, slots=True)
class FineTune:
    """What came out of a fine-tune; losses in nats per token, None where none was measured."""

    adapter_dir: Path
    adapter_size_bytes: int
    steps: int
    first_loss: float | None
    final_loss: float | None
    best_val_loss: float | None
    training_time_s: float
    steps_before: int = 0
    """Those of `steps` that earlier lives have done: the time is of the others."""

    def in_words(self) -> str:
        """Return one line for people."""
        losses = [
            f"{name} {loss:.2f}"
            for name, loss in (
                ("first loss", self.first_loss),
                ("final loss", self.final_loss),
                ("best evaluation loss", self.best_val_loss),
            )
            if loss is not None
        ]
        done = f"{self.steps - self.steps_before} steps in {self.training_time_s:.0f} s"
        if self.steps_before:
            done += f", {self.steps} with those before"
        return ", ".join([done, *losses])


class _Bar(ProgressCallback):  # type: ignore[misc]
    """The progress bar alone, without a line for each logged row."""

    def on_log(self, *_: Any, **__: Any) -> None:
        """Print nothing: the run has it."""


class _Plan(TrainerCallback):  # type: ignore[misc]
    """Tells the run how many steps there will be, which only the Trainer knows."""

    def __init__(self, run: Run) -> None:
        self._run = run

    def on_train_begin(self, _args: Any, state: Any, _control: Any, **_: Any) -> None:
        """Tell it."""
        self._run.config.update({"steps_planned": state.max_steps})


def fine_tune(
    config: TrainingConfig,
    run: Run,
    *,
    stop: StopRequest | None = None,
    say: Callable[[str], None] | None = None,
    base_dir: Path | None = None,
    checked: Checked | None = None,
) -> FineTune:
    """Tune an adapter, log it to the run, save it, and return what came of it.

    Args:
        config: all that decides it.
        run: what `pillion.init` returned; it is not finished here.
        stop: a request to stop after the current step; the adapter is saved all the same.
        say: told a few lines for people; without it there is no progress bar either.
        base_dir: the folder of the base for `model = "tiny"`; by default the cached one.
        checked: what `check` has returned, where it was called already.

    Raises:
        ConfigurationError: what was asked for does not fit model, data or machine.
        TrainingDivergedError: the loss is no longer a number.
    """
    checked = checked or check(config, run.id)
    is_watched = say is not None and sys.stderr.isatty()
    say = say or _silent
    stop = stop or StopRequest()
    set_seed(config.seed)
    output_dir = output_dir_of(config, run.id)
    assert output_dir is not None, "a run has an id"

    model, tokenizer = load_model(config, base_dir, say)
    dataset = make_dataset(checked.sources, tokenizer, config)
    base = base_files(config.model, model)
    model = with_adapter(model, config)
    if checked.checkpoint:
        checked.checkpoint.refuse_another(model.active_peft_config)
    run.config.update(_hyperparameters(config, model, dataset) | {"base_model": base.as_dict()})
    _announce(say, config, model, dataset, output_dir)
    if checked.checkpoint:
        say(f"going on from {checked.checkpoint.folder.name}, step {checked.checkpoint.steps}")

    telling = PillionCallback(run, describes=False, log_model=_checkpoints_logged(config))
    trainer = Trainer(
        model=model,
        args=_arguments(config, dataset, output_dir, is_watched=is_watched),
        train_dataset=dataset.train,
        eval_dataset=dataset.evaluation if len(dataset.evaluation) else None,
        data_collator=default_data_collator
        if dataset.is_packed
        else Padding(tokenizer.pad_token_id or 0),
        processing_class=tokenizer,
        callbacks=[telling, GuardCallback(stop), _Plan(run)],
    )
    trainer.remove_callback(ProgressCallback if is_watched else PrinterCallback)
    if is_watched:
        trainer.add_callback(_Bar)

    base_reference = log_base(run, base) if config.log_model != "none" else ""
    started_s = time.monotonic()
    resumed = str(checked.checkpoint.folder) if checked.checkpoint else None
    try:
        trainer.train(resume_from_checkpoint=resumed)
    except BaseException:
        telling.sum_up(trainer.state)
        raise
    training_time_s = time.monotonic() - started_s
    if len(dataset.evaluation) and not stop.is_made and not _is_evaluated(trainer):
        trainer.evaluate()
    trainer.save_model(str(output_dir))

    steps_before = checked.checkpoint.steps if checked.checkpoint else 0
    result = _result(trainer, output_dir, training_time_s, steps_before)
    run.summary.update(_summary(result))
    metrics = {name: value for name, value in asdict(result).items() if name != "adapter_dir"}
    described = {
        "dataset": dataset.as_dict(),
        "hardware": describe_machine(),
        "libraries": describe_libraries(),
    }
    write_training_file(output_dir, run, config, base, metrics, described)
    if config.log_model != "none":
        files = [
            *sorted(output_dir.glob("adapter_*")),
            *map(Path, tokenizer.save_pretrained(str(output_dir))),
            output_dir / TRAINING_FILE,
        ]
        told = {"method": config.method, "metrics": metrics, "run_id": run.id}
        log_adapter(run, base, base_reference, files, told, is_stopped=stop.is_made)
    return result


def _checkpoints_logged(config: TrainingConfig) -> str:
    """Return what the callback logs: checkpoints; the adapter is logged here, with its base."""
    return config.log_model if config.log_model in {"checkpoint", "best"} else "none"


def _silent(_line: str) -> None:
    pass


def _arguments(
    config: TrainingConfig, dataset: Dataset, output_dir: Path, *, is_watched: bool
) -> Any:
    has_evaluation = len(dataset.evaluation) > 0 and config.eval_interval_steps > 0
    return TrainingArguments(
        output_dir=str(output_dir),
        learning_rate=config.learning_rate,
        optim=config.optimizer,
        optim_args=",".join(config.optimizer_options) or None,
        lr_scheduler_type=config.scheduler,
        lr_scheduler_kwargs=config.options_of_scheduler() or None,
        warmup_steps=config.warmup_ratio or config.warmup_steps,  # below 1 it is a share
        weight_decay=config.weight_decay,
        adam_beta1=config.adam_beta1,
        adam_beta2=config.adam_beta2,
        adam_epsilon=config.adam_epsilon,
        max_grad_norm=config.max_grad_norm,
        bf16=config.precision == "bf16",
        fp16=config.precision == "fp16",
        per_device_train_batch_size=config.batch_size,
        per_device_eval_batch_size=config.eval_batch_size or config.batch_size,
        gradient_accumulation_steps=config.gradient_accumulation_steps,
        num_train_epochs=config.epochs,
        max_steps=config.max_steps or -1,
        seed=config.seed,
        logging_strategy="steps",
        logging_steps=config.logging_interval_steps,
        logging_nan_inf_filter=False,  # a loss that is no number must be seen
        include_num_input_tokens_seen="all" if dataset.is_packed else "non_padding",
        eval_strategy="steps" if has_evaluation else "no",
        eval_steps=config.eval_interval_steps or None,
        prediction_loss_only=True,
        save_strategy="steps" if config.checkpoint_interval_steps else "no",
        save_steps=config.checkpoint_interval_steps or 1,
        save_total_limit=config.checkpoints_kept,
        metric_for_best_model="eval_loss" if config.log_model == "best" else None,
        greater_is_better=False if config.log_model == "best" else None,
        label_names=["labels"],
        use_cpu=not torch.accelerator.is_available(),
        dataloader_num_workers=config.dataloader_workers,
        dataloader_pin_memory=torch.accelerator.is_available(),
        report_to=[],
        disable_tqdm=not is_watched,
        **_checkpointing(config),
    )


def _checkpointing(config: TrainingConfig) -> dict[str, Any]:
    """Return what has activations computed twice, by the name that this transformers knows."""
    if not config.gradient_checkpointing:
        return {}
    known = {each.name for each in fields(TrainingArguments)}
    name = "activation" if "activation_checkpointing" in known else "gradient"
    return {f"{name}_checkpointing": True, f"{name}_checkpointing_kwargs": CHECKPOINTING}


_NO_HYPERPARAMETERS = {"output_dir", "resume_from", "log_model", "project", "name", "group", "tags"}
"""Options that say where a run goes, not what comes out."""


def _hyperparameters(config: TrainingConfig, model: Any, dataset: Dataset) -> dict[str, Any]:
    """Return all that decides the outcome, options by their names, the rest in groups.

    The adapter's are in a group `lora` (of DoRA too) or `ia3`, as peft has resolved them.
    """
    trainable, total = model.get_nb_trainable_parameters()
    architecture = model.base_model.model
    bits = getattr(architecture.config, "quantization_config", None)
    options = {
        name: value
        for name, value in config.as_dict().items()
        if name not in _NO_HYPERPARAMETERS and not name.startswith("lora_")
    }
    return {
        **options,
        "ia3" if config.method == "ia3" else "lora": _plain(model.active_peft_config.to_dict()),
        "architecture": {"class": type(architecture).__name__}
        | _plain(architecture.config.to_dict()),
        "parameters_trainable": trainable,
        "parameters_total": total,
        "trainable_share": trainable / total,
        "quantization_config": _plain(bits if isinstance(bits, dict) else bits.to_dict())
        if bits
        else {},
        "dataset": dataset.as_dict(),
        "hardware": describe_machine(),
        "libraries": describe_libraries(),
    }


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """Keep what can be logged: texts, numbers and lists of them, in an order of their own."""
    plain: dict[str, Any] = {}
    for key, value in sorted(values.items()):
        if key.startswith("_"):
            continue
        if isinstance(value, Enum):
            plain[key] = value.value
        elif isinstance(value, str | int | float):
            plain[key] = value
        elif isinstance(value, list | tuple | set) and value:
            plain[key] = sorted(str(each) for each in value)
    return plain


def _announce(
    say: Callable[[str], None],
    config: TrainingConfig,
    model: Any,
    dataset: Dataset,
    output_dir: Path,
) -> None:
    trainable, total = model.get_nb_trainable_parameters()
    say(
        f"{config.model}: {total:,} parameters, {trainable:,} of them trained "
        f"({method_in_words(config)})"
    )
    what = "blocks" if dataset.is_packed else "samples"
    say(
        f"{dataset.name}: {len(dataset.train)} {what} of {config.sequence_length} tokens "
        f"{'' if dataset.is_packed else 'at most '}to learn from, "
        f"{len(dataset.evaluation)} to evaluate on"
    )
    for line in dataset.notices():
        say(line)
    say(f"output: {output_dir}")


def _summary(result: FineTune) -> dict[str, Any]:
    """Return what came out of it beside what `PillionCallback` tells."""
    return {
        "adapter_size_bytes": result.adapter_size_bytes,
        "adapter": str(result.adapter_dir),
    }


def _is_evaluated(trainer: Any) -> bool:
    """Whether the last step has been evaluated already."""
    return any(
        "eval_loss" in row and row["step"] == trainer.state.global_step
        for row in trainer.state.log_history
    )


def _result(trainer: Any, output_dir: Path, training_time_s: float, steps_before: int) -> FineTune:
    losses = _values(trainer.state.log_history, "loss")
    return FineTune(
        adapter_dir=output_dir,
        adapter_size_bytes=(output_dir / "adapter_model.safetensors").stat().st_size,
        steps=trainer.state.global_step,
        first_loss=losses[0] if losses else None,
        final_loss=losses[-1] if losses else None,
        best_val_loss=min(_values(trainer.state.log_history, "eval_loss"), default=None),
        training_time_s=training_time_s,
        steps_before=steps_before,
    )


def _values(history: Iterable[Mapping[str, Any]], key: str) -> list[float]:
    return [row[key] for row in history if key in row]
