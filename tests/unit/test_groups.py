"""Groups of runs: which there are, by what they are compared, and what is said of few runs."""

from typing import Any

import pandas as pd
import pytest
from scipy import stats
from stored_runs import stored_run

from pillion_sidecar.directions import Direction
from pillion_sidecar.errors import PeerError
from pillion_sidecar.groups import (
    GroupDifference,
    GroupStatistics,
    RunGroup,
    compare_groups,
    group_figure,
    group_runs,
)
from pillion_sidecar.records import RunId
from pillion_sidecar.store_statistics import MetricStatistics

NAN, INF = float("nan"), float("inf")


def grouped(*configs: dict[str, Any], key: str = "") -> dict[str, str]:
    """Group runs by config, or by `group` in it; return each group's runs, run together."""
    runs = [
        stored_run(str(number), config, group=config.get("group", ""))
        for number, config in enumerate(configs)
    ]
    return {group.name: "".join(group.run_ids) for group in group_runs(runs, key)}


def compared(
    **values: list[float | None],
) -> tuple[tuple[GroupStatistics, ...], tuple[GroupDifference, ...]]:
    """Compare groups of runs that have these best values."""
    groups, statistics = [], {}
    for name, of_group in values.items():
        run_ids = tuple(RunId(f"{name}{number}") for number in range(len(of_group)))
        groups.append(RunGroup(name, run_ids))
        statistics |= {
            run_id: MetricStatistics(run_id, 1, 0, best=value)
            for run_id, value in zip(run_ids, of_group, strict=True)
        }
    return compare_groups(groups, statistics, "best")


def test_runs_that_share_their_group_are_one() -> None:
    """In the order of their first runs; runs without a group are in none."""
    runs = [{"group": "b"}, {"group": "a"}, {"group": ""}, {"group": "b"}]
    assert grouped(*runs) == {"b": "03", "a": "1"}


def test_without_two_runs_that_share_one_there_are_no_groups() -> None:
    """Unless a key to group by is asked for."""
    assert grouped({"group": "a"}, {"group": "b"}, {}) == {}
    assert grouped({"lr": 1}, {"lr": 2}, {}, key="lr") == {"lr=1": "0", "lr=2": "1"}


def test_runs_of_equal_values_of_a_key_are_a_group() -> None:
    """Nested keys too; values are equal as in the differences of config."""
    runs = [{"opt": {"lr": 1}}, {"opt": {"lr": 1.0}}, {"opt": {"lr": True}}, {"opt": {}}]
    assert grouped(*runs, key="opt.lr") == {"opt.lr=1": "01", "opt.lr=True": "2"}


def test_values_that_would_read_the_same_have_names_of_their_own() -> None:
    """Texts stand in quotes then, so that no group takes the figures of another."""
    runs = [{"v": 1}, {"v": "1"}, {"v": '"1"'}, {"v": True}, {"v": "True"}, {"v": "1"}]
    assert grouped(*runs, key="v") == {
        "v=1": "0",
        'v="1"': "15",
        r'v="\"1\""': "2",
        "v=True": "3",
        'v="True"': "4",
    }
    assert grouped({"v": 1}, {"v": "a"}, key="v") == {"v=1": "0", "v=a": "1"}


def test_a_key_that_no_config_has_is_refused_with_those_there_are() -> None:
    """It is mistyped, most likely."""
    with pytest.raises(PeerError, match=r"'sed'.*have lr, seed\.") as error:
        grouped({"seed": 1}, {"lr": 2}, key="sed")
    assert error.value.reason == "CONFIG_KEY_UNKNOWN"


def test_figures_of_groups_are_those_of_pandas_and_scipy() -> None:
    """Mean, standard deviation with n - 1, and Welch's test against the first group."""
    values: dict[str, list[float | None]] = {
        "base": [0.5, 0.52, 0.49],
        "wide": [0.44, 0.45, 0.41, 0.43],
        "deep": [0.6, 0.3, 0.9],
    }
    groups, differences = compared(**values)
    for group in groups:
        expected = pd.Series(values[group.name], dtype=float)
        assert group.run_count == len(expected)
        assert (group.mean, group.standard_deviation) == pytest.approx(
            (expected.mean(), expected.std())
        )
    assert [one.name for one in differences] == ["wide", "deep"]
    for one in differences:
        test = stats.ttest_ind(values[one.name], values["base"], equal_var=False)
        interval = test.confidence_interval(0.95)
        assert (one.baseline, one.remark) == ("base", "")
        assert (one.p_value, one.low, one.high) == pytest.approx(
            (test.pvalue, interval.low, interval.high)
        )


def test_runs_without_a_finite_number_take_no_part() -> None:
    """They are not counted either; a group of nothing else is not there."""
    groups, differences = compared(a=[1.0, None, INF], b=[None], c=[2.0, 4.0])
    assert [(group.name, group.run_count) for group in groups] == [("a", 1), ("c", 2)]
    assert [one.name for one in differences] == ["c"]


@pytest.mark.parametrize(
    ("ours", "is_tested", "remark"),
    [
        ([3.0], False, "single run"),
        ([3.0, 3.5], True, "2 runs in a group say little"),
        ([3.0, 3.5, 3.1], True, ""),
    ],
)
def test_of_few_runs_it_is_said_what_they_can_tell(
    ours: list[float | None], is_tested: bool, remark: str
) -> None:
    """A single one nothing of chance; two are tested, and little comes of it."""
    _, (difference,) = compared(base=[1.0, 1.2, 1.1], ours=ours)
    assert difference.difference == pytest.approx(sum(filter(None, ours)) / len(ours) - 1.1)
    assert (difference.p_value is not None) == is_tested
    assert remark in difference.remark
    assert bool(difference.remark) == bool(remark)


def test_runs_that_do_not_vary_are_not_tested() -> None:
    """A seed that changes nothing is no evidence, however many there are."""
    _, (difference,) = compared(base=[0.1, 0.1, 0.1], ours=[0.3, 0.3, 0.3])
    assert (difference.p_value, difference.low) == (None, None)
    assert "do not vary" in difference.remark


def test_a_run_stands_in_its_group_by_its_best_value_where_that_is_known() -> None:
    """Else by its last."""
    figures = [group_figure(direction) for direction in Direction]
    assert figures == ["last", "best", "best"]
