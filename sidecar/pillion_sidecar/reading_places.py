"""Places for calls that read for long: how many there may be, and the few threads they share.

Threads of their own, so that no number of readers keeps another question, or a commit, waiting.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

from pillion_sidecar.errors import LimitError

READS_MAX = 64
"""Calls at a time; then they are refused."""
THREADS = 2

_Item = TypeVar("_Item")


class ReadingPlaces:
    """See the module. Used from the event loop only."""

    def __init__(self) -> None:
        self._taken = 0
        self._threads = ThreadPoolExecutor(THREADS, "reader")

    async def items(self, make: Callable[[], Iterator[_Item]]) -> AsyncGenerator[_Item]:
        """Yield what an iterator yields, which is made and run in a thread.

        The next item is made when the one before was taken: a slow reader costs a place, no more.

        Raises:
            LimitError: Too many read already.
        """
        loop = asyncio.get_running_loop()
        with self.place():
            items = await loop.run_in_executor(self._threads, make)
            while (
                item := await loop.run_in_executor(self._threads, next, items, None)
            ) is not None:
                yield item

    def close(self) -> None:
        """Have no more items made."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def run(self, read: Callable[[], _Item]) -> _Item:
        """Read something in a thread, for a call that has a place."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, read)

    @contextmanager
    def place(self) -> Iterator[None]:
        """Have a place for the life of a call. Raises `LimitError` if all are taken."""
        if self._taken >= READS_MAX:
            raise LimitError(
                f"{READS_MAX} calls read or watch already. Take fewer, or try again when one has "
                "ended.",
                "READS_MANY",
            )
        self._taken += 1
        try:
            yield
        finally:
            self._taken -= 1
