"""Whether one method is better than another, from a value of each for every seed."""

import math
import statistics

import numpy as np


def mann_whitney(first, second):
    """One-sided p, that values of `first` tend to be larger, by the normal approximation with ties."""
    both = np.concatenate([first, second])
    order = np.argsort(both)
    ranks = np.empty(len(both))
    ranks[order] = np.arange(1, len(both) + 1)
    for value in np.unique(both):
        ranks[both == value] = ranks[both == value].mean()
    n, m = len(first), len(second)
    u = ranks[:n].sum() - n * (n + 1) / 2
    ties = sum(count**3 - count for count in np.unique(both, return_counts=True)[1])
    deviation = math.sqrt(n * m / 12 * (n + m + 1 - ties / ((n + m) * (n + m - 1))))
    return statistics.NormalDist().cdf(-(u - n * m / 2 - 0.5) / deviation)
