"""How answers look: whatever users log is shown as it is, and JSON is always JSON."""

import io
import json
import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console, RenderableType

from pillion.v1 import run_pb2
from pillion.v1 import telemetry_service_pb2 as pb2
from pillion.values import Value, to_any_value, to_key_values
from pillion_sidecar.rendering import (
    best_sentence,
    comparison_json,
    comparison_view,
    duration_text,
    number_text,
    run_json,
    runs_table,
    sparkline,
    state_text,
)

HOSTILE = ["[/]", "[red]x", "loss[train]", "a:smile:", "\x1b[31mred", "[0]", "<b>", "ünï"]


def shown(view: RenderableType) -> str:
    """Print as the CLI does into a pipe."""
    file = io.StringIO()
    Console(file=file, width=160, highlight=False).print(view)
    return file.getvalue()


def cells(view: RenderableType, line: int = 1) -> list[str]:
    """Return a line's cells that have no blanks in them."""
    return shown(view).splitlines()[line].split()


def run_of(**fields: Any) -> run_pb2.Run:
    """Make a run that has ended after 65 s."""
    run = run_pb2.Run(
        **{"run_id": "r1", "name": "name", "project": "demo", "state": "RUN_STATE_FINISHED"}
        | fields
    )
    run.start_time.seconds, run.end_time.seconds = 1_000, 1_065
    return run


def comparison_of(*values: float | None, key: str = "loss") -> pb2.CompareResponse:
    """Make a comparison of runs by one metric; None: the run does not have it."""
    response = pb2.CompareResponse(metric=key, best_run_id="r0")
    metric = response.metrics.add(key=key, direction="DIRECTION_LOWER", best_run_id="r0")
    for number, value in enumerate(values):
        response.runs.append(run_of(run_id=f"r{number}", name=f"name-{number}"))
        one = metric.statistics.add(run_id=f"r{number}")
        if value is not None:
            one.point_count, one.best, one.best_step, one.last = 1, value, 7, value
    return response


def test_runs_are_one_per_line() -> None:
    """A run shows what it is, how it stands, how far it came and how long it took."""
    run = run_of(row_count=12_345, last_step=999, summary=to_key_values({"loss": 0.123456}))
    assert cells(runs_table([run])) == [
        *("r1", "name", "demo", "FINISHED", "12,345", "999", "0.12346"),
        *cells(runs_table([run]))[7:9],  # the local time
        *("1m", "05s"),
    ]


def test_missing_figures_are_dashes() -> None:
    """A run without rows has no step and no loss."""
    assert cells(runs_table([run_of()]))[4:7] == ["0", "-", "-"]


def test_loss_of_the_evaluation_stands_before_others() -> None:
    """Of several losses the one that counts is shown; text is none."""
    summary = {"loss": 3.0, "train/loss": 2.0, "eval/loss": 1.0}
    assert cells(runs_table([run_of(summary=to_key_values(summary))]))[6] == "1"
    assert cells(runs_table([run_of(summary=to_key_values({"loss": "high"}))]))[6] == "-"


@pytest.mark.parametrize("text", HOSTILE)
def test_names_are_shown_as_they_are(text: str) -> None:
    """A run's name is data: no markup, no picture, no control of the terminal."""
    line = shown(runs_table([run_of(name=text)])).splitlines()[1]
    assert text.replace("\x1b", "") in line
    assert "\x1b" not in line


@pytest.mark.parametrize("text", HOSTILE)
def test_config_is_shown_as_it_is(text: str) -> None:
    """So are config keys and values, and metrics."""
    response = comparison_of(1.0, 2.0, key=f"m{text}")
    difference = response.config_differences.add(key=f"k{text}")
    difference.settings.add(run_id="r0", value=to_any_value(text))
    difference.settings.add(run_id="r1")
    output = shown(comparison_view(response))
    assert output.count(text.replace("\x1b", "")) == 3
    assert "\x1b" not in output


def test_comparison_has_a_column_per_run() -> None:
    """Last and best values side by side; a run without the metric has a dash."""
    response = comparison_of(0.25, 0.5, None)
    response.metrics[0].statistics[0].last = 0.75
    view = comparison_view(response)
    assert cells(view, 0)[1:] == ["name-0", "name-1", "name-2"]
    assert cells(view, 1) == ["loss", "↓", "last", "0.75", "0.5", "-"]
    assert cells(view, 2) == ["best", "0.25", "0.5", "-"]


def test_metric_without_a_direction_has_no_best() -> None:
    """Where nobody knows what is better, only the last values are shown."""
    response = comparison_of(0.25, 0.5)
    response.metrics[0].direction = run_pb2.DIRECTION_UNSPECIFIED
    assert len(shown(comparison_view(response)).splitlines()) == 2


def test_runs_that_share_a_name_are_told_apart() -> None:
    """Where two names are equal the ids stand beside them."""
    response = comparison_of(1.0, 2.0)
    for run in response.runs:
        run.name = "same"
    assert cells(comparison_view(response), 0)[1:] == ["same", "r0", "same", "r1"]


def test_sentence_names_the_best_run() -> None:
    """It says by what, how good and when; without a best run it says why."""
    assert best_sentence(comparison_of(0.25, 0.5)) == (
        "Best by loss: name-0 (r0) with 0.25 at step 7."
    )
    nameless = comparison_of(0.25, 0.5)
    nameless.runs[0].name = "r0"
    assert best_sentence(nameless) == "Best by loss: r0 with 0.25 at step 7."
    assert best_sentence(pb2.CompareResponse()).startswith("No run is best")


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


def test_json_of_a_comparison_is_by_metric_and_run() -> None:
    """Figures are found by name; what is not known is null, what is not set is not there."""
    response = comparison_of(math.inf, None)
    difference = response.config_differences.add(key="lr")
    difference.settings.add(run_id="r0", value=to_any_value(None))
    difference.settings.add(run_id="r1")
    shape = json.loads(json.dumps(comparison_json(response), allow_nan=False))
    assert (shape["metric"], shape["best_run_id"], shape["url"]) == ("loss", "r0", None)
    loss = shape["metrics"]["loss"]
    assert (loss["direction"], loss["best_run_id"]) == ("lower", "r0")
    assert loss["runs"]["r0"]["best"] == "Infinity"
    assert loss["runs"]["r1"]["best"] is None
    assert shape["config_differences"] == {"lr": {"r0": None}}
