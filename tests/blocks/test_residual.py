import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import traverse_util

from arch import norm
from arch.blocks.inverted_residual import InvertedResidual
from arch.blocks.residual import BasicUnit, BottleneckUnit, check_stages, residual_stages, zero_pad_shortcut
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


def _basic(**fields):
    return BasicUnit(**{"zero_init_residual": True, **fields}, **_PARTS)


def test_a_basic_unit_that_starts_at_zero_is_its_shortcut():
    """Of the three kinds; that of zeros keeps every other pixel and appends channels, as in fb.resnet.torch."""
    padded = _basic(features=12, strides=2, shortcut="zero_pad")
    same, plain = _basic(features=8, strides=1), _basic(features=8, strides=1, shortcut="none")
    init = quick_jit(lambda key: [unit.init_with_output(key, _x())[0] for unit in (same, padded, plain)])
    out, smaller, nothing = jax.device_get(init(jax.random.key(1)))
    np.testing.assert_array_equal(out, np.maximum(_x(), 0))
    np.testing.assert_array_equal(smaller[..., :8], np.maximum(_x()[:, ::2, ::2], 0))
    assert not smaller[..., 8:].any() and not nothing.any()
    assert _paths(padded, _x()) == _paths(plain, _x()) == {"conv1", "norm1", "conv2", "norm2"}


def test_zeros_stand_behind_the_channels():
    x = np.arange(2 * 3 * 3 * 2, dtype=np.float32).reshape(2, 3, 3, 2)
    out = np.asarray(zero_pad_shortcut(x, 5, 2))
    np.testing.assert_array_equal(out, np.concatenate([x[:, ::2, ::2], np.zeros((2, 2, 2, 3))], -1))


def test_the_first_unit_of_a_stage_has_its_stride_and_the_last_map_of_a_stride_is_kept():
    made = []

    def unit(stage, *, strides, name):
        made.append((stage, strides, name))
        return lambda x: x[:, ::strides, ::strides] + 1

    maps = residual_stages(jnp.zeros((1, 8, 8, 1)), stride=4, stage_sizes=(1, 2, 1), stage_strides=(1, 2, 1), unit=unit)
    assert made == [
        (0, 1, "stage1_unit1"),
        (1, 2, "stage2_unit1"),
        (1, 1, "stage2_unit2"),
        (2, 1, "stage3_unit1"),
    ]
    assert {stride: (leaf.shape[1], float(leaf[0, 0, 0, 0])) for stride, leaf in maps.items()} == {4: (8, 1), 8: (4, 4)}


def test_wide_projections_stand_only_where_there_is_a_stride():
    kernels = {
        (strides, unit): jax.eval_shape(
            made(features=12, strides=strides, shortcut_kernel_size=3).init, jax.random.key(0), _x()
        )["params"]["shortcut_conv"]["kernel"].shape
        for strides in (1, 2)
        for unit, made in (("basic", _basic), ("bottleneck", _bottleneck))
    }
    assert kernels == {
        (strides, unit): (size, size, 8, 12) for strides, size in ((1, 1), (2, 3)) for unit in ("basic", "bottleneck")
    }


def test_a_first_convolution_of_its_own_width():
    variables = jax.eval_shape(_bottleneck(features=8, strides=1, reduced_features=6).init, jax.random.key(0), _x())
    shapes = {name: layer["kernel"].shape for name, layer in variables["params"].items() if "kernel" in layer}
    assert shapes == {"conv1": (1, 1, 8, 6), "conv2": (3, 3, 3, 4), "conv3": (1, 1, 4, 8)}


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


@pytest.mark.parametrize(
    "sizes,fields,message",
    [
        ((1, 0), {}, r"Net: stage_sizes=\(1, 0\) must be at least 1 each; leave out stages without units"),
        (2, {}, "Net: stage_sizes=2 must be a sequence, one value a stage; give a tuple"),
        ((1, 2), {"units": "ab"}, "Net: units='ab' must be a sequence, one value a stage; give a tuple"),
        ((1, 2), {"widths": 8}, "Net: widths=8 must be a sequence, one value a stage; give a tuple"),
        ((1, 2), {"widths": [8]}, r"Net: widths=\(8,\) must be one for each of stage_sizes=\(1, 2\); change either"),
    ],
)
def test_stages_that_do_not_fit_are_refused(sizes, fields, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        check_stages("Net", sizes, **fields)


def test_a_field_that_is_none_and_no_stages_are_fine():
    check_stages("Net", (1, 2), widths=None)
    check_stages("Net", (), widths=[])
