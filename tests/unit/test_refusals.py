"""What is said of values and rows that are not taken."""

from typing import Any

import numpy as np
import pytest

from pillion._counts import Refused
from pillion._link import Link
from pillion._messages import Start
from pillion._refusals import NAMES_TOLD_MAX
from pillion._row import read_row
from pillion._run import Run

CHANNELS = np.zeros((2, 2, 3))


class Unreadable:
    """Raises whatever is asked of it."""

    def __getattr__(self, name: str) -> Any:
        """Raise."""
        raise KeyError(name)


def picture() -> Any:
    """Return a picture of Pillow's, or what looks like one."""
    return type("Image", (), {"__module__": "PIL.Image"})()


def frame() -> Any:
    """Return what looks like a DataFrame."""
    return type("DataFrame", (), {"itertuples": None, "shape": (2, 3)})()


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (np.arange(4), ["ndarray and shape (4,)", "pillion.Histogram(...)", ".mean().item()"]),
        (CHANNELS, ["ndarray and shape (2, 2, 3)", "pillion.Image(...)"]),
        ([1.0, 2.0], ["list with 2 elements", "pillion.Histogram(...)"]),
        (frame(), ["DataFrame and shape (2, 3)", "pillion.Table(dataframe=...)"]),
        (picture(), ["of type Image", "pillion.Image(...)"]),
        (None, ["it is None", "leave the name out"]),
        (np.array(1j), ["ndarray and shape ()", ".item()"]),
        (object(), ["of type object", "float(...)"]),
        ("x" * 70_000, ["pillion.Html"]),
        (Unreadable(), ["cannot be read"]),
    ],
    ids=lambda value: type(value).__name__,
)
def test_value_that_is_refused_is_told_with_what_to_do_instead(
    caplog: pytest.LogCaptureFixture, value: Any, words: list[str]
) -> None:
    """By its name, type and shape; the rest of its row is kept, and it is counted."""
    refused = Refused()
    assert read_row({"logits": value, "loss": 0.5}, refused) == {"loss": 0.5}
    (message,) = caplog.messages
    assert all(word in message for word in ["'logits'", *words]), message
    assert refused.values == 1


def test_each_name_is_told_once_and_only_some_of_many(caplog: pytest.LogCaptureFixture) -> None:
    """Beyond the bound one line says that more are only counted."""
    refused = Refused()
    for _ in range(2):
        for number in range(NAMES_TOLD_MAX + 5):
            read_row({f"name {number}": None}, refused)
    assert len(caplog.messages) == NAMES_TOLD_MAX + 1
    assert "still more names" in caplog.messages[-1]
    assert refused.values == 2 * (NAMES_TOLD_MAX + 5)


@pytest.mark.parametrize(
    ("row", "step", "words"),
    [
        ({"a": 1.0}, 1.5, "its step is of type float; give an integer"),
        ({"a": None}, 1, "there is nothing in it that can be kept"),
        ({}, None, "there is nothing in it that can be kept"),
    ],
)
def test_row_that_is_refused_is_told_why(
    caplog: pytest.LogCaptureFixture, row: Any, step: Any, words: str
) -> None:
    """It is its step, or what is in it."""
    start = Start("run", "w", "allow", {"name": "", "project": ""}, {})
    run = Run(Link("unix:/nowhere/sidecar.sock", "", start), start, is_quiet=True)
    run.log(row, step=step)
    run.abandon()
    assert words in caplog.messages[-1]
