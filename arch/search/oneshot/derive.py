"""From the weights of a supernet's operations to one cell: section 2.4 of DARTS (arXiv:1806.09055)."""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from arch.models.genotypes import DARTS_INPUTS, Cell, Edge, Genotype, Node
from arch.search.oneshot.supernet import KINDS, NONE, count_edges

EDGES_KEPT = 2  # of each node


def derive(alphas: Mapping[str, np.ndarray], operations: Sequence[str]) -> Genotype:
    """The genotype that is left when each node keeps its two strongest edges, and each of them its strongest operation.

    The strength of an edge is the largest weight, in the softmax over its operations, of those other than "none". Of
    equals the first one wins, edge or operation. The edges of a node stand in the order of their strength.

    Args:
        alphas: of the supernet, [edges, operations] of "normal" and of "reduction" cells, before the softmax.
        operations: of the supernet.

    Raises:
        ValueError: alphas that are not finite, or that no number of nodes has.
    """
    cells = {kind: _derive_cell(kind, np.asarray(alphas[kind], np.float64), operations) for kind in KINDS}
    return Genotype(**cells, inputs=DARTS_INPUTS)


def _derive_cell(kind: str, alphas: np.ndarray, operations: Sequence[str]) -> Cell:
    num_nodes = _count_nodes(kind, alphas, operations)
    choices = [_strongest(row, operations) for row in alphas]
    nodes = []
    for number in range(num_nodes):
        first = count_edges(number)
        own = [(strength, state, name) for state, (strength, name) in enumerate(choices[first : first + number + 2])]
        own.sort(key=lambda edge: -edge[0])  # stable: of equals the one of the lower state
        nodes.append(Node(tuple(Edge(name, state) for _, state, name in own[:EDGES_KEPT])))
    return Cell(tuple(nodes), tuple(range(2, num_nodes + 2)))


def _count_nodes(kind: str, alphas: np.ndarray, operations: Sequence[str]) -> int:
    """How many nodes have so many edges."""
    rows = len(alphas)
    num_nodes = (math.isqrt(8 * rows + 9) - 3) // 2
    if alphas.shape != (count_edges(num_nodes), len(operations)) or not rows or not np.isfinite(alphas).all():
        raise ValueError(
            f"derive: alphas of {kind}, {alphas.shape}, must be finite, 2, 5, 9, 14, ... edges of {len(operations)} "
            "operations; pass those of the supernet"
        )
    return num_nodes


def _strongest(row: np.ndarray, operations: Sequence[str]) -> tuple[float, str]:
    """The largest weight of an edge, "none" left aside, and whose it is."""
    powers = np.exp(row - row.max())
    weights = powers / math.fsum(powers)  # exactly rounded: edges whose alphas are the same in another order are equal
    weights[[name == NONE for name in operations]] = -1.0
    place = int(weights.argmax())
    return float(weights[place]), operations[place]


def histogram(genotype: Genotype, operations: Sequence[str]) -> dict[str, dict[str, int]]:
    """How often each kind of cell has each operation, of all that there were to choose from.

    DARTS is known to end, when it searches for too long, in cells of skip connections: those train the supernet's other
    operations fastest, and win for it. Then their count grows here from epoch to epoch; take the genotype of an earlier
    one.

    Args:
        genotype: whose cells are counted.
        operations: of the supernet; "none" is in no cell.
    """
    counts = {}
    for kind in KINDS:
        chosen = [edge.operation for node in getattr(genotype, kind).nodes for edge in node.edges]
        counts[kind] = {name: chosen.count(name) for name in operations if name != NONE}
    return counts


def entropy(alphas: np.ndarray) -> float:
    """Of the softmax over the operations of an edge, in nats, the mean over the edges: log(operations) at first.

    Args:
        alphas: [edges, operations].
    """
    shifted = np.asarray(alphas, np.float64) - np.max(alphas, axis=-1, keepdims=True)
    log_weights = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    return float(-(np.exp(log_weights) * log_weights).sum(-1).mean())
