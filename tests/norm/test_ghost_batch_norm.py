"""Ghost batch norm: each part of the batch is a batch of its own; the running statistics by the formula in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from arch.norm.batch import BatchNorm
from arch.norm.ghost import GhostBatchNorm
from tests.compiling import quick_jit
from tests.norm.training import close, step_of

SHAPE = (6, 3, 2, 4)


def _data(seed=0):
    x, probe = 2.0 * np.random.default_rng(seed).standard_normal((2, *SHAPE)) + 1.0
    return x, probe


def _variables(dtype=np.float64):
    """Parameters and running statistics."""
    random = np.random.default_rng(1)
    scale, bias, mean = random.standard_normal((3, SHAPE[-1])).astype(dtype)
    var = np.exp(random.standard_normal(SHAPE[-1])).astype(dtype)
    return {"scale": scale, "bias": bias}, {"mean": mean, "var": var}


def test_the_formula(x64):
    """Values and both running rules, ghost by ghost, in float64."""
    x, probe = _data()
    params, start = _variables()
    mean, var = start["mean"], start["var"]
    expected, moments = np.empty_like(x), []
    for first in range(0, 6, 2):
        ghost = x[first : first + 2]
        mu, sigma2 = ghost.mean((0, 1, 2)), ghost.var((0, 1, 2))
        expected[first : first + 2] = (ghost - mu) / np.sqrt(sigma2 + 1e-5) * params["scale"] + params["bias"]
        moments.append((mu, sigma2 * 12 / 11))  # 2 x 3 x 2 values a channel
        mean, var = 0.7 * mean + 0.3 * mu, 0.7 * var + 0.3 * sigma2 * 12 / 11
    mu, sigma2 = np.mean(moments, axis=0)
    stats = {
        "sequential": {"mean": mean, "var": var},
        "mean": {"mean": 0.7 * start["mean"] + 0.3 * mu, "var": 0.7 * start["var"] + 0.3 * sigma2},
    }
    for rule, moved in stats.items():
        layer = GhostBatchNorm(ghost_batch_size=2, momentum=0.7, running_rule=rule, unbiased_running_variance=True)
        _, (out, updated) = step_of(layer)(params, start, x, probe)
        close((out, updated), (expected, moved))


def test_ghosts_of_a_devices_batch_are_replicas_without_synchronization(x64):
    """In value, gradients, and, under the rule "mean", in what the training step makes of the replicas' statistics."""
    x, probe = _data()
    variables = _variables()
    split = [a.reshape(3, 2, *SHAPE[1:]) for a in (x, probe)]
    replicas = jax.vmap(step_of(BatchNorm()), in_axes=(None, None, 0, 0), axis_name="batch")
    (grads, grad_x), (out, stats) = replicas(*variables, *split)
    grads = jax.tree.map(lambda leaf: leaf.sum(0), grads)
    stats = jax.tree.map(lambda leaf: leaf.mean(0), stats)
    actual = step_of(GhostBatchNorm(ghost_batch_size=2, running_rule="mean"))(*variables, x, probe)
    close(actual, ((grads, grad_x.reshape(SHAPE)), (out.reshape(SHAPE), stats)))


@pytest.mark.parametrize("rule", ["sequential", "mean"])
def test_one_ghost_is_batch_norm(rule, x64):
    x, probe = _data()
    weight = np.array([1.0, 0.0, 2.0, 1.0, 1.0, 0.5])
    inputs = (*_variables(), x, probe, weight)
    ghost = GhostBatchNorm(ghost_batch_size=6, running_rule=rule)
    close(step_of(ghost)(*inputs), step_of(BatchNorm())(*inputs))


def test_a_ghost_without_weight_moves_nothing(x64):
    """Unequal counts in the others; the first ghost is empty, so sequentially only two move the statistics."""
    x, probe = _data()
    weight = np.array([0.0, 0.0, 1.0, 0.0, 1.0, 1.0])
    probe = probe * weight[:, None, None, None]
    variables = _variables()
    start = variables[1]["mean"]
    means = x[2].mean((0, 1)), x[4:].mean((0, 1, 2))
    expected = {
        "sequential": 0.9 * (0.9 * start + 0.1 * means[0]) + 0.1 * means[1],
        "mean": (start + sum(0.9 * start + 0.1 * mean for mean in means)) / 3,
    }
    for rule, mean in expected.items():
        layer = GhostBatchNorm(ghost_batch_size=2, running_rule=rule)
        (grads, grad_x), (out, stats) = step_of(layer)(*variables, x, probe, weight)
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((grads, grad_x, out, stats)))
        np.testing.assert_array_equal(grad_x[:2], 0.0)
        np.testing.assert_allclose(stats["mean"], mean, rtol=0, atol=1e-12)
        _, (_, stats) = step_of(layer)(*variables, x, probe, np.zeros(6))
        jax.tree.map(np.testing.assert_array_equal, stats, variables[1])


def test_momentum_zero_keeps_the_last_ghost(x64):
    x, probe = _data()
    _, (_, stats) = step_of(GhostBatchNorm(ghost_batch_size=2, momentum=0.0))(*_variables(), x, probe)
    np.testing.assert_allclose(stats["mean"], x[4:].mean((0, 1, 2)), rtol=0, atol=1e-12)
    np.testing.assert_allclose(stats["var"], x[4:].var((0, 1, 2)), rtol=0, atol=1e-12)


def test_bfloat16_has_float32_statistics_and_large_means_survive():
    x = (1e3 + 1e-2 * np.random.default_rng(0).standard_normal((8, 8, 8, 3))).astype(np.float32)
    params = {"scale": np.ones(3, np.float32), "bias": np.zeros(3, np.float32)}
    layer = GhostBatchNorm(ghost_batch_size=4, epsilon=1e-12, dtype=jnp.bfloat16)
    stats = {"mean": params["bias"], "var": params["scale"]}
    _, (out, stats) = step_of(layer)(params, stats, x, np.ones((), np.float32))
    assert out.dtype == jnp.bfloat16
    assert {leaf.dtype for leaf in jax.tree.leaves(stats)} == {jnp.dtype("float32")}
    ghosts = np.asarray(out, np.float64).reshape(2, 4, 8, 8, 3)
    np.testing.assert_allclose(ghosts.std((1, 2, 3)), 1.0, rtol=5e-3)
    np.testing.assert_allclose(ghosts.mean((1, 2, 3)), 0.0, atol=5e-3)


def test_initialising_and_evaluating_split_nothing():
    x = np.ones((5, 2, 2, 3), np.float32)
    layer = GhostBatchNorm(ghost_batch_size=4)
    variables = quick_jit(lambda x: layer.init(jax.random.key(0), x, train=True))(x)
    np.testing.assert_array_equal(variables["batch_stats"]["mean"], np.zeros(3))
    out = quick_jit(lambda x: layer.apply(variables, x, train=False))(x)
    np.testing.assert_allclose(out, x / np.sqrt(1 + 1e-5), rtol=1e-6)


@pytest.mark.parametrize(
    "fields,message",
    [
        ({"ghost_batch_size": 4}, "ghost_batch_size=4 must divide the device's batch of 6; choose"),
        ({"ghost_batch_size": 0}, "ghost_batch_size=0 must divide the device's batch of 6; choose"),
        ({"ghost_batch_size": 3, "axis_name": "batch"}, "axis_name='batch' and device_group_size=None must be None"),
        ({"ghost_batch_size": 3, "running_rule": "men"}, "running_rule: unknown name 'men'; did you mean 'mean'?"),
        ({"ghost_batch_size": 3, "momentum": 1.5}, r"momentum=1.5 must lie in \[0, 1\]"),
    ],
)
def test_fields_that_do_not_fit_are_refused(fields, message):
    variables = _variables(np.float32)
    with pytest.raises(ValueError, match=message) as error:
        jax.eval_shape(step_of(GhostBatchNorm(**fields)), *variables, *np.float32(_data()))
    assert str(error.value).startswith("GhostBatchNorm")
    assert "\n" not in str(error.value)
