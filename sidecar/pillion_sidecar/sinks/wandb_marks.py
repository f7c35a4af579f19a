"""Which alerts were sent to a W&B server: marked before they are, so that none is sent twice.

An online run is handed over anew after every death of its worker; its rows are known to the server
then, its alerts are not. The mark is on disk before the SDK is told: what dies between is not sent.
"""

import hashlib
import json
from pathlib import Path

from pillion_sidecar.durable_files import write_durably
from pillion_sidecar.records import Alert

MARKS_MAX = 1_000
"""Of one run; then the oldest go."""


class AlertMarks:
    """One run's, in a file of its own."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._marks: list[str] = json.loads(path.read_bytes())
        except FileNotFoundError:
            self._marks = []

    def mark(self, alert: Alert) -> bool:
        """Mark an alert as sent; tell whether it was not before. Raises OSError."""
        said = f"{alert.time_unix_nano} {alert.level} {alert.title} {alert.text}"
        mark = hashlib.sha256(said.encode()).hexdigest()[:32]
        if mark in self._marks:
            return False
        marks = [*self._marks, mark][-MARKS_MAX:]
        self._path.parent.mkdir(exist_ok=True)
        write_durably(self._path, json.dumps(marks))
        self._marks = marks
        return True
