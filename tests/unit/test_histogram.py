"""Histograms: counted from whatever holds numbers, or taken as counted."""

from typing import Any

import numpy as np
import pytest
import torch

from pillion import Histogram

NUMBERS = [0.0, 0.1, 0.25, 0.5, 0.5, 0.99, 1.0]


@pytest.mark.parametrize(
    "sequence",
    [
        NUMBERS,
        tuple(NUMBERS),
        [NUMBERS[:3], NUMBERS[3:]],
        [*NUMBERS, float("nan"), float("inf")],
        np.array(NUMBERS),
        torch.tensor(NUMBERS, dtype=torch.float64, requires_grad=True),
    ],
)
def test_numbers_are_counted_as_numpy_does(sequence: Any) -> None:
    """Sequences nested or not, arrays and tensors; what is not finite is left out."""
    histogram = Histogram(sequence, num_bins=4)
    assert histogram.problem == ""
    assert histogram.counts == (2, 1, 2, 2)
    assert histogram.edges == pytest.approx((0, 0.25, 0.5, 0.75, 1))


def test_counts_are_taken_as_they_are() -> None:
    """As `numpy.histogram` returns them."""
    counts, edges = np.histogram(NUMBERS, bins=3)
    histogram = Histogram(np_histogram=(counts, edges))
    assert (histogram.counts, histogram.edges) == (tuple(counts), tuple(edges))
    assert Histogram([5]).counts[32] == 1


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"sequence": []},
        {"sequence": ["x"]},
        {"sequence": np.array([np.nan])},
        {"sequence": object()},
        {"np_histogram": ([1], [1])},
        {"np_histogram": ([1], [2, 1])},
        {"np_histogram": ([float("nan")], [1, 2])},
        {"np_histogram": ([1] * 2000, list(range(2001)))},
    ],
)
def test_what_cannot_be_counted_has_a_problem_and_raises_nothing(fields: Any) -> None:
    """A training loop goes on."""
    assert Histogram(**fields).problem
