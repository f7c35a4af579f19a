"""What these libraries, on this machine, cannot do."""

import os
from importlib.util import find_spec

import torch
from transformers.trainer_utils import SchedulerType
from transformers.training_args import OptimizerNames

from pillion_trainer.config import ConfigurationError, TrainingConfig

INSTALL = "pip install bitsandbytes"


def refuse_the_impossible(config: TrainingConfig) -> None:
    """Raise `ConfigurationError` with all that these libraries or this machine cannot do."""
    mistakes = []
    optimizers = sorted(each.value for each in OptimizerNames)
    if config.optimizer not in optimizers:
        mistakes.append(f"optimizer is {config.optimizer!r}: give one of {', '.join(optimizers)}")
    schedulers = sorted(each.value for each in SchedulerType)
    if config.scheduler not in schedulers:
        mistakes.append(f"scheduler is {config.scheduler!r}: give one of {', '.join(schedulers)}")
    if config.precision == "fp16" and not torch.cuda.is_available():
        mistakes.append(
            "precision is 'fp16', which needs a CUDA GPU and none is here: give fp32 or bf16"
        )
    if (
        config.precision == "bf16"
        and torch.cuda.is_available()
        and not torch.cuda.is_bf16_supported()
    ):
        mistakes.append("precision is 'bf16', which this GPU cannot do: give fp16 or fp32")
    mistakes += _mistakes_of_bits(config)
    processes = os.environ.get("WORLD_SIZE", "1")
    if processes != "1":
        mistakes.append(
            f"WORLD_SIZE is {processes!r}: start one process per run; for distributed training "
            "add `PillionCallback` to a Trainer of your own"
        )
    if mistakes:
        raise ConfigurationError(*mistakes)


def _mistakes_of_bits(config: TrainingConfig) -> list[str]:
    """Return what keeps a base from being quantised, or an optimiser's state."""
    asks = [("quantization", config.quantization)] if config.quantization != "none" else []
    if "8bit" in config.optimizer or config.optimizer.startswith("paged_"):
        asks.append(("optimizer", config.optimizer))
    mistakes = []
    for name, value in asks:
        if not torch.cuda.is_available():
            mistakes.append(f"{name} is {value!r}, which needs a CUDA GPU and none is here")
        elif find_spec("bitsandbytes") is None:
            mistakes.append(f"{name} is {value!r}, but bitsandbytes is missing: {INSTALL}")
    return mistakes
