"""Ctrl-C and SIGTERM, taken so that a training can be ended well.

Before the first step a signal ends the work as `KeyboardInterrupt`. From then on the first one
waits for the end of the step, so that the adapter can be saved; a second one does not wait.
"""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopRequest:
    """Whether somebody asked to stop, and by which signal.

    `waits_for_step` is set by whoever looks at `is_made` after every step (`guard.py`).
    """

    def __init__(self) -> None:
        self.signal_number: int | None = None
        self.waits_for_step = False

    @property
    def is_made(self) -> bool:
        """Whether a signal came."""
        return self.signal_number is not None

    @property
    def exit_code(self) -> int:
        """128 + the signal's number, as shells count; 0 where nobody asked."""
        return 0 if self.signal_number is None else 128 + self.signal_number

    @property
    def signal_name(self) -> str:
        """`SIGINT` or `SIGTERM`; empty where nobody asked."""
        return "" if self.signal_number is None else signal.Signals(self.signal_number).name

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Take the signals of this process for as long as the context lasts. Main thread only."""
        before = {number: signal.signal(number, self._receive) for number in SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _receive(self, number: int, _frame: Any) -> None:
        is_first = not self.is_made
        self.signal_number = number
        if not (self.waits_for_step and is_first):
            raise KeyboardInterrupt
