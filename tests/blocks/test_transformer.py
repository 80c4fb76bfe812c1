"""The Transformer's encoder layer against torch's, recorded in tests/goldens, and the encoding of positions."""

import functools
import math
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import traverse_util

from arch.blocks.transformer import TransformerLayer, sinusoidal_positions
from arch.efficiency.complexity import count
from arch.norm import bind
from arch.norm.layer import LayerNorm
from arch.ops.stochastic import Dropout
from tests.compiling import quick_jit

GOLDEN = np.load(pathlib.Path(__file__).parents[1] / "goldens" / "transformer_layer.npz")
HEADS, FEATURES, MLP_FEATURES = 2, 8, 12
NORM = bind(functools.partial(LayerNorm, reading="c"), train=False)


def layer(pre_norm=True, dropout_rate=0.0, mlp_features=MLP_FEATURES, num_heads=HEADS):
    drop = bind(functools.partial(Dropout, dropout_rate), train=True)
    return TransformerLayer(
        num_heads=num_heads, mlp_features=mlp_features, pre_norm=pre_norm, norm=NORM, act=nn.relu, drop=drop
    )


def from_torch(name, group):
    """Parameters, or their gradients, of a recorded layer."""
    torch = {key.split("/")[2]: GOLDEN[key] for key in GOLDEN.files if key.startswith(f"{name}/{group}/")}
    params = {}
    for part, kernel, bias in zip(
        ("query", "key", "value"),
        np.split(torch["self_attn.in_proj_weight"], 3),
        np.split(torch["self_attn.in_proj_bias"], 3),
        strict=True,
    ):
        params["attention", part, "kernel"] = kernel.T.reshape(FEATURES, HEADS, -1)
        params["attention", part, "bias"] = bias.reshape(HEADS, -1)
    params["attention", "out", "kernel"] = torch["self_attn.out_proj.weight"].T.reshape(HEADS, -1, FEATURES)
    params["attention", "out", "bias"] = torch["self_attn.out_proj.bias"]
    for ours, theirs in (("hidden", "linear1"), ("out", "linear2")):
        params[ours, "kernel"], params[ours, "bias"] = torch[f"{theirs}.weight"].T, torch[f"{theirs}.bias"]
    for ours in ("norm1", "norm2"):
        params[ours, "scale"], params[ours, "bias"] = torch[f"{ours}.weight"], torch[f"{ours}.bias"]
    return traverse_util.unflatten_dict(params)


@pytest.mark.parametrize("name", ["pre", "post"])
def test_parity_with_torch(x64, name):
    """Output, and gradients of the input and of every parameter."""
    module, params, x = layer(name == "pre"), from_torch(name, "params"), GOLDEN[f"{name}/x"]

    @quick_jit
    def run(params, x):
        out, pull_back = jax.vjp(lambda params, x: module.apply({"params": params}, x), params, x)
        return out, *pull_back(jnp.sin(jnp.arange(out.size, dtype=out.dtype)).reshape(out.shape))

    out, of_params, of_x = jax.device_get(run(params, x))
    np.testing.assert_allclose(out, GOLDEN[f"{name}/out"], rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(of_x, GOLDEN[f"{name}/grad"], rtol=1e-8, atol=1e-11)
    expected = from_torch(name, "grads")
    jax.tree.map(
        lambda ours, theirs: np.testing.assert_allclose(ours, theirs, rtol=1e-8, atol=1e-11), of_params, expected
    )


def test_permuted_tokens_permute_the_output(x64):
    params, x = from_torch("pre", "params"), GOLDEN["pre/x"]
    order = np.array([3, 0, 4, 1, 2])
    run = quick_jit(lambda x: layer().apply({"params": params}, x))
    np.testing.assert_allclose(run(x[:, order]), run(x)[:, order], rtol=1e-10)


def test_with_zeros_behind_the_branches_it_is_the_identity(x64):
    """Before which it normalizes; else two normalizations are left."""
    params, x = from_torch("pre", "params"), GOLDEN["pre/x"]
    params["attention"]["out"] = jax.tree.map(np.zeros_like, params["attention"]["out"])
    params["out"] = jax.tree.map(np.zeros_like, params["out"])
    pre, post = quick_jit(lambda params, x: [layer(kind).apply({"params": params}, x) for kind in (True, False)])(
        params, x
    )
    np.testing.assert_array_equal(pre, x)
    expected = x
    for name in ("norm1", "norm2"):
        centred = expected - expected.mean(-1, keepdims=True)
        expected = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5)
        expected = expected * params[name]["scale"] + params[name]["bias"]
    np.testing.assert_allclose(post, expected, rtol=1e-9, atol=1e-12)


def test_dropout_follows_each_branch(x64):
    """At rate 1 both branches are gone."""
    params, x = from_torch("pre", "params"), GOLDEN["pre/x"]
    apply = quick_jit(
        lambda params, x: layer(dropout_rate=1.0).apply({"params": params}, x, rngs={"dropout": jax.random.key(0)})
    )
    np.testing.assert_array_equal(apply(params, x), x)


def test_parameters_and_macs_are_those_of_the_base_model():
    """Attention of 1,050,624 parameters with biases, and hidden layers of 2048 features."""
    tokens, features, hidden = 7, 512, 2048
    cost = count(layer(mlp_features=hidden, num_heads=8), (1, tokens, features))
    assert cost.params == 1_050_624 + 2 * features * hidden + hidden + features + 2 * 2 * features
    assert cost.macs == 4 * tokens * features**2 + 2 * tokens * features * hidden
    assert cost.other_macs == 2 * tokens**2 * features


def test_positions_against_the_papers_formula():
    height, width, features = 3, 5, 12
    half = features // 2
    expected = np.empty((height, width, features))
    for row, column, feature in np.ndindex(expected.shape):
        place, feature_of_axis = (row, feature) if feature < half else (column, feature - half)
        pair, odd = divmod(feature_of_axis, 2)
        angle = place / 10000 ** (2 * pair / half)
        expected[row, column, feature] = math.cos(angle) if odd else math.sin(angle)
    np.testing.assert_allclose(sinusoidal_positions(height, width, features), expected, atol=1e-6)


def test_no_two_positions_are_alike():
    encoded = np.asarray(sinusoidal_positions(14, 14, 16)).reshape(14 * 14, 16)
    distances = np.linalg.norm(encoded[:, None] - encoded[None], axis=-1)
    assert distances[~np.eye(14 * 14, dtype=bool)].min() > 0.1


@pytest.mark.parametrize("features,nearest", [(0, 4), (6, 8), (7, 8)])
def test_features_that_do_not_fit_are_refused(features, nearest):
    message = f"^sinusoidal_positions: features={features} must be a multiple of 4, .*; take {nearest}$"
    with pytest.raises(ValueError, match=message):
        sinusoidal_positions(2, 2, features)
