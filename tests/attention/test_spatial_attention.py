import functools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from arch.attention.spatial import (
    MASKS,
    MaskBranch,
    ResidualAttention,
    channel_attention,
    mixed_attention,
    residual_attention,
    signed_attention,
    spatial_attention,
)
from arch.efficiency.complexity import count
from arch.norm import bind
from arch.norm.batch import BatchNorm
from arch.ops.conv import Conv, symmetric_padding
from arch.ops.pooling import global_avg_pool, max_pool
from tests.attention.derivatives import check_derivatives
from tests.compiling import quick_jit


class Unit(nn.Module):
    """The smallest unit of the pre-activation kind: x + relu(x) @ kernel."""

    @nn.compact
    def __call__(self, x):
        return x + nn.Dense(x.shape[-1], use_bias=False, param_dtype=x.dtype, name="dense")(nn.relu(x))


class Affine(nn.Module):
    """Stands for a normalization: x * scale + bias."""

    @nn.compact
    def __call__(self, x):
        shape = x.shape[-1:]
        scale = self.param("scale", nn.initializers.normal(), shape, x.dtype)
        return x * scale + self.param("bias", nn.initializers.normal(), shape, x.dtype)


class Bottleneck(nn.Module):
    """The unit of Attention-56 and -92, from the authors' prototxt."""

    features: int
    strides: int = 1
    conv: nn.Module = functools.partial(Conv, use_bias=False)

    @nn.compact
    def __call__(self, x):
        h = nn.relu(bind(BatchNorm, train=False)(name="norm1")(x))
        changed = self.strides != 1 or x.shape[-1] != self.features
        shortcut = self.conv(self.features, 1, self.strides, name="shortcut")(h) if changed else x
        h = self.conv(self.features // 4, 1, name="conv1")(h)
        h = nn.relu(bind(BatchNorm, train=False)(name="norm2")(h))
        h = self.conv(self.features // 4, 3, self.strides, symmetric_padding((3, 3)), name="conv2")(h)
        h = nn.relu(bind(BatchNorm, train=False)(name="norm3")(h))
        return shortcut + self.conv(self.features, 1, name="conv3")(h)


class Attention(nn.Module):
    """Attention-56 with one module a stage, Attention-92 with 1, 2 and 3."""

    modules: tuple[int, ...]

    @nn.compact
    def __call__(self, x):
        norm = bind(BatchNorm, train=False)
        x = Conv(64, 7, 2, symmetric_padding((7, 7)), use_bias=False, name="stem")(x)
        x = max_pool(nn.relu(norm(name="stem_norm")(x)), 3, 2, ((0, 1), (0, 1)))
        for stage, number in enumerate(self.modules):
            unit = functools.partial(Bottleneck, 256 << stage)
            x = unit(strides=1 if stage == 0 else 2, name=f"stage{stage}")(x)
            for i in range(number):
                x = ResidualAttention(num_levels=3 - stage, unit=unit, norm=norm, name=f"attention{stage}_{i}")(x)
        for i in range(3):
            x = Bottleneck(2048, 2 if i == 0 else 1, name=f"post{i}")(x)
        return nn.Dense(1000, name="classifier")(global_avg_pool(nn.relu(norm(name="last_norm")(x))))


def sigmoid(v):
    return 1 / (1 + np.exp(-v))


def pool_loop(x):
    """3x3 windows at stride 2 from the first pixel on, as long as a further one has pixels that no other has seen."""
    height, width = (max(math.ceil((n - 3) / 2) + 1, 1) for n in x.shape[1:3])
    out = np.empty((x.shape[0], height, width, x.shape[3]))
    for i, j in np.ndindex(height, width):
        out[:, i, j] = x[:, 2 * i : 2 * i + 3, 2 * j : 2 * j + 3].max((1, 2))
    return out


def interpolate_loop(x, size):
    """Bilinear, the corners aligned."""
    out = np.empty((x.shape[0], *size, x.shape[3]))
    for i, j in np.ndindex(*size):
        (row, u), (column, v) = (
            divmod(k * (n - 1) / (m - 1) if m > 1 else 0.0, 1)
            for k, n, m in zip((i, j), x.shape[1:3], size, strict=True)
        )
        row, column = int(row), int(column)
        below, right = min(row + 1, x.shape[1] - 1), min(column + 1, x.shape[2] - 1)
        out[:, i, j] = (1 - u) * ((1 - v) * x[:, row, column] + v * x[:, row, right])
        out[:, i, j] += u * ((1 - v) * x[:, below, column] + v * x[:, below, right])
    return out


def unit_loop(params, name, x):
    return x + np.maximum(x, 0) @ params[name]["dense"]["kernel"]


def mask_loop(params, x, steps, pre_activation=True):
    """The mask before its sigmoid. The steps are those of the prototxt, in its order."""
    size, levels = x.shape[1:3], []
    for step in steps.split():
        if step == "max":
            x = pool_loop(x)
        elif step.startswith("+skip"):
            feature = levels[int(step[5]) - 1]
            x = interpolate_loop(x, feature.shape[1:3]) + unit_loop(params, f"{step[1:]}_unit1", feature)
        else:
            x = unit_loop(params, step, x)
            if step.startswith("down"):
                levels.append(x)
    x = interpolate_loop(x, size)
    for i in "12":
        if pre_activation or i == "2":
            x = np.maximum(x * params[f"norm{i}"]["scale"] + params[f"norm{i}"]["bias"], 0)
        x = x @ params[f"conv{i}"]["kernel"][0, 0]
    return x


# Attention A, B and C of the networks, by the levels of their mask branch.
STEPS = {
    1: "max down1_unit1 bottom_unit1",
    2: "max down1_unit1 max down2_unit1 bottom_unit1 +skip1 up1_unit1",
    3: "max down1_unit1 max down2_unit1 max down3_unit1 bottom_unit1 +skip2 up2_unit1 +skip1 up1_unit1",
}


def filled(module, x, seed=0):
    """Normal float64 parameters."""
    shapes = jax.eval_shape(module.init, jax.random.key(0), x)
    random = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: 0.5 * random.standard_normal(leaf.shape), shapes)


def branch(num_levels, **fields):
    return MaskBranch(num_levels=num_levels, unit=Unit, norm=Affine, **fields)


@pytest.mark.parametrize("num_levels,size", [(3, (13, 10)), (2, (1, 2))])
def test_mask_branch_against_a_loop(x64, num_levels, size):
    x = np.random.default_rng(1).standard_normal((2, *size, 3))
    module = branch(num_levels)
    variables = filled(module, x)
    expected = sigmoid(mask_loop(variables["params"], x, STEPS[num_levels]))
    np.testing.assert_allclose(quick_jit(module.apply)(variables, x), expected, rtol=1e-10)


def test_mask_branch_of_units_that_end_in_an_activation(x64):
    """As in AttentionNeXt: 1x1 convolution, norm, activation, 1x1 convolution."""
    x = np.random.default_rng(1).standard_normal((2, 5, 6, 3))
    module = ResidualAttention(num_levels=1, unit=Unit, norm=Affine, attention="signed", pre_activation=False)
    variables = filled(module, x)
    params = variables["params"]
    assert set(params["mask"]) == {"down1_unit1", "bottom_unit1", "conv1", "norm2", "conv2"}
    shared = unit_loop(params, "pre_unit1", x)
    mask = np.tanh(mask_loop(params["mask"], shared, STEPS[1], pre_activation=False))
    trunk = unit_loop(params, "trunk_unit2", unit_loop(params, "trunk_unit1", shared))
    expected = unit_loop(params, "post_unit1", (1 + mask) * trunk)
    np.testing.assert_allclose(quick_jit(module.apply)(variables, x), expected, rtol=1e-10)


def test_residual_attention_and_its_derivatives_against_a_loop(x64):
    x = np.random.default_rng(1).standard_normal((2, 5, 6, 2))
    module = ResidualAttention(num_levels=1, unit=Unit, norm=Affine)

    def loop(variables, x):
        params = variables["params"]
        shared = unit_loop(params, "pre_unit1", x)
        trunk = unit_loop(params, "trunk_unit2", unit_loop(params, "trunk_unit1", shared))
        mask = sigmoid(mask_loop(params["mask"], shared, STEPS[1]))
        return unit_loop(params, "post_unit1", (1 + mask) * trunk)

    check_derivatives(module.apply, loop, filled(module, x), x)


@pytest.mark.parametrize("counts", [(1, 2, 1), (2, 1, 3), (0, 0, 1)])
def test_numbers_of_units(counts):
    """p before and after, t in the trunk, r a level, 2 r at the bottom, one in each skip."""
    outer, trunk, mask = counts
    module = ResidualAttention(
        num_levels=3, unit=Unit, norm=Affine, num_outer_units=outer, num_trunk_units=trunk, num_mask_units=mask
    )
    params = jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, 8, 8, 2)))["params"]
    assert sum("unit" in name for name in params) == 2 * outer + trunk
    assert sum("unit" in name for name in params["mask"]) == 3 * mask + mask + 2 * mask + 2


@pytest.mark.slow
@pytest.mark.parametrize("modules,params,conv_macs", [
    ((1, 1, 1), 31_810_728, 6_268_788_736),
    ((1, 2, 3), 52_466_344, 10_531_741_696),
], ids=["Attention-56", "Attention-92"])  # fmt: skip
def test_parameters_and_macs_of_the_published_networks(modules, params, conv_macs):
    """Counted in the authors' prototxt."""
    counted = count(Attention(modules))
    assert (counted.params, counted.conv_macs, counted.linear_macs) == (params, conv_macs, 2_048_000)


def channel_loop(x):
    out = np.empty_like(x)
    for n, i, j in np.ndindex(x.shape[:3]):
        out[n, i, j] = x[n, i, j] / math.sqrt(sum(value * value for value in x[n, i, j]))
    return out


def spatial_loop(x):
    out = np.empty_like(x)
    for n, c in np.ndindex(x.shape[0], x.shape[3]):
        values = x[n, :, :, c]
        mean = values.sum() / values.size
        out[n, :, :, c] = sigmoid((values - mean) / math.sqrt(((values - mean) ** 2).sum() / values.size + 1e-5))
    return out


@pytest.mark.parametrize("mask,loop", [
    (mixed_attention, sigmoid),
    (signed_attention, np.tanh),
    (channel_attention, channel_loop),
    (spatial_attention, spatial_loop),
])  # fmt: skip
def test_masks_and_their_derivatives_against_their_formulas(x64, mask, loop):
    check_derivatives(mask, loop, 3 * np.random.default_rng(0).standard_normal((2, 3, 4, 5)))


def test_masks_of_flat_maps_are_finite():
    """What has no length or no spread, by value and gradient."""

    @quick_jit
    def run(x, probe):
        return [(out, pull_back(probe)[0]) for out, pull_back in (jax.vjp(mask, x) for mask in MASKS.values())]

    probe = np.arange(12, dtype=np.float32).reshape(1, 2, 2, 3)
    for (out, gradient), value in zip(run(np.zeros_like(probe), probe), (0.5, 0.0, 0.0, 0.5), strict=True):
        np.testing.assert_array_equal(out, np.full_like(probe, value))
        assert np.isfinite(gradient).all()
    *_, (spatial, _) = run(np.full((1, 1, 1, 3), 7, np.float32), np.ones((1, 1, 1, 3), np.float32))
    np.testing.assert_array_equal(spatial, np.full((1, 1, 1, 3), 0.5))


def test_channel_attention_has_unit_length_and_spatial_attention_ignores_scale(x64):
    x = np.random.default_rng(0).standard_normal((2, 4, 4, 3))
    np.testing.assert_allclose(np.linalg.norm(quick_jit(channel_attention)(x), axis=-1), 1.0, rtol=1e-10)
    moved = 50.0 * x * np.array([1.0, 2.0, 4.0]) - 7.0
    spatial = quick_jit(functools.partial(spatial_attention, epsilon=1e-30))
    np.testing.assert_allclose(spatial(moved), spatial(x), rtol=1e-10)


def test_mask_normalization_is_that_of_its_name(x64):
    x = np.random.default_rng(1).standard_normal((1, 4, 4, 3))
    variables = filled(branch(1), x)
    logits = mask_loop(variables["params"], x, STEPS[1])
    masks = quick_jit(lambda *inputs: [branch(1, attention=name).apply(*inputs) for name in ("channel", "spatial")])
    channel, spatial = masks(variables, x)
    np.testing.assert_allclose(channel, channel_loop(logits), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(spatial, spatial_loop(logits), rtol=1e-9)


def test_a_closed_mask_leaves_the_trunk_and_masks_keep_it_between_once_and_twice():
    trunk, logits = np.random.default_rng(0).standard_normal((2, 2, 3, 3, 4), np.float32)
    residual = quick_jit(residual_attention)
    np.testing.assert_array_equal(residual(trunk, np.zeros_like(trunk)), trunk)
    out = residual(np.abs(trunk), quick_jit(mixed_attention)(10 * logits))
    assert (out >= np.abs(trunk)).all() and (out <= 2 * np.abs(trunk)).all()


def test_the_naive_form_is_the_product():
    trunk, mask = np.random.default_rng(0).standard_normal((2, 2, 3, 3, 4), np.float32)
    np.testing.assert_array_equal(residual_attention(jnp.asarray(trunk), jnp.asarray(mask), form="naive"), trunk * mask)


def test_bfloat16_keeps_small_masks():
    """1 + 0.0036 is 1 in bfloat16, but 1.5 * 1.0036 is nearer to the number after 1.5 than to 1.5."""
    trunk, mask = (jnp.asarray(np.full((1, 1, 1, 2), value), jnp.bfloat16) for value in (1.5, 0.0036))
    assert jnp.bfloat16(1.0) + jnp.bfloat16(0.0036) == 1.0
    out = residual_attention(trunk, mask)
    assert out.dtype == jnp.bfloat16
    np.testing.assert_array_equal(out, np.full((1, 1, 1, 2), 1.5 + 2**-7))


@pytest.mark.parametrize("fields,message", [
    (dict(num_levels=0), "MaskBranch: num_levels=0 must be at least 1; raise it"),
    (dict(num_mask_units=0), "MaskBranch: num_units=0 must be at least 1; raise it"),
    (dict(num_trunk_units=-1), "ResidualAttention: num_trunk_units=-1 must be at least 0; raise it"),
    (dict(attention="chanel"), "MaskBranch: attention: unknown name 'chanel'; did you mean 'channel'.*"),
    (dict(form="resdual"), "residual_attention: form: unknown name 'resdual'; did you mean 'residual'.*"),
    (dict(unit=functools.partial(Bottleneck, 8)),
     r"ResidualAttention: unit must keep the shape \[1, 4, 4, 2\], not make \[1, 4, 4, 8\] of it; .*"),
])  # fmt: skip
def test_module_refuses_in_one_line(fields, message):
    module = ResidualAttention(**dict(num_levels=1, unit=Unit, norm=Affine) | fields)
    with pytest.raises(ValueError) as error:
        jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, 4, 4, 2)))
    assert re.fullmatch(message, str(error.value))


@pytest.mark.parametrize("call,message", [
    (lambda: residual_attention(np.zeros((1, 4, 4, 2)), np.zeros((1, 2, 2, 2))),
     r"residual_attention: mask=\[1, 2, 2, 2\] must have the shape of trunk=\[1, 4, 4, 2\]; resize it"),
    (lambda: residual_attention(np.zeros((1, 4, 4, 2), np.int32), np.zeros((1, 4, 4, 2))),
     r"residual_attention: trunk=int32\[1, 4, 4, 2\] must be floating point NHWC; convert it"),
    (lambda: spatial_attention(np.zeros((4, 4, 2), np.float32)),
     r"spatial_attention: x=float32\[4, 4, 2\] must be floating point NHWC; convert it"),
    (lambda: spatial_attention(np.zeros((1, 4, 4, 2), np.float32), 0.0),
     r"spatial_attention: epsilon=0.0 must be above 0, for flat maps; leave it out"),
])  # fmt: skip
def test_function_refuses_in_one_line(call, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        call()
