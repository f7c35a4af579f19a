"""A histogram that is logged in a row beside its numbers: made at once, of numbers or of counts."""

import math
import sys
from collections.abc import Iterable
from typing import Any

from pillion.plain import to_text

BINS_MAX = 1_024

_BINS_DEFAULT = 64


class Histogram:
    """How often numbers fell between edges. Never changes.

    What is not finite among the numbers is left out.
    """

    def __init__(
        self,
        sequence: Any = None,
        np_histogram: tuple[Any, Any] | None = None,
        num_bins: int = _BINS_DEFAULT,
    ) -> None:
        """Count numbers, or take what was counted.

        Args:
            sequence: Numbers: a sequence, an array or a tensor of any shape.
            np_histogram: Counts and edges, as `numpy.histogram` returns them.
            num_bins: Between how many edges numbers are counted; at most 1,024.
        """
        self.problem = ""
        """Why it cannot be taken, for people; empty if it can."""
        self.edges: tuple[float, ...] = ()
        self.counts: tuple[float, ...] = ()
        try:
            if np_histogram is None:
                counts, edges = _counted(sequence, min(max(int(num_bins), 1), BINS_MAX))
            else:
                counts, edges = np_histogram
            self.counts = tuple(map(float, _list_of(counts)))
            self.edges = tuple(map(float, _list_of(edges)))
        except Exception as error:  # noqa: BLE001 - a stranger's methods may raise anything
            self.problem = f"it cannot be counted: {to_text(error)}"
            return
        if not 0 < len(self.counts) <= BINS_MAX or len(self.edges) != len(self.counts) + 1:
            self.problem = f"it has {len(self.counts)} counts and {len(self.edges)} edges"
        elif not all(map(math.isfinite, (*self.counts, *self.edges))):
            self.problem = "it has counts or edges that are not finite"
        elif any(low > high for low, high in zip(self.edges, self.edges[1:], strict=False)):
            self.problem = "its edges do not ascend"


def _counted(sequence: Any, bin_count: int) -> tuple[Any, Any]:
    if hasattr(sequence, "detach"):
        sequence = sequence.detach().float().cpu()
        sequence = sequence.numpy() if "numpy" in sys.modules else sequence.flatten().tolist()
    numpy = sys.modules.get("numpy")
    if numpy is not None and isinstance(sequence, numpy.ndarray):
        numbers = sequence[numpy.isfinite(sequence)]
        if not numbers.size:
            raise ValueError("there are no numbers in it")
        return tuple(numpy.histogram(numbers, bins=bin_count))
    numbers = [number for number in map(float, _flat(sequence)) if math.isfinite(number)]
    if not numbers:
        raise ValueError("there are no numbers in it")
    least, largest = min(numbers), max(numbers)
    if least == largest:
        least, largest = least - 0.5, largest + 0.5
    width = (largest - least) / bin_count
    counts = [0] * bin_count
    for number in numbers:
        counts[min(int((number - least) / width), bin_count - 1)] += 1
    return counts, [*(least + width * index for index in range(bin_count)), largest]


def _flat(values: Iterable[Any]) -> Iterable[Any]:
    for value in values:
        if isinstance(value, list | tuple):
            yield from _flat(value)
        else:
            yield value


def _list_of(values: Any) -> list[Any]:
    return list(values.tolist() if hasattr(values, "tolist") else values)
