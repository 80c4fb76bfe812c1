"""Every architecture of a space, for one that is small enough: its trials are a table of all answers."""

import itertools
import math

import numpy as np

from arch.search.space import Architecture, Space
from arch.search.strategy import Proposal
from arch.search.trials import Trial

MOST = 10**6  # architectures, which are listed


class Exhaustive:
    """All architectures in an order that the seed draws, and then all again, each trial having a seed of its own.

    Args:
      space: whose `choices` are any combination of them.
      seed: of the order.
      distinct: leaves out all but one of those that compute the same, as the space's `distinct()` tells.

    Raises:
      ValueError: a space that does not tell; one that is too large, or has no encoding.
    """

    def __init__(self, space: Space, *, seed: int, distinct: bool = False):
        if distinct and not hasattr(space, "distinct"):
            raise ValueError(f"Exhaustive: distinct={distinct} must be False for {type(space).__name__}; change it")
        if not space.choices or math.prod(space.choices) > MOST:
            raise ValueError(
                f"Exhaustive: {type(space).__name__} has more than {MOST:,} architectures; take another strategy"
            )
        every = space.distinct() if distinct else list(map(space.decode, itertools.product(*map(range, space.choices))))
        self._proposals = itertools.cycle(every[index] for index in np.random.default_rng(seed).permutation(len(every)))

    def ask(self) -> Proposal:
        """The next one."""
        return Proposal(next(self._proposals))

    def tell(self, architecture: Architecture, trial: Trial) -> None:
        """Nothing is learned."""
