import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from arch.ops import activation
from arch.ops.activation import ACTIVATIONS, Swish, sinc_plus, swish
from tests.compiling import quick_jit

GOLDEN = pathlib.Path(__file__).parents[1] / "goldens" / "activation.npz"
SEARCHED = list(ACTIVATIONS)[:9]


def _value_and_slope(function):
    return lambda x: jax.jvp(function, (x,), (jnp.ones_like(x),))


def test_all_against_torch(x64):
    golden = np.load(GOLDEN)
    x = golden["x"]

    @quick_jit
    def run(x):
        """Value, forward mode, reverse mode."""
        pulled = {name: jax.vjp(f, x)[1](jnp.ones_like(x))[0] for name, f in ACTIVATIONS.items()}
        return {name: (*_value_and_slope(f)(x), pulled[name]) for name, f in ACTIVATIONS.items()}

    for name, (out, slope, gradient) in run(x).items():
        assert out.dtype == slope.dtype == jnp.float64
        np.testing.assert_allclose(out, golden[f"{name}/out"], rtol=1e-13, atol=1e-13, err_msg=name)
        # The 1 / 6 of torch's own hard_sigmoid is one of float32.
        tolerance = 1e-8 if name == "hard_sigmoid" else 1e-12
        np.testing.assert_allclose(slope, golden[f"{name}/grad"], rtol=tolerance, atol=tolerance, err_msg=name)
        np.testing.assert_allclose(gradient, slope, rtol=1e-13, atol=1e-15, err_msg=name)


def test_swish_of_trained_beta_against_torch(x64):
    golden = np.load(GOLDEN)
    x, beta = golden["x"][:60].reshape(4, 3, 1, 5), np.array([-1.5, 0.0, 0.3, 1.0, 7.0])

    @quick_jit
    def run(x, beta):
        out, pull = jax.vjp(lambda x, beta: Swish().apply({"params": {"beta": beta}}, x), x, beta)
        return out, *pull(jnp.ones_like(out))

    out, grad_x, grad_beta = run(x, beta)
    np.testing.assert_allclose(out, golden["beta/out"], rtol=1e-13, atol=1e-14)
    np.testing.assert_allclose(grad_x, golden["beta/grad_x"], rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(grad_beta, golden["beta/grad"], rtol=1e-12)


def test_swish_between_half_and_relu():
    x = np.linspace(-4.0, 4.0, 9, dtype=np.float32)
    run = quick_jit(swish)
    np.testing.assert_array_equal(run(x, 0.0), x / 2)
    np.testing.assert_array_equal(run(x, 1e4), np.maximum(x, 0))


def test_trained_betas_start_at_1_in_float32():
    x = np.linspace(-4.0, 4.0, 12, dtype=np.float32).reshape(1, 3, 4).astype(jnp.bfloat16)
    out, variables = quick_jit(Swish().init_with_output)(jax.random.key(0), x)
    np.testing.assert_array_equal(variables["params"]["beta"], np.ones(4, np.float32))
    np.testing.assert_array_equal(out, quick_jit(swish)(x))


def test_numbers_of_the_text():
    x = np.asarray([0.5, 0.6590 - 1e-4, 0.6590 + 1e-4, 1e20, -1e20], np.float32)
    sinc, larger, steep = quick_jit(lambda x: (sinc_plus(x), activation.max_sigmoid(x), activation.asinh_squared(x)))(x)
    np.testing.assert_allclose(sinc[0] - 0.5, 0.9589, atol=5e-5)  # and not 0.6366, that of sin(pi x) / (pi x)
    assert larger[1] > x[1] and larger[2] == x[2]  # x and sigmoid(x) cross at 0.6590
    np.testing.assert_allclose(steep[3:], x[3:] * np.arcsinh(1e20) ** 2, rtol=1e-6)


def test_slopes_where_formulas_break():
    """At 0, where branches tie, at the smallest numbers, and where x^2 overflows float32."""
    x = jnp.asarray([0.0, 1e-38, -1e-30, 1e-20, -1e-6, 1e-3], jnp.float32)
    far = jnp.asarray([1e20, -1e30], jnp.float32)

    @quick_jit
    def slopes(x, far):
        near = {name: _value_and_slope(ACTIVATIONS[name])(x)[1] for name in SEARCHED}
        curvature = jax.jvp(lambda x: _value_and_slope(sinc_plus)(x)[1], (x,), (jnp.ones_like(x),))[1]
        return near, curvature, _value_and_slope(activation.asinh_squared)(far)[1]

    near, curvature, steep = slopes(x, far)
    assert near["relu"][0] == 0
    np.testing.assert_array_equal([near[name][0] for name in ("max_tanh", "min_sin")], [1, 1])
    # sin(x) / x = 1 - x^2 / 6 + ...: the quotient's own derivative has no digit left at 1e-6.
    np.testing.assert_allclose(near["sinc_plus"], 1 - np.asarray(x, np.float64) / 3, rtol=1e-6)
    np.testing.assert_allclose(curvature, np.full(6, -1 / 3), rtol=1e-6)
    # asinh(x)^2 + 2 asinh(x) x / sqrt(1 + x^2), in float64
    x64, a = np.asarray(far, np.float64), np.arcsinh(np.asarray(far, np.float64))
    np.testing.assert_allclose(steep, a * a + 2 * a * np.sign(x64), rtol=1e-6)
    for name in SEARCHED:
        assert np.isfinite(near[name]).all(), name


def test_what_is_not_a_number_stays_so():
    outs = quick_jit(lambda x: {name: f(x) for name, f in ACTIVATIONS.items()})(jnp.asarray([jnp.nan, 1.0]))
    for name, out in outs.items():
        assert np.isnan(out[0]) and np.isfinite(out[1]), name


def test_bfloat16_is_rounded_once(x64):
    x = jnp.asarray(np.load(GOLDEN)["x"][:75], jnp.bfloat16)
    wide, narrow = (
        quick_jit(lambda x: {name: ACTIVATIONS[name](x) for name in SEARCHED})(x) for x in (x.astype(float), x)
    )
    for name in SEARCHED:
        assert narrow[name].dtype == jnp.bfloat16
        # Half a unit in the last of 8 bits, relative to the smallest of a binade, plus float32's own error.
        np.testing.assert_allclose(
            np.asarray(narrow[name], np.float64), wide[name], rtol=2**-8 * 1.001, atol=1e-6, err_msg=name
        )


def test_by_name():
    assert activation.create("swish") is swish
    with pytest.raises(ValueError, match=r"^arch.ops.activation.create: unknown name 'swich'; did you mean 'swish'.*$"):
        activation.create("swich")
