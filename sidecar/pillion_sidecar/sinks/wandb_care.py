"""What the W&B sink remembers of a run that a server has refused, or that could not be opened.

If the server refuses what a post holds (400, 413, 422), one of its rows may be to blame. So the run
is opened again with ever fewer rows under way at once, until one dies alone: that one is set aside,
durably and with the reason, and the rest goes on. Any other refusal is the run's, and after several
rows in a row it is no row's fault: the run is tried again after ever longer pauses.
"""

import json
import random
import time
from dataclasses import dataclass, field
from pathlib import Path

from pillion_sidecar.durable_files import write_durably
from pillion_sidecar.errors import SinkError

ROW_STATUSES = frozenset({400, 413, 422})
"""What a server answers if it does not like what it was sent."""
STRIKES_MAX = 3
"""So many rows are set aside without one between them that is taken; then it is no row's fault."""
PAUSE_MIN_S, PAUSE_MAX_S, DOUBLINGS_MAX = 0.5, 60.0, 10
WINDOW_MAX = 1 << 30
"""As good as no limit."""
REASON_CHARACTERS_MAX = 300


@dataclass
class Care:
    """One run's. `path` holds the rows that were set aside, and artifacts that were left out."""

    path: Path
    aside: dict[int, str] = field(default_factory=dict)
    """Ordinals of rows that the server never takes, with what it said."""
    left_out: dict[str, str] = field(default_factory=dict)
    """Artifacts that W&B never takes, or links: `NAME:VERSION`, with what was said."""
    window: int = WINDOW_MAX
    """So many rows may be under way at once."""
    trouble: str = ""
    """What has happened, for people, until rows arrive again."""
    reason: str = ""
    """The same for programs, as far as the run could not be opened."""
    retry_at_s: float = 0.0
    _strike_count: int = 0
    _death_count: int = 0
    _closed_count: int = 0

    @classmethod
    def load(cls, path: Path) -> "Care":
        """Return what is known of a run."""
        try:
            known = json.loads(path.read_bytes())
        except FileNotFoundError:
            known = {}
        aside = {int(key): reason for key, reason in known.items() if key.isdecimal()}
        left_out = {key: reason for key, reason in known.items() if not key.isdecimal()}
        return cls(path, aside, left_out)

    def not_opened(self, error: SinkError) -> None:
        """Take it that the run could not be opened."""
        self.trouble, self.reason = str(error), error.reason
        self._closed_count += 1
        self._pause(self._closed_count)

    def opened(self) -> None:
        """Take it that the run was opened; what was wrong before is over."""
        if self._closed_count:
            self._closed_count = 0
            self.trouble = self.reason = ""

    def arrived(self) -> None:
        """Take it that rows have arrived."""
        self._strike_count = self._death_count = 0
        self.trouble = ""

    def died(self, status: int | None, reason: str, under_way: list[int]) -> None:
        """Take it that the upload has died with these rows under way, the first one first."""
        self.trouble = reason
        is_rows_fault = status in ROW_STATUSES and under_way and self._strike_count < STRIKES_MAX
        if not is_rows_fault:
            self.window = WINDOW_MAX
            self._death_count += 1
            self._pause(self._death_count)
        elif len(under_way) > 1:
            self.window = len(under_way) // 2
        else:
            self._set_aside(under_way[0], reason)
            self._strike_count += 1
            self.window = WINDOW_MAX

    @property
    def note(self) -> str:
        """What people are to know: what was set aside, and what goes wrong now."""
        notes = [self.trouble] if self.trouble else []
        if self.aside:
            ordinal, reason = next(iter(self.aside.items()))
            count = f"{len(self.aside)} rows" if len(self.aside) > 1 else "1 row"
            notes.append(f"W&B never takes {count} (the first: number {ordinal}): {reason}")
        return " ".join([*notes, *self.left_out.values()])

    def leave_out(self, artifact: str, said: str) -> None:
        """Take it that an artifact is left out, and note what people are to know of that."""
        self.left_out[artifact] = said[:REASON_CHARACTERS_MAX]
        self._save()

    def _pause(self, failure_count: int) -> None:
        pause_s = min(PAUSE_MIN_S * 2 ** min(failure_count, DOUBLINGS_MAX), PAUSE_MAX_S)
        self.retry_at_s = time.monotonic() + random.uniform(pause_s / 2, pause_s)  # noqa: S311

    def _set_aside(self, ordinal: int, reason: str) -> None:
        self.aside[ordinal] = reason[:REASON_CHARACTERS_MAX]
        self._save()

    def _save(self) -> None:
        self.path.parent.mkdir(exist_ok=True)
        write_durably(self.path, json.dumps({**self.aside, **self.left_out}))
