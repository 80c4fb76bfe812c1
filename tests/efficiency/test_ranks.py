"""Rank correlation against the formula for distinct ranks, and by hand."""

import math

import numpy as np
import pytest

from arch.efficiency.ranks import rank_correlation, reversals


def test_distinct_values_follow_spearmans_formula():
    """1 - 6 sum d^2 / (n (n^2 - 1))."""
    rng = np.random.default_rng(0)
    for n in (2, 5, 12):
        one, other = rng.permutation(n), rng.permutation(n)
        expected = 1 - 6 * ((one - other) ** 2).sum() / (n * (n * n - 1))
        assert rank_correlation(np.exp(one), other.astype(float) ** 3) == pytest.approx(expected)


def test_equal_values_share_their_rank():
    """Ranks 0, 1.5, 1.5, 3 and 0, 1, 2, 3: 4.5 / sqrt(4.5 * 5)."""
    assert rank_correlation([1, 2, 2, 3], [5, 6, 7, 8]) == pytest.approx(4.5 / math.sqrt(22.5))
    assert math.isnan(rank_correlation([1, 1, 1], [1, 2, 3]))


def test_reversals_are_pairs_that_both_tell_apart():
    published = {"a": 3.0, "b": 2.0, "c": 1.99, "d": 1.0}
    measured = {"a": 1.0, "b": 2.0, "c": 3.0, "d": 0.99}
    assert reversals(published, measured, tolerance=0.05) == [("b", "a", 2.0), ("c", "a", 3.0)]
    assert reversals(published, published, tolerance=0.0) == []
