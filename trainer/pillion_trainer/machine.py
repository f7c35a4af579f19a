"""What these libraries, on this machine, cannot do."""

import os
from importlib.util import find_spec
from typing import Any

import torch
from transformers import Trainer, TrainingArguments, get_scheduler
from transformers.trainer_utils import SchedulerType
from transformers.training_args import OptimizerNames

from pillion_trainer.config import ConfigurationError, TrainingConfig

INSTALL_BITS = "pip install bitsandbytes"

_REFUSALS = (ImportError, ValueError, TypeError, KeyError)
"""What libraries raise where one of them is missing, or does not know an option."""


def refuse_the_impossible(config: TrainingConfig) -> None:
    """Raise `ConfigurationError` with all that these libraries or this machine cannot do."""
    mistakes = [
        *_mistakes_of_optimizer(config),
        *_mistakes_of_scheduler(config),
        *_mistakes_of_precision(config),
    ]
    if config.quantization != "none":
        mistakes += _mistakes_of_bits("quantization", config.quantization)
    processes = os.environ.get("WORLD_SIZE", "1")
    if processes != "1":
        mistakes.append(
            f"WORLD_SIZE is {processes!r}: start one process per run; for distributed training "
            "add `PillionCallback` to a Trainer of your own"
        )
    if mistakes:
        raise ConfigurationError(*mistakes)


def _mistakes_of_optimizer(config: TrainingConfig) -> list[str]:
    """Return what keeps transformers from making the optimiser, asked without a model."""
    names = sorted(each.value for each in OptimizerNames)
    if config.optimizer not in names:
        return [f"optimizer is {config.optimizer!r}: give one of {', '.join(names)}"]
    if "8bit" in config.optimizer or config.optimizer.startswith("paged_"):
        return _mistakes_of_bits("optimizer", config.optimizer)
    try:
        plain = _optimizer(config, ())
        idle = [each for each in config.optimizer_options if _optimizer(config, (each,)) == plain]
        if config.optimizer_options and not idle:
            kind, options = _optimizer(config, config.optimizer_options)
            kind([torch.nn.Parameter(torch.zeros(1))], **options)
    except _REFUSALS as error:
        return [_refused(config, "optimizer", error)]
    return [
        f"optimizer_options has {each!r}, which changes nothing of {config.optimizer}: leave it out"
        for each in idle
    ]


def _optimizer(config: TrainingConfig, options: tuple[str, ...]) -> tuple[Any, dict[str, Any]]:
    """Return the class and the arguments that transformers would make the optimiser with."""
    arguments = TrainingArguments(
        optim=config.optimizer,
        optim_args=",".join(options) or None,
        use_cpu=not torch.accelerator.is_available(),
        report_to=[],
    )
    kind, made_with = Trainer.get_optimizer_cls_and_kwargs(arguments)
    return kind, dict(made_with)


def _mistakes_of_scheduler(config: TrainingConfig) -> list[str]:
    """Return what keeps transformers from making the schedule, asked for one of a few steps."""
    names = sorted(each.value for each in SchedulerType)
    if config.scheduler not in names:
        return [f"scheduler is {config.scheduler!r}: give one of {', '.join(names)}"]
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    try:
        get_scheduler(
            config.scheduler,
            optimizer,
            num_warmup_steps=1,
            num_training_steps=100,
            scheduler_specific_kwargs=config.options_of_scheduler(),
        )
    except _REFUSALS as error:
        return [_refused(config, "scheduler", error)]
    return []


def _mistakes_of_precision(config: TrainingConfig) -> list[str]:
    has_cuda = torch.cuda.is_available()
    if config.precision == "fp16" and not has_cuda:
        return ["precision is 'fp16', which needs a CUDA GPU and none is here: give fp32 or bf16"]
    if config.precision == "bf16" and has_cuda and not torch.cuda.is_bf16_supported():
        return ["precision is 'bf16', which this GPU cannot do: give fp16 or fp32"]
    return []


def _mistakes_of_bits(name: str, value: str) -> list[str]:
    """Return what keeps a base from being quantised, or an optimiser's state."""
    if not torch.cuda.is_available():
        return [f"{name} is {value!r}, which needs a CUDA GPU and none is here"]
    if find_spec("bitsandbytes") is None:
        return [f"{name} is {value!r}, but bitsandbytes is missing: {INSTALL_BITS}"]
    return []


def _refused(config: TrainingConfig, name: str, error: Exception) -> str:
    options = ", ".join(getattr(config, f"{name}_options")) or "no"
    told = " ".join(str(error).split())
    return f"{name} is {getattr(config, name)!r} with {options} {name}_options: {told}"
