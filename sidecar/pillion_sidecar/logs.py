"""How the sidecar and its workers log: one line per event, for people or for machines.

Events are constant messages of the standard `logging`, what varies are fields given by `extra`:

    log.warning("worker ended", extra={"sink": "wandb", "exit_code": 1})

As text:  2026-11-25 03:36:25.481 WARNING delivery: worker ended  sink=wandb exit_code=1
As JSON:  {"time": "2026-11-25T03:36:25.481Z", "level": "warning", "logger": "delivery",
           "event": "worker ended", "sink": "wandb", "exit_code": 1}

What users logged, their keys and tokens are never given as fields. Nor are the words of an
unforeseen exception shown, which may quote them: its type and where it was raised are.
"""

import json
import logging
import os
import re
import sqlite3
import sys
import time
import traceback
from collections import OrderedDict
from contextlib import suppress
from pathlib import Path
from typing import Any

REPEATS_KEPT_MAX = 1024
"""So many different failures are counted; beyond, that which was silent longest is forgotten."""
REPEAT_FORGOTTEN_S = 600.0
"""A failure that was silent for so long is news again."""
FILE_BYTES_MAX = 16 * 1024 * 1024
"""Of a log that is a file; then the older half goes."""

_STANDARD = {*vars(logging.makeLogRecord({})), "message", "asctime", "taskName"}
_PLAIN = re.compile(r"[^\s\"=\x00-\x1f\x7f-\x9f]+")
_MACHINES_OWN = (OSError, sqlite3.Error)
"""Exceptions whose words are the system's, never a user's."""


def configure(form: str = "text", level: str = "info") -> None:
    """Log to standard error from here on, as `text` or `json`; `level` and what is graver."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if form == "json" else TextFormatter())
    handler.addFilter(Repeats())
    logging.basicConfig(handlers=[handler], level=level.upper(), force=True)


def cut(path: Path) -> None:
    """Leave the latter half of a log file that has grown too large. Who appends to it goes on."""
    with suppress(OSError), path.open("r+b") as file:
        size_bytes = file.seek(0, os.SEEK_END)
        if size_bytes > FILE_BYTES_MAX:
            file.seek(size_bytes - FILE_BYTES_MAX // 2)
            latter = file.read().partition(b"\n")[2]
            file.seek(0)
            file.write(latter)
            file.truncate()


class TextFormatter(logging.Formatter):
    """One line for people."""

    def format(self, record: logging.LogRecord) -> str:
        """See `logging.Formatter`."""
        at = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(record.created))
        fields = [f"{name}={_text(value)}" for name, value in _fields(record).items()]
        head = f"{at}.{int(record.msecs):03} {record.levelname} {_short_name(record)}: "
        return head + "  ".join(filter(None, [_one_line(record.getMessage()), " ".join(fields)]))


class JsonFormatter(logging.Formatter):
    """One JSON object per line, for machines."""

    def format(self, record: logging.LogRecord) -> str:
        """See `logging.Formatter`."""
        at = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        shape = {
            "time": f"{at}.{int(record.msecs):03}Z",
            "level": record.levelname.lower(),
            "logger": _short_name(record),
            "event": record.getMessage(),
        }
        return json.dumps(shape | _fields(record), default=str)


class Repeats(logging.Filter):
    """Lets a failure through the 1st, 10th, 100th … time, with its count.

    The same failure has the same message and the same fields; how long something took or is waited
    for (`…_s`) makes no other failure of it.
    """

    def __init__(self) -> None:
        super().__init__()
        self._seen: OrderedDict[tuple[object, ...], tuple[int, float]] = OrderedDict()

    def filter(self, record: logging.LogRecord) -> bool:
        """See `logging.Filter`."""
        if record.levelno < logging.WARNING:
            return True
        fields = _fields(record)
        key = (
            *(record.name, record.getMessage()),
            *(f"{name}={fields[name]}" for name in fields if not name.endswith("_s")),
        )
        now_s = time.monotonic()
        count, last_s = self._seen.pop(key, (0, now_s))
        count = 1 if now_s - last_s > REPEAT_FORGOTTEN_S else count + 1
        self._seen[key] = (count, now_s)
        if len(self._seen) > REPEATS_KEPT_MAX:
            self._seen.popitem(last=False)
        if count > 1:
            record.times = count
        return set(str(count)[1:]) <= {"0"} and str(count)[0] == "1"


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    fields = {name: value for name, value in vars(record).items() if name not in _STANDARD}
    if record.exc_info and record.exc_info[1] is not None:
        error = record.exc_info[1]
        words = f": {error}" if isinstance(error, _MACHINES_OWN) else ""
        fields["exception"] = type(error).__name__ + words
        fields["raised"] = " < ".join(
            f"{frame.filename.rpartition('/')[2]}:{frame.lineno} {frame.name}"
            for frame in reversed(traceback.extract_tb(error.__traceback__))
        )
    return fields


def _short_name(record: logging.LogRecord) -> str:
    return record.name.removeprefix("pillion_sidecar.")


def _text(value: object) -> str:
    text = str(value)
    return text if _PLAIN.fullmatch(text) else _one_line(json.dumps(text, ensure_ascii=False))


def _one_line(text: str) -> str:
    return re.sub(r"[\x00-\x1f\x7f-\x9f]+", " ", text)
