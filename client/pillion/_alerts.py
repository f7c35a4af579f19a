"""How often a run's alerts may be raised: one of a title now and then, and not too many at all."""

import time
from collections import deque
from enum import StrEnum
from typing import Any

from pillion.plain import to_text

WAIT_S = 60.0
"""How long an alert with the same title waits for the last one, unless the caller says else."""
TITLES_MAX = 1_000
"""So many titles are remembered; then the oldest is forgotten."""
PER_MINUTE_MAX = 20
"""Alerts of one run, whatever their titles."""
TITLE_CHARACTERS_MAX, TEXT_CHARACTERS_MAX = 256, 4_096
"""What is longer is cut: in UTF-8 the sidecar takes four times as many bytes."""

_MINUTE_S = 60.0


class AlertLevel(StrEnum):
    """How grave an alert is; the texts do as well."""

    INFO = "INFO"
    WARN = "WARN"
    ERROR = "ERROR"


class Alerts:
    """Decides which alerts of a run are raised."""

    def __init__(self) -> None:
        self._raised_at_s: dict[str, float] = {}
        self._latest: deque[float] = deque(maxlen=PER_MINUTE_MAX)

    def admit(self, title: Any, text: Any, level: Any, wait_s: Any) -> dict[str, Any] | None:
        """Return the fields of `Alert`; None if it comes too soon."""
        title = " ".join(to_text(title).split())[:TITLE_CHARACTERS_MAX] or "(no title)"
        seconds = getattr(wait_s, "total_seconds", None)
        wait_s = WAIT_S if wait_s is None else float(seconds() if seconds else wait_s)
        now_s = time.monotonic()
        raised_s = self._raised_at_s.get(title)
        if raised_s is not None and now_s - raised_s < wait_s:
            return None
        if len(self._latest) == PER_MINUTE_MAX and now_s - self._latest[0] < _MINUTE_S:
            return None
        self._latest.append(now_s)
        self._raised_at_s.pop(title, None)
        self._raised_at_s[title] = now_s
        if len(self._raised_at_s) > TITLES_MAX:
            self._raised_at_s.pop(next(iter(self._raised_at_s)))
        name = to_text(getattr(level, "value", level)).upper()
        name = "WARN" if name == "WARNING" else name
        return {
            "title": title,
            "text": to_text(text)[:TEXT_CHARACTERS_MAX],
            "level": f"LEVEL_{name if name in set(AlertLevel) else 'INFO'}",
            "time_unix_nano": time.time_ns(),
        }
