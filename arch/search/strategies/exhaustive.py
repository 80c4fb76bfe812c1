"""Every architecture of a space, for one that is small enough: its trials are a table of all answers."""

import itertools

from arch.search.space import Architecture, Space
from arch.search.strategy import Proposal
from arch.search.trials import Trial


class Exhaustive:
    """All encodings in their order, and then all again, each trial having a seed of its own.

    Args:
      space: whose `choices` are any combination of them.
      seed: not used; every strategy takes one.
    """

    def __init__(self, space: Space, *, seed: int = 0):
        del seed
        self._space = space
        self._codes = itertools.cycle(itertools.product(*map(range, space.choices)))

    def ask(self) -> Proposal:
        """The next one."""
        return Proposal(self._space.decode(next(self._codes)))

    def tell(self, architecture: Architecture, trial: Trial) -> None:
        """Nothing is learned."""
