"""The space of DARTS's cells: of the paper's size, what its alphas can derive and nothing else, evenly sampled."""

import itertools
import json

import numpy as np
import pytest

from arch.models.genotypes import (
    AMOEBANET_A,
    DARTS_OPERATIONS,
    DARTS_V1,
    DARTS_V2,
    Cell,
    Edge,
    Genotype,
    Node,
)
from arch.search.oneshot.derive import derive
from arch.search.spaces.darts import DartsSpace
from arch.search.strategies.controller import ReinforcementLearning
from arch.search.strategies.evolution import Evolution
from arch.search.trials import Trial

DARTS = DartsSpace()
SMALL = DartsSpace(("skip_connect", "max_pool_3x3"), num_nodes=2)
INPUTS = ("previous", "current")


def as_sets(genotype):
    """What it computes, whatever the order of the edges of its nodes."""
    return tuple(
        (tuple(frozenset(node.edges) for node in cell.nodes), cell.concat)
        for cell in (genotype.normal, genotype.reduction)
    )


def test_its_size_is_the_papers():
    """Section 2.4: the product over k of (k + 1) k / 2 x 7^2, about 10^9, and its square of two cells, 10^18."""
    assert DARTS.cell_size == int(np.prod([(k + 1) * k // 2 * 7**2 for k in range(1, 5)])) == 1_037_664_180
    assert DARTS.size == DARTS.cell_size**2


def test_the_published_cells_are_of_the_space():
    for genotype in (DARTS_V1, DARTS_V2):
        decoded = DARTS.decode(DARTS.encode(genotype))
        assert as_sets(decoded) == as_sets(genotype) == as_sets(DARTS.from_json(genotype.to_json()))


def test_a_small_space_is_all_that_alphas_can_derive():
    """Of every order in which the operations of a cell's five edges, or the edges of its second node, can stand."""
    derived, rng = set(), np.random.default_rng(0)
    for _ in range(2000):
        alphas = rng.normal(size=(5, 3))
        cell = derive({"normal": alphas, "reduction": alphas}, ("none", *SMALL.operations)).normal
        derived.add(as_sets(Genotype(cell, cell, INPUTS))[0])
    every = [SMALL.decode(code + (0,) * 6) for code in itertools.product(*map(range, SMALL.choices[:6]))]
    assert {as_sets(one)[0] for one in every} == derived
    assert len(derived) == len(every) == SMALL.cell_size == 2**2 * 3 * 2**2


@pytest.mark.parametrize("space", [DARTS, SMALL], ids=["paper", "small"])
def test_what_is_sampled_is_of_the_space_and_survives_its_forms(space):
    rng = np.random.default_rng(1)
    for _ in range(50):
        one = space.sample(rng)
        code = space.encode(one)
        assert space.decode(code) == one == space.from_json(json.loads(json.dumps(space.to_json(one))))
        assert all(0 <= value < count for value, count in zip(code, space.choices, strict=True))
        assert one.inputs == INPUTS
        for cell in (one.normal, one.reduction):
            assert cell.concat == tuple(range(2, space.num_nodes + 2))
            assert all(len({edge.state for edge in node.edges}) == 2 for node in cell.nodes)


def test_an_encoding_is_the_pair_of_states_and_the_operation_of_each():
    space = DartsSpace(("skip_connect", "max_pool_3x3", "sep_conv_3x3"), num_nodes=2)
    first = Node((Edge("sep_conv_3x3", 1), Edge("skip_connect", 0)))
    second = Node((Edge("max_pool_3x3", 1), Edge("sep_conv_3x3", 2)))
    third = Node((Edge("skip_connect", 0), Edge("max_pool_3x3", 2)))
    genotype = Genotype(Cell((first, second), (2, 3)), Cell((first, third), (2, 3)), INPUTS)
    assert space.encode(genotype) == (0, 0, 2, 2, 1, 2, 0, 0, 2, 1, 0, 1)
    pairs = [(0, 1), (0, 2), (1, 2), (0, 3), (1, 3), (2, 3)]
    space, head, tail = DartsSpace(("skip_connect",), num_nodes=3), (0,) * 6, (0,) * 11
    nodes = [space.decode((*head, number, *tail)).normal.nodes[2] for number in range(6)]
    assert [tuple(edge.state for edge in node.edges) for node in nodes] == pairs


def test_every_choice_is_sampled_evenly():
    """Of 3,000 samples each count is within five standard deviations of the binomial."""
    rng = np.random.default_rng(2)
    codes = np.array([DARTS.encode(DARTS.sample(rng)) for _ in range(3000)])
    for position, count in enumerate(DARTS.choices):
        observed = np.bincount(codes[:, position], minlength=count)
        assert len(observed) == count
        assert np.abs(observed - 3000 / count).max() <= 5 * np.sqrt(3000 / count * (1 - 1 / count)), position


def test_a_mutation_changes_one_choice():
    """All but the states of the first nodes, which have one pair: 22 of 24."""
    rng = np.random.default_rng(3)
    start = DARTS.sample(rng)
    kept, changed = DARTS.encode(start), set()
    for _ in range(600):
        child = DARTS.encode(DARTS.mutate(rng, start))
        places = [place for place, pair in enumerate(zip(kept, child, strict=True)) if pair[0] != pair[1]]
        assert len(places) == 1
        changed.update(places)
    assert changed == set(range(24)) - {0, 12} and DARTS.encode(start) == kept
    with_current = DartsSpace(include_current=True)
    assert any(with_current.mutate(rng, start) == start for _ in range(100))


@pytest.mark.parametrize("make", [Evolution, ReinforcementLearning])
def test_strategies_propose_what_is_of_the_space(make):
    options = {"population_size": 4, "sample_size": 2} if make is Evolution else {"batch_size": 4, "features": 8}
    strategy = make(DARTS, seed=0, **options)
    for number in range(9):
        proposal = strategy.ask()
        assert DARTS.from_json(DARTS.to_json(proposal.architecture)) == proposal.architecture
        strategy.tell(proposal.architecture, Trial(number, None, 0, float(number % 2), 1.0, 0.0))


def of_one_node(*edges, combine="add", concat=(2,), inputs=INPUTS):
    """Both cells the same."""
    cell = Cell((Node(tuple(Edge(*edge) for edge in edges), combine),), concat)
    return Genotype(cell, cell, inputs)


SKIPS = (("skip_connect", 0), ("skip_connect", 1))


@pytest.mark.parametrize(
    ("genotype", "words"),
    [
        (of_one_node(*SKIPS, inputs=INPUTS[::-1]), r"^DartsSpace: inputs=\('current', 'previous'\) must be \('previ"),
        (AMOEBANET_A, "^DartsSpace: inputs="),
        (
            of_one_node(*SKIPS, concat=(1, 2)),
            r"normal cell, of 1 nodes and concat=\(1, 2\), must have 1 and put out \(",
        ),
        (DARTS_V2, r"normal cell, of 4 nodes and concat=\(2, 3, 4, 5\), must have 1"),
        (of_one_node(*[SKIPS[0]] * 2), r"normal cell: nodes\[0\] must add two edges of different states, not add thos"),
        (of_one_node(SKIPS[0]), r"nodes\[0\] must add two edges of different states"),
        (
            of_one_node(*SKIPS, combine="concat"),
            r"must add two edges of different states, not concat those of \(0, 1\)",
        ),
        (of_one_node(SKIPS[0], ("conv_3x3", 1)), "operation of the normal cell: unknown name 'conv_3x3'"),
    ],
)
def test_a_genotype_of_another_space_is_one_line(genotype, words):
    space = DartsSpace(num_nodes=1)
    for attempt in (lambda: space.encode(genotype), lambda: space.from_json(genotype.to_json())):
        with pytest.raises(ValueError, match=words) as error:
            attempt()
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"operations": ("sep_conv_3x4",)}, "^DartsSpace: operations: unknown name 'sep_conv_3x4'; did you mean"),
        ({"operations": ()}, r"^DartsSpace: operations=\(\) must be one or more, each once"),
        ({"operations": ("skip_connect",) * 2}, "must be one or more, each once"),
        ({"num_nodes": 0}, "^DartsSpace: num_nodes=0 must be at least 1"),
    ],
)
def test_arguments_out_of_range_are_one_line(fields, words):
    with pytest.raises(ValueError, match=words):
        DartsSpace(**fields)


def test_all_of_darts_operations_are_there_by_default():
    assert DARTS.operations == DARTS_OPERATIONS and len(DARTS_OPERATIONS) == 7
