"""How `pillion show` shows a run."""

import io
from typing import Any

import pytest
from rich.console import Console

from pillion.v1 import run_pb2
from pillion.values import to_key_values
from pillion_sidecar.rendering_run import CONFIG_SHOWN, VALUE_CHARACTERS_MAX, run_view


def lines_of(
    metric: str = "", *, has_console: bool = False, is_whole: bool = False, **fields: Any
) -> dict[str, str]:
    """Return what is shown of a run, by the label at the left."""
    run = run_pb2.Run(run_id="r1", state="RUN_STATE_FAILED", **fields)
    file = io.StringIO()
    view = run_view(run, metric, has_console=has_console, is_whole=is_whole)
    Console(file=file, width=160, highlight=False).print(view)
    pairs = [line.partition("  ") for line in file.getvalue().splitlines()]
    return {label: value.strip() for label, _, value in pairs if label}


def test_how_a_run_ended_is_shown() -> None:
    """When, after how long, with which code, and what it lost; nothing of that while it runs."""
    ended = lines_of(
        start_time={"seconds": 1}, end_time={"seconds": 66}, exit_code=3, lost_row_count=1_200
    )
    assert (ended["ended"], ended["took"]) == ("1970-01-01T00:01:06Z", "1m 05s")
    assert (ended["exit code"], ended["rows lost"]) == ("3", "1,200")
    assert lines_of().keys().isdisjoint({"ended", "exit code", "rows lost"})


def test_an_exit_code_of_zero_is_shown() -> None:
    """It is known, other than none."""
    assert lines_of(exit_code=0)["exit code"] == "0"


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.123456789, "0.12346"), (123456.78, "123,457"), (7, "7"), (True, "true"), ("a", "a")],
)
def test_figures_are_rounded_as_in_tables(value: object, text: str) -> None:
    """Those of a metric that is defined so too, each on its line."""
    shown = lines_of(summary=to_key_values({"loss": value, "acc": {"min": value, "last": 2}}))
    assert shown["summary loss"] == shown["summary acc.min"] == text
    assert shown["summary acc.last"] == "2"


def test_config_is_flat_and_short_unless_all_is_asked_for() -> None:
    """So that a run of a trainer with many settings is read at a glance, its summary first."""
    config = {
        "lr": 4.999999873689376e-05,
        "lora": {"r": 8, "modules": list(range(100)), "dora": True},
        **{f"unset{number}": None for number in range(100)},
        **{f"key{number}": number for number in range(100)},
    }
    fields = {"config": to_key_values(config), "summary": to_key_values({"loss": 1})}
    shown = lines_of(**fields)
    told = [shown[f"config {key}"] for key in ("lr", "lora.r", "lora.dora", "key25")]
    assert told == ["5e-05", "8", "true", "25"]
    assert not [label for label in shown if "unset" in label or "key26" in label]
    assert shown["config lora.modules"].endswith("… (--all)")
    assert len(shown["config lora.modules"]) == VALUE_CHARACTERS_MAX
    assert shown["config"] == f"and {204 - CONFIG_SHOWN} more (--all)"
    labels = list(shown)
    assert labels.index("summary loss") < labels.index("config lr")
    whole = lines_of(is_whole=True, **fields)
    assert whole["config lora.modules"].startswith("[0, 1, 2")
    assert (whole["config key99"], whole["config unset9"]) == ("99", "null")
    assert "config" not in whole


def test_it_is_told_that_something_was_printed() -> None:
    """How much, and how it is shown; nothing where nothing was."""
    assert lines_of(has_console=True)["console"] == "pillion console r1"
    assert "console" not in lines_of()


def test_how_the_system_does_is_shown_when_it_is_asked_for() -> None:
    """Else it would drown the trainer's own metrics; how many there are is told."""
    summary = to_key_values({"loss": 2.0, "system/threads": 3, "system/gpu/0/power_w": 300.5})
    shown = lines_of(summary=summary)
    assert shown["summary loss"] == "2"
    assert shown["summary"] == "and 2 system metrics (--metric 'system/*')"
    assert not [label for label in shown if "system/" in label]
    named = lines_of("system/*", summary=summary)
    assert named["summary system/gpu/0/power_w"] == "300.5"
    assert named.keys().isdisjoint({"summary loss", "summary"})
    assert lines_of("loss", summary=summary)["summary loss"] == "2"


def test_an_alert_is_its_title_and_its_text() -> None:
    """Apart; a title alone stands alone."""
    shown = lines_of(
        alerts=[
            {"title": "Hot", "text": "90 degrees", "level": "LEVEL_WARN"},
            {"title": "Flat", "level": "LEVEL_INFO"},
        ]
    )
    assert (shown["alert (warn)"], shown["alert (info)"]) == ("Hot: 90 degrees", "Flat")


def test_lines_stay_apart() -> None:
    """Those of notes below each other, others with a sign between them."""
    file = io.StringIO()
    run = run_pb2.Run(run_id="r1", notes="one\n\x1btwo", reason="three\nfour\n")
    Console(file=file, width=160, highlight=False).print(run_view(run))
    lines = [line.split() for line in file.getvalue().splitlines()]
    assert ["notes", "one"] in lines
    assert ["two"] in lines
    assert ["reason", "three⏎four"] in lines
