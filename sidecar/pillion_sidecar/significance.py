"""Whether two groups of numbers differ by more than chance: Welch's t-test. Pure functions.

Welch, "The generalization of 'Student's' problem", Biometrika 34 (1947): variances are not taken
to be equal. Student's distribution by the regularized incomplete beta function, DLMF 8.17.22
(https://dlmf.nist.gov/8.17#E22), a continued fraction that the modified method of Lentz evaluates
(Press et al., Numerical Recipes, 3rd edition, sections 5.2 and 6.4).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

CONFIDENCE = 0.95
"""Of the interval."""

_FRACTION_TERMS_MAX = 500
"""It takes fewer than 50 for the degrees of freedom of 2 to 10 runs."""
_TINY = 1e-300
_PRECISION = 1e-15
_HALVINGS = 200
"""More than it takes to tell two neighbouring doubles apart."""


@dataclass(frozen=True, slots=True)
class WelchTest:
    """The difference of two means, with what is known of it."""

    difference: float
    low: float
    high: float
    p_value: float
    degrees_of_freedom: float


def welch_test(values: Sequence[float], baseline: Sequence[float]) -> WelchTest | None:
    """Test whether two samples of at least two finite numbers each have one mean.

    Returns:
        The test, two-sided; None if neither sample varies, so that there is nothing to judge by,
        or if its numbers are beyond what doubles hold.
    """
    difference = mean(values) - mean(baseline)
    errors = [deviation(each) / math.sqrt(len(each)) for each in (values, baseline)]
    error = math.hypot(*errors)
    if not error or not math.isfinite(difference) or not math.isfinite(error):
        return None
    freedom = 1 / sum(
        (part / error) ** 4 / (len(each) - 1)
        for part, each in zip(errors, (values, baseline), strict=True)
    )
    reach = error * student_quantile(1 - CONFIDENCE, freedom)
    return WelchTest(
        difference,
        difference - reach,
        difference + reach,
        student_two_sided(abs(difference) / error, freedom),
        freedom,
    )


def mean(values: Sequence[float]) -> float:
    """Return the mean of finite numbers."""
    return math.fsum(value / len(values) for value in values)


def deviation(values: Sequence[float]) -> float:
    """Return the standard deviation of at least two finite numbers, with n - 1."""
    if min(values) == max(values):
        return 0.0  # whatever the mean was rounded to
    middle = mean(values)
    return math.hypot(*(value - middle for value in values)) / math.sqrt(len(values) - 1)


def student_two_sided(t: float, freedom: float) -> float:
    """Return how likely a |t| at least as large is, with so many degrees of freedom."""
    return _incomplete_beta(freedom / 2, 0.5, freedom / (freedom + t * t))


def student_quantile(probability: float, freedom: float) -> float:
    """Return the t that `student_two_sided` gives this probability, between 0 and 1."""
    low, high = 0.0, 1.0
    while student_two_sided(high, freedom) > probability:
        low, high = high, high * 2
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        if not low < middle < high:
            break
        is_below = student_two_sided(middle, freedom) > probability
        low, high = (middle, high) if is_below else (low, middle)
    return high


def _incomplete_beta(a: float, b: float, x: float) -> float:
    """Return I_x(a, b)."""
    if x <= 0 or x >= 1:
        return min(1.0, max(0.0, x))
    if x > (a + 1) / (a + b + 2):  # there the fraction of the complement converges sooner
        return 1 - _incomplete_beta(b, a, 1 - x)
    front = math.exp(
        math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    )
    return front * _fraction(a, b, x) / a


def _fraction(a: float, b: float, x: float) -> float:
    """Evaluate the continued fraction of DLMF 8.17.22: 1 / (1 + d1 / (1 + d2 / …))."""
    value = c = 1.0
    d = 0.0
    for term in range(_FRACTION_TERMS_MAX):
        m, is_odd = divmod(term, 2)
        if term == 0:
            factor = 1.0
        elif is_odd:
            factor = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        else:
            factor = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        d = 1 / (1 + factor * d or _TINY)
        c = 1 + factor / c or _TINY
        value *= c * d
        if abs(1 - c * d) < _PRECISION:
            break
    return value - 1
