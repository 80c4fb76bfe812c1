"""The supernet against the networks of single cells, its size against a formula, and what may be changed of it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from arch import models
from arch.efficiency.complexity import abstract_variables
from arch.models.genotypes import DARTS_V2, Cell, Genotype, Node
from arch.search.oneshot.supernet import KINDS, MIXED_OPERATIONS, MixedOperation, Supernet, count_edges, mixture_of
from tests.compiling import quick_jit
from tests.models.checks import check_float64_stays, floating_dtypes

SMALL = {"num_cells": 3, "features": 4, "num_nodes": 2}
# Two nodes, without pooling, after which a supernet has a normalization that its cells have not in the end.
PLAIN = Genotype(
    Cell((Node((("sep_conv_3x3", 1), ("skip_connect", 0))), Node((("dil_conv_5x5", 2), ("sep_conv_5x5", 0)))), (2, 3)),
    Cell((Node((("skip_connect", 1), ("dil_conv_3x3", 0))), Node((("sep_conv_3x3", 0), ("skip_connect", 2)))), (2, 3)),
    ("previous", "current"),
)
POOLS = Genotype(
    Cell((Node((("max_pool_3x3", 0), ("avg_pool_3x3", 1))), Node((("sep_conv_3x3", 2), ("max_pool_3x3", 1)))), (2, 3)),
    Cell((Node((("avg_pool_3x3", 1), ("max_pool_3x3", 0))), Node((("avg_pool_3x3", 0), ("skip_connect", 2)))), (2, 3)),
    ("previous", "current"),
)


def uniform(model, dtype=np.float32):
    """Weights that are all alike."""
    edges, operations = model.mixture_shape
    return {kind: jnp.full((edges, operations), 1 / operations, dtype) for kind in KINDS}


def one_hot(genotype, operations=MIXED_OPERATIONS):
    """All weight on the operations of a genotype, on "none" where it has no edge."""
    mixture = {}
    for kind in KINDS:
        rows = []
        for number, node in enumerate(getattr(genotype, kind).nodes):
            chosen = {state: operation for operation, state in node.edges}
            rows += [[float(name == chosen.get(state, "none")) for name in operations] for state in range(number + 2)]
        mixture[kind] = np.array(rows)
    return mixture


def shapes_of(model, size, channels=3, dtype=jnp.float32):
    x = jax.ShapeDtypeStruct((2, size, size, channels), dtype)
    mixture = uniform(model)
    return jax.eval_shape(lambda x: model.init(jax.random.key(0), x, mixture, train=False), x)


def random_variables(shapes, seed=0):
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: jnp.asarray(rng.uniform(0.2, 1.0, leaf.shape) * rng.choice([-1, 1], leaf.shape)
                                                 if leaf.ndim > 1 else rng.uniform(0.5, 1.5, leaf.shape),
                                                 leaf.dtype), shapes)  # fmt: skip


def discrete_variables(variables, shapes, genotype):
    """The variables of the network of a genotype, as the supernet has them; norms of cells are left as they are."""
    flat, found = traverse_util.flatten_dict(variables), {}
    for path, leaf in traverse_util.flatten_dict(shapes).items():
        collection, cell, *rest = path
        if cell.startswith("cell") and rest[0].startswith("node"):
            number, place = (int(part.removeprefix("node").removeprefix("edge")) for part in rest[0].split("_"))
            reduces = int(cell.removeprefix("cell")) - 1 in (1, 2)
            nodes = (genotype.reduction if reduces else genotype.normal).nodes
            operation, state = nodes[number - 1].edges[place - 1]
            source = (collection, cell, f"node{number}_state{state}", operation, *rest[1:])
        else:
            source = path
        if source not in flat:
            assert path[-1] in ("scale", "bias")
        found[path] = flat.get(source, (jnp.zeros if path[-1] == "bias" else jnp.ones)(leaf.shape, leaf.dtype))
    return traverse_util.unflatten_dict(found)


def check_one_hot(genotype, *, train, dtype, tolerance, size=9):
    model = Supernet(**SMALL)
    alone = models.create("cifar_darts_v2", genotype=genotype, num_cells=3, features=4, num_classes=10)
    x = jnp.asarray(np.random.default_rng(1).normal(size=(3, size, size, 3)), dtype)
    variables = random_variables(shapes_of(model, size, dtype=dtype))
    for path, leaf in traverse_util.flatten_dict(variables["batch_stats"], sep="/").items():
        if "pool" in path:  # of mean 0 and variance 1: in evaluation it is the identity
            *place, name = path.split("/")
            node = functools.reduce(dict.__getitem__, place, variables["batch_stats"])
            node[name] = jnp.full_like(leaf, 1 - 1e-5 if name == "var" else 0)
    own = discrete_variables(variables, abstract_variables(alone, x, train=False), genotype)
    mixture = jax.tree.map(lambda rows: jnp.asarray(rows, dtype), one_hot(genotype))

    @quick_jit
    def run(variables, own, x):
        options = {"train": train, "mutable": ["batch_stats"]}
        return model.apply(variables, x, mixture, **options)[0], alone.apply(own, x, **options)[0]

    mixed, expected = run(variables, own, x)
    assert mixed.dtype == expected.dtype == dtype and np.ptp(expected) > 0.1
    np.testing.assert_allclose(mixed, expected, rtol=tolerance, atol=tolerance * float(jnp.abs(expected).max()))


@pytest.mark.slow
@pytest.mark.parametrize("train", [True, False])
def test_with_all_weight_on_one_cell_it_is_the_network_of_that_cell(x64, train):
    """On maps of 9, 5 and 3 pixels; its norms have scale 1 and bias 0, the stem's apart."""
    check_one_hot(PLAIN, train=train, dtype=jnp.float64, tolerance=1e-10)


@pytest.mark.slow
def test_pooling_is_the_same_where_its_normalization_is_none(x64):
    check_one_hot(POOLS, train=False, dtype=jnp.float64, tolerance=1e-10)


@pytest.mark.slow
def test_in_float32_too():
    check_one_hot(PLAIN, train=False, dtype=jnp.float32, tolerance=1e-5)


def parameters(num_cells, features, num_nodes, channels, num_classes):
    """By hand: 1x1 from both inputs; 102 F taps of depthwise kernels and six pointwise an edge (two of each separable
    convolution, one of each dilated); in reductions a factorized one on the edges from both inputs; no norms but the
    stem's."""
    edges, current = num_nodes * (num_nodes + 3) // 2, 3 * features
    total, previous = 9 * channels * current + 2 * current, current
    for number in range(num_cells):
        reduces = number in (num_cells // 3, 2 * num_cells // 3)
        features *= 2 if reduces else 1
        total += (previous + current) * features + edges * (102 * features + 6 * features**2)
        total += 2 * num_nodes * features**2 if reduces else 0
        previous, current = current, num_nodes * features
    return total + (current + 1) * num_classes


@pytest.mark.parametrize(
    "fields,channels,classes",
    [
        (SMALL, 1, 10),
        ({"num_cells": 5, "features": 6, "num_nodes": 1}, 3, 7),
        pytest.param({"num_cells": 4, "features": 3, "num_nodes": 3}, 3, 2, marks=pytest.mark.slow),
    ],
)
def test_the_parameters_are_those_counted_by_hand(fields, channels, classes):
    model = Supernet(**fields, num_classes=classes)
    found = sum(leaf.size for leaf in jax.tree.leaves(shapes_of(model, 16, channels)["params"]))
    assert found == parameters(model.num_cells, model.features, model.num_nodes, channels, classes)


@pytest.mark.slow
def test_the_papers_supernet():
    """1,930,618 parameters, as the authors' program logs ("param size = 1.930618MB"); 14 edges of 8 operations."""
    model = Supernet()
    variables = shapes_of(model, 32)
    found = sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
    assert found == parameters(8, 16, 4, 3, 10) == 1_930_618
    assert model.mixture_shape == (14, 8) and MIXED_OPERATIONS[0] == "none"
    assert [count_edges(nodes) for nodes in range(5)] == [0, 2, 5, 9, 14]
    params = variables["params"]
    assert sorted(name for name in params if name.startswith("cell")) == [f"cell{number}" for number in range(1, 9)]
    halved = {name for name in params if "previous_halved" in params[name]}
    assert halved == {"cell4", "cell7"}  # behind the reductions, cells 3 and 6
    norms = {path[:-1] for path in traverse_util.flatten_dict(params) if path[-1] in ("scale", "bias")}
    assert norms == {("stem_norm",), ("classifier",)}
    # A normalization of its own behind each of two poolings, on every edge.
    places = {path[:-1] for path in traverse_util.flatten_dict(variables["batch_stats"]["cell1"])}
    assert sum("pool" in place[1] for place in places if place[0].startswith("node")) == 2 * 14


@pytest.mark.parametrize("size", [7, 8, 9, 12])
def test_maps_of_any_size_are_halved_upwards(size):
    model = Supernet(**SMALL)
    mixture = uniform(model)

    def maps(x):
        variables = model.init(jax.random.key(0), x, mixture, train=False)
        return model.apply(variables, x, mixture, train=False, capture_intermediates=True, mutable=["intermediates"])

    _, state = jax.eval_shape(maps, jax.ShapeDtypeStruct((2, size, size, 3), jnp.float32))
    half, quarter = -(-size // 2), -(-size // 4)
    for name, pixels, channels in (("cell1", size, 8), ("cell2", half, 16), ("cell3", quarter, 32)):
        assert state["intermediates"][name]["__call__"][0].shape == (2, pixels, pixels, channels)


def test_a_mixed_operation_is_the_weighted_sum_of_its_operations():
    """Of max and mean over 3x3 and the input itself, with norms that double: against a loop."""
    names = ("none", "max_pool_3x3", "avg_pool_3x3", "skip_connect")
    unit = MixedOperation(features=2, strides=1, padding="symmetric", conv=None, norm=lambda name: lambda x: 2 * x,
                          act=None, operations=names)  # fmt: skip
    x = np.random.default_rng(0).normal(size=(1, 4, 5, 2)).astype(np.float32)
    weights = np.float32([5.0, 0.5, 0.25, 2.0])
    expected = np.zeros_like(x)
    for i in range(4):
        for j in range(5):
            window = x[:, max(i - 1, 0) : i + 2, max(j - 1, 0) : j + 2]
            expected[:, i, j] = 2 * 0.5 * window.max((1, 2)) + 2 * 0.25 * window.mean((1, 2)) + 2.0 * x[:, i, j]
    np.testing.assert_allclose(unit.apply({}, x, weights), expected, rtol=1e-5, atol=1e-6)


def test_a_mixture_is_a_softmax_of_each_edge():
    alphas = {kind: np.random.default_rng(0).normal(size=(5, 8)) for kind in KINDS}
    for kind, rows in mixture_of(alphas).items():
        powers = np.exp(alphas[kind])
        np.testing.assert_allclose(rows, powers / powers.sum(1, keepdims=True), rtol=1e-5)


def logits_of(model, channels=1):
    """Of some images, where every weight of a layer is the same for all models that have it."""
    x = jnp.asarray(np.random.default_rng(1).normal(size=(2, 8, 8, channels)), jnp.float32)

    def run(x):
        mixture = uniform(model)
        return model.apply(model.init(jax.random.key(0), x, mixture, train=False), x, mixture, train=True,
                           mutable=["batch_stats"])[0]  # fmt: skip

    return quick_jit(run)(x)


@pytest.mark.slow
@pytest.mark.parametrize(
    "field",
    [
        {"num_cells": 4},
        {"features": 5},
        {"num_nodes": 2},
        {"operations": ("none", "skip_connect")},
        {"stem": "stride2"},
        {"act": jnp.tanh},
        {"kernel_init": jax.nn.initializers.ones},
        {"dtype": jnp.bfloat16},
    ],
)
def test_every_field_is_seen(field):
    base = {"num_cells": 3, "features": 4, "num_nodes": 1, "operations": ("none", "skip_connect", "sep_conv_3x3")}
    found, changed = (logits_of(Supernet(**{**base, **fields})) for fields in ({}, field))
    assert found.shape == changed.shape == (2, 10) and changed.dtype == jnp.float32
    assert float(jnp.abs(found - changed).max()) > 1e-3


def test_a_narrow_computation_keeps_wide_parameters_and_logits():
    model = Supernet(**SMALL, dtype=jnp.bfloat16)
    x, mixture = jax.ShapeDtypeStruct((2, 8, 8, 1), jnp.float32), uniform(model)
    variables = shapes_of(model, 8, channels=1)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    apply = functools.partial(model.apply, train=True, mutable=["batch_stats"])
    assert jnp.dtype("bfloat16") in floating_dtypes(jax.make_jaxpr(apply)(variables, x, mixture).jaxpr)
    assert jax.eval_shape(apply, variables, x, mixture)[0].dtype == jnp.float32


@pytest.mark.slow
def test_float64_stays(x64):
    class WithMixture:
        """A network of images alone, as the check asks for."""

        def __init__(self, model):
            self.init = lambda key, x, **options: model.init(key, x, uniform(model, np.float64), **options)
            self.apply = lambda variables, x, *, rngs, **options: model.apply(
                variables, x, uniform(model, np.float64), **options
            )

    check_float64_stays(WithMixture(Supernet(**SMALL)))


def test_examples_of_no_weight_change_nothing_for_the_others():
    from arch.ops.stochastic import Examples

    model = Supernet(num_cells=3, features=4, num_nodes=1, operations=("none", "skip_connect", "max_pool_3x3"))
    variables, mixture = random_variables(shapes_of(model, 8)), uniform(model)
    x = np.random.default_rng(0).normal(size=(4, 8, 8, 3)).astype(np.float32)
    weight = np.float32([1, 1, 1, 0])

    @quick_jit
    def apply(x):
        return model.apply(variables, x, mixture, train=True, examples=Examples(weight=weight), mutable=["batch_stats"])

    logits, stats = apply(x)
    spoiled, spoiled_stats = apply(np.where(weight[:, None, None, None] > 0, x, np.float32(9)))
    np.testing.assert_allclose(spoiled[:3], logits[:3], atol=1e-4)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), spoiled_stats, stats)


@pytest.mark.parametrize(
    "fields,message",
    [
        ({"num_cells": 2}, "Supernet: num_cells=2 must be at least 3"),
        ({"features": 1}, "Supernet: features=1 must be at least 2"),
        ({"num_nodes": 0}, "Supernet: num_nodes=0 must be at least 1"),
        ({"stem": "imagenet"}, "Supernet: stem: unknown name 'imagenet'; one of small, stride2"),
        (
            {"operations": ("none", "sep_conv_3")},
            "Supernet: operations: unknown name 'sep_conv_3'; did you mean 'sep_co",
        ),
        ({"operations": ("none",)}, "Supernet: operations=('none',) must be different ones, and not only 'none'"),
        ({"operations": ("conv_1x1", "conv_1x1")}, "Supernet: operations=('conv_1x1', 'conv_1x1') must be different"),
    ],
)
def test_fields_that_do_not_fit_are_refused(fields, message):
    model = Supernet(**{**SMALL, **fields})
    with pytest.raises(ValueError) as error:
        shapes_of(model, 8)
    assert str(error.value).startswith(message) and "\n" not in str(error.value)


def test_a_mixture_of_another_shape_is_refused():
    model, other = Supernet(**SMALL), Supernet(**{**SMALL, "num_nodes": 3})
    for mixture in (uniform(other), {"normal": uniform(model)["normal"]}):
        with pytest.raises(
            ValueError, match=r"^Supernet: mixture=.* must have \(5, 8\), edges and operations, of each"
        ):
            jax.eval_shape(lambda m=mixture: model.init(jax.random.key(0), jnp.zeros((1, 8, 8, 3)), m, train=False))


def test_the_published_cell_is_one_of_them():
    """Of 14 edges 8 are kept; the others have all of their weight on "none"."""
    mixture = one_hot(DARTS_V2)
    for kind in KINDS:
        assert mixture[kind].shape == (14, 8) and (mixture[kind].sum(1) == 1).all()
        assert mixture[kind][:, 0].sum() == 14 - 8
