"""Hill climbing (Elsken, Metzen, Hutter, arXiv:1711.04528, algorithm 1): the best of the children is the parent."""

import collections
from typing import Any, Protocol, runtime_checkable

import numpy as np

from arch.search.space import Architecture, Space
from arch.search.strategy import Proposal
from arch.search.trials import Trial


@runtime_checkable
class Morphing(Protocol):
    """What a space has beside its own methods where a child can begin with its parent's weights."""

    def morph(self, rng: np.random.Generator, architecture: Architecture) -> tuple[Architecture, Any]:
        """A neighbour, and how it is made: JSON values; None where there is no neighbour."""


class HillClimbing:
    """Steps of children: the first of a step is the parent itself, to be trained on, the others are changed at random.

    The search begins with a sample of the space, such as the start of a space of morphisms. The parent of a step is the
    best trial of all steps before, the latest of equal ones, and of one step the first.

    In parallel nothing waits: the parent of a child is the best that was told of the steps before when the child is
    asked for, so that the first children of a step may not know all of the last one. Until a trial has succeeded, the
    search begins again.

    Where the space has `morph`, the change of a proposal is the list of what it gave, empty for the parent itself;
    elsewhere it is "none" or "mutation".

    Differs from the paper: there the best child is the next parent even where it is worse than its parent was.

    Args:
      space: to sample from and change in.
      seed: of samples and changes.
      num_children: of a step; n_neigh, 8 in the paper.
      num_changes: of a child; n_NM, 5 in the paper.
    """

    def __init__(self, space: Space, *, seed: int, num_children: int = 8, num_changes: int = 5):
        if num_children < 2 or num_changes < 1:
            raise ValueError(
                f"HillClimbing: num_children={num_children} must be at least 2, and num_changes={num_changes} at least "
                "1; raise them"
            )
        self._space, self._rng = space, np.random.default_rng(seed)
        self._num_children, self._num_changes = num_children, num_changes
        self._num_proposed = 0  # children
        self._steps: collections.deque[int] = collections.deque()  # of what was asked for and not told
        self._told: list[tuple[int, Architecture, Trial]] = []  # of what succeeded

    def ask(self) -> Proposal:
        """The start, or a child of the best of the steps before."""
        step, number = divmod(self._num_proposed, self._num_children)
        known = [one for one in self._told if one[0] < step]
        if not known:
            self._steps.append(-1)
            return Proposal(self._space.sample(self._rng))
        self._num_proposed += 1
        self._steps.append(step)
        _, parent, trial = max(known, key=lambda one: (one[2].reward, one[0]))
        child, changes = parent, []
        for _ in range(self._num_changes if number else 0):
            child, change = self._change(child)
            changes += [] if change is None else [change]
        if isinstance(self._space, Morphing):
            return Proposal(child, trial.id, changes)
        return Proposal(child, trial.id, "mutation" if number else "none")

    def _change(self, architecture: Architecture) -> tuple[Architecture, Any]:
        if isinstance(self._space, Morphing):
            return self._space.morph(self._rng, architecture)
        return self._space.mutate(self._rng, architecture), None

    def tell(self, architecture: Architecture, trial: Trial) -> None:
        """A trial that failed is nobody's parent."""
        step = self._steps.popleft()
        if trial.succeeded:
            self._told.append((step, architecture, trial))
