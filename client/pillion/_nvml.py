"""How NVIDIA's GPUs do, by pynvml. What a GPU or its driver does not tell is left out.

Calls may take long, or never return where a GPU has fallen off its bus: for `Aside` alone.
"""

from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

THROTTLES = 0x4 | 0x8 | 0x10 | 0x20 | 0x40 | 0x80
"""Of NVML's reasons for a clock those that slow a GPU down: a cap of power, heat, a power brake, or
another GPU that waits for it. The others, such as being idle, are no trouble."""


@dataclass(frozen=True, slots=True)
class Gpu:
    """A GPU by its index on the host, and by its UUID where that is known."""

    index: int
    uuid: str


@dataclass(frozen=True, slots=True)
class Reading:
    """What one GPU tells."""

    index: int
    values: dict[str, float]


class GpuReader:
    """Reads GPUs. NVML stays open in between: to open it takes a driver long."""

    def __init__(self) -> None:
        self._nvml: Any = None
        """Set while it is open."""

    def read(self, wanted: Collection[Gpu], pids: Collection[int]) -> list[Reading]:
        """Return how GPUs do: those that are wanted, or if none is, those that these processes use.

        None where there is no pynvml, no driver, or no GPU.
        """
        if self._nvml is None:
            self._open()
        nvml = self._nvml
        if nvml is None:
            return []
        try:
            handles = list(_wanted(nvml, wanted) if wanted else _used(nvml, pids))
        except nvml.NVMLError:
            handles = []
            self.close()
        if wanted and not handles:
            self.close()  # a driver that was loaded anew is found the next time
        return [Reading(index, _values(nvml, handle)) for index, handle in handles]

    def close(self) -> None:
        """Let go of the driver."""
        if self._nvml is not None:
            with suppress(self._nvml.NVMLError):
                self._nvml.nvmlShutdown()
            self._nvml = None

    def _open(self) -> None:
        try:
            import pynvml  # noqa: PLC0415 - not every trainer has it
        except ImportError:
            return
        nvml: Any = pynvml
        with suppress(nvml.NVMLError):
            nvml.nvmlInit()
            self._nvml = nvml


def _wanted(nvml: Any, gpus: Iterable[Gpu]) -> Iterator[tuple[int, Any]]:
    for gpu in gpus:
        with suppress(nvml.NVMLError):
            if gpu.uuid:
                handle = nvml.nvmlDeviceGetHandleByUUID(gpu.uuid)
                yield nvml.nvmlDeviceGetIndex(handle), handle
            else:
                yield gpu.index, nvml.nvmlDeviceGetHandleByIndex(gpu.index)


def _used(nvml: Any, pids: Collection[int]) -> Iterator[tuple[int, Any]]:
    for index in range(nvml.nvmlDeviceGetCount()):
        with suppress(nvml.NVMLError):
            handle = nvml.nvmlDeviceGetHandleByIndex(index)
            running = nvml.nvmlDeviceGetComputeRunningProcesses(handle)
            if any(process.pid in pids for process in running):
                yield index, handle


def _values(nvml: Any, handle: Any) -> dict[str, float]:
    """Ask for each figure by itself: which ones there are differs from GPU to GPU."""
    readers: tuple[Callable[[Any, Any], dict[str, float]], ...] = (
        *(_utilization, _memory, _power, _temperature, _sm_clock, _memory_clock),
        *(_ecc_errors, _throttling),
    )
    values: dict[str, float] = {}
    for reader in readers:
        # AttributeError: this pynvml does not know the call.
        with suppress(nvml.NVMLError, AttributeError, ZeroDivisionError):
            values |= reader(nvml, handle)
    return values


def _utilization(nvml: Any, handle: Any) -> dict[str, float]:
    return {"utilization_percent": nvml.nvmlDeviceGetUtilizationRates(handle).gpu}


def _memory(nvml: Any, handle: Any) -> dict[str, float]:
    memory = nvml.nvmlDeviceGetMemoryInfo(handle)
    return {
        "memory_gib": memory.used / 2**30,
        "memory_percent": 100 * memory.used / memory.total,
    }


def _power(nvml: Any, handle: Any) -> dict[str, float]:
    return {"power_w": nvml.nvmlDeviceGetPowerUsage(handle) / 1000}


def _temperature(nvml: Any, handle: Any) -> dict[str, float]:
    return {
        "temperature_c": nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU),
    }


def _sm_clock(nvml: Any, handle: Any) -> dict[str, float]:
    return {"sm_clock_mhz": nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_SM)}


def _memory_clock(nvml: Any, handle: Any) -> dict[str, float]:
    return {"memory_clock_mhz": nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_MEM)}


def _ecc_errors(nvml: Any, handle: Any) -> dict[str, float]:
    kind, since = nvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED, nvml.NVML_VOLATILE_ECC
    return {"ecc_errors": nvml.nvmlDeviceGetTotalEccErrors(handle, kind, since)}


def _throttling(nvml: Any, handle: Any) -> dict[str, float]:
    reasons = nvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle)
    return {"throttle_reasons": reasons, "throttled": float(bool(reasons & THROTTLES))}
