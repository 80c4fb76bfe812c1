"""The cells that are left in the end of DARTS (Liu, Simonyan, Yang, ICLR 2019, arXiv:1806.09055)."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from arch.errors import unknown_name
from arch.models.genotypes import DARTS_INPUTS, DARTS_OPERATIONS, OPERATIONS, Cell, Edge, Genotype, Node, from_json
from arch.search.space import CategoricalSpace, Choices, check_names
from arch.search.spaces.cells import CELLS

PER_NODE = 3  # numbers of an encoding: a pair of states, two operations


class DartsSpace:
    """Pairs of cells; a node adds an operation each of two different states, a cell puts out all of its nodes.

    It is for other strategies what DARTS searches by its gradient: random search in it is the control of DARTS (Li,
    Talwalkar, arXiv:1902.07638). An encoding has for each node, those of the normal cell first, the number of the pair
    of states in (0, 1), (0, 2), (1, 2), (0, 3), ..., the operation of the lower one, and that of the higher. In which
    order the edges of a node stand is not told apart.

    Args:
      operations: to choose from, keys of `arch.models.genotypes.OPERATIONS`, all different; DARTS's seven by default.
      num_nodes: of a cell; 4 in the paper.
      include_current: see `CategoricalSpace`.

    Raises:
      ValueError: an unknown operation, one that is there twice, none at all; no nodes.
    """

    def __init__(self, operations: Sequence[str] = DARTS_OPERATIONS, num_nodes: int = 4, include_current: bool = False):
        self.operations, self.num_nodes = tuple(operations), num_nodes
        check_names("DartsSpace: operations", self.operations, OPERATIONS)
        if num_nodes < 1:
            raise ValueError(f"DartsSpace: num_nodes={num_nodes} must be at least 1; the paper has 4")
        counts = [(len(_pairs(node)), len(self.operations), len(self.operations)) for node in range(num_nodes)]
        self._codes = CategoricalSpace(sum(counts, ()) * len(CELLS), include_current)
        self.choices = self._codes.choices

    @property
    def cell_size(self) -> int:
        """How many cells there are, 180 * 7^8 of the paper's."""
        return CategoricalSpace(self.choices[: PER_NODE * self.num_nodes]).size

    @property
    def size(self) -> int:
        """How many pairs of cells there are."""
        return self._codes.size

    def sample(self, rng: np.random.Generator) -> Genotype:
        """Each as likely as any other."""
        return self.decode(self._codes.sample(rng).values)

    def mutate(self, rng: np.random.Generator, architecture: Genotype) -> Genotype:
        """Another pair of states or another operation in one place, all equally likely."""
        return self.decode(self._codes.mutate(rng, Choices(self.encode(architecture))).values)

    def encode(self, architecture: Genotype) -> tuple[int, ...]:
        """Numbers of pairs and operations; raises ValueError where it is not of this space."""
        if architecture.inputs != DARTS_INPUTS:
            raise ValueError(f"DartsSpace: inputs={architecture.inputs} must be {DARTS_INPUTS}; change them")
        return tuple(number for name in CELLS for number in self._encode_cell(name, getattr(architecture, name)))

    def _encode_cell(self, name: str, cell: Cell) -> Iterator[int]:
        states = tuple(range(2, self.num_nodes + 2))
        if len(cell.nodes) != self.num_nodes or cell.concat != states:
            raise ValueError(
                f"DartsSpace: {name} cell, of {len(cell.nodes)} nodes and concat={cell.concat}, must have "
                f"{self.num_nodes} and put out {states}, all of them; change num_nodes, or the cell"
            )
        for number, node in enumerate(cell.nodes):
            edges = sorted(node.edges, key=lambda edge: edge.state)
            pair = tuple(edge.state for edge in edges)
            if node.combine != "add" or len(pair) != 2 or pair[0] == pair[1]:
                raise ValueError(
                    f"DartsSpace: {name} cell: nodes[{number}] must add two edges of different states, not "
                    f"{node.combine} those of {pair}; change it"
                )
            yield _pairs(number).index(pair)
            for operation, _ in edges:
                if operation not in self.operations:
                    raise unknown_name(f"DartsSpace: operation of the {name} cell", operation, self.operations)
                yield self.operations.index(operation)

    def decode(self, code: Sequence[int]) -> Genotype:
        """The architecture of an encoding, each node's lower state first; raises ValueError where it is none."""
        values = self._codes.decode(code).values
        half = len(values) // len(CELLS)
        return Genotype(self._decode_cell(values[:half]), self._decode_cell(values[half:]), inputs=DARTS_INPUTS)

    def _decode_cell(self, values: Sequence[int]) -> Cell:
        nodes = []
        for number in range(self.num_nodes):
            pair, *names = values[PER_NODE * number :][:PER_NODE]
            states = _pairs(number)[pair]
            nodes.append(Node(tuple(Edge(self.operations[name], at) for name, at in zip(names, states, strict=True))))
        return Cell(tuple(nodes), tuple(range(2, self.num_nodes + 2)))

    def to_json(self, architecture: Genotype) -> dict[str, Any]:
        """As `Genotype.to_json`, which networks take for their field `genotype`."""
        return architecture.to_json()

    def from_json(self, values: Mapping[str, Any]) -> Genotype:
        """The genotype, checked, each node's lower state first."""
        return self.decode(self.encode(from_json(values)))


def _pairs(node: int) -> list[tuple[int, int]]:
    """Of the states that a node may read; those of the node before it come first."""
    return [(low, high) for high in range(node + 2) for low in range(high)]
