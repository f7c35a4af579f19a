"""The client's own samples: into the queue beside the rows, and in nobody's way."""

import sys
import threading
from collections import deque
from collections.abc import Callable
from typing import Any

import pytest

from pillion._sampler import Sampler
from pillion.system import is_system

WaitUntil = Callable[[Callable[[], Any]], Any]


def threads() -> list[threading.Thread]:
    """Return those that sample."""
    return [each for each in threading.enumerate() if each.name == "pillion-system"]


@pytest.fixture
def rows() -> deque[Any]:
    """Make a queue."""
    return deque()


def test_samples_bear_the_step_of_the_row_before(rows: deque[Any], wait_until: WaitUntil) -> None:
    """And come until the run ends, not after."""
    steps = [7]
    sampler = Sampler(rows, 1000, lambda: steps[0])
    sampler.sample_every(0.01)
    wait_until(lambda: len(rows) >= 2)
    steps[0] = 9
    wait_until(lambda: rows[-1][0] == 9)
    sampler.close()
    queued = list(rows)
    wait_until(lambda: not threads())
    assert list(rows) == queued
    assert queued[0][0] == 7
    for _, time_unix_nano, values in queued:
        assert time_unix_nano > 0
        assert all(map(is_system, values))
        assert values["system/memory_rss_gib"] > 0


def test_sidecar_that_does_it_itself_ends_the_clients(
    rows: deque[Any], wait_until: WaitUntil
) -> None:
    """A client may come back to another sidecar, or to one with other settings."""
    sampler = Sampler(rows, 1000, lambda: 0)
    sampler.sample_every(0)
    assert threads() == []
    for interval_s in (0.01, 0.01, 0.02):
        sampler.sample_every(interval_s)
    wait_until(lambda: len(threads()) == 1 and rows)
    sampler.sample_every(0)
    wait_until(lambda: not threads())
    sampler.close()


def test_full_queue_is_left_to_the_trainers_rows(rows: deque[Any], wait_until: WaitUntil) -> None:
    """A sample that finds no room is missed, and not counted as refused."""
    rows.extend([1, 2, 3])
    looks = []
    sampler = Sampler(rows, 3, lambda: 0)
    monitor = sampler._queue

    def queue(*arguments: Any) -> None:
        monitor(*arguments)
        looks.append(1)

    sampler._queue = queue  # type: ignore[method-assign]
    sampler.sample_every(0.01)
    wait_until(lambda: len(looks) > 1)
    sampler.close()
    assert list(rows) == [1, 2, 3]


@pytest.mark.parametrize("package", ["psutil", "pillion.system"])
def test_what_is_missing_is_silence(
    rows: deque[Any],
    wait_until: WaitUntil,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    package: str,
) -> None:
    """The client needs no psutil."""
    monkeypatch.setitem(sys.modules, package, None)
    sampler = Sampler(rows, 1000, lambda: 0)
    sampler.sample_every(0.01)
    wait_until(lambda: not threads())
    assert not rows
    assert capfd.readouterr() == ("", "")
