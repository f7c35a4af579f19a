"""Lines as a terminal would show them in the end, out of what a command prints.

A progress bar that is redrawn with carriage returns is one line: its last state. Colours and other
escape sequences are left out. Whatever is printed, memory and the rate of lines are bounded.
"""

import re
import threading
import time
from collections.abc import Callable

LINE_BYTES_MAX = 16 * 1024
"""Of a longer line the rest is cut off, and `CUT_MARK` says so."""
CUT_MARK = " … (cut)"
BYTES_PER_S, BYTES_BURST = 256 * 1024, 4 * 1024 * 1024
"""What is kept of a command that prints more than that: its first burst, then this rate. The
number of lines that are left out stands where they would be."""
LINES_MAX, LINES_BYTES_MAX = 1024, 256 * 1024
"""Of one record; more lines that come at once make several."""

_ESCAPES = re.compile(
    rb"\x1b\[[0-?]*[ -/]*[@-~]"  # colours, cursor movements
    rb"|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)"  # titles, links
    rb"|\x1b[ -/]*[0-Z\\-~]"
)


class LineSplitter:
    """Splits one stream into lines."""

    def __init__(self) -> None:
        self._rest = b""
        """The line that has not ended, in its last state; one byte too long if it was cut."""

    def feed(self, data: bytes) -> list[str]:
        """Return the lines that end in this."""
        *ended, rest = (self._rest + data).split(b"\n")
        self._rest = _last_state(rest)[: LINE_BYTES_MAX + 1] + b"\r" * rest.endswith(b"\r")
        return [_to_text(_last_state(line)) for line in ended]

    def end(self) -> list[str]:
        """Return the line that had no end, if there is one."""
        rest, self._rest = _last_state(self._rest), b""
        return [_to_text(rest)] if rest else []


class ConsoleLines:
    """Hands lines on, at a rate that nothing downstream need fear. Thread-safe; never waits."""

    def __init__(
        self,
        send: Callable[[list[str], int], None],
        *,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Make one.

        Args:
            send: Takes lines and the number of the stream they came from.
            monotonic: The clock.
        """
        self._send, self._monotonic = send, monotonic
        self._lock = threading.Lock()
        self._room_bytes, self._filled_s = float(BYTES_BURST), monotonic()
        self._left_out_count = 0

    def add(self, lines: list[str], stream: int) -> None:
        """Hand these lines on, or count them."""
        with self._lock:
            now_s = self._monotonic()
            gained = (now_s - self._filled_s) * BYTES_PER_S
            self._room_bytes = min(self._room_bytes + gained, BYTES_BURST)
            self._filled_s = now_s
            part: list[str] = []
            part_bytes = 0
            for line in lines:
                size_bytes = len(line.encode()) + 1
                if size_bytes > self._room_bytes:
                    self._left_out_count += 1
                    continue
                self._room_bytes -= size_bytes
                line_count = len(part) + bool(self._left_out_count)  # a gap is told by a line, too
                if part_bytes + size_bytes > LINES_BYTES_MAX or line_count >= LINES_MAX:
                    self._send(part, stream)
                    part, part_bytes = [], 0
                if self._left_out_count:
                    part.append(self._gap())
                part.append(line)
                part_bytes += size_bytes
            if part:
                self._send(part, stream)

    def end(self) -> None:
        """Say how many lines were left out last."""
        with self._lock:
            if self._left_out_count:
                self._send([self._gap()], 0)

    def _gap(self) -> str:
        count, self._left_out_count = self._left_out_count, 0
        return f"… {count:,} line{'s' * (count != 1)} left out: too many at once"


def _last_state(line: bytes) -> bytes:
    """Return what stands in a line after all its carriage returns."""
    return line.rstrip(b"\r").rpartition(b"\r")[2]


def _to_text(line: bytes) -> str:
    cut = len(line) > LINE_BYTES_MAX
    text = _ESCAPES.sub(b"", line[:LINE_BYTES_MAX]).decode(errors="replace")
    return text + CUT_MARK if cut else text
