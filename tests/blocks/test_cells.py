"""Operations of searched cells against what they see and cost, and the wiring of a cell against sums by hand."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from arch.blocks.cell_operations import OPERATIONS, FactorizedReduction
from arch.blocks.cells import SearchedCell
from arch.blocks.progress import set_progress, training_progress
from arch.models.genotypes import Cell, Node
from arch.ops.stochastic import Examples
from tests.blocks.units import NO_BIAS
from tests.compiling import quick_jit

BARE = {"conv": NO_BIAS, "norm": lambda name: lambda x: x, "act": lambda x: x}


class Scale(nn.Module):
    """A norm that has its two scalars a channel."""

    @nn.compact
    def __call__(self, x):
        shape = (x.shape[-1],)
        return x * self.param("scale", nn.initializers.ones, shape) + self.param("bias", nn.initializers.zeros, shape)


def make(operation, features=8, strides=1, padding="SAME", **parts):
    return OPERATIONS[operation](features=features, strides=strides, padding=padding, **{**BARE, **parts})


# Pixels of the input that one output depends on, and height of the region in which they lie.
SEEN = {
    "identity": (1, 1),
    "skip_connect": (1, 1),
    "conv_1x1": (1, 1),
    "conv_3x3": (9, 3),
    "conv_3x3_dilated": (9, 5),
    "conv_1x3_3x1": (9, 3),
    "conv_1x7_7x1": (49, 7),
    "avg_pool_3x3": (9, 3),
    "sep_conv_3x3": (25, 5),
    "sep_conv_5x5": (81, 9),
    "sep_conv_7x7": (169, 13),
    "dil_conv_3x3": (9, 5),
    "dil_conv_5x5": (25, 9),
    "max_pool_3x3": (9, 3),
    "max_pool_5x5": (25, 5),
    "max_pool_7x7": (49, 7),
}


@pytest.mark.parametrize("padding", ["SAME", "symmetric"])
def test_what_an_operation_sees(padding):
    """The pixels that reach the middle of a map of 15x15 pixels, each tried alone; all weights are one."""
    assert set(SEEN) == set(OPERATIONS)
    pixels = jnp.eye(225).reshape(225, 15, 15, 1).repeat(4, axis=-1)

    @quick_jit
    def reach():
        found = {}
        for name in SEEN:
            operation = make(name, features=4, padding=padding)
            shapes = jax.eval_shape(operation.init, jax.random.key(0), pixels)
            found[name] = operation.apply(jax.tree.map(lambda leaf: jnp.ones(leaf.shape), shapes), pixels)[:, 7, 7, 0]
        return found

    for name, reached in jax.device_get(reach()).items():
        seen = np.abs(reached.reshape(15, 15)) > 1e-3
        rows = np.flatnonzero(seen.any(1))
        assert (seen.sum(), np.ptp(rows) + 1) == SEEN[name], name


# Parameters from 12 channels to 8, with norms; e = 8 / 4 channels in a bottleneck, of a row and a column 8 * 3 // 8.
COSTS = {
    "identity": 12 * 8 + 16,
    "skip_connect": 12 * 8 + 16,
    "avg_pool_3x3": 12 * 8 + 16,
    "max_pool_3x3": 12 * 8 + 16,
    "max_pool_5x5": 12 * 8 + 16,
    "max_pool_7x7": 12 * 8 + 16,
    "conv_1x1": 12 * 8 + 16,
    "conv_3x3": (12 * 2 + 4) + (9 * 4 + 4) + (2 * 8 + 16),
    "conv_3x3_dilated": (12 * 2 + 4) + (9 * 4 + 4) + (2 * 8 + 16),
    "conv_1x3_3x1": (12 * 3 + 6) + 2 * (3 * 9 + 6) + (3 * 8 + 16),
    "conv_1x7_7x1": (12 * 2 + 4) + 2 * (7 * 4 + 4) + (2 * 8 + 16),
    "sep_conv_3x3": (9 * 12 + 12 * 8 + 16) + (9 * 8 + 64 + 16),
    "sep_conv_5x5": (25 * 12 + 12 * 8 + 16) + (25 * 8 + 64 + 16),
    "sep_conv_7x7": (49 * 12 + 12 * 8 + 16) + (49 * 8 + 64 + 16),
    "dil_conv_3x3": 9 * 12 + 12 * 8 + 16,
    "dil_conv_5x5": 25 * 12 + 12 * 8 + 16,
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_has_the_shape_and_the_parameters_that_it_should(name):
    for size, padding in ((9, "SAME"), (8, "symmetric"), (2, "SAME"), (1, "symmetric")):
        for strides in (1, 2):
            operation = make(name, strides=strides, padding=padding, norm=lambda name: Scale(name=name))
            x = jax.ShapeDtypeStruct((1, size, size, 12), jnp.float32)
            out, variables = jax.eval_shape(functools.partial(operation.init_with_output, jax.random.key(0)), x)
            assert out.shape == (1, -(-size // strides), -(-size // strides), 8)
            assert sum(leaf.size for leaf in jax.tree.leaves(variables)) == COSTS[name]


def test_identities_of_their_shape_are_their_input():
    x = jnp.ones((1, 3, 3, 8))
    for name in ("identity", "skip_connect"):
        assert make(name).init_with_output(jax.random.key(0), x)[0] is x


@pytest.mark.parametrize("size", [5, 4])
def test_a_factorized_reduction_is_two_shifted_samples(size):
    """Against a loop: the first half sees the even pixels, the second the odd ones, and zeros behind the last."""
    random = np.random.default_rng(0)
    x = random.standard_normal((2, size, size, 3))
    kernels = {"conv1": random.standard_normal((3, 2)), "conv2": random.standard_normal((3, 3))}
    params = {name: {"kernel": kernel[None, None]} for name, kernel in kernels.items()}
    unit = FactorizedReduction(features=5, strides=2, padding="SAME", **{**BARE, "act": jnp.abs})
    out = quick_jit(lambda x: unit.apply({"params": params}, x))(np.float32(x))
    half = -(-size // 2)
    expected = np.zeros((2, half, half, 5))
    for i in range(half):
        for j in range(half):
            expected[:, i, j, :2] = np.abs(x[:, 2 * i, 2 * j]) @ kernels["conv1"]
            if 2 * i + 1 < size and 2 * j + 1 < size:
                expected[:, i, j, 2:] = np.abs(x[:, 2 * i + 1, 2 * j + 1]) @ kernels["conv2"]
    np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("fields", [{"strides": 1, "features": 4}, {"strides": 2, "features": 1}])
def test_a_factorized_reduction_needs_two_halves(fields):
    unit = FactorizedReduction(padding="SAME", **fields, **BARE)
    with pytest.raises(ValueError, match=r"^FactorizedReduction: strides=. must be 2 and features=. at least 2, "):
        jax.eval_shape(unit.init, jax.random.key(0), jnp.ones((1, 4, 4, 4)))


def test_an_unknown_padding_is_refused():
    with pytest.raises(ValueError, match=r"^PoolOperation: padding: unknown name 'same'; one of SAME, symmetric"):
        jax.eval_shape(make("max_pool_3x3", padding="same").init, jax.random.key(0), jnp.ones((1, 4, 4, 4)))


def node(*edges, combine="add"):
    return Node(edges, combine)


PLAN = Cell(
    (
        node(("identity", 0), ("avg_pool_3x3", 1)),  # 2: s0 + s1 on a map of equal pixels
        node(("identity", 2), ("identity", 0), combine="concat"),  # 3: [s0 + s1, s0]
        node(("identity", 1), ("identity", 1), ("max_pool_3x3", 2)),  # 4: 2 s1 + s2
    ),
    (4, 1, 2),
)


def cell(plan=PLAN, inputs=("current", "previous"), strides=1, features=2, **parts):
    return SearchedCell(
        plan=plan, inputs=inputs, features=features, strides=strides, padding="SAME", **{**BARE, **parts}
    )


@pytest.mark.parametrize("inputs,first,second", [(("current", "previous"), 2, 15), (("previous", "current"), 15, 2)])
def test_the_wiring_of_a_cell(inputs, first, second):
    """Maps of equal pixels, 1 and 5, brought to two channels by kernels of 2 and 3."""
    unit = cell(inputs=inputs)
    params = {
        "current": {"conv": {"kernel": np.full((1, 1, 1, 2), 2.0)}},
        "previous": {"conv": {"kernel": np.full((1, 1, 1, 2), 3.0)}},
    }
    current, previous = np.full((1, 4, 4, 1), 1.0, np.float32), np.full((1, 4, 4, 1), 5.0, np.float32)
    out = quick_jit(lambda a, b: unit.apply({"params": params}, a, b, train=False))(current, previous)
    expected = [3 * second + first, second, first + second]
    np.testing.assert_allclose(out[0, 1, 1], np.repeat(expected, 2))
    np.testing.assert_allclose(out, np.broadcast_to(out[:, :1, :1], out.shape))


def shapes_of(unit, current, previous):
    maps = [None if shape is None else jax.ShapeDtypeStruct((1, *shape), jnp.float32) for shape in (current, previous)]

    def init(*maps):
        given = iter(maps)
        maps = [None if shape is None else next(given) for shape in (current, previous)]
        return unit.init_with_output(jax.random.key(0), *maps, train=False)

    out, variables = jax.eval_shape(init, *[leaf for leaf in maps if leaf is not None])
    return out.shape, {name: jax.tree.leaves(leaf) for name, leaf in variables.get("params", {}).items()}


def test_inputs_and_outputs_are_brought_to_one_shape():
    """Stride 2 for what reads the inputs alone; an older input of twice the size is halved; without one the other
    takes its place as it is, and only what is put out is brought to the nodes' shape."""
    shape, params = shapes_of(cell(), (4, 4, 3), (8, 8, 3))
    assert shape == (1, 4, 4, 6)
    assert sorted(params) == ["current", "previous_halved"]

    shape, params = shapes_of(cell(), (4, 4, 3), None)
    assert shape == (1, 4, 4, 6)
    # Identities and pools from three channels to two, and state 1 as it is put out.
    assert sorted(params) == ["current", "node1_edge2", "node3_edge1", "node3_edge2", "output1"]

    reads_inputs = Cell((node(("conv_1x1", 0), ("conv_1x1", 1)), node(("conv_1x1", 2), ("conv_1x1", 2))), (2, 3, 0))
    shape, params = shapes_of(cell(reads_inputs, strides=2), (5, 5, 3), (5, 5, 3))
    assert shape == (1, 3, 3, 6)
    assert {"current", "previous", "output0"} < set(params)

    joined = Cell((node(("conv_1x1", 0), ("conv_1x1", 1), combine="concat"),), (2,))
    shape, params = shapes_of(cell(joined), (4, 4, 3), (4, 4, 3))
    assert shape == (1, 4, 4, 2)
    assert [leaf.shape for leaf in params["output2"]] == [(1, 1, 4, 2)]


@pytest.mark.parametrize(
    "operation,strides,dropped",
    [
        ("identity", 1, False),
        ("identity", 2, False),
        ("skip_connect", 1, False),
        ("skip_connect", 2, True),
        ("max_pool_3x3", 1, True),
        ("sep_conv_3x3", 1, True),
    ],
)
def test_all_but_identities_are_dropped(operation, strides, dropped):
    """At a rate of one nothing of what is dropped is left; in evaluation all is."""
    unit = cell(Cell((node((operation, 0)),), (2,)), strides=strides)
    x = jnp.ones((2, 4, 4, 2))
    shapes = jax.eval_shape(functools.partial(unit.init, train=False), jax.random.key(0), x, x)
    variables = jax.tree.map(lambda leaf: jnp.ones(leaf.shape), shapes)

    @functools.partial(quick_jit, static_argnums=0)
    def run(train, rate):
        rngs = {"dropout": jax.random.key(0)}
        return unit.apply(variables, x, x, train=train, drop_path_rate=rate, rngs=rngs)

    assert np.all(run(True, 0.0) != 0)
    assert np.any(run(True, 1.0) != 0) != dropped
    assert np.all(run(False, 1.0) != 0)


def test_drop_path_follows_the_examples():
    """Half of many are dropped, the others doubled; which ones depends on their ids alone."""
    unit = cell(Cell((node(("max_pool_3x3", 0)),), (2,)))
    x = jnp.ones((512, 1, 1, 2))
    variables = {"params": {"current": {"conv": {"kernel": jnp.full((1, 1, 2, 2), 0.5)}}}}
    variables["params"]["previous"] = variables["params"]["current"]

    @quick_jit
    def run(ids):
        rngs = {"dropout": jax.random.key(0)}
        out = unit.apply(
            variables, x, x, train=True, drop_path_rate=jnp.float32(0.5), examples=Examples(None, ids), rngs=rngs
        )
        return out[:, 0, 0, 0]

    out, ids = np.asarray(run(np.arange(512))), np.random.default_rng(0).permutation(512)
    assert set(out) == {0.0, 2.0}
    assert abs((out > 0).mean() - 0.5) < 4 * 0.5 / np.sqrt(512)
    np.testing.assert_array_equal(run(ids), out[ids])


class Reports(nn.Module):
    """A network that returns how far its training is."""

    @nn.compact
    def __call__(self):
        return training_progress(self, jnp.float32)


def test_progress_is_a_variable_that_a_step_sets():
    variables = Reports().init(jax.random.key(0))
    assert Reports().apply(variables) == 0.0
    told = quick_jit(set_progress)(variables, jnp.float32(0.25))
    assert Reports().apply(told) == 0.25
    assert jax.tree.map(lambda leaf: leaf.dtype, told) == jax.tree.map(lambda leaf: leaf.dtype, variables)
    without = {"params": {"kernel": 1.0}}
    assert set_progress(without, 0.5) == without
