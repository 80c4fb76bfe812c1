"""The three readings of layer normalization, and instance normalization, against torch, flax and float64 NumPy."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from arch import norm
from arch.norm.group import GroupNorm, InstanceNorm
from arch.norm.layer import READINGS, LayerNorm
from arch.ops.stochastic import Examples
from tests.compiling import quick_jit

GOLDEN = pathlib.Path(__file__).parents[1] / "goldens" / "layer_norms.npz"
AXES = {"hwc": (1, 2, 3), "hwc_elementwise": (1, 2, 3), "c": (3,)}


def _run(layer, x, params=None, **kwargs):
    """What the layer makes of x; its parameters are ones and zeros where none are given."""

    def run(x, params):
        variables = layer.init(jax.random.key(0), x, train=True) if params is None else {"params": params}
        return layer.apply(variables, x, train=True, **kwargs)

    return np.asarray(quick_jit(run)(x, params))


def _formula(x, axes, epsilon=1e-5):
    x = np.asarray(x, np.float64)
    return (x - x.mean(axes, keepdims=True)) / np.sqrt(x.var(axes, keepdims=True) + epsilon)


@pytest.mark.parametrize("name", [*READINGS, "instance"])
def test_torch_parity_forward_and_backward(x64, name):
    """The inputs of the three examples are normal, constant, and of mean 1e3 and deviation 1e-2."""
    golden = np.load(GOLDEN)
    params = {"scale": golden[f"{name}/scale"], "bias": golden[f"{name}/bias"]}
    layer = InstanceNorm() if name == "instance" else LayerNorm(name)

    @quick_jit
    def run(params, x):
        out, pullback = jax.vjp(lambda *a: layer.apply({"params": a[0]}, a[1], train=True), params, x)
        return out, *pullback(golden["probe"])

    out, grads, grad_x = run(params, golden["x"])
    np.testing.assert_allclose(out, golden[f"{name}/out"], atol=1e-9)
    # A gradient at a deviation of 1e-2 is up to 100 times, at a constant 316 times that of the output.
    np.testing.assert_allclose(grad_x, golden[f"{name}/grad_x"], atol=1e-7)
    np.testing.assert_allclose(grads["scale"], golden[f"{name}/grad_scale"], atol=1e-9)
    np.testing.assert_allclose(grads["bias"], golden[f"{name}/grad_bias"], atol=1e-9)


def test_over_the_whole_example_it_is_one_group_and_over_each_channel_as_many_as_channels():
    x = 3 + np.random.default_rng(0).standard_normal((2, 4, 5, 6)).astype(np.float32)
    params = {"scale": np.linspace(-1, 2, 6, dtype=np.float32), "bias": np.linspace(3, 1, 6, dtype=np.float32)}
    elementwise = {key: np.broadcast_to(value, x.shape[1:]) for key, value in params.items()}

    @quick_jit
    def run(x):
        layers = (GroupNorm(1), LayerNorm("hwc"), GroupNorm(6), InstanceNorm())
        outs = [layer.apply({"params": params}, x, train=True) for layer in layers]
        return *outs, LayerNorm("hwc_elementwise").apply({"params": elementwise}, x, train=True)

    one_group, hwc, six_groups, instance, hwc_elementwise = run(x)
    np.testing.assert_allclose(hwc, one_group, atol=1e-6)
    np.testing.assert_allclose(hwc_elementwise, one_group, atol=1e-6)
    np.testing.assert_array_equal(instance, six_groups)


def test_over_the_channels_of_a_pixel_it_is_that_of_flax():
    x = np.random.default_rng(0).standard_normal((2, 4, 5, 6)).astype(np.float32)
    params = {"scale": np.linspace(-1, 2, 6, dtype=np.float32), "bias": np.linspace(3, 1, 6, dtype=np.float32)}
    theirs = quick_jit(nn.LayerNorm(epsilon=1e-6, use_fast_variance=False).apply)({"params": params}, x)
    np.testing.assert_allclose(_run(LayerNorm("c", epsilon=1e-6), x, params), theirs, atol=1e-6)


@pytest.mark.parametrize("reading", READINGS)
def test_large_mean_and_small_variance(reading):
    x = np.asarray(1e3 + 1e-2 * np.random.default_rng(0).standard_normal((2, 8, 8, 16)), np.float32)
    out = _run(LayerNorm(reading, epsilon=1e-12), x)
    np.testing.assert_allclose(out, _formula(x, AXES[reading], 1e-12), atol=1e-4)
    np.testing.assert_allclose(out.std(AXES[reading]), 1.0, atol=0.02)


def test_examples_do_not_see_each_other_and_of_c_pixels_neither():
    x = np.random.default_rng(0).standard_normal((4, 3, 3, 8)).astype(np.float32)
    for reading in READINGS:
        whole = _run(LayerNorm(reading), x, examples=Examples(weight=jnp.array([1.0, 0.0, 1.0, 1.0])))
        changed = x.copy()
        changed[0] = 9.0
        changed[3] *= -5.0
        np.testing.assert_allclose(_run(LayerNorm(reading), changed)[1:3], whole[1:3], atol=1e-6)
    changed = x.copy()
    changed[:, 1] = 9.0
    np.testing.assert_allclose(_run(LayerNorm("c"), changed)[:, [0, 2]], whole[:, [0, 2]], atol=1e-6)


def test_what_has_one_value_gives_the_bias_and_finite_gradients():
    """A single value, and a constant, have the variance 0."""
    cases = [("c", (2, 3, 3, 1)), ("hwc", (2, 1, 1, 1)), ("hwc_elementwise", (2, 1, 1, 1)), ("hwc", (2, 3, 3, 4))]
    for reading, shape in cases:
        features = shape[1:] if reading == "hwc_elementwise" else shape[-1:]
        params = {"scale": np.full(features, 2.0, np.float32), "bias": np.full(features, 0.75, np.float32)}

        def run(x, probe, params=params, reading=reading):
            out, pullback = jax.vjp(lambda x: LayerNorm(reading).apply({"params": params}, x, train=True), x)
            return out, pullback(probe)[0]

        probe = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
        out, grad = quick_jit(run)(np.full(shape, 1e4, np.float32), probe)
        np.testing.assert_array_equal(out, np.full(shape, 0.75))
        assert np.isfinite(grad).all()


@pytest.mark.parametrize("reading", READINGS)
def test_bfloat16_has_float32_parameters_and_statistics(reading):
    x = (100 + 10 * np.random.default_rng(0).standard_normal((2, 16, 16, 32))).astype(jnp.bfloat16)
    layer = LayerNorm(reading)
    variables = jax.eval_shape(lambda x: layer.init(jax.random.key(0), x, train=True), x)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    out = _run(layer, x)
    assert out.dtype == jnp.bfloat16
    # Nothing but the output is rounded: to 8 bits.
    expected = _formula(x, AXES[reading])
    np.testing.assert_allclose(out.astype(np.float64), expected, rtol=2**-8, atol=1e-4)


def test_there_is_no_default_reading_and_each_has_a_name():
    with pytest.raises(TypeError, match="reading"):
        LayerNorm()
    for reading in READINGS:
        assert norm.create(f"layer_norm_{reading}")() == LayerNorm(reading)
    assert norm.create("instance_norm")() == GroupNorm(group_size=1)


@pytest.mark.parametrize(
    "layer,x,message",
    [
        (LayerNorm("hw"), jnp.zeros((1, 2, 2, 4)), "LayerNorm: reading: unknown name 'hw'; "),
        (LayerNorm("c"), jnp.zeros(4), r"LayerNorm: x=float32\[4\] must be floating point \[batch, ..., channels\]; "),
        (LayerNorm("hwc"), jnp.zeros((1, 2, 2, 4), jnp.uint8), r"LayerNorm: x=uint8\[1, 2, 2, 4\] must be floating"),
        (GroupNorm(), jnp.zeros((1, 2, 2, 4), jnp.int32), r"GroupNorm: x=int32\[1, 2, 2, 4\] must be floating"),
        (GroupNorm(), jnp.zeros(4), r"GroupNorm: x=float32\[4\] must be floating"),
    ],
)
def test_what_does_not_fit_is_refused(layer, x, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        jax.eval_shape(lambda x: layer.init(jax.random.key(0), x, train=True), x)


def test_elementwise_parameters_keep_to_their_map_size():
    layer = LayerNorm("hwc_elementwise")
    variables = {"params": {"scale": jnp.ones((8, 8, 3)), "bias": jnp.zeros((8, 8, 3))}}
    with pytest.raises(
        ValueError,
        match=r"^LayerNorm: scale=\[8, 8, 3\] must have the shape \[4, 4, 3\] of reading='hwc_elementwise'; ",
    ):
        jax.eval_shape(lambda x: layer.apply(variables, x, train=False), jnp.zeros((1, 4, 4, 3)))
