"""What differs between runs, in config and environment, and what is no difference."""

from typing import Any

import pytest
from stored_runs import stored_run

from pillion.process import ProcessIdentity
from pillion_sidecar.differences import (
    DIFFERENCES_MAX,
    Setting,
    config_differences,
    environment_differences,
)
from pillion_sidecar.environment import Environment, GitState, Gpu, Package
from pillion_sidecar.records import RunId

NAN = float("nan")


def differences(*configs: dict[str, Any]) -> dict[str, list[Any]]:
    """Compare configs; where a run lacks a key, stands Ellipsis."""
    runs = [stored_run(f"r{number}", config) for number, config in enumerate(configs)]
    found = config_differences(runs).found
    assert all([s.run_id for s in each.settings] == [run.run_id for run in runs] for each in found)
    return {each.key: [s.value if s.is_set else ... for s in each.settings] for each in found}


def test_only_what_differs_between_configs_is_told() -> None:
    """By key, nested ones joined by a point, in the order asked for."""
    found = differences(
        {"lr": 1e-3, "model": {"depth": 2, "act": {"name": "gelu"}}, "seed": 1},
        {"lr": 1e-4, "model": {"depth": 2, "act": {"name": "relu"}}, "seed": 1},
    )
    assert found == {"lr": [1e-3, 1e-4], "model.act.name": ["gelu", "relu"]}


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (1, 1.0),
        (0.0, -0.0),
        (NAN, NAN),
        (None, None),
        ([1, [NAN]], [1.0, [NAN]]),
        ([{"a": 1, "b": 2}], [{"b": 2, "a": 1}]),
        (2**80, 2**80),
        (b"x", b"x"),
        ({}, {}),
    ],
)
def test_values_that_mean_the_same_do_not_differ(one: object, other: object) -> None:
    """Numbers by their value, NaN as itself, mappings in any order, within lists too."""
    assert differences({"x": one}, {"x": other}) == {}


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (1, True),
        (0, False),
        (1, "1"),
        ("x", b"x"),
        (None, False),
        (None, ""),
        (None, []),
        ([1, 2], [2, 1]),
        ([1], [True]),
        ([], [[]]),
        ([], {}),
        ("nan", NAN),
        (2**63, 2**63 + 1),
        (2**53, float(2**53) + 2),
    ],
)
def test_values_that_mean_something_else_differ(one: object, other: object) -> None:
    """True is not 1, text is no number, and no two kinds of nothing are the same."""
    assert differences({"x": one}, {"x": other}) == {"x": [one, other]}


def test_a_missing_key_is_not_none() -> None:
    """Nor is a value the same as a mapping in its place."""
    assert differences({"a": None, "b": 1}, {"b": {"c": 1}}, {}) == {
        "a": [None, ..., ...],
        "b": [1, ..., ...],
        "b.c": [..., 1, ...],
    }


def test_a_setting_tells_whether_it_is_set() -> None:
    """So that None and nothing can be told apart."""
    runs = [stored_run("a", {"x": None}), stored_run("b")]
    (difference,) = config_differences(runs).found
    assert difference.settings == (
        Setting(RunId("a"), is_set=True, value=None),
        Setting(RunId("b"), is_set=False, value=None),
    )


def test_differences_are_bounded_and_all_counted() -> None:
    """The first ones by key are given."""
    runs = [stored_run("a", {f"k{number:05}": 1 for number in range(2 * DIFFERENCES_MAX)})]
    found = config_differences([*runs, stored_run("b")])
    assert (len(found.found), found.count) == (DIFFERENCES_MAX, 2 * DIFFERENCES_MAX)
    assert found.found[-1].key == f"k{DIFFERENCES_MAX - 1:05}"


def environments(*environments: Environment, **fields: Any) -> dict[str, list[Any]]:
    """Compare environments; where a run does not tell a fact, stands Ellipsis."""
    runs = [
        stored_run(f"r{number}", environment=each, **fields)
        for number, each in enumerate(environments)
    ]
    found = environment_differences(runs).found
    return {each.key: [s.value if s.is_set else ... for s in each.settings] for each in found}


def test_only_what_differs_between_environments_is_told() -> None:
    """Git, packages, GPUs and the machine, by their names; never processes and serial numbers."""
    one = Environment(
        host="h1",
        process=ProcessIdentity("boot", 1, 2, 3),
        program="train.py",
        arguments=("--lr", "1"),
        python_version="3.11.7",
        git=GitState("a" * 40, "main", "git@x:y"),
        packages=(Package("torch", "2.1"), Package("numpy", "2.0"), Package("only", "1")),
        gpus=(Gpu("H100", 80, 0, "u0"),),
        cpu_count=8,
    )
    other = Environment(
        host="h1",
        process=ProcessIdentity("boot", 1, 9, 9),
        program="train.py",
        arguments=("--lr", "2"),
        python_version="3.12.1",
        git=GitState("b" * 40, "main", "git@x:y"),
        packages=(Package("torch", "2.2"), Package("numpy", "2.0")),
        gpus=(Gpu("H100", 80, 3, "u3"), Gpu("H100", 80, 4, "u4")),
        cpu_count=8,
    )
    assert environments(one, other) == {
        "arguments": [["--lr", "1"], ["--lr", "2"]],
        "git.commit": ["a" * 40, "b" * 40],
        "gpus": [["H100"], ["H100", "H100"]],
        "packages.only": ["1", ...],
        "packages.torch": ["2.1", "2.2"],
        "python_version": ["3.11.7", "3.12.1"],
    }
    assert environments(one, one) == {}


def test_a_run_without_a_checkout_or_a_gpu_differs_from_one_that_has_it() -> None:
    """What it does not tell is not set."""
    bare = Environment()
    told = Environment(git=GitState("c" * 40), gpus=(Gpu("H100", 80, 0, "u"),))
    assert environments(told, bare) == {"git.commit": ["c" * 40, ...], "gpus": [["H100"], ...]}


def test_a_run_that_tells_no_packages_takes_no_part_in_their_comparison() -> None:
    """Else every package of the others would be a difference."""
    one, other, none = (
        Environment(packages=(Package("torch", "1"), Package("numpy", "2"))),
        Environment(packages=(Package("torch", "2"), Package("numpy", "2"))),
        Environment(),
    )
    assert environments(one, none) == {}
    assert environments(one, other, none) == {"packages.torch": ["1", "2", ...]}


def test_what_is_trained_on_what_is_among_the_differences() -> None:
    """Though no config has it."""
    runs = [
        stored_run("a", model="small", dataset="d"),
        stored_run("b", model="large", dataset="d"),
    ]
    (model,) = environment_differences(runs).found
    assert (model.key, [setting.value for setting in model.settings]) == (
        "model",
        ["small", "large"],
    )
