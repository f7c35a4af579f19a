"""Numbers that users log as tensors: read at the call, but never waited for.

A number on a GPU is copied to pinned memory behind the kernels that make it, on the caller's own
stream; the sender asks now and then whether the copy is done. Reading a distributed tensor may
start a collective that other processes do not join, and a lazy one a compilation: both are refused.
torch is not imported here: who logs a tensor has it.
"""

import sys
from typing import Any

from pillion.plain import to_number

_DEVICES_REFUSED = frozenset({"lazy", "meta", "xla"})
_CLASSES_REFUSED = frozenset({"DTensor", "AsyncCollectiveTensor"})


class Copy:
    """A number on its way from a GPU."""

    __slots__ = ("_event", "_tensor")

    def __init__(self, tensor: Any, event: Any) -> None:
        """Hold a tensor in pinned memory, and the CUDA event that comes after its copying."""
        self._tensor, self._event = tensor, event

    def is_ready(self) -> bool:
        """Tell whether it is here, or never will be. Does not wait."""
        try:
            return bool(self._event.query())
        except Exception:  # noqa: BLE001 - whatever broke on the device, nothing comes of it
            return True

    def read(self) -> bool | int | float | None:
        """Return it; None if it is not here."""
        try:
            return to_number(self._tensor) if self._event.query() else None
        except Exception:  # noqa: BLE001 - see is_ready
            return None


def read_number(value: Any) -> bool | int | float | Copy | None:
    """Read a number, a tensor or an array of one element; None if it is none. Never waits."""
    try:
        device = getattr(getattr(value, "device", None), "type", None)
        if device is None:
            return to_number(value)
        if is_refused(value):
            return None
        return _copy(value) if device == "cuda" else to_number(value)
    except Exception:  # noqa: BLE001 - a stranger's methods may raise anything
        return None


def is_refused(tensor: Any) -> bool:
    """Tell whether looking into a tensor may start what others must join, or a compilation."""
    classes = (each.__name__ for each in type(tensor).__mro__)
    return tensor.device.type in _DEVICES_REFUSED or not _CLASSES_REFUSED.isdisjoint(classes)


def _copy(value: Any) -> Copy | None:
    cuda = sys.modules["torch"].cuda
    # What is captured into a graph runs later, and again: no value of it is this call's.
    if value.numel() != 1 or cuda.is_current_stream_capturing():
        return None
    stream = cuda.current_stream(value.device)
    # The target of a copy that does not block is pinned memory, from torch's cache of it.
    tensor = value.detach().to("cpu", non_blocking=True)
    event = cuda.Event()
    event.record(stream)
    return Copy(tensor, event)
