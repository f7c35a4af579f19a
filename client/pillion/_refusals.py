"""Why a value of a row is not taken, and how it can be logged, for people.

Reads types and shapes alone: nothing here waits for a device, or looks at what a value holds.
"""

from collections.abc import Mapping
from typing import Any

from pillion._counts import Refused
from pillion._notice import warn

NAMES_TOLD_MAX = 5
"""Names of a run whose first refusal is told; of others only that there are more."""

NAME_CHARACTERS_MAX = 80

_PICTURES = frozenset({"PIL", "matplotlib", "plotly"})
"""Packages whose objects are pictures, or can be made into one."""


def tell_refusal(name: str, value: Any, problem: str, refused: Refused) -> None:
    """Warn of the first value that is refused under a name. Never raises.

    Args:
        name: The name in the row.
        value: What is refused.
        problem: Why, if that is known already; else it is told by what the value is.
        refused: Knows what was told.
    """
    name, told = name[:NAME_CHARACTERS_MAX], refused.told
    if name in told or len(told) > NAMES_TOLD_MAX:
        return
    told.add(name)
    if len(told) > NAMES_TOLD_MAX:
        warn("pillion: values of still more names were refused, as %r. They are counted.", name)
    else:
        why = problem or _problem_of(value)
        warn("pillion: the value %r was refused: %s. More of it are only counted.", name, why)


def _problem_of(value: Any) -> str:
    try:
        return f"{_what(value)}; {_advice(value)}"
    except Exception:  # noqa: BLE001 - a stranger's methods may raise anything
        return "it cannot be read; log a number"


def _what(value: Any) -> str:
    if value is None:
        return "it is None"
    name = f"it is of type {type(value).__name__}"
    if isinstance(value, list | tuple | set | frozenset | bytes):
        return f"{name} with {len(value)} elements"
    shape = getattr(value, "shape", None)
    return name if shape is None else f"{name} and shape {tuple(map(int, shape))}"


def _advice(value: Any) -> str:
    if value is None:
        return "leave the name out of rows that have no value of it"
    if isinstance(value, Mapping):
        return "it is nested too deep, too large, or cannot be read"
    if type(value).__module__.partition(".")[0] in _PICTURES:
        return "log it as pillion.Image(...)"
    if hasattr(value, "itertuples"):
        return "log it as pillion.Table(dataframe=...)"
    if isinstance(value, list | tuple | set | frozenset):
        return "log it as pillion.Histogram(...), or each number under a name of its own"
    shape = getattr(value, "shape", None)
    if shape is None:
        return "log a number, as by float(...), or a text, as by str(...)"
    if all(size == 1 for size in shape):
        return "log a number of the host's, as by .item()"
    kinds = ["pillion.Histogram(...)"] + ["pillion.Image(...)"] * (len(shape) in {2, 3})
    return f"log it as {' or '.join(kinds)}, or one number of it, as by .mean().item()"
