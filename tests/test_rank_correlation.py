"""Kendall's tau-b equals SciPy's, ties included, and is nan where it is not defined."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import kendalltau

from useful_code.rank_correlation import kendall_correlation

few_values = st.integers(-3, 3)  # many ties


def test_by_hand():
    """Five pairs in the same order and one in the other of six: 4 / 6. With x tied once: (4 - 1) / sqrt(5 * 6)."""
    assert kendall_correlation([1, 2, 3, 4], [1, 2, 4, 3]) == pytest.approx(4 / 6)
    assert kendall_correlation([1, 1, 3, 4], [1, 2, 4, 3]) == pytest.approx(3 / 30**0.5)


@given(st.lists(st.tuples(few_values, few_values), min_size=2, max_size=30))
def test_equals_scipy_whatever_the_ties(points):
    x, y = zip(*points, strict=True)
    expected = kendalltau(x, y).statistic
    found = kendall_correlation(x, y)
    assert math.isnan(found) if math.isnan(expected) else found == pytest.approx(expected, abs=1e-12)


def test_equals_scipy_on_many_rewards_and_lengths():
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 400, 5_000)
    rewards = 0.001 * lengths + rng.normal(size=5_000)
    assert kendall_correlation(rewards, lengths) == pytest.approx(kendalltau(rewards, lengths).statistic, abs=1e-12)


@pytest.mark.parametrize(("x", "y"), [([], []), ([1.0], [2.0]), ([1.0, 1.0], [1.0, 2.0]), ([1.0, 2.0], [3.0, 3.0])])
def test_undefined_is_nan(x, y):
    assert math.isnan(kendall_correlation(x, y))


@pytest.mark.parametrize(("x", "y"), [([1.0], [1.0, 2.0]), ([1.0, math.nan], [1.0, 2.0]), ([[1.0, 2.0]], [[1.0, 2.0]])])
def test_what_cannot_be_compared_is_refused(x, y):
    with pytest.raises(ValueError):
        kendall_correlation(x, y)
