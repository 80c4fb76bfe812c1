"""Regularized evolution (Real, Aggarwal, Huang, Le, AAAI 2019, arXiv:1802.01548), which found AmoebaNet."""

import collections

import numpy as np

from arch.search.space import Architecture, Space
from arch.search.strategy import Proposal
from arch.search.trials import Trial

KILLS = ("oldest", "worst")


class Evolution:
    """Aging evolution, algorithm 1 of the paper.

    The population is a queue. It starts with random architectures; then the best of a few drawn ones is mutated, the
    child goes to the back of the queue and the front of it dies: the oldest, not the worst, so that what was lucky once
    has to be found again. The result of a search is the best of all its trials, not of the last population.

    Ages are those of proposal, also where trials run in parallel: a search tells of them in that order, so that it
    repeats itself; in the paper they are those of completion. A trial that failed takes its place in the queue and is
    never the best of a sample that has another one.

    Args:
      space: to sample from and mutate in.
      seed: of samples, tournaments and mutations.
      population_size: P, 100 in the paper.
      sample_size: S, drawn for each child; 25 in the paper.
      replace: whether the S draws are with replacement, as in the paper's pseudo-code.
      no_change_rate: a child is its parent, to be trained again, with this probability; 0.05 in the paper.
      kill: "oldest", or "worst" of the sample of which the child's parent was the best, the paper's baseline without
        aging.
    """

    def __init__(
        self,
        space: Space,
        *,
        seed: int,
        population_size: int = 100,
        sample_size: int = 25,
        replace: bool = True,
        no_change_rate: float = 0.05,
        kill: str = "oldest",
    ):
        if population_size < 1 or sample_size < 1 or (not replace and sample_size > population_size):
            raise ValueError(
                f"Evolution: sample_size={sample_size} must be from 1 to population_size={population_size}; lower it"
            )
        if not 0 <= no_change_rate <= 1:
            raise ValueError(f"Evolution: no_change_rate={no_change_rate} must be in [0, 1]; the paper has 0.05")
        if kill not in KILLS:
            raise ValueError(f"Evolution: kill={kill!r} must be one of {', '.join(KILLS)}; the paper's is oldest")
        self._space, self._rng = space, np.random.default_rng(seed)
        self._population_size, self._sample_size, self._replace = population_size, sample_size, replace
        self._no_change_rate, self._kill = no_change_rate, kill
        self._num_asked = 0
        self._population: collections.deque[tuple[Architecture, Trial]] = collections.deque()
        self._samples: collections.deque[list[Trial]] = collections.deque()  # of what was asked for and not told

    @property
    def population(self) -> list[Trial]:
        """From the oldest to the youngest."""
        return [trial for _, trial in self._population]

    def ask(self) -> Proposal:
        """A random architecture until the population is asked for, then a child."""
        self._num_asked += 1
        # In parallel nothing may have been told yet when the first child is due: another random one is no harm.
        if self._num_asked <= self._population_size or not self._population:
            self._samples.append([])
            return Proposal(self._space.sample(self._rng))
        drawn = [self._population[index] for index in self._draw()]
        self._samples.append([trial for _, trial in drawn])
        parent, trial = max(drawn, key=lambda one: one[1].reward)
        if self._rng.random() < self._no_change_rate:
            return Proposal(parent, trial.id, "none")
        return Proposal(self._space.mutate(self._rng, parent), trial.id, "mutation")

    def _draw(self) -> list[int]:
        """Indices of a sample; of equal ones the first drawn wins."""
        size = len(self._population)
        if self._replace:
            return self._rng.integers(size, size=self._sample_size).tolist()
        return self._rng.choice(size, size=min(self._sample_size, size), replace=False).tolist()

    def tell(self, architecture: Architecture, trial: Trial) -> None:
        """The child is the youngest; one dies for it once there are enough."""
        sample = self._samples.popleft()
        self._population.append((architecture, trial))
        if len(self._population) > self._population_size:
            del self._population[0 if self._kill == "oldest" else self._worst(sample)]

    def _worst(self, sample: list[Trial]) -> int:
        """Its index; of all but the child, where in parallel the whole sample has died for others."""
        living = [index for index, (_, trial) in enumerate(self._population) if trial in sample]
        return min(living or range(len(self._population) - 1), key=lambda index: self._population[index][1].reward)
