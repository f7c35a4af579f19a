"""Which points of a run's metrics are wanted: by name or glob, in a range, all or some of them."""

import fnmatch
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from pillion.system import is_system
from pillion_sidecar.errors import PeerError
from pillion_sidecar.records import RunId

NAMES_SHOWN = 10
_GLOB = re.compile(r"[*?[]")


@dataclass(frozen=True, slots=True)
class Selection:
    """Which points are wanted. All bounds are inclusive."""

    keys: tuple[str, ...] = ()
    """Names or globs; none: all metrics but those of the system."""
    min_step: int | None = None
    max_step: int | None = None
    min_time_unix_nano: int | None = None
    max_time_unix_nano: int | None = None
    min_ordinal: int = 0
    stride: int = 1
    """Every n-th point of each metric."""
    max_points: int = 0
    """Of each metric; 0: all. Then what is no number is left out."""

    @property
    def has_range(self) -> bool:
        """Whether rows have to be looked at to tell which are wanted."""
        bounds = (self.min_step, self.max_step, self.min_time_unix_nano, self.max_time_unix_nano)
        return any(bound is not None for bound in bounds)


def chosen_keys(run_id: RunId, names: Collection[str], wanted: Sequence[str]) -> set[str]:
    """Return the metrics that are meant by names and globs, of those that the run has.

    By nothing all are meant but those of the system, which `*` means too.

    Raises:
        PeerError: The run has no metric of a name that was given, or a glob is malformed.
    """
    if not wanted:
        return {name for name in names if not is_system(name)}
    chosen: set[str] = set()
    for pattern in wanted:
        if pattern in names:
            chosen.add(pattern)
        elif is_glob(pattern):
            check_glob(pattern, "keys")
            is_match = re.compile(fnmatch.translate(pattern)).match
            chosen.update(name for name in names if is_match(name))
        else:
            raise PeerError(
                f"Run {run_id} has no metric {pattern[:80]!r}. {_has(names)}", "METRIC_UNKNOWN"
            )
    return chosen


def is_glob(pattern: str) -> bool:
    """Tell whether a text may stand for several metrics."""
    return bool(_GLOB.search(pattern))


def check_glob(pattern: str, where: str) -> None:
    """Refuse a glob with a `[` that is never closed: it would fit other names than it seems to."""
    place = 0
    while (place := pattern.find("[", place)) >= 0:
        first = place + 1 + pattern.startswith("!", place + 1)  # there a ] is a character
        place = pattern.find("]", first + 1)
        if place < 0:
            raise PeerError(
                f"{where}: {pattern[:80]!r} is no glob: a [ is never closed. Close it, or write "
                "[[] for the character itself.",
                "GLOB_MALFORMED",
            )


def _has(names: Collection[str]) -> str:
    if not names:
        return "It has none yet."
    shown = ", ".join(sorted(names, key=is_system)[:NAMES_SHOWN])
    return f"It has {shown}{' …' if len(names) > NAMES_SHOWN else ''}."
