"""What is logged: one line per event, readable by people and by machines, and never too often."""

import io
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pillion_sidecar import logs
from pillion_sidecar.logs import REPEATS_KEPT_MAX, JsonFormatter, Repeats, TextFormatter


class Clock:
    """Time that passes when it is told to."""

    now_s = 1000.0

    def monotonic(self) -> float:
        """See `time.monotonic`."""
        return self.now_s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Put a clock of ours in place of the real one, for the filter alone."""
    clock = Clock()
    monkeypatch.setattr(logs, "time", clock)
    return clock


def record(message: str = "worker ended", level: int = logging.WARNING, **fields: Any) -> Any:
    """Make what `log.warning(message, extra=fields)` makes."""
    made = logging.makeLogRecord(
        {"name": "pillion_sidecar.delivery", "msg": message, "levelno": level, "created": 0.25}
    )
    made.levelname, made.msecs = logging.getLevelName(level), 250.0
    vars(made).update(fields)
    return made


def raised(error: Exception) -> Any:
    """Make the record of an exception."""
    try:
        raise error
    except type(error) as caught:
        return record(exc_info=(type(caught), caught, caught.__traceback__))


def passed(repeats: Repeats, count: int, **fields: Any) -> list[int]:
    """Log the same failure so often; return at which times it came through."""
    return [n for n in range(1, count + 1) if repeats.filter(record(**fields))]


def test_a_text_line_has_time_level_event_and_fields() -> None:
    """In the order in which people read."""
    line = TextFormatter().format(record(sink="wandb", error="its worker ended"))
    assert line[4] == "-"
    assert line[19:] == '.250 WARNING delivery: worker ended  sink=wandb error="its worker ended"'


def test_a_json_line_is_one_object_with_the_fields_beside_it() -> None:
    """Time is in UTC, so that lines of several hosts can be sorted."""
    assert json.loads(JsonFormatter().format(record(sink="wandb", restart_s=0.5))) == {
        "time": "1970-01-01T00:00:00.250Z",
        "level": "warning",
        "logger": "delivery",
        "event": "worker ended",
        "sink": "wandb",
        "restart_s": 0.5,
    }


@pytest.mark.parametrize("formatter", [TextFormatter(), JsonFormatter()])
@pytest.mark.parametrize("text", ["two\nlines", "\x1b[31mred", 'a="b" c', "\r", "\x85\x9b"])
def test_an_event_is_one_line_whatever_is_in_it(formatter: logging.Formatter, text: str) -> None:
    """Nobody forges a line of ours, or paints the terminal."""
    line = formatter.format(record("it said " + text, error=text))
    assert set(line).isdisjoint("\n\r\x1b\x85\x9b")


@pytest.mark.parametrize("formatter", [TextFormatter(), JsonFormatter()])
def test_an_unforeseen_exception_does_not_quote_what_a_user_logged(
    formatter: logging.Formatter,
) -> None:
    """Its type and where it was raised are told, not its words; those of the system are."""
    line = formatter.format(raised(KeyError("secret/metric")))
    assert "secret" not in line
    assert "KeyError" in line
    assert "test_logs.py" in line
    assert "No space left" in formatter.format(raised(OSError(28, "No space left on device")))


def test_a_repeated_failure_is_logged_the_1st_10th_and_100th_time() -> None:
    """With its count; durations make no other failure of it."""
    repeats = Repeats()
    assert passed(repeats, 1000, sink="wandb") == [1, 10, 100, 1000]
    tenth = record(sink="store", restart_s=1.5)
    for _ in range(9):
        repeats.filter(record(sink="store", restart_s=0.5))
    assert repeats.filter(tenth)
    assert tenth.times == 10


def test_another_failure_is_no_repetition() -> None:
    """What concerns another run is news."""
    repeats = Repeats()
    assert [repeats.filter(record(run_id=run_id)) for run_id in ("a", "b", "a")] == [
        *(True, True, False)
    ]


def test_events_that_are_no_failures_are_all_logged() -> None:
    """Starting and stopping twice is two events."""
    repeats = Repeats()
    assert all(repeats.filter(record("listening", logging.INFO)) for _ in range(20))


def test_a_failure_that_was_silent_for_long_is_news(clock: Clock) -> None:
    """What comes back after it had gone is told again."""
    repeats = Repeats()
    assert passed(repeats, 3) == [1]
    clock.now_s += logs.REPEAT_FORGOTTEN_S + 1
    assert passed(repeats, 3) == [1]


def test_different_failures_are_counted_up_to_a_bound() -> None:
    """A million of them take no memory; the one silent longest is news again."""
    repeats = Repeats()
    for number in range(REPEATS_KEPT_MAX + 1):
        assert repeats.filter(record(run_id=str(number)))
    assert not repeats.filter(record(run_id=str(REPEATS_KEPT_MAX)))
    assert repeats.filter(record(run_id="0"))


@pytest.fixture
def root() -> Iterator[logging.Logger]:
    """Put the root logger back as it was."""
    root = logging.getLogger()
    before = root.handlers[:], root.level
    yield root
    root.handlers[:], root.level = before


def test_configure_decides_form_and_level(
    root: logging.Logger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The standard loggers are what everybody uses."""
    stderr = io.StringIO()
    monkeypatch.setattr("sys.stderr", stderr)
    logs.configure("json", "warning")
    log = logging.getLogger("pillion_sidecar.test")
    log.info("not this")
    log.warning("but this", extra={"count": 2})
    (line,) = stderr.getvalue().splitlines()
    assert json.loads(line)["count"] == 2


def test_a_log_that_has_grown_too_large_loses_its_older_half(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In whole lines; who has it open goes on behind the rest. A smaller one stays as it is."""
    monkeypatch.setattr(logs, "FILE_BYTES_MAX", 1000)
    path = tmp_path / "worker.log"
    logs.cut(path)
    with path.open("ab", buffering=0) as file:
        for number in range(100):
            file.write(b"line %03d\n" % number)
        logs.cut(path)
        assert path.stat().st_size == 900
        file.write(b"x" * 101 + b"\n")
        logs.cut(path)
        file.write(b"last\n")
    lines = path.read_bytes().splitlines()
    assert lines[0].startswith(b"line 0")
    assert lines[-3:] == [b"line 099", b"x" * 101, b"last"]
    assert path.stat().st_size < 510
