"""What these libraries, on this machine, cannot do."""

import os

import torch
from transformers.trainer_utils import SchedulerType
from transformers.training_args import OptimizerNames

from pillion_trainer.config import ConfigurationError, TrainingConfig


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
    processes = os.environ.get("WORLD_SIZE", "1")
    if processes != "1":
        mistakes.append(
            f"WORLD_SIZE is {processes!r}: start one process per run; for distributed training "
            "add `PillionCallback` to a Trainer of your own"
        )
    if mistakes:
        raise ConfigurationError(*mistakes)
