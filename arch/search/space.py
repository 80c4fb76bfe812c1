"""What a search may choose from."""

import dataclasses
from collections.abc import Hashable, Iterable, Sequence
from typing import Any, Protocol

import numpy as np

from arch.errors import unknown_name

Architecture = Hashable  # frozen, and JSON values by the space's `to_json`


class Space(Protocol):
    """All architectures of a search. Spaces are pure: every random number comes from the generator that is passed.

    Attributes:
      choices: how many there are at each position of an encoding.
    """

    choices: tuple[int, ...]

    def sample(self, rng: np.random.Generator) -> Architecture:
        """One of all, each as likely as any other unless the space says otherwise."""

    def mutate(self, rng: np.random.Generator, architecture: Architecture) -> Architecture:
        """A neighbour."""

    def encode(self, architecture: Architecture) -> tuple[int, ...]:
        """A number below `choices[i]` at each position i."""

    def decode(self, code: Sequence[int]) -> Architecture:
        """The architecture of an encoding; raises ValueError where it is none."""

    def to_json(self, architecture: Architecture) -> Any:
        """JSON values."""

    def from_json(self, values: Any) -> Architecture:
        """The architecture; raises ValueError where there is none."""


@dataclasses.dataclass(frozen=True)
class Choices:
    """A number at each position; the plainest architecture."""

    values: tuple[int, ...]


class CategoricalSpace:
    """Every combination of one choice a position.

    Args:
      choices: how many there are at each position, at least one each.
      include_current: whether a mutation may draw the choice that is there, and then changes nothing, as a literal
        reading of Real et al. (arXiv:1802.01548) has it for operations.

    Raises:
      ValueError: no positions, or one without a choice.
    """

    def __init__(self, choices: tuple[int, ...], include_current: bool = False):
        if not choices or min(choices) < 1:
            raise ValueError(f"CategoricalSpace: choices={choices} must be 1 or above; give what there is")
        self.choices, self.include_current = choices, include_current

    @property
    def size(self) -> int:
        """How many architectures there are."""
        return int(np.prod([int(count) for count in self.choices], dtype=object))

    def sample(self, rng: np.random.Generator) -> Choices:
        """Each as likely as any other."""
        return Choices(tuple(int(rng.integers(count)) for count in self.choices))

    def mutate(self, rng: np.random.Generator, architecture: Choices) -> Choices:
        """Another choice at one position, all positions that have one, and all of its choices, equally likely."""
        free = [position for position, count in enumerate(self.choices) if count > 1]
        if not free:
            return architecture
        position = free[int(rng.integers(len(free)))]
        values = list(architecture.values)
        values[position] = draw_other(rng, self.choices[position], values[position], self.include_current)
        return Choices(tuple(values))

    def encode(self, architecture: Choices) -> tuple[int, ...]:
        """The values."""
        return architecture.values

    def decode(self, code: Sequence[int]) -> Choices:
        """The values, checked."""
        values = tuple(int(value) for value in code)
        if len(values) != len(self.choices) or any(not 0 <= v < n for v, n in zip(values, self.choices, strict=False)):
            raise ValueError(
                f"CategoricalSpace: code={list(values)} must have a number below each of {list(self.choices)}; "
                "encode an architecture of this space"
            )
        return Choices(values)

    def to_json(self, architecture: Choices) -> list[int]:
        """The values."""
        return list(architecture.values)

    def from_json(self, values: Sequence[int]) -> Choices:
        """The values, checked."""
        return self.decode(values)


def check_names(owner: str, names: Sequence[str], known: Iterable[str]) -> None:
    """That what a space chooses from is known, and is there once.

    Args:
      owner: whose names, for the error.
      names: to choose from.
      known: all there are.

    Raises:
      ValueError: an unknown name, one twice, none at all.
    """
    for name in names:
        if name not in known:
            raise unknown_name(owner, name, known)
    if not names or len(set(names)) < len(names):
        raise ValueError(f"{owner}={tuple(names)} must be one or more, each once; change them")


def draw_other(rng: np.random.Generator, count: int, current: int, include_current: bool = False) -> int:
    """A choice of `count`, all equally likely; not the current one, unless that is included or the only one."""
    if include_current or count == 1:
        return int(rng.integers(count))
    drawn = int(rng.integers(count - 1))
    return drawn + (drawn >= current)
