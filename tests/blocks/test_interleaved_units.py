"""Units of crossing groups against loops in float64 NumPy, written from their formulas; which channels they connect."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from arch.blocks import interleaved
from arch.blocks.interleaved import ChannelLocalUnit, IGCResidualUnit, IGCUnit, InterleavedInvertedResidual
from arch.ops import interleaved_group_conv
from tests.blocks.units import PARTS, connections, random_params
from tests.compiling import quick_jit
from tests.ops.numpy_conv import convolve


def _norm(x):
    return x * 2 - 0.1


def _pair(x, kernels, groups, stride):
    """Output l' * M + m of the second convolution sees the outputs l * M + m of the first, for all l."""
    first = convolve(x, kernels["primary"]["kernel"], stride=stride, groups=groups)
    secondary, width = kernels["secondary"]["kernel"][0, 0], first.shape[-1] // groups
    out = np.zeros_like(first)
    for m, after, before in np.ndindex(width, groups, groups):
        out[..., after * width + m] += secondary[before, m * groups + after] * first[..., before * width + m]
    return out


def _igc(x, params, stride):
    return np.tanh(_norm(_pair(x, params["conv"], 3, stride)))


def _igc_residual(x, params, stride):
    out = np.tanh(_norm(_pair(x, params["igc1"], 3, stride)))
    out = _norm(_pair(out, params["igc2"], 3, 1))
    if "shortcut_conv" in params:
        x = 3 * convolve(x, params["shortcut_conv"]["kernel"], stride=stride, groups=3)
    return np.tanh(x + out)


def _inverted(x, params, stride):
    out = _norm(convolve(x, params["expand"]["kernel"], groups=2))
    hidden = out.shape[-1]
    # Of two groups of channels in turn one each.
    out = out[..., [j // 2 + (j % 2) * (hidden // 2) for j in range(hidden)]]
    out = np.tanh(_norm(convolve(out, params["depthwise"]["kernel"], stride=stride, groups=hidden)))
    out = _norm(convolve(out, params["project"]["kernel"], groups=2))
    out = np.concatenate([out[..., 0::2], out[..., 1::2]], axis=-1)
    return x + out if stride == 1 else out


def _channel_local(x, params, stride):
    channels = x.shape[-1]
    groups = channels // 2
    out = _norm(convolve(x, params["conv"]["spatial"]["kernel"], stride=stride, groups=groups))
    # The first of each group, then the second.
    out = out[..., [(j % groups) * 2 + j // groups for j in range(channels)]]
    return np.tanh(_norm(convolve(out, params["conv"]["pointwise"]["kernel"], groups=2)))


_IGC = {"num_primary_groups": 3}
_INVERTED = {"groups": 2, "expand_ratio": 1.5}
_LOCAL = {"spatial_group_features": 2, "num_pointwise_groups": 2, "interlaced_inputs": False}
LOOPS = [
    (IGCUnit, _IGC | {"features": 12, "strides": 2}, 6, _igc),
    (IGCResidualUnit, _IGC | {"features": 12, "strides": 2}, 6, _igc_residual),
    (IGCResidualUnit, _IGC | {"features": 6, "strides": 1}, 6, _igc_residual),
    (InterleavedInvertedResidual, _INVERTED | {"features": 8, "strides": 1}, 8, _inverted),
    (InterleavedInvertedResidual, _INVERTED | {"features": 6, "strides": 2}, 4, _inverted),
    (ChannelLocalUnit, _LOCAL | {"features": 12, "strides": 2}, 8, _channel_local),
]


@pytest.mark.parametrize("cls,fields,channels,loop", LOOPS)
def test_unit_against_a_loop(x64, cls, fields, channels, loop):
    random = np.random.default_rng(0)
    x = random.standard_normal((2, 5, 4, channels))
    unit = cls(**fields, **PARTS)
    params = random_params(unit, x.shape, random)
    actual = quick_jit(lambda params, x: unit.apply({"params": params}, x))(params, x)
    np.testing.assert_allclose(actual, loop(x, params, fields["strides"]), rtol=1e-10, atol=1e-10)


# What a unit connects where nothing shuffles, beside itself: no output sees the inputs of another group.
SPLIT = [
    (IGCUnit(6, 3, 1, **PARTS), interleaved_group_conv, 6, 3),
    (InterleavedInvertedResidual(8, 2, 2, 2, **PARTS), interleaved, 8, 2),
    (ChannelLocalUnit(8, 1, 2, 2, False, **PARTS), interleaved_group_conv, 8, 2),
]


@pytest.mark.parametrize("unit,module,channels,groups", SPLIT)
def test_every_output_sees_every_input_but_for_the_shuffle(monkeypatch, unit, module, channels, groups):
    assert connections(unit, channels).all()
    for name in ("channel_shuffle", "channel_unshuffle"):
        monkeypatch.setattr(module, name, lambda x, num_groups: x)
    width = channels // groups
    split = connections(unit, channels)
    assert split.any()
    if isinstance(unit, IGCUnit):
        # The 1x1 groups, of 3 neighbours, meet a part of the 3x3 groups, of 2.
        assert not split.all()
    else:
        assert not np.any(split & ~np.kron(np.eye(groups, dtype=bool), np.ones((width, width), bool)))


def test_the_groups_of_a_shortcut_do_not_cross_and_those_of_the_branch_do():
    unit = IGCResidualUnit(features=12, num_primary_groups=3, strides=2, **PARTS)
    assert connections(unit, 6).all()
    params = jax.eval_shape(unit.init, jax.random.key(0), jnp.zeros((1, 4, 4, 6)))["params"]
    assert params["shortcut_conv"]["kernel"].shape == (1, 1, 2, 12)


def test_interlaced_inputs_are_other_neighbours(x64):
    """The unit on inputs that were gathered so: every fourth of 8 is in one of the 4 groups."""
    random = np.random.default_rng(0)
    x = random.standard_normal((1, 3, 3, 8))
    unit = ChannelLocalUnit(8, 1, 2, 2, interlaced_inputs=False, **PARTS)
    params = random_params(unit, x.shape, random)
    gathered = x[..., [0, 4, 1, 5, 2, 6, 3, 7]]
    expected = unit.apply({"params": params}, gathered)
    actual = unit.clone(interlaced_inputs=True).apply({"params": params}, x)
    np.testing.assert_array_equal(actual, expected)
    assert np.abs(actual - unit.apply({"params": params}, x)).max() > 0.1


def test_the_first_convolution_stays_where_nothing_widens():
    """Unlike MobileNet v2's unit, at ratio 1."""
    unit = InterleavedInvertedResidual(features=8, strides=1, expand_ratio=1, groups=2, **PARTS)
    params = jax.eval_shape(unit.init, jax.random.key(0), jnp.zeros((1, 4, 4, 8)))["params"]
    assert params["expand"]["kernel"].shape == params["project"]["kernel"].shape == (1, 1, 4, 8)


@pytest.mark.parametrize(
    "unit,channels,message",
    [
        (
            InterleavedInvertedResidual(8, 1, 1, 3, **PARTS),
            9,
            r"InterleavedInvertedResidual: groups=3 must divide the ch",
        ),
        (
            InterleavedInvertedResidual(8, 1, 0, 2, **PARTS),
            8,
            r"InterleavedInvertedResidual: groups=2 must divide the ch",
        ),
        (
            ChannelLocalUnit(8, 1, 3, 2, False, **PARTS),
            8,
            "ChannelLocalUnit: spatial_group_features=3 must divide chan",
        ),
        (ChannelLocalUnit(8, 1, 1, 2, False, **PARTS), 8, "ChannelLocalConv: num_spatial_groups=8 must be at most"),
        (IGCUnit(8, 3, 1, **PARTS), 6, "IGC: num_primary_groups=3 must divide in_features=6 and features=8"),
    ],
)
def test_groups_that_do_not_fit_are_refused(unit, channels, message):
    with pytest.raises(ValueError, match=f"^{message}") as error:
        jax.eval_shape(unit.init, jax.random.key(0), jnp.zeros((1, 4, 4, channels)))
    assert "\n" not in str(error.value)
