"""Random search: the control that every other method has to beat at equal cost."""

import numpy as np

from arch.search.space import Architecture, Space
from arch.search.strategy import Proposal
from arch.search.trials import Trial


class RandomSearch:
    """Samples of the space, whatever it is told.

    Args:
      space: to sample from.
      seed: of the samples.
      distinct: leaves out what was proposed before, as long as `max_tries` samples find something new.
      max_tries: samples a proposal, with `distinct`.
    """

    def __init__(self, space: Space, *, seed: int, distinct: bool = False, max_tries: int = 100):
        self._space, self._distinct, self._max_tries = space, distinct, max_tries
        self._rng = np.random.default_rng(seed)
        self._seen: set[Architecture] = set()

    def ask(self) -> Proposal:
        """A sample."""
        architecture = self._space.sample(self._rng)
        if self._distinct:
            for _ in range(self._max_tries - 1):
                if architecture not in self._seen:
                    break
                architecture = self._space.sample(self._rng)
            self._seen.add(architecture)
        return Proposal(architecture)

    def tell(self, architecture: Architecture, trial: Trial) -> None:
        """Nothing is learned."""
