import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import traverse_util

from arch import norm
from arch.blocks.inverted_residual import InvertedResidual
from arch.blocks.residual import BottleneckUnit
from arch.ops.conv import Conv
from tests.compiling import quick_jit

_PARTS = {
    "conv": functools.partial(Conv, use_bias=False),
    "norm": norm.bind(norm.create("batch_norm"), train=False),
    "act": nn.relu,
}


def _x(channels=8):
    return np.random.default_rng(0).standard_normal((2, 6, 6, channels), np.float32)


def _bottleneck(**fields):
    return BottleneckUnit(**{"bottleneck_features": 4, "groups": 2, "zero_init_residual": True, **fields}, **_PARTS)


def test_a_bottleneck_that_starts_at_zero_is_its_shortcut():
    same, smaller = _bottleneck(features=8, strides=1), _bottleneck(features=8, strides=2)
    init = quick_jit(lambda key: (same.init_with_output(key, _x())[0], *smaller.init_with_output(key, _x())))
    out, smaller_out, variables = jax.device_get(init(jax.random.key(1)))
    np.testing.assert_array_equal(out, np.maximum(_x(), 0))

    kernel = variables["params"]["shortcut_conv"]["kernel"][0, 0]
    # Running statistics start at mean 0, variance 1.
    expected = np.einsum("bhwi,io->bhwo", _x()[:, ::2, ::2], kernel) / np.sqrt(1 + 1e-5)
    np.testing.assert_allclose(smaller_out, np.maximum(expected, 0), atol=1e-5)


def _paths(unit, x):
    variables = jax.eval_shape(unit.init, jax.random.key(0), x)
    return {path[0] for path in traverse_util.flatten_dict(variables["params"])}


def test_only_a_change_of_shape_projects_the_shortcut():
    projection = {"shortcut_conv", "shortcut_norm"}
    assert not projection & _paths(_bottleneck(features=8, strides=1), _x())
    assert projection <= _paths(_bottleneck(features=12, strides=1), _x())
    assert projection <= _paths(_bottleneck(features=8, strides=2), _x())


def _inverted(**fields):
    return InvertedResidual(**{"expand_ratio": 2, **fields}, **_PARTS)


def _silent(unit, key, x):
    """The output of a unit of which the last convolution puts out zeros."""
    variables = unit.init(key, x)
    project = jax.tree.map(jnp.zeros_like, variables["params"]["project"])
    return unit.apply({**variables, "params": variables["params"] | {"project": project}}, x)


def test_an_inverted_residual_adds_its_input_at_stride_one_where_the_channels_stay():
    unit, x = _inverted(features=8, strides=1), _x()
    wider, smaller = _inverted(features=12, strides=1), _inverted(features=8, strides=2)

    @quick_jit
    def run(key):
        # A map of one pixel keeps its shape at any stride.
        branches = _silent(unit, key, x), _silent(wider, key, x), _silent(smaller, key, x[:, :1, :1])
        return unit.init_with_output(key, x)[0], branches

    out, (with_input, *without_input) = jax.device_get(run(jax.random.key(1)))
    np.testing.assert_array_equal(with_input, x)
    assert not any(branch.any() for branch in without_input)
    # No activation follows the sum, nor the branch alone.
    assert (out < 0).any() and ((out - x) < 0).any()


def test_expansion_multiplies_the_input_channels_and_is_left_out_at_one():
    layers = {"expand", "expand_norm", "depthwise", "depthwise_norm", "project", "project_norm"}
    assert _paths(_inverted(features=8, strides=1), _x()) == layers
    assert _paths(_inverted(features=8, strides=1, expand_ratio=1), _x()) == layers - {"expand", "expand_norm"}
    variables = jax.eval_shape(_inverted(features=10, strides=1, expand_ratio=1.5).init, jax.random.key(0), _x())
    shapes = {name: layer["kernel"].shape for name, layer in variables["params"].items() if "kernel" in layer}
    assert shapes == {"expand": (1, 1, 8, 12), "depthwise": (3, 3, 1, 12), "project": (1, 1, 12, 10)}
