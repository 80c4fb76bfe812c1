"""A cell from the weights of a supernet, against the words of the paper as plain loops, and by hand."""

import math

import numpy as np
import pytest

from arch.models.genotypes import Cell, Edge, Genotype, Node, from_json
from arch.search.oneshot.derive import derive, entropy, histogram
from arch.search.oneshot.supernet import MIXED_OPERATIONS

NAMES = ("none", "skip_connect", "sep_conv_3x3", "max_pool_3x3")


def transcription(alphas, operations):
    """Softmax; per node rank incoming edges by max over operations except none; keep the top 2; the operation is the
    argmax except none; ties by the lower index."""
    nodes, offset = [], 0
    while offset < len(alphas):
        num_states = len(nodes) + 2
        strengths, best = [], []
        for state in range(num_states):
            row = [float(value) for value in alphas[offset + state]]
            total = math.fsum(math.exp(value) for value in row)
            weights = [math.exp(value) / total for value in row]
            argmax = None
            for index, weight in enumerate(weights):
                if operations[index] != "none" and (argmax is None or weight > weights[argmax]):
                    argmax = index
            strengths.append(weights[argmax])
            best.append(operations[argmax])
        kept = []
        for _ in range(2):
            top = None
            for state in range(num_states):
                if state not in kept and (top is None or strengths[state] > strengths[top]):
                    top = state
            kept.append(top)
        nodes.append(Node(tuple(Edge(best[state], state) for state in kept)))
        offset += num_states
    return Cell(tuple(nodes), tuple(range(2, len(nodes) + 2)))


@pytest.mark.parametrize("num_nodes", [1, 2, 4])
@pytest.mark.parametrize("scale", [1e-3, 3.0])
def test_it_is_what_the_words_say(num_nodes, scale):
    rng = np.random.default_rng(num_nodes)
    for _ in range(50):
        shape = (num_nodes * (num_nodes + 3) // 2, len(MIXED_OPERATIONS))
        alphas = {kind: (scale * rng.normal(size=shape)).astype(np.float32) for kind in ("normal", "reduction")}
        found = derive(alphas, MIXED_OPERATIONS)
        for kind, rows in alphas.items():
            assert getattr(found, kind) == transcription(rows, MIXED_OPERATIONS)
        assert found.inputs == ("previous", "current") and from_json(found.to_json()) == found


def derived(rows, operations=NAMES):
    return derive({"normal": np.float32(rows), "reduction": np.float32(rows)}, operations).normal


def test_none_is_never_chosen_but_weakens_its_edge():
    """The third edge has the largest logit beside none, and none takes nearly all of its weight."""
    rows = [
        [0, 1, 0, 0],
        [0, 0, 1, 0],
        [9, 0, 0, 5],
        [9, 0, 2, 0],
        [0, 0, 0, 1],
    ]
    assert derived(rows).nodes == (
        Node((("skip_connect", 0), ("sep_conv_3x3", 1))),
        # e / (3 + e) = 0.48 of state 2; e^5 / (e^9 + e^5 + 2) = 0.018 of state 0; e^2 / (e^9 + ...) = 0.0009 of state 1
        Node((("max_pool_3x3", 2), ("max_pool_3x3", 0))),
    )


def test_where_none_dominates_everywhere_cells_have_operations_all_the_same():
    rows = np.zeros((5, 4))
    rows[:, 0] = 20
    rows[:, 2] = 1
    assert {edge.operation for node in derived(rows).nodes for edge in node.edges} == {"sep_conv_3x3"}


def test_of_equals_the_first_wins():
    """Operations and edges; rows that hold the same numbers in another order are equal."""
    assert derived(np.zeros((5, 4))).nodes == (Node((("skip_connect", 0), ("skip_connect", 1))),) * 2
    rng = np.random.default_rng(0)
    for _ in range(100):
        others = rng.normal(size=7).astype(np.float32)
        rows = np.stack([np.insert(rng.permutation(others), 1 + rng.integers(7), np.float32(5)) for _ in range(9)])
        found = derive({"normal": rows, "reduction": rows}, MIXED_OPERATIONS)
        assert [[edge.state for edge in node.edges] for node in found.normal.nodes] == [[0, 1]] * 3


def test_edges_stand_in_the_order_of_their_strength():
    rows = [[0, 1, 0, 0], [0, 0, 2, 0]]
    assert derived(rows).nodes == (Node((("sep_conv_3x3", 1), ("skip_connect", 0))),)


def test_a_space_without_none_and_with_it_elsewhere():
    rows = np.float32([[0, 1], [1, 0]])
    assert derived(rows, ("skip_connect", "conv_1x1")).nodes == (Node((("conv_1x1", 0), ("skip_connect", 1))),)
    assert derived(rows, ("skip_connect", "none")).nodes == (Node((("skip_connect", 1), ("skip_connect", 0))),)


def test_both_kinds_have_their_own():
    rows = np.eye(4, dtype=np.float32)[[1, 2]]
    found = derive({"normal": rows, "reduction": rows[::-1]}, NAMES)
    assert found.normal.nodes != found.reduction.nodes


def test_the_histogram_counts_each_kind():
    nodes = Node((("skip_connect", 0), ("skip_connect", 1))), Node((("sep_conv_3x3", 0), ("skip_connect", 2)))
    genotype = Genotype(Cell(nodes, (2, 3)), Cell((Node((("max_pool_3x3", 0), ("max_pool_3x3", 1))),), (2,)))
    assert histogram(genotype, NAMES) == {
        "normal": {"skip_connect": 3, "sep_conv_3x3": 1, "max_pool_3x3": 0},
        "reduction": {"skip_connect": 0, "sep_conv_3x3": 0, "max_pool_3x3": 2},
    }


def test_the_entropy_is_that_of_the_softmax():
    assert entropy(np.zeros((5, 8))) == pytest.approx(math.log(8), abs=1e-14)
    assert entropy(np.float64([[0, 800]])) == pytest.approx(0, abs=1e-14)
    share = 1 / (1 + math.e)
    expected = -(share * math.log(share) + (1 - share) * math.log(1 - share))
    assert entropy(np.float64([[0, 1], [5, 5]])) == pytest.approx((expected + math.log(2)) / 2, abs=1e-14)


@pytest.mark.parametrize("rows", [np.zeros((3, 4)), np.zeros((0, 4)), np.zeros((5, 3)), np.full((5, 4), np.nan)])
def test_alphas_of_no_cell_are_refused(rows):
    with pytest.raises(
        ValueError, match=r"^derive: alphas of normal, \(.*\), must be finite, 2, 5, 9, 14, \.\.\. edges"
    ):
        derived(rows)
