"""The cells of NASNet (Zoph et al., arXiv:1707.07012) and AmoebaNet (Real et al., arXiv:1802.01548).

An architecture is a `Genotype`: a normal and a reduction cell of B nodes each. A node applies one operation to each of
two earlier states, and combines what they give; states that no node reads are what the cell puts out.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from arch.errors import unknown_name
from arch.models.genotypes import (
    AMOEBANET_OPERATIONS,
    COMBINE,
    INPUTS,
    OPERATIONS,
    Cell,
    Edge,
    Genotype,
    Node,
    from_json,
    unused_states,
)
from arch.search.space import CategoricalSpace, check_names, draw_other

CELLS = ("normal", "reduction")
SIDES = 2  # edges of a node
# Where what a mutation changes stands among the numbers of a node: two states, two operations, how they are combined.
OFFSETS = {"state": 0, "operation": SIDES, "combine": 2 * SIDES}


class CellSpace:
    """Pairs of cells; AmoebaNet's space by default, NASNet's with NASNET_OPERATIONS and both combinations.

    An encoding has for each node, those of the normal cell first, the two states, the two operations and, where there
    is more than one, the combination: the order in which NASNet's controller writes them.

    Args:
      operations: to choose from, keys of `arch.models.genotypes.OPERATIONS`, all different.
      num_nodes: of a cell; 5 in both papers.
      combine: to choose from, "add", "concat"; AmoebaNet adds alone.
      inputs: what states 0 and 1 of a cell are: ("current", "previous"), or the other way round.
      include_current: whether a mutation may draw the operation that is there, and then changes nothing, as the text of
        Real et al. allows: with eight operations one mutation of an operation in eight. A state is always replaced by
        another one, which their text does say; so is a combination.

    Raises:
      ValueError: an unknown name, one that is there twice, none at all; no nodes; other inputs.
    """

    def __init__(
        self,
        operations: Sequence[str] = AMOEBANET_OPERATIONS,
        num_nodes: int = 5,
        combine: Sequence[str] = ("add",),
        inputs: Sequence[str] = INPUTS,
        include_current: bool = False,
    ):
        self.operations, self.combine, self.inputs = tuple(operations), tuple(combine), tuple(inputs)
        self.num_nodes, self.include_current = num_nodes, include_current
        for name, values, known in (("operations", self.operations, OPERATIONS), ("combine", self.combine, COMBINE)):
            check_names(f"CellSpace: {name}", values, known)
        if num_nodes < 1:
            raise ValueError(f"CellSpace: num_nodes={num_nodes} must be at least 1; both papers have 5")
        if self.inputs not in (INPUTS, INPUTS[::-1]):
            raise ValueError(f"CellSpace: inputs={self.inputs} must be {INPUTS}, in either order; change them")
        rest = (len(self.operations),) * SIDES + ((len(self.combine),) if len(self.combine) > 1 else ())
        cell = tuple(count for node in range(num_nodes) for count in ((node + 2,) * SIDES + rest))
        self._node_length, self._cell_length = SIDES + len(rest), len(cell)
        self._codes = CategoricalSpace(cell * len(CELLS))
        self.choices = self._codes.choices
        several = {"operation": len(self.operations) > 1, "combine": len(self.combine) > 1}
        self._changes = ["state", *(name for name, has_others in several.items() if has_others)]

    @property
    def cell_size(self) -> int:
        """How many cells there are, as the papers count: 720^2 * 64^5 of AmoebaNet's, 720^2 * 338^5 of NASNet's.

        The two sides of a node, and nodes that could change places, make several of what computes the same.
        """
        return CategoricalSpace(self.choices[: self._cell_length]).size

    @property
    def size(self) -> int:
        """How many pairs of cells there are, counted in the same way."""
        return self._codes.size

    def sample(self, rng: np.random.Generator) -> Genotype:
        """Every choice as likely as any other at its position."""
        return self.decode(self._codes.sample(rng).values)

    def mutate(self, rng: np.random.Generator, architecture: Genotype) -> Genotype:
        """One state or operation is replaced, either equally likely; so are cells, nodes, sides and replacements.

        Paper: Real et al., section 3, but for the identity, which is the strategy's. Where there is more than one
        combination, to change that of a node is as likely as either.
        """
        code = list(self.encode(architecture))
        change = self._changes[int(rng.integers(len(self._changes)))]
        cell, node = int(rng.integers(len(CELLS))), int(rng.integers(self.num_nodes))
        side = int(rng.integers(SIDES)) if change != "combine" else 0
        position = cell * self._cell_length + node * self._node_length + OFFSETS[change] + side
        include_current = self.include_current and change == "operation"
        code[position] = draw_other(rng, self.choices[position], code[position], include_current)
        return self.decode(code)

    def encode(self, architecture: Genotype) -> tuple[int, ...]:
        """Numbers of states, operations and combinations; raises ValueError where it is not of this space."""
        if architecture.inputs != self.inputs:
            raise ValueError(f"CellSpace: inputs={architecture.inputs} must be {self.inputs}; change them")
        return tuple(number for name in CELLS for number in self._encode_cell(name, getattr(architecture, name)))

    def _encode_cell(self, name: str, cell: Cell) -> Iterator[int]:
        if len(cell.nodes) != self.num_nodes or any(len(node.edges) != SIDES for node in cell.nodes):
            counts = [len(node.edges) for node in cell.nodes]
            raise ValueError(
                f"CellSpace: {name} cell, with {counts} edges a node, must have {self.num_nodes} nodes of {SIDES}; "
                "change num_nodes, or the cell"
            )
        if cell.concat != unused_states(cell.nodes):
            raise ValueError(
                f"CellSpace: {name} cell puts out concat={cell.concat}, which must be {unused_states(cell.nodes)}, the "
                "states that no node reads; change it"
            )
        for node in cell.nodes:
            yield from (edge.state for edge in node.edges)
            for edge in node.edges:
                if edge.operation not in self.operations:
                    raise unknown_name(f"CellSpace: operation of the {name} cell", edge.operation, self.operations)
                yield self.operations.index(edge.operation)
            if node.combine not in self.combine:
                raise unknown_name(f"CellSpace: combine of the {name} cell", node.combine, self.combine)
            if len(self.combine) > 1:
                yield self.combine.index(node.combine)

    def decode(self, code: Sequence[int]) -> Genotype:
        """The architecture of an encoding; raises ValueError where it is none."""
        values = self._codes.decode(code).values
        cells = (self._decode_cell(values[start:][: self._cell_length]) for start in (0, self._cell_length))
        return Genotype(*cells, inputs=self.inputs)

    def _decode_cell(self, values: Sequence[int]) -> Cell:
        nodes = []
        for start in range(0, self._cell_length, self._node_length):
            node = values[start : start + self._node_length]
            names = (self.operations[number] for number in node[SIDES : 2 * SIDES])
            combine = self.combine[node[-1] if len(self.combine) > 1 else 0]
            nodes.append(Node(tuple(map(Edge, names, node[:SIDES])), combine))
        return Cell(tuple(nodes), unused_states(nodes))

    def to_json(self, architecture: Genotype) -> dict[str, Any]:
        """As `Genotype.to_json`, which networks take for their field `genotype`."""
        return architecture.to_json()

    def from_json(self, values: Mapping[str, Any]) -> Genotype:
        """The genotype, checked."""
        architecture = from_json(values)
        self.encode(architecture)
        return architecture
