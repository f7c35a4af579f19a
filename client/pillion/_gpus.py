"""The GPUs that this process may use, as NVIDIA's driver and its library tell.

No context is made on any of them. Where there is no driver, nothing is loaded.
"""

import ctypes
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

GPUS_MAX = 64

_DRIVER = Path("/proc/driver/nvidia/gpus")
_TEXT_BYTES = 96


class _Memory(ctypes.Structure):
    _fields_ = [
        ("total", ctypes.c_ulonglong),
        ("free", ctypes.c_ulonglong),
        ("used", ctypes.c_ulonglong),
    ]


def gpus() -> list[dict[str, Any]]:
    """Return the fields of `Gpu` for each; none if there is none, or nobody tells."""
    if not _DRIVER.is_dir():
        return []
    try:
        library = ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        return []
    if library.nvmlInit_v2() != 0:
        return []
    try:
        found = list(_found(library))
    finally:
        library.nvmlShutdown()
    return [gpu for gpu in found if _is_visible(gpu)]


def _found(library: Any) -> Iterator[dict[str, Any]]:
    count = ctypes.c_uint()
    library.nvmlDeviceGetCount_v2(ctypes.byref(count))
    for index in range(min(count.value, GPUS_MAX)):
        handle = ctypes.c_void_p()
        if library.nvmlDeviceGetHandleByIndex_v2(index, ctypes.byref(handle)) != 0:
            continue
        name, uuid = (ctypes.create_string_buffer(_TEXT_BYTES) for _ in range(2))
        memory = _Memory()
        library.nvmlDeviceGetName(handle, name, _TEXT_BYTES)
        library.nvmlDeviceGetUUID(handle, uuid, _TEXT_BYTES)
        library.nvmlDeviceGetMemoryInfo(handle, ctypes.byref(memory))
        yield {
            "name": name.value.decode(errors="replace"),
            "uuid": uuid.value.decode(errors="replace"),
            "memory_bytes": memory.total,
            "index": index,
        }


def _is_visible(gpu: dict[str, Any]) -> bool:
    """Tell whether CUDA_VISIBLE_DEVICES lets the process use it."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return True
    wanted = [each.strip() for each in visible.split(",") if each.strip()]
    return any(
        each == str(gpu["index"]) or (each.startswith("GPU-") and gpu["uuid"].startswith(each))
        for each in wanted
    )
