"""How `pillion runs` looks: a line per run, in as many columns as the terminal has room for."""

import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

from pillion.v1 import run_pb2
from pillion.values import Value, from_key_values
from pillion_sidecar.compare import METRICS_PREFERRED
from pillion_sidecar.rendering import (
    duration_text,
    number_text,
    sparkline,
    state_text,
    user_text,
)

TREND_POINTS = 24
"""Blocks of a line that shows how a metric went."""
TREND_POINTS_MIN = 8
"""So many it keeps; where there is less room for it a column is left out."""

_GAP = 2
_LEFT_OUT_FIRST = ("PROJECT", "STARTED", "ROWS", "TOOK", "STEP")


@dataclass(frozen=True, slots=True)
class _Column:
    title: Text
    cells: Sequence[Text]
    is_number: bool = True
    is_cut: bool = False
    """Whether it may be cut where there is no room even so."""

    @property
    def width(self) -> int:
        return max(text.cell_len for text in (self.title, *self.cells))


class RunsView:
    """Runs, one per line. What a narrow terminal has no room for is left out, column by column."""

    def __init__(
        self,
        runs: Sequence[run_pb2.Run],
        metric: str = "",
        trends: Mapping[str, Sequence[float]] | None = None,
    ) -> None:
        """Take what is shown.

        Args:
            runs: The runs.
            metric: What is shown of each; empty: of the preferred ones that which most have.
            trends: Some values of it that show how it went, by run.
        """
        self._runs = runs
        self._trends = None if trends is None else [trends.get(run.run_id, ()) for run in runs]
        summaries = [from_key_values(run.summary) for run in runs]
        self._metric = metric or _metric_of_most(summaries)
        self._values = [_last(summary.get(self._metric)) for summary in summaries]

    def __rich_console__(self, _console: Console, options: ConsoleOptions) -> RenderResult:
        columns = self._columns()
        room = options.max_width - (0 if self._trends is None else TREND_POINTS_MIN + _GAP)
        for title in _LEFT_OUT_FIRST:
            if _width(columns.values()) > room:
                del columns[title]
        if self._trends is not None:
            left = options.max_width - _width(columns.values()) - _GAP
            width = max(TREND_POINTS_MIN, min(left, TREND_POINTS))
            lines = [Text(sparkline(values, width)) for values in self._trends]
            columns["trend"] = _Column(Text(), lines, is_number=False)
        yield _table(columns.values())

    def _columns(self) -> dict[str, _Column]:
        runs = self._runs
        steps = [f"{run.last_step:,}" if run.HasField("last_step") else "-" for run in runs]
        started = [time.localtime(run.start_time.seconds) for run in runs]
        return {
            "ID": _Column(Text("ID"), [Text(run.run_id) for run in runs], is_number=False),
            "NAME": _names("NAME", [run.name for run in runs]),
            "PROJECT": _names("PROJECT", [run.project for run in runs]),
            "STATE": _Column(Text("STATE"), [state_text(run) for run in runs], is_number=False),
            "ROWS": _Column(Text("ROWS"), [Text(f"{run.row_count:,}") for run in runs]),
            "STEP": _Column(Text("STEP"), [Text(step) for step in steps]),
            "metric": _Column(
                user_text(self._metric or "LOSS"),
                [Text(number_text(value)) for value in self._values],
                is_cut=True,
            ),
            "STARTED": _Column(
                Text("STARTED"), [Text(time.strftime("%m-%d %H:%M", each)) for each in started]
            ),
            "TOOK": _Column(Text("TOOK"), [Text(duration_text(run)) for run in runs]),
        }


def _names(title: str, names: Sequence[str]) -> _Column:
    return _Column(Text(title), [user_text(name) for name in names], is_number=False, is_cut=True)


def _width(columns: Collection[_Column]) -> int:
    widths = [column.width for column in columns]
    return sum(widths) + _GAP * (len(widths) - 1)


def _table(columns: Collection[_Column]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(
            column.title,
            justify="right" if column.is_number else "left",
            no_wrap=True,
            min_width=None if column.is_cut else column.width,
        )
    for line in zip(*(column.cells for column in columns), strict=True):
        table.add_row(*line)
    return table


def _last(value: Value) -> Value:
    """Return one figure of a metric's summary, which is several where it was defined so."""
    return value.get("last", next(iter(value.values()), None)) if isinstance(value, dict) else value


def _metric_of_most(summaries: Sequence[Mapping[str, Value]]) -> str:
    """Return the preferred metric that most have, the first of equals; empty: none has one."""
    counts = {key: sum(key in summary for summary in summaries) for key in METRICS_PREFERRED}
    best = max(counts, key=counts.__getitem__)
    return best if counts[best] else ""
