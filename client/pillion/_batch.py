"""What waits in the client: rows and updates to be encoded, batches to be acked.

Apart from `_encoding.py`, since this must not load protobuf.
"""

from typing import NamedTuple, TypeAlias

from pillion._counts import Refused
from pillion._file import Files, Held
from pillion._histogram import Histogram
from pillion._tensors import Copy
from pillion.plain import Value

Logged: TypeAlias = float | int | bool | str | Histogram | Files
"""What a row holds under one name."""


class Row(NamedTuple):
    """One committed `log()`. Queued as a plain tuple."""

    step: int
    time_unix_nano: int
    values: dict[str, Logged]


class WaitingRow(NamedTuple):
    """A row with values that are still on their way from a device. Those behind it wait too."""

    step: int
    time_unix_nano: int
    values: dict[str, Logged | Copy]

    def is_ready(self) -> bool:
        """Tell whether all of it is here. Does not wait."""
        return all(value.is_ready() for value in self.values.values() if type(value) is Copy)

    def read(self, refused: Refused) -> Row:
        """Return the row as it is; what did not come is left out and counted."""
        values: dict[str, Logged] = {}
        for key, value in self.values.items():
            number = value.read() if isinstance(value, Copy) else value
            if number is None:
                refused.values += 1
            else:
                values[key] = number
        return Row(self.step, self.time_unix_nano, values)


def row_of(
    step: int, time_unix_nano: int, values: dict[str, Logged | Copy], held: Held, refused: Refused
) -> tuple[int, int, dict[str, Logged | Copy]] | WaitingRow | None:
    """Return what is queued for a row: a plain tuple, unless some of it is on its way.

    Files for which there is no room are left out and counted; None: nothing is left.
    """
    for key, value in list(values.items()):
        if type(value) is Files and not held.take(held_bytes(value)):
            del values[key]
            refused.values += 1
    if not values:
        return None
    if any(type(value) is Copy for value in values.values()):
        return WaitingRow(step, time_unix_nano, values)
    return step, time_unix_nano, values


def held_bytes(files: Files) -> int:
    """Return what files hold until they are encoded."""
    return sum(file.held_bytes for file in files)


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
