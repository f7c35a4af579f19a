"""A trainer's alerts: one of a title now and then, and never too many."""

from datetime import timedelta
from enum import Enum
from typing import Any

import pytest

from pillion import _alerts
from pillion._alerts import PER_MINUTE_MAX, TITLE_CHARACTERS_MAX, TITLES_MAX, Alerts


class Clock:
    """Stands still unless it is moved."""

    def __init__(self) -> None:
        self.now_s = 1_000.0

    def monotonic(self) -> float:
        """Tell the time."""
        return self.now_s

    def time_ns(self) -> int:
        """Tell the time."""
        return int(self.now_s * 1e9)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Have alerts go by a clock of ours."""
    clock = Clock()
    monkeypatch.setattr(_alerts, "time", clock)
    return clock


def test_a_title_comes_again_only_after_its_wait(clock: Clock) -> None:
    """Another title comes at once; a timedelta is a wait too."""
    alerts = Alerts()
    assert alerts.admit("loss", "", "INFO", None)
    assert not alerts.admit("loss", "", "INFO", None)
    assert alerts.admit("other", "", "INFO", None)
    clock.now_s += 59
    assert not alerts.admit("loss", "", "INFO", timedelta(minutes=1))
    assert alerts.admit("loss", "", "INFO", 30)
    assert alerts.admit("loss", "", "INFO", 0)


def test_so_many_a_minute_are_raised_whatever_their_titles(clock: Clock) -> None:
    """A loop that makes titles of its numbers floods nobody; what is remembered is bounded."""
    alerts = Alerts()
    raised = [alerts.admit(f"step {n}", "", "INFO", 0) for n in range(PER_MINUTE_MAX + 5)]
    assert [bool(each) for each in raised] == [True] * PER_MINUTE_MAX + [False] * 5
    for number in range(TITLES_MAX + 10):
        clock.now_s += 60
        assert alerts.admit(f"title {number}", "", "INFO", 0)
    assert len(alerts._raised_at_s) == TITLES_MAX


class Level(Enum):
    """As W&B has it."""

    WARN = "WARN"


@pytest.mark.parametrize(
    ("title", "level", "expected"),
    [
        ("loss is NaN", "error", ("loss is NaN", "LEVEL_ERROR")),
        ("two\nlines", Level.WARN, ("two lines", "LEVEL_WARN")),
        ("", "warning", ("(no title)", "LEVEL_WARN")),
        ("x" * 1000, None, ("x" * TITLE_CHARACTERS_MAX, "LEVEL_INFO")),
        (5, "loud", ("5", "LEVEL_INFO")),
    ],
)
def test_whatever_is_given_makes_an_alert(
    clock: Clock, title: Any, level: Any, expected: tuple[str, str]
) -> None:
    """A title is one line, and a level one of three."""
    fields = Alerts().admit(title, "text", level, None)
    assert fields is not None
    assert (fields["title"], fields["level"]) == expected
    assert (fields["text"], fields["time_unix_nano"]) == ("text", clock.time_ns())
