"""What a training with torch runs on: for a run's config, and for what it could do at most."""

import os
import platform
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

LIBRARIES = ("torch", "transformers", "peft", "trl", "accelerate", "lightning", "pillion")

_HALF_PRECISION_FLOPS = {
    "B200": 2250e12,
    "H200": 989e12,
    "H100 PCIe": 756e12,
    "H100 NVL": 835e12,
    "H100": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
    "L4": 121e12,
    "A10": 125e12,
    "V100": 125e12,
    "T4": 65e12,
    "RTX 4090": 165e12,
    "RTX 3090": 71e12,
}
"""Dense, per second, by a part of the device's name, longer ones first; of NVIDIA's data sheets."""


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
    """Return the versions that a result may depend on, of what is installed."""
    versions = {"python": platform.python_version()}
    for name in LIBRARIES:
        with suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    return versions


def half_precision_flops(device_name: str) -> float:
    """Return how many operations a GPU does at most in a second; 0: it is not known."""
    found = (flops for name, flops in _HALF_PRECISION_FLOPS.items() if name in device_name)
    return next(found, 0.0)


def memory_peak_bytes() -> int | None:
    """Return what this process has held on its GPU at most; None: it has none."""
    if not torch.cuda.is_available() or not torch.cuda.is_initialized():
        return None
    return int(torch.cuda.max_memory_allocated())


def _cpu_name() -> str:
    """Return the processor's name as Linux knows it, else the architecture."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())
