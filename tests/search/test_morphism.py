"""Morphisms keep what a network computes, whatever reads what they change; in NumPy, beside the network itself."""

import copy
import functools
import itertools
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import traverse_util

from arch.efficiency.complexity import abstract_variables, count
from arch.models.classification.graph_net import GraphNet
from arch.models.graphs import Graph, Node, chain, resolve
from arch.search import morphism
from tests.compiling import quick_jit
from tests.models import graph_oracle
from tests.models.checks import random_variables
from tests.models.families.graph_net import CASES

SHAPE, NUM_CLASSES = (6, 5, 2), 3


def conv(name, read, features=4, kernel_size=3):
    return Node(name, "conv", (read,), features, kernel_size)


def depthwise(name, read, kernel_size=3):
    return Node(name, "depthwise", (read,), None, kernel_size)


def join(name, kind, *read):
    return Node(name, kind, read)


A, B = conv("a", "image", 4), conv("b", "image", 2, 4)
GRAPHS = {
    "chain": chain((3, 4, 5)),
    "flattened": chain((3, 4), head="flatten"),
    "several readers": Graph((A, conv("c", "a", 3), conv("d", "a", 2), join("e", "concat", "c", "d"), conv("f", "e"))),
    "depthwise": Graph((A, depthwise("c", "a"), depthwise("d", "c", 2), conv("e", "d"))),
    "second of a concatenation, flattened": Graph((B, A, join("c", "concat", "b", "a")), "flatten"),
    "concatenations of concatenations": Graph(
        (B, A, join("c", "concat", "b", "a"), join("d", "max_pool", "c"), join("e", "concat", "d", "d"),
         depthwise("f", "e"), conv("g", "f"))
    ),
    "sums": Graph(
        (A, join("p", "max_pool", "a"), conv("c", "p"), join("d", "add", "c", "p", "c"), conv("e", "d"),
         join("f", "blend", "e", "d"), depthwise("g", "f"))
    ),
    "a sum with a concatenation": Graph(
        (B, A, join("c", "concat", "b", "a"), conv("d", "c", 6), join("e", "add", "c", "d"), conv("f", "e"))
    ),
    "all kinds": resolve(CASES[1].fields["graph"]),
}  # fmt: skip
# Those that are added to a concatenation, which would have to change likewise.
NOT_WIDENED = {("a sum with a concatenation", "d")}
# A sum may be what no activation gives, and a blend is where its weight leaves [0, 1].
NOT_DEEPENED = {("sums", "d"), ("sums", "f"), ("a sum with a concatenation", "e"), ("all kinds", "add1")}
NOT_DEEPENED |= {("all kinds", "blend1"), ("all kinds", "max_pool1"), ("all kinds", "concat1")}


def image(seed=0, dtype=np.float64):
    return np.random.default_rng(seed).standard_normal((3, *SHAPE)).astype(dtype)


def weights(graph, seed=0, dtype=np.float64):
    """Everything random, statistics too, and blends that are no identity."""
    return jax.tree.map(lambda leaf: np.array(leaf, dtype), _weights(graph, seed))


@functools.cache
def _weights(graph, seed):
    with jax.enable_x64(True):
        return random_variables(GraphNet(NUM_CLASSES, graph), image(), seed)


def widening(node, features, form="copy", uneven=0.5, seed=5):
    return {"morphism": "widen", "node": node, "features": features, "form": form, "uneven": uneven, "seed": seed}


def candidates(graph):
    """Every change of this graph that can be written, whether it applies or not."""
    for node in graph.nodes:
        for size in (1, 2, 3, 4, 5):
            yield {"morphism": "deepen", "after": node.name, "kernel_size": size}
        for factor, form in itertools.product((2, 4), morphism.FORMS):
            yield widening(node.name, factor * (node.features or 4), form)
        for source in graph.nodes:
            for kind in ("concat", "blend"):
                yield {"morphism": kind, "node": node.name, "source": source.name}


def applicable(graph):
    for change in candidates(graph):
        try:
            morphism.grow(graph, change)
        except ValueError:
            continue
        yield change


def difference(graph, variables, grown, changed, x, **options):
    """The largest of all logits, as a share of the largest logit."""
    before = graph_oracle.logits(graph, variables, x, **options)
    after = graph_oracle.logits(grown, changed, x, **options)
    assert before.dtype == after.dtype == x.dtype
    return np.abs(after - before).max() / np.abs(before).max()


def shapes(tree):
    return {path: np.shape(leaf) for path, leaf in traverse_util.flatten_dict(tree).items()}


@pytest.mark.parametrize("name", GRAPHS)
def test_every_morphism_keeps_the_logits(name):
    """Of every node that it applies to; widening and skips in training as well."""
    graph, x = GRAPHS[name], image()
    variables, seen = weights(graph), set()
    narrow = jax.tree.map(np.float32, variables)
    for change in applicable(graph):
        grown, changed = morphism.apply(graph, variables, change)
        assert grown == morphism.grow(graph, change) != graph
        assert difference(graph, variables, grown, changed, x) < 1e-12, change
        _, changed_narrow = morphism.apply(graph, narrow, change)
        assert difference(graph, narrow, grown, changed_narrow, np.float32(x)) < 1e-5, change
        if change["morphism"] != "deepen":
            assert difference(graph, variables, grown, changed, x, train=True) < 1e-11, change
        seen.add((change["morphism"], change.get("form")))
    if "chain" not in name and "flat" not in name:
        assert len(seen) == 5, "each morphism, and both forms of widening"


@pytest.mark.parametrize("name", GRAPHS)
def test_what_applies_is_what_can_be(name):
    graph = GRAPHS[name]
    found = list(applicable(graph))
    deepened = {change["after"] for change in found if change["morphism"] == "deepen"}
    assert deepened == {node.name for node in graph.nodes if (name, node.name) not in NOT_DEEPENED}
    widened = {change["node"] for change in found if change["morphism"] == "widen"}
    convs = {node.name for node in graph.nodes if node.kind == "conv"}
    assert widened == convs - {node for other, node in NOT_WIDENED if other == name}


@pytest.mark.parametrize("name", GRAPHS)
def test_a_draw_is_one_of_those_that_apply(name):
    graph, rng = GRAPHS[name], np.random.default_rng(0)
    known = [{**change, "seed": 0} if "seed" in change else change for change in applicable(graph)]
    drawn = [morphism.draw(rng, graph, kernel_sizes=(1, 2, 3, 4, 5)) for _ in range(60)]
    assert all(({**change, "seed": 0} if "seed" in change else change) in known for change in drawn)


@pytest.mark.parametrize("name", ["chain", "several readers", "all kinds"])
def test_a_new_layer_is_the_identity_in_training_with_the_moments_of_the_batch(name):
    graph, x = GRAPHS[name], image()
    variables = weights(graph)
    maps = graph_oracle.maps(graph, variables, x, train=True)
    for change in applicable(graph):
        if change["morphism"] == "deepen":
            read = maps[change["after"]]
            moments = read.mean((0, 1, 2)), read.var((0, 1, 2))
            grown, changed = morphism.apply(graph, variables, change, moments=moments)
            assert difference(graph, variables, grown, changed, x, train=True) < 1e-11, change
            assert difference(graph, variables, grown, changed, x) < 1e-12, change


def test_without_a_batch_the_moments_are_those_of_a_normal_variable():
    """Of a rectified one: m P(m/s) + s p(m/s), and (m^2 + s^2) P(m/s) + m s p(m/s) of its square."""
    graph = chain((5, 5))
    variables = weights(graph)
    _, changed = morphism.apply(graph, variables, {"morphism": "deepen", "after": "max_pool1", "kernel_size": 3})
    norm = variables["params"]["conv1"]["norm"]
    stats = changed["batch_stats"]["conv3"]["norm"]
    for s, m, mean, var in zip(norm["scale"], norm["bias"], stats["mean"], stats["var"], strict=True):
        below, density = (
            (1 + math.erf(m / s / math.sqrt(2))) / 2,
            math.exp(-((m / s) ** 2) / 2) / math.sqrt(2 * math.pi),
        )
        assert mean == pytest.approx(m * below + s * density, abs=0.02 * s)
        assert var + mean**2 == pytest.approx((m * m + s * s) * below + m * s * density, abs=0.02 * s * s)


@pytest.mark.parametrize("seed", [pytest.param(n, marks=pytest.mark.slow if n > 3 else ()) for n in range(9)])
def test_ten_random_morphisms_keep_the_logits(seed):
    """One after the other, from a graph with everything in it; and cost what the library counts."""
    rng, graph = np.random.default_rng(seed), GRAPHS[list(GRAPHS)[seed]]
    variables, x = weights(graph, seed), image(seed)
    first, narrow = (graph, variables), jax.tree.map(np.float32, variables)
    narrow_first, narrow_graph = narrow, graph
    for _ in range(10):
        change = json.loads(json.dumps(morphism.draw(rng, graph, factors=(2, 3), kernel_sizes=(2, 3))))
        graph, variables = morphism.apply(graph, variables, change)
        narrow_graph, narrow = morphism.apply(narrow_graph, narrow, change)
    assert difference(*first, graph, variables, x) < 1e-12
    assert difference(first[0], narrow_first, graph, narrow, np.float32(x)) < 1e-5
    assert narrow_graph == graph and len(graph.nodes) > len(first[0].nodes)
    model, shape = GraphNet(NUM_CLASSES, graph), jax.ShapeDtypeStruct((1, *SHAPE), jnp.float32)
    assert shapes(narrow) == shapes(abstract_variables(model, shape, train=False))
    counted = count(model, (1, *SHAPE), train=False)
    assert (counted.params, counted.macs) == graph_oracle.cost(graph, SHAPE, NUM_CLASSES)
    assert counted.params == sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))


@pytest.mark.parametrize(
    ("seed", "name"),
    [
        (0, "several readers"),
        pytest.param(1, "all kinds", marks=pytest.mark.slow),
        pytest.param(2, "sums", marks=pytest.mark.slow),
    ],
)
def test_the_network_itself_keeps_its_logits(seed, name):
    """GraphNet, in float32, before and after ten."""
    graph, rng, x = GRAPHS[name], np.random.default_rng(seed), image(seed, np.float32)
    variables, results = weights(graph, seed, np.float32), []
    for number in range(11):
        if number in (0, 10):
            apply = functools.partial(GraphNet(NUM_CLASSES, graph).apply, train=False)
            results.append(np.asarray(quick_jit(apply)(variables, x)))
        graph, variables = morphism.apply(graph, variables, morphism.draw(rng, graph, factors=(2,)))
    np.testing.assert_allclose(results[1], results[0], rtol=0, atol=1e-5 * np.abs(results[0]).max())


def test_a_change_repeats_itself_and_leaves_its_input_alone():
    graph = GRAPHS["several readers"]
    variables = weights(graph)
    before = copy.deepcopy(variables)
    for change in applicable(graph):
        once, again = (morphism.apply(graph, variables, change) for _ in range(2))
        assert once[0] == again[0]
        jax.tree.map(np.testing.assert_array_equal, once[1], again[1])
        jax.tree.map(np.testing.assert_array_equal, variables, before)
    other = [morphism.apply(graph, variables, widening("a", 8, form, seed=s))[1] for form in ("copy", "zero")
             for s in (1, 2)]  # fmt: skip
    kernels = [one["params"]["a"]["conv"]["kernel"] for one in other]
    assert not np.array_equal(*kernels[:2]) and not np.array_equal(*kernels[2:]), "the seed chooses"


def test_what_a_morphism_does_not_touch_keeps_its_name_and_values():
    graph = GRAPHS["several readers"]
    variables = weights(graph)
    grown, changed = morphism.apply(graph, variables, {"morphism": "deepen", "after": "c", "kernel_size": 3})
    old, new = (traverse_util.flatten_dict(tree) for tree in (variables, changed))
    assert {path[1] for path in set(new) - set(old)} == {"conv1"} and not set(old) - set(new)
    assert all(np.array_equal(new[path], old[path]) for path in old)
    assert grown["e"].inputs == ("conv1", "d") and grown["conv1"].inputs == ("c",)


def test_copies_share_by_net2nets_formula():
    """g = [0..n-1, r], W1' = W1[..., g], W2' = (W2 / c)[:, :, g], c how often each is in g: the even form."""
    graph = chain((3, 4))
    variables = weights(graph)
    _, changed = morphism.apply(graph, variables, widening("conv1", 12, uneven=0.0))
    old, new = (
        {k: v["conv"]["kernel"] for k, v in tree["params"].items() if "conv" in v} for tree in (variables, changed)
    )
    g = [
        int(np.argmax([np.array_equal(new["conv1"][..., j], old["conv1"][..., i]) for i in range(3)]))
        for j in range(12)
    ]
    assert g[:3] == [0, 1, 2]
    np.testing.assert_array_equal(new["conv1"], old["conv1"][..., g])
    np.testing.assert_allclose(new["conv2"], (old["conv2"] / np.bincount(g)[None, None, :, None])[:, :, g], rtol=1e-15)
    for collection, leaf in (("params", "scale"), ("params", "bias"), ("batch_stats", "mean"), ("batch_stats", "var")):
        values = variables[collection]["conv1"]["norm"][leaf]
        np.testing.assert_array_equal(changed[collection]["conv1"]["norm"][leaf], values[g], err_msg=leaf)


def test_nashs_widening_reads_new_filters_with_zeros():
    graph = chain((3, 4))
    variables = weights(graph)
    _, changed = morphism.apply(graph, variables, widening("conv1", 12, "zero"))
    new = changed["params"]["conv2"]["conv"]["kernel"]
    np.testing.assert_array_equal(new[:, :, :3], variables["params"]["conv2"]["conv"]["kernel"])
    assert not new[:, :, 3:].any()
    fresh = changed["params"]["conv1"]["conv"]["kernel"][..., 3:]
    assert len(np.unique(fresh)) == fresh.size
    assert fresh.std() == pytest.approx(math.sqrt(2 / (9 * 2)), rel=0.25), "N(0, 2 / fan-in)"


def train(graph, variables, num_steps=2, rate=0.1):
    """The gradient at each step of gradient descent, in float64, and the parameters at the end."""
    x = image(1)
    target = np.random.default_rng(2).standard_normal((len(x), NUM_CLASSES))
    model = GraphNet(NUM_CLASSES, graph)

    @quick_jit
    def gradient(params):
        def loss(params):
            out, _ = model.apply({**variables, "params": params}, x, train=True, mutable=["batch_stats"])
            return jnp.mean((out - target) ** 2)

        return jax.grad(loss)(params)

    params, grads = variables["params"], []
    for _ in range(num_steps):
        grads.append(jax.device_get(gradient(params)))
        params = jax.tree.map(lambda p, g: p - rate * g, params, grads[-1])
    return grads, params


def test_a_gradient_reaches_every_new_weight_within_two_steps(x64):
    """New filters that are read with zeros have none until the zeros have moved."""
    graph = chain((3, 3))
    variables = weights(graph)
    for change in (
        {"morphism": "deepen", "after": "conv2", "kernel_size": 3},  # makes conv3
        {"morphism": "concat", "node": "conv3", "source": "max_pool1"},
        {"morphism": "blend", "node": "conv3", "source": "conv2"},
        widening("conv1", 5, "zero"),
    ):
        graph, variables = morphism.apply(graph, variables, change)
    grads, _ = train(graph, variables)
    first, second = (jax.tree.map(np.abs, step) for step in grads)
    assert all((leaf > 0).any() for leaf in jax.tree.leaves((first["conv3"], first["blend1"])))
    for name in ("conv2", "conv3"):  # what reads the new channels, and with the concatenation more
        assert (first[name]["conv"]["kernel"] > 0).any((0, 1, 3)).all()
    assert not first["conv1"]["conv"]["kernel"][..., 3:].any()
    assert (second["conv1"]["conv"]["kernel"][..., 3:] > 0).all()
    assert all((leaf > 0).any() for leaf in jax.tree.leaves(second))


def test_copies_that_share_evenly_stay_copies(x64):
    """Their gradients are equal; in uneven parts they are not, and they learn apart."""
    graph, spread = chain((2, 3)), {}
    for uneven in (0.0, 0.5):
        grown, variables = morphism.apply(graph, weights(graph), widening("conv1", 6, uneven=uneven))
        _, params = train(grown, variables)
        kernel, before = params["conv1"]["conv"]["kernel"], variables["params"]["conv1"]["conv"]["kernel"]
        pairs = [
            (i, j) for i, j in itertools.combinations(range(6), 2) if np.array_equal(before[..., i], before[..., j])
        ]
        assert len(pairs) >= 4
        spread[uneven] = [np.abs(kernel[..., i] - kernel[..., j]).max() for i, j in pairs]
    assert max(spread[0.0]) < 1e-12 and min(spread[0.5]) > 1e-4


@pytest.mark.parametrize("act", [nn.swish, jnp.tanh, nn.gelu])
def test_an_activation_that_changes_when_repeated_is_not_deepened(act):
    graph, rng = GRAPHS["several readers"], np.random.default_rng(0)
    with pytest.raises(ValueError, match="must be the same when it is applied twice, as relu"):
        morphism.apply(graph, weights(graph), {"morphism": "deepen", "after": "a", "kernel_size": 3}, act=act)
    drawn = [morphism.draw(rng, graph, act=act)["morphism"] for _ in range(60)]
    assert set(drawn) == {"widen", "concat", "blend"}
    kept = [morphism.draw(rng, graph, act=nn.relu6)["morphism"] for _ in range(60)]
    assert "deepen" in kept


def test_with_another_activation_the_rest_is_exact_and_deepening_would_not_be():
    """Swish of swish differs from it by up to max y sigmoid(-y) = W(1 / e) = 0.2785."""
    graph, x = GRAPHS["several readers"], image()
    variables = weights(graph)
    for change in applicable(graph):
        if change["morphism"] != "deepen":
            grown, changed = morphism.apply(graph, variables, change, act=jnp.tanh)
            assert difference(graph, variables, grown, changed, x, act=np.tanh) < 1e-12, change
    grown, changed = morphism.apply(graph, variables, {"morphism": "deepen", "after": "a", "kernel_size": 3})
    assert difference(graph, variables, grown, changed, x, act=np.tanh) > 1e-2
    y = np.linspace(-12, 12, 24001)
    once = y / (1 + np.exp(-y))
    assert np.abs(once / (1 + np.exp(-once)) - once).max() == pytest.approx(0.27846, abs=1e-4)


def test_draws_are_uniform_over_kinds_and_then_over_changes():
    """A chain of two: 3 nodes and 2 sizes to deepen, 2 nodes, 2 factors and 2 forms to widen, nothing to skip."""
    rng, graph = np.random.default_rng(0), chain((2, 3))
    drawn = [morphism.draw(rng, graph) for _ in range(1000)]
    counts = {}
    for change in drawn:
        key = json.dumps({**change, "seed": 0} if "seed" in change else change)
        counts[key] = counts.get(key, 0) + 1
    for kind, number in (("deepen", 6), ("widen", 8)):
        found = [count for key, count in counts.items() if kind in key]
        assert len(found) == number
        expected = 500 / number
        assert sum((count - expected) ** 2 / expected for count in found) < 3 * number + 10
        assert sum(found) == pytest.approx(500, abs=4 * math.sqrt(250))


def test_options_of_a_draw_show():
    rng, graph = np.random.default_rng(0), chain((2, 3, 3))
    drawn = [
        morphism.draw(rng, graph, kernel_sizes=(4,), factors=(3,), forms=("zero",), uneven=0.25) for _ in range(60)
    ]
    assert {change["kernel_size"] for change in drawn if "kernel_size" in change} == {4}
    widened = [change for change in drawn if change["morphism"] == "widen"]
    assert {(change["features"], change["form"], change["uneven"]) for change in widened} == {
        (6, "zero", 0.25),
        (9, "zero", 0.25),
    }
    assert len({change["seed"] for change in widened}) == len(widened)


def test_what_is_not_accepted_is_drawn_again():
    rng, graph = np.random.default_rng(0), chain((2, 3))
    small = [morphism.draw(rng, graph, accept=lambda grown: len(grown.nodes) > 3) for _ in range(40)]
    assert {change["morphism"] for change in small} == {"deepen"}
    assert morphism.draw(rng, graph, accept=lambda grown: False) is None


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"morphism": "widden"}, "morphism: unknown name 'widden'; did you mean 'widen'"),
        ({"morphism": "deepen", "after": "a"}, "must have the fields after, kernel_size, morphism"),
        ({"morphism": "deepen", "after": "x", "kernel_size": 3}, "Graph: node: unknown name 'x'"),
        ({"morphism": "deepen", "after": "d", "kernel_size": 3}, "deepen: d must be an activation's output"),
        ({"morphism": "deepen", "after": "a", "kernel_size": 0}, "kernel_size=0 of conv1 must be a number from 1"),
        (widening("p", 8), "node=p must be a conv, not max_pool"),
        (widening("a", 4), "features=4 of a must be more than the 4 that it has"),
        (widening("a", 8, "half"), "widen: form: unknown name 'half'"),
        (widening("a", 8, uneven=1.0), r"uneven=1.0 must be in \[0, 1\)"),
        ({"morphism": "concat", "node": "c", "source": "e"}, "source=e must be another node before c"),
        ({"morphism": "concat", "node": "c", "source": "p"}, "source=p must be another node before c"),
        ({"morphism": "concat", "node": "a", "source": "a"}, "source=a must be another node before a"),
        ({"morphism": "concat", "node": "d", "source": "a"}, "concat: node=d must be a conv, not add|strides"),
        ({"morphism": "concat", "node": "c", "source": "a"}, r"has strides \[2, 1\], which must be equal for concat"),
        ({"morphism": "blend", "node": "c", "source": "a"}, r"has strides \[2, 1\], which must be equal for blend"),
    ],
)
def test_what_would_not_keep_the_function_is_one_line(change, words):
    graph = GRAPHS["sums"]
    for call in (lambda: morphism.grow(graph, change), lambda: morphism.apply(graph, weights(graph), change)):
        with pytest.raises(ValueError, match=words) as error:
            call()
        assert "\n" not in str(error.value)


def test_a_sum_with_a_concatenation_that_cannot_follow_is_refused():
    with pytest.raises(ValueError, match="widen: d must not be widened, for c would have other channels"):
        morphism.grow(GRAPHS["a sum with a concatenation"], widening("d", 12))


def test_networks_with_other_norms_are_refused():
    graph = chain((3, 4))
    variables = weights(graph)
    del variables["batch_stats"]["conv1"]["norm"]["var"]
    with pytest.raises(
        ValueError, match=r"conv1 must have a convolution's kernel and a batch norm's .* batch_stats/norm/var"
    ):
        morphism.apply(graph, variables, widening("conv1", 6))
