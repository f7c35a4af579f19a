"""Rules of the user's own: `METRIC > VALUE for N steps`."""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field

from pillion_sidecar.errors import SettingsError

_COMPARISONS: dict[str, Callable[[float, float], bool]] = {
    ">": lambda value, limit: value > limit,
    ">=": lambda value, limit: value >= limit,
    "<": lambda value, limit: value < limit,
    "<=": lambda value, limit: value <= limit,
}


@dataclass(slots=True)
class Threshold:
    """A rule of the user's: `METRIC > VALUE for N steps`, in N values in a row."""

    metric: str
    """A name, or a glob."""
    comparison: str
    limit: float
    count_min: int = 1
    _count: int = field(default=0, init=False)

    @classmethod
    def parse(cls, text: str) -> "Threshold":
        """Read a rule.

        Raises:
            SettingsError: It is none.
        """
        found = re.fullmatch(
            r"\s*(\S.*?)\s*(>=|<=|>|<)\s*([-+.\w]+)(?:\s+for\s+(\d{1,9})\s+steps?)?\s*", text
        )
        limit = _number(found[3]) if found else None
        count = int(found[4] or 1) if found else 0
        if found is None or limit is None or count == 0:
            raise SettingsError(
                f"{text!r} is no rule. Write `METRIC > VALUE for N steps`, with >, >=, < or <=, "
                "such as `train/loss > 10 for 20 steps`; `for N steps` may be left out."
            )
        return cls(found[1], found[2], limit, count)

    def feed(self, value: float) -> str:
        """Take the next value; return the evidence when the rule begins to hold."""
        if not _COMPARISONS[self.comparison](value, self.limit):
            self._count = 0
            return ""
        self._count += 1
        if self._count != self.count_min:
            return ""
        return (
            f"it is {value:.6g}, and has been {self.comparison} {self.limit:g} "
            f"for {self._count} steps"
        )


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return None if math.isnan(number) else number
