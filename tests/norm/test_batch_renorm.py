"""Batch Renormalization against the paper's algorithm in float64 NumPy, and against batch norm where they are one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from arch.norm.batch import BatchNorm
from arch.norm.renorm import BatchRenorm, Limits, ramp, renorm_corrections
from tests.compiling import quick_jit
from tests.norm.training import close, step_of

SHAPE = (6, 3, 2, 4)
OPEN = dict(plain_steps=0, r_max_steps=0, d_max_steps=0)  # the limits from the first update on
INFINITE = dict(r_max=np.inf, d_max=np.inf, **OPEN)


def _data(seed=0):
    random = np.random.default_rng(seed)
    x, probe = random.standard_normal((2, *SHAPE))
    params = {"scale": random.standard_normal(4), "bias": random.standard_normal(4)}
    stats = {"mean": random.standard_normal(4), "std": np.exp(random.standard_normal(4)), "num_updates": np.zeros(())}
    return params, stats, 2.0 * x + 1.0, probe


def _normalized(x):
    """x of mean 0 and variance 1, and the mean and standard deviation that it had."""
    std = np.sqrt(x.var((0, 1, 2)) + 1e-5)
    return (x - x.mean((0, 1, 2))) / std, x.mean((0, 1, 2)), std


def _corrections(stats, x, r_max, d_max):
    """The paper's r and d."""
    _, mean, std = _normalized(x)
    r = np.clip(std / stats["std"], 1 / r_max, r_max)
    return r, np.clip((mean - stats["mean"]) / stats["std"], -d_max, d_max)


def test_algorithm_one_with_some_channels_clipped(x64):
    """Values, statistics (from those before the update), and gradients, in which r and d are constants."""
    params, stats, x, probe = _data()
    r, d = _corrections(stats, x, 1.3, 0.4)
    assert len(set(np.abs(np.log(r)) < np.log(1.3) - 1e-9)) == 2 and len(set(np.abs(d) < 0.4 - 1e-9)) == 2
    unit, mean, std = _normalized(x)
    expected = (unit * r + d) * params["scale"] + params["bias"]
    moved = {
        "mean": stats["mean"] + 0.01 * (mean - stats["mean"]),
        "std": stats["std"] + 0.01 * (std - stats["std"]),
        "num_updates": 1.0,
    }
    upstream = probe * params["scale"] * r  # the gradient that arrives at (x - mean) / std
    grad_x = (upstream - upstream.mean((0, 1, 2)) - unit * (upstream * unit).mean((0, 1, 2))) / std
    grads = {"scale": (probe * (unit * r + d)).sum((0, 1, 2)), "bias": probe.sum((0, 1, 2))}
    layer = BatchRenorm(r_max=1.3, d_max=0.4, **OPEN)
    close(step_of(layer)(params, stats, x, probe), ((grads, grad_x), (expected, moved)))


def test_limits_of_one_and_zero_are_batch_norm(x64):
    params, stats, x, probe = _data()
    weight = np.array([1.0, 0.0, 2.0, 1.0, 1.0, 0.5])
    batch_stats = {"mean": stats["mean"], "var": np.square(stats["std"])}
    expected = step_of(BatchNorm(momentum=0.99))(params, batch_stats, x, probe, weight)
    for layer in (BatchRenorm(r_max=1.0, d_max=0.0, **OPEN), BatchRenorm()):  # or in the plain steps
        gradients, (out, moved) = step_of(layer)(params, stats, x, probe, weight)
        close((gradients, out, moved["mean"]), (expected[0], expected[1][0], expected[1][1]["mean"]))


def test_infinite_limits_give_evaluations_values_but_batch_norms_gradient(x64):
    params, stats, x, probe = _data()
    layer = BatchRenorm(**INFINITE)
    (_, grad_x), (out, _) = step_of(layer)(params, stats, x, probe)
    close(out, (x - stats["mean"]) / stats["std"] * params["scale"] + params["bias"])
    close(out, layer.apply({"params": params, "batch_stats": stats}, x, train=False))
    # r is a constant: batch norm's gradient for a scale that is r times as large, orthogonal to 1 and to x.
    r, _ = _corrections(stats, x, np.inf, np.inf)
    batch_stats = {"mean": stats["mean"], "var": stats["std"]}
    expected = step_of(BatchNorm())({**params, "scale": params["scale"] * r}, batch_stats, x, probe)[0][1]
    close(grad_x, expected)
    np.testing.assert_allclose(grad_x.sum((0, 1, 2)), 0.0, atol=1e-10)
    assert np.abs(grad_x - probe * params["scale"] / stats["std"]).max() > 0.1  # evaluation's


def test_a_batch_like_the_running_statistics_needs_no_correction():
    mean, std = np.float32([1.0, -2.0]), np.float32([0.5, 3.0])
    r, d = renorm_corrections(mean, std, mean, std, Limits(3.0, 5.0))
    np.testing.assert_array_equal(r, np.ones(2))
    np.testing.assert_array_equal(d, np.zeros(2))


def test_the_schedule_of_the_paper():
    steps = np.float32([0, 5_000, 15_000, 22_500, 25_000, 40_000, 1_000_000])
    r_max = quick_jit(jax.vmap(lambda step: ramp(step, 5_000, 40_000, 1.0, 3.0)))(steps)
    d_max = quick_jit(jax.vmap(lambda step: ramp(step, 5_000, 25_000, 0.0, 5.0)))(steps)
    np.testing.assert_allclose(r_max, [1, 1, 1 + 4 / 7, 2, 1 + 8 / 7, 3, 3], rtol=1e-6)
    np.testing.assert_allclose(d_max, [0, 0, 2.5, 4.375, 5, 5, 5], rtol=1e-6)
    infinite = quick_jit(jax.vmap(lambda step: ramp(step, 5_000, 40_000, 1.0, np.inf)))(steps)
    np.testing.assert_array_equal(infinite, [1, 1] + [np.inf] * 5)


def test_updates_are_counted_in_one_program_and_go_on_from_what_was_saved(x64):
    """Two plain updates, then limits half open, then open; the count, not the program, says which."""
    params, stats, x, probe = _data()
    layer = BatchRenorm(r_max=1.4, d_max=0.6, plain_steps=1, r_max_steps=3, d_max_steps=2, momentum=0.5)
    step = step_of(layer)
    unit = _normalized(x)[0]
    for r_max, d_max in ((1.0, 0.0), (1.0, 0.0), (1.2, 0.6), (1.4, 0.6), (1.4, 0.6)):
        r, d = _corrections(stats, x, r_max, d_max)
        _, (out, stats) = step(params, stats, x, probe)
        close(out, (unit * r + d) * params["scale"] + params["bias"])
        stats = jax.device_get(stats)  # as a checkpoint would
    assert stats["num_updates"] == 5
    assert step._cache_size() == 1


def test_a_batch_without_weight_moves_nothing_and_is_not_counted():
    params, stats, x, probe = jax.tree.map(np.float32, _data())
    gradients, (out, moved) = step_of(BatchRenorm(**OPEN))(params, stats, x, probe, np.zeros(6, np.float32))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((gradients, out)))
    jax.tree.map(np.testing.assert_array_equal, moved, stats)


@pytest.mark.parametrize("group_size", [None, 2])
def test_devices_are_one_device_and_groups_are_several(group_size, x64):
    """The moments are shared; r and d of a group are its own; the running statistics average the groups."""
    params, stats, x, probe = _data()
    x, probe = np.concatenate([x, 1.5 * x[::-1] - 1.0]), np.concatenate([probe, probe[::-1]])
    layer = BatchRenorm(r_max=1.3, d_max=0.4, axis_name="batch", device_group_size=group_size, **OPEN)
    split = (leaf.reshape(4, 3, *SHAPE[1:]) for leaf in (x, probe))
    mapped = jax.vmap(step_of(layer), in_axes=(None, None, 0, 0), axis_name="batch")
    (grads, grad_x), (out, moved) = mapped(params, stats, *split)
    for leaf in jax.tree.leaves(moved):
        np.testing.assert_array_equal(leaf, np.broadcast_to(leaf[:1], leaf.shape))

    alone = step_of(BatchRenorm(r_max=1.3, d_max=0.4, **OPEN))
    parts = 1 if group_size is None else 2
    results = [alone(params, stats, *batch) for batch in zip(np.split(x, parts), np.split(probe, parts), strict=True)]
    joined = jax.tree.map(lambda *leaves: np.concatenate(leaves), *[(r[0][1], r[1][0]) for r in results])
    close((grad_x.reshape(x.shape), out.reshape(x.shape)), joined)
    total = jax.tree.map(lambda *leaves: sum(leaves), *[r[0][0] for r in results])
    close(jax.tree.map(lambda leaf: leaf.sum(0), grads), total)
    mean = jax.tree.map(lambda *leaves: sum(leaves) / parts, *[r[1][1] for r in results])
    close(jax.tree.map(lambda leaf: leaf[0], moved), mean)


def test_bfloat16_has_float32_statistics_and_a_count_that_stays():
    x = np.random.default_rng(0).standard_normal(SHAPE).astype(jnp.bfloat16)
    layer = BatchRenorm()
    variables = quick_jit(lambda x: layer.init(jax.random.key(0), x, train=True))(x)
    assert set(variables["params"]) == {"scale", "bias"}
    assert {name: float(leaf.sum()) for name, leaf in variables["batch_stats"].items()} == {
        "mean": 0.0,
        "std": 4.0,
        "num_updates": 0.0,
    }
    apply = quick_jit(lambda variables, x: layer.apply(variables, x, train=True, mutable=["batch_stats"]))
    out, updated = apply(variables, x)
    assert out.dtype == jnp.bfloat16
    assert {leaf.dtype for leaf in jax.tree.leaves((variables, updated))} == {jnp.dtype("float32")}


@pytest.mark.parametrize(
    "fields,message",
    [
        ({"r_max": 0.5}, "r_max=0.5 must be at least 1 and d_max=5.0 at least 0; "),
        ({"d_max": -1.0}, "r_max=3.0 must be at least 1 and d_max=-1.0 at least 0; "),
        ({"d_max_steps": 10}, r"plain_steps=5000 must lie in \[0, d_max_steps=10\]; "),
        ({"plain_steps": -1}, r"plain_steps=-1 must lie in \[0, r_max_steps=40000\]; "),
        ({"momentum": -0.1}, r"momentum=-0.1 must lie in \[0, 1\]; "),
    ],
)
def test_fields_out_of_range_are_refused(fields, message):
    with pytest.raises(ValueError, match=f"^BatchRenorm: {message}"):
        jax.eval_shape(step_of(BatchRenorm(**fields)), *jax.tree.map(np.float32, _data()))
