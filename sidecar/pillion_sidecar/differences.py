"""What differs between runs: in config, and in where and how they ran. Pure functions.

Nested keys are joined by `.` (of two that then read the same the later stands), lists are compared
as a whole. As in what trainers do with it, 1 equals 1.0, and NaN equals NaN; True is not 1, the
text "1" is not 1, and a missing key is not None.

Of where and how a run ran, what it does not tell is not set, as a missing key is. A run that tells
no packages at all, such as one of `pillion run` alone, takes no part in their comparison. Processes
and the serial numbers of GPUs are left out: they always differ.
"""

import itertools
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from pillion.values import Value
from pillion_sidecar.records import RunId
from pillion_sidecar.stored_run import StoredRun

DIFFERENCES_MAX = 1000
"""So many differences of each kind are given; the rest is counted."""

_PACKAGES = "packages."


@dataclass(frozen=True, slots=True)
class Setting:
    """A key in one run; where `is_set` is false, the run does not have it."""

    run_id: RunId
    is_set: bool
    value: Value


@dataclass(frozen=True, slots=True)
class Difference:
    """A key that is not the same in all runs; `settings` in the order asked for."""

    key: str
    settings: tuple[Setting, ...]


@dataclass(frozen=True, slots=True)
class Differences:
    """What differs."""

    found: tuple[Difference, ...]
    """The first `DIFFERENCES_MAX` by key."""
    count: int
    """With those left out."""


def config_differences(runs: Sequence[StoredRun]) -> Differences:
    """Find what differs between the runs' configs."""
    return _differences(runs, [dict(flat(run.config)) for run in runs])


def environment_differences(runs: Sequence[StoredRun]) -> Differences:
    """Find what differs in where and how the runs ran."""
    told = [_environment(run) for run in runs]
    without_packages = [not run.environment.packages for run in runs]

    def takes_part(index: int, key: str) -> bool:
        return not (key.startswith(_PACKAGES) and without_packages[index])

    return _differences(runs, told, takes_part)


def flat(config: Mapping[str, Value], prefix: str = "") -> Iterator[tuple[str, Value]]:
    """Yield the keys of a config and their values; nested keys joined by `.`."""
    for key, value in config.items():
        if isinstance(value, dict) and value:
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def comparable(value: Value) -> Hashable:
    """Return something that is equal for equal values and tells unlike types apart."""
    match value:
        case bool():
            return "bool", value
        case int() | float():
            return "number", "nan" if value != value else value  # noqa: PLR0124 - only NaN is so
        case list():
            return "list", tuple(comparable(element) for element in value)
        case dict():
            return "dict", frozenset((key, comparable(each)) for key, each in value.items())
    return type(value), value


def _differences(
    runs: Sequence[StoredRun],
    told: Sequence[Mapping[str, Value]],
    takes_part: Callable[[int, str], bool] = lambda _index, _key: True,
) -> Differences:
    found = (
        Difference(
            key,
            tuple(
                Setting(run.run_id, key in one, one.get(key))
                for run, one in zip(runs, told, strict=True)
            ),
        )
        for key in sorted({key for one in told for key in one})
        if len(
            {
                comparable(one[key]) if key in one else ()
                for index, one in enumerate(told)
                if takes_part(index, key)
            }
        )
        > 1
    )
    shown = tuple(itertools.islice(found, DIFFERENCES_MAX))
    return Differences(shown, len(shown) + sum(1 for _ in found))


def _environment(run: StoredRun) -> dict[str, Value]:
    """Return what a run tells of where and how it ran."""
    environment, git = run.environment, run.environment.git
    told: dict[str, Value] = {
        "model": run.model,
        "dataset": run.dataset,
        "use_case": run.use_case,
        "job_type": run.job_type,
        "host": environment.host,
        "program": environment.program,
        "arguments": list(environment.arguments),
        "python_version": environment.python_version,
        "platform": environment.platform,
        "client_version": environment.client_version,
        "cpu_count": environment.cpu_count,
        "memory_bytes": environment.memory_bytes,
        "gpus": [gpu.name for gpu in environment.gpus],
    }
    if git is not None:
        told |= {f"git.{name}": getattr(git, name) for name in ("branch", "commit", "remote_url")}
    told |= {f"{_PACKAGES}{each.name}": each.version for each in environment.packages}
    return {key: value for key, value in told.items() if value}
