"""How a writer's metrics are to be read: what was said of each, in one."""

from collections.abc import Sequence
from typing import Any

from pillion._notice import warn
from pillion.plain import to_text

DEFINITIONS_MAX = 1_000
"""Names whose definitions are remembered; the store keeps no more of a run."""

NAME_CHARACTERS_MAX = 256
"""Of a metric that is defined; in UTF-8 the sidecar takes four times as many bytes."""

_SUMMARIES = {"MIN", "MAX", "MEAN", "LAST", "FIRST", "NONE"}
_NOTHING = "SUMMARY_NONE"


class Definitions:
    """What was defined so far. A later definition of a name adds to the earlier ones.

    So each that is sent is whole, and its readers take the last.
    """

    def __init__(self) -> None:
        self._by_name: dict[str, dict[str, Any]] = {}

    def add(
        self, name: str, step_metric: str, summaries: Sequence[str], *, overwrite: bool = False
    ) -> dict[str, Any]:
        """Return the fields of a whole definition.

        Args:
            name: The metric's.
            step_metric: Its x-axis; empty: as it was.
            summaries: `SUMMARY_MIN` …, beside those of before; `SUMMARY_NONE` stands alone.
            overwrite: Forget what was said of the name before.
        """
        known = None if overwrite else self._by_name.get(name)
        kept = known["summaries"] if known and _NOTHING not in summaries else []
        if summaries:
            kept = [each for each in kept if each != _NOTHING]
        whole = {
            "name": name,
            "step_metric": step_metric or (known["step_metric"] if known else ""),
            "summaries": list(dict.fromkeys([*kept, *summaries])),
        }
        if name in self._by_name or len(self._by_name) < DEFINITIONS_MAX:
            self._by_name[name] = whole
        return whole


def summaries_of(summary: Any, goal: Any) -> list[str]:
    """Read summaries as `define_metric` takes them; warn of those that are not known."""
    best = "MAX" if to_text(goal).startswith("max") else "MIN"
    words = [word for each in to_text(summary or "").split(",") if (word := each.strip().upper())]
    words = [best if word == "BEST" else word for word in words]
    known = [f"SUMMARY_{word}" for word in words if word in _SUMMARIES]
    if len(known) < len(words):
        warn(
            "pillion: of a metric's summary %r only min, max, mean, last, first and none are "
            "known.",
            summary,
        )
    return known
