"""Histograms of a PyTorch model's weights and gradients, as `Run.watch` logs them.

torch is not imported here: who has a model has it.
"""

import threading
from collections.abc import Callable, Iterable
from typing import Any, Literal

from pillion._histogram import Histogram
from pillion._tensors import is_refused

BIN_COUNT = 64

What = Literal["gradients", "parameters", "all"]


class Watch:
    """Hooks on one model. Every `interval`-th forward pass of its training is looked at.

    Then weights become `parameters/NAME`, and the gradients of the backward pass that follows
    `gradients/NAME`. They are counted where they are, so a GPU is waited for at these steps, and
    join the row that is committed next.
    """

    def __init__(
        self, model: Any, keep: Callable[[dict[str, Any]], None], what: What, interval: int
    ) -> None:
        """Begin.

        Args:
            model: A `torch.nn.Module`.
            keep: Takes histograms for the next row.
            what: What is looked at.
            interval: At every how many forward passes.
        """
        self._model, self._keep, self._what = model, keep, what
        self._interval, self._pass_count = max(1, interval), 0
        self._is_due = False
        self._lock = threading.Lock()
        """Backward passes on several devices have a thread each."""
        self._hooks = [model.register_forward_pre_hook(self._on_forward)]
        if what != "parameters":
            for name, parameter in _trained(model):
                self._hooks.append(parameter.register_hook(self._gradient_hook(name)))

    def close(self) -> None:
        """Take the hooks away."""
        for hook in self._hooks:
            hook.remove()

    def _on_forward(self, model: Any, _: Any) -> None:
        self._is_due = False
        if not model.training:
            return
        self._pass_count += 1
        if self._pass_count % self._interval:
            return
        self._is_due = True
        if self._what != "gradients":
            self._keep(
                {
                    f"parameters/{name}": histogram
                    for name, parameter in _trained(model)
                    if (histogram := _histogram_of(parameter)) is not None
                }
            )

    def _gradient_hook(self, name: str) -> Callable[[Any], None]:
        def on_gradient(gradient: Any) -> None:
            if self._is_due and (histogram := _histogram_of(gradient)) is not None:
                with self._lock:
                    self._keep({f"gradients/{name}": histogram})

        return on_gradient


def _trained(model: Any) -> Iterable[tuple[str, Any]]:
    return ((name, each) for name, each in model.named_parameters() if each.requires_grad)


def _histogram_of(tensor: Any) -> Histogram | None:
    """Count a tensor on its own device; None where nothing in it is finite, or it is odd."""
    try:
        if is_refused(tensor):
            return None
        numbers = tensor.detach().flatten().float()
        numbers = numbers[numbers.isfinite()]
        least, largest = float(numbers.min()), float(numbers.max())
        if least == largest:
            least, largest = least - 0.5, largest + 0.5
        counts = numbers.histc(BIN_COUNT, min=least, max=largest).tolist()
    except Exception:  # noqa: BLE001 - in training's own backward pass nothing may be raised
        return None
    width = (largest - least) / BIN_COUNT
    edges = [*(least + width * index for index in range(BIN_COUNT)), largest]
    return Histogram(np_histogram=(counts, edges))
