"""Bounds what is on its way to the disk, over all streams: who would exceed it waits its turn.

A stream that waits reads no further message, and gRPC's flow control holds its writer. Nothing is
refused. Used from the event loop only.
"""

import asyncio
from collections import deque


class Budget:
    """So many bytes may be out at once; those who wait are served in the order they came in."""

    def __init__(self, bytes_max: int) -> None:
        self._left_bytes = bytes_max
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    async def take(self, size_bytes: int) -> None:
        """Wait until these bytes fit in. At most `bytes_max` are asked for at once."""
        if not self._waiting and size_bytes <= self._left_bytes:
            self._left_bytes -= size_bytes
            return
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append((size_bytes, turn))
        try:
            await turn
        except asyncio.CancelledError:
            if turn.cancelled():
                self._waiting.remove((size_bytes, turn))
                self._serve()
            else:  # its turn had just come
                self.give(size_bytes)
            raise

    def give(self, size_bytes: int) -> None:
        """Give bytes back."""
        self._left_bytes += size_bytes
        self._serve()

    def _serve(self) -> None:
        while self._waiting and self._waiting[0][0] <= self._left_bytes:
            size_bytes, turn = self._waiting.popleft()
            self._left_bytes -= size_bytes
            turn.set_result(None)
