"""The machine and the libraries: what they are, and what they cannot do."""

import os
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from transformers.trainer_utils import SchedulerType
from transformers.training_args import OptimizerNames

from pillion_trainer.config import ConfigurationError, TrainingConfig

LIBRARIES = ("torch", "transformers", "peft", "accelerate", "pillion")


def describe_machine() -> dict[str, Any]:
    """Return what the training runs on, for the configuration of a run."""
    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return {
        "device": gpus[0] if gpus else _cpu_name(),
        "gpus": len(gpus),
        "cpu": _cpu_name(),
        "cpu_cores": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "platform": platform.platform(),
    }


def describe_libraries() -> dict[str, str]:
    """Return the versions that a result may depend on."""
    return {"python": platform.python_version()} | {
        name: metadata.version(name) for name in LIBRARIES
    }


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


def _cpu_name() -> str:
    """Return the processor's name as Linux knows it, else the architecture."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())
