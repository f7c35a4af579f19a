"""How answers look: whatever users log is shown as it is, and JSON is always JSON."""

import json
import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pillion.v1 import run_pb2
from pillion.values import Value, to_key_values
from pillion_sidecar.rendering import (
    duration_text,
    number_text,
    run_json,
    sparkline,
    state_text,
)


def run_of(**fields: Any) -> run_pb2.Run:
    """Make a run that has ended after 65 s."""
    run = run_pb2.Run(
        **{"run_id": "r1", "name": "name", "project": "demo", "state": "RUN_STATE_FINISHED"}
        | fields
    )
    run.start_time.seconds, run.end_time.seconds = 1_000, 1_065
    return run


@pytest.mark.parametrize(
    ("value", "text"),
    [
        *((None, "-"), ("text", "-"), (True, "True"), (12_345, "12,345"), (-1, "-1")),
        *((0.0, "0"), (-0.0, "-0"), (0.123456789, "0.12346"), (1234.5, "1234.5")),
        *((9999.94, "9999.9"), (12345.6, "12,346"), (-12345.6, "-12,346")),
        *((1e9, "1e+09"), (1e-9, "1e-09")),
        *((math.nan, "nan"), (math.inf, "inf"), (-math.inf, "-inf")),
    ],
)
def test_number_is_shown_in_five_digits_or_whole(value: object, text: str) -> None:
    """A number is as short as it can be read."""
    assert number_text(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"),
        (59, "59s"),
        (60, "1m 00s"),
        (3599, "59m 59s"),
        (3600, "1h 00m"),
        (90000, "25h 00m"),
    ],
)
def test_duration_is_shown_in_two_units(seconds: int, text: str) -> None:
    """As people say it."""
    run = run_of()
    run.end_time.seconds = run.start_time.seconds + seconds
    assert duration_text(run) == text


def test_a_duration_is_rounded_once() -> None:
    """Not the difference of two times without their fractions."""
    run = run_of()
    run.start_time.nanos, run.end_time.nanos = 900_000_000, 100_000_000
    assert duration_text(run) == "1m 04s"
    run.start_time.nanos, run.end_time.nanos = 0, 600_000_000
    assert duration_text(run) == "1m 06s"


def test_duration_is_never_negative() -> None:
    """A clock that went back makes no time before the start."""
    run = run_of()
    run.end_time.seconds = run.start_time.seconds - 100
    assert duration_text(run) == "0s"


@pytest.mark.parametrize("state", ["RUNNING", "FINISHED", "STOPPED", "FAILED", "CRASHED"])
def test_state_is_shown_by_its_name(state: str) -> None:
    """Each state has a colour of its own."""
    text = state_text(run_of(state=f"RUN_STATE_{state}"))
    assert (text.plain, bool(text.style)) == (state, True)


def test_sparkline_spans_its_values() -> None:
    """The least value is the lowest block, the largest the highest; NaN is left out."""
    assert sparkline([0.0, 1.0]) == "▁█"
    assert sparkline([math.nan, 1.0, math.inf, 2.0]) == "▁█"
    assert sparkline([3.0, 3.0]) == "▁▁"
    assert sparkline([]) == sparkline([math.nan]) == ""
    assert len(sparkline(range(1000), width=24)) == 24


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(-1e300, 1e300).map(lambda value: round(value, 6)), max_size=60))
def test_any_values_make_a_sparkline(values: list[float]) -> None:
    """A line has a block per value, at most 24."""
    assert len(sparkline(values)) == min(len(values), 24)


@pytest.mark.parametrize("values", [[-1e308, 1e308], [0.0, 5e-324]])
def test_extreme_values_make_a_sparkline(values: list[float]) -> None:
    """Also the largest range that floats have, and the smallest."""
    assert sparkline(values) == "▁█"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (math.nan, "NaN"),
        (math.inf, "Infinity"),
        (-math.inf, "-Infinity"),
        (b"\x00\xff", "00ff"),
        (2**70, 2**70),
        ([1, [math.nan]], [1, ["NaN"]]),
        ({"a": {"b": -math.inf}}, {"a": {"b": "-Infinity"}}),
        (None, None),
        (True, True),
    ],
)
def test_json_holds_what_json_has_no_word_for(value: Value, expected: object) -> None:
    """NaN and the infinities are text, bytes are hex; strict readers take the rest."""
    shape = run_json(run_of(config=to_key_values({"x": value})))
    strict = json.loads(json.dumps(shape, allow_nan=False))
    assert strict["config"] == {"x": expected}


def test_json_of_a_run_says_null_where_nothing_is_known() -> None:
    """Null is not zero."""
    run = run_pb2.Run(run_id="r", state="RUN_STATE_RUNNING")
    run.start_time.seconds = 1
    shape = run_json(run)
    assert [shape[key] for key in ("exit_code", "end_time", "last_step")] == [None, None, None]
    assert (shape["state"], shape["start_time"]) == ("RUNNING", "1970-01-01T00:00:01Z")
    ended = run_json(run_of(exit_code=0, last_step=0))
    assert (ended["exit_code"], ended["last_step"]) == (0, 0)
