"""How comparisons look: in any width, with what is missing told from NaN; and as JSON."""

import io
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console, RenderableType

from pillion.v1 import run_pb2
from pillion.v1 import telemetry_service_pb2 as pb2
from pillion.values import Value, to_any_value
from pillion_sidecar.comparison_json import comparison_json, differences_json
from pillion_sidecar.rendering_comparison import (
    LACKING_KEYS_MAX,
    ComparisonView,
    DifferencesView,
    best_sentence,
)

HOSTILE = ["[/]", "[red]x", "loss[train]", "a:smile:", "\x1b[31mred", "[0]", "<b>", "ünï"]
PIPED = 1000


def shown(view: RenderableType, width: int = PIPED) -> list[str]:
    """Print as the CLI does into a pipe, or on a terminal of this width."""
    file = io.StringIO()
    Console(file=file, width=width, highlight=False).print(view)
    return file.getvalue().splitlines()


def cells(line: str) -> list[str]:
    """Return a line's cells that have no blanks in them."""
    return line.split()


def comparison_of(*values: float | None, key: str = "loss") -> pb2.CompareResponse:
    """Make a comparison of runs by one metric; None: the run does not have it."""
    response = pb2.CompareResponse(metric=key, best_run_id="r0")
    metric = response.metrics.add(key=key, direction="DIRECTION_LOWER", best_run_id="r0")
    for number, value in enumerate(values):
        response.runs.add(run_id=f"r{number}", name=f"name-{number}")
        one = metric.statistics.add(run_id=f"r{number}")
        if value is not None:
            one.point_count, one.best, one.best_step, one.last = 1, value, 7, value
    return response


def differ(
    response: pb2.CompareResponse, key: str, *values: Value, kind: str = "config"
) -> pb2.CompareResponse:
    """Add a difference; Ellipsis: the run does not have it."""
    difference = getattr(response, f"{kind}_differences").add(key=key)
    for number, value in enumerate(values):
        told = None if value is ... else to_any_value(value)
        difference.settings.add(run_id=f"r{number}", value=told)
    count = f"{kind}_difference_count"
    setattr(response, count, getattr(response, count) + 1)
    return response


@pytest.mark.parametrize("text", HOSTILE)
def test_keys_and_values_are_shown_as_they_are(text: str) -> None:
    """No markup, no picture, no control of the terminal."""
    response = differ(comparison_of(1.0, 2.0, key=f"m{text}"), f"k{text}", text, ...)
    response.runs[0].name = f"n{text}"
    output = "\n".join(shown(ComparisonView(response)))
    assert output.count(text.replace("\x1b", "")) == 5
    assert "\x1b" not in output


def test_comparison_has_a_column_per_run() -> None:
    """Last and best values side by side, the best one marked."""
    response = comparison_of(0.25, 0.5)
    response.metrics[0].statistics[0].last = 0.75
    head, last, best, *_ = shown(ComparisonView(response))
    assert cells(head) == ["METRIC", "name-0", "name-1"]
    assert cells(last) == ["loss", "↓", "last", "0.75", "0.5"]
    assert cells(best) == ["best", "*0.25", "0.5"]


def test_missing_and_nan_are_told_apart() -> None:
    """A run without the metric has a dash; one without a number NaN; some NaNs are counted."""
    response = comparison_of(0.25, None, None)
    found = response.metrics[0].statistics
    found[0].point_count, found[0].nan_count = 5, 2
    found[1].point_count = found[1].nan_count = 1234
    _, last, best, nans, *_ = shown(ComparisonView(response))
    assert cells(last) == ["loss", "↓", "last", "0.25", "NaN", "-"]
    assert cells(best) == ["best", "*0.25", "NaN", "-"]
    assert cells(nans) == ["NaNs", "2", "1,234", "-"]


def test_metric_without_a_direction_has_no_best() -> None:
    """Where nobody knows what is better, only the last values are shown."""
    response = comparison_of(0.25, 0.5)
    response.metrics[0].direction = run_pb2.DIRECTION_UNSPECIFIED
    lines = shown(ComparisonView(response))
    assert cells(lines[1]) == ["loss", "last", "0.25", "0.5"]
    assert not any("best" in line for line in lines)


def test_what_differs_stands_first() -> None:
    """Config, then the environment, of whose packages there is only a number."""
    response = differ(comparison_of(1.0, 2.0), "lr", 0.1, ...)
    differ(response, "gpus", ["H100", "H100"], ..., kind="environment")
    differ(response, "packages.torch", "1", "2", kind="environment")
    lines = shown(ComparisonView(response))
    assert cells(lines[1]) == ["lr", "0.1", "-"]
    assert "2 x H100" in lines[4]
    assert lines[5] == "1 package: `pillion diff A B` shows them"
    assert [line.split()[0] for line in lines if line[:3].isupper()] == [
        *("CONFIG", "ENVIRONMENT", "METRIC")
    ]


def test_all_that_differs_is_shown_by_diff() -> None:
    """Packages too; what is left out of the answer is counted."""
    response = differ(comparison_of(1.0, 2.0), "lr", 0.1, 0.2)
    differ(response, "packages.torch", "1", "2", kind="environment")
    response.config_difference_count = 3
    lines = shown(DifferencesView(response))
    assert lines[2] == "… and 2 more that differ"
    assert cells(lines[5]) == ["packages.torch", "1", "2"]


def test_numbers_of_config_are_short_unless_they_would_look_the_same() -> None:
    """Six digits are enough for most."""
    response = differ(comparison_of(1.0, 2.0), "lr", 1 / 3, 0.1)
    differ(response, "eps", 1.00000001, 1.00000002)
    lines = shown(DifferencesView(response))
    assert cells(lines[1]) == ["lr", "0.333333", "0.1"]
    assert cells(lines[2]) == ["eps", "1.00000001", "1.00000002"]


@settings(max_examples=40, deadline=None)
@given(
    names=st.lists(
        st.text(st.characters(categories=["L", "N"]), max_size=40), min_size=2, max_size=10
    ),
    key=st.text(st.characters(categories=["L", "P"]), min_size=1, max_size=60),
    width=st.integers(60, 200),
)
def test_nothing_is_wider_than_the_terminal(names: list[str], key: str, width: int) -> None:
    """And every run is there, in one of the blocks."""
    response = differ(comparison_of(*([0.123456] * len(names)), key=key), key, *names)
    for run, name in zip(response.runs, names, strict=True):
        run.name = name
    lines = shown(ComparisonView(response), width)
    assert max(map(cell_len, lines)) <= width
    assert sum(line.count("0.12346") for line in lines) == 2 * len(names)


def test_runs_that_do_not_fit_come_in_blocks_of_equal_size() -> None:
    """Names are cut in the middle, for they often differ at their ends."""
    response = comparison_of(*([1.0] * 6))
    for number, run in enumerate(response.runs):
        run.name = f"a-model-with-a-long-name-{number}"
    heads = [line for line in shown(ComparisonView(response), 80) if line.startswith("METRIC")]
    assert [[name[-2:] for name in cells(head)[1:]] for head in heads] == [
        ["-0", "-1", "-2"],
        ["-3", "-4", "-5"],
    ]


def test_runs_that_share_a_name_are_told_apart() -> None:
    """Where two names are equal the ids stand beside them."""
    response = comparison_of(1.0, 2.0)
    for run in response.runs:
        run.name = "same"
    assert cells(shown(ComparisonView(response))[0])[1:] == ["same", "r0", "same", "r1"]


def test_costs_say_what_there_is_not() -> None:
    """No GPU is no nought, and a run that goes on is said to."""
    response = comparison_of(1.0, 2.0)
    response.throughput_metric = "tokens_per_second"
    response.costs.add(run_id="r0", duration_s=65, gpu_count=2, gpu_s=1800, rows_per_s=2.5)
    response.costs[0].throughput = 1000
    response.costs.add(run_id="r1", duration_s=3600, is_running=True)
    lines = shown(ComparisonView(response))
    first = next(number for number, line in enumerate(lines) if line.startswith("COST"))
    assert [" ".join(line.split()) for line in lines[first + 1 : first + 5]] == [
        "time 1m 05s 1h 00m so far",
        "GPU time 0.5 h no GPU",
        "rows per second 2.5 -",
        "tokens_per_second mean 1000 -",
    ]


def test_groups_are_shown_with_what_the_test_says() -> None:
    """The first one has no difference; where there is no test, it is said why."""
    response = comparison_of(1.0, 2.0)
    metric = response.metrics[0]
    metric.group_figure = "best"
    metric.groups.add(name="base", run_count=3, mean=1.0, standard_deviation=0.1)
    metric.groups.add(name="wide", run_count=3, mean=2.0, standard_deviation=0.2)
    metric.groups.add(name="one", run_count=1, mean=3.0)
    metric.group_differences.add(
        name="wide", baseline="base", difference=1.0, low=0.5, high=1.5, p_value=0.012
    )
    metric.group_differences.add(name="one", baseline="base", difference=2.0, remark="a reason")
    lines = shown(ComparisonView(response), 80)
    first = lines.index("GROUPS by each run's best loss")
    assert [cells(line) for line in lines[first + 2 : first + 6]] == [
        ["base", "3", "1", "0.1"],
        ["wide", "3", "2", "0.2", "+1", "+0.5", "…", "+1.5", "0.012"],
        ["one", "1", "3", "-", "+2", "-", "-"],
        ["a", "reason"],
    ]


def test_a_single_group_is_not_shown() -> None:
    """There is nothing that it could differ from."""
    response = comparison_of(1.0, 2.0)
    response.metrics[0].groups.add(name="all", run_count=2, mean=1.5)
    assert not any("GROUPS" in line for line in shown(ComparisonView(response)))


def test_arguments_do_not_repeat_the_config() -> None:
    """Where the config says what differs they are left to `diff`; else they are all there is."""
    response = differ(comparison_of(1.0, 2.0), "arguments", ["--lr", "1"], [], kind="environment")
    assert any("--lr" in line for line in shown(ComparisonView(response)))
    differ(response, "lr", 1, 2)
    assert not any("--lr" in line for line in shown(ComparisonView(response)))
    assert any("--lr" in line for line in shown(DifferencesView(response)))


def test_names_of_groups_are_cut_on_a_terminal_alone() -> None:
    """They stay there, however long the numbers are."""
    response = comparison_of(1.0, 2.0)
    response.metrics[0].group_figure = "best"
    for letter in "ab":
        response.metrics[0].groups.add(name=letter * 50, run_count=2, mean=-1.234e-100)
    assert any("b" * 50 in line for line in shown(ComparisonView(response)))
    narrow = shown(ComparisonView(response), 60)
    assert any("aaa" in line for line in narrow)
    assert max(map(cell_len, narrow)) <= 60


def test_series_are_drawn() -> None:
    """A line of blocks per run, and how many values it has."""
    response = comparison_of(1.0, 2.0)
    aligned = response.aligned.add(key="loss", x=[0, 10])
    aligned.series.add(run_id="r0", values=[2.0, 1.0])
    aligned.series.add(run_id="r1", values=[math.nan, 1.0])
    none = response.aligned.add(key="none")
    none.series.extend([run_pb2.AlignedSeries(), run_pb2.AlignedSeries()])
    lines = shown(ComparisonView(response, "time"))
    first = lines.index("SERIES of loss by time: 2 places, 0 … 10 s")
    assert cells(lines[first + 1]) == ["name-0", "█▁", "2", "values"]
    assert cells(lines[first + 2]) == ["name-1", "▁", "1", "value"]
    assert "SERIES of none by time: no places" in lines


def test_sentence_names_the_best_run() -> None:
    """It says by what, how good and when; without a best run it says why."""
    assert best_sentence(comparison_of(0.25, 0.5)) == (
        "Best by loss: name-0 (r0) with 0.25 at step 7."
    )
    nameless = comparison_of(0.25, 0.5)
    nameless.runs[0].name = "r0"
    assert best_sentence(nameless) == "Best by loss: r0 with 0.25 at step 7."
    assert best_sentence(pb2.CompareResponse()).startswith("No run is best")
    unknown = pb2.CompareResponse(metrics=[run_pb2.MetricComparison(key="cpu")])
    assert "--direction cpu=lower" in best_sentence(unknown, "cpu")


def test_many_keys_that_a_run_lacks_are_one_line() -> None:
    """Else they would drown what both have; few are lines of their own, and `diff` has all."""
    response = differ(comparison_of(1.0, 2.0), "lr", 1, 2)
    for number in range(LACKING_KEYS_MAX + 1):
        differ(response, f"only-{number}", number, ...)
    differ(response, "other", ..., 1)
    lines = shown(ComparisonView(response))
    assert "6 keys only in name-0: only-0, only-1, only-2 …" in lines
    assert cells(lines[2]) == ["other", "-", "1"]
    assert not any("only-5" in line for line in lines)
    assert any("only-5" in line for line in shown(DifferencesView(response)))


def test_of_the_system_mean_and_maximum_are_shown() -> None:
    """Its last value says little; and of metrics only those that are asked for."""
    response = comparison_of(1.0, 2.0)
    one = response.metrics.add(key="system/threads").statistics
    one.add(run_id="r0", point_count=1, mean=1.5, max=2.0)
    one.add(run_id="r1")
    lines = shown(ComparisonView(response, shown={"system/threads"}))
    assert [cells(line) for line in lines[1:]] == [
        ["system/threads", "mean", "1.5", "-"],
        ["max", "2", "-"],
    ]


def strict(shape: Mapping[str, Any]) -> Any:
    """Write and read as a strict reader does."""
    return json.loads(json.dumps(shape, allow_nan=False))


def test_json_of_a_comparison_is_by_metric_and_run() -> None:
    """Figures are found by name; what is not known is null, what is not set is not there."""
    shape = strict(comparison_json(differ(comparison_of(math.inf, None), "lr", None, ...)))
    assert (shape["metric"], shape["best_run_id"], shape["url"]) == ("loss", "r0", None)
    loss = shape["metrics"]["loss"]
    assert (loss["direction"], loss["best_run_id"]) == ("lower", "r0")
    assert loss["runs"]["r0"]["best"] == "Infinity"
    assert loss["runs"]["r1"]["best"] is None
    assert shape["config_differences"] == {"lr": {"r0": None}}
    assert (loss["group_figure"], loss["groups"], shape["groups"]) == (None, {}, {})


def test_json_of_groups_costs_and_series_is_by_name() -> None:
    """A place without a value is null, as is what there is not."""
    response = comparison_of(1.0, 2.0)
    response.groups.add(name="g", run_ids=["r0", "r1"])
    response.metrics[0].groups.add(name="g", run_count=1, mean=1.5)
    response.metrics[0].group_differences.add(name="h", baseline="g", difference=1.0, remark="why")
    response.costs.add(run_id="r0", duration_s=2.0)
    values: Sequence[float] = [1.0, math.nan, math.inf]
    response.aligned.add(key="loss", x=[0, 1, 2]).series.add(run_id="r0", values=values)
    shape = strict(comparison_json(response))
    assert shape["groups"] == {"g": ["r0", "r1"]}
    loss = shape["metrics"]["loss"]
    assert loss["groups"]["g"] == {"run_count": 1, "mean": 1.5, "standard_deviation": None}
    assert loss["group_differences"]["h"]["p_value"] is None
    assert loss["group_differences"]["h"]["remark"] == "why"
    assert shape["costs"]["r0"]["gpu_s"] is None
    assert shape["series"]["loss"] == {"x": [0, 1, 2], "runs": {"r0": [1, None, "Infinity"]}}


def test_json_of_differences_is_by_key_and_run() -> None:
    """Of config and environment."""
    response = differ(comparison_of(1.0, 2.0), "lr", 0.1, ...)
    assert strict(differences_json(response)) == {
        "run_ids": ["r0", "r1"],
        "config_difference_count": 1,
        "config_differences": {"lr": {"r0": 0.1}},
        "environment_difference_count": 0,
        "environment_differences": {},
    }
