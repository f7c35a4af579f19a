"""Numbers on devices: copied behind the caller's work, polled by the sender, never waited for.

No GPU is needed: a stand-in has the surface of a CUDA tensor that is used, and counts what would
have stalled the caller. `benchmarks/gpu.py` checks the same on a real one.
"""

import sys
import types
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from pillion._batch import WaitingRow
from pillion._counts import Counts
from pillion._encoding import Encoder
from pillion._link import Link
from pillion._messages import Start
from pillion._run import Run
from pillion._tensors import read_number
from pillion_sidecar.records import Frame, decode_batch
from pillion_sidecar.validation import check_log

torch = pytest.importorskip("torch")


class Device:
    """A GPU that does nothing until it is told to, and counts who waits for it."""

    def __init__(self) -> None:
        self.stalls = 0
        self.is_done = False
        self.is_broken = False
        self.is_capturing = False
        self.calls: list[str] = []


class DeviceTensor:
    """What is used of a `torch.Tensor` on that GPU. Its memory changes as training goes on."""

    def __init__(self, device: Device, value: Any, count: int = 1) -> None:
        self._gpu, self.value, self._count = device, value, count
        self.device = torch.device("cuda", 0)

    def numel(self) -> int:
        """Return the number of elements: known without asking the device."""
        return self._count

    def detach(self) -> "DeviceTensor":
        """Return the same without its graph."""
        return self

    def to(self, device: str, *, non_blocking: bool = False) -> Any:
        """Copy; waits for the device unless asked not to."""
        assert device == "cpu"
        self._gpu.stalls += not non_blocking
        self._gpu.calls.append("copy")
        return np.array(self.value)  # what the stream will have written at that point

    def item(self) -> Any:
        """Wait for the device."""
        self._gpu.stalls += 1
        return self.value

    __float__ = __int__ = __bool__ = __index__ = tolist = cpu = item


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Device:
    """Put the stand-in where the client looks for torch."""
    gpu = Device()

    class Event:
        def record(self, stream: Any) -> None:
            gpu.calls.append(f"record on {stream}")

        def query(self) -> bool:
            if gpu.is_broken:
                raise RuntimeError("CUDA error: device-side assert triggered")
            return gpu.is_done

        def synchronize(self) -> None:
            gpu.stalls += 1

    fake = types.SimpleNamespace(
        cuda=types.SimpleNamespace(
            Event=Event,
            current_stream=lambda device: f"the stream of {device}",
            is_current_stream_capturing=lambda: gpu.is_capturing,
        )
    )
    monkeypatch.setitem(sys.modules, "torch", fake)
    return gpu


@pytest.fixture
def run() -> Iterator[Run]:
    """Make a run whose threads were not started."""
    start = Start("run", "w", "allow", {"name": "a name", "project": "demo"}, {})
    run = Run(Link("unix:/nowhere/sidecar.sock", "", start), start, is_quiet=True)
    yield run
    run.abandon()


def encoded(run: Run) -> list[tuple[int, dict[str, Any]]]:
    """Have the sender encode what it can; return all rows that it has kept."""
    sender = run._link._sender
    sender.encoder = sender.encoder or Encoder("run", "w")
    sender._encode(sender.encoder)
    rows = []
    for sequence in range(1, sender.unacked.last_sequence + 1):
        message = sender.unacked.read(sequence)
        assert message is not None
        for frame in decode_batch(check_log(message).payload, 0):
            assert isinstance(frame, Frame)
            rows += [(step, values) for _, step, _, values in frame.rows()]
    return rows


def test_scalar_on_a_device_is_not_waited_for(gpu: Device, run: Run) -> None:
    """It is copied on the caller's own stream, with an event behind; nothing synchronises."""
    run.log({"loss": DeviceTensor(gpu, 0.5)})
    assert gpu.calls == ["copy", "record on the stream of cuda:0"]
    assert encoded(run) == []
    assert run.counts == Counts(queued=1)
    gpu.is_done = True
    assert encoded(run) == [(0, {"loss": 0.5})]
    assert gpu.stalls == 0


def test_rows_behind_one_that_waits_wait_too(gpu: Device, run: Run) -> None:
    """So that order holds; those before it go on."""
    run.log({"a": 0.0})
    run.log({"a": 1.0, "loss": {"train": DeviceTensor(gpu, 7)}})
    run.log({"a": 2.0})
    assert encoded(run) == [(0, {"a": 0.0})]
    assert run.counts.queued == 2
    gpu.is_done = True
    assert encoded(run) == [
        (0, {"a": 0.0}),
        (1, {"a": 1.0, "loss/train": 7}),
        (2, {"a": 2.0}),
    ]
    assert gpu.stalls == 0


def test_rows_that_wait_are_bounded(gpu: Device, run: Run) -> None:
    """A device that hangs costs rows beyond the queue's bound, and never the caller's time."""
    run._rows_max = 3
    for _ in range(5):
        run.log({"loss": DeviceTensor(gpu, 0.5)})
    assert encoded(run) == []
    assert run.counts == Counts(queued=3, refused=2)
    assert gpu.stalls == 0


def test_scalar_waits_for_its_row_without_commit(gpu: Device, run: Run) -> None:
    """It may be logged in parts."""
    run.log({"loss": DeviceTensor(gpu, 0.5)}, commit=False)
    run.log({"a": 1.0})
    assert isinstance(run._queue[0], WaitingRow)
    gpu.is_done = True
    assert encoded(run) == [(0, {"loss": 0.5, "a": 1.0})]


def test_broken_device_costs_its_values_alone(gpu: Device, run: Run) -> None:
    """After a device-side assert every call fails; the rows go on without what was there."""
    run.log({"a": 1.0, "loss": DeviceTensor(gpu, 0.5)})
    run.log({"loss": DeviceTensor(gpu, 0.5)})
    gpu.is_broken = True
    assert encoded(run) == [(0, {"a": 1.0})]
    counts = run.counts
    assert (counts.refused, counts.refused_values, counts.queued) == (1, 2, 0)


def test_end_of_the_run_does_not_wait_for_a_device_that_hangs(
    gpu: Device, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its values are left out and counted; the rows are kept."""
    run.log({"a": 1.0, "loss": DeviceTensor(gpu, 0.5)})
    monkeypatch.setattr(run._link._sender, "_is_overdue", lambda: True)
    assert encoded(run) == [(0, {"a": 1.0})]
    assert run.counts.refused_values == 1


@pytest.mark.parametrize("count", [0, 2])
def test_tensor_of_several_elements_is_refused_without_a_copy(
    gpu: Device, run: Run, count: int
) -> None:
    """Before the device is asked for anything."""
    run.log({"a": 1.0, "many": DeviceTensor(gpu, 0.5, count)})
    assert (gpu.calls, gpu.stalls) == ([], 0)
    assert run.counts.refused_values == 1


def test_tensor_of_a_graph_that_is_captured_is_refused(gpu: Device, run: Run) -> None:
    """A copy would become a part of the graph, and an event cannot be asked there."""
    gpu.is_capturing = True
    run.log({"a": 1.0, "loss": DeviceTensor(gpu, 0.5)})
    assert (gpu.calls, gpu.stalls, run.counts.refused_values) == ([], 0, 1)


@pytest.mark.parametrize("name", ["DTensor", "AsyncCollectiveTensor"])
def test_tensor_whose_reading_is_a_collective_is_refused(gpu: Device, name: str) -> None:
    """The other ranks do not join; the job would hang."""
    kind = type(name, (DeviceTensor,), {})
    assert read_number(type("Mine", (kind,), {})(gpu, 0.5)) is None
    assert (gpu.calls, gpu.stalls) == ([], 0)


@pytest.mark.parametrize("device", ["xla", "lazy", "meta"])
def test_lazy_tensor_is_refused(gpu: Device, device: str) -> None:
    """Reading it would compile and run all that it waits for."""
    tensor = DeviceTensor(gpu, 0.5)
    tensor.device = types.SimpleNamespace(type=device)
    assert read_number(tensor) is None
    assert gpu.stalls == 0


def test_tensors_on_the_cpu_are_read_at_once(run: Run) -> None:
    """In Python's own types; a real meta tensor and a complex one are none."""
    run.log(
        {
            "f16": torch.tensor(0.5, dtype=torch.float16),
            "grad": torch.tensor([0.5], requires_grad=True),
            "int": torch.tensor(2**40),
            "bool": torch.tensor(True),
            "meta": torch.empty(1, device="meta"),
            "complex": torch.tensor(1j),
        }
    )
    ((_, _, row),) = run._queue
    assert row == {"f16": 0.5, "grad": 0.5, "int": 2**40, "bool": True}
    assert [type(value) for value in row.values()] == [float, float, int, bool]
    assert run.counts.refused_values == 2
