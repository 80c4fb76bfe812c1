"""Graphs: what they compute, in NumPy; that they are data; and what is refused."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from arch import models
from arch.efficiency.complexity import abstract_variables, count
from arch.models.classification.graph_net import GraphNet
from arch.models.graphs import NASH, Graph, Node, chain, from_json, resolve
from configs import cli, graph_net
from tests.compiling import quick_jit
from tests.models import graph_oracle
from tests.models.checks import check_examples_reach_norms_and_dropout, random_variables
from tests.models.families.graph_net import CASES

ALL_KINDS = resolve(CASES[1].fields["graph"])


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("size", [7, pytest.param(8, marks=pytest.mark.slow)])
def test_the_network_is_what_its_graph_says(x64, train, size):
    """Every kind of node, a kernel of even size, and a size that is odd where it is pooled."""
    x = np.random.default_rng(0).standard_normal((3, size, size, 3))
    model = GraphNet(5, ALL_KINDS)
    variables = random_variables(model, x)
    run = quick_jit(lambda variables: model.apply(variables, x, train=train, mutable=["batch_stats"])[0])
    expected = graph_oracle.logits(ALL_KINDS, variables, x, train=train)
    np.testing.assert_allclose(run(variables), expected, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("head", ["mean", "flatten"])
def test_its_cost_is_that_of_its_nodes(head):
    graph = dataclasses.replace(ALL_KINDS, head=head)
    cost = count(GraphNet(5, graph), (1, 9, 8, 2), train=False)
    assert (cost.params, cost.macs) == graph_oracle.cost(graph, (9, 8, 2), 5)
    assert cost.other_macs == 0


def test_channels_strides_and_ties():
    assert ALL_KINDS.channels["concat1"] == 8 and ALL_KINDS.channels["depthwise1"] == 4
    assert ALL_KINDS.strides["conv4"] == 2 and ALL_KINDS.strides["add1"] == 1
    tied = {"conv1", "depthwise1", "conv2", "add1", "max_pool1", "blend1", "conv3"}
    assert {ALL_KINDS.tied(name) for name in tied} == {frozenset(tied)}
    assert ALL_KINDS.tied("concat1") == {"concat1"} and ALL_KINDS.tied("conv4") == {"conv4"}


def test_a_layers_parameters_lie_under_its_name():
    """So a graph with one node more has the others' where they were."""
    x = jax.ShapeDtypeStruct((1, 8, 8, 3), jnp.float32)
    variables = abstract_variables(GraphNet(5, ALL_KINDS), x, train=False)
    layers = {node.name for node in ALL_KINDS.nodes if node.kind in ("conv", "depthwise")}
    assert set(variables["params"]) == layers | {"blend1", "classifier"}
    assert set(variables["batch_stats"]) == layers
    assert set(variables["params"]["conv1"]) == {"conv", "norm"} and set(variables["params"]["blend1"]) == {"weight"}


@pytest.mark.slow
def test_weights_and_ids_of_examples_reach_the_layers():
    check_examples_reach_norms_and_dropout(GraphNet(5, chain((4, 4)), dropout_rate=0.5))


@pytest.mark.parametrize("graph", [NASH, ALL_KINDS])
def test_json_text_and_flags_give_the_graph_again(graph):
    assert from_json(json.loads(json.dumps(graph.to_json()))) == graph
    assert resolve(graph.to_text()) == graph and hash(resolve(graph.to_text())) == hash(graph)
    for recipe in (graph_net.get_config(""), graph_net.get_config("imagenet")):
        text = graph.to_text()
        with recipe.unlocked():  # as a flag sets a field of the recipe, and one that it does not have
            recipe.model.fields.graph = text if "graph" in recipe.model.fields else cli.literal(text)
        assert resolve(models.from_config(recipe.model, num_classes=10).graph) == graph


def test_a_chain_is_written_as_its_channels():
    assert resolve("64,128, 256") == NASH == resolve(NASH)
    kinds = [node.kind for node in NASH.nodes]
    assert kinds == ["conv", "max_pool", "conv", "max_pool", "conv"], "section 4 of arXiv:1711.04528"
    assert chain((2, 2), kernel_size=5, head="flatten").nodes[0] == Node("conv1", "conv", "image", 2, 5)


C1 = Node("a", "conv", "image", 4, 3)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Node("A", "conv", "image", 4, 3), "Node: name='A' must be lower case"),
        (lambda: Node("classifier", "conv", "image", 4, 3), "none of image, classifier"),
        (lambda: Node("a", "convolution", "image", 4, 3), "Node: kind: unknown name 'convolution'; did you mean"),
        (lambda: Node("a", "add", ("b",)), "a has 1 inputs; add must have 2 or more"),
        (lambda: Node("a", "blend", ("b", "c", "d")), "a has 3 inputs; blend must have 2"),
        (lambda: Node("a", "conv", "image", 0, 3), "features=0 of a must be a number from 1"),
        (lambda: Node("a", "depthwise", "b", 4, 3), "features=4 of a must be left out, for depthwise"),
        (lambda: Graph(()), "must have a node"),
        (lambda: Graph((C1,), "max"), "Graph: head: unknown name 'max'"),
        (lambda: Graph((C1, C1)), "the name 'a' must be of one node alone"),
        (lambda: Graph((Node("b", "conv", "c", 4, 3),)), "b must read earlier nodes or image: unknown name 'c'"),
        (lambda: Graph((Node("b", "max_pool", "image"),)), "b, of kind max_pool, reads the image"),
        (lambda: Graph((C1, Node("b", "conv", "image", 4, 3))), "a must be read by a node"),
        (
            lambda: Graph((C1, Node("b", "conv", "a", 6, 3), Node("c", "add", ("a", "b")))),
            r"what c reads has channels \[4, 6\], which must be equal for add",
        ),
        (
            lambda: Graph((C1, Node("b", "max_pool", "a"), Node("c", "concat", ("a", "b")))),
            r"what c reads has strides \[1, 2\], which must be equal for concat",
        ),
        (lambda: NASH["conv9"], "Graph: node: unknown name 'conv9'; did you mean"),
        (lambda: resolve("16;32"), "the text is no JSON"),
        (lambda: resolve('{"head": "mean"}'), "graph must have the key 'nodes'"),
        (lambda: resolve('{"nodes": [{"name": "a", "type": "conv"}]}'), r"keys of nodes\[0\]: unknown name 'type'"),
        (lambda: resolve('{"nodes": "conv"}'), "nodes='conv' must be a list"),
    ],
)
def test_what_is_no_graph_is_one_line(make, words):
    with pytest.raises(ValueError, match=words) as error:
        make()
    assert "\n" not in str(error.value)


def test_images_that_pooling_leaves_nothing_of_are_refused():
    with pytest.raises(ValueError, match=r"GraphNet: height=3 and width=8 must be at least 4"):
        abstract_variables(GraphNet(5, "4,4,4"), jax.ShapeDtypeStruct((1, 3, 8, 3), jnp.float32), train=False)
