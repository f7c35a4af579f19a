"""What waits in the client: rows and updates to be encoded, batches to be acked.

Apart from `_encoding.py`, since this must not load protobuf.
"""

from typing import NamedTuple

from pillion.plain import Value


class Row(NamedTuple):
    """One committed `log()`. The values are floats, ints and bools. Queued as a plain tuple."""

    step: int
    time_unix_nano: int
    values: dict[str, float | int | bool]


class Update(NamedTuple):
    """A change of the run's config or summary, or lines that were printed."""

    kind: str
    """`config_update`, `summary_update` or `console_lines`."""
    values: dict[str, Value]
    """What to merge; of lines, the fields of `ConsoleLines`."""


class Batch(NamedTuple):
    """An encoded `LogMetricsRequest`."""

    sequence: int
    row_count: int
    message: bytes
