import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from arch import norm
from arch.blocks.shuffle import ShuffleUnitV2
from arch.ops.conv import Conv


def _unit(**fields):
    bound = norm.bind(norm.create("batch_norm"), train=False)
    return ShuffleUnitV2(conv=functools.partial(Conv, use_bias=False), norm=bound, act=nn.relu, **fields)


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


@pytest.mark.parametrize(
    "fields,message",
    [
        (dict(features=16, strides=1, shuffle="after"), "at stride 1 features=16 must equal channels=8 and be even"),
        (
            dict(features=8, strides=2, shuffle="after", shortcut_features=8),
            "features=8 must exceed shortcut_features=8",
        ),
        (dict(features=8, strides=1, shuffle="aftr"), "shuffle: unknown name 'aftr'; did you mean 'after'"),
    ],
)
def test_what_does_not_fit_is_refused(fields, message):
    with pytest.raises(ValueError, match=f"^ShuffleUnitV2: {message}"):
        jax.eval_shape(_unit(**fields).init, jax.random.key(0), jnp.zeros((1, 4, 4, 8)))
