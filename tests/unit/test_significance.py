"""The t-test, held against scipy and against published tables."""

import numpy as np
import pytest
from scipy import stats

from pillion_sidecar.significance import (
    deviation,
    mean,
    student_quantile,
    student_two_sided,
    welch_test,
)


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_welch_test_is_that_of_scipy(scale: float) -> None:
    """Difference, interval, p-value and degrees of freedom, for 2 to 8 runs a group."""
    random = np.random.default_rng(7)
    for _ in range(100):
        ours, theirs = (
            random.normal(random.normal(), scale * random.uniform(0.1, 10), count).tolist()
            for count in random.integers(2, 9, 2)
        )
        found, expected = welch_test(ours, theirs), stats.ttest_ind(ours, theirs, equal_var=False)
        interval = expected.confidence_interval(0.95)
        assert found is not None
        assert found.difference == pytest.approx(np.mean(ours) - np.mean(theirs))
        assert (found.low, found.high) == pytest.approx((interval.low, interval.high), rel=1e-9)
        assert found.p_value == pytest.approx(expected.pvalue, rel=1e-9)
        assert found.degrees_of_freedom == pytest.approx(expected.df, rel=1e-9)


@pytest.mark.parametrize(
    ("freedom", "quantile"),
    [(1, 12.706), (2, 4.303), (3, 3.182), (5, 2.571), (8, 2.306), (30, 2.042), (120, 1.980)],
)
def test_quantiles_are_those_of_the_tables(freedom: float, quantile: float) -> None:
    """NIST/SEMATECH e-Handbook of Statistical Methods, 1.3.6.7.2, two-sided 5 %."""
    assert student_quantile(0.05, freedom) == pytest.approx(quantile, abs=6e-4)
    assert student_two_sided(student_quantile(0.05, freedom), freedom) == pytest.approx(0.05)


def test_probabilities_are_within_bounds_however_large_the_value() -> None:
    """Nothing is as likely as nought, and nothing is less than that."""
    assert student_two_sided(0.0, 3) == 1
    assert student_two_sided(1e200, 3) == 0
    assert 0 < student_two_sided(1e10, 2) < 1e-19


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ([0.1, 0.1, 0.1], [0.3, 0.3, 0.3]),
        ([1.0, 1.0], [1.0, 1.0]),
        ([1.7e308, -1.7e308], [1.0, 2.0]),
    ],
)
def test_without_a_spread_to_judge_by_there_is_no_test(
    ours: list[float], theirs: list[float]
) -> None:
    """Equal values, whatever their mean was rounded to, and those whose spread is no double."""
    assert welch_test(ours, theirs) is None


def test_one_group_may_be_without_spread() -> None:
    """The other one's is enough: it is held against a constant."""
    values = [2.0, 2.5, 2.2]
    found = welch_test(values, [1.0, 1.0, 1.0])
    assert found is not None
    assert found.p_value == pytest.approx(stats.ttest_1samp(values, 1.0).pvalue)


@pytest.mark.parametrize("scale", [1e-300, 1.0, 1e300])
def test_mean_and_deviation_hold_at_any_scale(scale: float) -> None:
    """Nothing is squared that may not be."""
    assert mean([scale, 3 * scale]) == pytest.approx(2 * scale)
    assert deviation([scale, 3 * scale]) == pytest.approx(2**0.5 * scale)
