"""Units that shift against loops in float64 NumPy, written from their formulas; what they keep and connect."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from arch.blocks import shift
from arch.blocks.shift import AddressUnit, ShiftResidualUnit, ShiftUnit
from tests.blocks.units import PARTS, connections, random_params
from tests.compiling import quick_jit
from tests.ops.numpy_conv import convolve


def _norm(x):
    return x * 2 - 0.1


def _one_hot_shift(x, taps, contiguous):
    """A depthwise convolution; its kernels are 1 at the tap of each channel, and 0."""
    channels = x.shape[-1]
    share = channels // taps**2
    kernel = np.zeros((taps, taps, 1, channels))
    for channel in range(channels):
        tap = channel // share if contiguous else channel % taps**2
        if channel >= share * taps**2:
            tap = taps**2 // 2
        kernel[tap // taps, tap % taps, 0, channel] = 1
    return convolve(x, kernel, groups=channels)


def _mean3x3(x):
    """At stride 2, of 9 pixels each, those outside being 0."""
    channels = x.shape[-1]
    return convolve(x, np.full((3, 3, 1, channels), 1 / 9), stride=2, groups=channels)


def _shift_unit(x, params, fields):
    stride = fields["strides"]
    out = convolve(np.tanh(_norm(x)), params["conv1"]["kernel"])
    out = _one_hot_shift(out, fields["kernel_size"], fields["assignment"] == "contiguous")
    out = convolve(np.tanh(_norm(out)), params["conv2"]["kernel"], stride=stride)
    if stride == 1 and x.shape[-1] == fields["features"]:
        return x + out
    return np.concatenate([out, _mean3x3(x) if stride == 2 else x], -1) if fields["concatenate"] else out


def _shift_residual(x, params, fields):
    stride = fields["strides"]
    out = np.tanh(_norm(convolve(x, params["conv1"]["kernel"])))
    out = _one_hot_shift(out, 3, fields["assignment"] == "contiguous")
    out = _norm(convolve(out, params["conv2"]["kernel"], stride=stride))
    if "shortcut_conv" in params:
        x = 3 * convolve(x, params["shortcut_conv"]["kernel"], stride=stride)
    return np.tanh(x + out) if fields["act_after_addition"] else x + np.tanh(out)


def _address(x, params, fields):
    if fields["strides"] == 2:
        x = _mean3x3(x)
    out = np.tanh(_norm(convolve(x, params["conv1"]["kernel"], groups=fields["groups"])))
    hidden = out.shape[-1]
    step = hidden // fields["groups"] // 2
    out = out[..., [(channel - step) % hidden for channel in range(hidden)]]
    moved, quarter = out.copy(), hidden // 4
    padded = np.pad(out, ((0, 0), (1, 1), (1, 1), (0, 0)))
    for which, (row, column) in enumerate([(1, 2), (1, 0), (2, 1), (0, 1)]):
        window = padded[:, row : row + out.shape[1], column : column + out.shape[2]]
        channels = slice(which * quarter, (which + 1) * quarter)
        moved[..., channels] = window[..., channels]
    new = np.tanh(_norm(convolve(moved, params["conv2"]["kernel"], groups=fields["groups"])))
    kept = fields["features"] - fields["new_features"]
    return np.concatenate([x[..., x.shape[-1] - kept :], new], -1)


_SHIFT = {"expand_ratio": 3, "concatenate": True, "assignment": "contiguous", "kernel_size": 3}
_RESIDUAL = {"expand_ratio": 2.5, "act_after_addition": False, "assignment": "modulo"}
_ADDRESS = {"features": 12, "new_features": 6, "groups": 2, "expand_ratio": 1.5}
LOOPS = [
    (ShiftUnit, _SHIFT | {"features": 9, "strides": 2}, 4, _shift_unit),
    (ShiftUnit, _SHIFT | {"features": 8, "strides": 1}, 4, _shift_unit),
    (ShiftUnit, _SHIFT | {"features": 6, "strides": 2, "concatenate": False}, 6, _shift_unit),
    (ShiftUnit, _SHIFT | {"features": 9, "strides": 1, "kernel_size": 5, "assignment": "modulo"}, 9, _shift_unit),
    (ShiftResidualUnit, _RESIDUAL | {"features": 8, "strides": 2}, 4, _shift_residual),
    (ShiftResidualUnit, _RESIDUAL | {"features": 4, "strides": 1, "act_after_addition": True}, 4, _shift_residual),
    (ShiftResidualUnit, _RESIDUAL | {"features": 4, "strides": 1, "assignment": "contiguous"}, 4, _shift_residual),
    (AddressUnit, _ADDRESS | {"strides": 1}, 12, _address),
    (AddressUnit, _ADDRESS | {"strides": 2}, 6, _address),
]


@pytest.mark.parametrize("cls,fields,channels,loop", LOOPS)
def test_unit_against_a_loop(x64, cls, fields, channels, loop):
    random = np.random.default_rng(0)
    x = random.standard_normal((2, 5, 4, channels))
    unit = cls(**fields, **PARTS)
    params = random_params(unit, x.shape, random)
    actual = quick_jit(lambda params, x: unit.apply({"params": params}, x))(params, x)
    np.testing.assert_allclose(actual, loop(x, params, fields), rtol=1e-10, atol=1e-10)


def test_an_address_unit_keeps_the_last_channels_to_the_bit():
    """A window over memory: what was last comes first, and nothing is added to it."""
    x = jax.random.normal(jax.random.key(0), (2, 4, 4, 12))
    unit = AddressUnit(**_ADDRESS, strides=1, **PARTS)
    out, _ = quick_jit(unit.init_with_output)(jax.random.key(1), x)
    np.testing.assert_array_equal(out[..., :6], x[..., 6:])


def test_the_channel_shift_connects_neighbouring_groups(monkeypatch):
    """Of four groups each new one sees itself and the one before, and without the shift itself alone."""
    unit = AddressUnit(features=16, new_features=16, strides=1, expand_ratio=1, groups=4, **PARTS)
    itself, before = np.eye(4, dtype=bool), np.roll(np.eye(4, dtype=bool), 1, axis=0)
    blocks = np.ones((4, 4), bool)
    np.testing.assert_array_equal(connections(unit, 16), np.kron(itself | before, blocks))
    monkeypatch.setattr(shift, "channel_shift", lambda x, shift: x)
    np.testing.assert_array_equal(connections(unit, 16), np.kron(itself, blocks))


@pytest.mark.parametrize(
    "unit,channels,message",
    [
        (
            ShiftUnit(8, 2, 9, 3, True, "modulo", **PARTS),
            8,
            "ShiftUnit: features=8 must exceed channels=8, which are ke",
        ),
        (ShiftUnit(8, 2, 1, 3, False, "modulo", **PARTS), 8, "spatial_shift: channels=8 must be at least the 9 taps"),
        (ShiftUnit(8, 2, 2, 3, False, "both", **PARTS), 8, "spatial_shift: assignment: unknown name 'both'"),
        (ShiftResidualUnit(8, 1, 1, False, "modulo", **PARTS), 8, "spatial_shift: channels=8 must be at least the 9"),
        (
            AddressUnit(16, 4, 1, 1, 2, **PARTS),
            8,
            r"AddressUnit: features=16 less new_features=4 must be in 0, ..., chan",
        ),
        (AddressUnit(8, 4, 1, 1, 3, **PARTS), 8, "Conv: feature_group_count=3 must divide in_features=8"),
    ],
)
def test_fields_that_do_not_fit_are_refused(unit, channels, message):
    with pytest.raises(ValueError, match=f"^{message}") as error:
        jax.eval_shape(unit.init, jax.random.key(0), jnp.zeros((1, 6, 6, channels)))
    assert "\n" not in str(error.value)
