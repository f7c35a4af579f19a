"""Calls what may never return, such as a driver or a network's filesystem, and waits a little."""

import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Generic, TypeVar

_Result = TypeVar("_Result")


class Aside(Generic[_Result]):
    """Has at most one call under way. Used by one thread."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._thread: threading.Thread | None = None

    def call(self, function: Callable[[], _Result], wait_s: float) -> _Result | None:
        """Call in a daemon thread; None: it takes longer, or the call before still does.

        What it raises counts as nothing, too.
        """
        if self._thread is not None and self._thread.is_alive():
            return None
        results: list[_Result] = []

        def run() -> None:
            with suppress(Exception):  # missing hardware is silence
                results.append(function())

        self._thread = threading.Thread(target=run, name=self._name, daemon=True)
        self._thread.start()
        self._thread.join(wait_s)
        return results[0] if results else None
