"""Whether two lists of measurements put the same things in the same order."""

import math
from collections.abc import Mapping, Sequence

import numpy as np


def rank_correlation(first: Sequence[float], second: Sequence[float]) -> float:
    """Spearman's: of the ranks, where equal values share the mean of theirs; not a number where all of one are equal.

    Args:
        first: values, at least two.
        second: as many, of the same things.
    """
    ranks = np.stack([_ranks(first), _ranks(second)])
    centred = ranks - ranks.mean(1, keepdims=True)
    norms = np.linalg.norm(centred, axis=1)
    return float(centred[0] @ centred[1] / norms.prod()) if norms.all() else math.nan


def _ranks(values: Sequence[float]) -> np.ndarray:
    values = np.asarray(values, np.float64)
    below = (values[:, None] > values).sum(1)
    equal = (values[:, None] == values).sum(1)
    return below + (equal - 1) / 2


def reversals(
    published: Mapping[str, float], measured: Mapping[str, float], *, tolerance: float
) -> list[tuple[str, str, float]]:
    """The pairs whose order is the other way round: (faster as measured, faster as published, how many times).

    Args:
        published: speeds by row.
        measured: speeds of the same rows.
        tolerance: pairs that one of the two puts this close, as a share, are in either order.
    """
    rows, found = list(published), []
    for number, one in enumerate(rows):
        for other in rows[number + 1 :]:
            ratios = [speeds[one] / speeds[other] for speeds in (published, measured)]
            if (
                all(abs(math.log(ratio)) > math.log1p(tolerance) for ratio in ratios)
                and math.prod(math.copysign(1, math.log(ratio)) for ratio in ratios) < 0
            ):
                faster, slower = (one, other) if ratios[1] > 1 else (other, one)
                found.append((faster, slower, measured[faster] / measured[slower]))
    return found
