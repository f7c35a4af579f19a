"""Places for calls that read for long: how many there may be, and the thread that they share.

A thread of their own, so that no number of readers keeps another question, or a commit, waiting. It
competes with intake for the interpreter, so it rests while much is taken in.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

from pillion_sidecar.errors import LimitError

READS_MAX = 64
"""Calls at a time; then they are refused."""
REST = 3
"""So much longer than an item took the next one waits while intake is busy."""

_Item = TypeVar("_Item")


class ReadingPlaces:
    """See the module. Used from the event loop only."""

    def __init__(self, is_busy: Callable[[], bool]) -> None:
        """Make them, to be asked whether intake is busy."""
        self._is_busy, self._taken = is_busy, 0
        self._thread = ThreadPoolExecutor(1, "reader")
        self._turn = asyncio.Lock()
        """Who has the thread, and the rest behind it."""

    async def items(self, make: Callable[[], Iterator[_Item]]) -> AsyncGenerator[_Item]:
        """Yield what an iterator yields, which is made and run in a thread.

        The next item is made when the one before was taken: a slow reader costs a place, no more.

        Raises:
            LimitError: Too many read already.
        """
        with self.place():
            items = await self.run(make)
            while (item := await self.run(lambda: next(items, None))) is not None:
                yield item

    async def run(self, read: Callable[[], _Item]) -> _Item:
        """Read something in the thread, for a call that has a place."""
        async with self._turn:
            began_s = time.monotonic()
            item = await asyncio.get_running_loop().run_in_executor(self._thread, read)
            if self._is_busy():
                await asyncio.sleep(REST * (time.monotonic() - began_s))
            return item

    @contextmanager
    def place(self) -> Iterator[None]:
        """Have a place for the life of a call. Raises `LimitError` if all are taken."""
        if self._taken >= READS_MAX:
            raise LimitError(
                f"{READS_MAX} calls read, search, compare or watch already. Take fewer, or try "
                "again when one has ended.",
                "READS_MANY",
            )
        self._taken += 1
        try:
            yield
        finally:
            self._taken -= 1
