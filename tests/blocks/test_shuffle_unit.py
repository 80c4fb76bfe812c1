import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from arch import norm
from arch.blocks.shuffle import ShuffleUnitV1, ShuffleUnitV2
from arch.ops.channel import channel_shuffle
from arch.ops.conv import Conv
from tests.compiling import quick_jit


def _unit(**fields):
    bound = norm.bind(norm.create("batch_norm"), train=False)
    return ShuffleUnitV2(conv=functools.partial(Conv, use_bias=False), norm=bound, act=nn.relu, **fields)


def _unit_v1(**fields):
    bound = norm.bind(norm.create("batch_norm"), train=False)
    fields = {"bottleneck_features": 6, "groups": 3, "shuffle": "paper"} | fields
    return ShuffleUnitV1(conv=functools.partial(Conv, use_bias=False), norm=bound, act=nn.relu, **fields)


def _x(channels=8):
    return jax.random.normal(jax.random.key(0), (2, 6, 6, channels))


def test_shuffle_before_lets_even_channels_pass():
    unit = _unit(features=8, strides=1, shuffle="before")
    out, _ = jax.jit(unit.init_with_output)(jax.random.key(1), _x())
    np.testing.assert_array_equal(out[..., :4], _x()[..., 0::2])


def test_shuffle_after_lets_the_first_half_pass_to_even_channels():
    unit = _unit(features=8, strides=1, shuffle="after")
    out, _ = jax.jit(unit.init_with_output)(jax.random.key(1), _x())
    np.testing.assert_array_equal(out[..., 0::2], _x()[..., :4])


def test_a_stride_two_unit_has_two_branches_of_the_asked_width():
    variables = jax.eval_shape(
        _unit(features=20, strides=2, shuffle="before", shortcut_features=8).init, jax.random.key(0), _x()
    )
    shapes = {name: layer["kernel"].shape for name, layer in variables["params"].items() if "kernel" in layer}
    assert shapes == {
        "shortcut_depthwise": (3, 3, 1, 8),
        "shortcut_pointwise": (1, 1, 8, 8),
        "branch_reduce": (1, 1, 8, 10),
        "branch_depthwise": (3, 3, 1, 10),
        "branch_expand": (1, 1, 10, 12),
    }
    unit = _unit(features=20, strides=2, shuffle="after")
    out, _ = jax.eval_shape(unit.init_with_output, jax.random.key(0), _x())
    assert out.shape == (2, 3, 3, 20)


def test_no_activation_follows_a_depthwise_convolution():
    calls = []

    def act(x):
        calls.append(x.shape[-1])
        return x

    bound = norm.bind(norm.create("batch_norm"), train=False)
    unit = ShuffleUnitV2(20, 2, "after", functools.partial(Conv, use_bias=False), bound, act, shortcut_features=8)
    jax.eval_shape(unit.init, jax.random.key(0), _x())
    assert calls == [8, 10, 12]


def test_a_star_unit_sees_its_full_size_first():
    """The depthwise convolution in front has stride 1; no activation follows it."""
    unit = _unit(features=20, strides=2, shuffle="before", shortcut_features=8, branch="star")
    variables = jax.eval_shape(unit.init, jax.random.key(0), _x())
    _, state = jax.eval_shape(
        lambda v, x: unit.apply(v, x, capture_intermediates=True, mutable=["intermediates"]), variables, _x()
    )
    layers = {name: layer for name, layer in state["intermediates"].items() if name != "__call__"}
    maps = {name: layer["__call__"][0].shape for name, layer in layers.items()}
    assert maps["branch_first_depthwise"] == (2, 6, 6, 8)
    assert maps["branch_reduce"] == (2, 6, 6, 10)
    assert maps["branch_depthwise"] == (2, 3, 3, 10)


def test_the_kernel_size_is_that_of_the_depthwise_convolutions():
    unit = _unit(features=20, strides=2, shuffle="before", shortcut_features=8, branch="xception", kernel_size=5)
    out, variables = jax.eval_shape(unit.init_with_output, jax.random.key(0), _x())
    taps = {name: layer["kernel"].shape[0] for name, layer in variables["params"].items() if "kernel" in layer}
    assert out.shape == (2, 3, 3, 20)
    assert {name: 5 if "depthwise" in name else 1 for name in taps} == taps
    assert len(taps) == 2 + 6


def test_a_residual_unit_adds_what_its_branch_sees():
    """Behind a gate that closes, it is the activation of the branch's input, the second half."""

    def closed(name):
        return jnp.zeros_like

    unit = _unit(features=8, strides=1, shuffle="after", residual=True, gate=closed)
    out, _ = quick_jit(unit.init_with_output)(jax.random.key(1), _x())
    np.testing.assert_array_equal(out[..., 1::2], nn.relu(_x()[..., 4:]))
    out, _ = quick_jit(unit.clone(residual=False).init_with_output)(jax.random.key(1), _x())
    assert not out[..., 1::2].any()
    # Where the input is not split there is nothing of that shape to add.
    out, _ = quick_jit(unit.clone(split=False).init_with_output)(jax.random.key(1), _x())
    assert not out[..., 1::2].any()


def test_a_v1_unit_adds_its_input_or_joins_its_mean():
    """With all parameters at zero its branch is zero; the mean is over 3x3 pixels, of which padding counts."""
    x = _x(6)
    unit = _unit_v1(features=6, strides=1)
    zero = functools.partial(jax.tree.map, jnp.zeros_like)
    variables = zero(quick_jit(unit.init)(jax.random.key(1), x))
    np.testing.assert_array_equal(quick_jit(unit.apply)(variables, x), nn.relu(x))
    unit = _unit_v1(features=12, strides=2)
    out = quick_jit(unit.apply)(zero(quick_jit(unit.init)(jax.random.key(1), x)), x)
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    for i, j in np.ndindex(3, 3):
        mean = padded[:, 2 * i : 2 * i + 3, 2 * j : 2 * j + 3].sum((1, 2)) / 9
        np.testing.assert_allclose(out[:, i, j, :6], np.maximum(mean, 0), atol=1e-6)
    assert not out[..., 6:].any()
    unit = _unit_v1(features=12, strides=1, join=True)
    out = quick_jit(unit.apply)(zero(quick_jit(unit.init)(jax.random.key(1), x)), x)
    np.testing.assert_array_equal(out[..., :6], nn.relu(x))


@pytest.mark.parametrize("channels", [9, 12])
def test_the_two_shuffles_of_v1_differ_in_place_and_direction(channels):
    """3 groups of 3 channels are shuffled by the same permutation in both directions, 3 groups of 4 are not.

    So for 9 channels a shuffle behind the depthwise layers is one before them, with their channels shuffled, too.
    """
    x = _x(6)
    paper, authors = (
        _unit_v1(features=6, strides=1, bottleneck_features=channels, shuffle=shuffle)
        for shuffle in ("paper", "megvii")
    )
    variables = quick_jit(paper.init)(jax.random.key(1), x)
    moved = {name: dict(layer) for name, layer in variables["params"].items()}
    inverse = jnp.argsort(channel_shuffle(jnp.arange(channels), 3))
    moved["depthwise"]["kernel"] = moved["depthwise"]["kernel"][..., inverse]
    expected = quick_jit(paper.apply)(variables, x)
    out = quick_jit(authors.apply)({**variables, "params": moved}, x)
    assert np.allclose(out, expected, atol=1e-5) == (channels == 9)
    assert not np.allclose(quick_jit(authors.apply)(variables, x), expected, atol=1e-2)


def test_the_groups_of_a_v1_unit():
    for fields, groups in [
        ({}, (3, 3)),
        ({"reduce_groups": 1}, (1, 3)),
        ({"reduce_groups": 1, "expand_groups": 2}, (1, 2)),
        ({"groups": 1}, (1, 1)),
    ]:
        params = jax.eval_shape(_unit_v1(features=12, strides=2, **fields).init, jax.random.key(0), _x(6))["params"]
        assert tuple(6 // params[name]["kernel"].shape[2] for name in ("reduce", "expand")) == groups


@pytest.mark.parametrize(
    "fields,message",
    [
        (dict(features=16, strides=1, shuffle="after"), "at stride 1 features=16 must equal channels=8 and be even"),
        (
            dict(features=8, strides=2, shuffle="after", shortcut_features=8),
            "features=8 must exceed shortcut_features=8",
        ),
        (dict(features=8, strides=1, shuffle="aftr"), "shuffle: unknown name 'aftr'; did you mean 'after'"),
        (
            dict(features=8, strides=1, shuffle="after", branch="stars"),
            "branch: unknown name 'stars'; did you mean 'star'",
        ),
    ],
)
def test_what_does_not_fit_is_refused(fields, message):
    with pytest.raises(ValueError, match=f"^ShuffleUnitV2: {message}"):
        jax.eval_shape(_unit(**fields).init, jax.random.key(0), jnp.zeros((1, 4, 4, 8)))


@pytest.mark.parametrize(
    "fields,message",
    [
        (dict(features=9, strides=1), "features=9 must equal channels=6, which are added; change the stage's features"),
        (
            dict(features=6, strides=2),
            "features=6 must exceed channels=6, which are joined; change the stage's feature",
        ),
        (dict(features=6, strides=1, shuffle="papr"), "shuffle: unknown name 'papr'; did you mean 'paper'"),
    ],
)
def test_what_does_not_fit_a_v1_unit_is_refused(fields, message):
    with pytest.raises(ValueError, match=f"^ShuffleUnitV1: {message}"):
        jax.eval_shape(_unit_v1(**fields).init, jax.random.key(0), jnp.zeros((1, 4, 4, 6)))
