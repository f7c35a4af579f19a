"""How a list of runs looks, and what of it is left out where the terminal is narrow."""

import io
from typing import Any

import pytest
from rich.console import Console, RenderableType

from pillion.v1 import run_pb2
from pillion.values import to_key_values
from pillion_sidecar.rendering_runs import TREND_POINTS, TREND_POINTS_MIN, RunsView

HOSTILE = ["[/]", "[red]x", "loss[train]", "a:smile:", "\x1b[31mred", "[0]", "<b>", "ünï"]


def shown(view: RenderableType, width: int = 160) -> str:
    """Print as the CLI does."""
    file = io.StringIO()
    Console(file=file, width=width, highlight=False).print(view)
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


def test_runs_are_one_per_line() -> None:
    """A run shows what it is, how it stands, how far it came and how long it took."""
    run = run_of(row_count=12_345, last_step=999, summary=to_key_values({"loss": 0.123456}))
    assert cells(RunsView([run])) == [
        *("r1", "name", "demo", "FINISHED", "12,345", "999", "0.12346"),
        *cells(RunsView([run]))[7:9],  # the local time
        *("1m", "05s"),
    ]


def test_missing_figures_are_dashes() -> None:
    """A run without rows has no step and no loss."""
    assert cells(RunsView([run_of()]))[4:7] == ["0", "-", "-"]


def test_loss_of_the_evaluation_stands_before_others() -> None:
    """Of several losses the one that counts is shown; text is none."""
    summary = {"loss": 3.0, "train/loss": 2.0, "eval/loss": 1.0}
    assert cells(RunsView([run_of(summary=to_key_values(summary))]))[6] == "1"
    assert cells(RunsView([run_of(summary=to_key_values({"loss": "high"}))]))[6] == "-"


def test_one_metric_is_shown_of_all_runs() -> None:
    """That which most have, under its name; a run without it shows none in its place."""
    summaries = [{"train/loss": 2.0}, {"train/loss": 3.0, "eval/loss": 1.0}, {"eval/acc": 1.0}]
    view = RunsView([run_of(summary=to_key_values(summary)) for summary in summaries])
    assert "train/loss" in cells(view, 0)
    assert [cells(view, line)[6] for line in (1, 2, 3)] == ["2", "3", "-"]


@pytest.mark.parametrize("text", HOSTILE)
def test_names_are_shown_as_they_are(text: str) -> None:
    """A run's name is data: no markup, no picture, no control of the terminal."""
    line = shown(RunsView([run_of(name=text)])).splitlines()[1]
    assert text.replace("\x1b", "") in line
    assert "\x1b" not in line


@pytest.mark.parametrize(
    ("width", "titles", "trend_width"),
    [
        (120, "ID NAME PROJECT STATE ROWS STEP train/loss STARTED TOOK", TREND_POINTS),
        (92, "ID NAME PROJECT STATE ROWS STEP train/loss STARTED TOOK", 12),
        (80, "ID NAME STATE ROWS STEP train/loss STARTED TOOK", 9),
        (60, "ID NAME STATE STEP train/loss TOOK", TREND_POINTS_MIN),
        (50, "ID NAME STATE train/loss", 12),
    ],
)
def test_a_narrow_terminal_shows_whole_lines_of_fewer_columns(
    width: int, titles: str, trend_width: int
) -> None:
    """The trend is shortened first, then the project goes, then others; ids are never cut."""
    runs = [run_of(run_id=f"1234567{i}", row_count=300, last_step=299) for i in range(2)]
    rising = [float(i) for i in range(TREND_POINTS)]
    trends = {run.run_id: rising for run in runs}
    head, *lines = shown(RunsView(runs, "train/loss", trends), width).splitlines()
    assert head.split() == titles.split()
    assert [line.split()[0] for line in lines] == [run.run_id for run in runs]
    assert [len(line.split()[-1]) for line in lines] == [trend_width] * len(runs)


def test_a_metric_may_be_named_like_a_column() -> None:
    """It is one more column of that name."""
    run = run_of(row_count=7, summary=to_key_values({"STATE": 2.5}))
    assert cells(RunsView([run], "STATE"))[3:7] == ["FINISHED", "7", "-", "2.5"]
