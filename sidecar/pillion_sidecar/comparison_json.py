"""The shapes of `--json` for a comparison, and for what differs; see `docs/cli.md`."""

import math
from collections.abc import Sequence
from typing import Any

from pillion.v1 import run_pb2
from pillion.v1 import telemetry_service_pb2 as pb2
from pillion.values import from_any_value
from pillion_sidecar.rendering import plain_value, run_json

_DIRECTION_NAMES = {run_pb2.DIRECTION_LOWER: "lower", run_pb2.DIRECTION_HIGHER: "higher"}


def comparison_json(response: pb2.CompareResponse) -> dict[str, Any]:
    """Return a comparison for `--json`."""
    return {
        "runs": [run_json(run) for run in response.runs],
        "metric": response.metric or None,
        "best_run_id": response.best_run_id or None,
        "metrics": {metric.key: _metric_json(metric) for metric in response.metrics},
        **_differences_json(response),
        "costs": {
            cost.run_id: {"duration_s": cost.duration_s, "is_running": cost.is_running}
            | {"gpu_count": cost.gpu_count}
            | _figures_json(cost, ("gpu_s", "rows_per_s", "throughput"))
            for cost in response.costs
        },
        "throughput_metric": response.throughput_metric or None,
        "groups": {group.name: list(group.run_ids) for group in response.groups},
        "series": {
            aligned.key: {
                "x": [plain_value(x) for x in aligned.x],
                "runs": {one.run_id: [*map(_place_json, one.values)] for one in aligned.series},
            }
            for aligned in response.aligned
        },
        "url": response.url or None,
    }


def differences_json(response: pb2.CompareResponse) -> dict[str, Any]:
    """Return what differs, for `--json`."""
    return {"run_ids": [run.run_id for run in response.runs], **_differences_json(response)}


def _metric_json(metric: run_pb2.MetricComparison) -> dict[str, Any]:
    figures = ("first", "last", "min", "max", "mean", "best", "best_step")
    tested = ("low", "high", "p_value", "degrees_of_freedom")
    return {
        "direction": _DIRECTION_NAMES.get(metric.direction),
        "best_run_id": metric.best_run_id or None,
        "runs": {
            one.run_id: {"point_count": one.point_count, "nan_count": one.nan_count}
            | _figures_json(one, figures)
            for one in metric.statistics
        },
        "group_figure": metric.group_figure or None,
        "groups": {
            group.name: {"run_count": group.run_count}
            | _figures_json(group, ("mean", "standard_deviation"))
            for group in metric.groups
        },
        "group_differences": {
            one.name: {"baseline": one.baseline, "difference": plain_value(one.difference)}
            | _figures_json(one, tested)
            | {"remark": one.remark or None}
            for one in metric.group_differences
        },
    }


def _figures_json(message: Any, names: Sequence[str]) -> dict[str, Any]:
    """Return figures of a message; null for those that are not set."""
    optional = {each.name for each in message.DESCRIPTOR.fields if each.has_presence}
    return {
        name: plain_value(getattr(message, name))
        if name not in optional or message.HasField(name)
        else None
        for name in names
    }


def _place_json(value: float) -> Any:
    return None if math.isnan(value) else plain_value(value)


def _differences_json(response: pb2.CompareResponse) -> dict[str, Any]:
    return {
        "config_difference_count": response.config_difference_count,
        "config_differences": _settings_json(response.config_differences),
        "environment_difference_count": response.environment_difference_count,
        "environment_differences": _settings_json(response.environment_differences),
    }


def _settings_json(differences: Sequence[run_pb2.ConfigDifference]) -> dict[str, dict[str, Any]]:
    return {
        difference.key: {
            setting.run_id: plain_value(from_any_value(setting.value))
            for setting in difference.settings
            if setting.HasField("value")
        }
        for difference in differences
    }
