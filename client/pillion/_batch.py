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
    """A change of the run's config or summary."""

    kind: str
    """`config_update` or `summary_update`."""
    values: dict[str, Value]


class Batch(NamedTuple):
    """An encoded `LogMetricsRequest`."""

    sequence: int
    row_count: int
    message: bytes
