"""The cells of NAS-Bench-201 (Dong and Yang, ICLR 2020, arXiv:2001.00326): an operation on each of six edges."""

import itertools
from collections.abc import Sequence

from arch.errors import unknown_name
from arch.models.classification.nas_bench_201 import EDGE_OPERATIONS, EDGES, cell_operations, cell_text
from arch.search.space import CategoricalSpace, Choices, check_names

# The authors' smaller space: 729 cells, of which 78 differ in what they compute.
CONNECT = ("none", "skip_connect", "nor_conv_3x3")
# Ours: 4,096 cells, of which 871 differ, few enough to train every one of them.
CONVOLUTIONS = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3")


class NASBench201Space(CategoricalSpace):
    """All cells; an architecture is written as the authors do, "|none~0|+|none~0|none~1|+|none~0|none~1|none~2|".

    An encoding is what the network takes as its `cell`, with the same `operations`.

    Args:
      operations: names of EDGE_OPERATIONS; all five are the published space of 15,625 cells.
      include_current: see `CategoricalSpace`.

    Raises:
      ValueError: an unknown operation, none, or one twice.
    """

    def __init__(self, operations: Sequence[str] = tuple(EDGE_OPERATIONS), include_current: bool = False):
        self.operations = tuple(operations)
        check_names("NASBench201Space: operations", self.operations, EDGE_OPERATIONS)
        super().__init__((len(self.operations),) * len(EDGES), include_current)

    def to_json(self, architecture: Choices) -> str:
        """The cell's text."""
        return cell_text([self.operations[index] for index in architecture.values])

    def from_json(self, values: str) -> Choices:
        """The architecture, checked."""
        names = cell_operations(values)
        for name in names:
            if name not in self.operations:
                raise unknown_name("NASBench201Space: operation of the cell", name, self.operations)
        return Choices(tuple(map(self.operations.index, names)))

    def distinct(self) -> list[Choices]:
        """Of all cells that compute the same, see `canonical`, the one with the fewest convolutions and other edges."""
        simplest: dict[str, Choices] = {}
        every = map(Choices, itertools.product(*map(range, self.choices)))
        for architecture in sorted(every, key=self._effort):  # of equal ones the first
            simplest.setdefault(canonical(self.to_json(architecture)), architecture)
        return list(simplest.values())

    def _effort(self, architecture: Choices) -> tuple[int, int]:
        """How many edges compute something; how many there are."""
        names = [self.operations[index] for index in architecture.values]
        return sum(name not in ("none", "skip_connect") for name in names), sum(name != "none" for name in names)


def canonical(text: str) -> str:
    """What a cell computes, as a sum of terms: one text for all cells that compute the same.

    Skip connections hand on the terms of what they read; nothing comes of "none", nor of an operation on nothing: the
    bias that a normalization adds there is not counted. "x" is the cell's input, "nor_conv_3x3(x + x)" a convolution of
    twice of it; "" is a cell that its input does not reach.

    Args:
      text: of the cell, as the authors write it.

    Raises:
      ValueError: another form, an unknown operation.
    """
    terms: list[list[str]] = [["x"]]
    for (source, node), operation in zip(EDGES, cell_operations(text), strict=True):
        if node == len(terms):
            terms.append([])
        if operation == "skip_connect":
            terms[node] += terms[source]
        elif operation != "none" and terms[source]:
            terms[node].append(f"{operation}({' + '.join(sorted(terms[source]))})")
    return " + ".join(sorted(terms[-1]))
