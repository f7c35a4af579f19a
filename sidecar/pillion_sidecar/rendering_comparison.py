"""How the CLI shows a comparison, and what differs between two runs.

Runs are columns. Where they do not all fit beside each other, they come in several blocks; names
and values that are wider than a column are cut, in the middle. Into a pipe nothing is cut.
"""

import math
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

from pillion.system import is_system
from pillion.v1 import run_pb2
from pillion.v1 import telemetry_service_pb2 as pb2
from pillion.values import Value, from_any_value
from pillion_sidecar.rendering import (
    number_text,
    seconds_text,
    sparkline,
    user_lines,
    user_text,
)
from pillion_sidecar.safety import count_text

LABEL_CHARACTERS_MAX = 24
"""Of a line's label, on a terminal."""
CELL_CHARACTERS_MIN = 12
"""To this a run's cells are cut before fewer runs stand beside each other."""
NAME_CHARACTERS_MAX, GROUP_CHARACTERS_MIN = 22, 8
"""Of a name in the tables of groups and series, on a terminal; to these a narrow one cuts it."""
LACKING_KEYS_MAX, LACKING_KEYS_SHOWN = 5, 3
"""Of config keys that the same runs lack: more are told in one line, which names the first."""
UNCUT_WIDTH = 1000
"""What is as wide is no terminal."""

_GAP = 2
_NOTE_CHARACTERS = 6
_ARROWS = {run_pb2.DIRECTION_LOWER: "↓", run_pb2.DIRECTION_HIGHER: "↑"}
_PACKAGES, _GPUS, _ARGUMENTS = "packages.", "gpus", "arguments"


@dataclass(frozen=True, slots=True)
class _Line:
    """A line of the table: what it is about, and a cell per run."""

    label: str
    note: str
    cells: Sequence[str]
    best: int | None = None
    """The cell that is marked."""


@dataclass(frozen=True, slots=True)
class _Section:
    title: str
    lines: list[_Line] = field(default_factory=list)
    footer: str = ""


class ComparisonView:
    """A comparison, as it is printed: what differs first, then the metrics, then what it took."""

    def __init__(
        self,
        response: pb2.CompareResponse,
        axis: str = "step",
        shown: Collection[str] | None = None,
    ) -> None:
        """Take what is shown: the answer, its axis for people, and the metrics; None: all."""
        self._response, self._axis, self._shown = response, axis, shown

    def __rich_console__(self, _console: Console, options: ConsoleOptions) -> RenderResult:
        response = self._response
        sections = [
            _short_config(response),
            _short_environment(response),
            _Section("METRIC", list(_metric_lines(response, self._shown))),
            _Section("COST", list(_cost_lines(response))),
        ]
        names = _short_names(response.runs)
        yield from _blocks(names, sections, options.max_width)
        name_max = NAME_CHARACTERS_MAX if options.max_width < UNCUT_WIDTH else UNCUT_WIDTH
        yield from _group_tables(response, name_max)
        yield from _series_tables(response, [_cut(name, name_max) for name in names], self._axis)


class DifferencesView:
    """What differs between runs, all of it."""

    def __init__(self, response: pb2.CompareResponse) -> None:
        self._response = response

    def __rich_console__(self, _console: Console, options: ConsoleOptions) -> RenderResult:
        response = self._response
        sections = [
            _differences("CONFIG", response.config_differences, response.config_difference_count),
            _differences(
                "ENVIRONMENT",
                response.environment_differences,
                response.environment_difference_count,
            ),
        ]
        yield from _blocks(_short_names(response.runs), sections, options.max_width)


def best_sentence(response: pb2.CompareResponse, asked: str = "") -> str:
    """Say which run is best, and by what; of a metric that was asked for, why none is."""
    if not response.best_run_id:
        metric = next((one for one in response.metrics if one.key == asked), None)
        if metric is not None and metric.direction not in _ARROWS:
            said = f"nothing says which direction of {asked} is better. Say it: --direction"
            return user_text(f"No run is best: {said} {asked}=lower, or =higher.").plain
        return "No run is best: no metric that all of them have says which direction is better."
    best = next(run for run in response.runs if run.run_id == response.best_run_id)
    metric = next(metric for metric in response.metrics if metric.key == response.metric)
    figure = next(one for one in metric.statistics if one.run_id == best.run_id)
    name = best.name if best.name == best.run_id else f"{best.name} ({best.run_id})"
    said = f"{name} with {number_text(figure.best)} at step {figure.best_step}."
    return user_text(f"Best by {metric.key}: {said}").plain


def differ_count(response: pb2.CompareResponse) -> int:
    """Return how many differences there are in all."""
    return response.config_difference_count + response.environment_difference_count


def _differences(
    title: str, differences: Sequence[run_pb2.ConfigDifference], count: int
) -> _Section:
    left_out = count - len(differences)
    return _Section(
        title,
        [
            _Line(difference.key, "", _setting_texts(difference.key, difference.settings))
            for difference in differences
        ],
        f"… and {left_out:,} more that differ" if left_out else "",
    )


def _short_config(response: pb2.CompareResponse) -> _Section:
    """Show what differs in the config; keys that some runs lack, if they are many, in one line."""
    lacking: dict[tuple[int, ...], list[str]] = {}
    for each in response.config_differences:
        having = tuple(n for n, one in enumerate(each.settings) if one.HasField("value"))
        if len(having) < len(each.settings):
            lacking.setdefault(having, []).append(each.key)
    many = {having: keys for having, keys in lacking.items() if len(keys) > LACKING_KEYS_MAX}
    folded = {key for keys in many.values() for key in keys}
    names = _short_names(response.runs)
    left = [each for each in response.config_differences if each.key not in folded]
    count = response.config_difference_count - len(folded)
    section = _differences("CONFIG", left, count)
    footers = [section.footer] if section.footer else []
    for having, keys in many.items():
        some = ", ".join(keys[:LACKING_KEYS_SHOWN])
        holders = ", ".join(names[number] for number in having)
        footers.append(f"{len(keys):,} keys only in {holders}: {some} …")
    return _Section(section.title, section.lines, "\n".join(footers))


def _setting_texts(key: str, settings: Sequence[run_pb2.ConfigSetting]) -> list[str]:
    """Show values of one key: in six digits, if they can still be told apart."""
    values = [
        from_any_value(setting.value) if setting.HasField("value") else "-" for setting in settings
    ]
    if key == _GPUS:
        return [_gpus_text(value) if isinstance(value, list) else str(value) for value in values]
    short = [f"{value:.6g}" if isinstance(value, float) else str(value) for value in values]
    whole = [str(value) for value in values]
    return short if len(set(short)) == len(set(whole)) else whole


def _gpus_text(names: Sequence[Value]) -> str:
    counts = Counter(map(str, names))
    return ", ".join(name if n == 1 else f"{n} x {name}" for name, n in counts.items())


def _short_environment(response: pb2.CompareResponse) -> _Section:
    """Show what differs in the environment; of packages, which may be many, only their number.

    The arguments are left out where the config differs, since it mostly comes from them.
    """
    others = [
        each for each in response.environment_differences if not each.key.startswith(_PACKAGES)
    ]
    left_out = response.environment_difference_count - len(others)
    is_config_told = bool(response.config_differences)
    shown = [each for each in others if each.key != _ARGUMENTS or not is_config_told]
    packages = f"{left_out:,} package{'s' * (left_out > 1)}: `pillion diff A B` shows them"
    section = _differences("ENVIRONMENT", shown, len(shown))
    return _Section(section.title, section.lines, packages if left_out else "")


def _metric_lines(response: pb2.CompareResponse, shown: Collection[str] | None) -> Iterator[_Line]:
    for metric in response.metrics:
        if shown is not None and metric.key not in shown:
            continue
        label, arrow = metric.key, _ARROWS.get(metric.direction, " ")
        for figure in ("mean", "max") if is_system(metric.key) else ("last",):
            values = [_figure_text(one, figure) for one in metric.statistics]
            yield _Line(label, f"{arrow} {figure}", values)
            label, arrow = "", " "
        if metric.direction in _ARROWS:
            run_ids = [one.run_id for one in metric.statistics]
            best = run_ids.index(metric.best_run_id) if metric.best_run_id else None
            cells = [_figure_text(one, "best") for one in metric.statistics]
            yield _Line("", "  best", cells, best)
        if any(one.nan_count for one in metric.statistics):
            counts = [f"{one.nan_count:,}" if one.point_count else "-" for one in metric.statistics]
            yield _Line("", "  NaNs", counts)


def _cost_lines(response: pb2.CompareResponse) -> Iterator[_Line]:
    costs = response.costs
    if not costs:
        return
    yield _Line(
        "time",
        "",
        [seconds_text(cost.duration_s) + " so far" * cost.is_running for cost in costs],
    )
    yield _Line(
        "GPU time",
        "",
        [f"{cost.gpu_s / 3600:,.3g} h" if cost.HasField("gpu_s") else "no GPU" for cost in costs],
    )
    rates = [
        number_text(cost.rows_per_s if cost.HasField("rows_per_s") else None) for cost in costs
    ]
    yield _Line("rows per second", "", rates)
    if response.throughput_metric:
        means = [
            number_text(cost.throughput if cost.HasField("throughput") else None) for cost in costs
        ]
        yield _Line(response.throughput_metric, "  mean", means)


def _blocks(names: Sequence[str], sections: Sequence[_Section], width: int) -> Iterator[Any]:
    """Lay the sections out, with as many runs beside each other as the width allows."""
    sections = [section for section in sections if section.lines or section.footer]
    lines = [line for section in sections for line in section.lines]
    if not lines:
        return
    labels = [section.title for section in sections] + [line.label for line in lines]
    label_max = LABEL_CHARACTERS_MAX if width < UNCUT_WIDTH else UNCUT_WIDTH
    label_width = min(label_max, max(map(len, labels)))
    whole = [
        max(len(name), *(len(line.cells[index]) + (line.best == index) for line in lines))
        for index, name in enumerate(names)
    ]
    left = width - label_width - _NOTE_CHARACTERS - _GAP
    widths, block_runs = _fitted(whole, left)
    for first in range(0, len(names), block_runs):
        if first:
            yield ""
        indices = range(first, min(first + block_runs, len(names)))
        for section in sections:
            yield _table(names, section, indices, label_width, widths)
            if section.footer and indices[-1] == len(names) - 1:
                yield user_lines(section.footer)
            if section is not sections[-1]:
                yield ""


def _fitted(whole: Sequence[int], left: int) -> tuple[list[int], int]:
    """Return how wide the runs' columns are, and how many stand beside each other: at least one."""
    if sum(width + _GAP for width in whole) <= left:
        return list(whole), len(whole)
    narrow = min(CELL_CHARACTERS_MIN, max(whole))
    most = max(1, left // (narrow + _GAP))
    block_count = -(-len(whole) // most)
    block_runs = -(-len(whole) // block_count)
    width_max = max(narrow, left // block_runs - _GAP)
    return [min(width, width_max) for width in whole], block_runs


def _table(
    names: Sequence[str],
    section: _Section,
    indices: Sequence[int],
    label_width: int,
    widths: Sequence[int],
) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column(section.title, width=label_width, no_wrap=True)
    table.add_column("", width=_NOTE_CHARACTERS, no_wrap=True)
    for index in indices:
        header = user_text(_cut(names[index], widths[index]))
        table.add_column(header, width=widths[index], justify="right", no_wrap=True)
    for line in section.lines:
        cells = []
        for index in indices:
            is_best = index == line.best
            cell = _cut(line.cells[index], widths[index] - is_best)
            style = "bold green" if is_best else ""
            cells.append(Text("*" * is_best + user_text(cell).plain, style=style))
        table.add_row(user_text(_cut(line.label, label_width)), line.note, *cells)
    return table


def _group_tables(response: pb2.CompareResponse, name_max: int) -> Iterator[Any]:
    """Show the groups by each metric whose direction is known, the one that decides first.

    Not a single one: it has no other to differ from.
    """
    metrics = sorted(
        (
            metric
            for metric in response.metrics
            if len(metric.groups) > 1 and metric.direction in _ARROWS
        ),
        key=lambda metric: metric.key != response.metric,
    )
    for metric in metrics:
        yield ""
        title = f"GROUPS by each run's {metric.group_figure} {metric.key}"
        yield Text(user_text(title).plain, style="bold")
        table = Table(box=None, pad_edge=False, header_style="dim")
        table.add_column("group", min_width=GROUP_CHARACTERS_MIN, no_wrap=True)
        for name in ("runs", "mean", "std", "difference", "95 % interval", "p"):
            table.add_column(name, justify="right", no_wrap=True)
        differences = {one.name: one for one in metric.group_differences}
        for group in metric.groups:
            deviation = group.standard_deviation if group.HasField("standard_deviation") else None
            table.add_row(
                user_text(_cut(group.name, name_max)),
                str(group.run_count),
                _short(group.mean),
                _short(deviation),
                *_difference_cells(differences.get(group.name)),
            )
        yield table
        remarks = dict.fromkeys(one.remark for one in metric.group_differences if one.remark)
        yield from (Text(remark, style="dim") for remark in remarks)


def _difference_cells(one: run_pb2.GroupDifference | None) -> list[str]:
    if one is None:
        return ["", "", ""]
    if not one.HasField("p_value"):
        return [f"{one.difference:+.4g}", "-", "-"]
    interval = f"{one.low:+.3g} … {one.high:+.3g}"
    return [f"{one.difference:+.4g}", interval, f"{one.p_value:.2g}"]


def _series_tables(response: pb2.CompareResponse, names: Sequence[str], axis: str) -> Iterator[Any]:
    """Draw each run's values; how far they reach stands above."""
    for aligned in response.aligned:
        yield ""
        places = "no places"
        if aligned.x:
            span = f"{number_text(aligned.x[0])} … {number_text(aligned.x[-1])}"
            places = f"{count_text(len(aligned.x), 'place')}, {span}" + " s" * (axis == "time")
        title = f"SERIES of {aligned.key} by {axis}: {places}"
        yield Text(user_text(title).plain, style="bold")
        table = Table(box=None, pad_edge=False, show_header=False)
        for name, one in zip(names, aligned.series, strict=True):
            numbers = [value for value in one.values if not math.isnan(value)]
            table.add_row(
                user_text(name),
                sparkline(numbers),
                count_text(len(numbers), "value"),
            )
        yield table


def _short_names(runs: Sequence[run_pb2.Run]) -> list[str]:
    """Return the runs' names, with their ids where two share one."""
    names = [run.name for run in runs]
    return [
        name if names.count(name) == 1 else f"{name} {run.run_id}"
        for name, run in zip(names, runs, strict=True)
    ]


def _figure_text(statistics: run_pb2.MetricStatistics, figure: str) -> str:
    """Show a figure: `-` where the run does not have the metric, NaN where it has no number."""
    if statistics.HasField(figure):
        return number_text(getattr(statistics, figure))
    return "NaN" if statistics.point_count else "-"


def _short(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def _cut(text: str, width: int) -> str:
    """Cut a text in the middle: names often differ at their ends."""
    if len(text) <= width:
        return text
    head = (width - 1) // 2
    return f"{text[:head]}…{text[len(text) - (width - 1 - head) :]}"
