"""The space of cells: of the papers' size, evenly sampled, mutated as Real et al. do, and built by the networks."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from arch import models
from arch.efficiency.complexity import abstract_variables
from arch.models.genotypes import (
    AMOEBANET_A,
    AMOEBANET_OPERATIONS,
    DARTS_OPERATIONS,
    DARTS_V2,
    NASNET_OPERATIONS,
    Cell,
    Edge,
    Genotype,
    Node,
    cell_of_pairs,
)
from arch.search.spaces.cells import CellSpace
from arch.search.strategies.controller import ReinforcementLearning
from arch.search.strategies.evolution import Evolution
from arch.search.trials import Trial

AMOEBANET = CellSpace()
NASNET = CellSpace(NASNET_OPERATIONS, combine=("add", "concat"))
SPACES = {
    "amoebanet": AMOEBANET,
    "nasnet": NASNET,
    "darts": CellSpace(DARTS_OPERATIONS, num_nodes=4, inputs=("previous", "current")),
    "one operation": CellSpace(("sep_conv_3x3",), num_nodes=1),
}
ALPHA = 1e-4  # of a test that all is well, with a fixed seed


def chi_square(observed, expected):
    """p of counts as far as these from what is expected, or farther."""
    observed, expected = np.asarray(observed, float), np.asarray(expected, float)
    assert expected.min() >= 5 and observed.sum() == pytest.approx(expected.sum())
    statistic = float(np.sum((observed - expected) ** 2 / expected))
    return float(jax.scipy.stats.chi2.sf(statistic, len(observed) - 1))


def values(genotype):
    """Every choice of a genotype as (what, cell, node, side) -> value, read off the genotype alone."""
    found = {}
    for name in ("normal", "reduction"):
        for number, node in enumerate(getattr(genotype, name).nodes):
            found["combine", name, number, None] = node.combine
            for side, (operation, state) in enumerate(node.edges):
                found["operation", name, number, side] = operation
                found["state", name, number, side] = state
    return found


def difference(first, second):
    """The choices that differ."""
    ours, theirs = values(first), values(second)
    return [key for key in ours if ours[key] != theirs[key]]


def samples(space, count, seed=0):
    rng = np.random.default_rng(seed)
    return [space.sample(rng) for _ in range(count)]


def test_sizes_are_the_papers():
    """720^2 ways to wire five nodes: of each side 2 x 3 x 4 x 5 x 6; with 13^2 x 2, or 8^2 ways to fill each."""
    assert AMOEBANET.cell_size == 720**2 * 64**5 == 556_627_761_561_600
    assert NASNET.cell_size == 720**2 * 338**5 and f"{NASNET.cell_size:.2e}" == "2.29e+18"
    assert f"{AMOEBANET.cell_size:.2e}" == "5.57e+14"
    assert AMOEBANET.size == AMOEBANET.cell_size**2 and NASNET.size == NASNET.cell_size**2
    assert NASNET.choices == tuple(
        count for _ in range(2) for node in range(5) for count in (node + 2, node + 2, 13, 13, 2)
    )


def test_a_small_space_is_what_its_encodings_enumerate():
    """Two operations, one node: (2^2 x 2^2)^2 genotypes, all different."""
    space = CellSpace(("identity", "avg_pool_3x3"), num_nodes=1)
    found = {space.decode(code) for code in np.ndindex(*space.choices)}
    assert len(found) == space.size == 256


@pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)
def test_what_is_sampled_is_of_the_space_and_survives_its_forms(space):
    for one in samples(space, 50):
        code = space.encode(one)
        assert len(code) == len(space.choices) and all(0 <= a < n for a, n in zip(code, space.choices, strict=True))
        assert space.decode(code) == one == space.decode(np.asarray(code))
        assert space.from_json(json.loads(json.dumps(space.to_json(one)))) == one
        for cell in (one.normal, one.reduction):
            read = {state for node in cell.nodes for _, state in node.edges}
            assert set(cell.concat) == set(range(space.num_nodes + 2)) - read
            assert all(len(node.edges) == 2 and node.combine in space.combine for node in cell.nodes)
            assert {edge.operation for node in cell.nodes for edge in node.edges} <= set(space.operations)


def test_an_encoding_is_written_in_the_order_of_the_controller():
    """Two states, two operations, the combination; a node after the other, the normal cell first."""
    space = CellSpace(("identity", "conv_1x1", "conv_3x3"), num_nodes=2, combine=("add", "concat"))
    first = Node((Edge("conv_3x3", 0), Edge("identity", 1)), "concat")
    second = Node((Edge("conv_1x1", 2), Edge("conv_3x3", 1)))
    third = Node((Edge("identity", 1), Edge("identity", 1)))
    genotype = Genotype(Cell((first, second), (3,)), Cell((third, second), (0, 3)))
    assert space.encode(genotype) == (0, 1, 2, 0, 1, 2, 1, 1, 2, 0, 1, 1, 0, 0, 0, 2, 1, 1, 2, 0)


def test_every_choice_is_sampled_evenly():
    """Each position of NASNet's space alone, and two of them together."""
    codes = np.array([NASNET.encode(one) for one in samples(NASNET, 2000)])
    for position, count in enumerate(NASNET.choices):
        observed = np.bincount(codes[:, position], minlength=count)
        assert chi_square(observed, np.full(count, 2000 / count)) > ALPHA, position
    pairs = codes[:, 0] * 13 + codes[:, 2]
    assert chi_square(np.bincount(pairs, minlength=26), np.full(26, 2000 / 26)) > ALPHA


def test_a_mutation_changes_one_choice_and_each_as_often_as_it_should():
    """A state or an operation, either cell, any of five nodes, either side: 40 of them, one mutation in forty each."""
    (start,) = samples(AMOEBANET, 1, seed=3)
    rng, kept = np.random.default_rng(1), AMOEBANET.to_json(start)
    counts = {key: 0 for key in values(start) if key[0] != "combine"}
    for _ in range(4000):
        child = AMOEBANET.mutate(rng, start)
        (changed,) = difference(start, child)
        counts[changed] += 1
        AMOEBANET.encode(child)  # it is of the space
    assert len(counts) == 40 and chi_square(list(counts.values()), np.full(40, 4000 / 40)) > ALPHA
    assert AMOEBANET.to_json(start) == kept


def test_what_takes_the_place_is_drawn_evenly_from_the_others():
    """Of node 4: six states but one, eight operations but one."""
    (start,) = samples(AMOEBANET, 1, seed=4)
    rng, key = np.random.default_rng(2), ("normal", 4, 0)
    found = {"state": [], "operation": []}
    for _ in range(8000):
        child = AMOEBANET.mutate(rng, start)
        (changed,) = difference(start, child)
        if changed[1:] == key:
            found[changed[0]].append(values(child)[changed])
    for what, choices in (("state", range(6)), ("operation", AMOEBANET_OPERATIONS)):
        others = [choice for choice in choices if choice != values(start)[(what, *key)]]
        counts = [found[what].count(choice) for choice in others]
        assert sum(counts) == len(found[what]), "the one that was there is not among them"
        assert chi_square(counts, np.full(len(others), sum(counts) / len(others))) > ALPHA


def test_a_literal_mutation_may_draw_the_operation_that_is_there():
    """One in eight of those of an operation, which are a half of all; a state is another one in any case."""
    space = CellSpace(include_current=True)
    (start,) = samples(space, 1)
    rng, total = np.random.default_rng(5), 4000
    counts = {"none": 0, "state": 0, "operation": 0}
    for _ in range(total):
        changed = difference(start, space.mutate(rng, start))
        counts[changed[0][0] if changed else "none"] += 1
    assert chi_square(list(counts.values()), [total / 16, total / 2, total * 7 / 16]) > ALPHA


def test_where_there_are_two_combinations_a_third_of_the_mutations_changes_one():
    (start,) = samples(NASNET, 1)
    rng = np.random.default_rng(6)
    changes = [difference(start, NASNET.mutate(rng, start))[0] for _ in range(3000)]
    counts = [sum(change[0] == what for change in changes) for what in ("state", "operation", "combine")]
    assert chi_square(counts, np.full(3, 1000)) > ALPHA
    nodes = [(cell, node) for what, cell, node, _ in changes if what == "combine"]
    observed = [nodes.count((cell, node)) for cell in ("normal", "reduction") for node in range(5)]
    assert chi_square(observed, np.full(10, len(nodes) / 10)) > ALPHA


def test_with_one_operation_states_alone_are_mutated():
    space = SPACES["one operation"]
    (start,) = samples(space, 1)
    rng = np.random.default_rng(7)
    assert {difference(start, space.mutate(rng, start))[0][0] for _ in range(50)} == {"state"}


def test_evolution_proposes_children_one_choice_away():
    strategy = Evolution(AMOEBANET, seed=0, population_size=4, sample_size=2, no_change_rate=0.0)
    proposals = [strategy.ask() for _ in range(4)]
    for number, proposal in enumerate(proposals):
        strategy.tell(proposal.architecture, Trial(number, None, 0, float(number), 1.0, 0.0))
    for _ in range(20):
        child = strategy.ask()
        assert len(difference(proposals[child.parent].architecture, child.architecture)) == 1


def test_the_controller_writes_genotypes_of_the_space():
    strategy = ReinforcementLearning(NASNET, seed=0, batch_size=4, features=8)
    for number in range(9):  # two updates
        proposal = strategy.ask()
        assert NASNET.from_json(NASNET.to_json(proposal.architecture)) == proposal.architecture
        strategy.tell(proposal.architecture, Trial(number, None, 0, float(number % 2), 1.0, 0.0))


SKELETONS = {
    "nasnet": ("nasnet_a_mobile", {"stage_sizes": (1, 1), "features": 4, "stem": "small"}),
    "darts": ("darts_v2", {"num_cells": 3, "features": 4, "stem": "small"}),
}


@pytest.mark.parametrize("skeleton", SKELETONS)
@pytest.mark.parametrize("space", [AMOEBANET, NASNET], ids=["amoebanet", "nasnet"])
def test_what_is_sampled_is_a_network(space, skeleton):
    """Traced from its JSON, as a recipe has it."""
    name, fields = SKELETONS[skeleton]
    for one in samples(space, 1, seed=11):
        model = models.create(name, num_classes=3, genotype=space.to_json(one), **fields)
        x = jax.ShapeDtypeStruct((2, 8, 8, 1), jnp.float32)
        variables = abstract_variables(model, x, train=False)
        logits = jax.eval_shape(lambda variables, x, m=model: m.apply(variables, x, train=False), variables, x)
        assert logits.shape == (2, 3)


@pytest.mark.parametrize("code", [(0,) * 39, (0,) * 41, (2, *(0,) * 39), (*(0,) * 39, 8), (-1, *(0,) * 39)])
def test_what_is_no_encoding_is_refused(code):
    with pytest.raises(ValueError, match="must have a number below each of"):
        AMOEBANET.decode(code)


def changed_node(node):
    """A genotype of AmoebaNet's space but for its first node."""
    (one,) = samples(AMOEBANET, 1)
    nodes = (node, *one.normal.nodes[1:])
    read = {state for other in nodes for _, state in other.edges}
    cell = Cell(nodes, tuple(state for state in range(7) if state not in read))
    return dataclasses.replace(one, normal=cell)


@pytest.mark.parametrize(
    ("genotype", "words"),
    [
        (AMOEBANET_A, r"^CellSpace: normal cell puts out concat=\(1, 3, 4, 6\), which must be \(3, 4, 6\)"),
        (DARTS_V2, r"^CellSpace: inputs=\('previous', 'current'\) must be \('current', 'previous'\)"),
        (
            Genotype(*[cell_of_pairs(("identity",) * 2, (0, 1), (2,))] * 2),
            r"^CellSpace: normal cell, with \[2\] edges a node, must have 5 nodes of 2",
        ),
        (changed_node(Node((Edge("identity", 0),))), r"with \[1, 2, 2, 2, 2\] edges a node, must have 5 nodes of 2"),
        (changed_node(Node((Edge("conv_1x1", 0), Edge("identity", 0)))), "normal cell: unknown name 'conv_1x1'"),
        (changed_node(Node((Edge("identity", 0), Edge("identity", 0)), "concat")), "combine of the normal cell: unkn"),
    ],
)
def test_a_genotype_of_another_space_is_one_line(genotype, words):
    for attempt in (lambda: AMOEBANET.encode(genotype), lambda: AMOEBANET.from_json(genotype.to_json())):
        with pytest.raises(ValueError, match=words) as error:
            attempt()
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"operations": ("sep_conv_3x4",)}, "^CellSpace: operations: unknown name 'sep_conv_3x4'; did you mean 'sep_c"),
        ({"operations": ()}, r"^CellSpace: operations=\(\) must be one or more, each once"),
        ({"operations": ("identity", "identity")}, "must be one or more, each once"),
        ({"combine": ("sum",)}, "^CellSpace: combine: unknown name 'sum'"),
        ({"num_nodes": 0}, "^CellSpace: num_nodes=0 must be at least 1"),
        ({"inputs": ("current", "current")}, r"^CellSpace: inputs=\('current', 'current'\) must be"),
    ],
)
def test_arguments_out_of_range_are_one_line(fields, words):
    with pytest.raises(ValueError, match=words):
        CellSpace(**fields)
