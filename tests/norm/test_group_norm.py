import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from arch.norm.group import GroupNorm, normalize_groups
from arch.ops.stochastic import Examples
from tests.compiling import quick_jit

GOLDEN = pathlib.Path(__file__).parents[1] / "goldens" / "norms.npz"


@pytest.mark.parametrize("num_groups", [2, 6])
def test_torch_parity_forward_and_backward(x64, num_groups):
    golden = np.load(GOLDEN)
    params = {"scale": golden["scale"], "bias": golden["bias"]}
    layer = GroupNorm(num_groups)

    def loss(params, x):
        out = layer.apply({"params": params}, x, train=True)
        return jnp.sum(out * golden["probe"]), out

    (grads, grad_x), out = jax.grad(loss, argnums=(0, 1), has_aux=True)(params, golden["x"])
    np.testing.assert_allclose(out, golden[f"group{num_groups}/out"], atol=1e-10)
    np.testing.assert_allclose(grad_x, golden[f"group{num_groups}/grad_x"], atol=1e-10)
    np.testing.assert_allclose(grads["scale"], golden[f"group{num_groups}/grad_scale"], atol=1e-10)
    np.testing.assert_allclose(grads["bias"], golden[f"group{num_groups}/grad_bias"], atol=1e-10)


def _normal(*shape):
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def _run(layer, x, **kwargs):
    """What the layer makes of x, its parameters new."""

    def run(x):
        return layer.init_with_output(jax.random.key(0), x, train=True, **kwargs)[0]

    return np.asarray(quick_jit(run)(x))


def _group_of_channel(channels, num_groups, x):
    """The formula, in float64, a group at a time."""
    x = np.asarray(x, np.float64)
    out = np.empty_like(x)
    for n in range(x.shape[0]):
        for members in np.split(np.arange(channels), num_groups):
            values = x[n][..., members]
            out[n][..., members] = (values - values.mean()) / np.sqrt(values.var() + 1e-5)
    return out


# Channels of ShuffleNet v2 and others, with the largest divisor up to 32.
@pytest.mark.parametrize(
    "channels,num_groups", [(64, 32), (58, 29), (24, 24), (116, 29), (37, 1), (1024, 32), (48, 24)]
)
def test_the_number_of_groups_that_is_found(channels, num_groups):
    x = _normal(2, 3, 3, channels)
    np.testing.assert_allclose(_run(GroupNorm(), x), _group_of_channel(channels, num_groups, x), atol=1e-5)


def test_a_group_size_stands_for_a_number_of_groups():
    x = _normal(2, 3, 3, 12)
    np.testing.assert_allclose(_run(GroupNorm(group_size=3), x), _group_of_channel(12, 4, x), atol=1e-5)


def test_one_group_and_as_many_groups_as_channels():
    x = _normal(2, 3, 3, 6).astype(np.float64)
    for num_groups, axes in ((1, (1, 2, 3)), (6, (1, 2))):
        expected = (x - x.mean(axes, keepdims=True)) / np.sqrt(x.var(axes, keepdims=True) + 1e-5)
        np.testing.assert_allclose(_run(GroupNorm(num_groups), x.astype(np.float32)), expected, atol=1e-5)


def test_examples_do_not_see_each_other():
    x = _normal(4, 3, 3, 8)
    whole = _run(GroupNorm(4), x, examples=Examples(weight=jnp.array([1.0, 0.0, 1.0, 1.0])))
    np.testing.assert_allclose(whole[1:3], _run(GroupNorm(4), x[1:3]), atol=1e-6)


def test_large_mean_and_small_variance():
    x = np.float32(1e3) + np.float32(1e-2) * _normal(2, 16, 16, 8)
    layer = GroupNorm(2, epsilon=1e-12)
    exact = np.asarray(x, np.float64).reshape(2, 16, 16, 2, 4)
    axes = (1, 2, 4)
    exact = (exact - exact.mean(axes, keepdims=True)) / exact.std(axes, keepdims=True)
    np.testing.assert_allclose(_run(layer, x), exact.reshape(x.shape), atol=1e-5)


def test_a_map_of_one_value_gives_the_bias():
    x = _normal(2, 1, 1, 8)
    np.testing.assert_array_equal(_run(GroupNorm(8), x), np.zeros((2, 1, 1, 8)))


def test_bfloat16_has_float32_parameters():
    x = jax.ShapeDtypeStruct((2, 3, 3, 8), jnp.bfloat16)
    out, variables = jax.eval_shape(lambda x: GroupNorm().init_with_output(jax.random.key(0), x, train=True), x)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    assert out.dtype == jnp.bfloat16


@pytest.mark.parametrize(
    "fields,message",
    [
        ({"num_groups": 32}, "num_groups=32 must divide channels=58"),
        ({"num_groups": 0}, "num_groups=0 must divide channels=58"),
        ({"group_size": 16}, "group_size=16 must divide channels=58"),
        ({"num_groups": 2, "group_size": 29}, "give num_groups=2 or group_size=29, not both"),
    ],
)
def test_fields_that_do_not_fit_are_refused(fields, message):
    with pytest.raises(ValueError, match=f"^GroupNorm: {message}; "):
        GroupNorm(**fields).init(jax.random.key(0), jnp.zeros((1, 2, 2, 58)), train=True)


def test_bfloat16_is_rounded_only_at_the_end():
    x = (100 + 10 * np.random.default_rng(0).standard_normal((2, 16, 16, 8))).astype(jnp.bfloat16)
    out = _run(GroupNorm(4), x)
    expected = _group_of_channel(8, 4, x)
    np.testing.assert_allclose(out.astype(np.float64), expected, rtol=2**-8, atol=1e-4)


def test_a_group_of_constant_values_has_finite_gradients():
    """A 1x1 map with a channel a group, and a constant map: the variance is 0."""
    for shape in ((2, 1, 1, 8), (2, 3, 3, 8)):

        def loss(x, probe):
            return jnp.sum(probe * GroupNorm(8, use_scale=False, use_bias=False).apply({}, x, train=True))

        probe = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
        grad = quick_jit(jax.grad(loss))(np.full(shape, 1e4, np.float32), probe)
        assert np.isfinite(grad).all()


def test_scale_and_shift_of_the_input_do_not_matter():
    x = _normal(2, 4, 4, 8)
    layer = GroupNorm(4, epsilon=1e-12)
    np.testing.assert_allclose(_run(layer, 3.0 * x + 7.0), _run(layer, x), atol=1e-5)


def test_second_derivatives_are_those_of_the_formula(x64):
    """The first derivative is written out; what JAX makes of it is compared with what it makes of the formula."""
    random = np.random.default_rng(1)
    x, scale, bias = random.standard_normal((2, 3, 2, 6)), random.standard_normal(6), random.standard_normal(6)

    def formula(x, scale, bias):
        grouped = x.reshape(2, 6, 3, 2)
        mean = grouped.mean((1, 3), keepdims=True)
        unit = (grouped - mean) / jnp.sqrt(jnp.var(grouped, (1, 3), keepdims=True) + 1e-5)
        return unit.reshape(x.shape) * scale + bias

    def curvature(normalize):
        loss = lambda *inputs: jnp.sum(jnp.sin(3.0 * normalize(*inputs)))  # noqa: E731
        return quick_jit(lambda *inputs: jax.jvp(jax.grad(loss, (0, 1, 2)), inputs, (x[::-1], bias, scale))[1])

    ours = curvature(lambda *inputs: normalize_groups(*inputs, 3))(x, scale, bias)
    for actual, expected in zip(ours, curvature(formula)(x, scale, bias), strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-9, atol=1e-9)
