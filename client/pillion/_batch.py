"""What waits in the client: rows and updates to be encoded, batches to be acked.

Apart from `_encoding.py`, since this must not load protobuf.
"""

from typing import NamedTuple

from pillion._counts import Refused
from pillion._tensors import Copy
from pillion.plain import Value


class Row(NamedTuple):
    """One committed `log()`. The values are floats, ints and bools. Queued as a plain tuple."""

    step: int
    time_unix_nano: int
    values: dict[str, float | int | bool]


class WaitingRow(NamedTuple):
    """A row with values that are still on their way from a device. Those behind it wait too."""

    step: int
    time_unix_nano: int
    values: dict[str, float | int | bool | Copy]

    def is_ready(self) -> bool:
        """Tell whether all of it is here. Does not wait."""
        return all(value.is_ready() for value in self.values.values() if type(value) is Copy)

    def read(self, refused: Refused) -> Row:
        """Return the row as it is; what did not come is left out and counted."""
        values: dict[str, float | int | bool] = {}
        for key, value in self.values.items():
            number = value.read() if isinstance(value, Copy) else value
            if number is None:
                refused.values += 1
            else:
                values[key] = number
        return Row(self.step, self.time_unix_nano, values)


def row_of(
    step: int, time_unix_nano: int, values: dict[str, float | int | bool | Copy]
) -> tuple[int, int, dict[str, float | int | bool | Copy]] | WaitingRow:
    """Return what is queued for a row: a plain tuple, unless some of it is on its way."""
    if any(type(value) is Copy for value in values.values()):
        return WaitingRow(step, time_unix_nano, values)
    return step, time_unix_nano, values


class Update(NamedTuple):
    """What is said beside rows: a change of config, lines that were printed, an alert."""

    kind: str
    """The record: `config_update`, `summary_update`, `console_lines` …"""
    values: dict[str, Value]
    """What to merge; of others than config and summary, the record's fields."""


class Batch(NamedTuple):
    """An encoded `LogMetricsRequest`."""

    sequence: int
    row_count: int
    message: bytes
