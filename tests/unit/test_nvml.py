# ruff: noqa: D102 - what the fake's methods do, NVML's do
"""What is asked of NVML, call by call; a fake stands for a driver, which this machine has not."""

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from pillion._nvml import Gpu, GpuReader, Reading


class NVMLError(Exception):
    """As pynvml raises it."""


class FakeNvml(ModuleType):
    """Two GPUs, of which the second has an own mind: calls in `unsupported` fail there."""

    NVML_TEMPERATURE_GPU = NVML_CLOCK_SM = NVML_MEMORY_ERROR_TYPE_UNCORRECTED = 0
    NVML_VOLATILE_ECC, NVML_CLOCK_MEM = 0, 1
    NVMLError = NVMLError

    def __init__(self) -> None:
        super().__init__("pynvml")
        self.unsupported: set[str] = set()
        self.processes: dict[int, list[int]] = {}
        self.open_count = 0
        answers: dict[str, Any] = {
            "UtilizationRates": SimpleNamespace(gpu=97, memory=40),
            "MemoryInfo": SimpleNamespace(total=80 * 2**30, used=20 * 2**30, free=60 * 2**30),
            "PowerUsage": 351_250,
            "Temperature": 64,
            "TotalEccErrors": 3,
            "CurrentClocksThrottleReasons": 0x4,
        }
        for call, answer in answers.items():
            setattr(self, f"nvmlDeviceGet{call}", self._answering(call, answer))

    def _answering(self, call: str, answer: Any) -> Any:
        def get(index: int, *_: int) -> Any:
            if index == 1 and call in self.unsupported:
                raise NVMLError(call)
            return answer

        return get

    def nvmlInit(self) -> None:  # noqa: N802 - NVML's names
        self.open_count += 1

    def nvmlShutdown(self) -> None:  # noqa: N802
        self.open_count -= 1

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        return 2

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:  # noqa: N802
        return index

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> int:  # noqa: N802
        if uuid not in ("GPU-a", "GPU-b"):
            raise NVMLError(uuid)
        return "ab".index(uuid[-1])

    def nvmlDeviceGetIndex(self, index: int) -> int:  # noqa: N802
        return index

    def nvmlDeviceGetClockInfo(self, index: int, clock: int) -> int:  # noqa: N802
        if index == 1 and "ClockInfo" in self.unsupported:
            raise NVMLError
        return (1980, 2619)[clock]

    def nvmlDeviceGetComputeRunningProcesses(self, index: int) -> list[Any]:  # noqa: N802
        return [SimpleNamespace(pid=pid) for pid in self.processes.get(index, [])]


ALL = {
    "utilization_percent": 97,
    "memory_gib": 20.0,
    "memory_percent": 25.0,
    "power_w": 351.25,
    "temperature_c": 64,
    "sm_clock_mhz": 1980,
    "memory_clock_mhz": 2619,
    "ecc_errors": 3,
    "throttle_reasons": 4,
    "throttled": 1.0,
}


@pytest.fixture
def nvml(monkeypatch: pytest.MonkeyPatch) -> FakeNvml:
    """Put a fake where pynvml is."""
    fake = FakeNvml()
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    return fake


def test_every_figure_comes_with_its_unit(nvml: FakeNvml) -> None:
    """And is of the GPU with that UUID, whatever its index was when it was told."""
    assert GpuReader().read([Gpu(7, "GPU-b")], ()) == [Reading(1, ALL)]
    assert GpuReader().read([Gpu(0, "")], ()) == [Reading(0, ALL)]


def test_driver_stays_open_between_two_looks(nvml: FakeNvml) -> None:
    """Until no run is left, or no GPU is found: then it may have been loaded anew."""
    reader = GpuReader()
    for _ in range(2):
        assert len(reader.read([Gpu(0, "GPU-a")], ())) == 1
        assert reader.read([], {30}) == []
        assert nvml.open_count == 1
    assert reader.read([Gpu(0, "GPU-gone")], ()) == []
    assert nvml.open_count == 0
    assert len(reader.read([Gpu(0, "GPU-a")], ())) == 1
    reader.close()
    reader.close()
    assert nvml.open_count == 0


def test_driver_that_is_gone_is_let_go_of(nvml: FakeNvml, monkeypatch: pytest.MonkeyPatch) -> None:
    """It answers nothing any more."""

    def fail() -> int:
        raise NVMLError

    monkeypatch.setattr(nvml, "nvmlDeviceGetCount", fail)
    assert GpuReader().read([], {1}) == []
    assert nvml.open_count == 0


@pytest.mark.parametrize(
    ("call", "names"),
    [
        ("UtilizationRates", {"utilization_percent"}),
        ("MemoryInfo", {"memory_gib", "memory_percent"}),
        ("PowerUsage", {"power_w"}),
        ("Temperature", {"temperature_c"}),
        ("ClockInfo", {"sm_clock_mhz", "memory_clock_mhz"}),
        ("TotalEccErrors", {"ecc_errors"}),
        ("CurrentClocksThrottleReasons", {"throttle_reasons", "throttled"}),
    ],
)
def test_call_that_is_not_supported_leaves_its_figure_out(
    nvml: FakeNvml, call: str, names: set[str]
) -> None:
    """Of that GPU alone; the others are whole."""
    nvml.unsupported = {call}
    first, second = GpuReader().read([Gpu(0, "GPU-a"), Gpu(1, "GPU-b")], ())
    assert first.values == ALL
    assert ALL.keys() - second.values.keys() == names


def test_idle_clock_is_no_throttling(nvml: FakeNvml, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reasons are there, bit by bit; whether they matter is a figure of its own."""
    monkeypatch.setattr(nvml, "nvmlDeviceGetCurrentClocksThrottleReasons", lambda _: 0x1)
    (reading,) = GpuReader().read([Gpu(0, "")], ())
    assert (reading.values["throttle_reasons"], reading.values["throttled"]) == (1, 0.0)


def test_without_named_gpus_those_with_its_processes_count(nvml: FakeNvml) -> None:
    """A run that said nothing of GPUs is found on them."""
    nvml.processes = {0: [10], 1: [10, 20]}
    assert [reading.index for reading in GpuReader().read([], {20, 30})] == [1]
    assert GpuReader().read([], {30}) == []


def test_gpu_that_is_gone_is_silence(nvml: FakeNvml) -> None:
    """It has fallen off its bus, or is of another host's."""
    assert GpuReader().read([Gpu(0, "GPU-gone")], ()) == []


def test_no_driver_is_silence() -> None:
    """The real pynvml finds no library on this machine, or no GPU of that name."""
    assert GpuReader().read([Gpu(0, "GPU-none")], ()) == []


def test_no_pynvml_is_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    """A trainer need not have it."""
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert GpuReader().read([Gpu(0, "")], ()) == []
