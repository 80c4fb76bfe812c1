"""Batch norm on one device, against torch's recorded numbers and the formula in float64 NumPy."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from arch.norm.batch import BatchNorm, batch_moments, normalize_batch
from arch.ops.stochastic import Examples

GOLDEN = pathlib.Path(__file__).parents[1] / "goldens" / "norms.npz"


def _apply(layer, variables, x, **kwargs):
    return layer.apply(variables, x, train=True, mutable=["batch_stats"], **kwargs)


def _fresh(layer, x):
    return layer.init(jax.random.key(0), x, train=False)


def test_torch_parity_forward_backward_and_statistics(x64):
    golden = np.load(GOLDEN)
    variables = {
        "params": {"scale": golden["scale"], "bias": golden["bias"]},
        "batch_stats": {"mean": golden["mean"], "var": golden["var"]},
    }
    layer = BatchNorm(unbiased_running_variance=True)

    def loss(params, x):
        out, updated = _apply(layer, {**variables, "params": params}, x)
        return jnp.sum(out * golden["probe"]), (out, updated["batch_stats"])

    (grads, grad_x), (out, stats) = jax.grad(loss, argnums=(0, 1), has_aux=True)(variables["params"], golden["x"])
    np.testing.assert_allclose(out, golden["batch/out"], atol=1e-10)
    np.testing.assert_allclose(grad_x, golden["batch/grad_x"], atol=1e-10)
    np.testing.assert_allclose(grads["scale"], golden["batch/grad_scale"], atol=1e-10)
    np.testing.assert_allclose(grads["bias"], golden["batch/grad_bias"], atol=1e-10)
    np.testing.assert_allclose(stats["mean"], golden["batch/new_mean"], atol=1e-12)
    np.testing.assert_allclose(stats["var"], golden["batch/new_var"], atol=1e-12)
    out = layer.apply({**variables, "batch_stats": stats}, golden["x"], train=False)
    np.testing.assert_allclose(out, golden["batch/eval_out"], atol=1e-10)


def test_the_variance_survives_a_sample_far_from_the_rest():
    """The pixels from which the shift is taken, and only they, lie at 1000: the worst that a shift can do."""
    x = np.random.default_rng(0).standard_normal((4, 16, 16, 3)).astype(np.float32)
    x[:, ::4, ::4] += 1000.0
    moments = jax.jit(batch_moments)(x)
    exact = x.astype(np.float64)
    np.testing.assert_allclose(moments.var, exact.var((0, 1, 2)), rtol=1e-5)
    np.testing.assert_allclose(moments.shift + moments.offset, exact.mean((0, 1, 2)), rtol=1e-5)


def test_running_statistics_move_by_the_momentum():
    x = np.asarray(jax.random.normal(jax.random.key(0), (4, 3, 3, 2))) * 2 + 1
    for unbiased, factor in ((False, 1.0), (True, 36 / 35)):
        layer = BatchNorm(momentum=0.75, unbiased_running_variance=unbiased)
        variables = _fresh(layer, x)
        np.testing.assert_array_equal(variables["batch_stats"]["mean"], np.zeros(2))
        np.testing.assert_array_equal(variables["batch_stats"]["var"], np.ones(2))
        stats = _apply(layer, variables, x)[1]["batch_stats"]
        np.testing.assert_allclose(stats["mean"], 0.25 * x.mean((0, 1, 2)), rtol=1e-5)
        np.testing.assert_allclose(stats["var"], 0.75 + 0.25 * factor * x.var((0, 1, 2)), rtol=1e-5)


def test_initialising_in_training_moves_nothing():
    x = jax.random.normal(jax.random.key(0), (4, 3, 3, 2)) + 5
    variables = BatchNorm(axis_name="batch").init(jax.random.key(0), x, train=True)
    np.testing.assert_array_equal(variables["batch_stats"]["mean"], np.zeros(2))


def test_evaluation_takes_no_statistics_and_no_collective():
    x = jax.random.normal(jax.random.key(0), (4, 3, 3, 2)) + 5
    layer = BatchNorm(axis_name="not_bound")
    out, updated = layer.apply(_fresh(layer, x), x, train=False, mutable=["batch_stats"])
    np.testing.assert_allclose(out, x / np.sqrt(1 + 1e-5), rtol=1e-6)
    np.testing.assert_array_equal(updated["batch_stats"]["mean"], np.zeros(2))


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_large_mean_and_small_variance(dtype):
    x = (1e3 + 1e-2 * jax.random.normal(jax.random.key(0), (32, 16, 16, 3))).astype(jnp.float32)
    out = BatchNorm(dtype=dtype, epsilon=1e-12)
    y, _ = _apply(out, _fresh(out, x), x)
    assert y.dtype == dtype
    y = np.asarray(y, np.float64)
    exact = np.asarray(x, np.float64)
    exact = (exact - exact.mean((0, 1, 2))) / exact.std((0, 1, 2))
    np.testing.assert_allclose(y, exact, atol=1e-5 if dtype == jnp.float32 else 2e-2)


def test_bfloat16_input_has_float32_statistics_and_parameters():
    x = jax.random.normal(jax.random.key(0), (4, 3, 3, 2), jnp.bfloat16)
    layer = BatchNorm()
    variables = _fresh(layer, x)
    y, updated = _apply(layer, variables, x)
    assert y.dtype == jnp.bfloat16
    assert {leaf.dtype for leaf in jax.tree.leaves((variables, updated))} == {jnp.dtype("float32")}


def test_fields_that_switch_parameters_off():
    x = jax.random.normal(jax.random.key(0), (4, 3, 3, 2))
    assert "params" not in _fresh(BatchNorm(use_bias=False, use_scale=False), x)
    assert set(_fresh(BatchNorm(use_bias=False), x)["params"]) == {"scale"}


def _loss(layer, variables, probe, examples):
    def loss(params, x):
        out, updated = _apply(layer, {**variables, "params": params}, x, examples=examples)
        return jnp.sum(out * probe), (out, updated["batch_stats"])

    return jax.jit(jax.grad(loss, argnums=(0, 1), has_aux=True))


def test_examples_of_weight_zero_count_as_removed():
    x, probe = jax.random.normal(jax.random.key(0), (2, 6, 3, 3, 2)) * 2 + 1
    kept = np.array([0, 2, 5])
    weight = jnp.zeros(6).at[kept].set(1.0)
    probe = probe * weight[:, None, None, None]
    layer = BatchNorm(unbiased_running_variance=True)
    variables = _fresh(layer, x)
    (grads, grad_x), (out, stats) = _loss(layer, variables, probe, Examples(weight=weight))(variables["params"], x)
    expected = _loss(layer, variables, probe[kept], None)(variables["params"], x[kept])
    (expected_grads, expected_grad_x), (expected_out, expected_stats) = expected
    np.testing.assert_allclose(out[kept], expected_out, atol=1e-5)
    np.testing.assert_allclose(grad_x[kept], expected_grad_x, atol=1e-5)
    np.testing.assert_array_equal(grad_x[np.array([1, 3, 4])], 0.0)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), grads, expected_grads)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), stats, expected_stats)


def test_an_integer_weight_counts_as_copies():
    x = jax.random.normal(jax.random.key(0), (3, 2, 2, 4))
    layer = BatchNorm()
    variables = _fresh(layer, x)
    out, updated = _apply(layer, variables, x, examples=Examples(weight=jnp.array([1.0, 3.0, 2.0])))
    copies = np.array([0, 1, 1, 1, 2, 2])
    expected, expected_updated = _apply(layer, variables, x[copies])
    np.testing.assert_allclose(out[np.array([0, 1, 2])], expected[np.array([0, 1, 4])], atol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), updated, expected_updated)


def test_a_batch_without_weight_moves_nothing_and_stays_finite():
    x = jax.random.normal(jax.random.key(0), (3, 2, 2, 4)) + 4
    layer = BatchNorm()
    variables = _fresh(layer, x)
    examples = Examples(weight=jnp.zeros(3))
    (grads, grad_x), (out, stats) = _loss(layer, variables, jnp.ones_like(x), examples)(variables["params"], x)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((grads, grad_x, out)))
    jax.tree.map(np.testing.assert_array_equal, stats, variables["batch_stats"])


def test_second_derivatives_are_those_of_the_formula(x64):
    x, probe, direction = jax.random.normal(jax.random.key(0), (3, 4, 2, 2, 3))
    layer = BatchNorm(use_bias=False, use_scale=False)
    variables = _fresh(layer, x)

    def ours(x):
        return jnp.sum(_apply(layer, variables, x)[0] ** 3 * probe)

    def formula(x):
        centred = x - x.mean((0, 1, 2))
        return jnp.sum((centred / jnp.sqrt((centred**2).mean((0, 1, 2)) + 1e-5)) ** 3 * probe)

    def hessian_times_direction(f):
        return jax.jit(lambda x: jax.jvp(jax.grad(f), (x,), (direction,))[1])(x)

    np.testing.assert_allclose(hessian_times_direction(ours), hessian_times_direction(formula), atol=1e-10)


def test_derivatives_of_the_moments(x64):
    """Nothing in a network asks for them, but who calls the function may."""
    x = jax.random.normal(jax.random.key(0), (4, 5, 6, 3), jnp.float64) * 2 + 1
    scale, bias = jnp.ones(3), jnp.zeros(3)

    def ours(x):
        moments = normalize_batch(x, scale, bias)[1]
        return jnp.sum(jnp.sin(moments.shift + moments.offset) + moments.var**2)

    def formula(x):
        return jnp.sum(jnp.sin(x.mean((0, 1, 2))) + x.var((0, 1, 2)) ** 2)

    np.testing.assert_allclose(jax.jit(ours)(x), jax.jit(formula)(x), rtol=1e-12)
    np.testing.assert_allclose(jax.jit(jax.grad(ours))(x), jax.jit(jax.grad(formula))(x), atol=1e-14)
