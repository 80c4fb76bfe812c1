"""How a search goes on: a strategy is asked for proposals, and told of trials in the order in which it proposed them.

What it answers depends on its seed and on what it was told, on nothing else, so that asking and telling again as
`trials.jsonl` has it restores it.
"""

import dataclasses
from typing import Any, Protocol

from arch.search.space import Architecture
from arch.search.trials import Trial


@dataclasses.dataclass(frozen=True)
class Proposal:
    """An architecture to be tried.

    Attributes:
      architecture: of the strategy's space.
      parent: id of the trial that it was made from; None for none.
      change: how it was made from the parent, JSON values, for evaluators that go on from its weights.
    """

    architecture: Architecture
    parent: int | None = None
    change: Any = None


class Strategy(Protocol):
    """One method of search."""

    def ask(self) -> Proposal:
        """What to try next; it may be asked several times before it is told."""

    def tell(self, architecture: Architecture, trial: Trial) -> None:
        """What came of a proposal; proposals are told in their order, failed ones with a reward of minus infinity."""
