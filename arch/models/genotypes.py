"""Searched architectures as data: what a cell computes, without the layers that compute it.

A cell numbers its maps. States 0 and 1 are its inputs, the outputs of the cell before it ("current") and of the one
before that ("previous"); state n + 2 is what node n makes of earlier states. `arch.blocks.cells` builds it.
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from arch.errors import unknown_name

INPUTS = ("current", "previous")
DARTS_INPUTS = INPUTS[::-1]  # there state 0 is the older one
COMBINE = ("add", "concat")

# The 13 operations of NASNet's space, the 8 of AmoebaNet's, the 7 of DARTS's that may be left in the end.
NASNET_OPERATIONS = (
    "identity",
    "conv_1x3_3x1",
    "conv_1x7_7x1",
    "conv_3x3_dilated",
    "avg_pool_3x3",
    "max_pool_3x3",
    "max_pool_5x5",
    "max_pool_7x7",
    "conv_1x1",
    "conv_3x3",
    "sep_conv_3x3",
    "sep_conv_5x5",
    "sep_conv_7x7",
)
AMOEBANET_OPERATIONS = (
    "identity",
    "sep_conv_3x3",
    "sep_conv_5x5",
    "sep_conv_7x7",
    "avg_pool_3x3",
    "max_pool_3x3",
    "dil_conv_3x3",
    "conv_1x7_7x1",
)
DARTS_OPERATIONS = (
    "max_pool_3x3",
    "avg_pool_3x3",
    "skip_connect",
    "sep_conv_3x3",
    "sep_conv_5x5",
    "dil_conv_3x3",
    "dil_conv_5x5",
)
OPERATIONS = tuple(dict.fromkeys(NASNET_OPERATIONS + AMOEBANET_OPERATIONS + DARTS_OPERATIONS))


class Edge(NamedTuple):
    """An operation and the state that it reads."""

    operation: str
    state: int


@dataclasses.dataclass(frozen=True)
class Node:
    """A new state, of the operations of its edges; one or more.

    Attributes:
        edges: what is computed, and from what.
        combine: "add", or "concat" along the channels.

    Raises:
        ValueError: an unknown operation or combination; no edge; a state that is no number.
    """

    edges: tuple[Edge, ...]
    combine: str = "add"

    def __post_init__(self):
        object.__setattr__(self, "edges", tuple(Edge(*edge) for edge in self.edges))
        if not self.edges:
            raise ValueError("Node: edges=() must have one edge or more; give (operation, state) each")
        for operation, state in self.edges:
            if operation not in OPERATIONS:
                raise unknown_name("Node: operation", operation, OPERATIONS)
            if type(state) is not int or state < 0:
                raise ValueError(f"Node: {operation} reads state={state!r}, which must be a number from 0; change it")
        if self.combine not in COMBINE:
            raise unknown_name("Node: combine", self.combine, COMBINE)


@dataclasses.dataclass(frozen=True)
class Cell:
    """Nodes, in the order in which they are computed, and what the cell puts out.

    Attributes:
        nodes: node n makes state n + 2, and reads states below that.
        concat: the states whose channels, one after the other, are the output.

    Raises:
        ValueError: a node that reads itself or a later state; an output that is empty, twice there or no state.
    """

    nodes: tuple[Node, ...]
    concat: tuple[int, ...]

    def __post_init__(self):
        object.__setattr__(self, "nodes", tuple(self.nodes))
        object.__setattr__(self, "concat", tuple(self.concat))
        for number, node in enumerate(self.nodes):
            for operation, state in node.edges:
                if state > number + 1:
                    raise ValueError(
                        f"Cell: {operation} of nodes[{number}] reads state {state}, which must be one of 0 to "
                        f"{number + 1}, those before its own; change it"
                    )
        states = range(len(self.nodes) + 2)
        known = all(type(state) is int and state in states for state in self.concat)
        if not self.concat or not known or len(set(self.concat)) < len(self.concat):
            raise ValueError(
                f"Cell: concat={self.concat} must be one or more of the states 0 to {states[-1]}, each once; change it"
            )


@dataclasses.dataclass(frozen=True)
class Genotype:
    """An architecture: the two cells that a network is made of.

    Attributes:
        normal: of the cells that keep the size of the map.
        reduction: of those that halve it; there operations that read states 0 and 1 have stride 2.
        inputs: what states 0 and 1 are: ("current", "previous") in NASNet's space, the other way round in DARTS's.

    Raises:
        ValueError: other inputs.
    """

    normal: Cell
    reduction: Cell
    inputs: tuple[str, str] = INPUTS

    def __post_init__(self):
        object.__setattr__(self, "inputs", tuple(self.inputs))
        if self.inputs not in (INPUTS, INPUTS[::-1]):
            raise ValueError(f"Genotype: inputs={self.inputs} must be {INPUTS}, in either order; change them")

    def to_json(self) -> dict[str, Any]:
        """Lists, strings and numbers alone, which `from_json` reads."""
        cells = {name: _cell_to_json(getattr(self, name)) for name in ("normal", "reduction")}
        return {**cells, "inputs": list(self.inputs)}


def from_json(value: Mapping[str, Any]) -> Genotype:
    """The genotype that `to_json` wrote; `inputs`, and `combine` of a node, may be left out.

    Raises:
        ValueError: a key that is missing or unknown; values of another form; whatever the classes refuse.
    """
    value = _read("genotype", value, ("normal", "reduction"), ("inputs",))
    cells = {}
    for name in ("normal", "reduction"):
        cell = _read(name, value[name], ("nodes", "concat"))
        nodes = [
            _read(f"{name}.nodes[{number}]", node, ("edges",), ("combine",))
            for number, node in enumerate(_list(f"{name}.nodes", cell["nodes"]))
        ]
        for number, node in enumerate(nodes):
            for edge in _list(f"{name}.nodes[{number}].edges", node["edges"]):
                if len(_list(f"an edge of {name}.nodes[{number}]", edge)) != 2:
                    raise ValueError(
                        f"genotype: {edge!r} of {name}.nodes[{number}] must be an operation and a state; write two"
                    )
        concat = _list(f"{name}.concat", cell["concat"])
        cells[name] = Cell(tuple(Node(**node) for node in nodes), tuple(concat))
    inputs = _list("inputs", value.get("inputs", INPUTS))
    return Genotype(**cells, inputs=tuple(inputs))


def resolve(genotype: "Genotype | Mapping[str, Any] | str") -> Genotype:
    """A genotype from itself, from the form of `to_json`, from that as text, or from a key of GENOTYPES.

    Raises:
        ValueError: an unknown name; text that is no JSON; whatever `from_json` refuses.
    """
    if isinstance(genotype, Genotype):
        return genotype
    if not isinstance(genotype, str):
        return from_json(genotype)
    if not genotype.lstrip().startswith("{"):
        name = genotype.lower()
        if name not in GENOTYPES:
            raise unknown_name("genotype", genotype, GENOTYPES)
        return GENOTYPES[name]
    try:
        value = json.loads(genotype)
    except json.JSONDecodeError as error:
        raise ValueError(f"genotype: the text is no JSON, {error}; write what to_json gives") from None
    return from_json(value)


def unused_states(nodes: Sequence[Node]) -> tuple[int, ...]:
    """The states that no node reads, which a cell puts out where nothing else is said.

    Args:
        nodes: of a cell.
    """
    used = {state for node in nodes for _, state in node.edges}
    return tuple(state for state in range(len(nodes) + 2) if state not in used)


def cell_of_pairs(operations: Sequence[str], states: Sequence[int], concat: Sequence[int]) -> Cell:
    """A cell whose nodes each add two operations.

    Args:
        operations: of the first node, then of the second, and so on.
        states: that they read.
        concat: the states that the cell puts out.

    Raises:
        ValueError: not a state for each operation, or not two for each node; whatever the classes refuse.
    """
    if len(operations) != len(states) or len(operations) % 2:
        raise ValueError(
            f"cell_of_pairs: {len(operations)} operations and {len(states)} states must be two of each a node; add some"
        )
    edges = list(map(Edge, operations, states))
    return Cell(tuple(Node(tuple(edges[i : i + 2])) for i in range(0, len(edges), 2)), tuple(concat))


def states_without(flags: Sequence[int]) -> tuple[int, ...]:
    """The states whose flag is 0, in the way in which TensorFlow's NASNet and AmoebaNet say what a cell puts out.

    The flags say "used", but are not what the nodes use: computed anew, they would make other networks.
    """
    return tuple(state for state, flag in enumerate(flags) if not flag)


def _cell_to_json(cell: Cell) -> dict[str, Any]:
    nodes = [{"edges": [list(edge) for edge in node.edges], "combine": node.combine} for node in cell.nodes]
    return {"nodes": nodes, "concat": list(cell.concat)}


def _read(name: str, value: Any, needed: Sequence[str], optional: Sequence[str] = ()) -> dict[str, Any]:
    """A mapping, of any kind, as a dict, once its keys are known to be those."""
    if not hasattr(value, "keys"):
        raise ValueError(f"genotype: {name}={value!r} must have the keys {', '.join(needed)}; see Genotype.to_json")
    value = dict(value)
    for key in value:
        if key not in (*needed, *optional):
            raise unknown_name(f"genotype: keys of {name}", key, (*needed, *optional))
    for key in needed:
        if key not in value:
            raise ValueError(f"genotype: {name} must have the key {key!r}; see Genotype.to_json")
    return value


def _list(name: str, value: Any) -> Sequence[Any]:
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise ValueError(f"genotype: {name}={value!r} must be a list; see Genotype.to_json")
    return value


# Zoph et al. (arXiv:1707.07012), figure 4; operations, states and flags of TF-slim's nasnet_utils.py.
NASNET_A = Genotype(
    normal=cell_of_pairs(
        (
            *("sep_conv_5x5", "sep_conv_3x3"),
            *("sep_conv_5x5", "sep_conv_3x3"),
            *("avg_pool_3x3", "identity"),
            *("avg_pool_3x3", "avg_pool_3x3"),
            *("sep_conv_3x3", "identity"),
        ),
        (0, 1, 1, 1, 0, 1, 1, 1, 0, 0),
        states_without((1, 0, 0, 0, 0, 0, 0)),
    ),
    reduction=cell_of_pairs(
        (
            *("sep_conv_5x5", "sep_conv_7x7"),
            *("max_pool_3x3", "sep_conv_7x7"),
            *("avg_pool_3x3", "sep_conv_5x5"),
            *("identity", "avg_pool_3x3"),
            *("sep_conv_3x3", "max_pool_3x3"),
        ),
        (0, 1, 0, 1, 0, 1, 3, 2, 2, 0),
        states_without((1, 1, 1, 0, 0, 0, 0)),
    ),
)

# Real et al. (arXiv:1802.01548), figure 5; operations, states and flags of TensorFlow's amoeba_net/model_specs.py.
AMOEBANET_A = Genotype(
    normal=cell_of_pairs(
        (
            *("avg_pool_3x3", "max_pool_3x3"),
            *("sep_conv_3x3", "identity"),
            *("identity", "avg_pool_3x3"),
            *("sep_conv_3x3", "sep_conv_5x5"),
            *("avg_pool_3x3", "sep_conv_3x3"),
        ),
        (0, 0, 1, 1, 0, 1, 0, 2, 5, 0),
        states_without((1, 0, 1, 0, 0, 1, 0)),
    ),
    reduction=cell_of_pairs(
        (
            *("sep_conv_3x3", "avg_pool_3x3"),
            *("max_pool_3x3", "sep_conv_7x7"),
            *("max_pool_3x3", "max_pool_3x3"),
            *("sep_conv_3x3", "conv_1x7_7x1"),
            *("avg_pool_3x3", "sep_conv_7x7"),
        ),
        (1, 0, 0, 2, 1, 0, 4, 0, 1, 0),
        states_without((1, 1, 0, 0, 0, 0, 0)),
    ),
)

# Liu et al., Progressive Neural Architecture Search (arXiv:1712.00559), figure 1: one cell for both, as in TF-slim.
_PNASNET_5 = cell_of_pairs(
    (
        *("sep_conv_5x5", "max_pool_3x3"),
        *("sep_conv_7x7", "max_pool_3x3"),
        *("sep_conv_5x5", "sep_conv_3x3"),
        *("sep_conv_3x3", "max_pool_3x3"),
        *("sep_conv_3x3", "identity"),
    ),
    (1, 1, 0, 0, 0, 0, 4, 0, 1, 0),
    states_without((1, 1, 0, 0, 0, 0, 0)),
)
PNASNET_5 = Genotype(normal=_PNASNET_5, reduction=_PNASNET_5)

# Liu et al. (arXiv:1806.09055): the authors' genotypes.py. V1 is of first order; V2, of second, figures 4 and 5.
DARTS_V1 = Genotype(
    normal=cell_of_pairs(
        (
            *("sep_conv_3x3", "sep_conv_3x3"),
            *("skip_connect", "sep_conv_3x3"),
            *("skip_connect", "sep_conv_3x3"),
            *("sep_conv_3x3", "skip_connect"),
        ),
        (1, 0, 0, 1, 0, 1, 0, 2),
        (2, 3, 4, 5),
    ),
    reduction=cell_of_pairs(
        (
            *("max_pool_3x3", "max_pool_3x3"),
            *("skip_connect", "max_pool_3x3"),
            *("max_pool_3x3", "skip_connect"),
            *("skip_connect", "avg_pool_3x3"),
        ),
        (0, 1, 2, 0, 0, 2, 2, 0),
        (2, 3, 4, 5),
    ),
    inputs=DARTS_INPUTS,
)
DARTS_V2 = Genotype(
    normal=cell_of_pairs(
        (
            *("sep_conv_3x3", "sep_conv_3x3"),
            *("sep_conv_3x3", "sep_conv_3x3"),
            *("sep_conv_3x3", "skip_connect"),
            *("skip_connect", "dil_conv_3x3"),
        ),
        (0, 1, 0, 1, 1, 0, 0, 2),
        (2, 3, 4, 5),
    ),
    reduction=cell_of_pairs(
        (
            *("max_pool_3x3", "max_pool_3x3"),
            *("skip_connect", "max_pool_3x3"),
            *("max_pool_3x3", "skip_connect"),
            *("skip_connect", "max_pool_3x3"),
        ),
        (0, 1, 2, 1, 0, 2, 2, 1),
        (2, 3, 4, 5),
    ),
    inputs=DARTS_INPUTS,
)

GENOTYPES = {
    "nasnet_a": NASNET_A,
    "amoebanet_a": AMOEBANET_A,
    "pnasnet_5": PNASNET_5,
    "darts_v1": DARTS_V1,
    "darts_v2": DARTS_V2,
}
